package plots

import (
	"fmt"
	"math"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"

	"github.com/vpclab/vpclab/metrics"
)

// sizeAxis is the size of a delta.
var sizeAxis = axis{"size", "size of a page's delta (bytes)", parseBytes, false}

// makeDeltaSizes is figure 6 of CloudNet: the sizes of deltas of pages that
// are sent again.
func makeDeltaSizes(d *data) (*page, string, error) {
	const metric = "delta.cdf"
	s := d.chooseSweep([]string{"workload", "size"}, []string{metric}, nil)
	xs := sizeAxis.values(s.rows)
	if len(xs) < 2 {
		return nil, "", missingf("no samples of %s at two sizes or more", metric)
	}
	var lines []series
	var papers []paperPoints
	for _, w := range workloadsOf(s.rows) {
		lines = append(lines, sizeAxis.line(w.name, w.look, workloadRows(s, metric, w), 100))
		papers = append(papers, sizeAxis.paperPoints(w.look, Papers(Fig6, metric, "workload", w.id), 1, 100))
	}
	pg := &page{width: columnWidth, legend: append(legendOf([][]series{lines}), paperLegend())}
	pn := panel{xName: sizeAxis.name, yName: "deltas of at most this size (%)", plot: func() *plot.Plot {
		p := linesPlot(sizeAxis, xs, lines, papers, false)
		p.X.Scale = plot.LinearScale{}
		p.X.Min, p.X.Max, p.X.Tick.Marker = 0, math.Max(4096, xs[len(xs)-1])*1.02, linearTicks{}
		p.Y.Min, p.Y.Max = 0, 104
		return p
	}}
	g := panelRows{rows: [][]panel{{pn}}, each: 2 * vg.Inch}
	pg.bodyHeight, pg.body = g.height(), g.draw
	whole := fmt.Sprintf("Median; %s; %s a point.", spreadText(s.rows), nText(s.rows))
	pg.subtitle = []string{whole, s.heldText(), d.kernelText()}
	caption := fmt.Sprintf("Sizes of page deltas, cumulative: of the pages that are sent again, the share whose changes against the version sent before take at most so many bytes, run-length coded. Many change by a few hundred bytes, and many almost wholly: these are not worth a delta. %s %s %s %s",
		whole, paperText(1, "Hollow marks", Fig6), s.heldText(), d.kernelText())
	return pg, caption + s.whichText(d, metric), nil
}

// makeDeltaSavings is table II of CloudNet: what page deltas save after the
// first iteration.
func makeDeltaSavings(d *data) (*page, string, error) {
	names := []string{"round.bytes", "encoder.in", "encoder.out"}
	s := d.chooseSweep([]string{"workload"}, names, func(r metrics.PointSummary) bool {
		return alone(r) && r.Labels["algorithm"] == "deltas" && (r.Metric == "round.bytes" || r.Labels["encoder"] == "delta")
	})
	if len(s.of("round.bytes")) == 0 || len(s.of("encoder.in")) == 0 {
		return nil, "", missingf("no samples of round.bytes and encoder.in (encoder=delta) with the label algorithm=deltas")
	}
	t := barTable{}
	type columns struct{ first, rest, saved, cut metrics.Summary }
	var found []columns
	var ws []workload
	top := 0.0
	for _, w := range workloadsOf(s.rows) {
		c, ok := columns{}, false
		c.first, c.rest, c.saved, c.cut, ok = d.deltaSums(s, w)
		if ok {
			found, ws = append(found, c), append(ws, w)
			top = math.Max(top, c.first.Max)
		}
	}
	if len(found) == 0 {
		return nil, "", missingf("no trial of algorithm=deltas has more than one round")
	}
	k, unit := sizeUnit(top)
	t.columns = []string{"iteration 1 (" + unit + ")", "all later (" + unit + ")", "saved there (" + unit + ")", "saved of later (%)"}
	var g barGroup
	var used []metrics.PointSummary
	for i, w := range ws {
		row := barRow{name: w.name, look: w.look}
		for j, v := range []metrics.Summary{found[i].first, found[i].rest, found[i].saved, found[i].cut} {
			factor, metric := k, []string{"delta.first", "delta.rest", "delta.saved", "delta.cut"}[j]
			if metric == "delta.cut" {
				factor = 100
			}
			cell := barCell{sum: scaled(v, factor), has: true}
			used = append(used, metrics.PointSummary{Summary: v})
			if p, ok := Paper(Table2, metric, "workload", w.id); ok && (s.scale() > 0 || p.Unit == "share") {
				scale := s.scale()
				if p.Unit == "share" {
					scale = 1
				}
				cell.paper, cell.hasPaper = p.At(scale)*factor, true
			}
			row.cells = append(row.cells, cell)
		}
		g.rows = append(g.rows, row)
	}
	t.groups = []barGroup{g}
	whole := fmt.Sprintf("Median; %s; %s a bar.", spreadText(used), nText(used))
	pg := &page{width: doubleWidth, subtitle: []string{whole, s.heldText(), d.kernelText()}}
	text := ""
	if t.hasPaper() {
		pg.legend = []entry{paperTickLegend()}
		text = " " + paperText(s.scale(), "Ticks", Table2)
	}
	pg.bodyHeight, pg.body = t.height(), t.draw
	caption := fmt.Sprintf("What page deltas save. They can save nothing in the first iteration, which sends each page for the first time; later ones send the same pages again, and a third to a half of that need not be sent. %s%s %s %s",
		whole, text, s.heldText(), d.kernelText())
	return pg, caption + s.whichText(d, "round.bytes"), nil
}

// deltaSums are, over trials, the bytes of the first round, of all others,
// what deltas saved, and that as a share of what the others would have been.
func (d *data) deltaSums(s sweep, w workload) (first, rest, saved, cut metrics.Summary, ok bool) {
	labels := []string{}
	if w.id != "" {
		labels = append(labels, "workload", w.id)
	}
	in, out := s.of("encoder.in", labels...), s.of("encoder.out", labels...)
	if len(in) != 1 || len(out) != 1 {
		return first, rest, saved, cut, false
	}
	var firsts, rests, saves, cuts []float64
	for _, t := range d.roundTrials(s, []string{"round.bytes"}, labels...) {
		sum := 0.0
		for n := 2; n <= t.rounds; n++ {
			sum += t.at("round.bytes", n)
		}
		ins, outs := d.byTrials(in[0])[t.trial], d.byTrials(out[0])[t.trial]
		if sum == 0 || len(ins) != 1 || len(outs) != 1 {
			continue
		}
		save := ins[0] - outs[0]
		firsts, rests = append(firsts, t.at("round.bytes", 1)), append(rests, sum)
		saves, cuts = append(saves, save), append(cuts, save/(sum+save))
	}
	return metrics.Summarize(firsts), metrics.Summarize(rests), metrics.Summarize(saves), metrics.Summarize(cuts), len(cuts) > 0
}

// bitsAxis is the length of a hash.
var bitsAxis = axis{"bits", "bits of the hash", func(v string) (float64, bool) {
	n, err := strconv.ParseFloat(v, 64)
	return n, err == nil && n > 0
}, false}
