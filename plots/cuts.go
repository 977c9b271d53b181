package plots

import (
	"fmt"

	"github.com/vpclab/vpclab/metrics"
)

// cutParts are the algorithms of figure 11 of CloudNet, and ours.
var cutParts = []string{"smart-stop", "cbr", "deltas", "cloudnet", "vpclab"}

// cutCosts are what is cut, in the order of its bars.
var cutCosts = []struct{ metric, published, axis string }{
	{"migration.bytes", "cut.bytes", "less data (%)"},
	{"migration.total", "cut.total", "less total time (%)"},
	{"migration.pause", "cut.pause", "less pause (%)"},
}

// makeCuts is figure 11 of CloudNet: by how much each of its parts, all of
// them and ours undercut Xen's 30 iterations.
func makeCuts(d *data) (*page, string, error) {
	names := []string{"migration.total", "migration.pause", "migration.bytes"}
	s := d.chooseSweep([]string{"workload", "algorithm"}, names, func(r metrics.PointSummary) bool { return alone(r) && outBytes(r) })
	t := barTable{floor: -60}
	for _, c := range cutCosts {
		t.columns = append(t.columns, c.axis)
	}
	var used []metrics.PointSummary
	for _, w := range workloadsOf(s.rows) {
		g := barGroup{heading: w.name}
		for _, id := range cutParts {
			a := algorithmOf(id)
			row := barRow{name: a.name, look: a.look}
			for _, c := range cutCosts {
				cell, ok := d.cut(s, c.metric, w, a)
				if p, printed := Paper(Fig11, c.published, "workload", w.id, "algorithm", a.id); printed {
					cell.paper, cell.hasPaper = 100*p.Value, true
				}
				if ok {
					used = append(used, metrics.PointSummary{Summary: cell.sum})
				}
				row.cells = append(row.cells, cell)
			}
			if row.cells[0].has || row.cells[1].has || row.cells[2].has {
				g.rows = append(g.rows, row)
			}
		}
		if len(g.rows) > 0 {
			t.groups = append(t.groups, g)
		}
	}
	if len(t.groups) == 0 {
		return nil, "", missingf("no experiment has trials of algorithm=%s and, beside them, of one of %v", baseline, cutParts)
	}
	whole := fmt.Sprintf("Median of the cuts against %s, trial by trial; %s; %s a bar.", algorithmOf(baseline).name, spreadText(used), nText(used))
	pg := &page{width: doubleWidth, subtitle: []string{whole, s.heldText(), d.kernelText()}}
	text := ""
	if t.hasPaper() {
		pg.legend = []entry{paperTickLegend()}
		text = " Ticks: " + PaperName + ", " + Fig11 + ", at 100 Mb/s and 20 ms RTT on hardware of 2011; shares need no scaling."
	}
	pg.bodyHeight, pg.body = t.height(), t.draw
	caption := fmt.Sprintf("By how much less each algorithm sends, takes and pauses than Xen with 30 iterations. Where most memory is zero or repeated (SPECjbb) redundancy elimination does most; elsewhere stopping at the right moment does as much; page deltas save data, not time. %s%s %s %s",
		whole, text, s.heldText(), d.kernelText())
	return pg, caption + s.whichText(d, "migration.total"), nil
}

// cut is by how many percent an algorithm undercuts the baseline, trial by
// trial.
func (d *data) cut(s sweep, metric string, w workload, a algorithm) (barCell, bool) {
	of, over := workloadRows(s, metric, w, "algorithm", a.id), workloadRows(s, metric, w, "algorithm", baseline)
	if len(of) != 1 || len(over) != 1 {
		return barCell{}, false
	}
	sum, ok := d.paired(of[0], over[0], func(v, base float64) float64 { return 100 * (1 - v/base) })
	return barCell{sum: sum, has: ok}, ok
}
