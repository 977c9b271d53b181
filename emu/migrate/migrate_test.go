package migrate

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"
)

// fill makes a memory with zero, duplicate, text-like and random pages.
func fill(memory []byte, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 2))
	words := []string{"vpclab ", "page ", "of a memory ", "that moves ", "0123456789 ", "\x00\x00\x00\x00"}
	for at := 0; at < len(memory); at += PageSize {
		page := memory[at : at+PageSize]
		switch kind := r.IntN(10); {
		case kind < 3:
			clear(page)
		case kind < 5 && at > 0:
			from := r.IntN(at/PageSize) * PageSize
			copy(page, memory[from:from+PageSize])
		case kind < 8:
			for i := 0; i < PageSize; {
				i += copy(page[i:], words[r.IntN(len(words))])
			}
		default:
			for i := 0; i < PageSize; i += 8 {
				binary.LittleEndian.PutUint64(page[i:], r.Uint64())
			}
		}
	}
}

// newGuest is a VM with some hot pages and now and then a cold one.
func newGuest(t testing.TB, pages int, seed uint64) *guest {
	g := &guest{t: t, arb: &judge{}, from: newPlace(t, pages), to: newPlace(t, pages), version: make([]uint64, pages)}
	fill(g.from.memory, seed)
	fill(g.to.memory, seed+1) // what lies there is of no use
	g.at.Store(g.from)
	hot := max(1, pages/20)
	b := make([]byte, 256)
	g.step = func(r *rand.Rand, write func(page, at int, b []byte)) {
		for range 8 {
			page := r.IntN(hot) * 7 % pages
			if r.IntN(20) == 0 {
				page = r.IntN(pages)
			}
			for i := 0; i < len(b); i += 8 {
				binary.LittleEndian.PutUint64(b[i:], r.Uint64())
			}
			write(page, r.IntN(PageSize-len(b)-8), b)
		}
	}
	return g
}

// move runs both ends and waits for them.
func move(t testing.TB, g *guest, tr *trip, opt, there Options) (source, target *Report, serr, terr error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		target, terr = Receive(ctx, tr.target, targetSide{g}, g.arb, there)
		if killed(terr) {
			tr.target.shut()
		}
	}()
	source, serr = Send(ctx, tr.source, sourceSide{g}, g.arb, opt)
	if killed(serr) {
		tr.source.shut()
	}
	<-done
	return source, target, serr, terr
}

// good checks a migration that succeeded.
func good(t testing.TB, g *guest, s, r *Report, serr, terr error) {
	t.Helper()
	if serr != nil || terr != nil {
		t.Fatalf("source: %v; target: %v", serr, terr)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.wrong) > 0 {
		t.Fatalf("broken rules: %q", g.wrong)
	}
	if g.at.Load() != g.to {
		t.Fatal("the VM does not run at the target")
	}
	if want := HashMemory(g.frozen); s.Hash != want || r.Hash != want {
		t.Fatalf("hash %s at the source's end, %s at the target's, %s of the memory at the pause", s.Hash, r.Hash, want)
	}
	if !bytes.Equal(g.frozen, g.from.memory) {
		t.Fatal("the source's memory changed after the pause")
	}
	if s.PausedAt == 0 || s.ResumedAt < s.PausedAt || s.Done < s.ResumedAt || s.Began > s.PausedAt {
		t.Fatalf("times out of order: %+v", s)
	}
	if v := s.Verify; v.Pages != len(g.frozen)/PageSize || v.AfterStart+v.AtPlacing != v.Pages {
		t.Fatalf("verified %+v", v)
	}
}

func TestEveryAlgorithmMovesAVM(t *testing.T) {
	for _, verify := range []string{"online", "pause"} {
		for _, algorithm := range Algorithms {
			t.Run(algorithm+"/"+verify, func(t *testing.T) {
				g := newGuest(t, 1000, 5)
				g.run(5, 100*time.Microsecond)
				defer g.end()
				opt := Options{Algorithm: algorithm, Verify: verify}
				tr := (&wan{rate: 40e6, delay: time.Millisecond}).join(t, opt.Urgent(), 5*time.Second)
				s, r, serr, terr := move(t, g, tr, opt, opt)
				good(t, g, s, r, serr, terr)
				t.Logf("total %v, pause %v, %d bytes, %d rounds, verified %+v, faults %+v", s.Total(), s.Pause(), s.BytesOut, len(s.Rounds), s.Verify, s.Faults)
			})
		}
	}
}

// A VM that arrives together with others stands only when they may too.
func TestHeldVMWaits(t *testing.T) {
	for _, algorithm := range Algorithms {
		t.Run(algorithm, func(t *testing.T) {
			t.Parallel()
			g := newGuest(t, 300, 6)
			g.run(6, 200*time.Microsecond)
			defer g.end()
			hold := make(chan struct{})
			opt := Options{Algorithm: algorithm, HoldPause: hold}
			var held atomic.Int64
			opt.Step = func(name string) error {
				switch name {
				case StepSourceHeld:
					if held.Add(1) == 1 {
						time.AfterFunc(100*time.Millisecond, func() { close(hold) })
					}
				case StepSourcePause:
					select {
					case <-hold:
					default:
						t.Error("paused while held")
					}
				}
				return nil
			}
			tr := (&wan{}).join(t, opt.Urgent(), 5*time.Second)
			s, r, serr, terr := move(t, g, tr, opt, Options{Algorithm: algorithm})
			good(t, g, s, r, serr, terr)
			if held.Load() == 0 {
				t.Error("was never held")
			}
		})
	}
}

// What the target holds of an earlier stay is not sent again.
func TestReuse(t *testing.T) {
	for _, algorithm := range Algorithms {
		t.Run(algorithm, func(t *testing.T) {
			t.Parallel()
			g := newGuest(t, 1000, 6)
			copy(g.to.memory, g.from.memory)
			for page := 700; page < 720; page++ { // it has changed since, here and there
				g.from.memory[page*PageSize+9] ^= 1
				g.to.memory[(page+50)*PageSize+9] ^= 1
			}
			g.run(6, 2*time.Millisecond)
			defer g.end()
			opt := Options{Algorithm: algorithm, Reuse: true}
			tr := (&wan{}).join(t, opt.Urgent(), 5*time.Second)
			s, r, serr, terr := move(t, g, tr, opt, opt)
			good(t, g, s, r, serr, terr)
			if s.Rounds[0].ToSend > 600 { // of 1000
				t.Errorf("%d pages to send in the first round", s.Rounds[0].ToSend)
			}
		})
	}
}
