package topo

import "slices"

// of is the control plane of a router as the file has it.
func (b Backbone) of(router string) Routing {
	r := b.Routing
	if own, ok := b.Routers.Get(router); ok && own.Routing != "" {
		r = own.Routing
	}
	if r == string(RoutingFRR) {
		return RoutingFRR
	}
	return RoutingController
}

// AllFRR says that every PE and P runs FRR: then OSPF and LDP give out the
// labels, and the controller's LSPs and core routes are in no kernel. In any
// other backbone the labels are the controller's.
func (p *Plan) AllFRR() bool {
	routers := p.OfKind(KindPE, KindP)
	return len(routers) > 0 && !slices.ContainsFunc(routers, func(n Node) bool { return n.Routing != RoutingFRR })
}

// WithRouting is the plan with another control plane at the PEs and Ps of
// those names, without names at all of them. Nothing is numbered anew: the
// same lab can be had with both.
func (p *Plan) WithRouting(r Routing, routers ...string) *Plan {
	q := *p
	q.Nodes = slices.Clone(p.Nodes)
	for i := range q.Nodes {
		n := &q.Nodes[i]
		if n.Kind != KindPE && n.Kind != KindP {
			continue // the reflector rewrites route targets, which is ours to do
		}
		if len(routers) == 0 || slices.Contains(routers, n.Name) {
			n.Routing = r
		}
	}
	q.settle(false, "") // explicit paths where the LSPs are FRR's
	return &q
}
