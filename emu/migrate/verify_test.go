package migrate

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/zeebo/xxh3"
)

// collisions are pairs of blocks of 1 KiB that differ and have the same 32-bit
// hash in a cache of package codec.
func collisions(t testing.TB, n int) (pairs [][2][]byte) {
	t.Helper()
	seen := map[uint32][]byte{}
	r := rand.New(rand.NewPCG(32, 32))
	for tries := 0; len(pairs) < n; tries++ {
		if tries > 2_000_000 {
			t.Fatalf("%d collisions in %d blocks", len(pairs), tries)
		}
		b := make([]byte, 1024)
		for i := 0; i < 64; i += 8 {
			binary.LittleEndian.PutUint64(b[i:], r.Uint64())
		}
		h := uint32(xxh3.Hash(b))
		if a := seen[h]; a != nil {
			pairs = append(pairs, [2][]byte{a, b})
		}
		seen[h] = b
	}
	return pairs
}

// malicious is a guest whose memory is full of blocks that collide, and that
// swaps one for the other all the time.
func malicious(t testing.TB, pages int, seed uint64) *guest {
	g := newGuest(t, pages, seed)
	pairs := collisions(t, 8)
	for page := range pages {
		p := pairs[page%len(pairs)]
		for block := range 4 {
			copy(g.from.memory[page*PageSize+block*1024:], p[block%2])
		}
	}
	g.step = func(r *rand.Rand, write func(page, at int, b []byte)) {
		for range 8 {
			page := r.IntN(pages / 10)
			// The first block has the number of the change; the others collide.
			write(page, (1+r.IntN(3))*1024-8, pairs[page%len(pairs)][r.IntN(2)])
		}
	}
	return g
}

// A guest that builds collisions of the hash changes nothing: bytes are
// compared before a reference is sent (Wood et al., section IV-B1).
func TestCollisionsChangeNothing(t *testing.T) {
	for _, algorithm := range []string{CBR, CloudNet, Own} {
		for _, bits := range []int{0, 16, 8} {
			g := malicious(t, 400, 3)
			g.run(3, 100*time.Microsecond)
			opt := Options{Algorithm: algorithm, HashBits: bits}
			tr := (&wan{rate: 20e6}).join(t, false, 5*time.Second)
			s, r, serr, terr := move(t, g, tr, opt, opt)
			good(t, g, s, r, serr, terr)
			g.end()
			var hits int64
			for _, e := range s.Encoders {
				hits += e.False
			}
			if hits == 0 && algorithm != Own {
				t.Errorf("%s with %d bits: the guest found no false match of the hash", algorithm, bits)
			}
			t.Logf("%s with %d bits: %d false matches, hash %.16s…", algorithm, bits, hits, s.Hash)
		}
	}
}

// Without the comparison they corrupt the memory. The target does not take such
// a VM, and the source says which pages were wrong.
func TestUnverifiedIsRefused(t *testing.T) {
	g := malicious(t, 400, 4)
	g.run(4, 100*time.Microsecond)
	defer g.end()
	opt := Options{Algorithm: CloudNet, Unverified: true}
	tr := (&wan{}).join(t, false, 5*time.Second)
	_, _, serr, terr := move(t, g, tr, opt, opt)
	var differs *DiffersError
	if !errors.As(serr, &differs) || len(differs.Pages) == 0 || errors.Is(serr, ErrCommitted) {
		t.Fatalf("source: %v", serr)
	}
	if !errors.As(terr, &differs) {
		t.Fatalf("target: %v", terr)
	}
	if g.arb.owner() != "source" || g.at.Load() != g.from {
		t.Fatal("the VM does not run at the source")
	}
	t.Log(serr)
}

// A memory that goes bad after it was placed is noticed, and the page named.
func TestRotIsNoticed(t *testing.T) {
	g := newGuest(t, 300, 8)
	opt := Options{Algorithm: Own}
	there := opt
	there.Step = func(name string) error {
		if name == StepTargetStarted {
			g.to.memory[123*PageSize+77] ^= 1
		}
		return nil
	}
	tr := (&wan{}).join(t, false, 5*time.Second)
	_, _, serr, terr := move(t, g, tr, opt, there)
	var differs *DiffersError
	if !errors.As(terr, &differs) || len(differs.Pages) != 1 || differs.Pages[0] != 123 || !errors.Is(terr, ErrCommitted) {
		t.Fatalf("target: %v", terr)
	}
	if serr == nil {
		t.Fatal("the source thinks that all is well")
	}
}

// A page that the source fails to send again is noticed, and named.
func TestForgottenPageIsNoticed(t *testing.T) {
	g := newGuest(t, 300, 8)
	opt := Options{Algorithm: Xen30}
	opt.Step = func(name string) error {
		if name == StepSourceFinal {
			g.from.memory[45*PageSize] ^= 1 // as if its bit had been lost
		}
		return nil
	}
	tr := (&wan{}).join(t, false, 5*time.Second)
	_, _, serr, terr := move(t, g, tr, opt, Options{Algorithm: Xen30})
	var differs *DiffersError
	if !errors.As(serr, &differs) || len(differs.Pages) != 1 || differs.Pages[0] != 45 {
		t.Fatalf("source: %v", serr)
	}
	if !errors.As(terr, &differs) {
		t.Fatalf("target: %v", terr)
	}
}
