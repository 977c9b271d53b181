package scenarios

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/topo"
)

const lanDemo = `name: demo
topology:
  backbone: {pe: [pe1, pe2, pe3], p: [p1], links: [{between: [pe1, p1]}, {between: [pe2, p1]}, {between: [pe3, p1]}]}
  sites:
    hq:    {kind: enterprise, pe: pe3, machines: 1}
    west:  {kind: cloud, pe: pe1, hosts: 2, machines: 2}
    east:  {kind: cloud, pe: pe2, hosts: 1, machines: 2}
    annex: {kind: enterprise, pe: pe3, machines: 1}
vpcs:
  old:    {service: l3vpn, sites: [hq, annex]}
  flat:   {service: vpls, sites: [hq, annex, west, east]}
  routed: {service: l3vpn, sites: [west, east]}
experiments: [{kind: lan}]
`

func lanPlan(t *testing.T, text string) *topo.Plan {
	t.Helper()
	_, plan, err := Parse("demo.vpclab.yml", []byte(text))
	require.NoError(t, err)
	return plan
}

func TestLANScopeTakesWaysThatCompare(t *testing.T) {
	s, err := newLANScope(lanPlan(t, lanDemo))
	require.NoError(t, err)
	require.Equal(t, "flat", s.flat.Name)
	require.Equal(t, "routed", s.routed.Name, "the l3vpn that is at two of the sites, behind two PEs")
	require.Equal(t, []string{"west", "east"}, []string{s.ends[0].Site, s.ends[1].Site})
	require.Equal(t, []string{"west", "east"}, []string{s.routedEnds[0].Site, s.routedEnds[1].Site})
	require.Equal(t, "flat-west-2", s.vm)
	require.Equal(t, lanHost{"west/2", "west", "west-h2"}, s.home)
	require.Equal(t, lanHost{"east/1", "east", "east-h1"}, s.away)
	require.Equal(t, "flat-hq-1", s.peer, "at a third site")

	alone := strings.Replace(lanDemo, "  routed: {service: l3vpn, sites: [west, east]}\n", "", 1)
	s, err = newLANScope(lanPlan(t, alone))
	require.NoError(t, err)
	require.Nil(t, s.routed)
	require.Equal(t, []string{"hq", "west"}, []string{s.ends[0].Site, s.ends[1].Site})
}

func TestLANSaysWhatItLacks(t *testing.T) {
	for name, c := range map[string]struct{ from, to, want string }{
		"vpls":     {"service: vpls", "service: l3vpn", "lan needs a VPC with the service vpls, and there is none"},
		"PEs":      {"[hq, annex, west, east]", "[hq, annex]", "lan needs machines of flat at sites of two PEs"},
		"VM":       {"[hq, annex, west, east]", "[hq, west]", "lan moves a VM: it needs one of flat on a host"},
		"machines": {"hosts: 1, machines: 2", "hosts: 1, machines: 0", ""}, // a host is enough to move to
	} {
		_, _, err := Parse("demo.vpclab.yml", []byte(strings.Replace(lanDemo, c.from, c.to, 1)))
		if c.want == "" {
			require.NoError(t, err, name)
		} else {
			require.ErrorContains(t, err, "experiments[0].kind: "+c.want, name)
		}
	}
}

func TestPlainIPHasTheSameWay(t *testing.T) {
	plan := lanPlan(t, lanDemo)
	s, err := newLANScope(plan)
	require.NoError(t, err)
	with, ends := withPlain(plan, s.ends[0], s.ends[1])
	require.NotEqual(t, ends[0].Addr, ends[1].Addr)
	macs, ports := map[topo.MAC]bool{}, map[string]bool{}
	for _, l := range with.Links {
		for _, e := range []topo.Endpoint{l.A, l.B} {
			require.False(t, ports[e.Node+":"+e.Ifname], "%s has two interfaces %s", e.Node, e.Ifname)
			ports[e.Node+":"+e.Ifname] = true
			if e.MAC[1] == 0xfd {
				require.False(t, macs[e.MAC], "MAC %s twice", e.MAC)
				macs[e.MAC] = true
			}
		}
	}
	// Machine, host, gateway, PE: as many links as the vpls has machine, host,
	// CE, PE.
	require.Len(t, with.Links, len(plan.Links)+2*3)
	for _, name := range []string{"pe1", "pe2", "p1"} {
		n, _ := with.Node(name)
		require.Len(t, n.Routes, 2, "%s needs a route to both ends", name)
	}
	old, _ := plan.Node("pe1")
	require.Empty(t, old.Routes, "the plan it was made from is as it was")
}

func TestNearestRank(t *testing.T) {
	var v []time.Duration
	for i := 1; i <= 20; i++ {
		v = append(v, time.Duration(i))
	}
	require.Equal(t, []time.Duration{10, 19, 20, 1}, []time.Duration{nearest(v, 50), nearest(v, 95), nearest(v, 99), nearest(v[:1], 95)})
}
