package topo

import "slices"

// Tune is a copy of the plan in which the core links between neighbours on a
// path do something else to packets; the same in both directions. A queue that
// is 0 becomes the default for the rate and delay.
func (p *Plan) Tune(path []string, change func(Impairment) Impairment) *Plan {
	q := *p
	q.Links = slices.Clone(p.Links)
	for i := range q.Links {
		l := &q.Links[i]
		a, b := slices.Index(path, l.A.Node), slices.Index(path, l.B.Node)
		if l.Core && a >= 0 && b >= 0 && (a-b == 1 || b-a == 1) {
			l.AtoB, l.BtoA = change(l.AtoB).queued(), change(l.BtoA).queued()
		}
	}
	return &q
}

// WithGuest is a copy of the plan in which another guest runs in a VM; nil: none
// does, and what would take over from it goes too.
func (p *Plan) WithGuest(vm string, g *Guest) *Plan {
	if g == nil {
		p = p.WithoutStandby(vm)
	}
	q := *p
	q.Nodes = slices.Clone(p.Nodes)
	for i := range q.Nodes {
		if q.Nodes[i].Name == vm {
			q.Nodes[i].Guest = g
		}
	}
	return &q
}

// WithPair is a copy of the plan in which a VM is protected in another way: in
// another mode, or with other times.
func (p *Plan) WithPair(vm string, change func(Pair) Pair) *Plan {
	q := *p
	q.Nodes = slices.Clone(p.Nodes)
	for i := range q.Nodes {
		if n := &q.Nodes[i]; n.Name == vm && n.Pair != nil {
			pair := change(*n.Pair)
			n.Pair = &pair
		}
	}
	return &q
}

// WithoutStandby is a copy of the plan in which a VM has one seat only.
func (p *Plan) WithoutStandby(vm string) *Plan {
	return p.withoutStandbys(func(pair Pair) bool { return pair.VM == vm })
}

// WithPrefixes is a copy of the plan in which so many prefixes are behind a site
// of an l3vpn besides its LAN; see VPC.Prefixes.
func (p *Plan) WithPrefixes(vpc, site string, n int) *Plan {
	q := *p
	q.VPCs = slices.Clone(p.VPCs)
	for i := range q.VPCs {
		v := &q.VPCs[i]
		if v.Name != vpc || v.Service != ServiceL3VPN {
			continue
		}
		v.Attachments = slices.Clone(v.Attachments)
		for j := range v.Attachments {
			if a := &v.Attachments[j]; a.Site == site {
				a.More = moreOf(a.Index, n)
			}
		}
	}
	return &q
}
