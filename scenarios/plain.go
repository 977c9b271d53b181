package scenarios

import (
	"net/netip"

	"github.com/vpclab/vpclab/emu/traffic"
	"github.com/vpclab/vpclab/topo"
)

// withPlain is the plan with two machines more that plain IP routing connects,
// one at the site of each attachment: behind the same PEs, over the same P
// routers and links, with an access link like the attachment's, and with as
// many bridges before it as the attachment's first machine has. What is left
// to differ is the service: a frame in a pseudowire, a packet in a VRF, or a
// packet in the backbone's own routing.
func withPlain(plan *topo.Plan, a, b topo.Attachment) (with *topo.Plan, ends [2]traffic.Endpoint) {
	s := newSharedBuilder(plan)
	for i, at := range []topo.Attachment{a, b} {
		s.gateway(at)
		like, _ := plan.Node(at.Machines[0])
		s.bare(*like, at)
		ends[i] = s.net.twins[like.Name]
	}
	return &s.plan, ends
}

// bare adds a machine to a site's shared LAN that is plugged in as another is,
// by a host's bridge or by the gateway's.
func (b *sharedBuilder) bare(like topo.Node, a topo.Attachment) {
	b.used[a.Site]++
	n, s := b.used[a.Site], a.Index
	name, gateway, addr := sharedPrefix+like.Name, sharedPrefix+a.Site, at(lanOf(s), b.used[a.Site])
	wire, _ := wireOf(&b.plan, like.Name)
	plug := topo.Endpoint{Node: gateway, Ifname: "m1", MAC: sharedMAC(s, 0x8000+n), Bridge: "lan"}
	if like.Host != "" {
		host := sharedPrefix + like.Host
		b.plan.Nodes = append(b.plan.Nodes, topo.Node{Name: host, Kind: topo.KindPlain, Bridges: []topo.Bridge{{Name: "lan", MAC: sharedMAC(s, 0x4000)}}})
		b.plan.Links = append(b.plan.Links, topo.Link{
			A: topo.Endpoint{Node: host, Ifname: "up", MAC: sharedMAC(s, 0x4100), Bridge: "lan"},
			B: plug, MTU: wire.MTU,
		})
		plug = topo.Endpoint{Node: host, Ifname: "m1", MAC: sharedMAC(s, 0x4200), Bridge: "lan"}
	}
	b.plan.Nodes = append(b.plan.Nodes, topo.Node{
		Name: name, Kind: topo.KindPlain, Addr: addr,
		Routes: []topo.Route{{Dst: everywhere, Via: at(lanOf(s), 1), Dev: "eth0"}},
	})
	b.plan.Links = append(b.plan.Links, topo.Link{
		A: topo.Endpoint{Node: name, Ifname: "eth0", MAC: sharedMAC(s, n), Addr: netip.PrefixFrom(addr, sharedLAN)},
		B: plug, MTU: wire.MTU,
	})
	b.net.twins[like.Name] = traffic.Endpoint{Name: name, VPC: "plain IP", Site: a.Site, Addr: addr}
}
