package scenarios

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/emu/migrate"
	"github.com/vpclab/vpclab/emu/migrate/codec"
	"github.com/vpclab/vpclab/emu/traffic"
	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/topo"
)

const (
	// afterFor is how long users go on after a VM has arrived, once each has
	// had an answer from there.
	afterFor = 500 * time.Millisecond
	// answerDeadline is how long a user may wait for one answer beside the time
	// that a migration takes.
	answerDeadline = 30 * time.Second
	// legDeadline bounds a move beside the time that slowMove times its bytes
	// take on the WAN: an algorithm that does not converge is given up.
	legDeadline = 2 * time.Minute
	slowMove    = 12
)

// migrating is a session of the experiment migration.
type migrating struct {
	lab        Lab
	cloud      cloud
	base       *topo.Plan
	experiment topo.Experiment
	wan        wan
	seed       uint64
}

func openMigration(o opening) (*migrating, error) {
	base := withMovers(o.plan, o.experiment)
	s := &migrating{lab: o.lab, cloud: labCloud{o.lab}, base: base, experiment: o.experiment, wan: wanOf(o.plan, o.experiment), seed: o.seed}
	tl, err := o.lab.Apply(o.ctx, base)
	if err != nil {
		return nil, err
	}
	o.built(base, tl.Total())
	return s, nil
}

// withMovers is the plan in which nothing runs in VMs that do not move: they
// would take their part of the processor.
func withMovers(plan *topo.Plan, e topo.Experiment) *topo.Plan {
	for _, n := range plan.Guests() {
		if !slices.Contains(e.Movers(), n.Name) {
			plan = plan.WithGuest(n.Name, nil)
		}
	}
	return plan
}

func (s *migrating) close() {}

// recover brings the lab back to what the file says.
func (s *migrating) recover(ctx context.Context) error {
	_, err := s.lab.Apply(ctx, s.base)
	return err
}

// planAt is the lab at a point: VMs at home, with the point's guests, and the
// WAN at the point's rate and round-trip time.
func (s *migrating) planAt(pt point) *topo.Plan {
	plan := s.base
	_, rates := s.experiment.Vary.Get(paramRate)
	_, rtts := s.experiment.Vary.Get(paramRTT)
	_, scaled := s.experiment.Vary.Get(paramScale)
	if rates || rtts {
		plan = s.wan.tuned(plan, pt.rate(paramRate), pt.time(paramRTT))
	}
	for _, vm := range s.experiment.Movers() {
		n, _ := plan.Node(vm)
		g := guestAt(*n.Guest, pt, scaled)
		plan = plan.WithGuest(vm, &g)
	}
	return plan
}

// guestAt is a guest with what a point says of it. Where the scale is not varied
// its label only says what it is.
func guestAt(g topo.Guest, pt point, scaled bool) topo.Guest {
	if w := pt[paramWorkload]; w != "" {
		g.Workload = w
	}
	if kind := pt[paramGuest]; kind != "" && kind != g.Kind {
		g = g.As(kind)
	}
	switch memory := pt.size(paramMemory); {
	case memory > 0:
		g.Scale = float64(memory) / float64(1<<30)
		return g.WithWork(memory)
	case scaled:
		to := scaleOf(pt[paramScale])
		work := topo.Size(float64(g.Work)*to/g.Scale) / codec.PageSize * codec.PageSize
		g.Scale = to
		return g.WithWork(work)
	}
	return g
}

// optionsAt are a migration's options at a point.
func optionsAt(g topo.Guest, pt point) migrate.Options {
	o := migrate.Options{Algorithm: pt[paramAlgorithm], Verify: "online", Block: pt.block(), Cache: pt.cache(g.Memory)}
	if pt[paramWindow] != "" {
		o.Window = pt.number(paramWindow)
	}
	if text := pt[paramEncoders]; text != "" {
		o.Encoders = encodersIn(text)
	}
	return o
}

// diskAt is how the disk moves at a point. The plain algorithms leave out what
// is zero, as a scan for empty blocks does; CloudNet looks for redundancy, which
// it could only do beside the path (Wood et al., ToN 2015, section V-B), and
// sends a VM that returns what has changed; ours has the engine's own way. Plain
// ones have no memory of an earlier stay, and so it is with memories of all but
// ours.
func diskAt(g topo.Guest, pt point, again bool) *migrate.DiskOptions {
	o := &migrate.DiskOptions{Block: pt.block(), Cache: pt.cache(g.Disk)}
	switch pt[paramAlgorithm] {
	case migrate.Own:
		o.Reuse = again
	case migrate.CloudNet, migrate.CBR:
		o.Encoders, o.Reuse = []string{"zero", "cbr"}, again
	default:
		o.Encoders = []string{"zero"}
	}
	return o
}

// block is the size of a block in bytes; 0: the usual.
func (p point) block() int {
	if p[paramBlock] == "" {
		return 0
	}
	return p.number(paramBlock)
}

// cache is the size of a cache in bytes, given as such or as a share of what it
// is for; 0: the usual.
func (p point) cache(of topo.Size) int64 {
	if share, err := topo.ParsePercent(p[paramCache]); err == nil {
		return int64(float64(of) * float64(share) / 100)
	}
	return int64(p.size(paramCache))
}

func (s *migrating) trial(ctx context.Context, pt point, number int, t *metrics.Trial, _ *rand.Rand) error {
	plan := s.planAt(pt)
	if err := s.boot(ctx, plan); err != nil {
		return err
	}
	began := event.Now()
	sub := s.lab.Subscribe()
	defer sub.Close()
	r := &migrationTrial{migrating: s, pt: pt, plan: plan, t: t, users: map[string]*traffic.Users{}, seed: s.seed + uint64(number)}
	err := r.run(ctx, began)
	return errors.Join(err, keep(t, sub))
}

// boot starts the guests anew, at home, with fresh memories and disks: a guest
// that a plan does not have is removed, with all that any host holds of it.
func (s *migrating) boot(ctx context.Context, plan *topo.Plan) error {
	gone := plan
	for _, vm := range s.experiment.Movers() {
		gone = gone.WithGuest(vm, nil)
	}
	for _, p := range []*topo.Plan{gone, plan} {
		if _, err := s.lab.ApplyWith(ctx, p, lab.ApplyOptions{Trust: true, Announce: true}); err != nil {
			return err
		}
	}
	return nil
}

// migrationTrial is one trial.
type migrationTrial struct {
	*migrating
	pt   point
	plan *topo.Plan
	t    *metrics.Trial
	seed uint64

	users map[string]*traffic.Users // by VM
	legs  []leg
}

// leg is one move of all VMs.
type leg struct {
	name  string
	moved map[string]*moved // by VM
}

// diverged tells whether a VM has stayed.
func (l leg) diverged() bool {
	for _, m := range l.moved {
		if m.diverged {
			return true
		}
	}
	return false
}

func (r *migrationTrial) run(ctx context.Context, began event.Mono) error {
	defer r.dismiss()
	if err := r.invite(ctx); err != nil {
		return err
	}
	if err := r.warm(ctx, began); err != nil {
		return err
	}
	home := map[string]string{}
	for _, vm := range r.experiment.Movers() {
		n, _ := r.plan.Node(vm)
		home[vm] = n.Host
	}
	away := hostNode(r.plan, r.experiment.To)
	for n := range r.experiment.Return + 1 {
		if n > 0 {
			if err := wait(ctx, r.experiment.Stay.Std()); err != nil {
				return err
			}
		}
		to := func(vm string) string {
			if n%2 == 1 {
				return home[vm]
			}
			return away
		}
		if err := r.leg(ctx, n, to); err != nil {
			return err
		}
		if r.legs[n].diverged() {
			break // there is no way back from where it is
		}
	}
	seen, err := r.ask(ctx)
	if err != nil {
		return err
	}
	if err := r.sound(ctx); err != nil {
		return err
	}
	return r.store(seen)
}

// invite opens the users of each VM and lets them begin.
func (r *migrationTrial) invite(ctx context.Context) error {
	c := r.experiment.Clients
	if c == nil {
		return nil
	}
	for i, vm := range r.experiment.Movers() {
		n, _ := r.plan.Node(vm)
		a, ok := attachment(r.plan, member{n.VPC, c.From})
		if !ok || len(a.Machines) == 0 {
			return fmt.Errorf("users of %s: VPC %s has no machines at %s", vm, n.VPC, c.From)
		}
		seed := r.seed + uint64(i)<<32
		u, err := traffic.OpenUsers(ctx, r.lab.Fabric().Do, traffic.UsersConfig{
			Server: netip.AddrPortFrom(n.Addr, uint16(n.Guest.Port)), From: a.Machines,
			Users: c.Users, Think: c.Think.Std(), Seed: seed, Open: shoppers(n.Guest.Workload, seed),
		})
		if err != nil {
			return fmt.Errorf("users of %s: %w", vm, err)
		}
		r.users[vm] = u
		u.Start()
	}
	return nil
}

// dismiss ends users of a trial that failed.
func (r *migrationTrial) dismiss() {
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	for vm, u := range r.users {
		_, _ = u.Stop(gone) // the trial has its error already
		delete(r.users, vm)
	}
}

// warm waits until the work of all VMs has gone on for the warm time, and all
// users have been answered.
func (r *migrationTrial) warm(ctx context.Context, began event.Mono) error {
	if err := wait(ctx, r.experiment.Warm.Std()-event.Now().Sub(began)); err != nil {
		return err
	}
	return r.await(ctx, 1, "before the VM moves")
}

// await waits until each user has had an answer to a question asked since a
// moment.
func (r *migrationTrial) await(ctx context.Context, since event.Mono, when string) error {
	limit := answerDeadline + 10*r.think()
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("waited %v", limit))
	defer cancel()
	for _, vm := range slices.Sorted(maps.Keys(r.users)) {
		if err := r.users[vm].Await(ctx, since); err != nil {
			return fmt.Errorf("%s, %s: %w", vm, when, err)
		}
	}
	return nil
}

func (r *migrationTrial) think() time.Duration {
	if r.experiment.Clients == nil {
		return 0
	}
	return r.experiment.Clients.Think.Std()
}

// leg moves all VMs at the same time.
func (r *migrationTrial) leg(ctx context.Context, n int, to func(vm string) string) error {
	began := event.Now()
	defer func() { measuring(ctx, began, event.Now()) }()
	vms := r.experiment.Movers()
	l := leg{name: legName(n), moved: map[string]*moved{}}
	together := newMuster(len(vms), r.pt[paramGroup] == groupTogether)
	limit := r.patience()
	bounded, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("waited %v for it to arrive", limit.Round(time.Second)))
	defer cancel()
	g, gctx := errgroup.WithContext(bounded)
	var mu sync.Mutex
	for _, vm := range vms {
		node, _ := r.plan.Node(vm)
		m := move{vm: vm, to: to(vm), memory: optionsAt(*node.Guest, r.pt), reuse: n > 0 && r.pt[paramAlgorithm] == migrate.Own}
		if lab.ByQEMU(r.pt[paramAlgorithm]) {
			m.qemu, m.within = lab.QEMUParameters(r.experiment.QEMU), r.convergeIn(node)
		}
		if r.experiment.Disk {
			m.disk = diskAt(*node.Guest, r.pt, n > 0)
		}
		m.ready, m.goAhead = together.member()
		g.Go(func() error {
			got, err := r.cloud.move(gctx, m)
			if err != nil {
				return fmt.Errorf("%s: move %s to %s: %w", l.name, vm, hostFile(r.plan, m.to), err)
			}
			mu.Lock()
			defer mu.Unlock()
			l.moved[vm] = got
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	r.legs = append(r.legs, l)
	arrived := event.Mono(0)
	for _, m := range l.moved {
		arrived = max(arrived, m.ResumedAt)
	}
	if err := r.await(ctx, arrived, "after the VM has moved"); err != nil {
		return err
	}
	if len(r.users) == 0 {
		return nil
	}
	return wait(ctx, afterFor-event.Now().Sub(arrived))
}

// patience is how long a leg may take.
func (r *migrationTrial) patience() time.Duration {
	bytes := topo.Size(0)
	for _, vm := range r.experiment.Movers() {
		n, _ := r.plan.Node(vm)
		bytes += n.Guest.Memory
		if r.experiment.Disk {
			bytes += n.Guest.Disk
		}
	}
	rate := max(1e6, min(r.pt.rate(paramRate), 100e6)) // a faster line may wait for the computer
	return legDeadline + time.Duration(slowMove*8*float64(bytes)/float64(rate)*float64(time.Second))
}

// ask ends the users and gathers what they saw.
func (r *migrationTrial) ask(ctx context.Context) (map[string]*traffic.UsersResult, error) {
	limit := answerDeadline
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("waited %v", limit))
	defer cancel()
	seen := map[string]*traffic.UsersResult{}
	for _, vm := range slices.Sorted(maps.Keys(r.users)) {
		u := r.users[vm]
		delete(r.users, vm)
		got, err := u.Stop(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", vm, err)
		}
		seen[vm] = got
	}
	return seen, nil
}

// sound asks the guests whether they run and what they found wrong with their
// own bytes.
func (r *migrationTrial) sound(ctx context.Context) error {
	for _, vm := range r.experiment.Movers() {
		switch st, err := r.cloud.status(ctx, vm); {
		case err != nil:
			return fmt.Errorf("%s after it has moved: %w", vm, err)
		case st.Fault != "":
			return fmt.Errorf("%s has found after it moved: %s", vm, st.Fault)
		case !st.Running:
			return fmt.Errorf("%s stands after it has moved", vm)
		}
	}
	return nil
}

// muster holds VMs that arrive together until the last one is ready.
type muster struct {
	mu      sync.Mutex
	missing int
	all     chan struct{} // closed when nobody is missing; nil: nobody waits
}

func newMuster(n int, together bool) *muster {
	m := &muster{missing: n}
	if together && n > 1 {
		m.all = make(chan struct{})
	}
	return m
}

// member is one VM's part.
func (m *muster) member() (ready func(), goAhead <-chan struct{}) {
	if m.all == nil {
		return nil, nil
	}
	var once sync.Once
	return func() {
		once.Do(func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			if m.missing--; m.missing == 0 {
				close(m.all)
			}
		})
	}, m.all
}
