package scenarios

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/emu/traffic"
	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/topo"
)

// The experiment vpc-setup.
//
// A point is S sites, T tenants and M machines of each tenant at each site.
// Before the trials the backbone and the LANs (CEs and machines) of all points
// are built: they are there in any case and are not counted. In a trial, all
// sites of the point join at one request; then one site more joins and leaves
// while the others talk; then a machine is added and one moved. The baseline
// (see shared.go, firewall.go) does the same to twins of the machines. The
// order of the two systems is drawn for each trial.
//
// Times are seconds since the request, by the lab kernel's monotonic clock.

// Waits of the experiment, each with what is waited for in its error.
const (
	firstDeadline  = 30 * time.Second     // for the first packet of the last pair of sites, after all is programmed
	matrixDeadline = 20 * time.Second     // for the last allowed pair of machines
	matrixRounds   = 2                    // probes to each address that a forbidden machine has
	trainInterval  = 2 * time.Millisecond // between the probes of a pair of sites, while set-up is timed
	talkInterval   = 5 * time.Millisecond // between the probes of those who talk while a site comes and goes
	talkFlows      = 4
	talkDuty       = 0.2 // of the CPU, for them

	// After a site has left: probes go on for so long, and must not arrive.
	leaveWatch = 60 * time.Millisecond
)

func vpcSetup() kind {
	all, timed := []string{systemVPN, systemFW, systemSets}, []string{systemVPN, systemFW}
	return kind{
		resolution: 50 * time.Millisecond,
		computes:   true,
		params: []param{
			number("sites", "a number of sites", func(p *topo.Plan) (int, int) { return 2, len(sitesOf(p)) }, nil),
			number("tenants", "a number of VPCs", func(p *topo.Plan) (int, int) { return 1, len(p.Customers()) }, nil),
			number("machines", "a number of machines of each VPC at each site", func(p *topo.Plan) (int, int) { return 1, machinesOf(p) }, nil),
		},
		metrics: []metric{
			{"setup.configured", "s", "last PE has acknowledged its configuration; last machine its rules", bySystem(timed...)},
			{"setup.policy", "s", "route reflector has acknowledged the route-target policy", bySystem(systemVPN)},
			{"setup.announced", "s", "last PE has announced its last route", bySystem(systemVPN)},
			{"setup.programmed", "s", "last VPN route is in the kernel of the last PE", bySystem(systemVPN)},
			{"setup.first_packet", "s", "first packet has come through between the last ordered pair of sites", bySystem(timed...)},
			{"setup.matrix", "s", "last allowed pair of machines has had question and answer", bySystem(timed...)},
			{"setup.probe_interval", "s", "median time between two probes of a pair of sites: the resolution of first_packet", bySystem(timed...)},
			{"setup.pairs_allowed", "count", "ordered pairs of machines of one tenant", bySystem(all...)},
			{"setup.pairs_reached", "count", "of them, those that reached", bySystem(all...)},
			{"setup.pairs_forbidden", "count", "ordered pairs of machines of different tenants", bySystem(all...)},
			{"setup.leaks", "count", "of them, those where anything arrived", bySystem(all...)},
			{"rules", "count", "config: entries written; state: entries that the kernels then hold", byKind(all...)},
			{"touched.add_vm", "count", "entries that changed when a machine was added: at PEs, Ps and reflector; in all machines", bySystem(all...)},
			{"touched.move_vm", "count", "entries that changed when a machine moved to another site and address", bySystem(all...)},
			{"join.configured", "s", "one site more: its PE has acknowledged", bySystem(systemVPN)},
			{"join.policy", "s", "policy acknowledged", bySystem(systemVPN)},
			{"join.announced", "s", "announced", bySystem(systemVPN)},
			{"join.programmed", "s", "in the kernel of the last PE", bySystem(systemVPN)},
			{"join.first_packet", "s", "first packet between the new site and the last of the others, both ways", bySystem(systemVPN)},
			{"join.probes_sent", "count", "probes between the other sites while one joined and left", bySystem(systemVPN)},
			{"join.probes_lost", "count", "of them, those lost", bySystem(systemVPN)},
			{"join.probe_interval", "s", "median time between them", bySystem(systemVPN)},
			{"leave.withdrawn", "s", "last route of the site that leaves is out of the last kernel", bySystem(systemVPN)},
			{"leave.last_packet", "s", "last packet between it and the others", bySystem(systemVPN)},
			{"vm_commands", "count", "entries that changed in machines, and in CEs beside the new circuit, when a site joined", []labels{{"system": systemVPN, "where": "machine"}, {"system": systemVPN, "where": "ce"}}},
			{"circuit_entries", "count", "what came with the circuit itself at the CE: interface, link address, default route", bySystem(systemVPN)},
		},
		check: checkSetup,
		open:  func(o opening) (session, error) { return openSetup(o) },
	}
}

func checkSetup(plan *topo.Plan, e topo.Experiment) (msg, hint string) {
	for _, v := range plan.VPCs {
		n := 0
		for _, a := range v.Attachments {
			if len(a.Machines) > 0 {
				n++
			}
		}
		if n >= 2 {
			return "", ""
		}
	}
	return e.Kind + " needs a VPC with machines at two sites or more, and there is none", "give a VPC two sites, and cloud sites `machines:` or vms"
}

// setup is a session of vpc-setup.
type setup struct {
	lab    Lab
	base   *topo.Plan                // LANs of all points and, with a baseline, the shared network; everything joined
	shared *sharedNet                // nil without a baseline
	conns  map[string]*nftables.Conn // to the twins' firewalls
	prober *traffic.Prober
	seed   uint64
}

// openSetup builds backbone and LANs and puts a socket into every machine.
func openSetup(o opening) (*setup, error) {
	needed, machines := map[member]bool{}, 0
	for _, pt := range o.points {
		machines = max(machines, pt.number("machines"))
		for m := range newScope(o.plan, pt).with() {
			needed[m] = true
		}
	}
	s := &setup{lab: o.lab, seed: o.seed}
	s.base = withMachines(o.plan.Restrict(func(a topo.Attachment) bool { return needed[memberOf(a)] }), machines)
	var eps []traffic.Endpoint
	for _, n := range s.base.Machines() {
		eps = append(eps, traffic.Endpoint{Name: n.Name, VPC: n.VPC, Site: n.Site, Addr: n.Addr})
	}
	if o.experiment.Baseline != "none" {
		var err error
		if s.base, s.shared, err = withShared(s.base); err != nil {
			return nil, err
		}
		eps = append(eps, s.shared.endpoints()...)
	}
	if err := s.build(o, eps); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *setup) build(o opening, eps []traffic.Endpoint) error {
	tl, err := s.lab.Apply(o.ctx, joined(s.base, nil))
	if err != nil {
		return err
	}
	o.built(s.base, tl.Total())
	if s.prober, err = traffic.Open(s.lab.Fabric().Do, eps); err != nil || s.shared == nil {
		return err
	}
	if s.conns, err = openFirewalls(s.lab.Fabric().Do, s.shared.endpoints()); err != nil {
		return err
	}
	return s.shutAll()
}

// close releases the sockets; the lab stays.
func (s *setup) close() {
	if s.prober != nil {
		s.prober.Close()
	}
	_ = closeAll(s.conns) // sockets that held nothing back
}

func (s *setup) missed() int { return s.prober.Missed() }

// apply converges the lab to a plan. Within a run nobody else changes the lab,
// so what the kernel holds is not read anew each time; recover does read it.
func (s *setup) apply(ctx context.Context, plan *topo.Plan) (*lab.Timeline, error) {
	return s.lab.ApplyWith(ctx, plan, lab.ApplyOptions{Trust: true})
}

func (s *setup) shutAll() error {
	for _, ep := range s.shared.endpoints() {
		if err := (firewall{conns: s.conns}).shut(ep.Name); err != nil {
			return err
		}
	}
	return nil
}

// recover brings the lab back to nothing joined and every twin shut.
func (s *setup) recover(ctx context.Context) error {
	if _, err := s.lab.Apply(ctx, joined(s.base, nil)); err != nil {
		return err
	}
	if s.shared == nil {
		return nil
	}
	return s.shutAll()
}

// trial is one trial of all systems. Times are taken in every trial. Numbers
// that follow from the point alone (what adding, moving and joining touch, the
// baseline with sets) are counted in the first trial of a point, by reading
// the kernels as the others are.
func (s *setup) trial(ctx context.Context, pt point, number int, t *metrics.Trial, rng *rand.Rand) error {
	sc := newScope(s.base, pt)
	sc.count = number == 1
	sub := s.lab.Subscribe()
	defer sub.Close()
	systems := []func() error{func() error { return s.vpn(ctx, sc, t) }}
	if s.shared != nil {
		systems = append(systems, func() error { return s.baseline(ctx, sc, t, false) })
		if sc.count {
			systems = append(systems, func() error { return s.baseline(ctx, sc, t, true) })
		}
	}
	rng.Shuffle(len(systems), func(i, j int) { systems[i], systems[j] = systems[j], systems[i] })
	for _, system := range systems {
		if err := system(); err != nil {
			return err
		}
		if err := keep(t, sub); err != nil {
			return err
		}
	}
	return nil
}

// keep stores the lab's events that have come so far. It is called when
// nothing is being timed. A trial in which a speaker died has measured that:
// it fails, even where the lab has healed by itself.
func keep(t *metrics.Trial, sub *lab.Subscription) (died error) {
	for {
		select {
		case e := <-sub.C:
			t.Event(e)
			if e.Kind == "speaker.exit" {
				died = errors.Join(died, fmt.Errorf("BGP speaker of %s died during the trial: %s", e.Node, e.Attr["status"]))
			}
		default:
			if !sub.Refill() {
				return died
			}
		}
	}
}

// stage is a step of a change and when it was complete.
type stage struct {
	name string
	at   event.Mono
}

// stages of an Apply, as CloudNet's figure 9 tells them apart.
func stages(prefix string, tl *lab.Timeline) []stage {
	return []stage{
		{prefix + ".configured", tl.Configured}, {prefix + ".policy", tl.Policy},
		{prefix + ".announced", tl.Announced}, {prefix + ".programmed", tl.Programmed},
	}
}

// establish carries a system from nothing to a whole matrix and times it: the
// probe trains between all pairs of sites run from before the request. The
// matrix time includes the asking, a system call for the questions of each
// machine and two for each answer.
func (s *setup) establish(ctx context.Context, t *metrics.Trial, system string, names []string, flows []traffic.Flow, act func() (event.Mono, []stage, error)) error {
	train, err := s.prober.StartTrain(traffic.TrainConfig{Flows: flows, Interval: trainInterval, UntilFirst: true})
	if err != nil {
		return err
	}
	defer func() { _, _ = train.Stop(ctx) }() // a train that was stopped stays so
	request, done, err := act()
	if err != nil {
		return err
	}
	result, err := firsts(ctx, train)
	if err != nil {
		return err
	}
	add := func(name string, at event.Mono) {
		t.Add(name, "s", at.Sub(request).Seconds(), labels{"system": system})
	}
	for _, st := range done {
		add(st.name, st.at)
	}
	if len(flows) > 0 {
		first, err := lastFirst(result)
		if err != nil {
			return err
		}
		add("setup.first_packet", first)
		add("setup.probe_interval", request+event.Mono(result.Interval))
	}
	m, err := s.matrix(ctx, t, system, names)
	if m != nil && m.AllReached != 0 {
		add("setup.matrix", m.AllReached)
	}
	return err
}

// firsts waits for the first packet of every flow.
func firsts(ctx context.Context, train *traffic.Train) (*traffic.TrainResult, error) {
	if err := waitFirst(ctx, train); err != nil {
		return nil, err
	}
	return train.Stop(ctx)
}

// lastFirst is when the last flow had its first arrival.
func lastFirst(r *traffic.TrainResult) (last event.Mono, err error) {
	for _, f := range r.Flows {
		if f.Elsewhere > 0 {
			err = errors.Join(err, fmt.Errorf("%d probes from %s to %s arrived at another machine", f.Elsewhere, f.From, f.To))
		}
		last = max(last, f.First.Received)
	}
	return last, err
}

// matrix asks every pair among machines and stores the evidence.
func (s *setup) matrix(ctx context.Context, t *metrics.Trial, system string, names []string) (*traffic.Matrix, error) {
	m, err := s.prober.Matrix(ctx, traffic.MatrixConfig{
		Among: names, Deadline: matrixDeadline, Seed: s.seed, Rounds: matrixRounds,
		Allowed: func(from, to traffic.Endpoint) bool { return from.VPC == to.VPC },
	})
	if m == nil {
		return nil, fmt.Errorf("%s: %w", system, err)
	}
	set := labels{"system": system}
	t.Add("setup.pairs_allowed", "count", float64(m.Allowed), set)
	t.Add("setup.pairs_reached", "count", float64(m.Reached), set)
	t.Add("setup.pairs_forbidden", "count", float64(m.Forbidden), set)
	t.Add("setup.leaks", "count", float64(m.Leaks), set)
	name := "matrix.json"
	if system != systemVPN {
		name = "matrix-" + system + ".json"
	}
	if werr := t.WriteJSON(name, evidence(m)); werr != nil {
		return m, werr
	}
	if err != nil {
		return m, fmt.Errorf("%s: %w", system, err)
	}
	return m, nil
}

// evidence is a matrix in the form that is stored.
func evidence(m *traffic.Matrix) metrics.Matrix {
	out := metrics.Matrix{Cells: m.Cells}
	for _, e := range m.Endpoints {
		out.Endpoints = append(out.Endpoints, metrics.MatrixEndpoint{Name: e.Name, VPC: e.VPC, Site: e.Site, Addr: e.Addr.String()})
	}
	return out
}

// vpn is a trial of the VPN.
func (s *setup) vpn(ctx context.Context, sc scope, t *metrics.Trial) error {
	nothing, err := s.provider()
	if err != nil {
		return err
	}
	err = s.establish(ctx, t, systemVPN, machinesIn(sc.attachments), sitePairs(sc.attachments), func() (event.Mono, []stage, error) {
		tl, err := s.apply(ctx, joined(s.base, sc.members()))
		if err != nil {
			return 0, nil, err
		}
		return tl.Request, stages("setup", tl), nil
	})
	if err != nil {
		return err
	}
	all, err := s.provider()
	if err != nil {
		return err
	}
	t.Add("rules", "count", float64(touched(nothing.config, all.config)), labels{"system": systemVPN, "kind": "config"})
	t.Add("rules", "count", float64(touched(nothing.state, all.state)), labels{"system": systemVPN, "kind": "state"})
	if err := s.comeAndGo(ctx, sc, t); err != nil {
		return err
	}
	if sc.count {
		if err := s.changeMachines(ctx, sc, t); err != nil {
			return err
		}
	}
	_, err = s.apply(ctx, joined(s.base, nil))
	return err
}

// providerState is what the provider's routers have been told and hold.
type providerState struct{ config, state entries }

func (p providerState) all() entries { return merge(p.config, p.state) }

func (s *setup) provider() (p providerState, err error) {
	p.config = speakerEntries(s.lab.Configs())
	p.state, err = routerEntries(s.lab.Fabric(), s.base)
	return p, err
}

// comeAndGo lets the newcomer join and leave while the old sites talk.
func (s *setup) comeAndGo(ctx context.Context, sc scope, t *metrics.Trial) error {
	_, old := sc.without()
	ev := &record{}
	talk, err := s.prober.StartTrain(traffic.TrainConfig{Flows: rings(old, talkFlows), Interval: talkInterval, Duty: talkDuty})
	if err != nil {
		return err
	}
	defer func() { _, _ = talk.Stop(ctx) }()
	steps := []func() error{
		func() error { return s.join(ctx, sc, old, t, ev) },
		func() error { return s.leave(ctx, sc, old, t, ev) },
	}
	if sc.within {
		slices.Reverse(steps)
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	r, err := talk.Stop(ctx)
	if err != nil {
		return err
	}
	set := labels{"system": systemVPN}
	if len(r.Flows) == 0 {
		return t.WriteJSON("train.json", ev.train(r)) // nobody was left to talk: nothing to say of losses
	}
	t.Add("join.probes_sent", "count", float64(r.Sent), set)
	t.Add("join.probes_lost", "count", float64(r.Lost), set)
	t.Add("join.probe_interval", "s", r.Interval.Seconds(), set)
	return t.WriteJSON("train.json", ev.train(r))
}

// join adds the newcomer and counts what that took inside machines and CEs.
func (s *setup) join(ctx context.Context, sc scope, old []topo.Attachment, t *metrics.Trial, ev *record) error {
	var inside map[string]entries
	if sc.count {
		var err error
		if inside, err = s.customer(sc.newcomer.VPC, append([]topo.Attachment{sc.newcomer}, old...)); err != nil {
			return err
		}
	}
	train, err := s.prober.StartTrain(traffic.TrainConfig{Flows: spokes(sc.newcomer, old), Interval: trainInterval, UntilFirst: true})
	if err != nil {
		return err
	}
	defer func() { _, _ = train.Stop(ctx) }()
	tl, err := s.apply(ctx, joined(s.base, sc.with()))
	if err != nil {
		return err
	}
	result, err := firsts(ctx, train)
	if err != nil {
		return err
	}
	set := labels{"system": systemVPN}
	ev.mark("join requested", tl.Request)
	for _, st := range stages("join", tl) {
		t.Add(st.name, "s", st.at.Sub(tl.Request).Seconds(), set)
	}
	ev.mark("join programmed", tl.Programmed)
	if len(result.Flows) > 0 {
		first, err := lastFirst(result)
		if err != nil {
			return err
		}
		t.Add("join.first_packet", "s", first.Sub(tl.Request).Seconds(), set)
		ev.mark("first packet of the last pair", first)
	}
	if !sc.count {
		return nil
	}
	return s.countCommands(inside, sc, old, t)
}

// leave takes the newcomer out again.
func (s *setup) leave(ctx context.Context, sc scope, old []topo.Attachment, t *metrics.Trial, ev *record) error {
	train, err := s.prober.StartTrain(traffic.TrainConfig{Flows: spokes(sc.newcomer, old), Interval: talkInterval, Duty: talkDuty})
	if err != nil {
		return err
	}
	defer func() { _, _ = train.Stop(ctx) }()
	if err := waitFirst(ctx, train); err != nil {
		return fmt.Errorf("before the site leaves: %w", err)
	}
	without, _ := sc.without()
	tl, err := s.apply(ctx, joined(s.base, without))
	if err != nil {
		return err
	}
	gone := event.Now()
	if err := wait(ctx, leaveWatch); err != nil {
		return err
	}
	result, err := train.Stop(ctx) // waits for packets that should not come any more
	if err != nil {
		return err
	}
	for _, f := range result.Flows {
		if f.Last.Sent > gone {
			return fmt.Errorf("%s left, and still %s reaches %s: a probe sent %v after the last route was withdrawn came through",
				sc.newcomer.Site, f.From, f.To, f.Last.Sent.Sub(gone))
		}
	}
	set := labels{"system": systemVPN}
	t.Add("leave.withdrawn", "s", tl.Withdrawn.Sub(tl.Request).Seconds(), set)
	ev.mark("leave requested", tl.Request)
	ev.mark("leave withdrawn", tl.Withdrawn)
	if len(result.Flows) > 0 {
		var last event.Mono
		for _, f := range result.Flows {
			last = max(last, f.Last.Received)
		}
		t.Add("leave.last_packet", "s", last.Sub(tl.Request).Seconds(), set)
	}
	return nil
}

// wait lets time pass in which something must not happen.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// waitFirst waits for the first packet of every flow of a train that goes on.
func waitFirst(ctx context.Context, train *traffic.Train) error {
	wait, cancel := context.WithTimeoutCause(ctx, firstDeadline, fmt.Errorf("waited %v", firstDeadline))
	defer cancel()
	return train.WaitFirst(wait)
}

// customer reads the configuration of one tenant's machines and CEs.
func (s *setup) customer(vpc string, attachments []topo.Attachment) (map[string]entries, error) {
	found := map[string]entries{}
	for _, a := range attachments {
		if a.VPC != vpc {
			continue
		}
		for _, node := range append([]string{a.CE}, a.Machines...) {
			e, err := nodeEntries(s.lab.Fabric(), node)
			if err != nil {
				return nil, err
			}
			found[node] = e
		}
	}
	return found, nil
}

// countCommands reads machines and CEs again and counts what has changed.
func (s *setup) countCommands(before map[string]entries, sc scope, old []topo.Attachment, t *metrics.Trial) error {
	after, err := s.customer(sc.newcomer.VPC, append([]topo.Attachment{sc.newcomer}, old...))
	if err != nil {
		return err
	}
	var machine, ce, circuit int
	for node := range before {
		changed := differences(before[node], after[node])
		switch n, _ := s.base.Node(node); {
		case n.Kind == topo.KindMachine:
			machine += len(changed)
		case node == sc.newcomer.CE:
			c := ofCircuit(changed)
			circuit, ce = circuit+c, ce+len(changed)-c
		default:
			ce += len(changed)
		}
	}
	t.Add("vm_commands", "count", float64(machine), labels{"system": systemVPN, "where": "machine"})
	t.Add("vm_commands", "count", float64(ce), labels{"system": systemVPN, "where": "ce"})
	t.Add("circuit_entries", "count", float64(circuit), labels{"system": systemVPN})
	return nil
}

// changeMachines adds a machine to a running site, and moves one to another
// site, and counts what that changes at the provider.
func (s *setup) changeMachines(ctx context.Context, sc scope, t *metrics.Trial) error {
	vpc := sc.attachments[0].VPC
	home, away := member{}, member{}
	for _, a := range sc.attachments {
		switch {
		case a.VPC != vpc:
		case home.vpc == "":
			home = memberOf(a)
		case away.vpc == "":
			away = memberOf(a)
		}
	}
	plan, node, err := addMachine(s.base, home, "")
	if err != nil {
		return err
	}
	defer s.prober.Remove(node.Name) // its namespace goes when the trial ends
	if err := s.change(ctx, sc, t, "touched.add_vm", plan, node); err != nil {
		return err
	}
	if away.vpc == "" {
		return nil
	}
	plan, node, err = addMachine(plan, away, node.Name)
	if err != nil {
		return err
	}
	return s.change(ctx, sc, t, "touched.move_vm", plan, node)
}

// change converges to a plan with one machine added or moved, counts the
// provider's entries that are different then, and proves that the machine is
// reached where it is and by whom it may be.
func (s *setup) change(ctx context.Context, sc scope, t *metrics.Trial, name string, plan *topo.Plan, node topo.Node) error {
	before, err := s.provider()
	if err != nil {
		return err
	}
	s.prober.Remove(node.Name)
	if _, err := s.apply(ctx, joined(plan, sc.members())); err != nil {
		return err
	}
	after, err := s.provider()
	if err != nil {
		return err
	}
	t.Add(name, "count", float64(touched(before.all(), after.all())), labels{"system": systemVPN})
	if err := s.prober.Add(traffic.Endpoint{Name: node.Name, VPC: node.VPC, Site: node.Site, Addr: node.Addr}); err != nil {
		return err
	}
	return s.prove(ctx, name, append(machinesIn(sc.attachments), node.Name))
}

// prove asks every pair among machines and fails unless all is as it should
// be.
func (s *setup) prove(ctx context.Context, after string, names []string) error {
	m, err := s.prober.Matrix(ctx, traffic.MatrixConfig{
		Among: names, Deadline: matrixDeadline, Seed: s.seed, Rounds: 1,
		Allowed: func(from, to traffic.Endpoint) bool { return from.VPC == to.VPC },
	})
	if err == nil && m.Leaks > 0 {
		err = fmt.Errorf("%d leaks, first %s", m.Leaks, m.Leaked[0])
	}
	if err != nil {
		return fmt.Errorf("after %s: %w", after, err)
	}
	return nil
}

// baseline is a trial of the same isolation by firewall rules in each twin.
func (s *setup) baseline(ctx context.Context, sc scope, t *metrics.Trial, sets bool) error {
	fw, system := firewall{conns: s.conns, sets: sets}, systemFW
	if sets {
		system = systemSets
	}
	groups := map[string][]traffic.Endpoint{} // by tenant
	var names []string
	for _, a := range sc.attachments {
		for _, ep := range s.shared.of(a.Machines) {
			groups[a.VPC] = append(groups[a.VPC], ep)
			names = append(names, ep.Name)
		}
	}
	defer func() { _ = s.shut(fw, names) }() // the next trial shuts them again if this did not
	written := 0
	err := s.establish(ctx, t, system, names, s.twinFlows(sitePairs(sc.attachments)), func() (event.Mono, []stage, error) {
		request := event.Now()
		for _, name := range names {
			n, err := fw.admit(name, peersOf(groups, name))
			if err != nil {
				return 0, nil, err
			}
			written += n
		}
		return request, []stage{{"setup.configured", event.Now()}}, nil
	})
	if err != nil {
		return err
	}
	held, err := s.readRules(fw, names)
	if err != nil {
		return err
	}
	t.Add("rules", "count", float64(written), labels{"system": system, "kind": "config"})
	t.Add("rules", "count", float64(len(held)), labels{"system": system, "kind": "state"})
	if !sc.count {
		return nil
	}
	return s.changeTwins(ctx, fw, system, groups[sc.attachments[0].VPC], names, held, t)
}

// changeTwins adds the spare twin to a group and then moves it, and counts the
// rules that this touches. The rules inside a machine that moves go with it
// and are not counted: only what its peers must change.
func (s *setup) changeTwins(ctx context.Context, fw firewall, system string, group []traffic.Endpoint, names []string, held entries, t *metrics.Trial) error {
	spare, moved := s.shared.spare[0], s.shared.spare[1]
	defer func() { _ = s.shut(fw, []string{spare.Name, moved.Name}) }()
	var peers []netip.Addr
	for _, ep := range group {
		peers = append(peers, ep.Addr)
	}
	if _, err := fw.admit(spare.Name, peers); err != nil {
		return err
	}
	for _, ep := range group {
		if err := fw.add(ep.Name, spare.Addr); err != nil {
			return err
		}
	}
	added, err := s.readRules(fw, append([]string{spare.Name}, names...))
	if err != nil {
		return err
	}
	t.Add("touched.add_vm", "count", float64(touched(held, added)), labels{"system": system})
	if err := s.prove(ctx, "touched.add_vm", append([]string{spare.Name}, names...)); err != nil {
		return err
	}
	if !s.shared.blank {
		return nil
	}
	if _, err := fw.admit(moved.Name, peers); err != nil {
		return err
	}
	for _, ep := range group {
		if err := fw.change(ep.Name, spare.Addr, moved.Addr); err != nil {
			return err
		}
	}
	held, err = s.readRules(fw, names)
	if err != nil {
		return err
	}
	for k := range added {
		if _, own := held[k]; !own && ofMachine(k, spare.Name) {
			held[k] = added[k] // its own rules: they go with it
		}
	}
	t.Add("touched.move_vm", "count", float64(touched(added, held)), labels{"system": system})
	if err := fw.shut(spare.Name); err != nil {
		return err
	}
	return s.prove(ctx, "touched.move_vm", append([]string{moved.Name}, names...))
}

func (s *setup) shut(fw firewall, names []string) (err error) {
	for _, name := range names {
		if name != "" {
			err = errors.Join(err, fw.shut(name))
		}
	}
	return err
}

func (s *setup) readRules(fw firewall, names []string) (entries, error) {
	all := entries{}
	for _, name := range names {
		e, err := fw.read(name)
		if err != nil {
			return nil, err
		}
		all = merge(all, e)
	}
	return all, nil
}

// twinFlows are the same flows between the machines' twins.
func (s *setup) twinFlows(flows []traffic.Flow) (out []traffic.Flow) {
	for _, f := range flows {
		out = append(out, traffic.Flow{From: s.shared.twins[f.From].Name, To: s.shared.twins[f.To].Name})
	}
	return out
}

// peersOf are the addresses that a twin may talk to: the others of its group.
func peersOf(groups map[string][]traffic.Endpoint, name string) (peers []netip.Addr) {
	for _, g := range groups {
		if !slices.ContainsFunc(g, func(e traffic.Endpoint) bool { return e.Name == name }) {
			continue
		}
		for _, e := range g {
			if e.Name != name {
				peers = append(peers, e.Addr)
			}
		}
	}
	return peers
}
