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

// mainRoutes are the destinations in a node's main table.
func mainRoutes(n fabric.Node) (out []netip.Prefix) {
	for _, r := range n.Routes {
		if r.Table == 0 {
			out = append(out, r.Dst)
		}
	}
	return out
}

func TestCompileLeavesOutWhatFRRDoes(t *testing.T) {
	plan := vpntest.Plan(t, "c", vpntest.CoreMTU) // the reflector hangs on p1
	loopback := func(name string) netip.Prefix {
		n, ok := plan.Node(name)
		require.True(t, ok)
		return netip.PrefixFrom(n.Loopback, 32)
	}

	st := bare(plan)
	mpls.Compile(plan.WithRouting(topo.RoutingFRR), &st)
	for name, n := range st.Nodes {
		require.Empty(t, n.MPLS, "labels at %s are LDP's and bgpd's", name)
	}
	require.Empty(t, mainRoutes(st.Nodes["pe1"]), "the ways are OSPF's")
	require.Equal(t, []netip.Prefix{loopback("rr")}, mainRoutes(st.Nodes["p1"]), "but for the one to the reflector, which speaks none")
	require.Contains(t, mainRoutes(st.Nodes["rr"]), loopback("pe3"))
	require.Len(t, st.Nodes["pe1"].VRFs, 2)
	require.Len(t, st.Nodes["pe1"].Routes, 2, "the routes to the sites are ours")

	st = bare(plan)
	mpls.Compile(plan.WithRouting(topo.RoutingFRR, "pe2"), &st)
	pe2 := mainRoutes(st.Nodes["pe2"])
	require.Contains(t, pe2, loopback("rr"))
	require.Contains(t, pe2, loopback("p1"))
	require.NotContains(t, pe2, loopback("pe1"), "that is staticd's, with its label")
	require.Empty(t, st.Nodes["pe2"].MPLS, "nobody sends through pe2, and its VPN labels are bgpd's")
	require.Contains(t, mainRoutes(st.Nodes["pe1"]), loopback("pe2"))
	require.NotEmpty(t, st.Nodes["p2"].MPLS)
}

// Where FRR's neighbour is the egress, staticd must have a label all the same.
func TestCompileOwnLabelOfFRRsNeighbour(t *testing.T) {
	sc, err := topo.Parse("n.vpclab.yml", []byte(`
name: n
topology:
  backbone:
    pe: [pe1, pe2]
    links: [{between: [pe1, pe2]}]
    routers: {pe2: {routing: frr}}
  sites: {a: {kind: enterprise, pe: pe1}, b: {kind: enterprise, pe: pe2}}
vpcs:
  x: {service: l3vpn, sites: [a, b]}
`))
	require.NoError(t, err)
	plan, err := topo.Expand(sc)
	require.NoError(t, err)
	lsp, ok := plan.LSP("pe1")
	require.True(t, ok)
	require.EqualValues(t, 10101, lsp.Label)
	st := bare(plan)
	mpls.Compile(plan, &st)
	require.Contains(t, st.Nodes["pe1"].MPLS, fabric.MPLSRoute{In: lsp.Label, Dev: "lo"})
	require.Equal(t, "1", st.Nodes["pe1"].Sysctls["net.mpls.conf.lo.input"])
	require.Empty(t, st.Nodes["pe2"].MPLS, "GoBGP's PE pushes no label for its neighbour")

	st = bare(plan)
	mpls.Compile(plan.WithRouting(topo.RoutingController), &st)
	require.NotContains(t, st.Nodes["pe1"].MPLS, fabric.MPLSRoute{In: lsp.Label, Dev: "lo"})
}
