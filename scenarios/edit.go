package scenarios

import (
	"fmt"
	"slices"

	"github.com/vpclab/vpclab/topo"
)

// addMachine is the plan with one machine more in a LAN; an empty name gives it
// one in the usual form. A machine that is in another LAN of its VPC moves
// here.
func addMachine(plan *topo.Plan, at member, name string) (*topo.Plan, topo.Node, error) {
	op := topo.Operation{Do: "add", VPC: at.vpc, VM: name, Site: at.site}
	if s, ok := plan.Site(at.site); ok && len(s.Hosts) > 0 {
		op.Site, op.Host = "", at.site+"/1"
	}
	if _, there := plan.Node(name); there {
		op.Do, op.VPC = "move", ""
	}
	changed, err := plan.Do(op)
	if err != nil {
		return nil, topo.Node{}, fmt.Errorf("add a machine to %s at %s: %w", at.vpc, at.site, err)
	}
	if name == "" {
		a, _ := attachment(changed, at)
		name = a.Machines[len(a.Machines)-1]
	}
	node, _ := changed.Node(name)
	return changed, *node, nil
}

// withMachines is the plan with at most n machines in each LAN.
func withMachines(plan *topo.Plan, n int) *topo.Plan {
	gone := map[string]bool{}
	q := *plan
	q.VPCs = slices.Clone(plan.VPCs)
	for i := range q.VPCs {
		q.VPCs[i].Attachments = slices.Clone(q.VPCs[i].Attachments)
		for j := range q.VPCs[i].Attachments {
			a := &q.VPCs[i].Attachments[j]
			for _, m := range a.Machines[min(n, len(a.Machines)):] {
				gone[m] = true
			}
			a.Machines = a.Machines[:min(n, len(a.Machines))]
		}
	}
	q.Nodes = slices.DeleteFunc(slices.Clone(plan.Nodes), func(n topo.Node) bool { return gone[n.Name] })
	q.Links = slices.DeleteFunc(slices.Clone(plan.Links), func(l topo.Link) bool { return gone[l.A.Node] })
	return q.Restrict(func(topo.Attachment) bool { return true }) // without what was reserved for them
}

func attachment(plan *topo.Plan, at member) (topo.Attachment, bool) {
	for _, a := range plan.Attachments() {
		if memberOf(a) == at {
			return a, true
		}
	}
	return topo.Attachment{}, false
}

// wireOf is a machine's link; the machine is end A.
func wireOf(plan *topo.Plan, machine string) (topo.Link, bool) {
	for _, l := range plan.Links {
		if l.A.Node == machine {
			return l, true
		}
	}
	return topo.Link{}, false
}
