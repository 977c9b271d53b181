package plots

import (
	"math"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// page is a figure before it becomes a file: a header, a legend above the
// data (so that it never covers any), and a body.
type page struct {
	width, bodyHeight vg.Length
	title             string
	subtitle          []string // sentences; wrapped to the width
	legend            []entry
	footer            []string // below the body; wrapped
	body              func(draw.Canvas)
}

// entry is a line of the legend.
type entry struct {
	name  string
	thumb func(c draw.Canvas) // draws into a small box
}

const thumbWidth = vg.Length(18)

// height is that of the whole figure; it follows from the text.
func (p *page) height() vg.Length {
	return p.headHeight() + p.bodyHeight + p.footHeight() + 2*margin
}

func (p *page) inner() vg.Length { return p.width - 2*margin }

func (p *page) headHeight() vg.Length {
	h := vg.Length(len(p.titleLines()))*(titleSize+leading) + vg.Length(len(p.subLines()))*(textSize+leading)
	return h + vg.Length(len(p.legendRows()))*(textSize+2*leading) + 2*leading
}

func (p *page) footHeight() vg.Length {
	n := len(p.footLines())
	if n == 0 {
		return 0
	}
	return vg.Length(n)*(textSize+leading) + leading
}

func (p *page) titleLines() []string {
	return wrap(boldStyle(titleSize, ink), p.inner(), []string{p.title})
}
func (p *page) subLines() []string {
	return wrap(textStyle(textSize, subtleInk), p.inner(), p.subtitle)
}
func (p *page) footLines() []string {
	return wrap(textStyle(textSize, ink), p.inner(), p.footer)
}

// wrap breaks sentences into lines of at most the width. A sentence that does
// not fit as a whole behind the one before begins a line.
func wrap(sty text.Style, width vg.Length, sentences []string) []string {
	var lines []string
	line := ""
	flush := func() {
		if line != "" {
			lines = append(lines, strings.ReplaceAll(line, bound, " "))
		}
		line = ""
	}
	for _, s := range sentences {
		if line != "" && sty.Width(line+" "+s) > width {
			flush()
		}
		for word := range strings.SplitSeq(s, " ") {
			if line != "" && sty.Width(line+" "+word) > width {
				flush()
			}
			line = strings.TrimSpace(line + " " + word)
		}
	}
	flush()
	return lines
}

// bound is a space that no line breaks at.
const bound = "\u00a0"

// bind keeps words on one line.
func bind(s string) string { return strings.ReplaceAll(s, " ", bound) }

// legendRows flows the entries into rows of the page's width.
func (p *page) legendRows() [][]entry {
	var rows [][]entry
	used := vg.Length(0)
	for _, e := range p.legend {
		w := entryWidth(e)
		if len(rows) == 0 || used+w > p.inner() {
			rows = append(rows, nil)
			used = 0
		}
		rows[len(rows)-1] = append(rows[len(rows)-1], e)
		used += w
	}
	return rows
}

func entryWidth(e entry) vg.Length {
	return thumbWidth + 3 + textStyle(textSize, ink).Width(e.name) + 10
}

// draw paints the whole figure on a canvas of its size.
func (p *page) draw(c draw.Canvas) {
	c.FillPolygon(white, corners(c.Rectangle))
	left, y := c.Min.X+margin, c.Max.Y-margin
	for _, line := range p.titleLines() {
		y -= titleSize + leading
		c.FillText(boldStyle(titleSize, ink), vg.Point{X: left, Y: y}, line)
	}
	for _, line := range p.subLines() {
		y -= textSize + leading
		c.FillText(textStyle(textSize, subtleInk), vg.Point{X: left, Y: y}, line)
	}
	y -= leading
	for _, row := range p.legendRows() {
		y -= textSize + 2*leading
		p.drawLegendRow(c, row, y)
	}
	foot := c.Min.Y + margin + p.footHeight()
	p.body(draw.Crop(c, margin, -margin, foot-c.Min.Y, -(p.headHeight() + margin)))
	y = foot
	for _, line := range p.footLines() {
		y -= textSize + leading
		c.FillText(textStyle(textSize, ink), vg.Point{X: left, Y: y}, line)
	}
}

func (p *page) drawLegendRow(c draw.Canvas, row []entry, y vg.Length) {
	x := c.Min.X + margin
	for _, e := range row {
		box := vg.Rectangle{Min: vg.Point{X: x, Y: y + 0.5}, Max: vg.Point{X: x + thumbWidth, Y: y + textSize}}
		e.thumb(draw.Canvas{Canvas: c.Canvas, Rectangle: box})
		c.FillText(textStyle(textSize, ink), vg.Point{X: x + thumbWidth + 3, Y: y}, e.name)
		x += entryWidth(e)
	}
}

// newPlot is gonum's plot in the house style: thin axes, a light grid behind
// the data (across rows, level lines would only strike through text: grid{x}),
// no title (the page has it).
func newPlot(g grid) *plot.Plot {
	p := plot.New()
	p.BackgroundColor = nil
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		align := a.Tick.Label
		a.LineStyle = draw.LineStyle{Color: ink, Width: thinLine}
		a.Padding = 0
		a.Tick.LineStyle = draw.LineStyle{Color: ink, Width: hairline}
		a.Tick.Length = 3
		a.Tick.Label = textStyle(textSize, ink)
		a.Tick.Label.XAlign, a.Tick.Label.YAlign = align.XAlign, align.YAlign
	}
	p.Y.Tick.Label.YAlign = -0.6 // gonum lifts these by the descent
	p.Add(g)
	return p
}

// paint draws a plot and the names of its axes, and returns the data area.
// gonum would draw the names too, but it places them by the middle of the
// data, and on a logarithmic axis that is not the middle of the axis.
func paint(c draw.Canvas, p *plot.Plot, xName, yName string) draw.Canvas {
	left, bottom := vg.Length(0), vg.Length(0)
	if yName != "" {
		left = labelSize + 6
	}
	if xName != "" {
		bottom = labelSize + 2
	}
	inner := draw.Crop(c, left, 0, bottom, 0)
	p.Draw(inner)
	area := p.DataCanvas(inner)
	sty := textStyle(labelSize, ink)
	sty.XAlign = draw.XCenter
	c.FillText(sty, vg.Point{X: area.Center().X, Y: c.Min.Y + 1}, xName)
	sty.Rotation, sty.YAlign = math.Pi/2, draw.YTop
	c.FillText(sty, vg.Point{X: c.Min.X, Y: area.Center().Y}, yName)
	return area
}

// grid draws light lines at the labelled ticks of the axes chosen.
type grid struct{ x, y bool }

func (g grid) Plot(c draw.Canvas, p *plot.Plot) {
	tx, ty := p.Transforms(&c)
	line := draw.LineStyle{Color: gridGrey, Width: hairline}
	for _, t := range p.X.Tick.Marker.Ticks(p.X.Min, p.X.Max) {
		if x := tx(t.Value); g.x && t.Label != "" && x > c.Min.X+0.1 && x <= c.Max.X+0.1 {
			c.StrokeLine2(line, x, c.Min.Y, x, c.Max.Y)
		}
	}
	for _, t := range p.Y.Tick.Marker.Ticks(p.Y.Min, p.Y.Max) {
		if y := ty(t.Value); g.y && t.Label != "" && y > c.Min.Y+0.1 && y <= c.Max.Y+0.1 {
			c.StrokeLine2(line, c.Min.X, y, c.Max.X, y)
		}
	}
}

// linearTicks are four to seven round steps, all labels with as many decimals
// as the step needs.
type linearTicks struct{}

func (linearTicks) Ticks(lo, hi float64) []plot.Tick {
	return stepTicks(lo, hi, niceStep((hi-lo)/6))
}

// stepTicks are all multiples of a step.
func stepTicks(lo, hi, step float64) []plot.Tick {
	decimals := max(0, -int(math.Floor(math.Log10(step)+1e-9)))
	var ticks []plot.Tick
	for i := math.Ceil(lo/step - 1e-9); i*step <= hi*(1+1e-9); i++ {
		v := i*step + 0 // never -0
		ticks = append(ticks, plot.Tick{Value: v, Label: strconv.FormatFloat(v, 'f', decimals, 64)})
	}
	return ticks
}

// niceStep is the least of 1, 2, 5 times a power of ten that is not below v.
func niceStep(v float64) float64 {
	p := math.Pow(10, math.Floor(math.Log10(v)))
	for _, k := range []float64{1, 2, 5, 10} {
		if k*p >= v*(1-1e-9) {
			return k * p
		}
	}
	return 10 * p
}

// logTicks labels decades, and 2 and 5 between them where there are few.
type logTicks struct{}

func (logTicks) Ticks(lo, hi float64) []plot.Tick {
	decades := math.Log10(hi / lo)
	var ticks []plot.Tick
	for e := math.Floor(math.Log10(lo)); e <= math.Log10(hi)+1e-9; e++ {
		for k := 1.0; k < 10; k++ {
			t := plot.Tick{Value: k * math.Pow(10, e)}
			if t.Value < lo*(1-1e-9) || t.Value > hi*(1+1e-9) {
				continue
			}
			if k == 1 || decades < 2.2 && (k == 2 || k == 5) {
				t.Label = groupDigits(t.Value)
			}
			ticks = append(ticks, t)
		}
	}
	return ticks
}

// groupDigits writes large whole numbers with thin gaps: 12 000.
func groupDigits(v float64) string {
	s := strconv.FormatFloat(v, 'f', -1, 64)
	if v < 10000 || strings.Contains(s, ".") {
		return s
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + " " + s[i:]
	}
	return s
}

// atValues puts ticks at the measured values themselves; labels nearer than
// gap (as a share of the axis, by the axis's scale) to the one before are
// left out, the last one never.
func atValues(a *plot.Axis, values []float64, gap float64) plot.ConstantTicks {
	ticks := make(plot.ConstantTicks, 0, len(values))
	last, end := math.Inf(-1), a.Norm(values[len(values)-1])
	for i, v := range values {
		t, at := plot.Tick{Value: v}, a.Norm(v)
		if i == len(values)-1 || at-last >= gap && end-at >= gap {
			t.Label, last = groupDigits(v), at
		}
		ticks = append(ticks, t)
	}
	return ticks
}

func corners(r vg.Rectangle) []vg.Point {
	return []vg.Point{r.Min, {X: r.Max.X, Y: r.Min.Y}, r.Max, {X: r.Min.X, Y: r.Max.Y}}
}
