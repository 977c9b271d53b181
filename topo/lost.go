package topo

import "slices"

// moves says that paths may change behind the back of whoever operates the
// backbone. All routers then have labels for all PEs, and a path that changes
// finds those of its new routers in place: make before break.
func (r *Recovery) moves() bool { return r.Repairs() || r.Reroutes() }

// Without is the plan with paths that avoid exactly the core links named
// ([Link.Name]), as far as there are others; where there are none, they stay.
// Its links are left as they are: this is what a controller thinks of a
// backbone, not what is done to it. Without none of them it is the plan as it
// was asked for.
func (p *Plan) Without(links ...string) *Plan {
	q := *p
	q.Links = slices.Clone(p.Links)
	changed, back := false, false
	for i := range q.Links {
		l := &q.Links[i]
		lost := l.Core && slices.Contains(links, l.Name())
		changed, back = changed || lost != l.Lost, back || l.Lost && !lost
		l.Lost = lost
	}
	if !changed {
		return p
	}
	q.route()
	q.settle(false, "")
	if back {
		q.revert()
	}
	q.raiseTopLabel()
	return &q
}

// Reaches says whether the path from a router to a PE crosses no link that is
// lost. A router reaches itself.
func (p *Plan) Reaches(from, to string) bool {
	if from == to {
		return true
	}
	lost := map[[2]string]bool{}
	for _, l := range p.Links {
		if l.Lost {
			lost[[2]string{l.A.Node, l.B.Node}], lost[[2]string{l.B.Node, l.A.Node}] = true, true
		}
	}
	if lsp, ok := p.LSP(to); len(lost) == 0 {
		if ok {
			_, ok = lsp.Hop(from)
		}
		return ok
	}
	path, err := p.Path(from, to)
	for i := 1; i < len(path); i++ {
		if lost[[2]string{path[i-1], path[i]}] {
			return false
		}
	}
	return err == nil
}
