package topo

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// twoRows is a backbone of two rows, with a cloud at each end and one in the
// middle:
//
//	pe1 - p1 - p2 - pe2
//	       |    |
//	      p3 - p4 - pe3
const twoRows = `name: ladder
topology:
  backbone:
    pe: [pe1, pe2, pe3]
    p: [p1, p2, p3, p4]
    links: [{between: [pe1, p1]}, {between: [p1, p2]}, {between: [p2, pe2]}, {between: [p1, p3]}, {between: [p2, p4]}, {between: [p3, p4]}, {between: [p4, pe3]}]
  sites:
    texas: {kind: cloud, pe: pe1, hosts: 2}
    ohio: {kind: cloud, pe: pe2}
    hq: {kind: enterprise, pe: pe3}
vpcs:
  acme: {service: l3vpn, sites: [texas, ohio, hq]}
`

func twoRowsPlan(t *testing.T) *Plan {
	t.Helper()
	sc, err := Parse("ladder", []byte(twoRows))
	if err != nil {
		t.Fatal(err)
	}
	p, err := Expand(sc)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func arrows(links []Link) string {
	var out []string
	for _, l := range links {
		out = append(out, l.A.Node+">"+l.B.Node)
	}
	return strings.Join(out, " ")
}

func TestWhatAFaultBreaks(t *testing.T) {
	p := twoRowsPlan(t)
	for name, c := range map[string]struct {
		fault Fault
		links string
		nodes string
	}{
		"a link, as the file has it":    {Fault{Kind: FaultLinkDown, Link: []string{"p1", "p2"}}, "p1>p2", "[]"},
		"a link, seen from its far end": {Fault{Kind: FaultLinkOneWay, Link: []string{"p2", "p1"}}, "p2>p1", "[]"},
		"a circuit":                     {Fault{Kind: FaultLinkSilent, Link: []string{"acme-hq-ce", "pe3"}}, "acme-hq-ce>pe3", "[]"},
		"a router":                      {Fault{Kind: FaultNodeCrash, Node: "p1"}, "", "[p1]"},
		"a host":                        {Fault{Kind: FaultHostCrash, Host: "texas/2"}, "", "[texas-h2]"},
		"a cloud with all in it":        {Fault{Kind: FaultSiteDown, Site: "texas"}, "", "[texas-h1 texas-h2 acme-texas-ce]"},
		"an enterprise":                 {Fault{Kind: FaultSiteDown, Site: "hq"}, "", "[acme-hq-ce]"},
		"unnamed routers go with the nearest": {
			Fault{Kind: FaultPartition, Apart: [][]string{{"texas"}, {"ohio", "hq"}}}, "p1>p2 p1>p3", "[]"},
		"one router against all others": {
			Fault{Kind: FaultPartition, Apart: [][]string{{"p4"}, {"p2", "p3", "pe3"}}}, "p2>p4 p3>p4 p4>pe3", "[]"},
		"three islands": {
			Fault{Kind: FaultPartition, Apart: [][]string{{"pe1"}, {"pe2"}, {"pe3"}}}, "p1>p2 p2>p4 p3>p4", "[]"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := p.CheckFault(c.fault); err != nil {
				t.Fatal(err)
			}
			if got := arrows(p.FaultLinks(c.fault)); got != c.links {
				t.Errorf("links %q; want %q", got, c.links)
			}
			if got := fmt.Sprint(p.FaultNodes(c.fault)); got != c.nodes {
				t.Errorf("nodes %s; want %s", got, c.nodes)
			}
		})
	}
}

// TestNoWayAcross walks the backbone without the links that a partition cuts:
// whatever the sets are, nothing of one is reached from another.
func TestNoWayAcross(t *testing.T) {
	p := twoRowsPlan(t)
	routers := []string{"pe1", "pe2", "pe3", "p1", "p2", "p3", "p4", "rr"}
	for i, a := range routers {
		for j, b := range routers {
			for k, c := range routers {
				if i >= j || k == i || k == j {
					continue
				}
				f := Fault{Kind: FaultPartition, Apart: [][]string{{a, c}, {b}}}
				if err := p.CheckFault(f); err != nil {
					t.Fatal(err)
				}
				cut := p.FaultLinks(f)
				reached := map[string]bool{b: true}
				for next := []string{b}; len(next) > 0; {
					at := next[0]
					next = next[1:]
					for _, l := range p.LinksOf(at) {
						far := l.A.Node
						if far == at {
							far = l.B.Node
						}
						gone := slices.ContainsFunc(cut, func(k Link) bool { return k.Name() == l.Name() })
						if l.Core && !gone && !reached[far] {
							reached[far] = true
							next = append(next, far)
						}
					}
				}
				if reached[a] || reached[c] {
					t.Errorf("%v: %s is reached from %s in spite of %s", f, a, b, arrows(cut))
				}
			}
		}
	}
}

func TestWhatChurnMayBreak(t *testing.T) {
	p := twoRowsPlan(t)
	for name, c := range map[string]struct {
		fault Fault
		want  string
	}{
		"links and routers, but not the controller": {Fault{},
			"link-down pe1--p1, link-down p1--p2, link-down p2--pe2, link-down p1--p3, link-down p2--p4, link-down p3--p4, link-down p4--pe3, " +
				"node-crash pe1, node-crash pe2, node-crash pe3, node-crash p1, node-crash p2, node-crash p3, node-crash p4"},
		"some routers":     {Fault{Of: []string{FaultNodeCrash}, Among: []string{"p1", "p4"}}, "node-crash p1, node-crash p4"},
		"the link between": {Fault{Of: []string{FaultLinkSilent}, Among: []string{"p3", "p4"}}, "link-silent p3--p4"},
		"hosts and sites":  {Fault{Of: []string{FaultHostCrash, FaultSiteDown}, Among: []string{"texas/2", "hq"}}, "host-crash texas/2, site-down hq"},
	} {
		t.Run(name, func(t *testing.T) {
			c.fault.Kind, c.fault.MTBF, c.fault.MTTR = FaultChurn, 1e9, 1e8
			if err := p.CheckFault(c.fault); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range p.FaultComponents(c.fault) {
				if err := p.CheckFault(f); err != nil {
					t.Error(err)
				}
				got = append(got, f.String())
			}
			if text := strings.Join(got, ", "); text != c.want {
				t.Errorf("got  %s\nwant %s", text, c.want)
			}
		})
	}
}
