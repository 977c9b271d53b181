package topo

import (
	"net/netip"
	"slices"
)

// Forwarding is what a router does with a packet: the labels that it puts on
// top, outermost first, and the neighbour that it sends it to.
type Forwarding struct {
	Labels []uint32
	Via    netip.Addr
	Dev    string
}

// under is f for packets that have labels of their own below.
func (f Forwarding) under(labels ...uint32) Forwarding {
	f.Labels = slices.Concat(f.Labels, labels)
	return f
}

// Protection is an entry of a router's tables, and what takes its place while
// the link that it uses is down. Either In is set or Dst is.
type Protection struct {
	Dev   string       // the router's end of that link
	In    uint32       // the incoming label
	Dst   netip.Prefix // the destination of an IP route
	Src   netip.Addr   // and its preferred source address
	Table int          // the IP route's table; 0: main
	Is    Forwarding   // while the link is up
	By    Forwarding   // while it is down
}

// maxStack is how many labels a router puts on a packet at most.
const maxStack = 8

// Protections are the entries of a router that go around a failed link by
// themselves: those of its incoming label map, its routes to the backbone's own
// addresses, and the routes that reserved traffic begins on. What VPN routes
// and pseudowires do is Backup's. A reservation has no bandwidth on a bypass.
//
// There are none where the plan's Recovery repairs nothing, and of a router that
// runs FRR the routes are FRR's.
func (p *Plan) Protections(router string) []Protection {
	n, ok := p.Node(router)
	if !ok || len(p.Bypasses) == 0 {
		return nil
	}
	all := slices.Concat(p.protectedLSPs(router), p.protectedAdjacencies(router))
	if n.Routing == RoutingFRR {
		return all
	}
	return slices.Concat(all, p.protectedRoutes(n), p.protectedReservations(router))
}

// protectedLSPs are the entries of a router for packets on their way to a PE.
func (p *Plan) protectedLSPs(router string) (all []Protection) {
	for i := range p.LSPs {
		h, ok := p.LSPs[i].Hop(router)
		if !ok || h.InLabel == 0 {
			continue
		}
		if by, ok := p.Backup(router, p.LSPs[i].Egress); ok {
			all = append(all, Protection{Dev: h.Dev, In: h.InLabel, Is: Forwarding{Via: h.Via, Dev: h.Dev}.labelled(h.OutLabel), By: by})
		}
	}
	return all
}

// labelled is f with one label more, unless that is none.
func (f Forwarding) labelled(label uint32) Forwarding {
	if label == 0 {
		return f
	}
	return f.under(label)
}

// Backup is what a router does with packets for a PE while the link that they
// usually take is down: the bypass, and below it the label that the merge point
// gave out for that PE.
func (p *Plan) Backup(router, egress string) (Forwarding, bool) {
	lsp, ok := p.LSP(egress)
	if !ok {
		return Forwarding{}, false
	}
	h, ok := lsp.Hop(router)
	if !ok {
		return Forwarding{}, false
	}
	next, _ := lsp.Hop(h.Next) // of the egress none, and nothing comes after it
	b, ok := p.bypass(router, h.Next, next.Next)
	if !ok {
		return Forwarding{}, false
	}
	if b.Merge == h.Next {
		return b.Via.labelled(h.OutLabel), true
	}
	return b.Via.labelled(next.OutLabel), true
}

// protectedAdjacencies are the hops of explicit paths that reservations take.
// Nobody knows here where such a path goes on, so it is joined again at the far
// end of the link. Hops that only bypasses take have none: two bypasses, each
// for a link of the other, would send a packet round in a circle.
func (p *Plan) protectedAdjacencies(router string) (all []Protection) {
	for _, a := range p.Adjacencies {
		if a.Node != router || !p.explicit(a) {
			continue
		}
		if b, ok := p.bypass(router, a.Next, ""); ok {
			all = append(all, Protection{Dev: a.Dev, In: a.Label, Is: Forwarding{Via: a.Via, Dev: a.Dev}, By: b.Via})
		}
	}
	return all
}

// explicit says that a reservation goes by an adjacency label.
func (p *Plan) explicit(a Adjacency) bool {
	for _, r := range p.Reservations {
		for _, d := range r.Directions {
			i := slices.Index(d.Path, a.Node)
			if i > 0 && i+1 < len(d.Path) && d.Path[i+1] == a.Next && slices.Contains(d.Stack, a.Label) {
				return true
			}
		}
	}
	return false
}

// protectedRoutes are the routes to the loopbacks of other routers. The merge
// point has one too: below the bypass there is nothing but IP.
func (p *Plan) protectedRoutes(n *Node) (all []Protection) {
	next := map[netip.Prefix]map[netip.Addr]CoreRoute{} // by destination and source
	for _, r := range p.CoreRoutes {
		if next[r.Dst] == nil {
			next[r.Dst] = map[netip.Addr]CoreRoute{}
		}
		next[r.Dst][r.Src] = r
	}
	ends := p.farEnds()
	for _, r := range p.CoreRoutes {
		if r.Node != n.Name {
			continue
		}
		far := ends[[2]string{r.Node, r.Dev}]
		after := ""
		if f, ok := p.Node(far); ok {
			if on, ok := next[r.Dst][f.Loopback]; ok {
				after = ends[[2]string{far, on.Dev}]
			}
		}
		if b, ok := p.bypass(n.Name, far, after); ok {
			all = append(all, Protection{Dev: r.Dev, Dst: r.Dst, Src: r.Src, Is: Forwarding{Via: r.Via, Dev: r.Dev}, By: b.Via})
		}
	}
	return all
}

// farEnds are the routers at the far ends of core links, by router and
// interface.
func (p *Plan) farEnds() map[[2]string]string {
	ends := map[[2]string]string{}
	for _, l := range p.Links {
		if l.Core {
			ends[[2]string{l.A.Node, l.A.Ifname}], ends[[2]string{l.B.Node, l.B.Ifname}] = l.B.Node, l.A.Node
		}
	}
	return ends
}

// protectedReservations are the routes of an l3vpn's reserved traffic.
func (p *Plan) protectedReservations(router string) (all []Protection) {
	for _, r := range p.Reservations {
		for _, d := range r.Directions {
			if d.From != router || d.Table == 0 {
				continue
			}
			if by, ok := p.ReservedBackup(d); ok {
				all = append(all, Protection{Dev: d.Dev, Dst: d.Dst, Table: d.Table, Is: Forwarding{Via: d.Via, Dev: d.Dev}.under(append(slices.Clone(d.Stack), d.Label)...), By: by})
			}
		}
	}
	return all
}

// ReservedBackup is what the ingress PE of a reserved path does while the first
// link of it is down. The last label is still the reservation's; the bandwidth
// is not.
func (p *Plan) ReservedBackup(d ReservedPath) (by Forwarding, ok bool) {
	if lsp, err := p.Path(d.From, d.To); err == nil && slices.Equal(lsp, d.Path) {
		if by, ok = p.Backup(d.From, d.To); ok {
			by = by.under(d.Label)
		}
	} else if b, found := p.bypass(d.From, d.Path[1], ""); found {
		by, ok = b.Via.under(append(slices.Clone(d.Stack), d.Label)...), true
	}
	return by, ok && len(by.Labels) <= maxStack
}
