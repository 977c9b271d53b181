package scenarios

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vpclab/vpclab/emu/traffic"
	"github.com/vpclab/vpclab/topo"
)

// The firewall baseline's network: what a cloud without VPNs gives. Every
// machine has a twin with an address of its own in 172.16.0.0/12, all twins of
// a site are on one LAN behind one gateway, and the gateway hangs on the PE
// where the site's CEs hang, with the same access link. Routes are plain IP,
// through the same PE and P routers over the same links as the VPN's packets.
//
// Why so: a path then has the same number of routers and the same delays in
// both systems (machine, CE or gateway, PE, P …, PE, CE or gateway, machine),
// so a difference in time is one of the way of isolating and not of the
// network; and nothing but the twins' own rules keeps tenants apart, as in the
// clouds that the claim is about. A twin's address is on a bridge of its own,
// the port of a virtual switch, where its rules stand. The twins are namespaces of their own, so
// that neither system's routes or rules are in the other's way.
type sharedNet struct {
	twins map[string]traffic.Endpoint // by machine
	// spare twins of the first tenant, closed until one is added or moved to:
	// in the LANs of its first and its second site.
	spare [2]traffic.Endpoint
	// blank tells that the first tenant has a second site.
	blank bool
}

const (
	sharedLAN    = 22 // prefix length of a site's shared LAN
	sharedPrefix = "sh-"
)

// lanOf is the shared LAN of site s (from 1), 172.16.0.0/12 cut into /22.
func lanOf(s int) netip.Prefix {
	n := 172<<24 | 16<<16 | s<<(32-sharedLAN)
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}), sharedLAN)
}

// at is the n-th address of a prefix.
func at(p netip.Prefix, n int) netip.Addr {
	b := p.Addr().As4()
	v := int(b[0])<<24 | int(b[1])<<16 | int(b[2])<<8 | int(b[3]) + n
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}

// withShared is the plan with the shared network beside it.
func withShared(plan *topo.Plan) (*topo.Plan, *sharedNet, error) {
	b := newSharedBuilder(plan)
	for _, a := range plan.Attachments() {
		if _, done := b.site[a.Site]; !done {
			b.gateway(a)
		}
		for _, m := range a.Machines {
			if err := b.twin(m, a.VPC, a.Site); err != nil {
				return nil, nil, err
			}
		}
	}
	first := plan.VPCs[0]
	for i := range min(2, len(first.Attachments)) {
		a := first.Attachments[i]
		name := fmt.Sprintf("spare-%d", i+1)
		if err := b.twin(name, a.VPC, a.Site); err != nil {
			return nil, nil, err
		}
		b.net.spare[i] = b.net.twins[name]
		delete(b.net.twins, name)
	}
	b.net.blank = len(first.Attachments) > 1
	return &b.plan, b.net, nil
}

type sharedBuilder struct {
	plan topo.Plan
	net  *sharedNet
	used map[string]int             // addresses given out, by site
	site map[string]topo.Attachment // one of each site
}

func newSharedBuilder(plan *topo.Plan) *sharedBuilder {
	b := &sharedBuilder{plan: *plan, net: &sharedNet{twins: map[string]traffic.Endpoint{}}, used: map[string]int{}, site: map[string]topo.Attachment{}}
	b.plan.Nodes = slices.Clone(plan.Nodes)
	b.plan.Links = slices.Clone(plan.Links)
	return b
}

// gateway adds a site's router with its LAN, its access link and the routes
// to it.
func (b *sharedBuilder) gateway(a topo.Attachment) {
	b.site[a.Site] = a
	b.used[a.Site] = 1
	lan, name, s := lanOf(a.Index), sharedPrefix+a.Site, a.Index
	ends := [2]netip.Addr{at(netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, 0, 0}), 31), 2*s), at(netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, 0, 0}), 31), 2*s+1)}
	b.plan.Nodes = append(b.plan.Nodes, topo.Node{
		Name: name, Kind: topo.KindPlain, Forward: true,
		Bridges: []topo.Bridge{{Name: "lan", Addr: netip.PrefixFrom(at(lan, 1), sharedLAN), MAC: sharedMAC(s, 0)}},
		Routes:  []topo.Route{{Dst: everywhere, Via: ends[0], Dev: "wan"}},
	})
	dev := fmt.Sprintf("sh%d", s)
	link := topo.Link{
		A:   topo.Endpoint{Node: a.PE, Ifname: dev, MAC: sharedMAC(s, 0xf000), Addr: netip.PrefixFrom(ends[0], 31)},
		B:   topo.Endpoint{Node: name, Ifname: "wan", MAC: sharedMAC(s, 0xf001), Addr: netip.PrefixFrom(ends[1], 31)},
		MTU: 1500,
	}
	for _, l := range b.plan.Links {
		if l.AC && l.B.Node == a.CE {
			link.AtoB, link.BtoA, link.MTU = l.AtoB, l.BtoA, l.MTU
		}
	}
	b.plan.Links = append(b.plan.Links, link)
	b.routes(a.PE, topo.Route{Dst: lan, Via: ends[1], Dev: dev})
}

var everywhere = netip.PrefixFrom(netip.IPv4Unspecified(), 0)

// routes gives every router a route to a site's shared LAN: at its own PE the
// one given, elsewhere the way to that PE's loopback.
func (b *sharedBuilder) routes(pe string, own topo.Route) {
	loopback := netip.Prefix{}
	if n, ok := b.plan.Node(pe); ok {
		loopback = netip.PrefixFrom(n.Loopback, 32)
	}
	towards := map[string]topo.Route{pe: own}
	for _, r := range b.plan.CoreRoutes {
		if r.Dst == loopback && r.Node != pe {
			towards[r.Node] = topo.Route{Dst: own.Dst, Via: r.Via, Dev: r.Dev}
		}
	}
	for i := range b.plan.Nodes {
		n := &b.plan.Nodes[i]
		if r, ok := towards[n.Name]; ok && (n.Kind == topo.KindPE || n.Kind == topo.KindP) {
			n.Routes = append(n.Routes[:len(n.Routes):len(n.Routes)], r)
		}
	}
}

// twin adds a machine to a site's shared LAN.
func (b *sharedBuilder) twin(machine, vpc, site string) error {
	b.used[site]++
	n, s := b.used[site], b.site[site].Index
	lan, name := lanOf(s), sharedPrefix+machine
	addr := at(lan, n)
	if !lan.Contains(at(lan, n+1)) {
		return fmt.Errorf("firewall baseline: more than %d machines at site %s: its shared LAN %s is full", n-2, site, lan)
	}
	b.plan.Nodes = append(b.plan.Nodes, topo.Node{
		Name: name, Kind: topo.KindPlain, Addr: addr,
		Bridges: []topo.Bridge{{Name: "vnic", Addr: netip.PrefixFrom(addr, sharedLAN), MAC: sharedMAC(s, n)}},
		Routes:  []topo.Route{{Dst: everywhere, Via: at(lan, 1), Dev: "vnic"}},
	})
	b.plan.Links = append(b.plan.Links, topo.Link{
		A:   topo.Endpoint{Node: name, Ifname: "eth0", MAC: sharedMAC(s, 0x4000+n), Bridge: "vnic"},
		B:   topo.Endpoint{Node: sharedPrefix + site, Ifname: fmt.Sprintf("m%d", n), MAC: sharedMAC(s, 0x8000+n), Bridge: "lan"},
		MTU: 1500,
	})
	b.net.twins[machine] = traffic.Endpoint{Name: name, VPC: vpc, Site: site, Addr: addr}
	return nil
}

// sharedMAC is 02:fd:SS:SS:NN:NN for member NN of the shared LAN of site SS,
// in the manner of topo/number.go.
func sharedMAC(s, n int) topo.MAC {
	return topo.MAC{2, 0xfd, byte(s >> 8), byte(s), byte(n >> 8), byte(n)}
}

// endpoints are all twins and spares.
func (s *sharedNet) endpoints() (eps []traffic.Endpoint) {
	for _, ep := range s.twins {
		eps = append(eps, ep)
	}
	for _, ep := range s.spare {
		if ep.Name != "" {
			eps = append(eps, ep)
		}
	}
	return eps
}

// of are the twins of machines.
func (s *sharedNet) of(machines []string) (eps []traffic.Endpoint) {
	for _, m := range machines {
		eps = append(eps, s.twins[m])
	}
	return eps
}
