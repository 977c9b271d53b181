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
	pe           string // where what it sends comes in
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
	s := source{node: m.Name, ifname: m.ifname, vpc: m.VPC, site: m.Site, lan: m.lan, pe: m.lan.PE, mac: m.mac, addr: m.Addr}
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

// switches are the addresses under which the PEs' own bridges might take a
// frame for themselves: those of the bridges, and those of their ports.
func (l *lan) switches() (macs []topo.MAC) {
	for _, k := range l.edges {
		macs = append(macs, k.switches()...)
	}
	return macs
}

func (k edge) switches() []topo.MAC { return []topo.MAC{k.vsi, k.ends[0].MAC} }

// edgeSource is a CE, at one of its circuits. Its packets carry the address of
// a machine, which is what comes out of a CE.
func (g *ground) edgeSource(l *lan, k edge) source {
	s := source{node: l.CE, ifname: k.ends[1].Ifname, vpc: l.VPC, site: l.Site, lan: l, pe: k.PE, mac: k.ends[1].MAC, addr: k.CEAddr, wire: true}
	if l.service == topo.ServiceVPLS {
		s.hops = k.switches()
	} else {
		s.hops = []topo.MAC{k.ends[0].MAC}
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
		for _, k := range l.edges {
			if !l.provider {
				sources = append(sources, g.edgeSource(l, k))
			}
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
