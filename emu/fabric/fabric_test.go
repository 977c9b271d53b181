package fabric

import (
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/topo"
)

func compiled(t *testing.T, src string) State {
	t.Helper()
	sc, err := topo.Parse("test.vpclab.yml", []byte(src))
	require.NoError(t, err)
	p, err := topo.Expand(sc)
	require.NoError(t, err)
	return Compile(p)
}

const small = `
name: small
topology:
  backbone:
    pe: [pe1, pe2]
    p: [p1]
    links: [{between: [pe1, p1], rate: 100mbit, delay: 2ms}, {between: [p1, pe2], delay: 1ms, backward: {delay: 3ms, loss: 0.5%}}]
  sites:
    s1: {kind: enterprise, pe: pe1, machines: 2}
    s2: {kind: enterprise, pe: pe2}
vpcs:
  acme: {service: l3vpn, sites: [s1, s2]}
`

func TestCompileKeepsWhatThePlanSays(t *testing.T) {
	s := compiled(t, small)
	require.Equal(t, topo.KindPE, s.Nodes["pe1"].Kind)
	require.Len(t, s.Nodes["pe1"].Lo, 1)
	require.Equal(t, 32, s.Nodes["pe1"].Lo[0].Bits())
	var ce, machine Node
	for _, n := range s.Nodes {
		switch n.Kind {
		case topo.KindCE:
			ce = n
		case topo.KindMachine:
			machine = n
		}
	}
	require.Equal(t, "1", ce.Sysctls["net.ipv4.ip_forward"])
	require.Len(t, ce.Bridges, 1)
	require.Empty(t, machine.Sysctls, "a machine is configured with its address and default route only")
	require.Len(t, machine.Routes, 1)
	for name, l := range s.Links {
		require.Contains(t, s.Nodes, l.A.Node, name)
		require.Contains(t, s.Nodes, l.B.Node, name)
		for _, e := range []End{l.A, l.B} {
			require.LessOrEqual(t, len(e.Ifname), 15)
		}
		if l.A.Node == "p1" && l.B.Node == "pe2" {
			require.Equal(t, topo.Impairment{Delay: topo.Duration(time.Millisecond)}, l.A.Egress)
			require.Equal(t, topo.Duration(3*time.Millisecond), l.B.Egress.Delay)
			require.Equal(t, topo.Percent(0.5), l.B.Egress.Loss)
		}
	}
}

// TestRecordIsExact writes odd values and reads them back: a State that
// changed on the way would be applied anew by a successor.
func TestRecordIsExact(t *testing.T) {
	s := compiled(t, small)
	s.Nodes["odd"] = Node{Name: "odd",
		Routes: []Route{{Dst: netip.MustParsePrefix("10.1.2.0/23"), Labels: Stack{1, 2, 3, 4}, Metric: 7}, {Unreachable: true, Dst: defaultRoute}},
		MPLS:   []MPLSRoute{{In: 16, Out: Stack{9}, Via: netip.MustParseAddr("10.0.0.1"), NoTTLPropagate: true}},
		VRFs:   []VRF{{"v", 1001}}, Rules: []Rule{{Pref: 1, Table: 2, Del: true}, {Pref: 3, From: netip.MustParsePrefix("10.0.0.0/8"), Iif: "a"}},
		Bridges: []Bridge{{Name: "c", Ageing: 1234567 * time.Microsecond}}}
	s.Links["odd:a--odd:b"] = Link{A: End{Node: "odd", Ifname: "a", MPLSInput: true, Block: 7,
		Classes: []Class{{Label: 1048575, Depth: 7, Rate: 123}, {Label: 16, Depth: 1, Rate: 8}},
		Egress:  topo.Impairment{Rate: 123457, Delay: 1234567, Jitter: 1, Loss: 1.0 / 3, Queue: 3}}, B: End{Node: "odd", Ifname: "b"}}
	s.Links["odd:d--odd:e"] = Link{Down: true, A: End{Node: "odd", Ifname: "d"}, B: End{Node: "odd", Ifname: "e"}}
	data, err := json.Marshal(record{State: s})
	require.NoError(t, err)
	var got record
	require.NoError(t, json.Unmarshal(data, &got))
	require.Equal(t, flatten(s), flatten(got.State))
}

func TestDiff(t *testing.T) {
	base := func() State {
		mac := func(n byte) topo.MAC { return topo.MAC{2, 0, 0, 0, 0, n} }
		p := netip.MustParsePrefix
		return State{
			Nodes: map[string]Node{
				"a": {Name: "a", Kind: topo.KindPlain, Routes: []Route{{Dst: p("10.9.0.0/24"), Via: netip.MustParseAddr("10.1.0.2")}}},
				"b": {Name: "b", Kind: topo.KindPlain, Bridges: []Bridge{{Name: "lan", MAC: mac(9), Addr: p("10.1.0.2/24")}}, Sysctls: map[string]string{"net.ipv4.ip_forward": "1"}},
			},
			Links: map[string]Link{"a:e--b:p": {MTU: 1500,
				A: End{Node: "a", Ifname: "e", MAC: mac(1), Addr: p("10.1.0.1/24"), Egress: topo.Impairment{Delay: topo.Duration(time.Millisecond)}},
				B: End{Node: "b", Ifname: "p", MAC: mac(2), Master: "lan"}}},
		}
	}
	edit := func(fn func(*Link)) func(*State) {
		return func(s *State) {
			l := s.Links["a:e--b:p"]
			fn(&l)
			s.Links["a:e--b:p"] = l
		}
	}
	for _, c := range []struct {
		name   string
		change func(*State)
		want   string
	}{
		{"nothing", func(*State) {}, ""},
		{"mtu", edit(func(l *Link) { l.MTU = 1400 }),
			"~ link a:e--b:p (mtu 1500, 02:00:00:00:00:01, 02:00:00:00:00:02 -> mtu 1400, 02:00:00:00:00:01, 02:00:00:00:00:02)\n"},
		{"delay", edit(func(l *Link) { l.A.Egress.Delay *= 2 }), "~ a:e: impairment (delay 1ms -> delay 2ms)\n"},
		{"rate", edit(func(l *Link) { l.A.Egress = topo.Impairment{Rate: 8e6} }), "~ a:e: impairment (delay 1ms -> rate 8mbit, queue 147 KiB)\n"},
		{"no impairment", edit(func(l *Link) { l.A.Egress = topo.Impairment{} }), "- a:e: impairment (delay 1ms)\n"},
		{"address", edit(func(l *Link) { l.A.Addr = netip.MustParsePrefix("10.1.0.7/24") }),
			"- a:e: address 10.1.0.1/24\n+ a:e: address 10.1.0.7/24\n"},
		{"down", edit(func(l *Link) { l.Down = true }),
			"- a: route 10.9.0.0/24 (via 10.1.0.2 dev e)\n- a:e: impairment (delay 1ms)\n" +
				"~ link a:e--b:p (mtu 1500, 02:00:00:00:00:01, 02:00:00:00:00:02 -> mtu 1500, 02:00:00:00:00:01, 02:00:00:00:00:02, down)\n"},
		{"block", edit(func(l *Link) { l.A.Block = 1 }), "+ a:e: ingress filters (block 1)\n"},
		{"ageing", func(s *State) { s.Nodes["b"].Bridges[0].Ageing = time.Minute },
			"~ b: bridge lan (02:00:00:00:00:09 -> 02:00:00:00:00:09, ageing 1m0s)\n"},
		{"ageing as it is", func(s *State) { s.Nodes["b"].Bridges[0].Ageing = 299995 * time.Millisecond }, ""},
		{"rule", func(s *State) {
			n := s.Nodes["b"]
			n.Rules = []Rule{{Pref: 5, Table: 6, From: netip.MustParsePrefix("10.1.2.3/8"), To: netip.MustParsePrefix("0.0.0.0/0"), Iif: "p"}, {Pref: 5, Table: 6}}
			s.Nodes["b"] = n
		}, "+ b: rule 5 from 10.0.0.0/8 iif p (lookup 6)\n+ b: rule 5 (lookup 6)\n"},
		{"no master", edit(func(l *Link) { l.B.Master = "" }), "- b:p: port (of lan)\n"},
		{"no link", func(s *State) { delete(s.Links, "a:e--b:p") },
			"- link a:e--b:p (mtu 1500, 02:00:00:00:00:01, 02:00:00:00:00:02)\n~ a: route 10.9.0.0/24 (via 10.1.0.2 dev e -> via 10.1.0.2)\n"},
		{"no bridge", func(s *State) { n := s.Nodes["b"]; n.Bridges = nil; s.Nodes["b"] = n }, "- b: bridge lan (02:00:00:00:00:09)\n"},
		{"sysctl", func(s *State) { n := s.Nodes["b"]; n.Sysctls = nil; s.Nodes["b"] = n }, ""},
		{"new node", func(s *State) { s.Nodes["c"] = Node{Name: "c", Kind: topo.KindMachine} }, "+ node c (machine)\n"},
		{"no node", func(s *State) { delete(s.Nodes, "b"); delete(s.Links, "a:e--b:p") },
			"- link a:e--b:p (mtu 1500, 02:00:00:00:00:01, 02:00:00:00:00:02)\n- node b (node)\n~ a: route 10.9.0.0/24 (via 10.1.0.2 dev e -> via 10.1.0.2)\n"},
	} {
		to := base()
		c.change(&to)
		require.Equal(t, c.want, Diff(base(), to).String(), c.name)
	}
}

// TestDiffMakesAgainWhatGoesAlong removes a bridge by hand: its port and its
// address went with it, and the routes of the node are asserted again.
func TestDiffMakesAgainWhatGoesAlong(t *testing.T) {
	want := flatten(compiled(t, small))
	have := objects{}
	var bridge key
	for k, v := range want {
		have[k] = v
		if _, ok := v.(bridgeObj); ok {
			bridge = k
		}
	}
	have[bridge] = vrfObj{table: 5} // not changeable: to be made anew
	w, changes := diff(have, want)
	require.Len(t, changes, 1)
	require.Contains(t, w.del, bridge)
	require.Contains(t, w.add, bridge)
	ports, addrs, routes := 0, 0, 0
	for k, v := range w.add {
		require.Equal(t, bridge.node, k.node)
		switch v := v.(type) {
		case masterObj:
			require.Equal(t, bridge.dev, v.master)
			ports++
		case addrObj:
			addrs++
		case routeObj:
			routes++
		}
	}
	require.NotZero(t, ports)
	require.Equal(t, 1, addrs)
	require.NotZero(t, routes)
}

// TestDiffSetsSysctlsOfANewDevice plugs a machine in elsewhere: its interface
// is another one, with the kernel's own values.
func TestDiffSetsSysctlsOfANewDevice(t *testing.T) {
	at := func(port string) objects {
		return flatten(State{
			Nodes: map[string]Node{
				"vm": {Name: "vm", Sysctls: map[string]string{"net.ipv6.conf.eth0.disable_ipv6": "0", "net.ipv4.ip_forward": "1"}},
				"h1": {Name: "h1"}, "h2": {Name: "h2"},
			},
			Links: map[string]Link{"vm:eth0--" + port + ":p": {MTU: 1500, A: End{Node: "vm", Ifname: "eth0"}, B: End{Node: port, Ifname: "p"}}},
		})
	}
	w, _ := diff(at("h1"), at("h2"))
	require.Contains(t, w.add, key{rankSysctl, "vm", "", "net.ipv6.conf.eth0.disable_ipv6"})
	require.NotContains(t, w.add, key{rankSysctl, "vm", "", "net.ipv4.ip_forward"})
}

func TestEgress(t *testing.T) {
	ms := topo.Duration(time.Millisecond)
	require.Equal(t, egress{}, egressOf(topo.Impairment{Queue: 5}), "without a line nothing queues")
	e := egressOf(topo.Impairment{Rate: 465e6, Delay: 27 * ms / 2, Loss: 100})
	require.Equal(t, uint32(1<<32-1), e.loss)
	require.Equal(t, (2074+spare)*wirePacket, e.queue, "4 x 13.5 ms of 465 Mbit/s, and spare")
	require.Equal(t, 1000*wirePacket, egressOf(topo.Impairment{Rate: 1e6, Queue: 1000}).queue)
	require.Equal(t, superFrame, egressOf(topo.Impairment{Rate: 1e6, Queue: 1}).queue, "a super frame must fit")
	require.Equal(t, uint64(12344), egressOf(topo.Impairment{Rate: 12345}).rate, "whole bytes")
}

func TestLateSysctls(t *testing.T) {
	for name, late := range map[string]bool{
		"net.ipv4.ip_forward":               false,
		"net.ipv4.conf.all.rp_filter":       false,
		"net.ipv4.conf.default.rp_filter":   false,
		"net.mpls.conf.lo.input":            false,
		"net.mpls.platform_labels":          false,
		"net.ipv4.conf.eth0.rp_filter":      true,
		"net.ipv4.neigh.eth0.ucast_solicit": true,
	} {
		require.Equal(t, late, key{rankSysctl, "n", "", name}.late(), name)
	}
}

func TestCheckNamesWhatLeadsNowhere(t *testing.T) {
	require.ErrorContains(t, compiled(t, small).check(), "node pe1 has no bridge or VRF vrf-acme", "VRFs are made by another package")
	s := State{
		Nodes: map[string]Node{"a": {Name: "a", Bridges: []Bridge{{Name: "lan"}},
			Routes: []Route{{Dst: defaultRoute, Dev: "gone"}}, Rules: []Rule{{Pref: 9, Iif: "eth7"}}, MPLS: []MPLSRoute{{In: 16, Dev: "vrf-x"}}}},
		Links: map[string]Link{"l": {A: End{Node: "a", Ifname: "lan"}, B: End{Node: "b", Ifname: "muchtoolongforthis", Master: "br"}}},
	}
	require.EqualError(t, s.check(), `link l: node a has two interfaces called lan
link l: node b: no such node in the running lab
link l: node b has no bridge or VRF br
link l: interface name "muchtoolongforthis": want 1 to 15 bytes
node a: rule 9: no interface eth7
node a: route 0.0.0.0/0: no interface gone
node a: label 16: no interface vrf-x`)
}
