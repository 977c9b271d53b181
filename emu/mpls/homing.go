package mpls

import (
	"net/netip"

	"github.com/vpclab/vpclab/topo"
)

// detourMetric is that of the way by another PE to a site that is attached
// here: any other route to it is better.
const detourMetric = 20

// homes readies what a site of an l3vpn with two PEs needs besides its circuits. Where a
// circuit has no carrier the kernel looks past the route by it: the CE takes
// its other one, and the first PE sends what still comes to it to the second.
// The second sends nothing back, so that nothing goes round in a circle when
// both circuits are down.
func (c *compiler) homes(v topo.VPCPlan, a topo.Attachment, tables map[string]int) {
	if a.Backup == nil || !a.Joined || v.Service == topo.ServiceVPLS {
		return
	}
	for _, k := range a.Circuits() {
		c.looksPast(a.CE, k.CEIf)
	}
	c.looksPast(a.PE, a.PEIf)
	second, ok := v.VRF(a.Backup.PE)
	lsp, leads := c.plan.LSP(a.Backup.PE)
	first := c.node(a.PE)
	if !ok || !leads || first == nil || c.frr.routers[a.PE] {
		return
	}
	h, ok := lsp.Hop(a.PE)
	for _, dst := range []netip.Prefix{a.Subnet, a.More.Whole()} {
		if ok && dst.IsValid() {
			r := VPNRoute(tables[a.PE], dst, h.OutLabel, second.Label, h.Via, h.Dev)
			r.Metric = detourMetric
			first.Routes = append(first.Routes, r)
		}
	}
}

// looksPast has a node pass over its routes by an interface without a carrier.
func (c *compiler) looksPast(node, ifname string) {
	if n := c.node(node); n != nil {
		n.Sysctls["net.ipv4.conf."+ifname+".ignore_routes_with_linkdown"] = "1"
	}
}
