package plots

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/vpclab/vpclab/metrics"
)

// recovery is a way of the network to get over a failure, as figures show it.
type recovery struct {
	id, name string
	look     look
}

// recoveries are those that are known, slowest first.
var recoveries = []recovery{
	{"none", "nobody acts, BGP holds", look{color: grey, marker: crossMark, dashes: dotted}},
	{"carrier+reroute", "carrier, controller", look{color: orange, marker: openTriangle, dashes: dashed}},
	{"bfd+reroute", "BFD, controller", look{color: vermillion, marker: filledTriangle, dashes: dashed}},
	{"carrier+backup-lsp", "carrier, backup LSP", look{color: skyBlue, marker: openCircle}},
	{"bfd+backup-lsp", "BFD, backup LSP", look{color: blue, marker: filledCircle}},
	{"bfd+backup-lsp+reroute", "BFD, backup LSP, controller", look{color: green, marker: filledSquare}},
	{"carrier+backup-lsp+reroute", "carrier, backup LSP, controller", look{color: purple, marker: openSquare}},
	{"bfd-multihop", "multihop BFD, route by route", look{color: vermillion, marker: openDiamond, dashes: dashed}},
	{"bfd-multihop+pic", "multihop BFD, PIC", look{color: blue, marker: filledDiamond}},
}

// recoveryOf finds a way by the name that samples have.
func recoveryOf(id string) recovery {
	if i := slices.IndexFunc(recoveries, func(r recovery) bool { return r.id == id }); i >= 0 {
		return recoveries[i]
	}
	spare := []look{
		{color: black, marker: plusMark, dashes: dotted}, {color: yellow, marker: openDown, dashes: dashed},
		{color: grey, marker: filledDown}, {color: purple, marker: filledDown, dashes: dotted},
	}
	return recovery{id, strings.ReplaceAll(strings.ReplaceAll(id, "bfd", "BFD"), "+", ", "), spare[len(id)%len(spare)]}
}

// recoveriesOf are the ways among rows.
func recoveriesOf(rows []metrics.PointSummary) (out []recovery) {
	for _, id := range ordered(rows, "recovery", func(yield func(string)) {
		for _, r := range recoveries {
			yield(r.id)
		}
	}) {
		out = append(out, recoveryOf(id))
	}
	return out
}

// faultNames are faults as figures call them, by the names of samples.
var faultNames = map[string]string{
	"link-down": "a link is cut", "link-silent": "a link swallows packets", "link-one-way": "a link swallows packets one way",
	"node-crash": "a router dies", "degrade": "a link gets bad", "flap": "a link flaps",
	"host-crash": "the host dies", "site-down": "the cloud is lost", "partition": "the cloud is cut off", "kill": "a process is killed",
}

// faultText names a fault; one with a number is another of its kind.
func faultText(id string) string {
	kind, n := id, ""
	if i := strings.LastIndex(id, "-"); i > 0 {
		if _, err := strconv.Atoi(id[i+1:]); err == nil {
			kind, n = id[:i], " ("+id[i+1:]+")"
		}
	}
	if name := faultNames[kind]; name != "" {
		return name + n
	}
	return id
}

// splitParts are what an outage is made of, in order of time.
var splitParts = []struct {
	metric, name string
	look         look
}{
	{"reconvergence.detect", "until it is found out", look{color: orange, hatch: risingBars}},
	{"reconvergence.outage", "until packets flow", look{color: blue}},
}

// makeRecovery draws the outage of each way to recover from each fault, split
// into finding out and acting.
func makeRecovery(d *data) (*page, string, error) {
	const metric = "reconvergence.outage"
	s := d.chooseSweep([]string{"recovery", "fault"}, []string{metric, "reconvergence.detect"}, nil)
	if len(s.rows) == 0 {
		return nil, "", missingf("no samples of %s: no reconvergence experiment has finished a trial", metric)
	}
	var groups []breakdownGroup
	var used []metrics.PointSummary
	for _, fault := range ordered(s.rows, "fault", func(func(string)) {}) {
		g := breakdownGroup{label: capital(faultText(fault))}
		for _, r := range recoveriesOf(s.of(metric, "fault", fault)) {
			bar := breakdownBar{label: r.name}
			for _, part := range splitParts {
				for _, row := range s.of(part.metric, "fault", fault, "recovery", r.id) {
					bar.ends, bar.looks = append(bar.ends, row), append(bar.looks, part.look)
				}
			}
			if len(bar.ends) > 0 {
				g.bars, used = append(g.bars, bar), append(used, bar.ends...)
			}
		}
		groups = append(groups, g)
	}
	layout := logStackLayout{stackLayout{groups: groups, scale: 1000}}
	pg := &page{width: doubleWidth, bodyHeight: layout.height()}
	for _, part := range splitParts {
		pg.legend = append(pg.legend, entry{part.name, boxThumb(part.look)})
	}
	pg.body = func(c draw.Canvas) { layout.draw(c, "time since the fault (ms)") }
	whole := fmt.Sprintf("Median; %s; %s a bar.", spreadText(used), nText(used))
	pg.subtitle = []string{whole, s.heldText(), d.kernelText()}
	caption := fmt.Sprintf("How long packets are lost after a fault, by what the network has to get over it, split as RFC 6894 does: until somebody has found out, and from then until packets come through again, both ways; measured by probes every millisecond. The axis is logarithmic: a way that nothing is found out by lasts as long as the fault. %s %s %s%s",
		whole, s.heldText(), d.kernelText(), s.whichText(d, metric))
	return pg, caption, nil
}

// logStackLayout are stacked bars on a logarithmic axis: outages spread over
// three decades.
type logStackLayout struct{ stackLayout }

func (l logStackLayout) draw(c draw.Canvas, axis string) {
	p := newPlot(grid{x: true})
	lo, hi := math.Inf(1), 0.0
	for _, g := range l.groups {
		for _, b := range g.bars {
			for _, r := range b.ends {
				from, to, _ := spread(r.Summary)
				if from > 0 {
					lo = math.Min(lo, from*l.scale)
				}
				lo, hi = math.Min(lo, math.Max(r.Median*l.scale, 1e-3)), math.Max(hi, to*l.scale)
			}
		}
	}
	setLogAxis(&p.X, lo/1.5, hi*2.5)
	y := groupGap
	var ticks plot.ConstantTicks
	bars := logBars{scale: l.scale, floor: p.X.Min}
	for _, g := range l.groups {
		bars.heads = append(bars.heads, placedText{-float64(y + textSize), g.label})
		y += lineHeight()
		for _, b := range g.bars {
			mid := -float64(y + barHeight/2)
			ticks = append(ticks, plot.Tick{Value: mid, Label: b.label})
			bars.rows = append(bars.rows, placedBar{mid, b})
			y += barHeight + barGap
		}
		y += groupGap
	}
	p.Y.Min, p.Y.Max, p.Y.Tick.Marker, p.Y.Tick.Length = -float64(y), 0, ticks, 0
	p.Add(bars)
	paint(c, p, axis, "")
}

// logBars draws them.
type logBars struct {
	rows  []placedBar
	heads []placedText
	scale float64
	floor float64
}

func (s logBars) Plot(c draw.Canvas, p *plot.Plot) {
	tx, ty := p.Transforms(&c)
	for _, h := range s.heads {
		c.FillText(boldStyle(textSize, ink), vg.Point{X: c.Min.X + 2, Y: ty(h.y)}, h.text)
	}
	for _, row := range s.rows {
		from, y := s.floor, ty(row.y)
		for i, r := range row.bar.ends {
			to := math.Max(from, r.Median*s.scale)
			drawBox(c, vg.Rectangle{Min: vg.Point{X: tx(from), Y: y - barHeight/2}, Max: vg.Point{X: tx(to), Y: y + barHeight/2}}, row.bar.looks[i])
			from = to
		}
		last := row.bar.ends[len(row.bar.ends)-1]
		lo, hi, _ := spread(last.Summary)
		at := tx(from)
		if hi > lo && lo > 0 {
			c.StrokeLine2(draw.LineStyle{Color: ink, Width: thinLine}, tx(math.Max(lo*s.scale, s.floor)), y, tx(hi*s.scale), y)
			at = tx(math.Max(hi*s.scale, from))
		}
		c.FillText(textStyle(textSize, ink), vg.Point{X: at + 3, Y: y - textSize/2 + 1}, plain(fmt.Sprintf("%.3g", last.Median*s.scale)))
	}
}

// detectionAxis is the time after which BFD misses a neighbour: interval times
// multiplier, as RFC 5880 section 6.8.4 has it.
var detectionAxis = axis{"interval", "detection time: interval × multiplier (ms)", inUnits(parseTime, 1e-3), true}

// makeDetection draws outages against BFD's detection time.
func makeDetection(d *data) (*page, string, error) {
	const metric = "reconvergence.outage"
	s := d.chooseSweep([]string{"interval", "recovery"}, []string{metric, "reconvergence.detect"}, func(r metrics.PointSummary) bool {
		return strings.Contains(r.Labels["recovery"], "bfd")
	})
	times, err := strconv.ParseFloat(s.held["multiplier"], 64)
	if len(s.rows) == 0 || err != nil {
		return nil, "", missingf("no samples of %s of a recovery with bfd", metric)
	}
	a := detectionAxis
	a.parse = func(v string) (float64, bool) {
		x, ok := detectionAxis.parse(v)
		return x * times, ok
	}
	xs := a.values(s.rows)
	if len(xs) < 2 {
		return nil, "", missingf("interval has %s: a line needs two values or more (vary: {interval: […]})", oneOrNo(len(xs)))
	}
	var legend [][]series
	panelOf := func(metric, name string) panel {
		var lines []series
		for _, r := range recoveriesOf(s.rows) {
			if l := a.line(r.name, r.look, s.of(metric, "recovery", r.id), 1e3); len(l.pts) > 0 {
				lines = append(lines, l)
			}
		}
		legend = append(legend, lines)
		return panel{xName: a.name, yName: name, plot: func() *plot.Plot {
			p := linesPlot(a, xs, lines, nil, true)
			p.Add(levels{xs: xs, fifty: metric == "reconvergence.outage"})
			return p
		}}
	}
	g := panelRows{each: 1.9 * vg.Inch, rows: [][]panel{{panelOf("reconvergence.detect", "found out after (ms)"), panelOf(metric, "outage (ms)")}}}
	pg := &page{width: doubleWidth, legend: append(legendOf(legend), entry{"detection time", lineThumb(detectionLine)}, entry{"50 ms", lineThumb(fiftyLine)})}
	pg.bodyHeight, pg.body = g.height(), g.draw
	whole := fmt.Sprintf("Median; %s; %s a point.", spreadText(s.rows), nText(s.rows))
	pg.subtitle = []string{whole, s.heldText(), d.kernelText()}
	caption := fmt.Sprintf("When a silent failure of a link is found out, and how long packets are lost, against the detection time of BFD: its interval times the packets that may be missing (%g). The broken line is the detection time itself (RFC 5880, section 6.8.4): as intervals are jittered by up to a quarter and the last packet came some time before the fault, what is measured lies between two thirds of it and it. What is above it in the right panel is what acting took. Fifty milliseconds are what a SONET ring takes. %s %s %s%s",
		times, whole, s.heldText(), d.kernelText(), s.whichText(d, metric))
	return pg, caption, nil
}

var (
	detectionLine = draw.LineStyle{Color: ink, Width: thinLine, Dashes: dashed}
	fiftyLine     = draw.LineStyle{Color: grey, Width: thinLine, Dashes: dotted}
)

// levels are the lines that outages are held against.
type levels struct {
	xs    []float64
	fifty bool
}

// Plot draws them.
func (l levels) Plot(c draw.Canvas, p *plot.Plot) {
	tx, ty := p.Transforms(&c)
	from, to := l.xs[0], l.xs[len(l.xs)-1]
	clip := func(v float64) float64 { return math.Max(p.Y.Min, math.Min(p.Y.Max, v)) }
	c.StrokeLine2(detectionLine, tx(from), ty(clip(from)), tx(to), ty(clip(to)))
	if l.fifty && 50 > p.Y.Min && 50 < p.Y.Max {
		c.StrokeLine2(fiftyLine, c.Min.X, ty(50), c.Max.X, ty(50))
	}
}

// prefixAxis is how many prefixes go by the PE that fails.
var prefixAxis = axis{"prefixes", "prefixes behind the PE that fails", func(v string) (float64, bool) {
	n, err := strconv.ParseFloat(v, 64)
	return n, err == nil
}, true}

// makePrefixes draws outages against prefixes, with shared next hops and
// without.
func makePrefixes(d *data) (*page, string, error) {
	const metric, each = "reconvergence.outage", "reconvergence.prefix_outage"
	s := d.chooseSweep([]string{"prefixes", "recovery"}, []string{metric, each}, nil)
	xs := prefixAxis.values(s.rows)
	if len(xs) < 2 {
		return nil, "", missingf("prefixes has %s: a line needs two values or more (vary: {prefixes: […]})", oneOrNo(len(xs)))
	}
	var lines []series
	var used []metrics.PointSummary
	for _, r := range recoveriesOf(s.rows) {
		rows := slices.DeleteFunc(s.of(each, "recovery", r.id), func(p metrics.PointSummary) bool { return p.Labels["quantile"] != "max" })
		if len(rows) == 0 {
			rows = s.of(metric, "recovery", r.id)
		}
		if l := prefixAxis.line(r.name, r.look, rows, 1e3); len(l.pts) > 0 {
			lines, used = append(lines, l), append(used, rows...)
		}
	}
	pg := &page{width: columnWidth, legend: legendOf([][]series{lines})}
	g := panelRows{each: 2.1 * vg.Inch, rows: [][]panel{{{xName: prefixAxis.name, yName: "outage (ms)", plot: func() *plot.Plot {
		return linesPlot(prefixAxis, xs, lines, nil, true)
	}}}}}
	pg.bodyHeight, pg.body = g.height(), g.draw
	whole := fmt.Sprintf("Median; %s; %s a point.", spreadText(used), nText(used))
	pg.subtitle = []string{whole, s.heldText(), d.kernelText()}
	caption := fmt.Sprintf("The outage of the prefix that waits longest, of those that were probed, when the PE dies that a dual-homed site is reached by, against how many prefixes the site has, on logarithmic axes. Where they share one next hop in the kernel, one change moves all of them (prefix independent convergence); else each is programmed by itself, one after the other. %s %s %s%s",
		whole, s.heldText(), d.kernelText(), s.whichText(d, metric))
	return pg, caption, nil
}
