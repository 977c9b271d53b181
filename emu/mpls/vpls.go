package mpls

import (
	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/topo"
)

// PseudowireBlock is the number of the shared filter block on the core
// interfaces of a PE with a VPLS: in it the speaker tells by its label which
// pseudowire a frame belongs to, whichever core link it came by.
const PseudowireBlock = 1

// vsis readies each PE with a VPLS for its pseudowires: what the PE sends on
// one is pushed a local label and handed to the kernel's own label switching
// by way of lo, which resolves the next hop as for any LSP. The bridge itself
// is a part of the plan's nodes; the pseudowires are the speaker's.
func (c *compiler) vsis() {
	at := map[string]bool{}
	for _, v := range c.plan.VPCs {
		for _, vsi := range v.VSIs {
			at[vsi.PE] = true
			if n := c.node(vsi.PE); n != nil {
				n.Sysctls["net.mpls.conf.lo.input"] = "1"
				deaf(n, vsi.Name)
			}
		}
	}
	for _, pl := range c.plan.Links {
		l, ok := c.st.Links[pl.Name()]
		if !ok || !c.core(pl) {
			continue
		}
		if at[pl.A.Node] {
			l.A.Block = PseudowireBlock
		}
		if at[pl.B.Node] {
			l.B.Block = PseudowireBlock
		}
		c.st.Links[pl.Name()] = l
	}
}

// deaf keeps the IP of a PE off the bridge of a VPLS. A bridge takes what is
// sent to its own MAC address for its node, which is a router and would deliver
// or forward it: the tenant could reach the whole backbone. The PE has no route
// into a VPLS, so that no source passes the strict reverse path check (RFC
// 3704), and it answers no ARP request there.
func deaf(n *fabric.Node, bridge string) {
	n.Sysctls["net.ipv4.conf."+bridge+".rp_filter"] = "1"
	n.Sysctls["net.ipv4.conf."+bridge+".arp_ignore"] = "8"
	n.Sysctls["net.ipv4.conf."+bridge+".forwarding"] = "0"
}

// core reports whether both ends of a link switch labels.
func (c *compiler) core(l topo.Link) bool {
	return l.Core && c.switches(l.A.Node) && c.switches(l.B.Node)
}

func (c *compiler) switches(node string) bool {
	return c.kinds[node] == topo.KindPE || c.kinds[node] == topo.KindP
}
