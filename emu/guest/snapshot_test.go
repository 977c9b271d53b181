package guest

import (
	"bytes"
	"math/bits"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

func pagesOf(into []uint64) (list []int) {
	for i, w := range into {
		for ; w != 0; w &= w - 1 {
			list = append(list, i*64+bits.TrailingZeros64(w))
		}
	}
	return list
}

func newTestSnapshot(t testing.TB, pages int) (ram []byte, s *Snapshot, into []uint64) {
	ram = make([]byte, pages*PageSize)
	r := rand.New(rand.NewPCG(1, uint64(pages)))
	for i := 0; i < len(ram); i += 512 {
		ram[i] = byte(r.Uint32())
	}
	s, err := NewSnapshot(ram)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return ram, s, make([]uint64, words(pages))
}

func TestSnapshotFindsWhatHasChanged(t *testing.T) {
	for name, pages := range map[string]int{"less than a word": 7, "a word": 64, "a word and a bit": 65, "for several processors": 3*leastShare + 77} {
		t.Run(name, func(t *testing.T) {
			ram, s, into := newTestSnapshot(t, pages)
			into[0] = ^uint64(0)
			if n := s.Collect(into); n != 0 || len(pagesOf(into)) != 0 {
				t.Fatalf("the first Collect found %d pages, %v: want none", n, pagesOf(into))
			}
			if !bytes.Equal(ram, s.Bytes()) {
				t.Fatal("the first copy is not what the memory holds")
			}
			first, last := 0, pages-1
			ram[first]++
			ram[last*PageSize+PageSize-1]++
			want := slices.Compact([]int{first, last})
			if !s.Dirty(first) || !s.Dirty(last) || s.Dirty(pages/2) {
				t.Errorf("dirty are first %v, last %v, middle %v: want the first two", s.Dirty(first), s.Dirty(last), s.Dirty(pages/2))
			}
			if n := s.Collect(into); n != len(want) || !slices.Equal(pagesOf(into), want) {
				t.Errorf("found %d pages, %v: want %v", n, pagesOf(into), want)
			}
			if n := s.Collect(into); n != 0 || !bytes.Equal(ram, s.Bytes()) {
				t.Errorf("found %d pages that were found before", n)
			}
			ram[0]++
			ram[0]--
			if n := s.Collect(into); n != 0 {
				t.Errorf("found %d pages that have changed back", n)
			}
		})
	}
}

// Whoever leaves a page out because it is dirty counts on hearing of it again.
func TestSnapshotTellsAgainOfWhatItCalledDirty(t *testing.T) {
	for _, look := range []string{"collect", "glance"} {
		ram, s, into := newTestSnapshot(t, 200)
		s.Collect(into)
		ram[130*PageSize]++
		if !s.Dirty(130) {
			t.Fatal("a page that has changed is not dirty")
		}
		ram[130*PageSize]--
		n := 0
		if look == "collect" {
			n = s.Collect(into)
		} else {
			_, n = s.glance(into, 10)
		}
		if want := []int{130}; n != 1 || !slices.Equal(pagesOf(into), want) {
			t.Errorf("%s found %d pages, %v: want %v, which was called dirty", look, n, pagesOf(into), want)
		}
		if n = s.Collect(into); n != 0 {
			t.Errorf("after %s: told of it again", look)
		}
	}
}

func TestGlanceMissesNothingForLong(t *testing.T) {
	const pages, budget = 1000, 100
	ram, s, into := newTestSnapshot(t, pages)
	s.Collect(into)
	for _, p := range []int{0, 63, 64, 500, 999} {
		ram[p*PageSize+17]++
	}
	var seen []int
	for range 2 * pages / budget { // half of each may go to pages that were found before
		_, n := s.glance(into, budget)
		if list := pagesOf(into); n != len(list) {
			t.Fatalf("says %d pages and gives %v", n, list)
		}
		seen = append(seen, pagesOf(into)...)
	}
	slices.Sort(seen)
	if want := []int{0, 63, 64, 500, 999}; !slices.Equal(seen, want) {
		t.Errorf("found %v: want %v", seen, want)
	}
}

func TestGlanceLooksAtHotPagesEachTime(t *testing.T) {
	const pages, budget = 6400, 64
	ram, s, into := newTestSnapshot(t, pages)
	s.Collect(into)
	hot := []int{3, 3100, 6399}
	touch := func() {
		for _, p := range hot {
			ram[p*PageSize]++
		}
	}
	touch()
	s.Collect(into)
	for range 20 {
		touch()
		s.glance(into, budget)
		if list := pagesOf(into); !slices.Equal(list, hot) {
			t.Fatalf("found %v: want %v, which had just changed", list, hot)
		}
	}
}

// What a Collect costs is bounded by how fast memory can be read: it reads both
// RAM and copy once.
func BenchmarkCollect(b *testing.B) {
	ram, s, into := newTestSnapshot(b, 128<<20/PageSize)
	for i, c := range ram {
		ram[i] = c & 0x7f
	}
	s.Collect(into)
	for _, share := range []int{0, 1, 10} {
		b.Run(map[int]string{0: "nothing changed", 1: "1 per cent", 10: "10 per cent"}[share], func(b *testing.B) {
			var read time.Duration
			for b.Loop() {
				b.StopTimer()
				for p := range s.Pages() * share / 100 {
					ram[p*100/share*PageSize] ^= 1
				}
				began := time.Now()
				if s.readAll() != 0 {
					b.Fatal("found what is not there")
				}
				read += time.Since(began)
				b.StartTimer()
				s.Collect(into)
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/1000/float64(b.N), "ms/collect")
			b.ReportMetric(float64(b.Elapsed())/float64(read), "times-reading")
			b.ReportMetric(2*float64(len(ram))*float64(b.N)/float64(read.Nanoseconds()), "GB/s-reading")
		})
	}
	b.Run("dirty", func(b *testing.B) {
		page := 0
		for b.Loop() {
			if s.Dirty(page) {
				b.Fatal("dirty")
			}
			page = (page + 1) % s.Pages()
		}
	})
}

// readAll reads memory and copy as fast as the machine does: it looks for a byte
// that is not there.
func (s *Snapshot) readAll() int {
	var found atomic.Int64
	s.each(func(first, end int) {
		at, to := first*PageSize, end*PageSize
		found.Add(int64(bytes.IndexByte(s.ram[at:to], 0xff) + bytes.IndexByte(s.copied[at:to], 0xff) + 2))
	})
	return int(found.Load())
}
