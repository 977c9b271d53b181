package topo

import (
	"fmt"
	"net/netip"
	"slices"
)

// core is the backbone as a graph: routers in order of their numbers and the
// links at each.
type core struct {
	routers []*Node
	at      map[string]int // router's place in routers
	edges   [][]edge       // by router
}

// edge is one end of a core link, as its own router sees it.
type edge struct {
	to, cost int // to: -1 where no path leads on
	dev      string
	via      netip.Addr // the other end's address
	farDev   string     // the other end's interface
}

// core is what carries packets now: without the links that have failed, and
// without those that are lost.
func (p *Plan) core() *core { return p.graph(func(l Link) (int, bool) { return l.Cost, !l.Lost }) }

// lostCost is more than any path costs that crosses no lost link.
const lostCost = 1 << 32

// ways is the core with lost links in it as the last resort: where no other way
// leads anywhere, what is in the routers' tables stays. That the link is lost
// may be an error; and if it is none, nothing gets worse.
func (p *Plan) ways() *core {
	return p.graph(func(l Link) (int, bool) {
		if l.Lost {
			return l.Cost + lostCost, true
		}
		return l.Cost, true
	})
}

// graph is the backbone with the links that cost takes, at the cost it gives.
func (p *Plan) graph(cost func(Link) (int, bool)) *core {
	g := &core{at: map[string]int{}}
	for i := range p.Nodes {
		if p.Nodes[i].Loopback.IsValid() {
			g.at[p.Nodes[i].Name] = len(g.routers)
			g.routers = append(g.routers, &p.Nodes[i])
		}
	}
	g.edges = make([][]edge, len(g.routers))
	for _, l := range p.Links {
		c, usable := cost(l)
		if !l.Core || l.Failed || !usable {
			continue
		}
		a, b := g.at[l.A.Node], g.at[l.B.Node]
		g.edges[a] = append(g.edges[a], edge{b, c, l.A.Ifname, l.B.Addr.Addr(), l.B.Ifname})
		g.edges[b] = append(g.edges[b], edge{a, c, l.B.Ifname, l.A.Addr.Addr(), l.A.Ifname})
	}
	return g
}

// towards returns each router's edge on the shortest path to router dest
// (Dijkstra). Of paths that cost the same, a router takes the one through the
// router with the lowest number: so the choice is the same each time, and all
// choices together are a tree. No edge leads on from dest itself and from
// routers that failed links part from it.
func (g *core) towards(dest int) []edge {
	const far = int(^uint(0) >> 1)
	dist := make([]int, len(g.routers))
	for i := range dist {
		dist[i] = far
	}
	dist[dest] = 0
	done := make([]bool, len(g.routers))
	next := make([]edge, len(g.routers))
	for i := range next {
		next[i].to = -1
	}
	for {
		nearest := -1
		for i, d := range dist {
			if !done[i] && d < far && (nearest < 0 || d < dist[nearest]) {
				nearest = i
			}
		}
		if nearest < 0 {
			return next
		}
		done[nearest] = true
		if nearest != dest {
			next[nearest] = g.firstHop(nearest, dist)
		}
		for _, e := range g.edges[nearest] {
			if d := dist[nearest] + e.cost; d < dist[e.to] {
				dist[e.to] = d
			}
		}
	}
}

// firstHop is the edge of router r that begins its shortest path.
func (g *core) firstHop(r int, dist []int) edge {
	best := -1
	for i, e := range g.edges[r] {
		if dist[e.to] <= dist[r]-e.cost && (best < 0 || e.to < g.edges[r][best].to) {
			best = i
		}
	}
	return g.edges[r][best]
}

// labels are those of the plan's backbone.
func (p *Plan) labels() (l labels) {
	for _, n := range p.Nodes {
		if n.Loopback.IsValid() {
			l.routers++
		}
		if n.Kind == KindPE {
			l.pes++
		}
	}
	return l
}

// route fills in the LSPs and the backbone's own routes.
func (p *Plan) route() {
	g, l := p.ways(), p.labels()
	p.LSPs, p.CoreRoutes = nil, nil
	for dest, router := range g.routers {
		next := g.towards(dest)
		for r, n := range g.routers {
			if next[r].to >= 0 {
				p.CoreRoutes = append(p.CoreRoutes, CoreRoute{
					Node: n.Name, Dst: host(router.Loopback), Via: next[r].via, Dev: next[r].dev, Src: n.Loopback,
				})
			}
		}
		if router.Kind == KindPE {
			p.LSPs = append(p.LSPs, g.lsp(dest, next, l, p.Recovery.moves()))
		}
	}
	slices.SortStableFunc(p.CoreRoutes, func(a, b CoreRoute) int { return g.at[a.Node] - g.at[b.Node] })
}

// raiseTopLabel makes room for the labels of the plan. It never lowers it: a
// label table that shrinks under running traffic gains nothing.
func (p *Plan) raiseTopLabel() {
	for _, lsp := range p.LSPs {
		p.TopLabel = max(p.TopLabel, lsp.Label)
		for _, hop := range lsp.Hops {
			p.TopLabel = max(p.TopLabel, hop.InLabel)
		}
	}
	for _, vpc := range p.VPCs {
		for _, vrf := range vpc.VRFs {
			p.TopLabel = max(p.TopLabel, vrf.Label)
		}
		for _, vsi := range vpc.VSIs {
			p.TopLabel = max(p.TopLabel, vsi.LabelBase+uint32(vsi.BlockSize)-1)
		}
	}
	for _, a := range p.Adjacencies {
		p.TopLabel = max(p.TopLabel, a.Label)
	}
	for _, r := range p.Reservations {
		for _, d := range r.Directions {
			p.TopLabel = max(p.TopLabel, d.Label)
		}
	}
}

// lsp is the tree towards PE number dest+1. The reflector neither sends nor
// forwards labelled packets and has no part in it. all has every router give
// out a label, whether another sends to it now or not.
func (g *core) lsp(dest int, next []edge, l labels, all bool) LSP {
	upstream := make([]bool, len(g.routers))
	for r, n := range g.routers {
		if next[r].to >= 0 && n.Kind != KindRR {
			upstream[next[r].to] = true
		}
	}
	lsp := LSP{Egress: g.routers[dest].Name, FEC: host(g.routers[dest].Loopback), Label: l.lsp(dest+1, dest+1)}
	for r, n := range g.routers {
		if next[r].to < 0 || n.Kind == KindRR {
			continue
		}
		hop := LSPHop{Node: n.Name, Next: g.routers[next[r].to].Name, Via: next[r].via, Dev: next[r].dev}
		if upstream[r] || all {
			hop.InLabel = l.lsp(r+1, dest+1)
		}
		if next[r].to != dest {
			hop.OutLabel = l.lsp(next[r].to+1, dest+1)
		}
		lsp.Hops = append(lsp.Hops, hop)
	}
	return lsp
}

// Path lists the routers that the LSP from router from to PE to crosses, both
// ends included.
func (p *Plan) Path(from, to string) ([]string, error) {
	lsp, ok := p.LSP(to)
	if !ok {
		return nil, fmt.Errorf("path from %s to %s: %s is not a PE of lab %s", from, to, to, p.Lab)
	}
	crossed := []string{from}
	for at := from; at != to; {
		hop, ok := lsp.Hop(at)
		if !ok || len(crossed) > len(lsp.Hops) {
			return nil, fmt.Errorf("path from %s to %s: no LSP leads on from %s", from, to, at)
		}
		at = hop.Next
		crossed = append(crossed, at)
	}
	return crossed, nil
}

// Hop is what the named router does for the LSP.
func (l *LSP) Hop(router string) (LSPHop, bool) {
	i := slices.IndexFunc(l.Hops, func(h LSPHop) bool { return h.Node == router })
	if i < 0 {
		return LSPHop{}, false
	}
	return l.Hops[i], true
}

// edge is the link from one router to the next, if it carries.
func (g *core) edge(from, to string) (edge, bool) {
	a, ok := g.at[from]
	b, known := g.at[to]
	if !ok || !known {
		return edge{}, false
	}
	i := slices.IndexFunc(g.edges[a], func(e edge) bool { return e.to == b })
	if i < 0 {
		return edge{}, false
	}
	return g.edges[a][i], true
}

// cheapest is the path with the lowest cost over at most so many links, all of
// which usable takes; of paths that cost the same the one with the fewest
// links, and of those the one through the routers with the lowest numbers. It
// is nil where there is none.
func (g *core) cheapest(from, to string, most int, usable func(router int, e edge) bool) []string {
	return g.best(from, to, most, func(router int, e edge, rest int) int {
		if !usable(router, e) {
			return -1
		}
		return rest + e.cost<<10 + 1 // fewer than 1024 links
	})
}

// widest is the path over at most so many links whose narrowest link has the
// most room, or nil.
func (g *core) widest(from, to string, most int, room func(router int, e edge) Rate) []string {
	return g.best(from, to, most, func(router int, e edge, rest int) int {
		return max(rest, int(unlimited-max(room(router, e), 0)))
	})
}

// best finds the path from one router to another, over at most so many links,
// with the lowest measure (Bellman and Ford, a round a link). extend gives the
// measure of a path that begins with an edge and goes on with one of measure
// rest, 0 at the end; negative: not by this edge. The reflector has no part in
// it.
func (g *core) best(from, to string, most int, extend func(router int, e edge, rest int) int) []string {
	const none = -1
	start, dest := g.at[from], g.at[to]
	rounds := [][]int{make([]int, len(g.routers))} // by links at most, by router
	for r := range g.routers {
		rounds[0][r] = none
	}
	rounds[0][dest] = 0
	next := make([][]edge, 1, most+1)
	for k := 1; k <= most; k++ {
		dist, hops := slices.Clone(rounds[k-1]), make([]edge, len(g.routers))
		for r := range g.routers {
			hops[r].to = -1 // as with fewer links
			if r == dest || g.routers[r].Kind == KindRR {
				continue
			}
			for _, e := range g.edges[r] {
				rest := rounds[k-1][e.to]
				if rest == none || g.routers[e.to].Kind == KindRR {
					continue
				}
				m := extend(r, e, rest)
				if m == none {
					continue
				}
				if dist[r] == none || m < dist[r] || m == dist[r] && hops[r].to >= 0 && e.to < hops[r].to {
					dist[r], hops[r] = m, e
				}
			}
		}
		rounds, next = append(rounds, dist), append(next, hops)
	}
	if rounds[most][start] == none {
		return nil
	}
	path := []string{from}
	for r, k := start, most; r != dest; k-- {
		for next[k][r].to < 0 {
			k--
		}
		r = next[k][r].to
		path = append(path, g.routers[r].Name)
	}
	return path
}
