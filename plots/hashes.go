package plots

import (
	"fmt"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/vpclab/vpclab/metrics"
)

// hashLines are the lines of the figure of false matches. Many of their points
// coincide: those drawn first are larger.
var hashLines = []struct {
	metric, mode, name string
	look               look
	radius             vg.Length
}{
	{"encoder.false", "verified", "false matches, verified", look{color: blue, marker: openCircle, dashes: dashed}, 4.6},
	{"encoder.false", "unverified", "false matches, not verified", look{color: vermillion, marker: openSquare, dashes: dotted}, 2.9},
	{"encoder.corrupt", "unverified", "wrong blocks, not verified", look{color: black, marker: crossMark, dashes: []vg.Length{2, 2}}, 2.4},
	{"encoder.corrupt", "keyed", "wrong blocks, keyed hash", look{color: purple, marker: plusMark, dashes: []vg.Length{4, 1.5, 1.2, 1.5}}, 3.2},
	{"encoder.corrupt", "verified", "wrong blocks, verified", look{color: green, marker: filledDiamond}, 2.2},
}

// hashLine is one of them.
type hashLine struct {
	series
	radius vg.Length
}

// makeFalseMatches draws how often blocks with the same hash differ, and what
// that does to a memory where nobody compares them.
func makeFalseMatches(d *data) (*page, string, error) {
	names := []string{"encoder.false", "encoder.corrupt", "encoder.wanted"}
	s := d.chooseSweep([]string{"bits", "mode"}, names, func(r metrics.PointSummary) bool { return r.Labels["bits"] != "" })
	xs := bitsAxis.values(s.of("encoder.false"))
	if len(xs) < 2 {
		return nil, "", missingf("no samples of encoder.false at two values of the label bits or more")
	}
	var lines []hashLine
	pg := &page{width: columnWidth}
	for _, l := range hashLines {
		if one := bitsAxis.line(l.name, l.look, s.of(l.metric, "mode", l.mode), 1); len(one.pts) > 0 {
			lines = append(lines, hashLine{one, l.radius})
			pg.legend = append(pg.legend, entry{l.name, one.thumb})
		}
	}
	wanted := bitsAxis.line("", look{}, slices.DeleteFunc(s.of("encoder.wanted"), func(r metrics.PointSummary) bool {
		return r.Labels["mode"] != "" && r.Labels["mode"] != "unverified"
	}), 1)
	top := 10.0
	for _, l := range append(lines, hashLine{series: wanted}) {
		for _, pt := range l.pts {
			_, hi, _ := spread(pt.sum)
			top = math.Max(top, hi)
		}
	}
	if len(wanted.pts) > 1 {
		pg.legend = append(pg.legend, entry{"by chance: at most lookups × entries / 2^bits", levelThumb})
	}
	pn := panel{xName: bitsAxis.name, yName: "of the memory's blocks", plot: func() *plot.Plot {
		p := newPlot(grid{x: true, y: true})
		pad := (xs[len(xs)-1] - xs[0]) * 0.05
		p.X.Min, p.X.Max = xs[0]-pad, xs[len(xs)-1]+pad
		p.X.Tick.Marker = atValues(&p.X, xs, 0.07)
		setLogAxis(&p.Y, noneAt, top)
		p.Y.Min = noneAt / 1.8
		p.Y.Tick.Marker = noneTicks{}
		p.Add(expectedLine(wanted.pts))
		for _, l := range lines {
			p.Add(l)
		}
		return p
	}}
	g := panelRows{rows: [][]panel{{pn}}, each: 2.3 * vg.Inch}
	pg.bodyHeight, pg.body = g.height(), g.draw
	whole := fmt.Sprintf("Median; %s; %s a point.", spreadText(s.rows), nText(s.rows))
	pg.subtitle = []string{whole, s.heldText(), d.kernelText()}
	caption := fmt.Sprintf("Blocks whose hash is that of a cached block although they differ, in one sending of the memory, against the length of the hash; the dotted line is what chance alone gives. Where values lie above it, the guest has built blocks to collide, and a key that it does not know undoes that. Whoever does not compare the blocks writes most of them wrong into the destination's memory; comparing at the sender, against its own copy of the cache, leaves none whatever the hash. At full size %.0f false matches are expected of 32 bits. %s %s %s",
		fullFalse, whole, s.heldText(), d.kernelText())
	return pg, caption + s.whichText(d, "encoder.false"), nil
}

// fullFalse is what to expect of CloudNet's own sizes and 32 bits: 1.5 GB in
// blocks of 1 KiB, each looked up among the 1.02e5 of a cache of 100 MB.
const fullFalse = 1.5e9 / 1024 * 1.02e5 / (1 << 32)

// noneAt is where zero stands on the logarithmic axis.
const noneAt = 0.2

// noneTicks are decades from one on, and zero.
type noneTicks struct{}

// Ticks are the decades and zero.
func (noneTicks) Ticks(lo, hi float64) []plot.Tick {
	ticks := []plot.Tick{{Value: noneAt, Label: "0"}}
	for _, t := range (decadeTicks{}).Ticks(1, hi) {
		switch e := math.Log10(t.Value); {
		case math.Abs(e-math.Round(e)) > 1e-9:
			t.Label = ""
		case t.Value > 1000:
			t.Label = powerText(t.Value)
		}
		ticks = append(ticks, t)
	}
	return ticks
}

// Plot draws the line; its zeros stand at noneAt.
func (l hashLine) Plot(c draw.Canvas, p *plot.Plot) {
	tx, ty := p.Transforms(&c)
	y := func(v float64) vg.Length { return ty(math.Max(v, noneAt)) }
	var path []vg.Point
	for _, pt := range l.pts {
		path = append(path, vg.Point{X: tx(pt.x), Y: y(pt.sum.Median)})
	}
	c.StrokeLines(draw.LineStyle{Color: l.look.color, Width: thinLine + 0.2, Dashes: l.look.dashes}, path)
	for i, pt := range l.pts {
		lo, hi, caps := spread(pt.sum)
		drawWhisker(c, draw.LineStyle{Color: l.look.color, Width: thinLine + 0.2}, path[i].X, y(lo), y(hi), caps && hi > lo)
	}
	for _, at := range path {
		drawMarkerOf(c, l.look, at, l.radius)
	}
}

// expectedLine is what chance gives, down to where it is far less than one.
type expectedLine []seriesPoint

// Plot draws it, cut where it leaves the axis.
func (e expectedLine) Plot(c draw.Canvas, p *plot.Plot) {
	tx, ty := p.Transforms(&c)
	for i := 1; i < len(e); i++ {
		a, b := e[i-1], e[i]
		ya, yb := a.sum.Median, b.sum.Median
		if ya <= p.Y.Min || yb <= 0 {
			break
		}
		x := b.x
		if yb < p.Y.Min {
			x = a.x + (b.x-a.x)*math.Log(ya/p.Y.Min)/math.Log(ya/yb)
			yb = p.Y.Min
		}
		c.StrokeLine2(levelLine, tx(a.x), ty(ya), tx(x), ty(yb))
	}
}
