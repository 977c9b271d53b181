package scenarios

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/emu/traffic"
	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/topo"
)

// The experiment vpc-operations.
//
// A trial begins with the lab as the file has it. Then the events are carried
// out one after the other, each at its time or as soon as the one before it is
// done, and each is timed as an operator would see it: from the request to the
// last kernel that had to change, and to the first packet between what the
// operation brought and the rest of its VPC. Others talk all the while. At the
// end every pair of machines is asked.
//
// Times are seconds since the request, by the lab kernel's monotonic clock.

const (
	operationTalk = 4 // flows between machines that no operation is about
)

func vpcOperations() kind {
	return kind{
		resolution:  50 * time.Millisecond,
		computes:    true,
		metricsOf:   operationMetrics,
		takesEvents: true,
		check: func(plan *topo.Plan, _ topo.Experiment) (msg, hint string) {
			if len(plan.VPCs) == 0 {
				return "vpc-operations needs a VPC to begin with, and there is none", "add vpcs"
			}
			return "", ""
		},
		open: func(o opening) (session, error) { return openOperations(o) },
	}
}

// operationMetrics are those of an experiment with these events.
func operationMetrics(_ *topo.Plan, e topo.Experiment) []metric {
	var all, packets, gaps []labels
	for i, ev := range e.Events {
		set := labels{"operation": operationName(e.Events, i)}
		all = append(all, set)
		switch ev.Do {
		case "create", "join", "add", "replicate":
			packets = append(packets, set)
		case "move", "fail", "restore":
			gaps = append(gaps, set)
		}
	}
	return []metric{
		{"operation.configured", "s", "last PE has acknowledged its configuration", all},
		{"operation.policy", "s", "route reflector has acknowledged the route-target policy", all},
		{"operation.announced", "s", "last PE has announced", all},
		{"operation.programmed", "s", "last VPN route or pseudowire is in, or out of, the kernel of the last PE", all},
		{"operation.first_packet", "s", "first packet has come through, both ways, between what came and every other site of its VPC", packets},
		{"operation.outage", "s", "longest run of lost probes: move: to and from the VM; fail, restore: among those who talk", gaps},
		{"operation.announcements", "count", "BGP updates that the PE with most of them received", all},
		{"operation.routers", "count", "PEs and reflector whose VPN configuration changed", all},
		{"operation.vm_commands", "count", "entries that changed in machines and CEs that were there before, a new circuit's own and a moved VM's apart", all},
		{"operations.probes_sent", "count", "probes among those who talk meanwhile", nil},
		{"operations.probes_lost", "count", "of them, those lost", nil},
		{"operations.pairs_allowed", "count", "ordered pairs of machines that may reach each other at the end", nil},
		{"operations.pairs_reached", "count", "of them, those that reached", nil},
		{"operations.leaks", "count", "pairs that may not, and where something arrived", nil},
	}
}

// operationName tells operations of one experiment apart: what is done, with a
// number where it is done again.
func operationName(events []topo.Event, i int) string {
	nth := 1
	for _, e := range events[:i] {
		if e.Do == events[i].Do {
			nth++
		}
	}
	if nth == 1 {
		return events[i].Do
	}
	return fmt.Sprintf("%s-%d", events[i].Do, nth)
}

// operations is a session of vpc-operations.
type operations struct {
	lab    Lab
	base   *topo.Plan
	events []topo.Event
	prober *traffic.Prober
	seed   uint64
}

func openOperations(o opening) (*operations, error) {
	s := &operations{lab: o.lab, base: o.plan, events: o.experiment.Events, seed: o.seed}
	tl, err := o.lab.Apply(o.ctx, s.base)
	if err != nil {
		return nil, err
	}
	o.built(s.base, tl.Total())
	if s.prober, err = traffic.Open(o.lab.Fabric().Do, endpointsOf(s.base)); err != nil {
		return nil, err
	}
	return s, nil
}

// endpointsOf are the machines of a plan as the prober wants them.
func endpointsOf(plan *topo.Plan) (eps []traffic.Endpoint) {
	for _, n := range plan.Machines() {
		eps = append(eps, traffic.Endpoint{Name: n.Name, VPC: n.VPC, Site: n.Site, Addr: n.Addr})
	}
	return eps
}

func (s *operations) close() { s.prober.Close() }

func (s *operations) missed() int { return s.prober.Missed() }

// recover brings the lab back to what the file says.
func (s *operations) recover(ctx context.Context) error {
	if _, err := s.lab.Apply(ctx, s.base); err != nil {
		return err
	}
	return s.sockets(s.base)
}

// sockets has the prober in exactly the machines of a plan, under their
// addresses of now. A machine that moved with its address keeps its socket.
func (s *operations) sockets(plan *topo.Plan) error {
	want := endpointsOf(plan)
	same := func(a, b traffic.Endpoint) bool { return a.Name == b.Name && a.VPC == b.VPC && a.Addr == b.Addr }
	in := func(list []traffic.Endpoint, e traffic.Endpoint) bool {
		return slices.ContainsFunc(list, func(o traffic.Endpoint) bool { return same(o, e) })
	}
	for _, had := range s.prober.Endpoints() {
		if !in(want, had) {
			s.prober.Remove(had.Name)
		}
	}
	have := s.prober.Endpoints()
	return s.prober.Add(slices.DeleteFunc(want, func(e traffic.Endpoint) bool { return in(have, e) })...)
}

func (s *operations) trial(ctx context.Context, _ point, number int, t *metrics.Trial, _ *rand.Rand) error {
	if _, err := s.lab.ApplyWith(ctx, s.base, lab.ApplyOptions{Trust: true}); err != nil {
		return err
	}
	if err := s.sockets(s.base); err != nil {
		return err
	}
	sub := s.lab.Subscribe()
	defer sub.Close()
	talk, err := s.prober.StartTrain(traffic.TrainConfig{Flows: rings(s.bystanders(), operationTalk), Interval: talkInterval, Duty: talkDuty})
	if err != nil {
		return err
	}
	defer func() { _, _ = talk.Stop(ctx) }() // a train that was stopped stays so
	ev := &record{}
	began := event.Now()
	for i, e := range s.events {
		if err := wait(ctx, e.At.Std()-event.Now().Sub(began)); err != nil {
			return err
		}
		st := &operationStep{operations: s, op: e.Operation, set: labels{"operation": operationName(s.events, i)}, count: number == 1, trial: t, record: ev}
		if err := st.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", operationName(s.events, i), err)
		}
		if err := st.announcements(sub); err != nil {
			return err
		}
	}
	return s.end(ctx, talk, t, ev)
}

// bystanders are the attachments that no operation is about, with those of
// their machines that none is about.
func (s *operations) bystanders() (apart []topo.Attachment) {
	about := map[member]bool{}
	vms := map[string]bool{}
	for _, e := range s.events {
		switch e.Do {
		case "join", "leave":
			about[member{e.VPC, e.Site}] = true
		case "delete":
			for _, a := range s.base.Attachments() {
				about[memberOf(a)] = about[memberOf(a)] || a.VPC == e.VPC
			}
		case "move", "remove":
			vms[e.VM] = true
		}
	}
	for _, a := range s.base.Attachments() {
		a.Machines = slices.DeleteFunc(slices.Clone(a.Machines), func(m string) bool { return vms[m] })
		if a.Joined && len(a.Machines) > 0 && !about[memberOf(a)] {
			apart = append(apart, a)
		}
	}
	return apart
}

// end asks every pair and stores what the others noticed.
func (s *operations) end(ctx context.Context, talk *traffic.Train, t *metrics.Trial, ev *record) error {
	r, err := talk.Stop(ctx)
	if err != nil {
		return err
	}
	t.Add("operations.probes_sent", "count", float64(r.Sent), nil)
	t.Add("operations.probes_lost", "count", float64(r.Lost), nil)
	if err := t.WriteJSON("train.json", ev.train(r)); err != nil {
		return err
	}
	m, err := s.prober.Matrix(ctx, traffic.MatrixConfig{Deadline: matrixDeadline, Seed: s.seed, Rounds: matrixRounds, Allowed: mayReach(s.lab.Plan())})
	if m == nil {
		return err
	}
	t.Add("operations.pairs_allowed", "count", float64(m.Allowed), nil)
	t.Add("operations.pairs_reached", "count", float64(m.Reached), nil)
	t.Add("operations.leaks", "count", float64(m.Leaks), nil)
	if werr := t.WriteJSON("matrix.json", evidence(m)); werr != nil {
		return werr
	}
	return err
}

// mayReach says which machines of a plan may reach each other: those of one
// VPC, at one site or at two that have joined.
func mayReach(plan *topo.Plan) func(from, to traffic.Endpoint) bool {
	joined, at := map[member]bool{}, map[string]member{}
	for _, a := range plan.Attachments() {
		joined[memberOf(a)] = a.Joined
	}
	for _, n := range plan.Machines() {
		at[n.Name] = member{n.VPC, n.Site}
	}
	return func(from, to traffic.Endpoint) bool {
		a, b := at[from.Name], at[to.Name]
		return a.vpc == b.vpc && (a.site == b.site || joined[a] && joined[b])
	}
}
