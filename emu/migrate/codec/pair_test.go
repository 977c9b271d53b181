package codec

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// pair is an encoder and a decoder of the same configuration, with the memory
// at each end.
type pair struct {
	t              testing.TB
	enc            Encoder
	dec            Decoder
	source, target []byte
	sent           int64
}

func newPair(t testing.TB, c Config, source []byte) *pair {
	t.Helper()
	c.Pages = len(source) / PageSize
	enc, err := NewEncoder(c)
	if err != nil {
		t.Fatal(err)
	}
	dec, err := NewDecoder(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { enc.Close(); dec.Close() })
	return &pair{t: t, enc: enc, dec: dec, source: source, target: make([]byte, len(source))}
}

// send moves pages in batches of so many.
func (p *pair) send(pages []uint32, batch int) {
	p.t.Helper()
	for len(pages) > 0 {
		now := pages[:min(batch, len(pages))]
		pages = pages[len(now):]
		p.place(p.enc.Encode(nil, now, gather(p.source, now)), now)
	}
}

func (p *pair) place(b []byte, want []uint32) {
	p.t.Helper()
	var placed []uint32
	if err := p.dec.Decode(p.target, b, func(page int) { placed = append(placed, uint32(page)) }); err != nil {
		p.t.Fatal(err)
	}
	if len(placed) != len(want) {
		p.t.Fatalf("%d pages placed, %d sent", len(placed), len(want))
	}
	for i := range want {
		if placed[i] != want[i] {
			p.t.Fatalf("page %d placed, %d sent", placed[i], want[i])
		}
	}
	p.sent += int64(len(b))
}

// check holds the target against the source.
func (p *pair) check() {
	p.t.Helper()
	for i := range len(p.source) / PageSize {
		if !bytes.Equal(at(p.source, i), at(p.target, i)) {
			p.t.Fatalf("page %d differs at the target", i)
		}
	}
}

// gather copies pages out of a memory, one after the other.
func gather(memory []byte, pages []uint32) []byte {
	out := make([]byte, 0, len(pages)*PageSize)
	for _, page := range pages {
		out = append(out, at(memory, int(page))...)
	}
	return out
}

func all(memory []byte) []uint32 {
	pages := make([]uint32, len(memory)/PageSize)
	for i := range pages {
		pages[i] = uint32(i)
	}
	return pages
}

func seeded(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }

func fillRandom(r *rand.Rand, b []byte) {
	for ; len(b) >= 8; b = b[8:] {
		binary.LittleEndian.PutUint64(b, r.Uint64())
	}
}

// fillRecords writes what a heap holds: records of a few kinds, with small
// numbers, addresses and words, which compress to about a quarter.
func fillRecords(r *rand.Rand, b []byte) {
	words := []string{"customer", "order", "item", "address", "status", "pending", "shipped", "London", "Austin", "null", "true", "java.lang.String"}
	for i := 0; i+32 <= len(b); i += 32 {
		binary.LittleEndian.PutUint64(b[i:], 0x00007f3a00000000|uint64(r.Uint32N(1<<24))<<4)
		binary.LittleEndian.PutUint32(b[i+8:], r.Uint32N(1000))
		binary.LittleEndian.PutUint32(b[i+12:], uint32(i))
		clear(b[i+16 : i+32])
		copy(b[i+16:i+32], words[r.IntN(len(words))])
	}
}

// mixed is a memory with a bit of everything: shares of zero and duplicate
// pages, duplicate pieces, records, and pages that cannot be compressed.
func mixed(r *rand.Rand, pages int) []byte {
	m := make([]byte, pages*PageSize)
	for i := range pages {
		page := at(m, i)
		switch k := r.IntN(100); {
		case k < 15:
		case k < 30 && i > 0:
			copy(page, at(m, r.IntN(i)))
		case k < 45 && i > 0: // pieces of other pages, at any place
			fillRecords(r, page)
			for range 3 {
				n, from := 64+r.IntN(900), r.IntN(i)*PageSize
				to := r.IntN(PageSize - n)
				copy(page[to:], m[from:from+n])
			}
		case k < 85:
			fillRecords(r, page)
		default:
			fillRandom(r, page)
		}
	}
	return m
}

// work changes a memory as programs do, and tells which pages it wrote.
func work(r *rand.Rand, m []byte, n int) []uint32 {
	pages := len(m) / PageSize
	written := map[uint32]bool{}
	for range n {
		i := r.IntN(pages)
		page := at(m, i)
		switch r.IntN(8) {
		case 0:
			clear(page)
		case 1:
			copy(page, at(m, r.IntN(pages)))
		case 2:
			fillRecords(r, page)
		case 3:
			fillRandom(r, page)
		case 4: // written, with what was there
		case 5: // one counter
			binary.LittleEndian.PutUint32(page[r.IntN(1000)*4:], r.Uint32())
		case 6: // some words
			for range 1 + r.IntN(100) {
				page[r.IntN(PageSize)] = byte(r.Uint32())
			}
		case 7: // things moved along inside of it
			n := r.IntN(300)
			copy(page[n:], page)
		}
		written[uint32(i)] = true
	}
	out := make([]uint32, 0, len(written))
	for i := range pages {
		if written[uint32(i)] {
			out = append(out, uint32(i))
		}
	}
	return out
}

func leU64(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }
