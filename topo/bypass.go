package topo

import (
	"fmt"
	"slices"
)

// Bypass is a way around a link of the backbone, or around the router at its
// far end, that the router at its near end has before anything fails: facility
// backup (RFC 4090, section 3.2) as a label stack. Whatever would have crossed
// what failed is sent to the merge point, from where it goes on as always. One
// bypass serves all paths that go that way.
type Bypass struct {
	Node string // point of local repair
	Dev  string // its end of the link whose failure is meant
	Next string // the router at the far end
	// Merge is the merge point: Next where only the link is avoided, the router
	// after Next on the way to somewhere where Next is avoided too.
	Merge string
	Path  []string // routers, Node and Merge included
	// Stack has an adjacency label for each router of Path between its ends,
	// outermost first. The last of them takes off the last one: Merge gets what
	// is below.
	Stack []uint32
	Via   Forwarding // what Node does: Stack and the first link of Path
}

// Unprotected is a way on from a router around which no bypass leads.
type Unprotected struct {
	Node, Next string
	Merge      string // the router after Next, or Next itself
	Why        string
}

// protect prepares the bypasses of all routers, if they repair anything, and
// the adjacency labels that those need. A backbone of FRR has labels of its own
// and none of ours.
func (p *Plan) protect() {
	p.Bypasses, p.Unprotected = nil, nil
	if !p.Recovery.Repairs() || p.AllFRR() {
		return
	}
	w := bypassing{plan: p, core: p.core(), most: p.longestBypass(), tried: map[turn]bool{}}
	ways := p.ways()
	for dest := range ways.routers {
		next := ways.towards(dest)
		for at, e := range next {
			if e.to >= 0 && e.cost < lostCost && w.core.routers[at].Kind != KindRR {
				w.protect(at, e, next[e.to].to)
			}
		}
	}
	p.Adjacencies = slices.Clone(p.Adjacencies)
	for _, b := range p.Bypasses {
		w.adjacencies(b.Path)
	}
	w.core.sortAdjacencies(p.Adjacencies)
}

// bypassing is the state of one protect.
type bypassing struct {
	plan  *Plan
	core  *core
	most  int // links of a bypass
	tried map[turn]bool
}

// turn is a way through a router: from one neighbour of it to another, or, with
// after -1, to the router itself.
type turn struct{ at, next, after int }

// protect finds a bypass for what goes by an edge of router at and then on to
// router after: around the router in between, if there is a way, as nobody can
// tell at once whether it is the link or that router that failed, and if not,
// around the link.
func (w *bypassing) protect(at int, e edge, after int) {
	t := turn{at, e.to, after}
	if w.tried[t] {
		return
	}
	w.tried[t] = true
	if after >= 0 && w.core.routers[after].Kind != KindRR && w.bypass(at, e, after) {
		return
	}
	link := turn{at, e.to, -1}
	if after >= 0 && w.tried[link] {
		return
	}
	w.tried[link] = true
	if w.core.routers[e.to].Kind == KindRR || !w.bypass(at, e, e.to) {
		w.plan.Unprotected = append(w.plan.Unprotected, w.refused(at, e))
	}
}

// bypass adds one to merge that avoids the edge, and where merge is further
// away the router in between; false where there is none that fits.
func (w *bypassing) bypass(at int, e edge, merge int) bool {
	routers := w.core.routers
	path := w.core.cheapest(routers[at].Name, routers[merge].Name, w.most, w.around(at, e, merge))
	if path == nil {
		return false
	}
	b := Bypass{Node: path[0], Dev: e.dev, Next: routers[e.to].Name, Merge: routers[merge].Name, Path: path}
	first, _ := w.core.edge(path[0], path[1])
	for _, router := range path[2:] {
		b.Stack = append(b.Stack, adjacencyLabel(routers[w.core.at[router]].Index))
	}
	b.Via = Forwarding{Labels: b.Stack, Via: first.via, Dev: first.dev}
	w.plan.Bypasses = append(w.plan.Bypasses, b)
	return true
}

// around says which edges lead around the far end of an edge, or around that
// edge alone where it leads to merge itself.
func (w *bypassing) around(at int, e edge, merge int) func(router int, o edge) bool {
	return func(router int, o edge) bool {
		if e.to != merge {
			return router != e.to && o.to != e.to
		}
		return !(router == at && o.to == e.to) && !(router == e.to && o.to == at)
	}
}

// refused says why no bypass leads around a link.
func (w *bypassing) refused(at int, e edge) Unprotected {
	from, to := w.core.routers[at].Name, w.core.routers[e.to].Name
	u := Unprotected{Node: from, Next: to, Merge: to, Why: fmt.Sprintf("no other way leads from %s to %s", from, to)}
	if long := w.core.cheapest(from, to, len(w.core.routers), w.around(at, e, e.to)); long != nil {
		u.Why = fmt.Sprintf("the way around link %s--%s crosses %d links, and a label stack reaches over %d", from, to, len(long)-1, w.most)
	}
	return u
}

// adjacencies adds the labels that routers on a path need to send on along it.
func (w *bypassing) adjacencies(path []string) {
	for i := 1; i+1 < len(path); i++ {
		e, _ := w.core.edge(path[i], path[i+1])
		w.plan.Adjacencies = w.core.withAdjacency(w.plan.Adjacencies, path[i], e)
	}
}

// longestBypass is how many links a bypass may cross: it has a label for all
// but the first, above the label of a path and that of a service, and the
// backbone's MTU has to carry the largest frame under all of them, as a router
// drops what does not fit.
func (p *Plan) longestBypass() int {
	most := maxExplicit
	for _, v := range p.VPCs {
		packet := v.MTU
		if v.Service == ServiceVPLS {
			packet = frameOf(v.MTU, 0)
		}
		most = min(most, (p.CoreMTU-packet)/labelBytes-1)
	}
	return max(most, 0)
}

// adjacency is the label by which router sends on along an edge of its own.
func (g *core) adjacency(router string, e edge) Adjacency {
	to := g.routers[e.to]
	return Adjacency{Node: router, Label: adjacencyLabel(to.Index), Next: to.Name, Via: e.via, Dev: e.dev}
}

// withAdjacency is all with that of a router's edge in it, once.
func (g *core) withAdjacency(all []Adjacency, router string, e edge) []Adjacency {
	if a := g.adjacency(router, e); !slices.Contains(all, a) {
		return append(all, a)
	}
	return all
}

func (g *core) sortAdjacencies(all []Adjacency) {
	slices.SortFunc(all, func(a, b Adjacency) int {
		if c := g.at[a.Node] - g.at[b.Node]; c != 0 {
			return c
		}
		return int(a.Label) - int(b.Label)
	})
}

// bypass is the way around the router that comes next after a router on the way
// to after, or around the link to it; after is "" where nothing comes after it.
func (p *Plan) bypass(node, next, after string) (Bypass, bool) {
	for _, merge := range []string{after, next} {
		i := slices.IndexFunc(p.Bypasses, func(b Bypass) bool { return b.Node == node && b.Next == next && b.Merge == merge })
		if i >= 0 {
			return p.Bypasses[i], true
		}
	}
	return Bypass{}, false
}
