package replicate

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vpclab/vpclab/emu/migrate"
)

// forModes runs a test for each mode.
func forModes(t *testing.T, of []string, test func(t *testing.T, mode string)) {
	for _, mode := range of {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			test(t, mode)
		})
	}
}

// inSync is a pair that is, with a VM at work.
func inSync(t *testing.T, opt Options, rate float64, delay time.Duration) *pair {
	t.Helper()
	p := newPair(t, opt, rate, delay)
	p.vm.run(1, time.Millisecond)
	p.startStandby()
	p.startPrimary()
	await(t, "the standby to be in sync", p.synced)
	return p
}

func TestConnectionsThatBreakInMidEpochCostNothing(t *testing.T) {
	forModes(t, modes, func(t *testing.T, mode string) {
		opt := testOptions(mode)
		opt.Silence = 5 * time.Second
		p := inSync(t, opt, 4e6, time.Millisecond)
		for range 8 {
			p.flows(5)
			p.wan.sever()
		}
		p.flows(20)
		if rep := p.primary.Report(); rep.Resyncs != 1 {
			t.Errorf("all was compared %d times", rep.Resyncs)
		}
		p.die()
		p.takeOver()
	})
}

// TestWANThatIsTooSlow: epochs become longer, and nothing else.
func TestWANThatIsTooSlow(t *testing.T) {
	forModes(t, []string{Async, Checkpoint, Pipelined}, func(t *testing.T, mode string) {
		opt := testOptions(mode)
		opt.Silence = 5 * time.Second
		opt.Window = 2
		p := inSync(t, opt, 1.5e6, 5*time.Millisecond)
		until(t, "epochs to be late", func() bool { return p.primary.Report().Late > 3 })
		rep := p.primary.Report()
		if rep.Interval < opt.Epoch {
			t.Errorf("an epoch every %v, where one every %v is too much for the WAN", rep.Interval, opt.Epoch)
		}
		p.die()
		p.takeOver()
	})
}

// TestStandbyIsLost: what the VM says is held until it is known that the standby
// will not take over. Then it runs unprotected, until there is another standby,
// which is sent what differs.
func TestStandbyIsLost(t *testing.T) {
	forModes(t, modes, func(t *testing.T, mode string) {
		p := newPair(t, testOptions(mode), 0, time.Millisecond)
		asked, verdict := make(chan error, 1), make(chan error)
		p.lost = func(_ context.Context, cause error) error {
			asked <- cause
			return <-verdict
		}
		p.vm.run(1, time.Millisecond)
		p.startStandby()
		p.startPrimary()
		await(t, "the standby to be in sync", p.synced)
		p.flows(10)
		p.endStandby()
		if cause := await(t, "the primary to ask for the verdict", asked); cause == nil {
			t.Error("the standby is lost for no cause")
		}
		_, before := p.gate.loudest()
		n := p.vmSteps(50)
		if _, count := p.gate.loudest(); mode != Async && count != before {
			t.Errorf("clients heard %d answers before the verdict, while the VM came to %d", count-before, n)
		}
		verdict <- nil
		if err := await(t, "the primary to run unprotected", p.pErr); !errors.Is(err, ErrLost) {
			t.Errorf("the primary's run ended with %v", err)
		}
		p.cancel = nil
		p.flows(50)
		if heard, _ := p.gate.loudest(); heard < n {
			t.Errorf("clients heard up to %d, and the VM had come to %d", heard, n)
		}

		pages := p.primary.Report().SyncPages
		p.startStandby()
		p.startPrimary()
		await(t, "the next standby to be in sync", p.synced)
		if again := p.primary.Report().SyncPages; mode == Checkpoint && again > pages {
			t.Errorf("%d pages were sent to a standby that had an older copy, of %d", again, pages)
		}
		p.flows(20)
		p.die()
		p.takeOver()
	})
}

// vmSteps waits until the VM has made so many more steps, and tells its number.
func (p *pair) vmSteps(more uint64) (n uint64) {
	p.t.Helper()
	now := func() uint64 {
		p.vm.mu.Lock()
		defer p.vm.mu.Unlock()
		return p.vm.n
	}
	before := now()
	until(p.t, "the VM to work", func() bool { n = now(); return n >= before+more })
	return n
}

// TestTheWitnessSaysNo: nothing is let go any more.
func TestTheWitnessSaysNo(t *testing.T) {
	forModes(t, []string{Checkpoint, Pipelined}, func(t *testing.T, mode string) {
		p := newPair(t, testOptions(mode), 0, time.Millisecond)
		no := errors.New("the standby has the lease")
		p.lost = func(context.Context, error) error { return no }
		p.vm.run(1, time.Millisecond)
		p.startStandby()
		p.startPrimary()
		await(t, "the standby to be in sync", p.synced)
		p.flows(10)
		p.wan.cut.Store(true)
		p.wan.sever()
		err := await(t, "the primary to stop", p.pErr)
		p.cancel = nil
		if !errors.Is(err, no) || errors.Is(err, ErrLost) {
			t.Errorf("the primary's run ended with %v", err)
		}
		_, before := p.gate.loudest()
		p.takeOver()
		p.vmSteps(20)
		if _, count := p.gate.loudest(); count != before {
			t.Errorf("clients heard %d answers of a VM that has been taken over", count-before)
		}
		p.check(p.standby.Held())
	})
}

func TestSwitchOver(t *testing.T) {
	forModes(t, modes, func(t *testing.T, mode string) {
		p := inSync(t, testOptions(mode), 0, time.Millisecond)
		p.flows(10)
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := p.primary.SwitchOver(ctx); err != nil {
			t.Fatal(err)
		}
		if err := await(t, "the primary's end", p.pErr); !errors.Is(err, ErrHandedOver) {
			t.Errorf("the primary's run ended with %v", err)
		}
		p.cancel = nil
		p.vm.mu.Lock()
		if !p.vm.stands {
			t.Error("the VM runs after it was handed over")
		}
		p.vm.mu.Unlock()
		held := p.takeOver()
		if !held.Final {
			t.Error("the standby does not know that this was the last epoch")
		}
		if !bytes.Equal(p.at.disk.b, p.vm.disk.b) {
			t.Error("the disks differ after a planned switch-over")
		}
		if (mode == Async || mode == Checkpoint) && !bytes.Equal(p.at.memory, p.vm.memory) {
			t.Error("the memories differ after a planned switch-over")
		}
	})
}

// TestSwitchOverThatFails: the VM goes on where it is, protected as before.
func TestSwitchOverThatFails(t *testing.T) {
	forModes(t, modes, func(t *testing.T, mode string) {
		opt := testOptions(mode)
		opt.Silence = 10 * time.Second
		p := inSync(t, opt, 0, time.Millisecond)
		p.flows(10)
		p.wan.cut.Store(true)
		p.wan.sever()
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		if err := p.primary.SwitchOver(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("a switch-over without a WAN: %v", err)
		}
		p.wan.cut.Store(false)
		p.flows(30)
		if err := p.primary.SwitchOver(context.Background()); err != nil {
			t.Fatal(err)
		}
		p.takeOver()
	})
}

// TestSwitchOverWithoutAStandby is refused.
func TestSwitchOverWithoutAStandby(t *testing.T) {
	p := newPair(t, testOptions(Checkpoint), 0, 0)
	e, err := NewPrimary(p.vm, p.gate, p.opt, Tell{})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.SwitchOver(context.Background()); err == nil {
		t.Error("a VM was handed over to nobody")
	}
}

// TestAByteThatIsAnother at the standby is found by the next root hash.
func TestAByteThatIsAnother(t *testing.T) {
	p := newPair(t, testOptions(Checkpoint), 0, time.Millisecond)
	var spoil atomic.Bool
	p.sStep = func(step string) error {
		if step == StepStandbyPlaced && spoil.CompareAndSwap(true, false) {
			// Not in memory, which a page that comes would mend, but in what the
			// standby believes that it has.
			p.standby.tree.leaves[7].Lo ^= 1
			p.standby.tree.stale.set(0)
		}
		return nil
	}
	p.vm.run(1, time.Millisecond)
	p.startStandby()
	p.startPrimary()
	await(t, "the standby to be in sync", p.synced)
	spoil.Store(true)
	var differs *migrate.DiffersError
	if err := await(t, "the standby to notice", p.sErr); !errors.As(err, &differs) {
		t.Errorf("the standby's run ended with %v", err)
	}
	p.stop = nil
	if err := await(t, "the primary to be told", p.pErr); !errors.Is(err, ErrLost) {
		t.Errorf("the primary's run ended with %v", err)
	}
	p.cancel = nil
	p.unlisten()
}

// TestACheckpointThatCannotBeTaken: what was to be in it comes with the next.
func TestACheckpointThatCannotBeTaken(t *testing.T) {
	opt := testOptions(Checkpoint)
	opt.Silence = 10 * time.Second
	p := inSync(t, opt, 0, time.Millisecond)
	for range 5 {
		p.flows(10)
		stalled := make(chan struct{})
		p.vm.stall.Store(&stalled)
		await(t, "a checkpoint that stalls", stalled)
		p.reopen()
	}
	p.flows(10)
	p.die()
	p.takeOver()
}

// TestAStandbyOfAFormerProcess may be able to take over: a primary that was
// started anew, and finds none, lets nothing go before it has asked.
func TestAStandbyOfAFormerProcess(t *testing.T) {
	p := inSync(t, testOptions(Checkpoint), 0, time.Millisecond)
	p.flows(10)
	p.endPrimary() // its gate is still there
	p.wan.cut.Store(true)
	p.wan.sever()
	asked, verdict := make(chan error, 1), make(chan error)
	p.lost = func(_ context.Context, cause error) error {
		asked <- cause
		return <-verdict
	}
	p.startPrimary()
	await(t, "the primary to ask for the verdict", asked)
	_, before := p.gate.loudest()
	p.vmSteps(20)
	if _, count := p.gate.loudest(); count != before {
		t.Errorf("clients heard %d answers that nobody but the primary knows of", count-before)
	}
	verdict <- nil
	if err := await(t, "the primary to run unprotected", p.pErr); !errors.Is(err, ErrLost) {
		t.Errorf("the primary's run ended with %v", err)
	}
	p.cancel = nil
	p.flows(20)
}

// TestPrimaryDiesInACopy to a standby that was in sync with its former process:
// what was held then is there still, and nothing has been let go since.
func TestPrimaryDiesInACopy(t *testing.T) {
	forModes(t, []string{Checkpoint, Pipelined}, func(t *testing.T, mode string) {
		p := newPair(t, testOptions(mode), 0, time.Millisecond)
		p.vm.run(1, time.Millisecond)
		forgot := 0
		p.forgets = func() { forgot++ }
		p.startStandby()
		p.startPrimary()
		await(t, "the standby to be in sync", p.synced)
		p.flows(30)
		for _, step := range []string{StepPrimaryCopied, StepPrimaryWhole, StepPrimaryCopy} {
			p.endPrimary() // its agent dies, and the gate stays as it is
			before := p.standby.Held()
			k := newKiller(step, 1, nil)
			p.pStep = k.hook
			p.startPrimary()
			if err := await(t, "the primary's end", p.pErr); !errors.Is(err, migrate.ErrKilled) {
				t.Errorf("the primary's run ended with %v", err)
			}
			p.cancel = nil
			if held := p.standby.Held(); !held.Synced || held.Epoch < before.Epoch || held.Run != before.Run {
				t.Errorf("killed at %s, the primary has left %+v of %+v", step, held, before)
			}
		}
		if n := p.whole.Load(); n != 1 {
			t.Errorf("%d copies were whole, of one", n)
		}
		p.pStep = nil
		p.startPrimary()
		await(t, "the standby to be in sync again", p.synced)
		if n := p.whole.Load(); n != 2 {
			t.Errorf("%d copies were whole, of two", n)
		}
		p.die()
		p.takeOver()
		if forgot != 1 {
			t.Errorf("the standby forgot %d times", forgot)
		}
	})
}

// TestABlockThatIsAnother at the standby is found by going round the disk.
func TestABlockThatIsAnother(t *testing.T) {
	forModes(t, []string{Pipelined, Sync}, func(t *testing.T, mode string) {
		p := inSync(t, testOptions(mode), 0, time.Millisecond)
		p.flows(50)
		until(t, "blocks to be compared", func() bool { return p.primary.Report().Verified > 30 })
		spoilt := make([]byte, 1)
		const at = 77*pageSize + 99
		if _, err := p.at.disk.ReadAt(spoilt, at); err != nil {
			t.Fatal(err)
		}
		spoilt[0] ^= 0x80 // what the VM never writes
		if _, err := p.at.disk.WriteAt(spoilt, at); err != nil {
			t.Fatal(err)
		}
		err := await(t, "the standby to notice", p.sErr)
		p.stop = nil
		p.unlisten()
		var differs *migrate.DiffersError
		if !errors.As(err, &differs) || len(differs.Pages) != 1 || differs.Pages[0] != 77 {
			t.Errorf("the standby's run ended with %v", err)
		}
		if err := await(t, "the primary to be told", p.pErr); !errors.Is(err, ErrLost) {
			t.Errorf("the primary's run ended with %v", err)
		}
		p.cancel = nil
	})
}

// TestABlockThatIsReadLate for the first copy is not put over a write that came
// after it.
func TestABlockThatIsReadLate(t *testing.T) {
	forModes(t, []string{Pipelined, Sync}, func(t *testing.T, mode string) {
		opt := testOptions(mode)
		opt.Verify = 0
		p := newPair(t, opt, 0, time.Millisecond)
		r := rand.New(rand.NewPCG(5, 5))
		var steps sync.WaitGroup
		p.vm.afterRead = func() {
			done := make(chan struct{})
			steps.Go(func() {
				defer close(done)
				p.vm.step(r)
			})
			select {
			case <-done:
			case <-time.After(5 * time.Millisecond): // it waits for the reader, as it should
				steps.Go(func() { <-done })
			}
		}
		p.startStandby()
		p.startPrimary()
		await(t, "the standby to be in sync", p.synced)
		steps.Wait()
		p.flowsTo(p.vmSteps(0))
		p.die()
		p.takeOver()
	})
}

// flowsTo waits until clients have heard a number.
func (p *pair) flowsTo(n uint64) {
	p.t.Helper()
	until(p.t, "clients to hear what the VM has said", func() bool { heard, _ := p.gate.loudest(); return heard >= n })
}
