package scenarios

import (
	"slices"

	"github.com/vpclab/vpclab/emu/traffic"
	"github.com/vpclab/vpclab/topo"
)

// member names a VPC at a site.
type member struct{ vpc, site string }

func memberOf(a topo.Attachment) member { return member{a.VPC, a.Site} }

// scope is the part of a plan that a point is about: the first sites and the
// first tenants in the order of the file, and the first machines of each LAN.
type scope struct {
	attachments []topo.Attachment // with the machines cut to the point's number
	// newcomer joins and leaves while the others talk: the first tenant's
	// attachment at the next site after the scope's, or, where the scope has
	// all of its sites, the last one of them, which then leaves and joins
	// again.
	newcomer topo.Attachment
	within   bool // the newcomer is one of attachments
	count    bool // this trial also counts what does not vary
}

// sitesOf lists the sites that VPCs of the plan are at, in order.
func sitesOf(plan *topo.Plan) []string {
	first := map[string]int{}
	var names []string
	for _, a := range plan.Attachments() {
		if _, seen := first[a.Site]; !seen {
			first[a.Site] = a.Index
			names = append(names, a.Site)
		}
	}
	slices.SortStableFunc(names, func(x, y string) int { return first[x] - first[y] })
	return names
}

// machinesOf is the largest number of machines that a LAN of the plan has.
func machinesOf(plan *topo.Plan) int {
	most := 0
	for _, a := range plan.Attachments() {
		most = max(most, len(a.Machines))
	}
	return most
}

// newScope cuts the plan to a point.
func newScope(plan *topo.Plan, pt point) scope {
	sites := sitesOf(plan)
	in := sites[:min(pt.number("sites"), len(sites))]
	var s scope
	for i, v := range plan.VPCs {
		if i == pt.number("tenants") {
			break
		}
		for _, a := range v.Attachments {
			a.Machines = a.Machines[:min(len(a.Machines), pt.number("machines"))]
			if len(a.Machines) == 0 {
				continue
			}
			switch inside := slices.Contains(in, a.Site); {
			case inside:
				s.attachments = append(s.attachments, a)
			case i == 0 && s.newcomer.Site == "":
				s.newcomer = a
			}
		}
	}
	if s.newcomer.Site == "" {
		s.newcomer, s.within = s.last(), true
	}
	return s
}

// last is the first tenant's last attachment in the scope.
func (s scope) last() (a topo.Attachment) {
	for _, b := range s.attachments {
		if b.VPC == s.attachments[0].VPC {
			a = b
		}
	}
	return a
}

// members is the set of attachments, the newcomer apart.
func (s scope) members() map[member]bool {
	set := map[member]bool{}
	for _, a := range s.attachments {
		set[memberOf(a)] = true
	}
	return set
}

// without is the set of attachments but for the newcomer, and the old sites
// that talk while it comes and goes.
func (s scope) without() (set map[member]bool, old []topo.Attachment) {
	set = s.members()
	delete(set, memberOf(s.newcomer))
	for _, a := range s.attachments {
		if set[memberOf(a)] {
			old = append(old, a)
		}
	}
	return set, old
}

// with is the set of attachments and the newcomer.
func (s scope) with() map[member]bool {
	set := s.members()
	set[memberOf(s.newcomer)] = true
	return set
}

// machines names the machines of attachments.
func machinesIn(attachments []topo.Attachment) (names []string) {
	for _, a := range attachments {
		names = append(names, a.Machines...)
	}
	return names
}

// sitePairs are flows between the first machines of every ordered pair of
// sites of each tenant.
func sitePairs(attachments []topo.Attachment) (flows []traffic.Flow) {
	for _, a := range attachments {
		for _, b := range attachments {
			if a.VPC == b.VPC && a.Site != b.Site {
				flows = append(flows, traffic.Flow{From: a.Machines[0], To: b.Machines[0]})
			}
		}
	}
	return flows
}

// rings are flows from each site to the next of the same tenant, at most n of
// them, tenants in turn: enough for each site to send and to receive.
func rings(attachments []topo.Attachment, n int) (flows []traffic.Flow) {
	byVPC := map[string][]topo.Attachment{}
	var order []string
	for _, a := range attachments {
		if byVPC[a.VPC] == nil {
			order = append(order, a.VPC)
		}
		byVPC[a.VPC] = append(byVPC[a.VPC], a)
	}
	for i := 0; len(flows) < n; i++ {
		before := len(flows)
		for _, v := range order {
			if ring := byVPC[v]; len(ring) > 1 && i < len(ring) && len(flows) < n {
				flows = append(flows, traffic.Flow{From: ring[i].Machines[0], To: ring[(i+1)%len(ring)].Machines[0]})
			}
		}
		if len(flows) == before {
			break
		}
	}
	return flows
}

// spokes are flows between an attachment and the others of its tenant, both
// ways.
func spokes(a topo.Attachment, others []topo.Attachment) (flows []traffic.Flow) {
	for _, b := range others {
		if b.VPC == a.VPC && b.Site != a.Site {
			flows = append(flows, traffic.Flow{From: a.Machines[0], To: b.Machines[0]}, traffic.Flow{From: b.Machines[0], To: a.Machines[0]})
		}
	}
	return flows
}

// joined is the plan with exactly those attachments joined.
func joined(plan *topo.Plan, set map[member]bool) *topo.Plan {
	return plan.Detach(func(a topo.Attachment) bool { return !set[memberOf(a)] })
}
