package codec

import (
	"bytes"
	"slices"
	"testing"
)

const fuzzPages = 24

// fuzzConfigs are those of configs, in an order that does not change.
func fuzzConfigs() (names []string) {
	for name := range configs() {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// fuzzPair has sent a memory once, and gives what a second batch looks like.
func fuzzPair(tb testing.TB, c Config) (p *pair, second []byte) {
	r := seeded(11)
	p = newPair(tb, c, mixed(r, fuzzPages))
	p.send(all(p.source), MaxBatch)
	changed := work(r, p.source, 20)
	return p, p.enc.Encode(nil, changed, gather(p.source, changed))
}

// FuzzDecode gives decoders of all configurations bodies of any kind, behind
// headers that are true: what a checksum would keep out is let in.
func FuzzDecode(f *testing.F) {
	names := fuzzConfigs()
	for i, name := range names {
		_, second := fuzzPair(f, configs()[name])
		var s state
		s.digest, s.number = leU64(second[16:]), 1
		h, body, err := s.open(second)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), uint8(h.pages), h.method, uint32(h.raw), body)
	}
	f.Fuzz(func(t *testing.T, which, pages, method uint8, raw uint32, in []byte) {
		c := configs()[names[int(which)%len(names)]]
		p, second := fuzzPair(t, c)
		// The memory stands in the middle of a larger one, which must not change.
		all := bytes.Repeat([]byte{0xa5}, (fuzzPages+2)*PageSize)
		memory := all[PageSize : (fuzzPages+1)*PageSize]
		copy(memory, p.target)
		s := state{number: 1, digest: leU64(second[16:])}
		if method == stored {
			raw = uint32(len(in))
		}
		h := header{method: method, pages: int(pages), raw: int(raw), content: leU64(second[24:])}
		batch := append(make([]byte, headerSize), in...)
		s.seal(batch, h)
		err := p.dec.Decode(memory, batch, func(page int) {
			if page < 0 || page >= fuzzPages {
				t.Errorf("page %d of %d placed", page, fuzzPages)
			}
		})
		if want := append([]byte(nil), second...); err != nil && bytes.Equal(batch, want) {
			t.Errorf("the encoder's own batch: %v", err)
		}
		for _, edge := range [][]byte{all[:PageSize], all[len(all)-PageSize:]} {
			if !bytes.Equal(edge, bytes.Repeat([]byte{0xa5}, PageSize)) {
				t.Error("bytes outside of memory were written")
			}
		}
		if n := p.dec.Footprint(); n > 8<<20 {
			t.Errorf("the decoder of %d pages holds %d bytes", fuzzPages, n)
		}
	})
}

// FuzzBatch gives them anything at all.
func FuzzBatch(f *testing.F) {
	names := fuzzConfigs()
	for i, name := range names {
		_, second := fuzzPair(f, configs()[name])
		f.Add(uint8(i), second)
	}
	f.Fuzz(func(t *testing.T, which uint8, batch []byte) {
		p, second := fuzzPair(t, configs()[names[int(which)%len(names)]])
		before := append([]byte(nil), p.target...)
		err := p.dec.Decode(p.target, batch, func(int) {})
		switch {
		case err == nil && !bytes.Equal(batch, second):
			t.Error("a batch that nobody encoded was taken")
		case err != nil && !bytes.Equal(p.target, before):
			t.Error("a batch that is not true changed memory")
		}
	})
}

// FuzzRoundTrip sends memories of any bytes, twice.
func FuzzRoundTrip(f *testing.F) {
	names := fuzzConfigs()
	m := mixed(seeded(2), 3)
	for i := range names {
		f.Add(uint8(i), m[:PageSize*3/2], m[PageSize:])
	}
	f.Fuzz(func(t *testing.T, which uint8, first, second []byte) {
		p := newPair(t, configs()[names[int(which)%len(names)]], make([]byte, 4*PageSize))
		for _, content := range [][]byte{first, second} {
			copy(p.source, content)
			p.send(all(p.source), 3)
			if names[int(which)%len(names)] != "unverified" {
				p.check()
			}
		}
	})
}
