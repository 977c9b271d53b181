package repair

import (
	"slices"

	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/topo"
)

// Configs are what the routers of a plan are told, by node: those that are the
// controller's. There are none where the plan does not ask routers to notice
// failures by themselves. state is what the fabric makes of the same plan.
func Configs(plan *topo.Plan, state fabric.State) map[string]Config {
	r := plan.Recovery
	if !r.Reflexes() {
		return nil
	}
	out := map[string]Config{}
	for _, n := range plan.OfKind(topo.KindPE, topo.KindP) {
		if n.Routing != topo.RoutingController {
			continue
		}
		c := Config{Node: n.Name, Carrier: r.Detects(topo.DetectCarrier), Links: linksOf(plan, n.Name), Routes: routesOf(state.Nodes[n.Name]), Labels: state.Nodes[n.Name].MPLS}
		if r.Detects(topo.DetectBFD) {
			c.BFD = Timers{r.Interval.Std(), r.Multiplier}
		}
		if r.Detects(topo.DetectMultihop) && n.Kind == topo.KindPE {
			c.MultihopBFD = Timers{r.Multihop(), r.Multiplier}
			c.Multihop = peersOf(plan, n)
		}
		if r.Repairs() {
			c.Protect = Protections(plan, n.Name)
		}
		out[n.Name] = c
	}
	return out
}

// linksOf lists the core links of a router whose other end looks out too. The
// reflector forwards nothing, and a link that an operation took down is no
// failure.
func linksOf(plan *topo.Plan, router string) (list []Link) {
	for _, l := range plan.LinksOf(router) {
		if !l.Core || l.Failed {
			continue
		}
		here, there := l.A, l.B
		if here.Node != router {
			here, there = there, here
		}
		if n, ok := plan.Node(there.Node); !ok || n.Kind == topo.KindRR || n.Routing != topo.RoutingController {
			continue
		}
		list = append(list, Link{Dev: here.Ifname, Local: here.Addr.Addr(), Peer: there.Addr.Addr()})
	}
	return list
}

// peersOf lists the other PEs that look out for a PE.
func peersOf(plan *topo.Plan, pe topo.Node) (list []Multihop) {
	for _, n := range plan.OfKind(topo.KindPE) {
		if n.Name != pe.Name && n.Routing == topo.RoutingController {
			list = append(list, Multihop{Local: pe.Loopback, Peer: n.Loopback})
		}
	}
	return list
}

// routesOf are a node's routes by way of an interface, which the kernel forgets
// when that is taken down.
func routesOf(n fabric.Node) []fabric.Route {
	return slices.DeleteFunc(slices.Clone(n.Routes), func(r fabric.Route) bool { return r.Dev == "" || r.Unreachable })
}
