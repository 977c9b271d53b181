package lab

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/topo"
)

// rerouter is the controller that is told of failures: it keeps record of which
// links are lost, computes the plan with paths that avoid them, and has the lab
// reach that. It comes after what routers do by themselves (package repair),
// which it makes superfluous: until then packets go by the bypasses, and its
// paths have their labels in place before anybody sends to them.
type rerouter struct {
	lab *Lab

	mu     sync.Mutex
	losses losses
	done   event.Mono              // words up to this time are in the plan
	waits  context.CancelCauseFunc // ends the wait of an Apply whose paths change
	cancel context.CancelFunc      // ends run; nil: it does not run
	ended  chan struct{}
	wake   chan struct{} // has a token when there was news since the last look
}

func newRerouter(l *Lab) *rerouter {
	return &rerouter{lab: l, losses: newLosses(), wake: make(chan struct{}, 1)}
}

// Times of the rerouter.
const (
	// together is how long it listens on after the first word: both ends of a
	// link, or all neighbours of a router, say the same within an interval of
	// BFD, and one computation for all of them is over sooner than two.
	together = 5 * time.Millisecond
	// again is how long it waits before it tries again what has failed.
	again = time.Second
	// rerouteDeadline bounds one attempt.
	rerouteDeadline = 60 * time.Second
)

// errPathsChange interrupts the wait of an Apply.
var errPathsChange = errors.New("links were lost or came back")

// observe takes the words of routers.
func (r *rerouter) observe(e event.Event) {
	switch e.Kind {
	case "liveness.down", "liveness.up":
		if e.Attr["dev"] == "" {
			return // a router further away, of which its neighbours know more
		}
		r.mu.Lock()
		r.losses.say(e.Node, e.Attr["dev"], e.Kind == "liveness.up", e.T)
	case "repair.exit":
		r.mu.Lock()
		r.losses.silent(e.Node, e.T)
	default:
		return
	}
	defer r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// around is a plan whose paths avoid what is lost now, if its controller is one
// that does that; it is the same plan where nothing changes. next is when it is
// another without another word; 0: never.
func (r *rerouter) around(plan *topo.Plan) (detoured *topo.Plan, next event.Mono) {
	if !plan.Recovery.Reroutes() || plan.AllFRR() {
		return plan.Without(), 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	lost, next := r.losses.at(plan, event.Now())
	return plan.Without(linkNames(lost)...), next
}

// ensure has the rerouter run while a plan that asks for it is there. It looks at
// once: what was said while no plan asked for it may have a moment from which it
// counts.
func (r *rerouter) ensure(plan *topo.Plan) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !plan.Recovery.Reroutes() {
		return
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
	if r.cancel != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel, r.ended = cancel, make(chan struct{})
	go func(ended chan struct{}) {
		defer close(ended)
		r.run(ctx)
	}(r.ended)
}

// halt ends it and forgets what it was told.
func (r *rerouter) halt() {
	r.mu.Lock()
	cancel, ended := r.cancel, r.ended
	r.cancel = nil
	r.mu.Unlock()
	if cancel != nil {
		cancel()
		<-ended
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.losses = newLosses()
}

// run waits for news, or for the moment from which old news counts, and has the
// lab follow.
func (r *rerouter) run(ctx context.Context) {
	next := event.Mono(0)
	for r.awaits(ctx, next) {
		r.interrupt()
		var err error
		if next, err = r.lab.reroute(ctx); err != nil && ctx.Err() == nil {
			r.lab.observe(event.New("", "reroute.failed", map[string]string{"error": err.Error()}))
			next = event.Now() + event.Mono(again)
		}
	}
}

// awaits returns when there may be something to do: at next, if that is not 0,
// or a little after a word came; false: no more.
func (r *rerouter) awaits(ctx context.Context, next event.Mono) bool {
	var due <-chan time.Time
	if next != 0 {
		timer := time.NewTimer(next.Sub(event.Now()))
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-ctx.Done():
		return false
	case <-due:
		return true
	case <-r.wake:
	}
	timer := time.NewTimer(together)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// watched is ctx until paths change, and how to say that nobody waits any more.
func (r *rerouter) watched(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waits = cancel
	return ctx, func() {
		r.mu.Lock()
		r.waits = nil
		r.mu.Unlock()
		cancel(nil)
	}
}

// interrupt has an Apply that waits for routes look at the paths first: it has
// the lab's turn, and what it waits for may be cut off.
func (r *rerouter) interrupt() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waits != nil {
		r.waits(errPathsChange)
	}
}

// reroute has the lab reach the plan that it has with paths that avoid what is
// lost now. It waits for nothing that the failure may have cut off: neither for
// routers that are apart, which are told when they are back, nor for routes.
// next is when to come again.
func (l *Lab) reroute(ctx context.Context) (next event.Mono, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, rerouteDeadline, fmt.Errorf("waited %s for the new paths to be in force", rerouteDeadline))
	defer cancel()
	if err := l.take(ctx); err != nil {
		return 0, err
	}
	defer l.give()
	l.mu.Lock()
	was, pending, f := l.plan, l.pending, l.fabric
	l.mu.Unlock()
	switch {
	case was == nil || f == nil:
		return 0, nil
	case pending != nil: // the Apply that makes good for it leads its own paths around
		return event.Now() + event.Mono(again), nil
	}
	plan, next := l.reroutes.around(was)
	if plan == was {
		return next, nil
	}
	a := &application{lab: l, fabric: f, plan: plan, tl: &Timeline{Request: event.Now(), Nodes: map[string]NodeTimes{}},
		opt: ApplyOptions{Trust: !returns(was, plan), Progress: func(Phase) {}, Deadline: l.cfg.Deadline}}
	if err := a.detour(ctx); err != nil {
		return 0, fmt.Errorf("reroute lab %s: %w", plan.Lab, err)
	}
	l.mu.Lock()
	l.plan = plan
	l.mu.Unlock()
	l.reroutes.tell(plan, a.tl.Changes)
	return next, nil
}

// returns says whether a link is back. What its routers have in their kernels
// is then looked at before it is changed: who knows what they have been through.
func returns(was, is *topo.Plan) bool {
	for i := range is.Links {
		if was.Links[i].Lost && !is.Links[i].Lost {
			return true
		}
	}
	return false
}

// detour changes what follows from other paths: labels and routes, then, when
// all of those are there, what speakers push on packets.
func (a *application) detour(ctx context.Context) error {
	if err := a.compile(); err != nil {
		return err
	}
	a.derive()
	now := a.fabric.Current()
	for name := range a.spared {
		if n, ok := now.Nodes[name]; ok {
			a.state.Nodes[name] = n
		}
	}
	if err := a.build(ctx); err != nil {
		return fmt.Errorf("fabric: %w", err)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.configure(gctx) })
	g.Go(func() error { return a.reflexes(gctx) })
	if err := g.Wait(); err != nil {
		return fmt.Errorf("configure: %w", err)
	}
	return nil
}

// replan is detour for an Apply that waits.
func (a *application) replan(ctx context.Context) error {
	plan, _ := a.lab.reroutes.around(a.plan)
	if plan == a.plan {
		return nil
	}
	a.plan, a.now = plan, nil
	if err := a.detour(ctx); err != nil {
		return fmt.Errorf("paths around what is lost: %w", err)
	}
	a.lab.reroutes.tell(plan, a.tl.Changes)
	return nil
}

// tell puts on the time line that new paths are in force: which links they
// avoid, and how long it took from the first word of it.
func (r *rerouter) tell(plan *topo.Plan, changes int) {
	var lost []topo.Link
	for _, k := range plan.Links {
		if k.Lost {
			lost = append(lost, k)
		}
	}
	now := event.Now()
	r.mu.Lock()
	first := r.losses.since(r.done)
	r.done = now
	r.mu.Unlock()
	attr := map[string]string{"links": strings.Join(between(lost), " "), "changes": fmt.Sprint(changes)}
	if first != 0 {
		attr["took"] = now.Sub(first).String()
	}
	e := event.New("", "reroute.applied", attr)
	e.T = now
	r.lab.observe(e)
}
