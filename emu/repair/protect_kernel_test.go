package repair_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/emu/mpls/vpntest"
	"github.com/vpclab/vpclab/emu/repair"
	"github.com/vpclab/vpclab/topo"
)

// A row of routers with a way around below it.
//
//	west -- pe1 -- p1 -- p2 -- p4 -- pe2 -- east
//	          \      \        /      /
//	           `----- `- p3 -´ -----´
const detoured = `
name: detour
topology:
  backbone:
    pe: [pe1, pe2]
    p: [p1, p2, p3, p4]
    recovery: {detect: [carrier]}
    links:
      - {between: [pe1, p1]}
      - {between: [p1, p2]}
      - {between: [p2, p4]}
      - {between: [p4, pe2]}
      - {between: [p1, p3], cost: 30}
      - {between: [p3, p4], cost: 30}
      - {between: [pe1, p3], cost: 90}
      - {between: [p3, pe2], cost: 90}
  sites:
    west: {kind: enterprise, pe: pe1}
    east: {kind: enterprise, pe: pe2}
vpcs:
  acme: {service: l3vpn, sites: [west, east]}
`

// What is prepared for a failure is in the kernels, put there by hand, and the
// failure happens: packets of a VPN and of the backbone itself arrive, both
// ways.
func TestBypassesCarryPackets(t *testing.T) {
	kerneltest.Need(t)
	plan := vpntest.Expand(t, detoured)
	whole := vpntest.WithVPNRoutes(plan, vpntest.State(plan))
	l := vpntest.New(t, plan, nil)
	l.Converge(whole)
	l.Answer()
	west, east := plan.Machines()[0], plan.Machines()[1]
	pe2, _ := plan.Node("pe2")
	acme, _ := plan.VPC("acme")
	vpn, _ := acme.VRF("pe2")

	for name, c := range map[string]struct {
		down [][2]string
		at   [2]string // a router on the bypass, and its neighbour there
		want []uint32  // the labels between them
	}{
		// pe1 is router 1, pe2 2, p1 to p4 are 3 to 6.
		"a link between Ps":                     {[][2]string{{"p1", "p2"}}, [2]string{"p1", "p3"}, []uint32{5006, 10602, vpn.Label}},
		"a P in the middle":                     {[][2]string{{"p1", "p2"}, {"p2", "p4"}}, [2]string{"p1", "p3"}, []uint32{5006, 10602, vpn.Label}},
		"the first link, at the ingress PE":     {[][2]string{{"pe1", "p1"}}, [2]string{"pe1", "p3"}, []uint32{5006, 5004, 10402, vpn.Label}},
		"the first P":                           {[][2]string{{"pe1", "p1"}, {"p1", "p2"}, {"p1", "p3"}}, [2]string{"pe1", "p3"}, []uint32{5006, 5004, 10402, vpn.Label}},
		"the last link, to the egress PE":       {[][2]string{{"p4", "pe2"}}, [2]string{"p4", "p3"}, []uint32{5002, vpn.Label}},
		"the last P, around which goes a stack": {[][2]string{{"p4", "pe2"}, {"p2", "p4"}, {"p3", "p4"}}, [2]string{"p2", "p1"}, []uint32{5005, 5002, vpn.Label}},
	} {
		t.Run(name, func(t *testing.T) {
			l.Converge(flipped(plan, whole, c.down))
			defer l.Converge(whole)
			wire := l.Tap(c.at[0], c.at[1])
			there := l.Ask(vpntest.Question{From: west.Name, To: east.Addr})
			require.Equal(t, east.Name, there.Name, "%+v", there)
			f, ok := wire.Next(vpntest.Patience, func(f vpntest.Frame) bool { return f.Out && f.Dst == east.Addr })
			require.True(t, ok, "nothing goes from %s to %s", c.at[0], c.at[1])
			var labels []uint32
			for _, e := range f.Stack {
				labels = append(labels, e.Label)
			}
			require.Equal(t, c.want, labels)
			require.Equal(t, west.Name, l.Ask(vpntest.Question{From: east.Name, To: west.Addr}).Name)
			require.Equal(t, pe2.Loopback, l.Ask(vpntest.Question{From: "pe1", To: pe2.Loopback}).By, "the loopbacks, by which speakers talk")
		})
	}
}

// flipped is a state in which links are down and the routers at their ends have
// switched to what they have prepared.
func flipped(plan *topo.Plan, st fabric.State, down [][2]string) fabric.State {
	out := fabric.State{Nodes: map[string]fabric.Node{}, Links: map[string]fabric.Link{}}
	for name, l := range st.Links {
		l.Down = slices.Contains(down, [2]string{l.A.Node, l.B.Node}) || slices.Contains(down, [2]string{l.B.Node, l.A.Node})
		out.Links[name] = l
	}
	isDown := func(node, dev string) bool {
		return slices.Contains(down, [2]string{node, dev}) || slices.Contains(down, [2]string{dev, node}) // interfaces are named after neighbours
	}
	for name, n := range st.Nodes {
		n.MPLS, n.Routes = slices.Clone(n.MPLS), slices.Clone(n.Routes)
		for _, p := range repair.Protections(plan, name) {
			switch {
			case !isDown(name, p.Dev):
			case p.MPLS != nil:
				n.MPLS[slices.Index(n.MPLS, *p.MPLS)] = *p.MPLSBy
			default:
				n.Routes[slices.Index(n.Routes, *p.IP)] = *p.IPBy
			}
		}
		for i, r := range n.Routes { // what a speaker does by its tunnel's backup
			if egress, vpn := behind(plan, name, r); egress != "" && isDown(name, r.Dev) {
				by, _ := plan.Backup(name, egress)
				n.Routes[i].Via, n.Routes[i].Dev, n.Routes[i].Labels = by.Via, by.Dev, fabric.Stack{}
				copy(n.Routes[i].Labels[:], append(by.Labels, vpn))
			}
		}
		out.Nodes[name] = n
	}
	return out
}

// behind is the PE that a VPN route of another leads to, and its VPN label.
func behind(plan *topo.Plan, pe string, r fabric.Route) (egress string, vpn uint32) {
	for _, v := range plan.VPCs {
		for _, a := range v.Attachments {
			vrf, _ := v.VRF(a.PE)
			if a.PE != pe && vrf.Table == r.Table && a.Subnet == r.Dst && r.Dst != (netip.Prefix{}) {
				return a.PE, vrf.Label
			}
		}
	}
	return "", 0
}
