package plots

import (
	"fmt"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"

	"github.com/vpclab/vpclab/metrics"
)

// cacheAxis is the size of a cache as a share of the memory.
var cacheAxis = axis{"cache", "cache (% of memory)", inUnits(parseShare, 0.01), true}

// makeRedundancy is figures 5, 13 and 19 of CloudNet: how much of a memory is
// repeated, by the size of blocks that are compared and of the cache.
func makeRedundancy(d *data) (*page, string, error) {
	const metric = "redundancy.share"
	byBlock := d.chooseSweep([]string{"workload", "block", "chunking"}, []string{metric}, nil)
	byCache := d.chooseSweep([]string{"workload", "cache"}, []string{metric}, func(r metrics.PointSummary) bool { return r.Labels["chunking"] != "cdc" })
	if len(byBlock.rows) == 0 {
		return nil, "", missingf("no samples of %s: no memory has been looked through for redundancy", metric)
	}
	var row []panel
	var legend [][]series
	used := byBlock.rows
	blocks, caches := blockAxis.values(byBlock.rows), cacheAxis.values(byCache.rows)
	if len(blocks) > 1 {
		var lines []series
		var papers []paperPoints
		for _, w := range workloadsOf(byBlock.rows) {
			for _, c := range []struct {
				id, name string
				look     look
			}{{"fixed", "fixed blocks", w.look}, {"cdc", "content-defined", look{color: w.look.color, marker: hollowOrCross(w.look.marker), dashes: dotted}}} {
				rows := workloadRows(byBlock, metric, w, "chunking", c.id)
				if c.id == "fixed" {
					rows = append(rows, workloadRows(byBlock, metric, w, "chunking", "")...)
				}
				if l := blockAxis.line(w.name+", "+c.name, c.look, rows, 100); len(l.pts) > 0 {
					lines = append(lines, l)
				}
			}
			papers = append(papers, blockAxis.paperPoints(w.look, Papers(Fig5, metric, "workload", w.id), 1, 100))
		}
		legend = append(legend, lines)
		row = append(row, panel{xName: "size of a block (bytes)", yName: "found again (%)", plot: func() *plot.Plot { return linesPlot(blockAxis, blocks, lines, papers, false) }})
	}
	if len(caches) > 1 {
		var lines []series
		var papers []paperPoints
		for _, w := range workloadsOf(byCache.rows) {
			lines = append(lines, cacheAxis.line(w.name+", fixed blocks", w.look, workloadRows(byCache, metric, w), 100))
			papers = append(papers, cacheAxis.paperPoints(w.look, Papers(Fig13, metric, "workload", w.id), 1, 100))
		}
		legend = append(legend, lines)
		used = append(used, byCache.rows...)
		row = append(row, panel{xName: cacheAxis.name, yName: "found again (%)", plot: func() *plot.Plot { return linesPlot(cacheAxis, caches, lines, papers, false) }})
	}
	if len(row) == 0 {
		return nil, "", missingf("the samples of %s have one size of block and of cache only: a line needs two values or more", metric)
	}
	pg := &page{width: doubleWidth, legend: append(legendOf(legend), paperLegend())}
	if len(row) == 1 {
		pg.width = columnWidth
	}
	g := panelRows{rows: [][]panel{row}, each: 1.9 * vg.Inch}
	pg.bodyHeight, pg.body = g.height(), g.draw
	whole := fmt.Sprintf("Median; %s; %s a point.", spreadText(used), nText(used))
	held := byBlock.heldText()
	if other := byCache.heldText(); len(row) == 2 && other != held {
		held = "Left: " + lower(held) + " Right: " + lower(other)
	}
	pg.subtitle = []string{whole, held, d.zeroText(), d.kernelText()}
	caption := fmt.Sprintf("How much of a VM's memory can be sent as a reference to what was sent before. Smaller blocks find more, with less gain each time; a tenth of the memory is cache enough. Where a workload leaves most memory zero (SPECjbb), that is nearly all there is to find. Where nothing else is said, blocks have 1024 bytes and the cache a tenth of the memory. %s %s %s %s %s",
		whole, d.zeroText(), paperText(1, "Hollow marks", Fig5, Fig13), held, d.kernelText())
	return pg, caption + byBlock.whichText(d, metric), nil
}

// hollowOrCross is a marker that is neither the one given nor its hollow form,
// which is the paper's.
func hollowOrCross(m marker) marker {
	switch m {
	case filledCircle:
		return plusMark
	case filledSquare:
		return crossMark
	}
	return filledDown
}

// lower begins with a small letter, unless a name begins with more than one
// capital.
func lower(s string) string {
	if len(s) < 2 || s[1] >= 'A' && s[1] <= 'Z' || s[1] == '-' {
		return s
	}
	if s[0] >= 'A' && s[0] <= 'Z' {
		return string(s[0]+'a'-'A') + s[1:]
	}
	return s
}

// zeroText says how much of each memory is zero, and repeated otherwise.
func (d *data) zeroText() string {
	s := d.chooseSweep([]string{"workload"}, []string{"redundancy.zero", "redundancy.duplicate"}, nil)
	text := ""
	for _, w := range workloadsOf(s.of("redundancy.zero")) {
		zero, other := workloadRows(s, "redundancy.zero", w), workloadRows(s, "redundancy.duplicate", w)
		if len(zero) != 1 || len(other) != 1 {
			continue
		}
		if text != "" {
			text += ", "
		}
		text += fmt.Sprintf("%s %.0f and %.0f", w.name, 100*zero[0].Median, 100*other[0].Median)
		pz, ok := Paper(Fig13, "redundancy.zero", "workload", w.id)
		pd, also := Paper(Fig13, "redundancy.duplicate", "workload", w.id)
		if ok && also {
			text += fmt.Sprintf(" (paper: %.0f and %.0f)", 100*pz.Value, 100*pd.Value)
		}
	}
	if text == "" {
		return ""
	}
	return "% zero and % repeated otherwise: " + text + "."
}
