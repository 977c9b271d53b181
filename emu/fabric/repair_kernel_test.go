package fabric_test

import (
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/fabric/rtnl"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/topo"
)

// router is a State with every kind of object in it: r is a PE-like node
// between a core neighbour c and a customer h behind a bridge.
func router() fabric.State {
	p, a := netip.MustParsePrefix, netip.MustParseAddr
	mac := func(n byte) topo.MAC { return topo.MAC{2, 0, 0, 0, 0, n} }
	s := wire(topo.Impairment{}, topo.Impairment{})
	s.Nodes = map[string]fabric.Node{
		"c": {Name: "c", Sysctls: map[string]string{"net.ipv4.ip_forward": "1"}, Lo: []netip.Prefix{p("10.255.0.2/32")},
			Routes: []fabric.Route{{Dst: p("10.255.0.1/32"), Via: a("10.7.0.1")}}},
		"h": {Name: "h", Routes: []fabric.Route{{Dst: p("0.0.0.0/0"), Via: a("10.8.0.1")}}},
		"r": {Name: "r", Kind: topo.KindPE,
			Sysctls: map[string]string{"net.ipv4.ip_forward": "1", "net.mpls.platform_labels": "3000", "net.mpls.conf.lo.input": "1", "net.ipv4.conf.core.rp_filter": "2"},
			Bridges: []fabric.Bridge{{Name: "lan", MAC: mac(9), Addr: p("10.8.0.1/24"), Ageing: 90 * time.Second}},
			VRFs:    []fabric.VRF{{Name: "vrf-x", Table: 1001}},
			Lo:      []netip.Prefix{p("10.255.0.1/32")},
			Routes: []fabric.Route{
				{Dst: p("10.255.0.2/32"), Via: a("10.7.0.2"), Dev: "core", Src: a("10.255.0.1")},
				{Table: 1001, Dst: p("10.20.0.0/16"), Via: a("10.7.0.2"), Dev: "core", Labels: fabric.Stack{2002, 2003}, Metric: 20},
				{Dst: p("10.66.0.0/16"), Unreachable: true},
			},
			MPLS: []fabric.MPLSRoute{
				{In: 2001, Dev: "vrf-x"},
				{In: 2004, Out: fabric.Stack{2005, 2006}, Via: a("10.7.0.2"), Dev: "core"},
				{In: 2007, Via: a("10.7.0.2"), Dev: "core", NoTTLPropagate: true},
			},
			Rules: []fabric.Rule{{Pref: 32765, Table: 255}, {Pref: 0, Table: 255, Del: true},
				{Pref: 900, Table: 77, From: p("10.1.0.0/16"), To: p("10.2.0.9/24"), Iif: "core"},
				{Pref: 900, Table: 77, From: p("10.3.0.0/16"), To: p("0.0.0.0/0")}},
		},
	}
	s.Links = map[string]fabric.Link{
		"r:core--c:eth0": {MTU: 1600,
			A: fabric.End{Node: "r", Ifname: "core", MAC: mac(1), Addr: p("10.7.0.1/30"), MPLSInput: true, Block: 3,
				Egress: topo.Impairment{Delay: topo.Duration(time.Millisecond), Rate: 1e8}},
			B: fabric.End{Node: "c", Ifname: "eth0", MAC: mac(2), Addr: p("10.7.0.2/30")}},
		"r:p1--h:eth0": {MTU: 1500,
			A: fabric.End{Node: "r", Ifname: "p1", MAC: mac(3), Master: "lan"},
			B: fabric.End{Node: "h", Ifname: "eth0", MAC: mac(4), Addr: p("10.8.0.2/24")}},
		"r:ac--h:wan": {MTU: 1500,
			A: fabric.End{Node: "r", Ifname: "ac", MAC: mac(5), Addr: p("169.254.0.0/31"), Master: "vrf-x"},
			B: fabric.End{Node: "h", Ifname: "wan", MAC: mac(6), Addr: p("169.254.0.1/31")}},
	}
	return s
}

// TestRepairsEachKindOfObject damages a node by hand, one object at a time:
// the plan names it, Apply mends it, and then there is nothing left to do.
func TestRepairsEachKindOfObject(t *testing.T) {
	kerneltest.Need(t)
	f := start(t, "mend")
	want := router()
	apply(t, f, want)
	for _, c := range []struct{ damage, named string }{
		{"ip link del core", "+ link r:core--c:eth0"},
		{"ip link set core down", "~ link r:core"},
		{"ip link set core mtu 1400", "~ link r:core"},
		{"ip link set core address 02:00:00:00:00:77", "~ link r:core"},
		{"ip link set ac nomaster", "+ r:ac: port"},
		{"ip link set p1 master vrf-x", "~ r:p1: port"},
		{"ip link del lan", "+ r: bridge lan"},
		{"ip link set lan down", "~ r: bridge lan"},
		{"ip link del vrf-x", "+ r: vrf vrf-x"},
		{"ip addr del 10.7.0.1/30 dev core", "+ r:core: address"},
		{"ip addr del 10.255.0.1/32 dev lo", "+ r:lo: address"},
		{"ip route del 10.255.0.2/32", "+ r: route 10.255.0.2/32"},
		{"ip route del table 1001 10.20.0.0/16", "+ r: route 10.20.0.0/16 table 1001"},
		{"ip route del table 1001 unreachable default", "+ r: route 0.0.0.0/0 table 1001"},
		{"ip route replace table 1001 10.20.0.0/16 metric 20 proto 76 encap mpls 9/2003 via 10.7.0.2 dev core", "~ r: route 10.20.0.0/16 table 1001"},
		{"ip route add 10.99.0.0/16 via 10.7.0.2 proto 76", "- r: route 10.99.0.0/16"},
		{"ip -f mpls route del 2004", "+ r: label 2004"},
		{"ip -f mpls route replace 2007 proto 76 via inet 10.7.0.2 dev core", "~ r: label 2007"},
		{"ip rule del pref 32765", "+ r: rule 32765"},
		{"ip rule add pref 0 table local", "+ r: rule 0"},
		{"ip rule del pref 900 from 10.1.0.0/16 to 10.2.0.0/24 iif core table 77", "+ r: rule 900 from 10.1.0.0/16 to 10.2.0.0/24 iif core"},
		{"ip rule add pref 900 from 10.4.0.0/16 table 77 protocol 76", "- r: rule 900 from 10.4.0.0/16"},
		{"ip link set lan type bridge ageing_time 700", "~ r: bridge lan (02:00:00:00:00:09, ageing 7s -> 02:00:00:00:00:09, ageing 1m30s)"},
		{"tc qdisc del dev core clsact", "+ r:core: ingress filters (block 3)"},
		{"tc qdisc del dev core root", "+ r:core: impairment"},
		{"tc qdisc change dev core root netem delay 9ms", "~ r:core: impairment"},
		{"tc class change dev core parent 10: classid 10:1 hfsc rt m2 1mbit", "~ r:core: impairment"},
	} {
		args := append([]string{"netns", "exec", "vpclab-mend-r"}, strings.Fields(c.damage)...)
		out, err := exec.Command("ip", args...).CombinedOutput()
		require.NoError(t, err, "%s: %s", c.damage, out)
		ch, err := f.Plan(want)
		require.NoError(t, err, c.damage)
		require.Contains(t, ch.String(), c.named, c.damage)
		done := apply(t, f, want)
		require.Equal(t, ch.String(), done.String(), c.damage)
		ch, err = f.Plan(want)
		require.NoError(t, err, c.damage)
		require.Empty(t, ch.String(), "after %q", c.damage)
	}
	out, err := ping(t, f, "h", "10.8.0.1", 1)
	require.NoError(t, err, out)
	out, err = ping(t, f, "r", "10.255.0.2", 1)
	require.NoError(t, err, out)
}

// TestForeignObjectsInANodeStay leaves alone what the user put there.
func TestForeignObjectsInANodeStay(t *testing.T) {
	kerneltest.Need(t)
	f := start(t, "guests")
	apply(t, f, router())
	run := func(cmd string) string {
		out, err := exec.Command("ip", append([]string{"-n", "vpclab-guests-r"}, strings.Fields(cmd)...)...).CombinedOutput()
		require.NoError(t, err, "%s: %s", cmd, out)
		return string(out)
	}
	run("link add mine type dummy")
	run("addr add 10.50.0.1/24 dev core")
	run("route add 10.51.0.0/16 via 10.7.0.2 proto static")
	run("route add table 1001 10.52.0.0/16 via 10.7.0.2 dev core proto bgp")
	run("rule add pref 500 table 77")
	run("rule add pref 900 table 77")
	out, err := exec.Command("tc", "-n", "vpclab-guests-r", "qdisc", "add", "dev", "p1", "clsact").CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Empty(t, apply(t, f, router()).String())
	changed := router()
	l := changed.Links["r:core--c:eth0"]
	l.MTU = 1500
	changed.Links["r:core--c:eth0"] = l
	require.Len(t, apply(t, f, changed), 1)
	require.Contains(t, run("link show mine"), "mine")
	require.Contains(t, run("addr show dev core"), "10.50.0.1/24")
	require.Contains(t, run("route show 10.51.0.0/16"), "10.51.0.0/16")
	require.Contains(t, run("route show table 1001 10.52.0.0/16"), "10.52.0.0/16")
	require.Contains(t, run("rule show"), "500:")
	require.Contains(t, run("rule show"), "900:	from all lookup 77\n")
	out, err = exec.Command("tc", "-n", "vpclab-guests-r", "qdisc", "show", "dev", "p1").CombinedOutput()
	require.NoError(t, err)
	require.Contains(t, string(out), "clsact")
}

// TestRefusalNamesTheObject asks for what the kernel cannot do.
func TestRefusalNamesTheObject(t *testing.T) {
	kerneltest.Need(t)
	f := start(t, "refuse")
	s := router()
	r := s.Nodes["r"]
	r.MPLS = append(r.MPLS, fabric.MPLSRoute{In: 3000, Dev: "vrf-x"})
	s.Nodes["r"] = r
	_, err := f.Apply(t.Context(), s)
	require.ErrorContains(t, err, "lab refuse: node r: set label 3000 dev vrf-x: invalid argument (Label ")
	require.Empty(t, apply(t, f, router()).String(), "the rest was done, and is recognised")

	s = router()
	delete(s.Nodes, "h")
	_, err = f.Apply(t.Context(), s)
	require.ErrorIs(t, err, fabric.ErrNoNode)
	apply(t, f, router())
}

// TestRouterComesAndGoes takes nodes and links out of a running lab and puts
// them back.
func TestRouterComesAndGoes(t *testing.T) {
	kerneltest.Need(t)
	f := start(t, "moves")
	apply(t, f, router())
	less := router()
	delete(less.Nodes, "h")
	delete(less.Links, "r:p1--h:eth0")
	delete(less.Links, "r:ac--h:wan")
	ch := apply(t, f, less)
	require.Equal(t, "- link r:p1--h:eth0 (mtu 1500, 02:00:00:00:00:03, 02:00:00:00:00:04)\n", "- "+lineWith(t, ch.String(), "r:p1--h"))
	require.Contains(t, ch.String(), "- node h\n")
	require.NotContains(t, ch.String(), "r:ac: address", "it goes with its link")
	for range 3 {
		apply(t, f, router())
		ch, err := f.Plan(router())
		require.NoError(t, err)
		require.Empty(t, ch.String())
		out, err := ping(t, f, "h", "10.8.0.1", 1)
		require.NoError(t, err, out)
		apply(t, f, less)
		_, err = f.Apply(t.Context(), less, fabric.Trust)
		require.NoError(t, err)
	}
	apply(t, f, fabric.State{})
	require.NoFileExists(t, f.NSPath("r"))
}

// TestLinkFailsAndComesBack takes a link down and up: what the kernel dropped
// with it is there again, seen or trusted, and nothing is left to do in
// between.
func TestLinkFailsAndComesBack(t *testing.T) {
	kerneltest.Need(t)
	f := start(t, "cut")
	failed := router()
	l := failed.Links["r:core--c:eth0"]
	l.Down = true
	failed.Links["r:core--c:eth0"] = l
	routes := func() (n int) {
		v, err := f.Inspect("r")
		require.NoError(t, err)
		for _, r := range v.Routes {
			if r.Dev == "core" && r.Protocol == "vpclab" {
				n++
			}
		}
		return n
	}
	for i, opts := range [][]fabric.Option{nil, {fabric.Trust}, nil} {
		if i < 2 {
			apply(t, f, router())
			require.Equal(t, 2, routes())
		}
		ch, err := f.Apply(t.Context(), failed, opts...)
		require.NoError(t, err)
		if i < 2 {
			require.Equal(t, "~ link r:core--c:eth0 (mtu 1600, 02:00:00:00:00:01, 02:00:00:00:00:02 -> mtu 1600, 02:00:00:00:00:01, 02:00:00:00:00:02, down)\n", "~ "+lineWith(t, ch.String(), "link r:core"))
			require.Contains(t, ch.String(), "- r: route 10.255.0.2/32")
		}
		require.Zero(t, routes())
		ch, err = f.Plan(failed)
		require.NoError(t, err)
		require.Empty(t, ch.String())
		out, err := ping(t, f, "h", "10.8.0.1", 1)
		require.NoError(t, err, "the other links: %s", out)
		if i == 1 { // one end by hand: that is not what is wanted either
			out, err := exec.Command("ip", "-n", "vpclab-cut-r", "link", "set", "core", "up").CombinedOutput()
			require.NoError(t, err, "%s", out)
			ch, err = f.Plan(failed)
			require.NoError(t, err)
			require.Contains(t, ch.String(), "second end down -> ")
			continue
		}
		_, err = f.Apply(t.Context(), router(), opts...)
		require.NoError(t, err)
		require.Equal(t, 2, routes())
		ch, err = f.Plan(router())
		require.NoError(t, err)
		require.Empty(t, ch.String())
		out, err = ping(t, f, "r", "10.255.0.2", 1)
		require.NoError(t, err, out)
	}
	require.NoError(t, f.Destroy(t.Context()))
	g := start(t, "cut") // a link may be born down
	apply(t, g, failed)
	ch, err := g.Plan(failed)
	require.NoError(t, err)
	require.Empty(t, ch.String())
}

// TestPseudowiresAreTheSpeakers puts a port of a speaker's into a bridge: it
// stays while the fabric converges, takes no index, and goes with its bridge.
func TestPseudowiresAreTheSpeakers(t *testing.T) {
	kerneltest.Need(t)
	f := start(t, "wires")
	apply(t, f, router())
	there := func() (names []string) {
		v, err := f.Inspect("r")
		require.NoError(t, err)
		for _, i := range v.Interfaces {
			if i.Index >= rtnl.FirstSpeakerIndex {
				names = append(names, i.Name)
			}
		}
		return names
	}
	v, err := f.Inspect("r")
	require.NoError(t, err)
	var lan int
	for _, i := range v.Interfaces {
		if i.Name == "lan" {
			lan = i.Index
		}
	}
	require.NoError(t, f.Do("r", func() error {
		conn, err := rtnl.Dial()
		if err != nil {
			return err
		}
		defer conn.Close()
		var b rtnl.Batch
		b.Veth(rtnl.Veth{Link: rtnl.Link{Name: "pw9", Index: rtnl.FirstSpeakerIndex, Group: rtnl.GroupSpeaker},
			Peer: rtnl.Link{Name: "pw9x", Index: rtnl.FirstSpeakerIndex + 1, Group: rtnl.GroupSpeaker}})
		b.LinkSet(rtnl.LinkChange{Name: "pw9", Master: &lan})
		return conn.Do(&b)
	}))
	require.Empty(t, apply(t, f, router()).String())
	more := router()
	more.Links["r:p2--h:eth5"] = fabric.Link{MTU: 1500, A: fabric.End{Node: "r", Ifname: "p2", Master: "lan"}, B: fabric.End{Node: "h", Ifname: "eth5"}}
	apply(t, f, more)
	require.Less(t, netlinkIn(t, f, "r", "p2").Attrs().Index, 100)
	require.Equal(t, lan, netlinkIn(t, f, "r", "pw9").Attrs().MasterIndex)
	less := router()
	r := less.Nodes["r"]
	r.Bridges = nil
	less.Nodes["r"] = r
	l := less.Links["r:p1--h:eth0"]
	l.A.Master = ""
	less.Links["r:p1--h:eth0"] = l
	require.Len(t, there(), 2)
	apply(t, f, less)
	require.Empty(t, there())
}

func lineWith(t *testing.T, s, part string) string {
	t.Helper()
	for line := range strings.Lines(s) {
		if strings.Contains(line, part) {
			return line[2:]
		}
	}
	t.Fatalf("no %q in %s", part, s)
	return ""
}

func TestInspectShowsTheKernel(t *testing.T) {
	kerneltest.Need(t)
	f := start(t, "views")
	apply(t, f, router())
	v, err := f.Inspect("r")
	require.NoError(t, err)
	byName := map[string]fabric.InterfaceView{}
	for _, i := range v.Interfaces {
		byName[i.Name] = i
	}
	core := byName["core"]
	require.Equal(t, []string{"10.7.0.1/30"}, core.Addrs)
	require.Equal(t, "veth", core.Kind)
	require.True(t, core.Up && core.Carrier && core.Ours)
	require.Equal(t, 1600, core.MTU)
	require.Equal(t, "rate 100mbit, queue 198 KiB, delay 1ms", core.Impairment)
	require.Equal(t, []string{"netem 1:0 parent root", "hfsc 10:0 parent 1:1", "bfifo 20:0 parent 10:1", "clsact ffff:0 parent clsact"}, core.Qdiscs)
	require.Equal(t, "lan", byName["p1"].Master)
	require.Equal(t, "vrf-x", byName["ac"].Master)
	require.Contains(t, v.Routes, fabric.RouteView{Table: 1001, Dst: "10.20.0.0/16", Via: "10.7.0.2", Dev: "core", Metric: 20,
		Labels: []int{2002, 2003}, Type: "unicast", Protocol: "vpclab"})
	require.Contains(t, v.Routes, fabric.RouteView{Table: 254, Dst: "10.66.0.0/16", Type: "unreachable", Protocol: "vpclab"})
	_, err = f.Inspect("nobody")
	require.ErrorIs(t, err, fabric.ErrNoNode)
}
