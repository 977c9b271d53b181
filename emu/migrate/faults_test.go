package migrate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// What is done to a migration at a step.
const (
	killSelf = "kill"  // the end that is at the step
	killPeer = "peer"  // the other end
	cut      = "cut"   // the connections; new ones succeed
	flap     = "flap"  // the WAN, for less than the sessions' patience
	sever    = "sever" // the WAN, for longer
)

const faultPatience = 300 * time.Millisecond

// mishap is one fault-injected migration.
type mishap struct {
	algorithm, verify string
	step              string
	nth               int64 // time that the step is reached
	what              string
	again             bool // the link can be opened anew
	seed              uint64
}

func (m mishap) String() string {
	return fmt.Sprintf("%s/%s/%s-%d/%s/again=%v/seed=%d", m.algorithm, m.verify, m.step, m.nth, m.what, m.again, m.seed)
}

// suffer runs a migration with a mishap, lets whoever survived and whoever is
// started again sort it out, and checks that the VM is in one place, whole.
// struck tells whether the step was reached.
func (m mishap) suffer(t testing.TB) (struck bool) {
	g := newGuest(t, 300, m.seed)
	g.run(m.seed, 200*time.Microsecond)
	defer g.end()
	opt := Options{Algorithm: m.algorithm, Verify: m.verify}
	w := &wan{rate: 30e6, delay: 300 * time.Microsecond}
	tr := w.join(t, opt.Urgent(), faultPatience)
	if m.again {
		tr.again()
	}
	var hit atomic.Bool
	var count atomic.Int64
	var dead [2]atomic.Bool // ends whose process is gone: source, target
	var healing sync.WaitGroup
	hold := make(chan struct{})
	release := sync.OnceFunc(func() { close(hold) })
	if m.step == StepSourceHeld {
		opt.HoldPause = hold
	}
	hook := func(self int) func(string) error {
		return func(name string) error {
			if name == StepSourceHeld {
				defer release()
			}
			if dead[self].Load() {
				return ErrKilled
			}
			if name != m.step || count.Add(1) != m.nth {
				return nil
			}
			hit.Store(true)
			switch m.what {
			case killSelf, killPeer:
				// A killed process's connections end, and nobody answers in its place.
				victim := self
				if m.what == killPeer {
					victim = 1 - self
				}
				dead[victim].Store(true)
				w.sever()
				if victim == self {
					return ErrKilled
				}
			case cut:
				w.cut()
			case flap, sever:
				d := faultPatience / 6
				if m.what == sever {
					d = 2 * faultPatience
				}
				w.sever()
				healing.Add(1)
				time.AfterFunc(d, func() { defer healing.Done(); w.mend() })
			}
			return nil
		}
	}
	there := opt
	opt.Step, there.Step = hook(0), hook(1)
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	var serr, terr error
	var ends sync.WaitGroup
	ends.Add(1)
	go func() {
		defer ends.Done()
		_, terr = Receive(ctx, tr.target, targetSide{g}, g.arb, there)
	}()
	_, serr = Send(ctx, tr.source, sourceSide{g}, g.arb, opt)
	ends.Wait()
	healing.Wait()
	w.mend()

	// The lab: each end that died is started again.
	for end := range dead {
		if !dead[end].Load() {
			continue
		}
		if end == 0 {
			if err := RecoverSource(ctx, sourceSide{g}, g.arb); err != nil && !errors.Is(err, ErrCommitted) {
				t.Fatalf("%v: recover the source: %v", m, err)
			}
		} else {
			g.recoverTarget(ctx, t, m)
		}
	}
	g.settleRest(ctx, t, m, tr, w, serr == nil && terr == nil)
	return hit.Load()
}

// recoverTarget does what an agent that is started again does for a VM that its
// predecessor was receiving.
func (g *guest) recoverTarget(ctx context.Context, t testing.TB, m mishap) {
	g.info.Lock()
	kept, missing, runs := g.kept, g.keptMap, g.at.Load() == g.to
	g.info.Unlock()
	if kept == nil || runs {
		return // nothing to start, or it runs
	}
	if _, _, err := RecoverTarget(ctx, targetSide{g}, g.arb, kept, missing); err != nil && !errors.Is(err, ErrAborted) {
		t.Fatalf("%v: recover the target: %v", m, err)
	}
}

// settleRest carries a migration on whose VM was given to the target, and
// checks the outcome.
func (g *guest) settleRest(ctx context.Context, t testing.TB, m mishap, tr *trip, w *wan, proven bool) {
	t.Helper()
	owner := g.arb.owner()
	if owner == "target" && !proven {
		opt := Options{Algorithm: m.algorithm, Verify: m.verify}
		tr.close()
		again := w.join(t, opt.Urgent(), 2*time.Second)
		var faults Faults
		var missing []uint64
		if l := g.lacking; l != nil {
			l.mu.Lock()
			faults, missing = l, append([]uint64{}, l.lacks...)
			l.mu.Unlock()
		}
		done := make(chan struct{})
		var r *Report
		var terr error
		go func() {
			defer close(done)
			r, terr = ReceiveRest(ctx, again.target, targetSide{g}, faults, missing, opt)
		}()
		s, serr := SendRest(ctx, again.source, g.from.memory, opt)
		<-done
		if serr != nil || terr != nil {
			t.Fatalf("%v: the rest: source: %v; target: %v", m, serr, terr)
		}
		if s.Hash == "" || s.Hash != r.Hash || s.Verify.Pages+s.Verify.Unproven != len(g.frozen)/PageSize {
			t.Fatalf("%v: the rest is not proven: %+v", m, s)
		}
	}
	// It runs there and nowhere else, and goes on running.
	at, before := g.at.Load(), g.steps.Load()
	want := map[string]*place{"source": g.from, "target": g.to}[owner]
	if at != want {
		t.Fatalf("%v: the VM is the %s's and does not run there", m, owner)
	}
	for end := time.Now().Add(5 * time.Second); ; {
		if g.steps.Load() > before+3 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%v: the VM does not go on at the %s", m, owner)
		}
		time.Sleep(time.Millisecond)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.wrong) > 0 {
		t.Fatalf("%v: broken rules: %q", m, g.wrong[:min(4, len(g.wrong))])
	}
	if owner == "target" {
		g.compare(t, m)
	}
}

// compare checks every byte at the target that the VM has not changed since.
func (g *guest) compare(t testing.TB, m fmt.Stringer) {
	if !bytes.Equal(g.frozen, g.from.memory) {
		t.Fatalf("%v: the source's memory changed after the pause", m)
	}
	written := newBitmap(len(g.version))
	targetSide{g}.Written(written)
	for page := range g.version {
		if at := page * PageSize; !written.has(page) && !bytes.Equal(g.frozen[at:at+PageSize], g.to.memory[at:at+PageSize]) {
			t.Fatalf("%v: page %d differs", m, page)
		}
	}
}

// reachedBy is an algorithm that reaches a step.
func reachedBy(step string) string {
	switch step {
	case StepSourcePush, StepSourceDemand, StepTargetFault, StepTargetPlace, StepTargetAll:
		return PostCopy
	case StepSourceBatch, StepSourceRound, StepTargetRound:
		return CloudNet
	}
	return Own
}

// TestEveryStep strikes at each step in each way.
func TestEveryStep(t *testing.T) {
	for _, step := range Steps {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			for i, what := range []string{killSelf, killPeer, cut, sever} {
				if step == StepSourceAbort || step == StepSourceResume {
					strikeRecovery(t, step, what)
					continue
				}
				m := mishap{algorithm: reachedBy(step), verify: "online", step: step, nth: 1, what: what, seed: uint64(i)}
				if !m.suffer(t) {
					t.Fatalf("%v: the step was not reached", m)
				}
			}
		})
	}
}

// strikeRecovery kills the source while it takes the VM back from a target that
// refuses it.
func strikeRecovery(t *testing.T, step, what string) {
	g := newGuest(t, 300, 9)
	g.run(9, 200*time.Microsecond)
	defer g.end()
	opt := Options{Algorithm: Own}
	w := &wan{}
	tr := w.join(t, false, faultPatience)
	there := opt
	there.Step = func(name string) error {
		if name == StepTargetFinal {
			return errors.New("no room after all")
		}
		return nil
	}
	reached := false
	opt.Step = func(name string) error {
		if name != step {
			return nil
		}
		reached = true
		if what == killSelf {
			return ErrKilled
		}
		w.sever()
		return nil
	}
	_, _, serr, terr := move(t, g, tr, opt, there)
	if !reached || serr == nil || terr == nil {
		t.Fatalf("%s reached: %v; source: %v; target: %v", step, reached, serr, terr)
	}
	if !killed(serr) && !strings.Contains(serr.Error(), "no room after all") {
		t.Fatalf("the source does not say why: %v", serr)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if killed(serr) {
		if err := RecoverSource(ctx, sourceSide{g}, g.arb); err != nil {
			t.Fatal(err)
		}
	}
	g.settleRest(ctx, t, mishap{algorithm: Own, step: step, what: what}, tr, w, false)
}

// TestMishaps strikes at random: 40 times, or, with VPCLAB_LONG=1, 600.
func TestMishaps(t *testing.T) {
	n := 40
	if os.Getenv("VPCLAB_LONG") == "1" {
		n = 600
	}
	var struck atomic.Int64
	t.Run("all", func(t *testing.T) {
		for i := range n {
			r := rand.New(rand.NewPCG(uint64(i), 77))
			m := mishap{
				algorithm: Algorithms[i%len(Algorithms)],
				verify:    []string{"online", "pause"}[r.IntN(2)],
				step:      Steps[r.IntN(len(Steps))],
				nth:       1,
				what:      []string{killSelf, killPeer, cut, flap, sever}[r.IntN(5)],
				again:     r.IntN(2) == 0,
				seed:      uint64(i),
			}
			for !slices.Contains(stepsOf(m.algorithm), m.step) {
				m.step = Steps[r.IntN(len(Steps))]
			}
			if slices.Contains([]string{StepSourceBatch, StepTargetBatch, StepSourceLast, StepSourcePush, StepTargetPlace}, m.step) {
				m.nth = 1 + r.Int64N(5)
			}
			t.Run(m.String(), func(t *testing.T) {
				t.Parallel()
				if m.suffer(t) {
					struck.Add(1)
				}
			})
		}
	})
	t.Logf("%d of %d migrations were struck", struck.Load(), n)
	if struck.Load() < int64(n)/2 {
		t.Errorf("only %d of %d migrations reached the step at which something was to happen", struck.Load(), n)
	}
}

// stepsOf are the steps that an algorithm takes in a migration that succeeds.
func stepsOf(algorithm string) []string {
	post := []string{StepSourcePush, StepSourceDemand, StepTargetFault, StepTargetPlace, StepTargetAll}
	live := []string{StepSourceBatch, StepTargetBatch, StepSourceRound, StepTargetRound}
	return slices.DeleteFunc(slices.Clone(Steps), func(step string) bool {
		switch {
		case step == StepSourceAbort || step == StepSourceResume || step == StepSourceHeld:
			return true
		case algorithm == PostCopy:
			return slices.Contains(live, step) || step == StepSourceLast
		case algorithm == Hybrid:
			return step == StepSourceLast
		case algorithm == StopAndCopy:
			return slices.Contains(post, step) || step == StepSourceBatch
		}
		return slices.Contains(post, step)
	})
}
