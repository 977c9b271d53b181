package fabric

import (
	"net/netip"
	"slices"

	"github.com/vpclab/vpclab/topo"
)

// Compile makes the plain part of a lab's State: nodes, links, bridges,
// static routes and loopbacks. Labels, VRFs and core routes are added by
// package mpls.
func Compile(plan *topo.Plan) State {
	s := State{Nodes: make(map[string]Node, len(plan.Nodes)), Links: make(map[string]Link, len(plan.Links))}
	for _, n := range plan.Nodes {
		s.Nodes[n.Name] = compileNode(n)
	}
	for _, l := range plan.Links {
		s.Links[l.Name()] = CompileLink(l)
	}
	return s
}

// CompileLink makes one link of a State.
func CompileLink(l topo.Link) Link {
	out := Link{A: compileEnd(l.A, l.AtoB), B: compileEnd(l.B, l.BtoA), MTU: l.MTU, Down: l.Failed, Seat: l.Seat}
	out.A.Closed = l.Closed
	return out
}

func compileNode(n topo.Node) Node {
	out := Node{Name: n.Name, Kind: n.Kind, Sysctls: map[string]string{}}
	if n.Forward {
		out.Sysctls["net.ipv4.ip_forward"] = "1"
	}
	if n.IPv6 {
		// Namespaces have IPv6 off; one interface with it is enough for link-local addresses.
		out.Sysctls["net.ipv6.conf.eth0.disable_ipv6"] = "0"
	}
	if n.Loopback.IsValid() {
		out.Lo = []netip.Prefix{netip.PrefixFrom(n.Loopback, n.Loopback.BitLen())}
	}
	for _, b := range n.Bridges {
		out.Bridges = append(out.Bridges, Bridge{Name: b.Name, MAC: b.MAC, Addr: b.Addr, Ageing: b.Ageing})
	}
	if n.Kind == topo.KindHost {
		secludeHost(n, &out)
	}
	if n.Pair != nil || n.Kind == topo.KindStandby {
		out.Sysctls[orphanRetries] = "1"
	}
	for _, b := range n.Bridges {
		if b.Proxy { // at once: by itself the kernel waits up to 0.8 s, for others to answer first
			out.Sysctls["net.ipv4.conf."+b.Name+".proxy_arp"], out.Sysctls["net.ipv4.neigh."+b.Name+".proxy_delay"] = "1", "0"
		}
	}
	for _, r := range n.Routes {
		out.Routes = append(out.Routes, Route{Dst: r.Dst, Via: r.Via, Dev: r.Dev, Metric: r.Metric})
	}
	return out
}

// orphanRetries is how often TCP tries to deliver what a process left that has
// ended. Processes of protected VMs and of their hosts are killed because nobody
// can be reached, and what they leave would hold their namespaces for minutes.
const orphanRetries = "net.ipv4.tcp_orphan_retries"

// secludeHost keeps the IP of a hypervisor host that has an address off the
// LANs of its guests. A bridge takes what is sent to its own MAC address for its
// node, which knows all its addresses on all its bridges: a tenant could talk to
// the host. No source on a tenant's bridge passes the strict reverse path check
// (RFC 3704), as the host's one subnet is elsewhere, and no ARP request is
// answered there.
func secludeHost(n topo.Node, out *Node) {
	if !slices.ContainsFunc(n.Bridges, func(b topo.Bridge) bool { return b.Addr.IsValid() }) {
		return
	}
	out.Sysctls[orphanRetries] = "1"
	for _, b := range n.Bridges {
		conf := "net.ipv4.conf." + b.Name + "."
		out.Sysctls[conf+"rp_filter"], out.Sysctls[conf+"forwarding"] = "1", "0"
		if !b.Addr.IsValid() {
			out.Sysctls[conf+"arp_ignore"] = "8"
		}
	}
}

func compileEnd(e topo.Endpoint, egress topo.Impairment) End {
	master := e.Bridge
	if master == "" {
		master = e.VRF
	}
	return End{Node: e.Node, Ifname: e.Ifname, MAC: e.MAC, Addr: e.Addr, Master: master, Egress: egress}
}
