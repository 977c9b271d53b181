// Package graph draws a plan: routers, sites and the links between them, as
// text for Graphviz and Mermaid and as a finished SVG.
//
// Division of labour: graph.go turns a plan into boxes and lines ([Of]); one
// file a format writes them; layout.go places them for SVG: the backbone in
// the middle, PEs at its sides, sites outside. A site is one box that lists
// the VPCs that come there; single machines are not drawn.
package graph

import (
	"fmt"
	"strings"

	"github.com/vpclab/vpclab/topo"
)

// Graph is a plan as boxes and lines.
type Graph struct {
	Title   string
	Routers []Router
	Sites   []Site
	Plain   []string // plain nodes
	Edges   []Edge
	VPCs    []string // in order, which gives them their colours
}

// Router is a PE, P or the route reflector.
type Router struct {
	Name, Loopback string
	Kind           topo.NodeKind
}

// Site is a place, with the VPCs that come there.
type Site struct {
	Name, PE string
	BackupPE string // "": it has one PE
	Cloud    bool
	Hosts    int
	Members  []Member
}

// Member is a VPC at a site.
type Member struct {
	VPC      string
	Subnet   string
	Machines int
	Joined   bool
}

// Edge joins two boxes. Label says what the link does to packets, "" for
// nothing.
type Edge struct {
	A, B  string
	Label string
	Core  bool
}

// Of makes the graph of a plan.
func Of(plan *topo.Plan) *Graph {
	g := &Graph{Title: plan.Lab}
	sites := map[string]*Site{}
	var order []string
	for _, v := range plan.VPCs {
		g.VPCs = append(g.VPCs, v.Name)
		for _, a := range v.Attachments {
			s, known := sites[a.Site]
			if !known {
				s = &Site{Name: a.Site, PE: a.PE}
				if a.Backup != nil {
					s.BackupPE = a.Backup.PE
				}
				sites[a.Site] = s
				order = append(order, a.Site)
			}
			s.Members = append(s.Members, Member{VPC: a.VPC, Subnet: a.Subnet.String(), Machines: len(a.Machines), Joined: a.Joined})
		}
	}
	for _, n := range plan.Nodes {
		switch n.Kind {
		case topo.KindPE, topo.KindP, topo.KindRR:
			g.Routers = append(g.Routers, Router{Name: n.Name, Kind: n.Kind, Loopback: n.Loopback.String()})
		case topo.KindPlain:
			g.Plain = append(g.Plain, n.Name)
		case topo.KindHost:
			if s, ok := sites[n.Site]; ok {
				s.Cloud = true
				s.Hosts++
			}
		}
	}
	for _, name := range order {
		g.Sites = append(g.Sites, *sites[name])
	}
	g.addEdges(plan)
	return g
}

// addEdges adds the links between routers and between plain nodes, and one
// line from each site to its PE, labelled with its circuits' impairment.
func (g *Graph) addEdges(plan *topo.Plan) {
	access := map[string]string{}
	for _, l := range plan.Links {
		switch {
		case l.AC:
			access[l.Site] = describe(l)
		case l.VPC == "" && l.Site == "":
			g.Edges = append(g.Edges, Edge{A: l.A.Node, B: l.B.Node, Label: describe(l), Core: l.Core})
		}
	}
	for _, s := range g.Sites {
		g.Edges = append(g.Edges, Edge{A: s.PE, B: siteID(s.Name), Label: access[s.Name]})
		if s.BackupPE != "" {
			g.Edges = append(g.Edges, Edge{A: s.BackupPE, B: siteID(s.Name), Label: access[s.Name]})
		}
	}
}

// siteID keeps a site and a router of the same name apart.
func siteID(name string) string { return "site:" + name }

// describe says what a link does, once where both directions do the same.
func describe(l topo.Link) string {
	there, back := words(l.AtoB), words(l.BtoA)
	switch {
	case there == back:
		return there
	case there == "":
		return "← " + back
	case back == "":
		return "→ " + there
	}
	return "→ " + there + " ← " + back
}

func words(i topo.Impairment) string {
	var out []string
	if i.Rate > 0 {
		out = append(out, i.Rate.String())
	}
	if i.Delay > 0 {
		out = append(out, i.Delay.String())
	}
	if i.Jitter > 0 {
		out = append(out, "±"+i.Jitter.String())
	}
	if i.Loss > 0 {
		out = append(out, "loss "+i.Loss.String())
	}
	return strings.Join(out, " ")
}

// text is the second line of a member: its subnet and machines.
func (m Member) text() string {
	s := m.Subnet
	switch m.Machines {
	case 0:
	case 1:
		s += ", 1 machine"
	default:
		s += fmt.Sprintf(", %d machines", m.Machines)
	}
	if !m.Joined {
		s += " (not joined)"
	}
	return s
}

func (s Site) text() string {
	switch {
	case s.Cloud && s.Hosts > 1:
		return fmt.Sprintf("cloud, %d hosts", s.Hosts)
	case s.Cloud:
		return "cloud"
	}
	return "enterprise"
}
