package mpls_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/mpls"
	"github.com/vpclab/vpclab/emu/mpls/vpntest"
	"github.com/vpclab/vpclab/topo"
)

// bare is a state with the plan's nodes and links and nothing in them.
func bare(plan *topo.Plan) fabric.State {
	st := fabric.State{Nodes: map[string]fabric.Node{}, Links: map[string]fabric.Link{}}
	for _, n := range plan.Nodes {
		st.Nodes[n.Name] = fabric.Node{Name: n.Name, Kind: n.Kind}
	}
	for _, k := range plan.Links {
		st.Links[k.Name()] = fabric.Link{A: fabric.End{Node: k.A.Node, Ifname: k.A.Ifname}, B: fabric.End{Node: k.B.Node, Ifname: k.B.Ifname}, MTU: k.MTU}
	}
	return st
}

func compiled(t *testing.T) (*topo.Plan, fabric.State) {
	plan := vpntest.Plan(t, "c", vpntest.CoreMTU)
	st := bare(plan)
	mpls.Compile(plan, &st)
	return plan, st
}

func TestCompileLabels(t *testing.T) {
	plan, st := compiled(t)
	// pe1 > p1 > p2 > pe2: one swap, one penultimate hop.
	hops := lspHops(t, plan, "pe1", "pe2")
	require.Len(t, hops, 3)
	require.Contains(t, st.Nodes["p1"].MPLS, fabric.MPLSRoute{In: hops[1].InLabel, Out: fabric.Stack{hops[1].OutLabel}, Via: hops[1].Via, Dev: hops[1].Dev})
	require.Contains(t, st.Nodes["p2"].MPLS, fabric.MPLSRoute{In: hops[2].InLabel, Via: hops[2].Via, Dev: hops[2].Dev})
	for _, r := range st.Nodes["pe1"].MPLS {
		require.NotZero(t, r.In, "a router that nobody sends labels to has no entry for it")
	}
	seen := map[string]map[uint32]bool{}
	for name, n := range st.Nodes {
		seen[name] = map[uint32]bool{}
		for _, r := range n.MPLS {
			require.False(t, seen[name][r.In], "%s: label %d twice", name, r.In)
			seen[name][r.In] = true
			require.LessOrEqual(t, r.In, plan.MaxLabel())
		}
	}
	require.Empty(t, st.Nodes["rr"].MPLS)
}

func TestCompileVRFs(t *testing.T) {
	plan, st := compiled(t)
	red, _ := plan.VPC("red")
	blue, _ := plan.VPC("blue")
	r1, _ := red.VRF("pe1")
	b1, _ := blue.VRF("pe1")
	pe1 := st.Nodes["pe1"]
	require.Equal(t, []fabric.VRF{{Name: r1.Name, Table: r1.Table}, {Name: b1.Name, Table: b1.Table}}, pe1.VRFs)
	require.Contains(t, pe1.MPLS, fabric.MPLSRoute{In: r1.Label, Dev: r1.Name})
	a := attachment(red, "s1")
	require.Contains(t, pe1.Routes, fabric.Route{Table: r1.Table, Dst: a.Subnet, Via: a.CEAddr, Dev: a.PEIf})
	require.Equal(t, []fabric.Rule{{Pref: 32765, Table: 255}, {Pref: 0, Table: 255, Del: true}}, pe1.Rules)
	require.Equal(t, "1", pe1.Sysctls["net.vrf.strict_mode"])
	require.Len(t, st.Nodes["pe3"].VRFs, 1, "blue has no site at pe3")
	require.Empty(t, st.Nodes["p1"].Rules)
	for _, k := range plan.Links {
		if k.AC {
			require.Equal(t, k.A.VRF, st.Links[k.Name()].A.Master)
		}
	}
}

func TestCompileOpensCoreEndsOnly(t *testing.T) {
	plan, st := compiled(t)
	for _, k := range plan.Links {
		a, _ := plan.Node(k.A.Node)
		b, _ := plan.Node(k.B.Node)
		core := func(n *topo.Node) bool { return n.Kind == topo.KindPE || n.Kind == topo.KindP }
		want := core(a) && core(b)
		got := st.Links[k.Name()]
		require.Equal(t, want, got.A.MPLSInput, k.Name())
		require.Equal(t, want, got.B.MPLSInput, k.Name())
		if k.Core {
			// A P link with a smaller MTU would swallow packets without a word.
			require.Equal(t, plan.CoreMTU, k.MTU, k.Name())
		}
	}
}

func TestCompileCoreRoutesCarryTheLoopback(t *testing.T) {
	plan, st := compiled(t)
	rr, _ := plan.Node("rr")
	for _, pe := range []string{"pe1", "pe2", "pe3"} {
		self, _ := plan.Node(pe)
		var found bool
		for _, r := range st.Nodes[pe].Routes {
			if r.Dst == netip.PrefixFrom(rr.Loopback, 32) {
				found = true
				require.Equal(t, self.Loopback, r.Src)
			}
		}
		require.True(t, found, "%s has no route to the reflector", pe)
	}
}

// A site that left keeps its LAN and has nothing at the PE.
func TestCompileDetached(t *testing.T) {
	plan := vpntest.Plan(t, "c", vpntest.CoreMTU).Detach(func(a topo.Attachment) bool { return a.VPC == "red" && a.Site == "s3" })
	st := bare(plan)
	mpls.Compile(plan, &st)
	require.Empty(t, st.Nodes["pe3"].VRFs)
	require.Len(t, st.Nodes["pe3"].Rules, 2, "a PE is guarded before its first tenant comes")
	for _, r := range st.Nodes["pe3"].Routes {
		require.Zero(t, r.Table)
	}
	require.Len(t, st.Nodes["pe1"].VRFs, 2)
}

// Compile must not write into the slices and maps of the state it was given:
// the fabric compares states.
func TestCompileDoesNotShare(t *testing.T) {
	plan := vpntest.Plan(t, "c", vpntest.CoreMTU)
	st := bare(plan)
	n := st.Nodes["pe1"]
	n.Sysctls = map[string]string{"a": "b"}
	n.Routes = make([]fabric.Route, 0, 100)
	st.Nodes["pe1"] = n
	mpls.Compile(plan, &st)
	require.Equal(t, map[string]string{"a": "b"}, n.Sysctls)
	require.Zero(t, n.Routes[:1][0].Dst)
	require.NotEmpty(t, st.Nodes["pe1"].Routes)
}

func TestVPNRoute(t *testing.T) {
	p, via := netip.MustParsePrefix("10.0.2.0/24"), netip.MustParseAddr("10.254.0.3")
	require.Equal(t, fabric.Route{Table: 1001, Dst: p, Via: via, Dev: "p1", Labels: fabric.Stack{10402, 20102}}, mpls.VPNRoute(1001, p, 10402, 20102, via, "p1"))
	require.Equal(t, fabric.Route{Table: 1001, Dst: p, Via: via, Dev: "pe2", Labels: fabric.Stack{20102}}, mpls.VPNRoute(1001, p, 0, 20102, via, "pe2"))
}
