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
