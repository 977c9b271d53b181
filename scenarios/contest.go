package scenarios

import (
	"fmt"
	"slices"
	"strings"

	"github.com/vpclab/vpclab/emu/traffic"
	"github.com/vpclab/vpclab/topo"
)

// contest is a reservation with those who would take its bandwidth.
type contest struct {
	reservation topo.ReservationPlan
	flow        traffic.Flow // of the reserved traffic, in the first direction
	// rivals are pairs of machines whose packets cross the contested link in
	// the same direction and belong to no reservation, those of other VPCs
	// first. No machine comes twice before all have had their turn.
	rivals []traffic.Flow
	// at is the contested link's sending end: of the core links that the
	// reserved traffic crosses with its reservation and without it, and rivals
	// too, the one with the lowest rate.
	at   topo.ReservedHop
	line topo.Rate // of that link
}

// newContest finds the contest for a reservation of the plan, by name; "" is
// the first. What makes it impossible comes back as a message with a hint.
func newContest(plan *topo.Plan, name string) (c contest, msg, hint string) {
	if len(plan.Reservations) == 0 {
		return c, "the experiment reservation needs a reservation, and the scenario has none", "add for example `reservations: {gold: {vpc: …, between: […, …], rate: 10mbit}}`"
	}
	c.reservation = plan.Reservations[0]
	if name != "" {
		i := slices.IndexFunc(plan.Reservations, func(r topo.ReservationPlan) bool { return r.Name == name })
		if i < 0 {
			var all []string
			for _, r := range plan.Reservations {
				all = append(all, r.Name)
			}
			return c, fmt.Sprintf("there is no reservation %q", name), hintAt(name, all)
		}
		c.reservation = plan.Reservations[i]
	}
	r := c.reservation
	if len(r.Directions) == 0 || len(r.Directions[0].Hops) == 0 {
		return c, fmt.Sprintf("reservation %s crosses no core link: there is nothing to measure", r.Name), "choose ends at different PEs"
	}
	for i, end := range []*string{&c.flow.From, &c.flow.To} {
		if *end = machineAt(plan, r.VPC, r.Between[i]); *end == "" {
			return c, fmt.Sprintf("reservation %s: %s has no machine of VPC %s", r.Name, r.Between[i], r.VPC), "give the site machines"
		}
	}
	if !c.choose(plan) {
		return c, fmt.Sprintf("no core link with a rate is on the path of reservation %s, on the shortest path between its ends, and on that of other traffic: nothing contests it", r.Name),
			"add machines whose way leads over one of " + strings.Join(c.both(plan), ", ") + ", and give it a rate"
	}
	return c, "", ""
}

// choose finds the contested link and the rivals.
func (c *contest) choose(plan *topo.Plan) bool {
	pairs, both := rivalPairs(plan, c.reservation), c.both(plan)
	for _, h := range c.reservation.Directions[0].Hops {
		rate := rateAt(plan, h.Node, h.Ifname)
		if rate == 0 || c.line > 0 && rate >= c.line || !slices.Contains(both, h.Node+":"+h.Ifname) {
			continue
		}
		var crossing []traffic.Flow
		for _, p := range pairs {
			if slices.Contains(wayOf(plan, p), h.Node+":"+h.Ifname) {
				crossing = append(crossing, p)
			}
		}
		if len(crossing) > 0 {
			c.at, c.line, c.rivals = h, rate, takeTurns(crossing)
		}
	}
	return c.line > 0
}

// both are the sending ends of the core links that the reserved traffic
// crosses with its reservation and without.
func (c *contest) both(plan *topo.Plan) (ends []string) {
	normal := wayOf(plan, c.flow)
	for _, h := range c.reservation.Directions[0].Hops {
		if end := h.Node + ":" + h.Ifname; slices.Contains(normal, end) {
			ends = append(ends, end)
		}
	}
	return ends
}

// machineAt is the machine that an end of a reservation names, or the first
// of the site.
func machineAt(plan *topo.Plan, vpc, end string) string {
	for _, n := range plan.Machines() {
		if n.VPC == vpc && (n.Name == end || n.Site == end) {
			return n.Name
		}
	}
	return ""
}

// rivalPairs are the ordered pairs of machines of one VPC at different sites
// that are in no reservation; those of other VPCs than r's come first.
func rivalPairs(plan *topo.Plan, r topo.ReservationPlan) (pairs []traffic.Flow) {
	machines := plan.Machines()
	for _, own := range []bool{false, true} {
		for _, a := range machines {
			for _, b := range machines {
				if a.VPC == b.VPC && a.Site != b.Site && (a.VPC == r.VPC) == own && !isReserved(plan, a, b) {
					pairs = append(pairs, traffic.Flow{From: a.Name, To: b.Name})
				}
			}
		}
	}
	return pairs
}

// isReserved tells that packets between two machines are some reservation's.
func isReserved(plan *topo.Plan, a, b topo.Node) bool {
	is := func(n topo.Node, end string) bool { return n.Name == end || n.Site == end }
	return slices.ContainsFunc(plan.Reservations, func(r topo.ReservationPlan) bool {
		return a.VPC == r.VPC && (is(a, r.Between[0]) && is(b, r.Between[1]) || is(a, r.Between[1]) && is(b, r.Between[0]))
	})
}

// wayOf are the sending ends, "node:interface", of the core links that packets
// of a flow cross by the LSP.
func wayOf(plan *topo.Plan, f traffic.Flow) (ends []string) {
	from, to := peOf(plan, f.From), peOf(plan, f.To)
	lsp, ok := plan.LSP(to)
	if !ok {
		return nil
	}
	for at := from; at != to; {
		hop, ok := lsp.Hop(at)
		if !ok || len(ends) > len(lsp.Hops) {
			return nil
		}
		ends = append(ends, at+":"+hop.Dev)
		at = hop.Next
	}
	return ends
}

// peOf is the PE of a machine's site, "" where it has not joined.
func peOf(plan *topo.Plan, machine string) string {
	for _, a := range plan.Attachments() {
		if a.Joined && slices.Contains(a.Machines, machine) {
			return a.PE
		}
	}
	return ""
}

// rateAt is the rate of a core link in the direction from one of its ends; 0:
// none.
func rateAt(plan *topo.Plan, node, ifname string) topo.Rate {
	for _, l := range plan.Links {
		switch {
		case l.Core && l.A.Node == node && l.A.Ifname == ifname:
			return l.AtoB.Rate
		case l.Core && l.B.Node == node && l.B.Ifname == ifname:
			return l.BtoA.Rate
		}
	}
	return 0
}

// takeTurns orders pairs so that each machine sends, and receives, once before
// any does so again.
func takeTurns(pairs []traffic.Flow) (order []traffic.Flow) {
	left := slices.Clone(pairs)
	for len(left) > 0 {
		busy := map[string]bool{}
		left = slices.DeleteFunc(left, func(f traffic.Flow) bool {
			if busy["from "+f.From] || busy["to "+f.To] {
				return false
			}
			busy["from "+f.From], busy["to "+f.To] = true, true
			order = append(order, f)
			return true
		})
	}
	return order
}

// hintAt lists what there is, and what a wrong name was most likely meant to
// be.
func hintAt(name string, all []string) string {
	if near := topo.Nearest(name, all); near != "" {
		return "did you mean " + near + "?"
	}
	return "there are " + strings.Join(all, ", ")
}
