package replicate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vpclab/vpclab/emu/migrate"
)

// long says that there is time for many failures.
func long() bool { return os.Getenv("VPCLAB_LONG") == "1" }

// killer is a Step that kills its end, at a step or whenever it is told to.
type killer struct {
	step  string
	nth   int64
	n     atomic.Int64
	dead  atomic.Bool
	fired chan struct{}
	once  sync.Once
	also  func() // what dies with it
	seen  sync.Map
}

func newKiller(step string, nth int64, also func()) *killer {
	return &killer{step: step, nth: nth, fired: make(chan struct{}), also: also}
}

func (k *killer) hook(name string) error {
	k.seen.Store(name, true)
	if name == k.step && k.n.Add(1) == k.nth {
		k.kill()
	}
	if k.dead.Load() {
		return migrate.ErrKilled
	}
	return nil
}

// kill ends it at the next step that it takes.
func (k *killer) kill() {
	k.once.Do(func() {
		k.dead.Store(true)
		if k.also != nil {
			k.also()
		}
		close(k.fired)
	})
}

// small is a pair that is in sync in no time.
func small(t testing.TB, mode string, seed uint64) *pair {
	opt := testOptions(mode)
	opt.Silence = 10 * time.Second // nobody waits for it: these tests know who has died
	p := newPairOf(t, opt, 0, time.Duration(300+1000*(seed%3))*time.Microsecond, 80, 64, seed)
	every := 500 * time.Microsecond
	if seed%3 == 2 {
		every = 6 * time.Millisecond // so that all is acknowledged now and then
	}
	p.vm.run(seed, every)
	return p
}

// lightning is the death of the primary's host, at once.
func (p *pair) lightning() {
	p.vm.dead.Store(true)
	p.gate.die()
}

// reopen is what a successor of a killed standby does.
func (p *pair) reopen() {
	p.t.Helper()
	p.endStandby()
	p.sStep = nil
	p.startStandby()
}

// flows waits for clients to hear more.
func (p *pair) flows(more int) {
	p.t.Helper()
	_, before := p.gate.loudest()
	until(p.t, "clients to hear more", func() bool { _, n := p.gate.loudest(); return n >= before+more })
}

// strikes is what may happen to an end that is killed, and after.
var strikes = []struct {
	name string
	do   func(p *pair, pk, sk *killer)
}{
	{"takes over at once", func(p *pair, pk, sk *killer) {
		if sk.dead.Load() {
			p.lightning()
			p.endPrimary()
			p.reopen()
		}
		p.takeOver()
	}},
	{"a standby is back at once, and is there when the primary dies", func(p *pair, pk, sk *killer) {
		if sk.dead.Load() {
			p.reopen()
			p.flows(10)
			p.lightning()
		}
		p.endPrimary()
		p.takeOver()
	}},
	{"a standby is killed, and so is its successor while it takes back", func(p *pair, pk, sk *killer) {
		p.lightning()
		p.endPrimary()
		sk.kill()
		p.endStandby()
		again := newKiller(StepStandbyActivate, 1, nil)
		p.sStep = again.hook
		p.startStandby()
		if _, err := p.standby.Activate(context.Background()); !errors.Is(err, migrate.ErrKilled) {
			p.t.Errorf("a killed standby took over: %v", err)
		}
		p.reopen()
		p.takeOver()
	}},
}

// happens is one failure: an end dies at a step for the nth time, and then.
func happens(t *testing.T, mode, step string, nth int64, strike int, seed uint64) (reached bool) {
	p := small(t, mode, seed)
	var pk, sk *killer
	if strings.HasPrefix(step, "primary") {
		pk, sk = newKiller(step, nth, p.lightning), newKiller("", 0, nil)
	} else {
		pk, sk = newKiller("", 0, p.lightning), newKiller(step, nth, nil)
	}
	p.pStep, p.sStep = pk.hook, sk.hook
	p.startStandby()
	p.startPrimary()
	select {
	case <-p.synced:
		if step == StepPrimaryOver {
			go p.primary.SwitchOver(context.Background())
		}
	case <-pk.fired:
	case <-sk.fired:
	}
	patience := time.NewTimer(3 * time.Second)
	defer patience.Stop()
	select {
	case <-pk.fired:
	case <-sk.fired:
	case <-patience.C:
		p.lightning()
		p.takeOver()
		return false
	}
	if len(p.synced) == 0 && p.primary.Report().FirstSync == 0 {
		// Nothing was promised yet, and the standby knows whether it holds anything.
		p.lightning()
		p.endPrimary()
		p.endStandby()
		p.sStep = nil
		p.startStandby()
		if held, err := p.standby.Activate(context.Background()); err == nil {
			p.check(held)
		} else if !errors.Is(err, ErrNothing) {
			t.Errorf("take over: %v", err)
		}
		return true
	}
	strikes[strike].do(p, pk, sk)
	return true
}

// stepsOf are those that a mode comes to between two ends that live.
func stepsOf(mode string) (steps []string) {
	memory := mode == Async || mode == Checkpoint
	for _, s := range Steps {
		switch s {
		case StepPrimaryMark, StepPrimaryStop, StepPrimaryStands, StepPrimaryStaged, StepPrimaryRuns,
			StepStandbyPages, StepStandbyUndo, StepStandbyPlaced:
			if !memory {
				continue
			}
		case StepPrimaryClosed:
			if memory {
				continue
			}
		case StepStandbyActivate, StepStandbyBack:
			continue // of strikes
		}
		steps = append(steps, s)
	}
	return steps
}

// TestDeathAtEachStep kills either end at each step of each mode, early and late.
func TestDeathAtEachStep(t *testing.T) {
	for _, mode := range modes {
		for _, step := range stepsOf(mode) {
			for i, nth := range []int64{1, 7} {
				if nth > 1 && onceOnly(step) || nth > 1 && !long() && mode == Async {
					continue
				}
				strike := (len(step) + i) % len(strikes)
				t.Run(fmt.Sprintf("%s/%s/%d", mode, step, nth), func(t *testing.T) {
					t.Parallel()
					if !happens(t, mode, step, nth, strike, uint64(nth)) {
						t.Errorf("never came to step %s", step)
					}
				})
			}
		}
	}
}

// onceOnly are steps that a run comes to once.
func onceOnly(step string) bool {
	switch step {
	case StepPrimaryBegin, StepPrimaryReady, StepPrimaryCopy, StepPrimaryCopied, StepPrimaryOver, StepStandbyBegin, StepStandbyReady:
		return true
	}
	return false
}

// TestDeathAtAnyMoment kills either end whenever the dice say.
func TestDeathAtAnyMoment(t *testing.T) {
	n := 20
	if long() {
		n = 240
	}
	for seed := range n {
		mode := modes[seed%len(modes)]
		t.Run(fmt.Sprintf("%d/%s", seed, mode), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(uint64(seed), 3))
			p := small(t, mode, uint64(seed))
			pk, sk := newKiller("", 0, p.lightning), newKiller("", 0, nil)
			p.pStep, p.sStep = pk.hook, sk.hook
			p.startStandby()
			p.startPrimary()
			await(t, "the standby to be in sync", p.synced)
			timer := time.NewTimer(time.Duration(r.IntN(60_000)) * time.Microsecond)
			<-timer.C // the moment
			victim := []*killer{pk, sk}[r.IntN(2)]
			victim.kill()
			if r.IntN(3) == 0 {
				p.wan.sever()
			}
			strikes[r.IntN(len(strikes))].do(p, pk, sk)
		})
	}
}
