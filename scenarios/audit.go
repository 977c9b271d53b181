package scenarios

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/vpclab/vpclab/emu/audit"
	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/topo"
)

// The experiment audit: the whole lab is built, everything joined, and asked
// from the outside who reaches whom (package audit). Each trial asks all of it
// again, in another order.

// Layers that a leak can be found at: the label "layer".
const (
	layerIP     = "ip"     // packets between machines
	layerFrame  = "frame"  // Ethernet frames between machines
	layerAttack = "attack" // what hostile customers try
)

// auditDeadline is how long an allowed pair may take to answer.
const auditDeadline = 10 * time.Second

// attackKinds are the values of the label "attack".
var attackKinds = []audit.Kind{audit.KindSpoofedIP, audit.KindProvider, audit.KindSpoofedMAC, audit.KindLabel, audit.KindLabelStack}

func isolationAudit() kind {
	by := func(label string, values ...string) (sets []labels) {
		for _, v := range values {
			sets = append(sets, labels{label: v})
		}
		return sets
	}
	var attacks []string
	for _, k := range attackKinds {
		attacks = append(attacks, string(k))
	}
	layers := by("layer", layerIP, layerFrame)
	return kind{
		resolution: time.Second, // it counts
		computes:   true,
		guests:     true,
		metrics: []metric{
			{"audit.pairs", "count", "ordered pairs of machines, all of which are asked", nil},
			{"audit.pairs_allowed", "count", "of them, those that must reach: by IP in one VPC, by frames on one LAN", layers},
			{"audit.pairs_reached", "count", "of them, those that do", layers},
			{"audit.pairs_forbidden", "count", "pairs that must not reach, and can be asked", layers},
			{"audit.leaks", "count", "what was seen where it must not be", by("layer", layerIP, layerFrame, layerAttack)},
			{"audit.doubled", "count", "pairs of which a frame arrived twice", nil},
			{"audit.attacks", "count", "attacks tried", by("attack", attacks...)},
			{"audit.attacks_entered", "count", "of them, those seen to enter the PE", by("attack", attacks...)},
			{"audit.attacks_leaked", "count", "of them, those that leaked", by("attack", attacks...)},
			{"audit.time", "s", "the whole audit", nil},
			{"audit.pair_rate", "pairs/s", "ordered pairs asked in a second, attacks included", nil},
		},
		check: func(plan *topo.Plan, _ topo.Experiment) (msg, hint string) {
			if len(plan.Machines()) == 0 {
				return "audit needs machines, and there are none", "give sites machines: or a VPC vms"
			}
			return "", ""
		},
		open: func(o opening) (session, error) { return openAudit(o) },
	}
}

// auditing is a session of audit.
type auditing struct {
	lab  Lab
	plan *topo.Plan
	seed uint64
}

func openAudit(o opening) (*auditing, error) {
	tl, err := o.lab.Apply(o.ctx, o.plan)
	if err != nil {
		return nil, err
	}
	o.built(o.plan, tl.Total())
	return &auditing{o.lab, o.plan, o.seed}, nil
}

func (a *auditing) close() {}

func (a *auditing) recover(ctx context.Context) error {
	_, err := a.lab.Apply(ctx, a.plan)
	return err
}

// trial is one audit. Leaks and pairs that do not reach are measured values,
// for expectations to judge, and no failure of the trial.
func (a *auditing) trial(ctx context.Context, _ point, number int, t *metrics.Trial, _ *rand.Rand) error {
	sub := a.lab.Subscribe()
	defer sub.Close()
	r, err := audit.Run(ctx, audit.Config{Plan: a.plan, Enter: a.lab.Fabric().Do, Deadline: auditDeadline, Seed: a.seed + uint64(number)})
	if err != nil {
		return err
	}
	addAudit(t, r)
	for name, v := range map[string]any{"audit.json": r, "matrix.json": auditEvidence(r.IP), "matrix-frames.json": auditEvidence(r.Frames)} {
		if err := t.WriteJSON(name, v); err != nil {
			return err
		}
	}
	return keep(t, sub)
}

// addAudit stores what an audit found.
func addAudit(t *metrics.Trial, r *audit.Report) {
	count := func(name string, n int, set labels) { t.Add(name, "count", float64(n), set) }
	count("audit.pairs", r.Pairs(), nil)
	leaks := map[string]int{}
	for _, l := range r.Leaks {
		switch l.Kind {
		case audit.KindIP:
			leaks[layerIP]++
		case audit.KindFrame:
			leaks[layerFrame]++
		default:
			leaks[layerAttack]++
		}
	}
	unreached := map[string]int{}
	for _, p := range r.Unreached {
		unreached[p.By]++
	}
	for layer, m := range map[string]audit.Matrix{layerIP: r.IP, layerFrame: r.Frames} {
		set := labels{"layer": layer}
		count("audit.pairs_allowed", m.Allowed, set)
		count("audit.pairs_reached", m.Allowed-unreached[layer], set)
		count("audit.pairs_forbidden", m.Forbidden, set)
	}
	for _, layer := range []string{layerIP, layerFrame, layerAttack} {
		count("audit.leaks", leaks[layer], labels{"layer": layer})
	}
	count("audit.doubled", len(r.Doubled), nil)
	for _, c := range r.Attacks {
		set := labels{"attack": string(c.Kind)}
		count("audit.attacks", c.Tried, set)
		count("audit.attacks_entered", c.Entered, set)
		count("audit.attacks_leaked", c.Leaked, set)
	}
	t.Add("audit.time", "s", r.Seconds.All, nil)
	t.Add("audit.pair_rate", "pairs/s", r.PairsPerSecond(), nil)
}

// auditEvidence is a matrix in the form that is stored.
func auditEvidence(m audit.Matrix) metrics.Matrix {
	out := metrics.Matrix{Cells: m.Cells}
	for _, e := range m.Endpoints {
		out.Endpoints = append(out.Endpoints, metrics.MatrixEndpoint{Name: e.Name, VPC: e.VPC, Site: e.Site, Addr: e.Addr})
	}
	return out
}
