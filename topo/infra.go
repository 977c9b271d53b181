package topo

import (
	"fmt"
	"net/netip"
	"slices"
)

// Infra names the network that joins the hypervisor hosts of all clouds, where
// VMs have guests: a VPLS of the provider's, in which each host's bridge has an
// address and which has no machines. What one host sends another on behalf of a
// VM that moves goes through it, over PEs and Ps like any customer's frames,
// under labels of its own.
//
// It is VPC 251, after all customers': whoever comes and goes, its numbers
// stay.
const Infra = "infra"

// hosting tells whether a site's hosts are in their network. The PEs of FRR
// know no VPLS.
func (f fullScenario) hosting(s Site) bool {
	return s.Kind == "cloud" && f.Topology.Backbone.of(s.PE) != RoutingFRR
}

// infra adds the network of the hosts. Where the backbone's MTU is small, that
// of the network is smaller still.
func (b *builder) infra() {
	v := b.vpc(VPCPlan{
		Name: Infra, Index: infraVPC, Service: ServiceVPLS, Provider: true,
		MTU: min(defaultMTU, b.plan.CoreMTU-frameOf(0, 2)), Ageing: defaultAgeing.Std(),
	})
	for _, s := range b.plan.Sites {
		if len(s.Hosts) == 0 || b.index[s.PE].Routing == RoutingFRR {
			continue
		}
		a := b.attach(v, s, v.Subnet)
		for h, host := range s.Hosts {
			segment := b.index[host].bridge(hostBridge(Infra))
			segment.Addr = netip.PrefixFrom(infraAddr(s.Index, h+1), v.Subnet.Bits())
		}
		b.join(v, a)
	}
}

// bridge is the node's bridge of that name.
func (n *Node) bridge(name string) *Bridge {
	for i := range n.Bridges {
		if n.Bridges[i].Name == name {
			return &n.Bridges[i]
		}
	}
	return nil
}

// infraAddr is the address of host h of site s in the hosts' network.
func infraAddr(s, h int) netip.Addr { return offset(defaultLAN(infraVPC, s), h) }

// HostAddr is the address of a hypervisor host in the network of the hosts.
func (p *Plan) HostAddr(host string) (netip.Addr, error) {
	n, ok := p.Node(host)
	if !ok || n.Kind != KindHost {
		return netip.Addr{}, fmt.Errorf("there is no hypervisor host %q", host)
	}
	if segment := n.bridge(hostBridge(Infra)); segment != nil && segment.Addr.IsValid() {
		return segment.Addr.Addr(), nil
	}
	return netip.Addr{}, fmt.Errorf("host %s is not in the network that joins the hypervisor hosts: it is there where VMs have guests, and at clouds whose PE does not run FRR", host)
}

// HostName is a hypervisor host as scenario files and operations name it,
// site/number, from the name of its node. Any other name is given back.
func (p *Plan) HostName(name string) string {
	for _, s := range p.Sites {
		if i := slices.Index(s.Hosts, name); i >= 0 {
			return fmt.Sprintf("%s/%d", s.Name, i+1)
		}
	}
	return name
}

// Customers lists the VPCs but for the provider's own.
func (p *Plan) Customers() []VPCPlan {
	return slices.DeleteFunc(slices.Clone(p.VPCs), func(v VPCPlan) bool { return v.Provider })
}

// provides tells whether a VPC is the provider's own.
func (p *Plan) provides(vpc string) bool {
	v, ok := p.VPC(vpc)
	return ok && v.Provider
}
