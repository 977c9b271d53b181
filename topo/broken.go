package topo

import (
	"fmt"
	"slices"
	"time"
)

// What a fault breaks, in terms of the plan. All of these presume that
// CheckFault has passed the fault.

// FaultLinks are the links that a fault of links breaks: those between the two
// nodes, or between the sides of a partition. The first node of link comes
// first, so that a link-one-way is about A to B.
func (p *Plan) FaultLinks(f Fault) []Link {
	if f.Kind == FaultPartition {
		return p.across(f)
	}
	if len(f.Link) != 2 {
		return nil
	}
	links, _ := p.between(f.Link)
	for i, l := range links {
		if l.A.Node != f.Link[0] {
			links[i].A, links[i].B, links[i].AtoB, links[i].BtoA = l.B, l.A, l.BtoA, l.AtoB
		}
	}
	return links
}

// FaultNodes are the nodes that a crash takes down: the router, the host, or
// all hosts and customer edges of the site.
func (p *Plan) FaultNodes(f Fault) []string {
	switch f.Kind {
	case FaultNodeCrash:
		return []string{f.Node}
	case FaultHostCrash:
		if node, err := p.hostNode(f.Host); err == nil {
			return []string{node}
		}
	case FaultSiteDown:
		var names []string
		for _, n := range p.OfKind(KindCE, KindHost) {
			if n.Site == f.Site {
				names = append(names, n.Name)
			}
		}
		return names
	}
	return nil
}

// sides says for each router on which side of a partition it is: that of the
// nearest router that is named, by links. Where two are as near it is the side
// with more routers named, which would fall apart sooner, or the first.
func (p *Plan) sides(f Fault) (map[string]int, *refusal) {
	side := map[string]int{}
	var next []string
	for i, set := range f.Apart {
		if len(set) == 0 {
			return nil, refuse(fmt.Sprint("apart.", i), "the set is empty; expected sites or routers", "")
		}
		for j, name := range set {
			routers, err := p.standsFor(fmt.Sprintf("apart.%d.%d", i, j), name)
			if err != nil {
				return nil, err
			}
			for _, router := range routers {
				if at, named := side[router]; named && at != i {
					return nil, refuse(fmt.Sprintf("apart.%d.%d", i, j), fmt.Sprintf("%s is at router %s, which is in another set already: no link is between them", name, router), "")
				} else if !named {
					side[router] = i
					next = append(next, router)
				}
			}
		}
	}
	size := map[int]int{}
	for _, i := range side {
		size[i]++
	}
	slices.SortStableFunc(next, func(a, b string) int { return size[side[b]] - size[side[a]] })
	for len(next) > 0 {
		router := next[0]
		next = next[1:]
		for _, l := range p.LinksOf(router) {
			far := l.A.Node
			if far == router {
				far = l.B.Node
			}
			if _, known := side[far]; l.Core && !known {
				side[far] = side[router]
				next = append(next, far)
			}
		}
	}
	return side, nil
}

// standsFor are the routers that a name in a set means.
func (p *Plan) standsFor(at, name string) ([]string, *refusal) {
	if s, ok := p.Site(name); ok {
		return []string{s.PE}, nil
	}
	var names []string
	for _, s := range p.Sites {
		names = append(names, s.Name)
	}
	for _, r := range p.Routers() {
		if r.Name == name {
			return []string{name}, nil
		}
		names = append(names, r.Name)
	}
	return nil, refuse(at, fmt.Sprintf("there is no site and no router %q; expected %s", name, oneOf(names)), suggest(name, names))
}

// across are the backbone's links between the sides of a partition.
func (p *Plan) across(f Fault) (links []Link) {
	side, err := p.sides(f)
	if err != nil {
		return nil
	}
	for _, l := range p.Links {
		if l.Core && side[l.A.Node] != side[l.B.Node] {
			links = append(links, l)
		}
	}
	return links
}

// FaultComponents are what a churn may break, each with the faults that it may
// have, in order of the plan.
func (p *Plan) FaultComponents(f Fault) []Fault {
	all, _ := p.components(f)
	return all
}

// churned are the kinds of a churn that names none.
var churned = []string{FaultLinkDown, FaultNodeCrash}

func (p *Plan) components(f Fault) (all []Fault, err *refusal) {
	if f.MTBF < Duration(minChurn) {
		return nil, refuse("mtbf", fmt.Sprintf("%s is too short; expected at least %v", f.MTBF, minChurn), "")
	}
	hosts := map[string]string{} // node -> site/number
	for _, s := range p.Sites {
		for i, h := range s.Hosts {
			hosts[h] = fmt.Sprintf("%s/%d", s.Name, i+1)
		}
	}
	may := func(names ...string) bool {
		return len(f.Among) == 0 || !slices.ContainsFunc(names, func(n string) bool { return !slices.Contains(f.Among, n) })
	}
	if err := p.known(f.Among, hosts); err != nil {
		return nil, err
	}
	of := f.Of
	if len(of) == 0 {
		of = churned
	}
	for i, kind := range of {
		n := len(all)
		switch kind {
		case FaultLinkDown, FaultLinkSilent:
			for _, l := range p.Links {
				if l.Core && may(l.A.Node, l.B.Node) && !p.isReflector(l.A.Node, l.B.Node) {
					all = append(all, Fault{Kind: kind, Link: []string{l.A.Node, l.B.Node}})
				}
			}
		case FaultNodeCrash:
			for _, r := range p.OfKind(KindPE, KindP) {
				if may(r.Name) {
					all = append(all, Fault{Kind: kind, Node: r.Name})
				}
			}
		case FaultHostCrash:
			for _, h := range p.OfKind(KindHost) {
				if may(hosts[h.Name]) {
					all = append(all, Fault{Kind: kind, Host: hosts[h.Name]})
				}
			}
		case FaultSiteDown:
			for _, s := range p.Sites {
				if may(s.Name) {
					all = append(all, Fault{Kind: kind, Site: s.Name})
				}
			}
		default:
			return nil, refuse(fmt.Sprint("of.", i), fmt.Sprintf("churn does not know %q; expected one of link-down, link-silent, node-crash, host-crash, site-down", kind), "")
		}
		if n == len(all) {
			return nil, refuse(fmt.Sprint("of.", i), fmt.Sprintf("nothing can have %s among what may fail", kind), "")
		}
	}
	return all, nil
}

// minChurn keeps an expansion of a churn finite in practice.
const minChurn = 10 * time.Millisecond

// isReflector says whether one of the nodes is the route reflector, which is
// the controller: its own link is not the backbone's.
func (p *Plan) isReflector(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool {
		n, ok := p.Node(name)
		return ok && n.Kind == KindRR
	})
}

// known says which of the names of a churn stands for nothing.
func (p *Plan) known(among []string, hosts map[string]string) *refusal {
	var names []string
	for _, r := range p.OfKind(KindPE, KindP) {
		names = append(names, r.Name)
	}
	for _, s := range p.Sites {
		names = append(names, s.Name)
		for _, h := range s.Hosts {
			names = append(names, hosts[h])
		}
	}
	for i, name := range among {
		if !slices.Contains(names, name) {
			return refuse(fmt.Sprint("among.", i), fmt.Sprintf("there is no router, host or site %q; expected %s", name, oneOf(names)), suggest(name, names))
		}
	}
	return nil
}
