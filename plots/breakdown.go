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

// maxBars is how many rows of bars fit a page; of more points than fit, an
// even choice is shown.
const maxBars = 18

// maxGroups is how many points fit where each has a bar a system.
func maxGroups(rows []metrics.PointSummary) int {
	n := 0
	for _, s := range systems {
		if slices.ContainsFunc(rows, func(r metrics.PointSummary) bool { return r.Labels["system"] == s.id }) {
			n++
		}
	}
	return maxBars / max(n, 2)
}

// breakdownBar is one stacked bar: a system at a point.
type breakdownBar struct {
	label string
	ends  []metrics.PointSummary // when each stage was complete
	looks []look
}

// breakdownGroup is the bars of one point.
type breakdownGroup struct {
	label string
	bars  []breakdownBar
}

// makeBreakdown is CloudNet's figure 9 for every point of the grid: how long
// each stage of setting up a VPC takes.
func makeBreakdown(d *data) (*page, string, error) {
	experiments := d.experiments("setup.first_packet")
	if len(experiments) == 0 {
		return nil, "", missingf("no samples of setup.first_packet: no vpc-setup experiment has finished a trial")
	}
	exp := best(d.repeated(experiments, "setup.first_packet"), func(e string) int { return len(points(d.of(e, "setup.first_packet"))) })
	all := points(d.of(exp, "setup.first_packet"))
	varied, fixed := varying(all)
	shown := thin(all, maxGroups(d.of(exp, "setup.first_packet")))
	var groups []breakdownGroup
	var used []metrics.PointSummary
	for _, p := range shown {
		g := breakdownGroup{label: describe(p, varied)}
		for _, sys := range systems {
			if bar, ok := d.breakdownBar(exp, sys.id, p); ok {
				bar.label = sys.name
				g.bars = append(g.bars, bar)
				used = append(used, bar.ends...)
			}
		}
		if len(g.bars) > 0 {
			groups = append(groups, g)
		}
	}
	if len(groups) == 0 {
		return nil, "", missingf("the samples of setup.* have no label system=vpn, firewall or firewall-sets")
	}
	scale, unit := secondsOrMillis(used)
	pg := &page{
		width: doubleWidth,
		subtitle: []string{
			fmt.Sprintf("Stages end at the median time since the request; %s, at first packet and at the end; %s a bar.", spreadText(used), nText(used)),
			sentence(describe(all[0], fixed)), d.kernelText(),
		},
	}
	for _, st := range setupStages {
		if slices.ContainsFunc(used, func(r metrics.PointSummary) bool { return r.Metric == st.metric }) {
			pg.legend = append(pg.legend, entry{st.name, boxThumb(st.look)})
		}
	}
	layout := stackLayout{groups: oneSystem(groups), scale: scale}
	pg.bodyHeight = layout.height()
	pg.body = func(c draw.Canvas) { layout.draw(c, "time since the request ("+unit+")") }
	caption := fmt.Sprintf("Time to set up a VPC, by stage, as in figure 9 of CloudNet. A stage ends at the median over trials of the time since the request; %s of that time, drawn where the first packet came through and at the end of the bar. Each bar is %s. Stages of different routers overlap: one that was complete before the stage to its left has no width. A whisker with an arrow goes on to the value in brackets. On the right, the same bars as shares of their whole. %s %s",
		spreadText(used), nText(used), sentence(describe(all[0], fixed)), d.kernelText())
	caption += d.whichText(exp, experiments)
	if len(shown) < len(all) {
		note := fmt.Sprintf("%d of %d points shown.", len(shown), len(all))
		pg.subtitle = append(pg.subtitle, note)
		caption += " " + note + " All are in summary.json."
	}
	return pg, caption, nil
}

// breakdownBar collects the stages of a system at a point.
func (d *data) breakdownBar(exp, system string, p map[string]string) (breakdownBar, bool) {
	var bar breakdownBar
	for _, st := range setupStages {
		if r, ok := at(d.of(exp, st.metric, "system", system), p); ok {
			bar.ends = append(bar.ends, r)
			bar.looks = append(bar.looks, st.look)
		}
	}
	return bar, len(bar.ends) > 0
}

// thin keeps at most n of the points: the first, the last and an even choice
// between.
func thin(ps []map[string]string, n int) []map[string]string {
	if len(ps) <= n {
		return ps
	}
	kept := make([]map[string]string, n)
	for i := range kept {
		kept[i] = ps[i*(len(ps)-1)/(n-1)]
	}
	return kept
}

// secondsOrMillis chooses a unit for the times of rows: the factor from
// seconds and the unit's name.
func secondsOrMillis(rows []metrics.PointSummary) (float64, string) {
	top := 0.0
	for _, r := range rows {
		top = math.Max(top, r.Max)
	}
	if top < 0.5 {
		return 1000, "ms"
	}
	return 1, "s"
}

// scaled is a summary in another unit.
func scaled(s metrics.Summary, k float64) metrics.Summary {
	s.Median, s.Lo, s.Hi = s.Median*k, s.Lo*k, s.Hi*k
	s.Min, s.Max, s.Mean = s.Min*k, s.Max*k, s.Mean*k
	return s
}

// sentence begins with a capital and ends with a dot; nothing stays nothing.
func sentence(s string) string {
	if s == "" {
		return ""
	}
	return capital(s) + "."
}

func capital(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// stackLayout places the bars: a line of text for each group that has a
// label, then its bars.
type stackLayout struct {
	groups []breakdownGroup
	scale  float64
}

const (
	barHeight = vg.Length(11)
	barGap    = vg.Length(2.5)
	groupGap  = vg.Length(5)
	axisRoom  = vg.Length(27) // tick labels and the axis's name
)

func (l stackLayout) height() vg.Length {
	h := axisRoom + groupGap
	for _, g := range l.groups {
		h += l.groupHeight(g)
	}
	return h
}

func (l stackLayout) groupHeight(g breakdownGroup) vg.Length {
	h := vg.Length(len(g.bars))*(barHeight+barGap) + groupGap
	if g.label != "" {
		h += lineHeight()
	}
	return h
}

// top is the largest value that is drawn: a bar's end or a whisker's, but of
// whiskers no more than twice the longest bar. One slow trial must not press
// all bars flat; a whisker that is cut says where it would end.
func (l stackLayout) top() float64 {
	bar, whisker := 0.0, 0.0
	for _, g := range l.groups {
		for _, b := range g.bars {
			bar = math.Max(bar, b.whole()*l.scale)
			for _, r := range b.ends {
				_, hi, _ := spread(r.Summary)
				whisker = math.Max(whisker, hi*l.scale)
			}
		}
	}
	return math.Max(bar, math.Min(whisker, 2*bar))
}

// oneSystem moves the names of the points to the bars where every point has
// but one bar.
func oneSystem(groups []breakdownGroup) []breakdownGroup {
	for _, g := range groups {
		if len(g.bars) != 1 || g.label == "" {
			return groups
		}
	}
	out := make([]breakdownGroup, len(groups))
	for i, g := range groups {
		bar := g.bars[0]
		bar.label += ", " + g.label
		out[i] = breakdownGroup{bars: []breakdownBar{bar}}
	}
	return out
}

// cut reports whether a whisker goes beyond top.
func (l stackLayout) cut(top float64) bool {
	for _, g := range l.groups {
		for _, b := range g.bars {
			for _, r := range b.ends {
				if _, hi, _ := spread(r.Summary); hi*l.scale > top {
					return true
				}
			}
		}
	}
	return false
}

// draw paints two panels with the same rows: times, and shares of the whole.
func (l stackLayout) draw(c draw.Canvas, axis string) {
	share := (c.Max.X - c.Min.X) * 0.29
	l.panel(draw.Crop(c, 0, -(share+14), 0, 0), axis, false)
	l.panel(draw.Crop(c, c.Max.X-c.Min.X-share, 0, 0, 0), "share of the whole (%)", true)
}

func (l stackLayout) panel(c draw.Canvas, axis string, share bool) {
	p := newPlot(grid{x: true})
	top := l.top()
	p.X.Min, p.X.Max = 0, top*1.12
	if l.cut(top) {
		p.X.Max = top * 1.25 // room for more text
	}
	if share {
		p.X.Max = 100
	}
	p.X.Tick.Marker = linearTicks{}
	// The y axis is in points from the top of the data area, so that bars
	// are as thick as said and text has its place.
	y := groupGap
	var ticks plot.ConstantTicks
	bars := stackBars{scale: l.scale, share: share, top: top}
	for _, g := range l.groups {
		if g.label != "" {
			if !share {
				bars.heads = append(bars.heads, placedText{-float64(y + textSize), g.label})
			}
			y += lineHeight()
		}
		for _, b := range g.bars {
			mid := -float64(y + barHeight/2)
			if !share { // the rows are named once
				ticks = append(ticks, plot.Tick{Value: mid, Label: b.label})
			}
			bars.rows = append(bars.rows, placedBar{mid, b})
			y += barHeight + barGap
		}
		y += groupGap
	}
	p.Y.Min, p.Y.Max = -float64(y), 0
	p.Y.Tick.Marker = ticks
	p.Y.Tick.Length = 0
	p.Add(bars)
	paint(c, p, axis, "")
}

type placedBar struct {
	y   float64
	bar breakdownBar
}

type placedText struct {
	y    float64
	text string
}

// stackBars draws the bars of a stackLayout.
type stackBars struct {
	rows  []placedBar
	heads []placedText
	scale float64
	top   float64 // whiskers are cut here
	share bool    // draw shares of the whole: no whiskers, no values
}

func (s stackBars) Plot(c draw.Canvas, p *plot.Plot) {
	tx, ty := p.Transforms(&c)
	for _, h := range s.heads {
		at := vg.Point{X: c.Min.X + 2, Y: ty(h.y)}
		w := boldStyle(textSize, ink).Width(h.text)
		// White behind the words: the grid must not run through them.
		c.FillPolygon(white, corners(vg.Rectangle{Min: at.Add(vg.Point{X: -1, Y: -1}), Max: at.Add(vg.Point{X: w + 1, Y: textSize})}))
		c.FillText(boldStyle(textSize, ink), at, h.text)
	}
	for _, row := range s.rows {
		s.drawBar(c, tx, ty(row.y), row.bar)
	}
}

func (s stackBars) drawBar(c draw.Canvas, tx func(float64) vg.Length, y vg.Length, bar breakdownBar) {
	from, reach, scale := 0.0, 0.0, s.scale
	if s.share {
		scale = 100 / bar.whole()
	}
	for i, r := range bar.ends {
		// Stages of different routers overlap in time; one that was complete
		// before the stage above it adds nothing.
		to := math.Max(from, r.Median*scale)
		drawBox(c, vg.Rectangle{
			Min: vg.Point{X: tx(from), Y: y - barHeight/2}, Max: vg.Point{X: tx(to), Y: y + barHeight/2},
		}, bar.looks[i])
		from = to
	}
	if s.share {
		return
	}
	last, note := len(bar.ends)-1, ""
	for i, r := range bar.ends {
		if i != last && r.Metric != "setup.first_packet" {
			continue
		}
		lo, hi, caps := spread(scaled(r.Summary, s.scale))
		cut := hi > s.top
		if cut {
			note = " (to " + digits3(hi) + ")"
			hi, caps = s.top, false
		}
		reach = math.Max(reach, math.Max(hi, from))
		drawLevelWhisker(c, draw.LineStyle{Color: white, Width: 1.8}, y, tx(lo), tx(hi), false)
		line := draw.LineStyle{Color: black, Width: thinLine + 0.3}
		drawLevelWhisker(c, line, y, tx(lo), tx(hi), caps)
		if cut {
			c.StrokeLines(line, []vg.Point{{X: tx(hi) - capHalf, Y: y - capHalf}, {X: tx(hi), Y: y}, {X: tx(hi) - capHalf, Y: y + capHalf}})
		}
	}
	sty := textStyle(textSize, ink)
	sty.YAlign = -0.4
	c.FillText(sty, vg.Point{X: tx(reach) + 4, Y: y}, digits3(from)+note)
}

// digits3 writes three significant digits, for values beside bars.
func digits3(v float64) string {
	if v == 0 {
		return "0"
	}
	decimals := 2 - int(math.Floor(math.Log10(math.Abs(v))))
	return strconv.FormatFloat(v, 'f', min(max(0, decimals), 6), 64)
}

// whole is when the last stage was complete.
func (b breakdownBar) whole() float64 {
	whole := 0.0
	for _, r := range b.ends {
		whole = math.Max(whole, r.Median)
	}
	return whole
}
