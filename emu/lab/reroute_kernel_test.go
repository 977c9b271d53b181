package lab

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/emu/mpls"
	probes "github.com/vpclab/vpclab/emu/traffic"
	"github.com/vpclab/vpclab/topo"
)

// failing is a lab to which links are cut while a train runs through it.
type failing struct {
	*Lab
	t      *testing.T
	prober *probes.Prober
	events *Subscription
}

func newFailing(t *testing.T, text string) *failing {
	t.Helper()
	l, plan := deployed(t, text)
	var eps []probes.Endpoint
	for _, n := range plan.Machines() {
		eps = append(eps, probes.Endpoint{Name: n.Name, VPC: n.VPC, Site: n.Site, Addr: n.Addr})
	}
	p, err := probes.Open(l.Fabric().Do, eps)
	require.NoError(t, err)
	t.Cleanup(p.Close)
	f := &failing{Lab: l, t: t, prober: p, events: l.Subscribe()}
	t.Cleanup(f.events.Close)
	require.NoError(t, l.Awake(limit(t)))
	return f
}

// set takes both ends of the core link between two routers down, or up again.
func (f *failing) set(a, b string, up bool) {
	f.t.Helper()
	for _, end := range [][2]string{{a, b}, {b, a}} { // interfaces are named after neighbours
		require.NoError(f.t, f.Fabric().Do(end[0], func() error {
			dev, err := netlink.LinkByName(end[1])
			if err != nil {
				return err
			}
			if up {
				return netlink.LinkSetUp(dev)
			}
			return netlink.LinkSetDown(dev)
		}))
	}
}

// await is the next event of a kind with this attribute.
func (f *failing) await(ctx context.Context, kind, attr, value string) event.Event {
	f.t.Helper()
	for {
		e := f.next(ctx)
		if e.Kind == "reroute.failed" {
			f.t.Fatal(e.Attr)
		}
		if e.Kind == kind && e.Attr[attr] == value {
			return e
		}
	}
}

// asPlanned holds the kernels against the plan: nothing that routers did by
// themselves is left. That a link is down is what was done to it.
func (f *failing) asPlanned() {
	f.t.Helper()
	state := fabric.Compile(f.Plan())
	mpls.Compile(f.Plan(), &state)
	changes, err := f.Fabric().Plan(state)
	require.NoError(f.t, err)
	for _, c := range changes {
		if !strings.HasPrefix(c.String(), "~ link ") {
			f.t.Errorf("not as planned: %s", c)
		}
	}
}

// train runs through the lab while fn goes on and returns the longest gap of
// any flow.
func (f *failing) train(ctx context.Context, flows []probes.Flow, fn func()) time.Duration {
	f.t.Helper()
	train, err := f.prober.StartTrain(probes.TrainConfig{Flows: flows, Interval: time.Millisecond, Duty: 0.5})
	require.NoError(f.t, err)
	require.NoError(f.t, train.WaitFirst(ctx))
	fn()
	r, err := train.Stop(ctx)
	require.NoError(f.t, err)
	var longest time.Duration
	lost := uint64(0)
	for _, flow := range r.Flows {
		lost += flow.Lost
		for _, g := range flow.Gaps {
			longest = max(longest, g.Length())
		}
	}
	f.t.Logf("%d probes lost of %d, longest gap %v; a probe every %v, at most %v", lost, r.Sent, longest, r.Interval, r.Longest)
	return longest
}

func both(a, b string) []probes.Flow { return []probes.Flow{{From: a, To: b}, {From: b, To: a}} }

// A link is cut; routers go around it by themselves, then the controller leads
// paths elsewhere; the link is back, and after a while so are the paths.
func TestPathsAroundACutLink(t *testing.T) {
	kerneltest.Need(t)
	f := newFailing(t, square)
	plan := f.Plan()
	ctx := limit(t)
	flows := both(plan.Machines()[0].Name, plan.Machines()[1].Name)
	for _, cut := range [][2]string{{"p1", "pe2"}, {"pe1", "p1"}} {
		name := cut[0] + "--" + cut[1]
		outage := f.train(ctx, flows, func() {
			f.set(cut[0], cut[1], false)
			f.await(ctx, "reroute.applied", "links", linkOf(plan, name))
		})
		t.Logf("%s cut: outage %v", name, outage)
		require.True(t, slices.ContainsFunc(f.Plan().Links, func(l topo.Link) bool { return l.Lost }))
		f.asPlanned()
		back := f.train(ctx, flows, func() {
			f.set(cut[0], cut[1], true)
			f.await(ctx, "reroute.applied", "links", "")
		})
		t.Logf("%s back: outage %v", name, back)
		f.asPlanned()
		if f.Plan().Bypasses == nil || fmt.Sprint(f.Plan().LSPs) != fmt.Sprint(plan.LSPs) {
			t.Errorf("with %s back the paths are not what they were", name)
		}
	}
}

// Without bypasses the controller alone leads around a link: an outage, and a
// short one.
func TestPathsWithoutBypasses(t *testing.T) {
	kerneltest.Need(t)
	f := newFailing(t, strings.Replace(square, "{detect: [carrier]}", "{detect: [carrier], local: none}", 1))
	plan := f.Plan()
	require.Empty(t, plan.Bypasses)
	ctx := limit(t)
	flows := both(plan.Machines()[0].Name, plan.Machines()[1].Name)
	var heal func()
	outage := f.train(ctx, flows, func() {
		heal = f.strike(fabric.Wound{Dark: []fabric.EndAt{{Node: "p1", Ifname: "pe2"}, {Node: "pe2", Ifname: "p1"}}})
		f.rerouted(ctx, func(p *topo.Plan) bool { return p.Links[2].Lost })
	})
	t.Logf("outage %v", outage)
	if outage > 2*time.Second {
		t.Errorf("the controller took %v", outage)
	}
	f.asPlanned()
	heal()
	f.rerouted(ctx, func(p *topo.Plan) bool { return !p.Links[2].Lost })
	f.asPlanned()
}

// A site of a VPLS has a circuit to two PEs, of which one is open: without a
// failure its LAN has no loop, and when the PE that forwards is gone the other
// does, with MACs learned anew.
func TestTwoPEsOfAVPLS(t *testing.T) {
	kerneltest.Need(t)
	f := newFailing(t, strings.Replace(square, "l3vpn", "vpls", 1))
	plan := f.Plan()
	ctx := limit(t)
	west, east := plan.Machines()[0].Name, plan.Machines()[1].Name
	train, err := f.prober.StartTrain(probes.TrainConfig{Flows: both(west, east), Duty: 0.5})
	require.NoError(t, err)
	require.NoError(t, train.WaitFirst(ctx))
	r, err := train.Stop(ctx)
	require.NoError(t, err)
	for _, flow := range r.Flows {
		require.Zero(t, flow.Double, "%s to %s: no frame arrives twice", flow.From, flow.To)
	}

	var heal func()
	outage := f.train(ctx, both(west, east), func() {
		heal = f.strike(darken(plan, "pe2"))
		f.rerouted(ctx, func(p *topo.Plan) bool { return apart(p)["pe2"] })
		f.arrives(ctx, west, east)
	})
	t.Logf("pe2 gone: outage %v", outage)
	back := f.train(ctx, both(west, east), func() {
		heal()
		f.rerouted(ctx, func(p *topo.Plan) bool { return len(apart(p)) == 0 })
		f.arrives(ctx, west, east)
	})
	t.Logf("pe2 back: outage %v", back)
}

// The circuit to the first PE is cut: the site takes the other one, and what
// still comes to the first PE is sent on to the second. Nobody has to be told.
func TestCutCircuitOfASiteWithTwoPEs(t *testing.T) {
	kerneltest.Need(t)
	f := newFailing(t, square)
	plan := f.Plan()
	ctx := limit(t)
	west, east := plan.Machines()[0].Name, plan.Machines()[1].Name
	v, _ := plan.VPC("x")
	a := v.Attachments[1]
	outage := f.train(ctx, both(west, east), func() {
		heal := f.strike(fabric.Wound{Dark: []fabric.EndAt{{Node: a.PE, Ifname: a.PEIf}, {Node: a.CE, Ifname: "wan"}}})
		f.arrives(ctx, west, east)
		heal()
		f.arrives(ctx, west, east)
	})
	t.Logf("circuit cut and whole again: outage %v", outage)
	if outage > 500*time.Millisecond {
		t.Errorf("%v without a way", outage)
	}
	f.asPlanned()
}

// arrives waits until a packet gets from one machine to another and back.
func (f *failing) arrives(ctx context.Context, a, b string) {
	f.t.Helper()
	train, err := f.prober.StartTrain(probes.TrainConfig{Flows: both(a, b), UntilFirst: true})
	require.NoError(f.t, err)
	require.NoError(f.t, train.WaitFirst(ctx))
	_, err = train.Stop(ctx)
	require.NoError(f.t, err)
}

// linkOf is a link as events name it, whichever router was named first.
func linkOf(plan *topo.Plan, name string) string {
	for _, l := range plan.Links {
		if l.B.Node+"--"+l.A.Node == name {
			return l.A.Node + "--" + l.B.Node
		}
	}
	return name
}

// strike does to the lab what a fault does; heal undoes it.
func (f *failing) strike(w fabric.Wound) (heal func()) {
	f.t.Helper()
	id, _, err := f.Fabric().Strike(w)
	require.NoError(f.t, err)
	return func() {
		f.t.Helper()
		_, err := f.Fabric().Heal(limit(f.t), id)
		require.NoError(f.t, err)
	}
}

// darken is a router without a link to others: as good as gone, and its
// processes know nothing of it.
func darken(plan *topo.Plan, router string) (w fabric.Wound) {
	for _, l := range plan.LinksOf(router) {
		w.Dark = append(w.Dark, fabric.EndAt{Node: l.A.Node, Ifname: l.A.Ifname}, fabric.EndAt{Node: l.B.Node, Ifname: l.B.Ifname})
	}
	return w
}

// A router loses all its links at once: a P, around which bypasses lead, and
// the first PE of a site, whose second one takes its place.
func TestPathsAroundALostRouter(t *testing.T) {
	kerneltest.Need(t)
	f := newFailing(t, square)
	plan := f.Plan()
	ctx := limit(t)
	flows := both(plan.Machines()[0].Name, plan.Machines()[1].Name)
	for _, router := range []string{"p1", "pe2"} {
		var heal func()
		outage := f.train(ctx, flows, func() {
			heal = f.strike(darken(plan, router))
			f.rerouted(ctx, func(p *topo.Plan) bool { return apart(p)[router] })
		})
		t.Logf("%s gone: outage %v", router, outage)
		back := f.train(ctx, flows, func() {
			heal()
			f.rerouted(ctx, func(p *topo.Plan) bool {
				return !slices.ContainsFunc(p.Links, func(l topo.Link) bool { return l.Lost })
			})
		})
		t.Logf("%s back: outage %v", router, back)
		require.NoError(t, f.Awake(ctx))
		f.asPlanned()
		require.Equal(t, fmt.Sprint(plan.LSPs), fmt.Sprint(f.Plan().LSPs))
	}
}

// rerouted waits until the paths in force are as they should be.
func (f *failing) rerouted(ctx context.Context, ok func(*topo.Plan) bool) {
	f.t.Helper()
	for !ok(f.Plan()) {
		e := f.next(ctx)
		if e.Kind == "reroute.failed" {
			f.t.Fatal(e.Attr)
		}
	}
}

// next is the next event, of which those of failures are logged.
func (f *failing) next(ctx context.Context) event.Event {
	f.t.Helper()
	select {
	case e := <-f.events.C:
		if strings.HasPrefix(e.Kind, "re") || strings.HasPrefix(e.Kind, "liveness") || strings.HasPrefix(e.Kind, "bgp") || strings.HasPrefix(e.Kind, "port") {
			f.t.Log(e.Node, e.Kind, e.Attr)
		}
		return e
	case <-ctx.Done():
		f.t.Fatalf("wait for an event: %v", context.Cause(ctx))
		return event.Event{}
	}
}
