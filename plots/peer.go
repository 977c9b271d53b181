package plots

import (
	"fmt"
	"math"
	"slices"

	"github.com/vpclab/vpclab/metrics"
)

// peerSystems are the control planes of routing-peer, in the order of rows.
var peerSystems = []struct{ id, name string }{
	{"controller", "controller, GoBGP"},
	{"mixed", "controller, GoBGP and FRR"},
	{"frr", "FRR: OSPF, LDP, bgpd"},
}

// peerPanels are what they are compared in.
var peerPanels = []struct{ metric, heading string }{
	{"peer.start", "from namespaces and links to the last VPN route in a kernel"},
	{"peer.join", "a site joins: to its first packets, both ways"},
	{"peer.outage", "a core link fails: longest run of lost probes"},
}

// makePeer draws the times of each control plane below each other, and says
// whether they end with the same reachability.
func makePeer(d *data) (*page, string, error) {
	experiments := d.experiments("peer.start")
	if len(experiments) == 0 {
		return nil, "", missingf("no samples of peer.start: no routing-peer experiment has finished a trial")
	}
	exp := best(d.repeated(experiments, "peer.start"), func(e string) int { return len(d.of(e, "peer.start")) })
	var parts []part
	var used []metrics.PointSummary
	for _, p := range peerPanels {
		if l, rows := d.peerRows(exp, p.metric); l != nil {
			parts = append(parts, part{p.heading, l.height(), l.draw})
			used = append(used, rows...)
		}
	}
	whole := fmt.Sprintf("Medians; %s; %s a row.", spreadText(used), nText(used))
	same := d.peerReach(exp)
	pg := &page{width: doubleWidth, subtitle: []string{whole, same, d.kernelText()}}
	pg.footer = []string{"The controller knows of the failure that it is asked for; FRR's daemons notice it by the carrier, flood it, and compute anew."}
	pg.bodyHeight, pg.body = stackParts(parts)
	caption := fmt.Sprintf("The same lab with the testbed's control plane, with FRR's, and with both. %s %s The start is from when namespaces and links are there, and most of it is the start of processes. %s %s%s",
		whole, same, pg.footer[0], d.kernelText(), d.whichText(exp, experiments))
	return pg, caption, nil
}

// peerRows are the systems' values of a metric; nil where there are none.
func (d *data) peerRows(exp, metric string) (*stageDots, []metrics.PointSummary) {
	l := &stageDots{}
	var used []metrics.PointSummary
	for _, s := range peerSystems {
		if rows := d.of(exp, metric, "system", s.id); len(rows) == 1 {
			used = append(used, rows[0])
			l.names = append(l.names, s.name)
		}
	}
	if len(used) == 0 {
		return nil, nil
	}
	scale, unit := secondsOrMillis(used)
	for _, r := range used {
		l.sums = append(l.sums, scaled(r.Summary, scale))
	}
	l.axis = "time (" + unit + ")"
	return l, used
}

// peerReach says in a sentence what of the reachability was the same.
func (d *data) peerReach(exp string) string {
	pairs, leaks, different := 0.0, 0.0, 0.0
	for _, r := range d.of(exp, "peer.pairs_reached") {
		pairs = math.Max(pairs, r.Max)
	}
	whole := !slices.ContainsFunc(d.of(exp, "peer.pairs_reached"), func(r metrics.PointSummary) bool { return r.Min != pairs })
	for _, r := range d.of(exp, "peer.leaks") {
		leaks += r.Max
	}
	for _, r := range d.of(exp, "peer.different") {
		different += r.Max
	}
	if whole && leaks == 0 && different == 0 {
		return fmt.Sprintf("With each of them the same %s pairs of machines reach each other, and no others.", groupDigits(pairs))
	}
	return fmt.Sprintf("They do not end with the same reachability: up to %s cells of the matrix differ, and %s pairs leak.", groupDigits(different), groupDigits(leaks))
}
