package plots

import (
	"fmt"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"

	"github.com/vpclab/vpclab/metrics"
)

// makePauseBandwidth is figure 2 of CloudNet: how long a VM stands under
// plain pre-copy, against bandwidth.
func makePauseBandwidth(d *data) (*page, string, error) {
	const metric = "migration.pause"
	s := d.chooseSweep([]string{"rate", "workload"}, []string{metric}, func(r metrics.PointSummary) bool {
		return r.Labels["algorithm"] == baseline && alone(r)
	})
	if len(s.rows) == 0 {
		return nil, "", missingf("no samples of %s with the label algorithm=%s: no migration experiment has finished a trial of it", metric, baseline)
	}
	xs := rateAxis.values(s.rows)
	if len(xs) < 2 {
		return nil, "", missingf("rate has %s: a line needs two values or more (vary: {rate: […]})", oneOrNo(len(xs)))
	}
	scale := s.scale()
	var lines []series
	var papers []paperPoints
	for _, w := range workloadsOf(s.rows) {
		lines = append(lines, rateAxis.line(w.name, w.look, workloadRows(s, metric, w), 1))
		papers = append(papers, rateAxis.paperPoints(w.look, Papers(Fig2, metric, "workload", w.id), scale, 1))
	}
	pg := &page{width: columnWidth, legend: legendOf([][]series{lines})}
	if scale > 0 {
		pg.legend = append(pg.legend, paperLegend())
	}
	pn := panel{xName: rateAxis.name, yName: "pause (s)", plot: func() *plot.Plot {
		p := linesPlot(rateAxis, xs, lines, papers, true)
		p.X.Tick.Marker = atValues(&p.X, xs, 0.09)
		return p
	}}
	g := panelRows{rows: [][]panel{{pn}}, each: 2.1 * vg.Inch}
	pg.bodyHeight, pg.body = g.height(), g.draw
	whole := fmt.Sprintf("Median; %s; %s a point.", spreadText(s.rows), nText(s.rows))
	pg.subtitle = []string{whole, s.heldText(), d.kernelText()}
	caption := fmt.Sprintf("How long the VM stands, from its last step at the source to its first at the destination, under Xen's rule of 30 iterations, against the bandwidth of the WAN, on logarithmic axes. A workload that rewrites its hot set faster than any of these links (SPECjbb) pauses in proportion to 1/bandwidth; one with a slower tail of writes (TPC-W) gains more than that from a faster link. %s %s %s %s%s",
		whole, paperText(scale, "Hollow marks", Fig2), s.heldText(), d.kernelText(), s.whichText(d, metric))
	return pg, caption, nil
}

// alone are the rows of VMs that move alone, and of the first move of a trial
// that has several.
func alone(r metrics.PointSummary) bool {
	return r.Labels["vm"] == "" && r.Labels["group"] == "" && firstLeg(r.Labels["leg"])
}

// firstLeg reports whether a label leg is that of a trial's first move.
func firstLeg(leg string) bool { return leg == "" || leg == "out-1" }

// workloadRows are the rows of a workload; one without a name has all.
func workloadRows(s sweep, metric string, w workload, labels ...string) []metrics.PointSummary {
	if w.id != "" {
		labels = append([]string{"workload", w.id}, labels...)
	}
	return s.of(metric, labels...)
}

// outBytes are, of what has a direction, the rows from the source to the
// destination.
func outBytes(r metrics.PointSummary) bool {
	return r.Labels["direction"] == "" || r.Labels["direction"] == "out"
}

// costs are what the figures of a migration against something show.
var costs = []struct{ metric, name string }{
	{"migration.total", "total time (s)"},
	{"migration.pause", "pause (s)"},
	{"migration.bytes", "data"},
}

// makeMigrationBandwidth is figures 14 and 15a, b of CloudNet: what a
// migration takes against bandwidth, by algorithm.
func makeMigrationBandwidth(d *data) (*page, string, error) {
	pg, s, err := d.costPage(rateAxis, func(m string, w workload, a algorithm) []Published {
		source := Fig14
		if m == "migration.bytes" {
			source = Fig15
		}
		return Papers(source, m, "workload", w.id, "algorithm", a.id, "rtt", "10ms")
	})
	if err != nil {
		return nil, "", err
	}
	caption := fmt.Sprintf("What the migration of one VM takes, against the bandwidth of the WAN: the time from the first page to the VM running whole at the destination, its pause, and the bytes that the source's host sends (headers included). Where redundancy is eliminated the data hardly depends on bandwidth; the gain in time shrinks as the link gets faster. The same seeded writes for all algorithms. %s %s %s %s",
		pg.subtitle[0], paperText(s.scale(), "Hollow marks", Fig14, Fig15), s.heldText(), d.kernelText())
	return pg, caption + s.whichText(d, "migration.total"), nil
}

// makeMigrationRTT is figure 15c of CloudNet: the same against round-trip
// time.
func makeMigrationRTT(d *data) (*page, string, error) {
	pg, s, err := d.costPage(rttAxis, func(m string, w workload, a algorithm) []Published {
		if m == "migration.bytes" {
			return nil // the paper varies RTT for times only
		}
		return Papers(Fig15, m, "rate", "100mbit", "workload", w.id, "algorithm", a.id)
	})
	if err != nil {
		return nil, "", err
	}
	caption := fmt.Sprintf("What the migration of one VM takes, against the round-trip time of the WAN. Latency costs little: rounds are long against it, and TCP's window of today grows faster than that of 2011. The same seeded writes for all algorithms. %s %s %s %s",
		pg.subtitle[0], paperText(s.scale(), "Hollow marks", Fig15), s.heldText(), d.kernelText())
	return pg, caption + s.whichText(d, "migration.total"), nil
}

// costPage is a page of panels: a row a workload, a column a cost, a line an
// algorithm. paper finds published values; their rate or RTT places them.
func (d *data) costPage(a axis, paper func(metric string, w workload, a algorithm) []Published) (*page, sweep, error) {
	names := []string{costs[0].metric, costs[1].metric, costs[2].metric}
	s := d.chooseSweep([]string{a.label, "workload", "algorithm"}, names, func(r metrics.PointSummary) bool {
		return alone(r) && outBytes(r)
	})
	if len(s.rows) == 0 {
		return nil, s, missingf("no samples of %s: no migration experiment has finished a trial", names[0])
	}
	xs := a.values(s.rows)
	if len(xs) < 2 {
		return nil, s, missingf("%s has %s: a line needs two values or more (vary: {%s: […]})", a.label, oneOrNo(len(xs)), a.label)
	}
	k, unit := sizeUnit(topOf(s.of("migration.bytes")))
	g := panelRows{each: 1.25 * vg.Inch}
	var legend [][]series
	hasPaper := false
	for _, w := range workloadsOf(s.rows) {
		var row []panel
		for _, cost := range costs {
			factor, name := 1.0, cost.name
			if cost.metric == "migration.bytes" {
				factor, name = k, "data sent ("+unit+")"
			}
			var lines []series
			var papers []paperPoints
			for _, al := range algorithmsOf(s.rows) {
				l := a.line(al.name, al.look, workloadRows(s, cost.metric, w, "algorithm", al.id), factor)
				if len(l.pts) < 2 || 2*len(l.pts) < len(xs) {
					continue // measured for another figure, at a few of the values
				}
				lines = append(lines, l)
				if p := a.paperPoints(al.look, paper(cost.metric, w, al), s.scale(), factor); len(p.pts) > 0 {
					papers, hasPaper = append(papers, p), true
				}
			}
			if len(lines) == 0 {
				row = append(row, panel{})
				continue
			}
			legend = append(legend, lines)
			pn := panel{yName: name, plot: func() *plot.Plot {
				return linesPlot(a, xs, slices.Clone(lines), papers, cost.metric != "migration.bytes")
			}}
			if len(row) == 0 && w.id != "" {
				pn.heading = w.name
			}
			row = append(row, pn)
		}
		if slices.ContainsFunc(row, func(p panel) bool { return p.plot != nil }) {
			g.rows = append(g.rows, row)
		}
	}
	if len(g.rows) == 0 {
		return nil, s, missingf("no algorithm has been measured at half of the values of %s", a.label)
	}
	for i := range g.rows[len(g.rows)-1] {
		g.rows[len(g.rows)-1][i].xName = a.name
	}
	pg := &page{width: doubleWidth, legend: legendOf(legend)}
	if hasPaper {
		pg.legend = append(pg.legend, paperLegend())
	}
	pg.subtitle = []string{fmt.Sprintf("Median; %s; %s a point.", spreadText(s.rows), nText(s.rows)), s.heldText(), d.kernelText()}
	pg.bodyHeight, pg.body = g.height(), g.draw
	return pg, s, nil
}
