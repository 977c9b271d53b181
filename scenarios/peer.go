package scenarios

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/emu/traffic"
	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/topo"
)

// The experiment routing-peer.
//
// The same lab is built with the control plane of the testbed, with FRR at every
// PE and P, and, where the file says so of some routers, with both: a reference
// that no one here wrote. With each, in an order drawn for the trial, everything
// is built from nothing; every pair of machines is asked; a site leaves and
// joins; and a core link that is not the only way fails and comes back, while
// machines of all sites talk. All must end with the same reachability, and the
// times stand beside each other.
//
// Times are seconds by the lab kernel's monotonic clock.

// Systems of the experiment: who distributes labels and routes.
const (
	systemController = "controller" // this testbed: computed LSPs, GoBGP
	systemFRR        = "frr"        // OSPF, LDP and bgpd at every PE and P
	systemMixed      = "mixed"      // as the file has it: GoBGP PEs beside FRR PEs
)

const (
	peerTalk     = 4                      // flows while a link fails
	peerDeadline = 90 * time.Second       // for all VPN routes: FRR's daemons start slowly
	peerSettled  = 500 * time.Millisecond // probes go on for so long after they come through again
)

func routingPeer() kind {
	return kind{
		resolution: 50 * time.Millisecond,
		computes:   true,
		metricsOf: func(plan *topo.Plan, _ topo.Experiment) []metric {
			var systems []string
			for _, s := range peerSystems(plan) {
				systems = append(systems, s.name)
			}
			set := bySystem(systems...)
			var gaps []labels
			if _, ok := spareLink(plan); ok {
				gaps = set
			}
			return []metric{
				{"peer.start", "s", "from namespaces and links being there to the last VPN route in a kernel: processes started, LSPs, sessions, routes", set},
				{"peer.join", "s", "a site joins: first packet, both ways, between it and every other site", set},
				{"peer.outage", "s", "a core link goes down at both ends: longest run of lost probes", gaps},
				{"peer.probe_interval", "s", "median time between two probes of a flow: the resolution of outage", gaps},
				{"peer.pairs_allowed", "count", "ordered pairs of machines of one VPC", set},
				{"peer.pairs_reached", "count", "of them, those that reached", set},
				{"peer.leaks", "count", "pairs of different VPCs where anything arrived", set},
				{"peer.different", "count", "cells of the reachability matrix that are not as with the controller", bySystem(systems[1:]...)},
			}
		},
		check: func(plan *topo.Plan, e topo.Experiment) (msg, hint string) {
			for _, v := range plan.VPCs {
				if v.Service == "vpls" {
					return fmt.Sprintf("routing-peer runs FRR at every PE, and VPC %s is a vpls, which FRR does not signal", v.Name), "take l3vpn"
				}
			}
			return checkSetup(plan, e)
		},
		open: func(o opening) (session, error) {
			return &peers{lab: o.lab, base: o.plan, seed: o.seed}, nil
		},
	}
}

// peerSystem is the lab with one control plane.
type peerSystem struct {
	name string
	plan *topo.Plan
}

// peerSystems are those that a plan is compared in, the controller first.
func peerSystems(plan *topo.Plan) []peerSystem {
	all := []peerSystem{
		{systemController, plan.WithRouting(topo.RoutingController)},
		{systemFRR, plan.WithRouting(topo.RoutingFRR)},
	}
	if !plan.AllFRR() && slices.ContainsFunc(plan.Nodes, func(n topo.Node) bool { return n.Routing == topo.RoutingFRR }) {
		all = append(all, peerSystem{systemMixed, plan})
	}
	return all
}

// spareLink is a core link that machines use and whose failure parts nothing,
// a link between two Ps if there is one.
func spareLink(plan *topo.Plan) (topo.Operation, bool) {
	core := func(l topo.Link) (ps int) {
		for _, name := range []string{l.A.Node, l.B.Node} {
			n, _ := plan.Node(name)
			switch n.Kind {
			case topo.KindRR:
				return -1
			case topo.KindP:
				ps++
			}
		}
		return ps
	}
	links := slices.DeleteFunc(slices.Clone(plan.Links), func(l topo.Link) bool { return !l.Core || core(l) < 0 })
	slices.SortStableFunc(links, func(a, b topo.Link) int { return core(b) - core(a) })
	hops := func(p *topo.Plan) (n int) {
		for _, lsp := range p.LSPs {
			n += len(lsp.Hops)
		}
		return n
	}
	for _, l := range links {
		op := topo.Operation{Do: "fail", Link: []string{l.A.Node, l.B.Node}}
		if after, err := plan.Do(op); err == nil && hops(after) == hops(plan) && len(across(plan, op.Link)) > 0 {
			return op, true
		}
	}
	return topo.Operation{}, false
}

// across are flows between machines whose LSP crosses a link.
func across(plan *topo.Plan, link []string) (flows []traffic.Flow) {
	pe := map[string]string{} // of machines
	for _, a := range plan.Attachments() {
		for _, m := range a.Machines {
			pe[m] = a.PE
		}
	}
	joined := slices.DeleteFunc(plan.Attachments(), func(a topo.Attachment) bool { return !a.Joined || len(a.Machines) == 0 })
	for _, f := range sitePairs(joined) {
		path, err := plan.Path(pe[f.From], pe[f.To])
		if err != nil {
			continue
		}
		for i := range path[1:] {
			if slices.Contains(link, path[i]) && slices.Contains(link, path[i+1]) {
				flows = append(flows, f)
			}
		}
	}
	return flows
}

// peers is a session of routing-peer.
type peers struct {
	lab  Lab
	base *topo.Plan
	seed uint64
}

func (s *peers) close() {}

// recover leaves nothing behind: each system is built from nothing.
func (s *peers) recover(ctx context.Context) error { return s.lab.Destroy(ctx) }

func (s *peers) trial(ctx context.Context, _ point, _ int, t *metrics.Trial, rng *rand.Rand) error {
	systems := peerSystems(s.base)
	rng.Shuffle(len(systems), func(i, j int) { systems[i], systems[j] = systems[j], systems[i] })
	cells := map[string][]string{}
	for _, system := range systems {
		if err := s.lab.Destroy(ctx); err != nil {
			return err
		}
		sub := s.lab.Subscribe()
		m, err := s.system(ctx, system, t)
		err = errors.Join(err, keep(t, sub))
		sub.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", system.name, err)
		}
		cells[system.name] = m.Cells
	}
	for name, c := range cells {
		if name != systemController {
			t.Add("peer.different", "count", float64(differentCells(cells[systemController], c)), labels{"system": name})
		}
	}
	return nil
}

func differentCells(a, b []string) (n int) {
	for i := range a {
		for j := range a[i] {
			if a[i][j] != b[i][j] {
				n++
			}
		}
	}
	return n
}

// system builds the lab with one control plane, from nothing, and does to it
// what the experiment is about.
func (s *peers) system(ctx context.Context, system peerSystem, t *metrics.Trial) (*traffic.Matrix, error) {
	set := labels{"system": system.name}
	tl, err := s.lab.ApplyWith(ctx, system.plan, lab.ApplyOptions{Deadline: peerDeadline})
	if err != nil {
		return nil, err
	}
	t.Add("peer.start", "s", tl.Programmed.Sub(tl.Fabric).Seconds(), set)
	prober, err := traffic.Open(s.lab.Fabric().Do, endpointsOf(system.plan))
	if err != nil {
		return nil, err
	}
	defer prober.Close()
	m, err := s.matrix(ctx, prober, system.plan, t, set)
	if err != nil {
		return nil, err
	}
	if err := s.join(ctx, prober, system.plan, t, set); err != nil {
		return nil, err
	}
	return m, s.outage(ctx, prober, system.plan, t, set)
}

func (s *peers) matrix(ctx context.Context, prober *traffic.Prober, plan *topo.Plan, t *metrics.Trial, set labels) (*traffic.Matrix, error) {
	m, err := prober.Matrix(ctx, traffic.MatrixConfig{Deadline: matrixDeadline, Seed: s.seed, Rounds: matrixRounds, Allowed: mayReach(plan)})
	if m == nil {
		return nil, err
	}
	t.Add("peer.pairs_allowed", "count", float64(m.Allowed), set)
	t.Add("peer.pairs_reached", "count", float64(m.Reached), set)
	t.Add("peer.leaks", "count", float64(m.Leaks), set)
	name := "matrix.json"
	if set["system"] != systemController {
		name = "matrix-" + set["system"] + ".json"
	}
	return m, errors.Join(err, t.WriteJSON(name, evidence(m)))
}

// join has the first VPC's last site leave and join again.
func (s *peers) join(ctx context.Context, prober *traffic.Prober, plan *topo.Plan, t *metrics.Trial, set labels) error {
	sites := slices.DeleteFunc(slices.Clone(plan.VPCs[0].Attachments), func(a topo.Attachment) bool { return !a.Joined || len(a.Machines) == 0 })
	newcomer := sites[len(sites)-1]
	opt := lab.ApplyOptions{Trust: true, Deadline: peerDeadline}
	if _, err := s.lab.ApplyWith(ctx, plan.Detach(func(a topo.Attachment) bool { return memberOf(a) == memberOf(newcomer) }), opt); err != nil {
		return fmt.Errorf("leave: %w", err)
	}
	train, err := prober.StartTrain(traffic.TrainConfig{Flows: spokes(newcomer, sites), Interval: trainInterval, UntilFirst: true})
	if err != nil {
		return err
	}
	defer func() { _, _ = train.Stop(ctx) }() // a train that was stopped stays so
	tl, err := s.lab.ApplyWith(ctx, plan, opt)
	if err != nil {
		return fmt.Errorf("join: %w", err)
	}
	r, err := firsts(ctx, train)
	if err != nil {
		return fmt.Errorf("join: %w", err)
	}
	first, err := lastFirst(r)
	if err != nil {
		return err
	}
	t.Add("peer.join", "s", first.Sub(tl.Request).Seconds(), set)
	return nil
}

// outage takes a core link down while machines talk, and up again. With the
// controller the new LSPs follow from the same request that takes the link
// down; FRR's daemons notice it by themselves.
func (s *peers) outage(ctx context.Context, prober *traffic.Prober, plan *topo.Plan, t *metrics.Trial, set labels) error {
	fail, ok := spareLink(plan)
	if !ok {
		return nil
	}
	flows := across(plan, fail.Link)
	talk, err := prober.StartTrain(traffic.TrainConfig{Flows: flows[:min(peerTalk, len(flows))], Interval: trainInterval, Duty: talkDuty})
	if err != nil {
		return err
	}
	defer func() { _, _ = talk.Stop(ctx) }() // a train that was stopped stays so
	if err := waitFirst(ctx, talk); err != nil {
		return fmt.Errorf("before %s: %w", fail, err)
	}
	opt := lab.ApplyOptions{Trust: true, Deadline: peerDeadline}
	if _, err := s.lab.Operate(ctx, fail, opt); err != nil {
		return err
	}
	if err := s.around(ctx, prober, flows); err != nil {
		return fmt.Errorf("after %s: %w", fail, err)
	}
	r, err := talk.Stop(ctx)
	if err != nil {
		return err
	}
	longest := time.Duration(0)
	for _, f := range r.Flows {
		for _, g := range f.Gaps {
			longest = max(longest, g.Length())
		}
		if n := len(f.Gaps); n > 0 && f.Gaps[n-1].Seq+f.Gaps[n-1].Lost == f.Sent {
			return fmt.Errorf("after %s, %s reached %s once more and then no longer", fail, f.From, f.To)
		}
	}
	t.Add("peer.outage", "s", longest.Seconds(), set)
	t.Add("peer.probe_interval", "s", r.Interval.Seconds(), set)
	restore := fail
	restore.Do = "restore"
	_, err = s.lab.Operate(ctx, restore, opt)
	return err
}

// around waits until packets of all flows come through again, and a little
// longer.
func (s *peers) around(ctx context.Context, prober *traffic.Prober, flows []traffic.Flow) error {
	again, err := prober.StartTrain(traffic.TrainConfig{Flows: flows, Interval: talkInterval, UntilFirst: true})
	if err != nil {
		return err
	}
	defer func() { _, _ = again.Stop(ctx) }() // a train that was stopped stays so
	if err := waitFirst(ctx, again); err != nil {
		return err
	}
	return wait(ctx, peerSettled)
}
