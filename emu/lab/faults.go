package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/fault"
	"github.com/vpclab/vpclab/topo"
)

// faults are those that are in force, and what they do again and again.
type faults struct {
	lab *Lab
	wg  sync.WaitGroup // goroutines that undo, and those that break again

	mu     sync.Mutex
	last   int // number of the last one
	open   map[int]*Injected
	closed bool // the lab is being destroyed
}

func newFaults(l *Lab) *faults { return &faults{lab: l, open: map[int]*Injected{}} }

// Injected is a fault that has taken effect.
type Injected struct {
	ID    int        // from 1, in order
	Fault topo.Fault // as it was asked for
	// At is when it took effect: just before the kernel was told. The kernel is
	// told by one message for all links of a node, and of what is more than that
	// within a few milliseconds.
	At event.Mono

	lab  *Lab
	undo func(context.Context) (event.Mono, error)

	turn  sync.Mutex // held by whoever undoes it
	over  chan struct{}
	timer *time.Timer
}

// Over is closed when the fault is undone.
func (i *Injected) Over() <-chan struct{} { return i.over }

// Inject breaks something, behind the back of all that control the lab, and
// returns when it has happened: At is when. It is undone by Undo, after
// Fault.For, by UndoFaults, or with the lab. A flap or churn returns at once and
// goes on until then; what it breaks are faults of their own. One that is over
// as soon as it happened (bgp-reset, kill without a time) needs no undoing.
//
// The error is a *topo.FaultError where the plan has nothing of that name.
func (l *Lab) Inject(ctx context.Context, f topo.Fault) (*Injected, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, fmt.Errorf("%v: %w", f, err)
	}
	plan := l.planOrPending()
	if plan == nil {
		return nil, fmt.Errorf("%v: %w", f, ErrNotBuilt)
	}
	if err := plan.CheckFault(f); err != nil {
		return nil, err
	}
	plan, err := l.relocate(plan) // links of VMs that move are where they are
	if err != nil {
		return nil, fmt.Errorf("%v: %w", f, err)
	}
	i := &Injected{Fault: f, lab: l, over: make(chan struct{})}
	if i.ID, err = l.faults.enter(i); err != nil {
		return nil, fmt.Errorf("%v: %w", f, err)
	}
	if err := i.happen(ctx, plan); err != nil {
		l.faults.leave(i)
		close(i.over)
		return nil, fmt.Errorf("%v: %w", f, err)
	}
	l.observe(i.event("fault.injected", i.At, nil))
	if i.momentary() {
		l.faults.leave(i)
		close(i.over)
		return i, nil
	}
	i.last()
	return i, nil
}

// momentary says that nothing is left to be undone: who lost a process or a
// session has it again by himself.
func (i *Injected) momentary() bool {
	return i.Fault.Kind == topo.FaultBGPReset || i.Fault.Kind == topo.FaultKill && i.Fault.For == 0
}

// enter files a fault under a number.
func (fs *faults) enter(i *Injected) (id int, err error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.closed {
		return 0, errDestroyed
	}
	fs.last++
	fs.open[fs.last] = i
	return fs.last, nil
}

func (fs *faults) leave(i *Injected) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	delete(fs.open, i.ID)
}

// happen breaks what is to be broken and says how to mend it.
func (i *Injected) happen(ctx context.Context, plan *topo.Plan) error {
	i.turn.Lock()
	defer i.turn.Unlock()
	switch i.Fault.Kind {
	case topo.FaultFlap, topo.FaultChurn:
		return i.repeat(plan)
	case topo.FaultKill:
		return i.kill(ctx)
	case topo.FaultBGPReset:
		return i.reset()
	}
	return i.wound(plan)
}

// last has the fault undone when its time is over.
func (i *Injected) last() {
	if i.Fault.For == 0 || i.Fault.Kind == topo.FaultFlap { // there it is how long each time lasts
		return
	}
	left := i.Fault.For.Std() - event.Now().Sub(i.At)
	i.turn.Lock()
	defer i.turn.Unlock()
	fs := i.lab.faults
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.closed || isDone(i.over) {
		return
	}
	fs.wg.Add(1)
	i.timer = time.AfterFunc(max(left, 0), func() {
		defer fs.wg.Done()
		ctx, cancel := context.WithTimeoutCause(context.Background(), undoDeadline, fmt.Errorf("waited %v for it to be undone", undoDeadline))
		defer cancel()
		if err := i.Undo(ctx); err != nil {
			i.lab.log.Error("fault not undone", "fault", i.Fault.String(), "error", err)
		}
	})
}

// Undo mends what the fault broke; one that is undone already is left alone. It
// returns when the kernel is as it should be. Processes start afterwards, and
// sessions come back in their own time: Whole waits for them.
func (i *Injected) Undo(ctx context.Context) error {
	i.turn.Lock()
	defer i.turn.Unlock()
	if isDone(i.over) {
		return nil
	}
	i.stopTimer()
	at, err := i.undo(ctx)
	i.lab.faults.leave(i)
	close(i.over)
	attr := map[string]string{}
	if err != nil {
		err = fmt.Errorf("undo %v: %w", i.Fault, err)
		attr["error"] = err.Error()
	}
	if at == 0 {
		at = event.Now()
	}
	i.lab.observe(i.event("fault.undone", at, attr))
	return err
}

// stopTimer ends the wait for the end of the fault. The caller has the turn.
func (i *Injected) stopTimer() {
	if i.timer != nil && i.timer.Stop() {
		i.lab.faults.wg.Done()
	}
	i.timer = nil
}

// event is one about the fault.
func (i *Injected) event(kind string, at event.Mono, attr map[string]string) event.Event {
	words := faultWords(i.Fault)
	for k, v := range attr {
		words[k] = v
	}
	words["id"] = fmt.Sprint(i.ID)
	e := event.New(i.Fault.Node, kind, words)
	e.Wall = e.Wall.Add(at.Sub(e.T))
	e.T = at
	return e
}

// Faults lists the faults that are in force, in order.
func (l *Lab) Faults() []*Injected {
	l.faults.mu.Lock()
	defer l.faults.mu.Unlock()
	var all []*Injected
	for _, i := range l.faults.open {
		all = append(all, i)
	}
	slices.SortFunc(all, func(a, b *Injected) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

// UndoFaults undoes all faults, the last one first: what breaks others again
// and again ends before what it broke.
func (l *Lab) UndoFaults(ctx context.Context) error {
	var errs []error
	for {
		all := l.Faults()
		if len(all) == 0 {
			return errors.Join(errs...)
		}
		// What repeats ends first, so that nothing new comes meanwhile.
		slices.SortStableFunc(all, func(a, b *Injected) int {
			return cmp.Or(-cmp.Compare(b2i(a.repeats()), b2i(b.repeats())), -cmp.Compare(a.ID, b.ID))
		})
		for _, i := range all {
			errs = append(errs, i.Undo(ctx))
		}
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// repeats says whether the fault is one that breaks others.
func (i *Injected) repeats() bool {
	return i.Fault.Kind == topo.FaultFlap || i.Fault.Kind == topo.FaultChurn
}

// end forgets all faults, with the lab: nothing of it is mended, as nothing of
// it will be left. No other fault is let in until begin.
func (fs *faults) end() {
	fs.mu.Lock()
	fs.closed = true
	fs.mu.Unlock()
	for _, i := range fs.lab.Faults() {
		i.turn.Lock()
		i.stopTimer()
		if !isDone(i.over) {
			close(i.over)
		}
		i.turn.Unlock()
	}
	fs.wg.Wait()
	fs.mu.Lock()
	clear(fs.open)
	fs.closed = false
	fs.mu.Unlock()
	fs.lab.holds.reset()
}

// repeatHorizon is the longest that a fault repeats.
const repeatHorizon = 1000 * time.Hour

// repeat breaks what a flap or churn does, each at its time, until it is undone.
// The caller has the turn.
func (i *Injected) repeat(plan *topo.Plan) error {
	steps := fault.Steps(plan.Seed, plan, []topo.Event{{Fault: i.Fault}}, repeatHorizon)
	i.At = event.Now()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	i.lab.faults.wg.Go(func() {
		defer close(ended)
		i.run(ctx, steps)
	})
	i.undo = func(context.Context) (event.Mono, error) {
		cancel()
		<-ended
		return 0, nil
	}
	return nil
}

// run has the steps happen, and undoes what is still broken in the end.
func (i *Injected) run(ctx context.Context, steps iter.Seq[fault.Step]) {
	var broken []*Injected
	defer func() {
		end, cancel := context.WithTimeoutCause(context.Background(), undoDeadline, fmt.Errorf("waited %v for faults to be undone", undoDeadline))
		defer cancel()
		for _, one := range broken {
			if err := one.Undo(end); err != nil {
				i.lab.log.Error("fault not undone", "fault", one.Fault.String(), "error", err)
			}
		}
	}()
	for step := range steps {
		wait := time.NewTimer(step.At - event.Now().Sub(i.At))
		select {
		case <-wait.C:
		case <-i.over: // with the lab
			wait.Stop()
			return
		case <-ctx.Done():
			wait.Stop()
			return
		}
		one, err := i.lab.Inject(ctx, step.Fault)
		if err != nil {
			i.lab.observe(event.New("", "fault.failed", map[string]string{"fault": step.Fault.String(), "error": err.Error()}))
			continue
		}
		broken = slices.DeleteFunc(append(broken, one), func(b *Injected) bool { return isDone(b.over) })
	}
}
