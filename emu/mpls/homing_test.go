package mpls_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/mpls"
	"github.com/vpclab/vpclab/topo"
)

const homed = `
name: homed
topology:
  backbone:
    pe: [pe1, pe2, pe3]
    p: [p1]
    links: [{between: [pe1, p1]}, {between: [pe2, p1]}, {between: [pe3, p1]}]
  sites:
    hq: {kind: enterprise, pe: pe1, backup-pe: pe2}
    branch: {kind: enterprise, pe: pe3}
vpcs:
  acme: {service: l3vpn, sites: [hq, branch]}
  globex: {service: vpls, sites: [hq, branch]}
`

func TestCompileSiteWithTwoPEs(t *testing.T) {
	sc, err := topo.Parse("homed", []byte(homed))
	require.NoError(t, err)
	plan, err := topo.Expand(sc)
	require.NoError(t, err)
	st := fabric.Compile(plan)
	mpls.Compile(plan, &st)

	acme, _ := plan.VPC("acme")
	a := attachment(acme, "hq")
	first, second := a.Circuits()[0], a.Circuits()[1]
	vrf, _ := acme.VRF("pe2")
	for _, k := range []topo.Circuit{first, second} {
		require.Contains(t, st.Nodes[k.PE].Routes, fabric.Route{Table: vrf.Table, Dst: a.Subnet, Via: k.CEAddr, Dev: k.PEIf})
	}
	detours := func(pe string) (all []fabric.Route) {
		for _, r := range st.Nodes[pe].Routes {
			if r.Table == vrf.Table && r.Dst == a.Subnet && r.Metric > 0 {
				all = append(all, r)
			}
		}
		return all
	}
	there := detours("pe1")
	require.Len(t, there, 1, "what still comes to the first PE goes by the second")
	require.Equal(t, fabric.Stack{10402, vrf.Label}, there[0].Labels)
	require.Empty(t, detours("pe2"), "and never back, which would be a circle")

	for at, ifnames := range map[string][]string{a.CE: {"wan", "wan2"}, "pe1": {first.PEIf}} {
		for _, ifname := range ifnames {
			require.Equal(t, "1", st.Nodes[at].Sysctls["net.ipv4.conf."+ifname+".ignore_routes_with_linkdown"], "%s:%s", at, ifname)
		}
	}
	closed := 0
	for _, l := range st.Links {
		if l.A.Closed {
			closed++
			require.Equal(t, "pe2", l.A.Node)
			require.Equal(t, "vsi-globex", l.A.Master)
		}
		require.False(t, l.B.Closed)
	}
	require.Equal(t, 1, closed, "the circuit of the vpls, and not that of the l3vpn")
}
