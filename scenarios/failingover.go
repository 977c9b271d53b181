package scenarios

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/emu/replicate"
	"github.com/vpclab/vpclab/emu/traffic"
	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/topo"
)

const (
	// syncDeadline is for a standby to hold all of a VM.
	syncDeadline = 90 * time.Second
	// redial is how often a user whose connection broke opens it again, and
	// silent how long it waits for an answer before it takes it for broken.
	redial = 100 * time.Millisecond
	silent = 5 * time.Second
	// heldEpochs is for how many epochs of a VM with a kernel of its own the first
	// answer to somebody who connects may be held: two, where the WAN keeps up.
	heldEpochs = 4
)

// failingOver is a session of the experiment failover.
type failingOver struct {
	lab        Lab
	base       *topo.Plan
	experiment topo.Experiment
	wan        wan
	seed       uint64
}

func openFailover(o opening) (*failingOver, error) {
	base := o.plan
	for _, n := range base.Guests() {
		if n.Name != o.experiment.VM {
			base = base.WithGuest(n.Name, nil) // it would take its part of the processor
		}
	}
	s := &failingOver{lab: o.lab, base: base, experiment: o.experiment, wan: pairWAN(o.plan, o.experiment), seed: o.seed}
	tl, err := o.lab.Apply(o.ctx, base.WithoutStandby(o.experiment.VM).WithGuest(o.experiment.VM, nil))
	if err != nil {
		return nil, err
	}
	o.built(base, tl.Total())
	return s, nil
}

func (s *failingOver) close() {}

// recover brings the lab back to what the file says.
func (s *failingOver) recover(ctx context.Context) error {
	if err := s.lab.UndoFaults(ctx); err != nil {
		return err
	}
	_, err := s.lab.Apply(ctx, s.base.WithoutStandby(s.experiment.VM).WithGuest(s.experiment.VM, nil))
	return err
}

// planAt is the lab at a point.
func (s *failingOver) planAt(pt point) *topo.Plan {
	plan := s.base
	if _, rtts := s.experiment.Vary.Get(paramRTT); rtts {
		plan = s.wan.tuned(plan, s.wan.rate, pt.time(paramRTT))
	}
	if n, _ := plan.Node(s.experiment.VM); pt[paramGuest] != "" && pt[paramGuest] != n.Guest.Kind {
		g := n.Guest.As(pt[paramGuest])
		plan = plan.WithGuest(s.experiment.VM, &g)
	}
	return plan.WithPair(s.experiment.VM, func(p topo.Pair) topo.Pair {
		_, epochs := s.experiment.Vary.Get(paramEpoch)
		if p.Mode != pt[paramMode] || epochs {
			p.Epoch = pt.time(paramEpoch) // another mode has its own, unless the point says one
		}
		p.Mode = pt[paramMode]
		return p
	})
}

func (s *failingOver) trial(ctx context.Context, pt point, number int, t *metrics.Trial, _ *rand.Rand) error {
	plan := s.planAt(pt)
	vm := s.experiment.VM
	alone := plan.WithoutStandby(vm)
	for _, p := range []*topo.Plan{alone.WithGuest(vm, nil), alone} { // it begins anew, memory and disk
		if _, err := s.lab.ApplyWith(ctx, p, lab.ApplyOptions{Announce: true}); err != nil {
			return err
		}
	}
	sub := s.lab.Subscribe()
	defer sub.Close()
	r := &failoverTrial{failingOver: s, pt: pt, plan: plan, t: t, seed: s.seed + uint64(number), log: &eventLog{sub: sub}}
	return errors.Join(r.run(ctx), r.log.keep(t))
}

// failoverTrial is one trial.
type failoverTrial struct {
	*failingOver
	pt   point
	plan *topo.Plan
	t    *metrics.Trial
	seed uint64
	log  *eventLog

	users            *traffic.Users
	known            uint64           // users that the VM knows
	before           []traffic.Answer // to those without a standby
	alone, protected stretch
	at               event.Mono // of the fault, or of the request to switch over
	event            topo.Event // the zero one: it is planned
	undone           event.Mono
	synced           time.Duration // until the standby held everything, at first
	again            time.Duration // and after the fault
}

// stretch is a part of a trial in which the VM was watched.
type stretch struct {
	from, to event.Mono
	steps    uint64
	replica  replicate.Report // of what was sent meanwhile
}

func (r *failoverTrial) planned() bool { return r.pt[paramFault] == faultPlanned }

func (r *failoverTrial) run(ctx context.Context) error {
	defer r.dismiss()
	if err := r.byItself(ctx); err != nil {
		return err
	}
	if err := r.protect(ctx); err != nil {
		return err
	}
	if err := r.invite(ctx); err != nil {
		return err
	}
	var err error
	if r.protected, err = r.stretch(ctx, true); err != nil {
		return err
	}
	if err := r.strike(ctx); err != nil {
		return err
	}
	measuring(ctx, r.at, event.Now())
	seen, err := r.ask(ctx)
	if err != nil {
		return err
	}
	if err := r.sound(ctx); err != nil {
		return err
	}
	if err := r.store(seen); err != nil {
		return err
	}
	wholly, cancel := context.WithTimeoutCause(ctx, wholeDeadline, fmt.Errorf("waited %v for the lab to be whole again", wholeDeadline))
	defer cancel()
	return r.lab.Whole(wholly)
}

// byItself watches the VM without a standby, with users of its own: with one it
// begins anew from its disk.
func (r *failoverTrial) byItself(ctx context.Context) error {
	if err := r.invite(ctx); err != nil {
		return err
	}
	var err error
	if r.alone, err = r.stretch(ctx, false); err != nil {
		return err
	}
	seen, err := r.ask(ctx)
	if err != nil {
		return err
	}
	r.before = seen.Answers
	return nil
}

// invite opens users whom the VM does not know, and lets them begin.
func (r *failoverTrial) invite(ctx context.Context) error {
	c := r.experiment.Clients
	n, _ := r.plan.Node(r.experiment.VM)
	a, ok := attachment(r.plan, member{n.VPC, c.From})
	if !ok || len(a.Machines) == 0 {
		return fmt.Errorf("users of %s: VPC %s has no machines at %s", n.Name, n.VPC, c.From)
	}
	u, err := traffic.OpenUsers(ctx, r.lab.Fabric().Do, traffic.UsersConfig{
		Server: netip.AddrPortFrom(n.Addr, uint16(n.Guest.Port)), From: a.Machines,
		Users: c.Users, Think: c.Think.Std(), Seed: r.seed, Open: shoppersFrom(r.known+1, n.Guest.Workload, r.seed+r.known),
		Reconnect: redial, Silent: silent, DialWithin: r.dialWithin(n),
	})
	if err != nil {
		return fmt.Errorf("users of %s: %w", n.Name, err)
	}
	r.users, r.known = u, r.known+uint64(c.Users)
	u.Start()
	return r.await(ctx, 1, answerDeadline, "at the beginning")
}

// dialWithin is how long users try one connection to a VM; 0: as usual.
func (r *failoverTrial) dialWithin(vm *topo.Node) time.Duration {
	if vm.Guest.Kind != topo.GuestQEMU {
		return 0
	}
	epoch := replicate.RealEpoch
	for _, p := range r.plan.Pairs() {
		if p.VM == vm.Name && p.Epoch != 0 {
			epoch = p.Epoch
		}
	}
	return heldEpochs * epoch
}

// dismiss ends users of a trial that failed.
func (r *failoverTrial) dismiss() {
	if r.users == nil {
		return
	}
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	_, _ = r.users.Stop(gone) // the trial has its error already
}

// await waits until each user has had an answer to a question asked since a
// moment.
func (r *failoverTrial) await(ctx context.Context, since event.Mono, limit time.Duration, when string) error {
	limit += 10 * r.experiment.Clients.Think.Std()
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("waited %v", limit))
	defer cancel()
	if err := r.users.Await(ctx, since); err != nil {
		return fmt.Errorf("%s, %s: %w", r.experiment.VM, when, err)
	}
	return nil
}

// stretch watches the VM for the warm time.
func (r *failoverTrial) stretch(ctx context.Context, protected bool) (s stretch, err error) {
	vm := r.experiment.VM
	var before replicate.Report
	if protected {
		if before, err = r.replica(ctx); err != nil {
			return s, err
		}
	}
	st, err := r.lab.GuestStatus(ctx, vm)
	if err != nil {
		return s, err
	}
	s.from, s.steps = event.Now(), st.Steps
	if err := wait(ctx, r.experiment.Warm.Std()); err != nil {
		return s, err
	}
	if st, err = r.lab.GuestStatus(ctx, vm); err != nil {
		return s, err
	}
	s.to, s.steps = event.Now(), st.Steps-s.steps
	measuring(ctx, s.from, s.to)
	if protected {
		after, err := r.replica(ctx)
		if err != nil {
			return s, err
		}
		if s.replica, err = since(before, after); err != nil {
			return s, err
		}
	}
	return s, nil
}

// replica is what the active seat says of replication.
func (r *failoverTrial) replica(ctx context.Context) (replicate.Report, error) {
	st, err := r.lab.PairStatus(ctx, r.experiment.VM)
	if err != nil {
		return replicate.Report{}, err
	}
	for i, seat := range st.Seats {
		switch {
		case seat == nil || seat.Seat != st.Active:
		case seat.Replica == nil:
			return replicate.Report{}, fmt.Errorf("%s at %s is not replicated", st.VM, st.Hosts[i])
		default:
			return *seat.Replica, nil
		}
	}
	return replicate.Report{}, fmt.Errorf("no seat of %s is active: %s", st.VM, strings.Join(st.Errors[:], ", "))
}

// protect gives the VM its standby and waits until that holds everything.
func (r *failoverTrial) protect(ctx context.Context) error {
	began := event.Now()
	if _, err := r.lab.ApplyWith(ctx, r.plan, lab.ApplyOptions{Trust: true}); err != nil {
		return err
	}
	at, err := r.awaitSync(ctx, began)
	r.synced = at.Sub(began)
	return err
}

// awaitSync waits until a standby holds all of the VM.
func (r *failoverTrial) awaitSync(ctx context.Context, since event.Mono) (event.Mono, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, syncDeadline, fmt.Errorf("waited %v for a standby that holds all of %s", syncDeadline, r.experiment.VM))
	defer cancel()
	return r.log.until(ctx, func(e event.Event) bool { return e.Kind == "pair.synced" && e.T >= since })
}

// strike does the fault, or switches over, and waits until the users are
// served; then it undoes the fault and waits until the VM is protected again.
func (r *failoverTrial) strike(ctx context.Context) error {
	limit := r.experiment.Watch.Std()
	if limit == 0 {
		limit = usualWatch
	}
	var injected *lab.Injected
	if r.planned() {
		r.at = event.Now()
		if _, err := r.lab.SwitchOver(ctx, r.experiment.VM); err != nil {
			return err
		}
	} else {
		r.event = faultAt(r.experiment, r.pt)
		if err := wait(ctx, r.event.At.Std()); err != nil {
			return err
		}
		var err error
		if injected, err = r.lab.Inject(ctx, r.event.Fault); err != nil {
			return err
		}
		r.at = injected.At
	}
	err := r.served(ctx, limit)
	r.undone = event.Now()
	if injected != nil {
		err = errors.Join(err, injected.Undo(ctx))
	}
	if err != nil {
		return err
	}
	if r.log.has(func(e event.Event) bool {
		return e.T >= r.at && (e.Kind == "pair.activated" || e.Kind == "pair.degraded")
	}) {
		at, err := r.awaitSync(ctx, r.at)
		if err != nil {
			return err
		}
		r.again = max(0, at.Sub(r.undone))
	}
	return r.await(ctx, event.Now(), answerDeadline, "after the fault was undone")
}

// served waits until a seat has taken over, or goes on by itself, and each user
// has been answered since. A fault that nobody has to act on is over when users
// have been answered for the time that a standby waits, and some.
func (r *failoverTrial) served(ctx context.Context, limit time.Duration) error {
	bounded, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("waited %v", limit))
	defer cancel()
	acted, err := r.log.until(bounded, func(e event.Event) bool {
		return e.T >= r.at && (e.Kind == "pair.activated" || e.Kind == "pair.degraded")
	})
	switch {
	case ctx.Err() != nil:
		return err
	case err != nil:
		acted = r.at // nobody did
	}
	if err := r.await(ctx, acted, limit, "after the fault"); err != nil {
		return err
	}
	return wait(ctx, afterFor-event.Now().Sub(acted))
}

// ask ends the users and gathers what they saw.
func (r *failoverTrial) ask(ctx context.Context) (*traffic.UsersResult, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, answerDeadline, fmt.Errorf("waited %v", answerDeadline))
	defer cancel()
	u := r.users
	r.users = nil
	return u.Stop(ctx)
}

// sound asks the guest whether it runs and what it found wrong with its bytes. A
// protected VM stands for a moment at each checkpoint.
func (r *failoverTrial) sound(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, answerDeadline, fmt.Errorf("stands, and has for %v", answerDeadline))
	defer cancel()
	for {
		st, err := r.lab.GuestStatus(ctx, r.experiment.VM)
		switch {
		case err != nil:
			return fmt.Errorf("%s after the fault: %w", r.experiment.VM, err)
		case st.Fault != "":
			return fmt.Errorf("%s has found after the fault: %s", r.experiment.VM, st.Fault)
		case st.Running:
			return nil
		}
		if err := wait(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("%s after the fault: %w", r.experiment.VM, err)
		}
	}
}

// phasesOf are the parts of a recovery: what ended each, in order.
func (r *failoverTrial) phasesOf(seen *traffic.UsersResult) (ends []event.Mono, ok bool) {
	at := r.at
	for _, kind := range []string{"pair.suspected", "pair.granted", "pair.activated", "pair.redirected"} {
		end, found := r.log.first(kind, r.at, r.undone)
		if !found {
			if kind == "pair.activated" {
				return nil, false
			}
			end = at // it took no time of its own: a planned move suspects nobody
		}
		at = max(at, end)
		ends = append(ends, at)
	}
	for _, a := range seen.Answers { // in order
		if a.Answered >= at {
			return append(ends, a.Answered), true
		}
	}
	return nil, false
}

// partsCSV is what the timeline shows, in seconds since the fault.
func (r *failoverTrial) partsCSV(ends []event.Mono) []byte {
	var b bytes.Buffer
	b.WriteString("phase,from_s,to_s\n")
	from := r.at
	for i, end := range ends {
		fmt.Fprintf(&b, "%s,%.6f,%.6f\n", failoverParts[i].name, from.Sub(r.at).Seconds(), end.Sub(r.at).Seconds())
		from = end
	}
	return b.Bytes()
}
