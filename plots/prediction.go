package plots

import (
	"fmt"
	"image/color"
	"math"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/vpclab/vpclab/metrics"
)

// foretold are the metrics by which a process guest is judged as a model of a
// QEMU guest.
var foretold = []struct {
	metric, name string
	k            float64
}{
	{"migration.payload", "data (MB)", 1e-6},
	{"migration.total", "total time (s)", 1},
	{"migration.pause", "pause (ms)", 1e3},
}

// predictionMark is a point of the figure: a migration of both kinds of guests.
type predictionMark struct {
	look look
	x, y metrics.Summary
}

// makePrediction draws, for each metric, what a QEMU guest did over what the
// process guest did at the same point.
func makePrediction(d *data) (*page, string, error) {
	var g panelRows
	g.each = 1.9 * vg.Inch
	var row []panel
	var legend [][]series
	var used []metrics.PointSummary
	var says []string
	for _, f := range foretold {
		rows := slices.DeleteFunc(slices.Clone(d.of("", f.metric)), func(r metrics.PointSummary) bool { return !alone(r) })
		points, corrections := metrics.Predict(rows, "guest", "process", "qemu", []string{f.metric})
		if len(points) == 0 {
			continue
		}
		var marks []predictionMark
		for _, p := range points {
			a := algorithmOf(p.Labels["algorithm"])
			m := predictionMark{a.look, scaled(p.Model, f.k), scaled(p.Real, f.k)}
			marks = append(marks, m)
			used = append(used, metrics.PointSummary{Summary: p.Model}, metrics.PointSummary{Summary: p.Real})
			legend = append(legend, []series{{name: a.name, look: a.look, pts: []seriesPoint{{}}}})
		}
		c := corrections[0]
		heading := fmt.Sprintf("off by %s", percent(c.Raw.Median))
		if !math.IsNaN(c.LeftOut.Median) {
			heading += fmt.Sprintf(", calibrated %s", percent(c.LeftOut.Median))
		}
		row = append(row, panel{heading: heading, xName: "process guest: " + f.name, yName: "QEMU guest", plot: func() *plot.Plot { return predictionPlot(marks) }})
		says = append(says, fmt.Sprintf("%s: %s", strings.TrimPrefix(f.metric, "migration."), c))
	}
	if len(row) == 0 {
		return nil, "", missingf("no migration experiment has trials of both guest=process and guest=qemu at a point")
	}
	g.rows = [][]panel{row}
	whole := fmt.Sprintf("Medians; %s; %s a mark.", spreadText(used), nText(used))
	pg := &page{width: doubleWidth, legend: legendOf(legend), subtitle: []string{whole, "Above each: median of the absolute errors; calibrated: by a factor or an offset found on all other points.", d.kernelText()}}
	pg.bodyHeight, pg.body = g.height(), g.draw
	caption := fmt.Sprintf("What a QEMU guest did over what the process guest with the same work did, each way to move it a mark; on the line the process guest foretells the real one. The QEMU guest also moves its kernel's memory, and a hand-over of its devices is part of its pause. Corrections that fit best: %s. %s %s",
		strings.Join(says, "; "), whole, d.kernelText())
	return pg, caption, nil
}

// percent is a share as text.
func percent(v float64) string { return fmt.Sprintf("%.0f"+bound+"%%", 100*v) }

// predictionPlot has the same logarithmic scale on both axes, and the line on
// which a prediction is right.
func predictionPlot(marks []predictionMark) *plot.Plot {
	p := newPlot(grid{x: true, y: true})
	lo, hi := math.Inf(1), 0.0
	for _, m := range marks {
		for _, s := range []metrics.Summary{m.x, m.y} {
			l, h, _ := spread(s)
			if l > 0 {
				lo = math.Min(lo, l)
			}
			hi = math.Max(hi, h)
		}
	}
	if math.IsInf(lo, 0) {
		lo = hi / 10
	}
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		setLogAxis(a, lo, hi)
	}
	p.Add(predictionMarks(marks))
	return p
}

type predictionMarks []predictionMark

// Plot draws the line, and whiskers and marks over it.
func (ms predictionMarks) Plot(c draw.Canvas, p *plot.Plot) {
	tx, ty := p.Transforms(&c)
	from, to := math.Max(p.X.Min, p.Y.Min), math.Min(p.X.Max, p.Y.Max)
	c.StrokeLine2(draw.LineStyle{Color: grey, Width: thinLine, Dashes: dashed}, tx(from), ty(from), tx(to), ty(to))
	whisker := func(col color.Color) draw.LineStyle { return draw.LineStyle{Color: col, Width: thinLine + 0.2} }
	for _, m := range ms {
		at := vg.Point{X: tx(m.x.Median), Y: ty(m.y.Median)}
		lo, hi, caps := spread(m.y)
		drawWhisker(c, whisker(m.look.color), at.X, ty(math.Max(lo, p.Y.Min)), ty(hi), caps)
		lo, hi, caps = spread(m.x)
		drawLevelWhisker(c, whisker(m.look.color), at.Y, tx(math.Max(lo, p.X.Min)), tx(hi), caps)
	}
	for _, m := range ms {
		drawMarker(c, m.look, vg.Point{X: tx(m.x.Median), Y: ty(m.y.Median)})
	}
}
