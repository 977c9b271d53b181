package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vpclab/vpclab/emu/bgp"
	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/topo"
)

const threeSites = `
name: t
topology:
  backbone:
    pe: [pe1, pe2]
    p: [p1]
    links: [{between: [pe1, p1]}, {between: [pe2, p1]}]
  sites:
    a: {kind: enterprise, pe: pe1}
    b: {kind: enterprise, pe: pe2}
    c: {kind: enterprise, pe: pe2}
vpcs:
  x: {service: l3vpn, sites: [a, b, c]}
  y: {service: l3vpn, subnets: {a: 10.1.1.0/24, b: 10.1.2.0/24}}
`

func planOf(t testing.TB, text string) *topo.Plan {
	t.Helper()
	sc, err := topo.Parse("t.vpclab.yml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	plan, err := topo.Expand(sc)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

func TestExpectedRoutesAreTheRemoteJoinedSitesOfTheSameVPC(t *testing.T) {
	plan := planOf(t, threeSites)
	want := expectedRoutes(plan)
	// x: pe1 learns b and c, pe2 learns a; y: one each way.
	if len(want) != 5 {
		t.Fatalf("%d routes are expected, want 5: %v", len(want), want)
	}
	pe1, _ := plan.Node("pe1")
	for k, egress := range want {
		if k.PE == "pe2" && egress != pe1.Loopback {
			t.Errorf("%v leads to %v, want pe1's loopback %v", k, egress, pe1.Loopback)
		}
	}
	less := expectedRoutes(plan.Detach(func(a topo.Attachment) bool { return a.VPC == "x" && a.Site == "a" }))
	if len(less) != 2 {
		t.Errorf("without x at a %d routes are expected, want the 2 of y: %v", len(less), less)
	}
}

func programmed(pe, vrf, prefix, egress string) event.Event {
	return event.New(pe, "route.programmed", map[string]string{"vrf": vrf, "prefix": prefix, "egress": egress})
}

func TestWaitEndsWhenRoutesAreExactlyAsWanted(t *testing.T) {
	tab := newRouteTable()
	want := map[routeKey]netip.Addr{
		{"pe1", "vrf-x", netip.MustParsePrefix("10.0.2.0/24")}: netip.MustParseAddr("10.255.0.2"),
	}
	tab.observe(programmed("pe1", "vrf-x", "10.0.9.0/24", "10.255.0.2")) // left over
	done := make(chan error, 1)
	go func() { done <- tab.wait(t.Context(), want, false, nil) }()
	tab.observe(programmed("pe1", "vrf-x", "10.0.2.0/24", "10.255.0.3")) // by the wrong PE
	tab.observe(event.New("pe1", "route.removed", map[string]string{"vrf": "vrf-x", "prefix": "10.0.9.0/24"}))
	select {
	case err := <-done:
		t.Fatalf("the wait ended with a route that leads to the wrong PE: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	tab.observe(programmed("pe1", "vrf-x", "10.0.2.0/24", "10.255.0.2"))
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestWaitThatExpiresNamesWhatIsMissingWhere(t *testing.T) {
	tab := newRouteTable()
	want := map[routeKey]netip.Addr{}
	for i := range 8 {
		want[routeKey{"pe1", "vrf-x", netip.MustParsePrefix(fmt.Sprintf("10.0.%d.0/24", i))}] = netip.Addr{}
	}
	tab.observe(programmed("pe2", "vrf-y", "10.9.0.0/24", "10.255.0.1"))
	tab.observe(event.New("pe1", "route.failed", map[string]string{"vrf": "vrf-x", "prefix": "10.0.3.0/24", "error": "network is unreachable"}))
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Millisecond, errors.New("waited 1ms for VPN routes"))
	defer cancel()
	err := tab.wait(ctx, want, false, nil)
	for _, part := range []string{
		"waited 1ms", "8 VPN route(s) not programmed", "10.0.0.0/24 in vrf-x at pe1", "and 2 more",
		"1 VPN route(s) not removed: 10.9.0.0/24 in vrf-y at pe2", "1 were refused", "network is unreachable",
	} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("the error lacks %q: %v", part, err)
		}
	}
}

func TestTimelineTakesItsStampsFromEvents(t *testing.T) {
	tab := newRouteTable()
	tl := &Timeline{Request: 100, Nodes: map[string]NodeTimes{}}
	tab.recordTo(tl)
	at := func(mono event.Mono, node, kind string) {
		tab.observe(event.Event{T: mono, Node: node, Kind: kind, Attr: map[string]string{"vrf": "v", "prefix": "10.0.0.0/24"}})
	}
	at(50, "pe1", "route.programmed") // before this Apply
	at(150, "pe1", "bgp.announced")
	at(140, "pe2", "bgp.announced")
	at(300, "pe1", "route.programmed")
	at(280, "pe2", "route.programmed")
	at(120, "pe2", "route.removed")
	tab.recordTo(nil)
	at(900, "pe1", "route.programmed")
	if tl.Announced != 150 || tl.Programmed != 300 || tl.Withdrawn != 120 || tl.Added != 2 || tl.Removed != 1 {
		t.Errorf("got %+v", tl)
	}
	if n := tl.Nodes["pe2"]; n.Programmed != 280 || n.Announced != 140 || n.Routes != 1 {
		t.Errorf("pe2: %+v", n)
	}
}

func TestCommonIsWhatMayStayWhileThingsAreTakenAway(t *testing.T) {
	full := bgp.Configs(planOf(t, threeSites))
	less := bgp.Configs(planOf(t, threeSites).Detach(func(a topo.Attachment) bool { return a.VPC == "x" && a.Site == "c" }))
	for node, cfg := range full {
		if !same(common(cfg, cfg), cfg) {
			t.Errorf("%s: nothing changes, but common differs from it:\n%+v\n%+v", node, common(cfg, cfg), cfg)
		}
	}
	// A site that joins takes nothing away.
	for node, cfg := range less {
		if got := common(cfg, full[node]); !same(got, cfg) {
			t.Errorf("%s: a join takes something away:\n%+v\n%+v", node, got, cfg)
		}
	}
	// A site that leaves: its circuit and its route targets go, others stay.
	got := common(full["pe2"], less["pe2"])
	circuits := 0
	for _, v := range got.VRFs {
		for _, c := range v.Circuits {
			circuits++
			if c.Site == "c" {
				t.Errorf("the circuit of the site that leaves is kept: %+v", c)
			}
		}
	}
	if circuits != 2 {
		t.Errorf("%d circuits are kept at pe2, want 2", circuits)
	}
	for node, cfg := range full {
		if cfg.Reflector {
			kept := common(cfg, less[node])
			if len(kept.Policy) != 2 || len(kept.Policy[0].From) >= len(cfg.Policy[0].From) && len(kept.Policy[1].From) >= len(cfg.Policy[1].From) {
				t.Errorf("the policy of the site that leaves is kept: %+v", kept.Policy)
			}
		}
	}
	// A router that goes keeps nothing.
	if got := common(full["pe1"], bgp.Config{}); len(got.VRFs) != 0 {
		t.Errorf("a router that goes keeps VRFs: %+v", got.VRFs)
	}
}

// TestCommonOfVPLS: what a change does not touch of a VPLS stays as it is,
// else its pseudowires would go and come for nothing.
func TestCommonOfVPLS(t *testing.T) {
	plan := planOf(t, bridgedSites)
	full := bgp.Configs(plan)
	less := bgp.Configs(plan.Detach(func(a topo.Attachment) bool { return a.Site == "c" }))
	for node, cfg := range full {
		if got := common(cfg, cfg); !same(got, cfg) {
			t.Errorf("%s: nothing changes, but common differs from it:\n%+v\n%+v", node, got, cfg)
		}
		if got := common(less[node], cfg); !same(got, less[node]) {
			t.Errorf("%s: a join takes something away:\n%+v\n%+v", node, got, less[node])
		}
	}
	if got := common(full["pe2"], less["pe2"]); len(got.VSIs) != 0 {
		t.Errorf("the VSI of the only site that leaves is kept: %+v", got.VSIs)
	}
	if got := common(full["pe1"], less["pe1"]); !same(got, full["pe1"]) {
		t.Errorf("a site that leaves elsewhere changes pe1:\n%+v\n%+v", got, full["pe1"])
	}
	// A PE more, and a larger block of labels in each VSI.
	more := bgp.Configs(planOf(t, strings.Replace(bridgedSites, "pe: [pe1, pe2], links: [", "pe: [pe1, pe2, pe3], links: [{between: [pe2, pe3]}, ", 1)))
	if got := common(full["pe1"], more["pe1"]); !same(got, full["pe1"]) || more["pe1"].VSIs[0].BlockSize != 3 {
		t.Errorf("a PE that comes takes something away of pe1:\n%+v\n%+v", got, full["pe1"])
	}
}

// TestExpectedPseudowires: each VSI has one to every other PE of its VPC.
func TestExpectedPseudowires(t *testing.T) {
	plan := planOf(t, bridgedSites)
	want := expectedRoutes(plan)
	if len(want) != 2 {
		t.Fatalf("want a pseudowire at each of two PEs, got %v", want)
	}
	tab := newRouteTable()
	for k, egress := range want {
		tab.observe(event.Event{Node: k.PE, Kind: "pw.up", Attr: map[string]string{"vsi": k.VRF, "egress": egress.String(), "ve": "2", "dev": "pw1"}})
	}
	if missing, extra := tab.diff(want); len(missing)+len(extra) != 0 {
		t.Errorf("missing %v, left over %v", missing, extra)
	}
	if w := tab.pseudowires("pe1", "vsi-x"); len(w) != 1 || w[0].Dev != "pw1" {
		t.Errorf("pseudowires of pe1: %+v", w)
	}
	for k, egress := range want {
		tab.observe(event.Event{Node: k.PE, Kind: "pw.down", Attr: map[string]string{"vsi": k.VRF, "egress": egress.String()}})
	}
	if n := tab.count(); n != 0 {
		t.Errorf("%d left", n)
	}
}

// TestWaitForReservedFlows: a change is not done while a PE's kernel refuses what
// is reserved on a pseudowire, and the error says so.
func TestWaitForReservedFlows(t *testing.T) {
	tab := newRouteTable()
	flow := func(kind string) event.Event {
		return event.New("pe1", kind, map[string]string{"vsi": "vsi-x", "flow": "video", "error": "file exists"})
	}
	wanted := map[string]bgp.Config{"pe1": {VSIs: []bgp.VSI{{Name: "vsi-x", Flows: []bgp.Flow{{Name: "video"}}}}}}
	tab.want(wanted, nil)
	tab.observe(flow("flow.failed"))
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	err := tab.wait(ctx, nil, false, nil)
	if err == nil || !strings.Contains(err.Error(), "1 reserved flow(s) not in force, first pe1 vsi-x reservation video: file exists") {
		t.Errorf("the wait ends with %v", err)
	}
	if err := tab.wait(t.Context(), nil, true, nil); err != nil {
		t.Errorf("what is taken back waits for it: %v", err)
	}
	for _, mend := range []func(){
		func() { tab.observe(flow("flow.up")) },
		func() { tab.observe(flow("flow.down")) },
		func() { tab.forget("pe1") },
		func() { tab.want(nil, nil) }, // the reservation is released
	} {
		tab.observe(flow("flow.failed"))
		mend()
		if err := tab.wait(t.Context(), nil, false, nil); err != nil {
			t.Error(err)
		}
	}
}

const bridgedSites = `name: bridged
topology:
  backbone: {pe: [pe1, pe2], links: [{between: [pe1, pe2]}]}
  sites:
    a: {kind: enterprise, pe: pe1}
    b: {kind: enterprise, pe: pe1}
    c: {kind: enterprise, pe: pe2}
vpcs:
  x: {service: vpls, sites: [a, b, c]}
`

func TestBusKeepsAllForWhoMayMissNothing(t *testing.T) {
	b := newBus()
	whole := b.subscribe(0)
	whole.whole = true
	for i := range 2*busQueue + 10 {
		b.publish(event.Event{Kind: "x", T: event.Mono(i)})
	}
	for i := range 2*busQueue + 10 {
		if len(whole.C) == 0 && !whole.Refill() {
			t.Fatalf("%d events have come, want %d", i, 2*busQueue+10)
		}
		if e := <-whole.C; e.T != event.Mono(i) {
			t.Fatalf("event %d is number %d", i, e.T)
		}
	}
	if whole.Refill() || b.missed > 0 {
		t.Errorf("%d events were lost", b.missed)
	}
	whole.Close()
}

func TestBusNeverBlocksAndTellsWhatWasLost(t *testing.T) {
	b := newBus()
	slow := b.subscribe(0)
	for range busQueue + 10 {
		b.publish(event.Event{Kind: "x"})
	}
	for range busQueue {
		<-slow.C
	}
	b.publish(event.Event{Kind: "last"})
	if e := <-slow.C; e.Kind != "events.lost" || e.Attr["n"] != "10" {
		t.Errorf("got %+v, want a note that 10 events were lost", e)
	}
	if e := <-slow.C; e.Kind != "last" {
		t.Errorf("got %+v after the note", e)
	}
	slow.Close()
	slow.Close() // twice does no harm
	if _, open := <-slow.C; open {
		t.Error("the channel of a closed subscription is open")
	}
	late := b.subscribe(2)
	defer late.Close()
	if e := <-late.C; e.Kind != "x" {
		t.Errorf("history begins with %+v", e)
	}
	if e := <-late.C; e.Kind != "last" {
		t.Errorf("history ends with %+v", e)
	}
}

func TestFramesSurviveTheWay(t *testing.T) {
	var b bytes.Buffer
	w := &frameWriter{w: &b}
	big := bytes.Repeat([]byte("x"), maxFrame+5)
	if n, err := w.stream(frameStdout).Write(big); n != len(big) || err != nil {
		t.Fatal(n, err)
	}
	if err := w.write(frameExit, []byte{0, 0, 0, 7}); err != nil {
		t.Fatal(err)
	}
	var got []byte
	for {
		typ, p, err := readFrame(&b)
		if err != nil {
			t.Fatal(err)
		}
		if typ == frameExit {
			break
		}
		got = append(got, p...)
	}
	if !bytes.Equal(got, big) {
		t.Errorf("%d bytes came out of %d", len(got), len(big))
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 1, 'a'})
	f.Add([]byte{4, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0, 0, 0, 0, 9, 'x'})
	f.Fuzz(func(t *testing.T, in []byte) {
		typ, p, err := readFrame(bytes.NewReader(in))
		if err != nil {
			return
		}
		var b bytes.Buffer
		if err := (&frameWriter{w: &b}).write(typ, p); err != nil || !bytes.HasPrefix(in, b.Bytes()) {
			t.Errorf("%x was read as %d %x, which is written %x (%v)", in, typ, p, b.Bytes(), err)
		}
	})
}

func TestCaptureNames(t *testing.T) {
	st := fabric.State{
		Nodes: map[string]fabric.Node{"a": {}, "b": {}, "c": {}},
		Links: map[string]fabric.Link{
			"a:e1--b:e1": {A: fabric.End{Node: "a", Ifname: "e1"}, B: fabric.End{Node: "b", Ifname: "e1"}},
			"b:e2--c:e1": {A: fabric.End{Node: "b", Ifname: "e2"}, B: fabric.End{Node: "c", Ifname: "e1"}},
		},
	}
	for _, c := range []struct {
		req  CaptureRequest
		want string
	}{
		{CaptureRequest{}, "a:e1 b:e1 b:e2 c:e1"},
		{CaptureRequest{Links: []string{"all"}}, "a:e1 b:e1 b:e2 c:e1"},
		{CaptureRequest{Links: []string{"b--a"}}, "a:e1 b:e1"},
		{CaptureRequest{Links: []string{"a:e1--b:e1"}}, "a:e1 b:e1"},
		{CaptureRequest{Links: []string{"b:e1--a:e1", "c:e1"}}, "a:e1 b:e1 c:e1"},
		{CaptureRequest{Nodes: []string{"b"}}, "b:e1 b:e2"},
		{CaptureRequest{Links: []string{"a:e2"}}, `no link or interface "a:e2"; did you mean "a:e1"?`},
		{CaptureRequest{Nodes: []string{"zzzz"}}, `no node "zzzz"; there are a, b, c`},
		{CaptureRequest{Links: []string{"a--b"}, Nodes: []string{"c"}}, "capture: no link end is left by the filter"},
	} {
		taps, err := chooseEnds(st, c.req)
		var got []string
		for _, t := range taps {
			got = append(got, t.name())
		}
		text := strings.Join(got, " ")
		if err != nil {
			text = err.Error()
		}
		if text != c.want {
			t.Errorf("%+v: got %q, want %q", c.req, text, c.want)
		}
	}
}
