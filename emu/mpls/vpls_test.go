package mpls_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/mpls"
	"github.com/vpclab/vpclab/topo"
)

const bridged = `name: bridged
topology:
  backbone:
    pe: [pe1, pe2, pe3]
    p: [p1]
    links:
      - {between: [pe1, p1], rate: 100mbit}
      - {between: [pe2, p1], rate: 100mbit}
      - {between: [pe3, p1]}
  sites:
    s1: {kind: enterprise, pe: pe1, machines: 1}
    s2: {kind: enterprise, pe: pe2, machines: 1}
    s3: {kind: enterprise, pe: pe3, machines: 1}
vpcs:
  lan: {service: vpls, sites: [s1, s2]}
  net: {service: l3vpn, sites: [s1, s2, s3]}
`

func parsed(t *testing.T, src string) (*topo.Plan, fabric.State) {
	t.Helper()
	sc, err := topo.Parse("t.vpclab.yml", []byte(src))
	require.NoError(t, err)
	plan, err := topo.Expand(sc)
	require.NoError(t, err)
	st := fabric.Compile(plan)
	mpls.Compile(plan, &st)
	return plan, st
}

// TestCompileGroundOfPseudowires: PEs with a VPLS, and only they, take labels
// in on lo and have the shared filter block on their core ends.
func TestCompileGroundOfPseudowires(t *testing.T) {
	plan, st := parsed(t, bridged)
	for node, want := range map[string]bool{"pe1": true, "pe2": true, "pe3": false, "p1": false} {
		_, open := st.Nodes[node].Sysctls["net.mpls.conf.lo.input"]
		require.Equal(t, want, open, node)
	}
	blocks := map[string]uint32{}
	for _, l := range plan.Links {
		for _, e := range []fabric.End{st.Links[l.Name()].A, st.Links[l.Name()].B} {
			if e.Block != 0 {
				require.True(t, l.Core, "a block on the circuit %s", l.Name())
				blocks[e.Node] = e.Block
			}
		}
	}
	require.Equal(t, map[string]uint32{"pe1": mpls.PseudowireBlock, "pe2": mpls.PseudowireBlock}, blocks)
}

func TestCompileCircuitOfVPLS(t *testing.T) {
	plan, st := parsed(t, bridged)
	for _, l := range plan.Links {
		if l.AC && l.VPC == "lan" {
			k := st.Links[l.Name()]
			require.Equal(t, "vsi-lan", k.A.Master)
			require.Equal(t, "lan", k.B.Master)
			require.False(t, k.A.Addr.IsValid() || k.B.Addr.IsValid())
			_, asks := st.Nodes[l.A.Node].Sysctls["net.ipv4.neigh."+l.A.Ifname+".retrans_time_ms"]
			require.False(t, asks, "nobody asks for addresses on a bridged circuit")
		}
	}
	require.NotContains(t, st.Nodes["lan-s1-ce"].Sysctls, "net.ipv4.conf.lan.forwarding")
}

// TestCompileRulesByWhatTheySay: of reservations that mean the same packets,
// the one that names machines is asked before the one that names their sites,
// whichever came first.
func TestCompileRulesByWhatTheySay(t *testing.T) {
	_, st := parsed(t, bridged+`reservations:
  wide: {vpc: net, between: [s1, s2], rate: 1mbit}
  to: {vpc: net, between: [s1, net-s2-1], rate: 1mbit}
  from: {vpc: net, between: [net-s1-1, s2], rate: 1mbit}
  narrow: {vpc: net, between: [net-s1-1, net-s2-1], rate: 1mbit}
`)
	var tables []int
	pref := map[int]int{}
	for _, r := range st.Nodes["pe1"].Rules {
		if r.Iif != "" {
			tables = append(tables, r.Table)
			pref[r.Table] = r.Pref
		}
	}
	slices.SortFunc(tables, func(a, b int) int { return pref[a] - pref[b] })
	require.Equal(t, []int{6007, 6003, 6005, 6001}, tables, "narrow, to, from, wide")
	require.Equal(t, map[int]int{6007: 900, 6003: 901, 6005: 902, 6001: 903}, pref)
}
