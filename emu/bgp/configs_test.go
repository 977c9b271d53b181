package bgp_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/bgp"
	"github.com/vpclab/vpclab/emu/mpls/vpntest"
	"github.com/vpclab/vpclab/topo"
)

func TestConfigs(t *testing.T) {
	plan := vpntest.Plan(t, "c", vpntest.CoreMTU)
	cfgs := bgp.Configs(plan)
	require.Len(t, cfgs, 4, "a speaker at each PE and the reflector, none at P routers")
	for node, c := range cfgs {
		require.NoError(t, c.Validate(), node)
	}
	rr, pe1 := cfgs["rr"], cfgs["pe1"]
	require.True(t, rr.Reflector)
	require.Equal(t, []netip.Addr{loopback(plan, "pe1"), loopback(plan, "pe2"), loopback(plan, "pe3")}, rr.Neighbors)
	require.Equal(t, []netip.Addr{loopback(plan, "rr")}, pe1.Neighbors)
	require.Equal(t, loopback(plan, "pe1"), pe1.RouterID)

	require.Len(t, rr.Policy, 2)
	require.Equal(t, "red", rr.Policy[0].Name)
	require.Len(t, rr.Policy[0].From, 3)
	require.Len(t, rr.Policy[1].From, 2)
	require.Len(t, rr.Policy[1].To, 1, "one import target a VPC: a site that joins changes no other site's routes")

	require.Len(t, pe1.VRFs, 2)
	red, _ := plan.VPC("red")
	vrf, _ := red.VRF("pe1")
	a := red.Attachments[0]
	require.Equal(t, bgp.VRF{Name: vrf.Name, Table: vrf.Table, RD: vrf.RD, Label: vrf.Label, Circuits: []bgp.Circuit{
		{Site: a.Site, Prefix: a.Subnet, ExportRT: a.ExportRT, ImportRT: a.ImportRT}}}, pe1.VRFs[0])
	require.Len(t, cfgs["pe3"].VRFs, 1)

	lsp, _ := plan.LSP("pe2")
	for _, h := range lsp.Hops {
		if h.Node == "pe1" {
			require.Contains(t, pe1.Tunnels, bgp.Tunnel{Egress: loopback(plan, "pe2"), Label: h.OutLabel, Via: h.Via, Dev: h.Dev})
		}
	}
	require.Len(t, pe1.Tunnels, 2, "to every other PE, not to itself")
}

// A site that has not joined is nowhere.
func TestConfigsWithoutADetachedSite(t *testing.T) {
	plan := vpntest.Plan(t, "c", vpntest.CoreMTU).Detach(func(a topo.Attachment) bool { return a.VPC == "red" && a.Site == "s3" })
	cfgs := bgp.Configs(plan)
	require.Empty(t, cfgs["pe3"].VRFs)
	require.Len(t, cfgs["rr"].Policy[0].From, 2)
	require.Len(t, cfgs["rr"].Neighbors, 3, "the PE stays a client")

	nobody := bgp.Configs(plan.Detach(func(topo.Attachment) bool { return true }))
	require.Empty(t, nobody["rr"].Policy)
	require.NotEmpty(t, nobody["pe1"].Tunnels)
}

// A site with two PEs is announced by both, with the word which is preferred,
// and in a vpls both know that only one of them may forward.
func TestConfigsOfASiteWithTwoPEs(t *testing.T) {
	sc, err := topo.Parse("homed", []byte(`
name: homed
topology:
  backbone:
    pe: [pe1, pe2, pe3]
    recovery: {detect: [carrier]}
    links: [{between: [pe1, pe2]}, {between: [pe2, pe3]}, {between: [pe1, pe3]}]
  sites:
    hq: {kind: enterprise, pe: pe2, backup-pe: pe1}
    branch: {kind: enterprise, pe: pe3}
vpcs:
  acme: {service: l3vpn, sites: [hq, branch]}
  globex: {service: vpls, sites: [hq, branch]}
`))
	require.NoError(t, err)
	plan, err := topo.Expand(sc)
	require.NoError(t, err)
	cfgs := bgp.Configs(plan)
	for node, c := range cfgs {
		require.NoError(t, c.Validate(), node)
	}
	preference := func(pe string) int { return cfgs[pe].VRFs[0].Circuits[0].Preference }
	require.Equal(t, []int{100, 200, 0}, []int{preference("pe1"), preference("pe2"), preference("pe3")})
	require.Equal(t, []bgp.Homed{{Site: "hq", ID: 1, Preference: 100, Port: "globex-1"}}, cfgs["pe1"].VSIs[0].Homed)
	require.Equal(t, []bgp.Homed{{Site: "hq", ID: 1, Preference: 200, Port: "globex-1"}}, cfgs["pe2"].VSIs[0].Homed)
	require.Empty(t, cfgs["pe3"].VSIs[0].Homed)
	require.Len(t, cfgs["rr"].Policy[0].From, 2, "a site has one export target, whoever announces it")

	for _, tunnel := range cfgs["pe1"].Tunnels {
		require.NotNil(t, tunnel.Backup, "in a triangle every neighbour is reached by the third too")
		require.NotEqual(t, tunnel.Dev, tunnel.Backup.Dev)
	}
}

func TestValidateBackups(t *testing.T) {
	plan := vpntest.Plan(t, "c", vpntest.CoreMTU).WithRecovery(&topo.Recovery{Detect: []string{topo.DetectCarrier}, Local: topo.LocalBackup})
	good := bgp.Configs(plan)["pe1"]
	require.NoError(t, good.Validate())
	for what, by := range map[string]bgp.Backup{
		"no device":        {Via: good.Tunnels[0].Via},
		"no address":       {Dev: "p1"},
		"a reserved label": {Via: good.Tunnels[0].Via, Dev: "p1", Labels: []uint32{3}},
		"too deep":         {Via: good.Tunnels[0].Via, Dev: "p1", Labels: []uint32{100, 101, 102, 103, 104, 105, 106, 107}},
	} {
		c := good
		c.Tunnels = []bgp.Tunnel{good.Tunnels[0]}
		c.Tunnels[0].Backup = &by
		require.ErrorContains(t, c.Validate(), "backup", what)
	}
}
