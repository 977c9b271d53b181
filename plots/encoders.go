package plots

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/vpclab/vpclab/metrics"
)

// encoderLooks are the looks of encoders in the order of rows.
var encoderLooks = []struct {
	id, name string
	look     look
}{
	{"raw", "none", look{color: midGrey}},
	{"zero", "ranges of zeros", look{color: paleGrey, hatch: levelBars}},
	{"zip", "zip (deflate)", look{color: vermillion, hatch: risingBars}},
	{"zstd-1", "zstd-1", look{color: orange, hatch: fallingBars}},
	{"zstd-3", "zstd-3", look{color: yellow, hatch: crossedBars}},
	{"lz4", "lz4", look{color: purple, hatch: levelBars}},
	{"cbr", "redundancy elimination", look{color: green, hatch: uprightBars}},
	{"cbr+zstd-1", "both, zstd-1", look{color: skyBlue, hatch: crossedBars}},
	{"vpclab", "vpclab's own", look{color: blue}},
}

// plainEncoders is a label encoders without the ranges of zeros, unless it has
// nothing else.
func plainEncoders(v string) string {
	parts := slices.DeleteFunc(strings.Split(v, "+"), func(p string) bool { return p == "zero" })
	return cmp.Or(strings.Join(parts, "+"), "zero")
}

// encoderCosts are the columns; the last is the processor's share of a core
// over the migration.
var encoderCosts = []struct{ metric, name string }{
	{"migration.bytes", "data"},
	{"migration.total", "total time (s)"},
	{"migration.load", "CPU at the source (% of a core)"},
}

// makeEncoders is figure 18 of CloudNet: compression and redundancy
// elimination in the same algorithm.
func makeEncoders(d *data) (*page, string, error) {
	names := []string{"migration.total", "migration.bytes", "migration.cpu"}
	s := d.chooseSweep([]string{"workload", "encoders"}, names, func(r metrics.PointSummary) bool {
		return alone(r) && outBytes(r) && r.Labels["encoders"] != "" && (r.Metric != "migration.cpu" || r.Labels["side"] == "source")
	})
	if len(s.rows) == 0 {
		return nil, "", missingf("no samples of %s with the label encoders: no migration experiment has varied them", names[0])
	}
	k, unit := sizeUnit(topOf(s.of("migration.bytes")))
	t := barTable{columns: []string{encoderCosts[0].name + " (" + unit + ")", encoderCosts[1].name, encoderCosts[2].name}}
	var used []metrics.PointSummary
	for _, w := range workloadsOf(s.rows) {
		g := barGroup{heading: w.name}
		for _, id := range encodersOf(s.rows) {
			name, lk := encoderRow(id)
			row := barRow{name: name, look: lk, cells: make([]barCell, 3)}
			total := workloadRows(s, "migration.total", w, "encoders", id)
			for i, c := range encoderCosts {
				cell, factor := &row.cells[i], []float64{k, 1, 100}[i]
				metric := c.metric
				if metric == "migration.load" {
					metric = "migration.cpu"
				}
				rows := workloadRows(s, metric, w, "encoders", id)
				if len(rows) != 1 {
					continue
				}
				used = append(used, rows...)
				*cell = barCell{sum: scaled(rows[0].Summary, factor), has: true}
				if i == 2 {
					cell.has = false
					if len(total) == 1 {
						cell.sum, cell.has = d.paired(rows[0], total[0], func(cpu, t float64) float64 { return 100 * cpu / t })
					}
				}
				if p, ok := Paper(Fig18, c.metric, "workload", w.id, "encoders", plainEncoders(id)); ok && s.scale() > 0 {
					cell.paper, cell.hasPaper = p.At(s.scale())*factor, true
				}
			}
			if slices.ContainsFunc(row.cells, func(c barCell) bool { return c.has }) {
				g.rows = append(g.rows, row)
			}
		}
		t.groups = append(t.groups, g)
	}
	whole := fmt.Sprintf("Median; %s; %s a bar.", spreadText(used), nText(used))
	pg := &page{width: doubleWidth, subtitle: []string{whole, s.heldText(), d.kernelText()}}
	text := ""
	if t.hasPaper() {
		pg.legend = []entry{paperTickLegend()}
		text = " " + paperText(s.scale(), "Ticks", Fig18) + " What Xen alone sent and took follows from its printed savings; CPUs of different years do not compare."
	}
	pg.bodyHeight, pg.body = t.height(), t.draw
	caption := fmt.Sprintf("The same algorithm with one encoder after the other. General compression finds more than redundancy elimination, and pays with computation; once the encoder needs a whole core it, and not the link, sets the time. %s%s %s %s",
		whole, text, s.heldText(), d.kernelText())
	return pg, caption + s.whichText(d, "migration.total"), nil
}

// encodersOf are the labels of encoders among rows: those known first.
func encodersOf(rows []metrics.PointSummary) []string {
	var all []string
	for v := range values(rows, "encoders") {
		if !slices.Contains(all, v) {
			all = append(all, v)
		}
	}
	index := func(v string) int {
		for i, e := range encoderLooks {
			if e.id == plainEncoders(v) {
				return i
			}
		}
		return len(encoderLooks)
	}
	slices.SortFunc(all, func(a, b string) int { return cmp.Or(index(a)-index(b), strings.Compare(a, b)) })
	return all
}

// encoderRow is the look and the name of encoders.
func encoderRow(v string) (string, look) {
	plain := plainEncoders(v)
	for _, e := range encoderLooks {
		if e.id == plain {
			return e.name, e.look
		}
	}
	return strings.ReplaceAll(plain, "+", " + "), look{color: grey, hatch: levelBars}
}
