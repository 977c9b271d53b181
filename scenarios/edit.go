package scenarios

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vpclab/vpclab/topo"
)

// addMachine is the plan with one machine more in a LAN, numbered after the
// LAN's last; an empty name gives it one in the usual form. A machine that is
// in another LAN of the plan moves here: its namespace stays, its wire and its
// address change.
func addMachine(plan *topo.Plan, at member, name string) (*topo.Plan, topo.Node, error) {
	a, ok := attachment(plan, at)
	if !ok || len(a.Machines) == 0 {
		return nil, topo.Node{}, fmt.Errorf("add a machine to %s at %s: no machine there to go by", at.vpc, at.site)
	}
	last, _ := plan.Node(a.Machines[len(a.Machines)-1])
	wire, ok := wireOf(plan, last.Name)
	if !ok {
		return nil, topo.Node{}, fmt.Errorf("add a machine to %s at %s: %s has no link to go by", at.vpc, at.site, last.Name)
	}
	addr := last.Addr.Next()
	if !a.Subnet.Contains(addr.Next()) { // the last address of a subnet is its broadcast
		return nil, topo.Node{}, fmt.Errorf("add a machine to %s at %s: the subnet %s is full", at.vpc, at.site, a.Subnet)
	}
	if name == "" {
		name = fmt.Sprintf("%s-%s-%d", at.vpc, at.site, len(a.Machines)+1)
		for _, taken := plan.Node(name); taken; _, taken = plan.Node(name) {
			name += "x"
		}
	}
	node := *last
	node.Name, node.Addr, node.Index = name, addr, last.Index+1
	link := wire
	link.A.Node, link.A.MAC, link.A.Addr = name, next(wire.A.MAC), netip.PrefixFrom(addr, wire.A.Addr.Bits())
	link.B.MAC, link.B.Ifname = next(wire.B.MAC), fmt.Sprintf("more%d", len(a.Machines)+1)

	q := *plan
	q.Nodes = append(slices.DeleteFunc(slices.Clone(plan.Nodes), func(n topo.Node) bool { return n.Name == name }), node)
	q.Links = append(slices.DeleteFunc(slices.Clone(plan.Links), func(l topo.Link) bool { return l.A.Node == name }), link)
	q.VPCs = slices.Clone(plan.VPCs)
	for i := range q.VPCs {
		q.VPCs[i].Attachments = slices.Clone(q.VPCs[i].Attachments)
		for j := range q.VPCs[i].Attachments {
			b := &q.VPCs[i].Attachments[j]
			b.Machines = slices.DeleteFunc(slices.Clone(b.Machines), func(m string) bool { return m == name })
			if memberOf(*b) == at {
				b.Machines = append(b.Machines, name)
			}
		}
	}
	return &q, node, nil
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
	return &q
}

// next is the MAC address of the LAN's next machine; see topo/number.go.
func next(m topo.MAC) topo.MAC {
	if m[5]++; m[5] == 0 {
		m[4]++
	}
	return m
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
