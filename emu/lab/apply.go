package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sort"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vpclab/vpclab/emu/bgp"
	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/frr"
	"github.com/vpclab/vpclab/emu/mpls"
	"github.com/vpclab/vpclab/topo"
)

// undoDeadline bounds the removal of a lab whose deployment failed.
const undoDeadline = 30 * time.Second

// Apply makes the kernel hold plan, and nothing else of this lab, and returns
// when every VPN route that plan implies has been acknowledged by the kernels
// of the PEs and every other one is gone. Applying the same plan again changes
// nothing. When a first Apply fails, all of it is undone; when a change of a
// running lab fails, the lab is left as far as it came, and the next Apply
// goes on from there.
func (l *Lab) Apply(ctx context.Context, plan *topo.Plan) (*Timeline, error) {
	return l.ApplyWith(ctx, plan, ApplyOptions{})
}

// ApplyOptions change one Apply.
type ApplyOptions struct {
	// Progress is told of each phase and how much of it is done; it must not
	// block.
	Progress func(Phase)
	// Deadline overrides Config.Deadline when it is not 0.
	Deadline time.Duration
	// Announce has the hosts of machines that are plugged in elsewhere than
	// before announce them, once the plan is reached; see announce.go. It takes
	// 170 ms where there are any. Deployments and operations do it.
	Announce bool
	// Trust takes the kernel to be as the last Apply left it instead of
	// reading every namespace first: for a caller that changes a lab many
	// times and knows that nobody else does.
	Trust bool
}

// Phase is a step of Apply. Done and Total count its parts, where it has any.
type Phase struct {
	Name  string `json:"name"` // withdraw, fabric, speakers, configure, policy, converge, reflexes, guests
	Done  int    `json:"done,omitempty"`
	Total int    `json:"total,omitempty"`
}

// ApplyWith is Apply with options.
func (l *Lab) ApplyWith(ctx context.Context, plan *topo.Plan, opt ApplyOptions) (*Timeline, error) {
	request := event.Now()
	if err := l.take(ctx); err != nil {
		return nil, fmt.Errorf("apply to lab %s: %w", plan.Lab, err)
	}
	defer l.give()
	return l.apply(ctx, plan, opt, request)
}

// apply is ApplyWith for whoever has the turn.
func (l *Lab) apply(ctx context.Context, plan *topo.Plan, opt ApplyOptions, request event.Mono) (*Timeline, error) {
	if err := frr.Check(plan); err != nil { // before anything is built
		return nil, fmt.Errorf("apply to lab %s: %w", plan.Lab, err)
	}
	f, err := l.open(plan)
	if err != nil {
		return nil, fmt.Errorf("apply to lab %s: %w", plan.Lab, err)
	}
	plan, _ = l.reroutes.around(plan)
	now, err := l.relocate(plan)
	if err != nil {
		return nil, fmt.Errorf("apply to lab %s: %w", plan.Lab, err)
	}
	if opt.Announce {
		l.noteReplugged(f, now)
	}
	tl, err := l.reach(ctx, f, plan, opt, request)
	if err == nil && opt.Announce {
		err = l.announce(ctx, f, now)
	}
	return tl, err
}

// reach is apply without what is announced afterwards.
func (l *Lab) reach(ctx context.Context, f *fabric.Fabric, plan *topo.Plan, opt ApplyOptions, request event.Mono) (*Timeline, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	fresh := l.begin(plan, cancel)
	l.reroutes.ensure(plan)
	l.speakers.watchDeaths(func(err error) { cancel(err) })
	defer l.speakers.watchDeaths(nil)

	a := &application{lab: l, fabric: f, plan: plan, opt: opt, tl: &Timeline{Request: request, Nodes: map[string]NodeTimes{}}}
	if a.opt.Progress == nil {
		a.opt.Progress = func(Phase) {}
	}
	if a.opt.Deadline <= 0 {
		a.opt.Deadline = l.cfg.Deadline
	}
	l.routes.recordTo(a.tl)
	err := a.run(ctx)
	l.routes.recordTo(nil)
	if err != nil && ctx.Err() != nil && !errors.Is(err, context.Cause(ctx)) {
		err = fmt.Errorf("%w (%w)", context.Cause(ctx), err)
	}
	return l.finish(a, fresh, err)
}

// begin notes that plan is being applied; fresh tells that nothing was there.
func (l *Lab) begin(plan *topo.Plan, abort context.CancelCauseFunc) (fresh bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fresh = l.plan == nil && l.pending == nil
	l.pending, l.abort, l.lastErr = plan, abort, nil
	return fresh
}

// finish books the outcome of an Apply and undoes a failed first one.
func (l *Lab) finish(a *application, fresh bool, err error) (*Timeline, error) {
	if err == nil {
		l.mu.Lock()
		l.plan, l.pending, l.abort, l.lastTime = a.plan, nil, nil, a.tl
		l.mu.Unlock()
		l.observe(event.New("", "lab.applied", map[string]string{
			"took": a.tl.Total().Round(time.Microsecond).String(), "routes": fmt.Sprint(l.routes.count())}))
		return a.tl, nil
	}
	err = fmt.Errorf("apply to lab %s: %w", a.plan.Lab, err)
	l.observe(event.New("", "lab.failed", map[string]string{"error": err.Error()}))
	if fresh {
		ctx, cancel := context.WithTimeout(context.Background(), undoDeadline)
		defer cancel()
		if undo := l.destroy(ctx); undo != nil {
			err = fmt.Errorf("%w\n  and undoing it failed: %w", err, undo)
		}
	}
	l.mu.Lock()
	l.lastErr, l.abort = err, nil
	l.mu.Unlock()
	return nil, err
}

// application is one Apply under way.
type application struct {
	lab    *Lab
	fabric *fabric.Fabric
	plan   *topo.Plan
	opt    ApplyOptions
	tl     *Timeline

	now     *topo.Plan // plan, with the VMs where migrations have them
	state   fabric.State
	routes  map[routeKey]netip.Addr
	configs map[string]bgp.Config // by node
	old     map[string]bgp.Config
	// spared are routers that are cut off from all others: nobody waits for
	// them. They are told everything when they are back.
	spared map[string]bool
}

// run goes through the phases. Each stamps the time line when it is over.
func (a *application) run(ctx context.Context) error {
	if err := a.compile(); err != nil {
		return err
	}
	a.old = a.lab.speakers.configs()
	a.derive()

	for _, phase := range []struct {
		name  string
		do    func(context.Context) error
		stamp *event.Mono
	}{
		{"halt", a.halt, nil},
		{"calm", a.calm, nil},
		{"withdraw", a.withdraw, &a.tl.Withdrawn},
		{"fabric", a.build, &a.tl.Fabric},
		{"speakers", a.start, nil},
		{"configure", a.configure, &a.tl.Configured},
		{"policy", a.admit, &a.tl.Policy},
		{"converge", a.converge, &a.tl.Programmed},
		{"reflexes", a.reflexes, nil},
		{"guests", a.guests, nil},
	} {
		if a.shows(phase.name) {
			a.opt.Progress(Phase{Name: phase.name})
		}
		began := time.Now()
		if err := phase.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", phase.name, err)
		}
		a.stamp(phase.stamp)
		a.lab.log.Debug("phase done", "lab", a.plan.Lab, "phase", phase.name, "took", time.Since(began))
	}
	a.lab.routes.mu.Lock()
	defer a.lab.routes.mu.Unlock()
	if a.tl.Announced == 0 {
		a.tl.Announced = a.tl.Policy
	}
	return nil
}

// derive is what follows from the plan for speakers.
func (a *application) derive() {
	seated := a.lab.seated(a.plan)
	a.configs, a.routes = bgp.Configs(seated), expectedRoutes(seated)
	a.spared = apart(a.plan)
	a.lab.routes.want(a.configs, unsureRoutes(a.plan, a.lab.holds.are()))
}

// shows tells whether a phase has anything to do that a person would see.
func (a *application) shows(phase string) bool {
	switch phase {
	case "halt", "calm":
		return false
	case "withdraw":
		return len(a.old) > 0
	case "reflexes":
		return a.plan.Recovery.Reflexes()
	case "guests":
		return len(a.plan.Guests()) > 0
	}
	return true
}

// compile makes the State. VMs that are being handed over are where they are
// plugged in, whatever the plan says of them.
func (a *application) compile() error {
	now, err := a.lab.relocate(a.plan)
	if err != nil || now == a.now { // nothing moves, and it is made already
		return err
	}
	a.now, a.state = now, fabric.Compile(now)
	mpls.Compile(now, &a.state)
	return nil
}

// halt ends the guests that the plan does not have, or not there.
func (a *application) halt(ctx context.Context) error {
	if err := a.lab.pairs.halt(ctx, a.plan); err != nil {
		return err
	}
	return a.lab.hypers.halt(ctx, a.plan)
}

// guests starts those that do not run yet.
func (a *application) guests(ctx context.Context) error {
	if err := a.lab.hypers.ensure(ctx, a.fabric, a.plan); err != nil {
		return err
	}
	if err := a.lab.pairs.announce(ctx, a.fabric, a.plan); err != nil {
		return err
	}
	return a.lab.pairs.ensure(ctx, a.fabric, a.plan)
}

// stamp sets a stage that no event has stamped to this moment.
func (a *application) stamp(at *event.Mono) {
	if at == nil {
		return
	}
	now := event.Now()
	a.lab.routes.mu.Lock() // events of speakers write the time line too
	defer a.lab.routes.mu.Unlock()
	if *at == 0 {
		*at = now
	}
}

// withdraw takes back what the new plan does not have: the policy at the
// reflector first, then the announcements, then it waits until the kernels
// have let go of the routes.
func (a *application) withdraw(ctx context.Context) error {
	reflector := ""
	var gone []string
	less := map[string]bgp.Config{}
	for node, was := range a.old {
		next := a.configs[node] // empty for a router that goes
		if next.Identity() != was.Identity() {
			next = bgp.Config{} // another process takes its place
			gone = append(gone, node)
		}
		keep := common(was, next)
		if same(keep, was) {
			continue
		}
		if was.Reflector {
			reflector = node
		}
		less[node] = keep
	}
	if len(less)+len(gone) == 0 {
		return nil
	}
	if cfg, changes := less[reflector]; changes && reflector != "" {
		if _, err := a.lab.speakers.configure(ctx, reflector, cfg); err != nil {
			return err
		}
		delete(less, reflector)
	}
	if err := a.tell(ctx, less); err != nil {
		return err
	}
	if err := a.wait(ctx, true); err != nil {
		return err
	}
	err := a.lab.speakers.stop(ctx, gone)
	for _, node := range gone {
		a.lab.forget(node) // a successor reports afresh
	}
	return err
}

// build converges the kernel's objects.
func (a *application) build(ctx context.Context) error {
	var opts []fabric.Option
	if a.opt.Trust {
		opts = append(opts, fabric.Trust)
	}
	a.lab.plugging.Lock() // no port moves from here on
	defer a.lab.plugging.Unlock()
	if err := a.compile(); err != nil {
		return err
	}
	knew := rememberNeighbours(a.fabric, a.now)
	changes, err := a.fabric.Apply(ctx, a.state, opts...)
	if err != nil {
		return err
	}
	a.tl.Changes = len(changes)
	return knew.restore(a.fabric)
}

// start brings up the speakers that are missing, and the reflexes.
func (a *application) start(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.lab.speakers.ensure(gctx, a.fabric, a.unspared(a.configs)) })
	g.Go(func() error { return a.lab.repairs.ensure(gctx, a.fabric, a.watchful()) })
	return g.Wait()
}

// unspared are configurations without those of routers that are spared.
func (a *application) unspared(configs map[string]bgp.Config) map[string]bgp.Config {
	out := make(map[string]bgp.Config, len(configs))
	for node, cfg := range configs {
		if !a.spared[node] || a.lab.speakers.member(node) == nil {
			out[node] = cfg
		}
	}
	return out
}

// configure tells every speaker its neighbours, VRFs, circuits and tunnels.
// The reflector keeps the policy it has: admission is the next phase.
func (a *application) configure(ctx context.Context) error {
	told := map[string]bgp.Config{}
	now := a.lab.speakers.configs()
	for node, cfg := range a.configs {
		if cfg.Reflector {
			cfg = withPolicy(cfg, now[node].Policy)
		}
		told[node] = cfg
	}
	return a.tell(ctx, told)
}

// tell configures speakers, all at the same time, and stamps each.
func (a *application) tell(ctx context.Context, configs map[string]bgp.Config) error {
	g, gctx := errgroup.WithContext(ctx)
	for node, cfg := range a.unspared(configs) {
		g.Go(func() error {
			told, err := a.lab.speakers.configure(gctx, node, cfg)
			if err != nil || !told || cfg.Reflector {
				return err
			}
			a.stampNode(node)
			return nil
		})
	}
	return g.Wait()
}

func (a *application) stampNode(node string) {
	now := event.Now()
	a.lab.routes.mu.Lock()
	defer a.lab.routes.mu.Unlock()
	n := a.tl.Nodes[node]
	n.Configured = now
	a.tl.Nodes[node] = n
}

// admit sets the route-target policy at the reflector: the one central change
// by which sites join.
func (a *application) admit(ctx context.Context) error {
	for node, cfg := range a.configs {
		if cfg.Reflector {
			if _, err := a.lab.speakers.configure(ctx, node, cfg); err != nil {
				return err
			}
		}
	}
	return nil
}

// converge waits for the routes.
func (a *application) converge(ctx context.Context) error {
	for {
		watched, release := a.lab.reroutes.watched(ctx)
		err := a.wait(watched, false)
		release()
		if !errors.Is(err, errPathsChange) {
			return err
		}
		if err := a.replan(ctx); err != nil {
			return err
		}
	}
}

// Beyond manyRoutes each may take perRoute more: two sessions of BGP and a
// kernel, for which all routers share one processor.
const (
	manyRoutes = 1000
	perRoute   = 5 * time.Millisecond
)

func (a *application) wait(ctx context.Context, onlyRemoved bool) error {
	d := a.opt.Deadline + time.Duration(max(0, len(a.routes)-manyRoutes))*perRoute
	ctx, cancel := context.WithTimeoutCause(ctx, d, fmt.Errorf("waited %s for VPN routes", d))
	defer cancel()
	total := len(a.routes)
	return a.lab.routes.wait(ctx, a.routes, onlyRemoved, func(open int) {
		if !onlyRemoved {
			a.opt.Progress(Phase{Name: "converge", Done: max(0, total-open), Total: total})
		}
	})
}

// Preview is what an Apply of a plan would do.
type Preview struct {
	Kernel   string   `json:"kernel"`   // objects to add (+), change (~) and remove (-), a line each
	Speakers []string `json:"speakers"` // likewise
	Routes   []string `json:"routes"`   // VPN routes that appear and go
}

// Empty tells that nothing would change.
func (p *Preview) Empty() bool { return p.Kernel == "" && len(p.Speakers) == 0 && len(p.Routes) == 0 }

// String is the preview for people.
func (p *Preview) String() string {
	if p.Empty() {
		return "nothing to change\n"
	}
	var b strings.Builder
	if p.Kernel != "" {
		b.WriteString(strings.TrimRight(p.Kernel, "\n") + "\n")
	}
	for _, line := range append(append([]string(nil), p.Speakers...), p.Routes...) {
		b.WriteString(line + "\n")
	}
	return b.String()
}

// Preview tells what Apply(plan) would do, and does nothing.
func (l *Lab) Preview(plan *topo.Plan) (*Preview, error) {
	f, err := l.open(plan)
	if err != nil {
		return nil, fmt.Errorf("preview of lab %s: %w", plan.Lab, err)
	}
	plan = l.seated(plan)
	state := fabric.Compile(plan)
	mpls.Compile(plan, &state)
	changes, err := f.Plan(state)
	if err != nil {
		return nil, fmt.Errorf("preview of lab %s: %w", plan.Lab, err)
	}
	p := &Preview{Speakers: speakerChanges(l.speakers.configs(), bgp.Configs(plan))}
	if !changes.Empty() {
		p.Kernel = changes.String()
	}
	missing, extra := l.routes.diff(expectedRoutes(plan))
	p.Routes = routeLines(missing, extra)
	return p, nil
}

func routeLines(missing, extra []routeKey) []string {
	var lines []string
	for _, k := range missing {
		lines = append(lines, "+ vpn route "+k.String())
	}
	for _, k := range extra {
		lines = append(lines, "- vpn route "+k.String())
	}
	sort.Slice(lines, func(i, j int) bool { return lines[i][2:] < lines[j][2:] })
	return lines
}

// PreviewNew is the preview of a lab that is not there yet; it needs no
// privilege and no kernel.
func PreviewNew(plan *topo.Plan) *Preview {
	state := fabric.Compile(plan)
	mpls.Compile(plan, &state)
	var kernel []string
	for _, n := range keys(state.Nodes) {
		kernel = append(kernel, fmt.Sprintf("+ node %s (%s)", n, state.Nodes[n].Kind))
	}
	for _, n := range keys(state.Links) {
		kernel = append(kernel, "+ link "+n)
	}
	p := &Preview{Speakers: speakerChanges(nil, bgp.Configs(plan)), Kernel: strings.Join(kernel, "\n")}
	missing, _ := newRouteTable().diff(expectedRoutes(plan))
	p.Routes = routeLines(missing, nil)
	return p
}
