package fault

import (
	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/topo"
)

// Wound is what a fault does to the kernel objects of a lab that is as plan says;
// empty for one that is about processes and sessions alone.
func Wound(plan *topo.Plan, f topo.Fault) (w fabric.Wound) {
	w.Dead = plan.FaultNodes(f)
	for _, l := range plan.FaultLinks(f) {
		a, b := fabric.EndAt{Node: l.A.Node, Ifname: l.A.Ifname}, fabric.EndAt{Node: l.B.Node, Ifname: l.B.Ifname}
		switch {
		case f.Kind == topo.FaultLinkDown || f.Kind == topo.FaultPartition && f.Carrier:
			w.Dark = append(w.Dark, a, b)
		case f.Kind == topo.FaultLinkOneWay:
			w.Deaf = append(w.Deaf, b)
		case f.Kind == topo.FaultLinkSilent || f.Kind == topo.FaultPartition:
			w.Deaf = append(w.Deaf, a, b)
		case f.Kind == topo.FaultDegrade:
			bound := topo.Impairment{Rate: f.Rate, Delay: f.Delay, Loss: f.Loss}
			w.Worse = append(w.Worse, fabric.Worse{EndAt: a, Impairment: bound}, fabric.Worse{EndAt: b, Impairment: bound})
		}
	}
	return w
}
