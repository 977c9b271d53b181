package repair

import (
	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/topo"
)

// Protections are the entries of a router that the plan prepares for the time
// when a link of it is down, in the form in which the fabric has them: what is
// replaced is what mpls.Compile makes of the same plan.
func Protections(plan *topo.Plan, router string) []Protection {
	planned := plan.Protections(router)
	all := make([]Protection, 0, len(planned))
	for _, p := range planned {
		if p.In != 0 {
			all = append(all, Protection{Dev: p.Dev, MPLS: entry(p.In, p.Is), MPLSBy: entry(p.In, p.By)})
		} else {
			all = append(all, Protection{Dev: p.Dev, IP: route(p, p.Is), IPBy: route(p, p.By)})
		}
	}
	return all
}

func entry(in uint32, f topo.Forwarding) *fabric.MPLSRoute {
	r := &fabric.MPLSRoute{In: in, Via: f.Via, Dev: f.Dev}
	copy(r.Out[:], f.Labels)
	return r
}

func route(p topo.Protection, f topo.Forwarding) *fabric.Route {
	r := &fabric.Route{Table: p.Table, Dst: p.Dst, Src: p.Src, Via: f.Via, Dev: f.Dev}
	copy(r.Labels[:], f.Labels)
	return r
}
