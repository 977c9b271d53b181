package plots

import (
	"fmt"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"

	"github.com/vpclab/vpclab/metrics"
)

// handOvers are algorithms that differ in when they hand over: after all
// memory, before any, between.
var handOvers = []string{"xen30", "cloudnet", "post-copy", "hybrid", "vpclab"}

// makePostCopy draws what handing over early gains and costs.
func makePostCopy(d *data) (*page, string, error) {
	names := []string{"migration.pause", "migration.total", "faults.demanded", "faults.wait"}
	s := d.chooseSweep([]string{"rate", "algorithm"}, names, func(r metrics.PointSummary) bool {
		return alone(r) && slices.Contains(handOvers, r.Labels["algorithm"]) && (r.Metric != "faults.wait" || r.Labels["quantile"] == "p99")
	})
	if len(s.of("migration.pause", "algorithm", "post-copy")) == 0 && len(s.of("migration.pause", "algorithm", "hybrid")) == 0 {
		return nil, "", missingf("no migration experiment has trials of algorithm=post-copy or hybrid")
	}
	xs := rateAxis.values(s.rows)
	if len(xs) < 2 {
		return nil, "", missingf("rate has %s: a line needs two values or more (vary: {rate: […]})", oneOrNo(len(xs)))
	}
	var legend [][]series
	var used []metrics.PointSummary
	panelOf := func(metric, name string, log bool) panel {
		var lines []series
		for _, a := range algorithmsOf(s.rows, handOvers...) {
			rows := s.of(metric, "algorithm", a.id)
			if metric == "faults.wait" || metric == "faults.demanded" {
				rows = slices.DeleteFunc(rows, func(r metrics.PointSummary) bool { return r.Max == 0 })
			}
			if l := rateAxis.line(a.name, a.look, rows, 1); len(l.pts) > 0 {
				lines, used = append(lines, l), append(used, rows...)
			}
		}
		if len(lines) == 0 {
			return panel{}
		}
		legend = append(legend, lines)
		return panel{xName: rateAxis.name, yName: name, plot: func() *plot.Plot { return linesPlot(rateAxis, xs, lines, nil, log) }}
	}
	g := panelRows{each: 1.45 * vg.Inch, rows: [][]panel{
		{panelOf("migration.pause", "pause (s)", true), panelOf("migration.total", "total time (s)", true)},
		{panelOf("faults.demanded", "pages waited for", false), panelOf("faults.wait", "99th percentile of waits (s)", true)},
	}}
	if g.rows[1][0].plot == nil && g.rows[1][1].plot == nil {
		g.rows = g.rows[:1]
	}
	pg := &page{width: doubleWidth, legend: legendOf(legend)}
	whole := fmt.Sprintf("Median; %s; %s a point.", spreadText(used), nText(used))
	pg.subtitle = []string{whole, s.heldText(), d.kernelText()}
	pg.bodyHeight, pg.body = g.height(), g.draw
	caption := fmt.Sprintf("Handing over before memory has moved, after, and between. The pause of post-copy hardly depends on bandwidth, and each page is sent once; for that the VM then stands at each page that is not there yet: how often, and how long 1 wait in 100 takes at least, is below. %s %s %s",
		whole, s.heldText(), d.kernelText())
	return pg, caption + s.whichText(d, "migration.pause"), nil
}
