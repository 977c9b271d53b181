package scenarios

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/emu/traffic"
	"github.com/vpclab/vpclab/topo"
)

const (
	// moveSilence is how long nobody speaks for a VM that moved silently.
	moveSilence = 200 * time.Millisecond
	// moveSettled is how long probes go on after the first that came through,
	// so that the end of an outage is seen.
	moveSettled  = 60 * time.Millisecond
	moveDeadline = 10 * time.Second
)

// moves moves the VM between home and away: while it talks, as an operator
// would see it; while it says nothing and its new host announces it; and twice
// with nobody announcing it, until it speaks and until the bridges are flushed.
func (r *lanTrial) moves(ctx context.Context) error {
	mute := func() error {
		_, err := r.lab.ApplyWith(ctx, muted(r.lab.Plan(), r.vm), lab.ApplyOptions{Trust: true})
		return err
	}
	there, back := traffic.Flow{From: r.peer, To: r.vm}, traffic.Flow{From: r.vm, To: r.peer}
	for _, step := range []struct {
		how string
		do  func() error
	}{
		{"while it talks", func() error { return r.announced(ctx, r.away, "talking", there, back) }},
		{"announced", func() error { return errors.Join(mute(), r.announced(ctx, r.home, "announced", there)) }},
		{"unannounced until it speaks", func() error { return r.silent(ctx, r.away, "spoke", func() error { return r.first(ctx, back) }) }},
		{"unannounced until bridges are flushed", func() error { return r.silent(ctx, r.home, "flushed", r.flush) }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("move %s between %s and %s, %s: %w", r.vm, r.home.name, r.away.name, step.how, err)
		}
	}
	if _, err := r.lab.ApplyWith(ctx, r.base, lab.ApplyOptions{Trust: true}); err != nil {
		return err
	}
	return r.greet(ctx) // the VM too: it is known again
}

func (r *lanTrial) move(to lanHost) topo.Operation {
	return topo.Operation{Do: "move", VM: r.vm, Host: to.name}
}

// announced moves the VM as an operator does, with probes over some flows.
func (r *lanTrial) announced(ctx context.Context, to lanHost, kind string, flows ...traffic.Flow) error {
	train, err := r.prober.StartTrain(traffic.TrainConfig{Flows: flows, Interval: trainInterval, Duty: 0.5})
	if err != nil {
		return err
	}
	defer func() { _, _ = train.Stop(ctx) }() // a train that was stopped stays so
	if err := waitFirst(ctx, train); err != nil {
		return err
	}
	mac, before := r.whereabouts()
	tl, err := r.lab.Operate(ctx, r.move(to), lab.ApplyOptions{Trust: true})
	if err != nil {
		return err
	}
	// Every bridge that had the VM behind another port than it has now.
	deadline, cancel := context.WithTimeoutCause(ctx, moveDeadline, fmt.Errorf("waited %v", moveDeadline))
	defer cancel()
	known, err := r.watch.Wait(deadline, mac, r.turning(), func(b fabric.BridgeAt, p fabric.MACPlace) bool {
		return p.Port != 0 && p.Port != before[b].Port
	})
	if err != nil {
		return err
	}
	// The VM may have asked for its peer before its port forwarded, and then
	// asks again a second later.
	if err := r.through(ctx, flows...); err != nil {
		return err
	}
	result, err := train.Stop(ctx)
	if err != nil {
		return err
	}
	longest := time.Duration(0)
	for _, f := range result.Flows {
		for _, g := range f.Gaps {
			longest = max(longest, g.Length())
		}
	}
	if result.Interval == 0 {
		return fmt.Errorf("the probes stood still: %d were sent", result.Sent)
	}
	set := labels{"system": systemVPLS, "kind": kind}
	r.t.Add("lan.move_outage", "s", longest.Seconds(), set)
	r.t.Add("lan.move_known", "s", known.Sub(tl.Request).Seconds(), set)
	r.t.Add("lan.move_interval", "s", result.Interval.Seconds(), set)
	return nil
}

// whereabouts is where the bridges have the VM now.
func (r *lanTrial) whereabouts() (topo.MAC, map[fabric.BridgeAt]fabric.MACPlace) {
	wire, _ := wireOf(r.base, r.vm)
	places := map[fabric.BridgeAt]fabric.MACPlace{}
	for _, b := range r.bridges() {
		places[b] = r.watch.At(b, wire.A.MAC)
	}
	return wire.A.MAC, places
}

// turning are the bridges behind another port of which the VM is after a move
// between home and away: those of all PEs, and at the two sites those of the CE
// and of the VM's host.
func (r *lanTrial) turning() (all []fabric.BridgeAt) {
	for _, b := range r.bridges() {
		n, _ := r.base.Node(b.Node)
		switch n.Kind {
		case topo.KindPE:
			all = append(all, b)
		case topo.KindCE:
			if n.Site == r.home.site || n.Site == r.away.site {
				all = append(all, b)
			}
		case topo.KindHost:
			if n.Name == r.home.node || n.Name == r.away.node {
				all = append(all, b)
			}
		}
	}
	return all
}

// silent moves the VM with nobody telling, and looks on: nothing is to arrive
// there. Then something is done about it.
func (r *lanTrial) silent(ctx context.Context, to lanHost, kind string, act func() error) error {
	plan, err := r.lab.Plan().Do(r.move(to))
	if err != nil {
		return err
	}
	plan = muted(plan, r.vm)
	// One way only: a VM that answers has spoken.
	there := traffic.Flow{From: r.peer, To: r.vm}
	train, err := r.prober.StartTrain(traffic.TrainConfig{Flows: []traffic.Flow{there}, Interval: trainInterval, Duty: 0.5, Log: true})
	if err != nil {
		return err
	}
	defer func() { _, _ = train.Stop(ctx) }() // a train that was stopped stays so
	if err := waitFirst(ctx, train); err != nil {
		return err
	}
	if _, err := r.lab.ApplyWith(ctx, plan, lab.ApplyOptions{Trust: true}); err != nil {
		return err
	}
	moved := event.Now()
	if err := wait(ctx, moveSilence); err != nil {
		return err
	}
	acted := event.Now()
	if err := act(); err != nil {
		return err
	}
	if err := r.through(ctx, there); err != nil {
		return fmt.Errorf("it was to be found again (%s): %w", kind, err)
	}
	result, err := train.Stop(ctx)
	if err != nil {
		return err
	}
	sent, arrived, back := 0, 0, event.Mono(0)
	result.Each(0, func(_ uint64, at event.Mono, _ bool) {
		if at >= moved && at < acted {
			sent++
		}
	})
	for _, a := range result.Flows[0].Arrivals {
		switch {
		case a.Received >= acted && (back == 0 || a.Received < back):
			back = a.Received
		case a.Sent >= moved && a.Received < acted:
			arrived++
		}
	}
	if back == 0 {
		return fmt.Errorf("%v after it was found again (%s), the other probes do not reach it", moveSettled, kind)
	}
	set := labels{"system": systemVPLS, "kind": kind}
	r.t.Add("lan.silent_sent", "count", float64(sent), set)
	r.t.Add("lan.silent_arrived", "count", float64(arrived), set)
	r.t.Add("lan.move_recovery", "s", back.Sub(acted).Seconds(), set)
	return nil
}

// muted is the plan with IPv6 off in a machine. With it a machine is never
// silent: when its interface comes up, it tells the groups that it listens to
// (RFC 3810) and looks for others with its address (RFC 4862).
func muted(plan *topo.Plan, machine string) *topo.Plan {
	q := *plan
	q.Nodes = slices.Clone(plan.Nodes)
	for i := range q.Nodes {
		if q.Nodes[i].Name == machine {
			q.Nodes[i].IPv6 = false
		}
	}
	return &q
}

// through waits until probes come through by all flows, and a little longer so
// that those of another train do.
func (r *lanTrial) through(ctx context.Context, flows ...traffic.Flow) error {
	if err := r.first(ctx, flows...); err != nil {
		return err
	}
	return wait(ctx, moveSettled)
}

// first sends probes until the first has come through by each flow.
func (r *lanTrial) first(ctx context.Context, flows ...traffic.Flow) error {
	train, err := r.prober.StartTrain(traffic.TrainConfig{Flows: flows, Interval: trainInterval, UntilFirst: true})
	if err != nil {
		return err
	}
	_, err = firsts(ctx, train)
	return err
}

// flush has all bridges of the LAN forget what they know.
func (r *lanTrial) flush() error { return r.lab.Fabric().FlushMACs(r.bridges()...) }
