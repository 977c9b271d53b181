package plots

import (
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/vpclab/vpclab/metrics"
)

// panel is one of several plots in a figure.
type panel struct {
	heading      string // above it; "": no line is kept for one
	xName, yName string
	plot         func() *plot.Plot
}

// panelRows are panels in rows, those of a column with their axes one below
// the other.
type panelRows struct {
	rows [][]panel
	each vg.Length // the height of a row without its heading and axis name
}

const panelGap = vg.Length(10) // between columns

// rowHeight is that of a whole row.
func (g panelRows) rowHeight(row []panel) vg.Length {
	h := g.each + lineHeight() + 8 // tick labels
	if slices.ContainsFunc(row, func(p panel) bool { return p.heading != "" }) {
		h += lineHeight()
	}
	if slices.ContainsFunc(row, func(p panel) bool { return p.xName != "" }) {
		h += labelSize + 4
	}
	return h
}

func (g panelRows) height() vg.Length {
	h := vg.Length(0)
	for _, row := range g.rows {
		h += g.rowHeight(row)
	}
	return h
}

func (g panelRows) draw(c draw.Canvas) {
	columns := 0
	for _, row := range g.rows {
		columns = max(columns, len(row))
	}
	width := (c.Max.X - c.Min.X - panelGap*vg.Length(columns-1)) / vg.Length(columns)
	left := make([]vg.Length, columns) // what the widest labels of a column take
	plots := make([][]*plot.Plot, len(g.rows))
	for i, row := range g.rows {
		for k, p := range row {
			if p.plot == nil {
				plots[i] = append(plots[i], nil)
				continue
			}
			pl := p.plot()
			plots[i] = append(plots[i], pl)
			cell := draw.Crop(c, 0, width-(c.Max.X-c.Min.X), 0, 0)
			left[k] = max(left[k], pl.DataCanvas(cell).Min.X-cell.Min.X)
		}
	}
	y := c.Max.Y
	for i, row := range g.rows {
		h := g.rowHeight(row)
		headed := slices.ContainsFunc(row, func(p panel) bool { return p.heading != "" })
		for k, p := range row {
			if p.plot == nil {
				continue
			}
			cell := c
			cell.Min.X = c.Min.X + (width+panelGap)*vg.Length(k)
			cell.Max.X, cell.Max.Y, cell.Min.Y = cell.Min.X+width, y-2, y-h
			if headed {
				cell.Max.Y -= lineHeight()
				c.FillText(boldStyle(textSize, ink), vg.Point{X: cell.Min.X, Y: cell.Max.Y + 3}, p.heading)
			}
			pl := plots[i][k]
			cell.Min.X += left[k] - (pl.DataCanvas(cell).Min.X - cell.Min.X)
			paint(cell, pl, p.xName, p.yName)
		}
		y -= h
	}
}

// linesPlot is a plot of lines and of published points over the measured
// values of an axis. The y axis is logarithmic where values spread over a
// factor of three or more and log allows it.
func linesPlot(a axis, xs []float64, lines []series, papers []paperPoints, log bool) *plot.Plot {
	p := newPlot(grid{x: true, y: true})
	var shown []paperPoints
	for i := range lines {
		lines[i].dodge = vg.Length(float64(i)-float64(len(lines)-1)/2) * 1.3
	}
	setSizeAxis(&p.X, xs)
	p.X.Tick.Marker = atValues(&p.X, xs, 0.15)
	for _, s := range papers {
		s.pts = slices.DeleteFunc(slices.Clone(s.pts), func(pt seriesPoint) bool { return pt.x < p.X.Min || pt.x > p.X.Max })
		shown = append(shown, s)
		p.Add(s)
	}
	lo, hi := extent(lines, shown)
	setValueAxis(&p.Y, lo, hi, log)
	for _, s := range lines {
		p.Add(s)
	}
	return p
}

// setValueAxis is a y axis for values from lo to hi.
func setValueAxis(a *plot.Axis, lo, hi float64, log bool) {
	switch {
	case log && lo > 0 && hi/lo >= 3:
		setLogAxis(a, lo, hi)
		if math.Log10(a.Max/a.Min) < 2.2 {
			return
		}
		a.Tick.Marker = decadeTicks{}
	case hi <= 0 || math.IsInf(lo, 0):
		a.Min, a.Max, a.Tick.Marker = 0, 1, linearTicks{}
	default:
		a.Min, a.Max, a.Tick.Marker = 0, hi*1.08, linearTicks{}
	}
}

// decadeTicks are logTicks whose decades below one thousandth are not written
// out in zeros.
type decadeTicks struct{}

func (decadeTicks) Ticks(lo, hi float64) []plot.Tick {
	ticks := logTicks{}.Ticks(lo, hi)
	for i, t := range ticks {
		if t.Label != "" && (t.Value < 1e-3*(1-1e-9) || t.Value > 1e5*(1+1e-9)) {
			ticks[i].Label = powerText(t.Value)
		}
	}
	return ticks
}

// powerText writes a power of ten: 10⁻⁹.
func powerText(v float64) string {
	text := "10"
	e := int(math.Round(math.Log10(v)))
	if e < 0 {
		text += "⁻"
		e = -e
	}
	digits := []string{"⁰", "¹", "²", "³", "⁴", "⁵", "⁶", "⁷", "⁸", "⁹"}
	if e >= 10 {
		text += digits[e/10%10]
	}
	return text + digits[e%10]
}

// extent is from the lowest to the highest of what is drawn.
func extent(lines []series, papers []paperPoints) (lo, hi float64) {
	lo = math.Inf(1)
	for _, s := range lines {
		for _, pt := range s.pts {
			l, h, _ := spread(pt.sum)
			lo, hi = math.Min(lo, l), math.Max(hi, h)
		}
	}
	for _, s := range papers {
		for _, pt := range s.pts {
			lo, hi = math.Min(lo, pt.sum.Median), math.Max(hi, pt.sum.Median)
		}
	}
	return lo, hi
}

// paperRadius is that of published points: where a measured one lies on them,
// they still show around it.
const paperRadius = vg.Length(3.1)

// Plot draws the points.
func (s paperPoints) Plot(c draw.Canvas, p *plot.Plot) {
	tx, ty := p.Transforms(&c)
	for _, pt := range s.pts {
		drawMarkerOf(c, s.look, vg.Point{X: tx(pt.x), Y: ty(pt.sum.Median)}, paperRadius)
	}
}

// legendOf are entries for lines, each name once.
func legendOf(all [][]series) (entries []entry) {
	for _, lines := range all {
		for _, s := range lines {
			if len(s.pts) > 0 && !slices.ContainsFunc(entries, func(e entry) bool { return e.name == s.name }) {
				entries = append(entries, entry{s.name, s.thumb})
			}
		}
	}
	return entries
}

// topOf is the highest value that rows reach.
func topOf(rows []metrics.PointSummary) float64 {
	top := 0.0
	for _, r := range rows {
		_, hi, _ := spread(r.Summary)
		top = math.Max(top, hi)
	}
	return top
}
