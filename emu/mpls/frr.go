package mpls

import (
	"net/netip"

	"github.com/vpclab/vpclab/topo"
)

// frrParts says what FRR's daemons see to in a plan.
type frrParts struct {
	all     bool            // every PE and P runs FRR: OSPF and LDP
	routers map[string]bool // those that run it
	pes     map[netip.Prefix]bool
	stub    map[end]bool // ends of core links to the reflector, which speaks no OSPF
	// neighbours are egress PEs with an FRR PE as penultimate hop, which
	// pushes the egress's own label.
	neighbours map[string]bool
}

type end struct{ node, dev string }

func newFRRParts(plan *topo.Plan) frrParts {
	f := frrParts{all: plan.AllFRR(), routers: map[string]bool{}, pes: map[netip.Prefix]bool{},
		stub: map[end]bool{}, neighbours: map[string]bool{}}
	reflector := map[string]bool{}
	for _, n := range plan.Routers() {
		f.routers[n.Name] = n.Routing == topo.RoutingFRR
		reflector[n.Name] = n.Kind == topo.KindRR
		if n.Kind == topo.KindPE {
			f.pes[netip.PrefixFrom(n.Loopback, n.Loopback.BitLen())] = true
		}
	}
	for _, lsp := range plan.LSPs {
		for _, h := range lsp.Hops {
			if n, ok := plan.Node(h.Node); ok && n.Kind == topo.KindPE && f.routers[h.Node] && h.OutLabel == 0 {
				f.neighbours[lsp.Egress] = true
			}
		}
	}
	for _, l := range plan.Links {
		f.stub[end{l.A.Node, l.A.Ifname}] = l.Core && reflector[l.B.Node]
		f.stub[end{l.B.Node, l.B.Ifname}] = l.Core && reflector[l.A.Node]
	}
	return f
}

// route says that a core route is FRR's: by OSPF, save for the last hop to the
// reflector; or in a mixed backbone the labelled one to another PE.
func (f frrParts) route(r topo.CoreRoute) bool {
	switch {
	case !f.routers[r.Node]:
		return false
	case f.all:
		return !f.stub[end{r.Node, r.Dev}]
	}
	return f.pes[r.Dst]
}
