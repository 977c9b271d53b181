package codec

import (
	"math"
	"testing"
)

// naive is Redundancy without a limit, by a map.
func naive(memory []byte, block int) (found int) {
	seen := map[string]bool{}
	for at := 0; at < len(memory); at += block {
		b := string(memory[at : at+block])
		if seen[b] {
			found += block
		}
		seen[b] = true
	}
	return found
}

func TestRedundancyFindsWhatIsThere(t *testing.T) {
	m := mixed(seeded(5), 800)
	for block := 64; block <= PageSize; block *= 2 {
		s := Redundancy(m, block, 0)
		if got, want := int(s.Zero+s.Copies), naive(m, block); got != want {
			t.Errorf("blocks of %d: %d bytes found, %d are there", block, got, want)
		}
	}
}

// Smaller blocks and larger caches find no less.
func TestRedundancyGrows(t *testing.T) {
	m := mixed(seeded(6), 2000)
	last := 0.0
	for block := PageSize; block >= 64; block /= 2 {
		found := Redundancy(m, block, 0).Found()
		if found < last {
			t.Errorf("%.4f with blocks of %d, %.4f with larger ones", found, block, last)
		}
		last = found
	}
	last = 0
	for cache := int64(len(m)) >> 8; cache <= int64(len(m)); cache *= 2 {
		found := Redundancy(m, 512, cache).Found()
		if found < last {
			t.Errorf("%.4f with a cache of %d, %.4f with a smaller one", found, cache, last)
		}
		last = found
	}
	if all := Redundancy(m, 512, 0).Found(); math.Abs(all-last) > 1e-9 {
		t.Errorf("%.4f with a cache as large as the memory, %.4f without limit", last, all)
	}
}

// The cache forgets in the order in which blocks came.
func TestCacheForgets(t *testing.T) {
	m := make([]byte, 100*PageSize)
	fillRandom(seeded(1), m[:50*PageSize])
	copy(m[50*PageSize:], m[:50*PageSize])
	for pages, want := range map[int64]float64{49: 0, 50: 0.5} {
		if got := Redundancy(m, PageSize, pages*PageSize).Found(); got != want {
			t.Errorf("a second round with a cache of %d pages of 50: %.2f found, expected %.2f", pages, got, want)
		}
	}
}

// Only chunks that content divides find what has moved by some bytes.
func TestContentRedundancyFindsWhatMoved(t *testing.T) {
	m := make([]byte, 512*PageSize)
	fillRandom(seeded(2), m[:256*PageSize])
	copy(m[256*PageSize+77:], m[:256*PageSize])
	if fixed := Redundancy(m, 256, 0).Found(); fixed > 0.01 {
		t.Errorf("blocks of 256 bytes find %.3f of what has moved by 77", fixed)
	}
	for _, average := range []int{256, 1024} {
		s := ContentRedundancy(m, average, 0)
		if s.Found() < 0.47 {
			t.Errorf("chunks of %d bytes find %.3f of a half", average, s.Found())
		}
		if s.Bytes != int64(len(m)) {
			t.Errorf("%d bytes in chunks, %d in memory", s.Bytes, len(m))
		}
		if size := s.Bytes / s.Blocks; size < int64(average)/2 || size > int64(average)*2 {
			t.Errorf("chunks of %d bytes on average, %d wanted", size, average)
		}
	}
}

func TestDeltaSizes(t *testing.T) {
	old := mixed(seeded(3), 100)
	now := append([]byte(nil), old...)
	now[5]++ // one byte: about four
	for i := range 200 {
		at(now, 7)[3*i]++ // as many again and again
	}
	fillRandom(seeded(8), at(now, 9))
	sizes := DeltaSizes(old, now)
	if len(sizes) != 3 || sizes[0] > 5 || sizes[1] < 200 || sizes[1] > 800 || sizes[2] != PageSize {
		t.Errorf("sizes %v", sizes)
	}
	if b := Below(sizes, 1000); math.Abs(b-2.0/3) > 1e-9 {
		t.Errorf("%.2f of %v are at most 1000", b, sizes)
	}
	if b := Below(nil, 1); b != 0 {
		t.Errorf("%.2f of nothing", b)
	}
}

func TestTry(t *testing.T) {
	m := mixed(seeded(3), 1000)
	for _, code := range codes {
		r, err := Try(code.c, m, 200, 0.5)
		if err != nil {
			t.Fatalf("%s: %v", code.name, err)
		}
		if r.Wrong != 0 || r.In != int64(len(m)) || r.Out == 0 || r.Encode == 0 || r.Decode == 0 {
			t.Errorf("%s: %+v", code.name, r)
		}
	}
}
