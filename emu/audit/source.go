package audit

import (
	"net/netip"

	"github.com/vpclab/vpclab/topo"
)

// source is an interface that a customer sends by.
type source struct {
	node, ifname string
	vpc, site    string
	lan          *lan
	mac          topo.MAC
	addr         netip.Addr // own, from which honest packets come
	// hops are the addresses of those who take a packet towards the PE, or
	// are the PE.
	hops []topo.MAC
	// wire: it is the customer's end of the circuit, so that every frame
	// enters the PE as it was sent.
	wire bool
}

// machineSource is a machine that sends below IP.
func (g *ground) machineSource(m machine) source {
	s := source{node: m.Name, ifname: m.ifname, vpc: m.VPC, site: m.Site, lan: m.lan, mac: m.mac, addr: m.Addr}
	if m.lan.service == topo.ServiceVPLS {
		s.hops = m.lan.switches()
	} else {
		s.hops = []topo.MAC{m.lan.gateway}
	}
	for _, h := range g.hosts {
		for _, b := range h.Bridges {
			if h.Name == m.Host && b.Name == m.segment {
				s.hops = append(s.hops, b.MAC) // the host itself, which has an address elsewhere
			}
		}
	}
	return s
}

// switches are the addresses under which the PE's own bridge might take a
// frame for itself: that of the bridge, and that of its port.
func (l *lan) switches() []topo.MAC {
	if !l.Joined {
		return nil
	}
	return []topo.MAC{l.vsi, l.ends[0].MAC}
}

// edgeSource is a CE, at its circuit. Its packets carry the address of a
// machine, which is what comes out of a CE.
func (g *ground) edgeSource(l *lan) source {
	s := source{node: l.CE, ifname: l.ends[1].Ifname, vpc: l.VPC, site: l.Site, lan: l, mac: l.ends[1].MAC, addr: l.CEAddr, wire: true}
	if l.service == topo.ServiceVPLS {
		s.hops = l.switches()
	} else {
		s.hops = []topo.MAC{l.ends[0].MAC}
	}
	if len(l.machines) > 0 {
		s.addr = g.machines[l.machines[0]].Addr
	}
	if !s.addr.IsValid() { // a VPLS has no machine here: it sends as one elsewhere, or as nobody
		s.addr = l.Subnet.Addr().Next()
		if elsewhere := g.elsewhere(&s); elsewhere.IsValid() {
			s.addr = elsewhere
		}
	}
	return s
}

// hostile are the interfaces that attacks are made from: the customer's end of
// every circuit, since a CE is the customer's; and one machine on each segment
// of a LAN, a CE's or a host's, since the others there are plugged into the
// same bridge.
func (g *ground) hostile() (sources []source) {
	for _, a := range g.plan.Attachments() {
		l := g.lans[member{a.VPC, a.Site}]
		if l.Joined && !l.provider {
			sources = append(sources, g.edgeSource(l))
		}
		done := map[string]bool{}
		for _, m := range l.machines {
			if host := g.machines[m].Host; !done[host] {
				done[host] = true
				sources = append(sources, g.machineSource(g.machines[m]))
			}
		}
	}
	return sources
}
