package migrate

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/vpclab/vpclab/emu/event"
)

// fickle is an arbiter that cannot be asked now and then.
type fickle struct {
	*judge
	mu            sync.Mutex
	commit, abort int // so many calls fail; -1: all
	lost          bool
}

var errAway = errors.New("the manager cannot be reached")

func (f *fickle) away(left *int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if *left > 0 {
		*left--
		return true
	}
	return *left < 0
}

// A call may have been heard although its answer is lost.
func (f *fickle) Commit(ctx context.Context) error {
	if f.away(&f.commit) {
		if f.lost {
			_ = f.judge.Commit(ctx) // the answer is what is lost
		}
		return errAway
	}
	return f.judge.Commit(ctx)
}

func (f *fickle) Abort(ctx context.Context) error {
	if f.away(&f.abort) {
		return errAway
	}
	return f.judge.Abort(ctx)
}

func (f *fickle) Paused(ctx context.Context, at event.Mono) { f.judge.Paused(ctx, at) }

// sides runs both ends with arbiters of their own opinion of one judge.
func sides(t *testing.T, g *guest, opt, there Options, source, target Arbiter) (serr, terr error) {
	t.Helper()
	tr := (&wan{}).join(t, opt.Urgent(), 2*time.Second)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, terr = Receive(ctx, tr.target, targetSide{g}, target, there)
	}()
	_, serr = Send(ctx, tr.source, sourceSide{g}, source, opt)
	<-done
	return serr, terr
}

// An arbiter that comes back in time makes no difference.
func TestArbiterComesBack(t *testing.T) {
	for _, lost := range []bool{false, true} {
		g := newGuest(t, 300, 1)
		opt := Options{Algorithm: Own}
		serr, terr := sides(t, g, opt, opt, g.arb, &fickle{judge: g.arb, commit: 3, lost: lost})
		if serr != nil || terr != nil || g.at.Load() != g.to || g.arb.owner() != "target" {
			t.Fatalf("lost answers %v: source: %v; target: %v", lost, serr, terr)
		}
	}
}

// Who does not know whose the VM is leaves it standing, and says so; who asks
// later learns it.
func TestInDoubt(t *testing.T) {
	t.Parallel()
	for _, lost := range []bool{false, true} {
		t.Run(map[bool]string{false: "never heard", true: "answer lost"}[lost], func(t *testing.T) {
			t.Parallel()
			g := newGuest(t, 300, 2)
			opt := Options{Algorithm: Own, Patience: 500 * time.Millisecond}
			serr, terr := sides(t, g, opt, opt, &fickle{judge: g.arb, abort: -1}, &fickle{judge: g.arb, commit: -1, lost: lost})
			if !errors.Is(terr, ErrInDoubt) || !errors.Is(serr, ErrInDoubt) {
				t.Fatalf("source: %v; target: %v", serr, terr)
			}
			if g.at.Load() != nil {
				t.Fatal("the VM runs although nobody knows whose it is")
			}
			err := RecoverSource(t.Context(), sourceSide{g}, g.arb)
			if lost && (!errors.Is(err, ErrCommitted) || g.at.Load() != nil) || !lost && (err != nil || g.at.Load() != g.from) {
				t.Fatalf("recover the source: %v", err)
			}
			_, _, err = RecoverTarget(t.Context(), targetSide{g}, g.arb, g.kept, nil)
			if lost && (err != nil || g.at.Load() != g.to) || !lost && (!errors.Is(err, ErrAborted) || g.at.Load() != g.from) {
				t.Fatalf("recover the target: %v", err)
			}
		})
	}
}

// A source that gives up takes the VM back, unless the target was quicker; a
// target that comes too late does not start it.
func TestAbortAndCommitExcludeEachOther(t *testing.T) {
	g := newGuest(t, 300, 3)
	opt := Options{Algorithm: Own}
	there := opt
	there.Step = func(name string) error {
		if name == StepTargetKept { // the source has lost patience meanwhile
			return g.arb.Abort(context.Background())
		}
		return nil
	}
	serr, terr := sides(t, g, opt, there, g.arb, g.arb)
	if !errors.Is(terr, ErrAborted) || serr == nil || errors.Is(serr, ErrCommitted) || g.at.Load() != g.from {
		t.Fatalf("source: %v; target: %v", serr, terr)
	}
	// A context that ends is the commonest way of giving up.
	g = newGuest(t, 300, 4)
	ctx, cancel := context.WithCancelCause(context.Background())
	opt.Step = func(name string) error {
		if name == StepSourcePaused {
			cancel(errors.New("the operator has changed his mind"))
		}
		return nil
	}
	tr := (&wan{}).join(t, false, 2*time.Second)
	done := make(chan error, 1)
	go func() {
		_, err := Receive(context.Background(), tr.target, targetSide{g}, g.arb, Options{Algorithm: Own})
		done <- err
	}()
	_, serr = Send(ctx, tr.source, sourceSide{g}, g.arb, opt)
	terr = <-done
	if terr == nil || serr == nil || g.arb.owner() != "source" || g.at.Load() != g.from {
		t.Fatalf("source: %v; target: %v; owner %s", serr, terr, g.arb.owner())
	}
	if g.arb.paused != 1 {
		t.Errorf("the network was told %d times that the VM stands", g.arb.paused)
	}
}
