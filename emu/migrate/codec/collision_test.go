package codec

import (
	"encoding/binary"
	"testing"

	"github.com/zeebo/xxh3"
)

// expectedFalse is how many lookups of a memory of blocks that all differ meet
// another block with the same hash of so many bits in a cache of so many: the
// sum of the cache's size over 2^bits.
func expectedFalse(blocks, slots, bits int) float64 {
	sum := 0.0
	for i := range blocks {
		sum += float64(min(i, slots))
	}
	return sum / float64(uint64(1)<<bits)
}

// Without a comparison false matches of the hash corrupt a migration, as many as
// chance has it; with it they are counted and do nothing.
func TestFalseMatches(t *testing.T) {
	const pages = 8192
	memory := make([]byte, pages*PageSize)
	fillRandom(seeded(19), memory)
	for _, bits := range []int{16, 18, 20, 22} {
		c := Config{CBR: true, HashBits: bits}
		verified, err := Try(c, memory, 512, 0)
		if err != nil {
			t.Fatal(err)
		}
		if verified.Wrong != 0 {
			t.Errorf("%d bits, compared: %d pages are wrong", bits, verified.Wrong)
		}
		c.Unverified = true
		unverified, err := Try(c, memory, 512, 0)
		if err != nil {
			t.Fatal(err)
		}
		if unverified.Wrong == 0 {
			t.Errorf("%d bits, not compared: no page is wrong", bits)
		}
		want := expectedFalse(pages*4, pages*4/10, bits)
		t.Logf("%d bits: %.0f false matches expected; %d when compared, %d when not, and %d pages wrong", bits, want, verified.False, unverified.False, unverified.Wrong)
		for how, got := range map[string]int64{"compared": verified.False, "not compared": unverified.False} {
			// A factor of two, and what chance adds to small numbers.
			if float64(got) < want/2-3 || float64(got) > want*2+3 {
				t.Errorf("%d bits, %s: %d false matches, expected about %.0f", bits, how, got, want)
			}
		}
	}
}

// colliding makes pairs of blocks with the same 32 bits of hash, as a guest can:
// by trying.
func colliding(n, block int) (pairs [][2][]byte) {
	seen := map[uint32]uint64{}
	b := make([]byte, block)
	make1 := func(i uint64) []byte {
		binary.LittleEndian.PutUint64(b, i)
		return b
	}
	for i := uint64(1); len(pairs) < n; i++ {
		h := uint32(xxh3.Hash(make1(i)))
		if other, ok := seen[h]; ok {
			pairs = append(pairs, [2][]byte{append([]byte(nil), make1(other)...), append([]byte(nil), make1(i)...)})
		}
		seen[h] = i
	}
	return pairs
}

// A guest that fills its memory with blocks whose hashes collide changes nothing
// for whoever compares, or has a key; and reads another's bytes where nobody
// does.
func TestCollidingGuest(t *testing.T) {
	const n = 20
	memory := make([]byte, 64*PageSize)
	for i, pair := range colliding(n, DefaultBlock) {
		copy(memory[2*i*DefaultBlock:], pair[0])
		copy(memory[(2*i+1)*DefaultBlock:], pair[1])
	}
	for name, trial := range map[string]struct {
		c     Config
		False int64
		wrong bool
	}{
		"compared":             {Config{CBR: true}, n, false},
		"compared, with delta": {Config{CBR: true, Delta: true}, n, false},
		"not compared":         {Config{CBR: true, Unverified: true}, n, true},
		"with a key":           {Config{CBR: true, Unverified: true, Key: 0xfeedface}, 0, false},
		"vpclab":               {Config{Own: true, Zero: true}, 0, false},
	} {
		r, err := Try(trial.c, memory, 8, 0)
		if err != nil {
			t.Fatal(err)
		}
		if r.False != trial.False || (r.Wrong > 0) != trial.wrong {
			t.Errorf("%s: %d false matches, %d pages wrong; expected %d, and wrong %v", name, r.False, r.Wrong, trial.False, trial.wrong)
		}
	}
}

// A guest that makes anchors everywhere gains nothing.
func TestMemoryOfAnchors(t *testing.T) {
	r := seeded(77)
	var window []byte // one whose last byte is an anchor's
	for window == nil {
		b := make([]byte, PageSize)
		fillRandom(r, b)
		if a := appendAnchors(nil, b, 0, PageSize); len(a) > 0 {
			window = b[a[0].at : a[0].at+anchorWindow]
		}
	}
	memory := make([]byte, 512*PageSize)
	for i := 0; i < len(memory); i += anchorWindow + 8 {
		copy(memory[i:], window)
		if i+anchorWindow+8 <= len(memory) {
			binary.LittleEndian.PutUint64(memory[i+anchorWindow:], r.Uint64())
		}
	}
	p := newPair(t, own, memory)
	p.send(all(memory), 64)
	p.check()
	for _, u := range p.enc.Usage() {
		t.Logf("%-8s %6d units, %8d -> %8d bytes, %d false", u.Name, u.Units, u.In, u.Out, u.False)
	}
}
