package plots

import (
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/vpclab/vpclab/metrics"
)

// barTable is rows of bars in columns that share them: a row is one way to do
// something, a column one of its costs. Values that were published are ticks
// across the bars.
type barTable struct {
	groups  []barGroup
	columns []string // names of the axes, with units
	// floor is where bars below zero are cut, that one of them does not press
	// all others flat; 0: nowhere. What is cut still has its number.
	floor float64
}

// barGroup is rows below a heading; "": there is none.
type barGroup struct {
	heading string
	rows    []barRow
}

type barRow struct {
	name  string
	look  look
	cells []barCell // a column each
}

// barCell is a bar; without a value there is none.
type barCell struct {
	sum      metrics.Summary
	paper    float64
	has      bool
	hasPaper bool
}

const (
	tableBar    = vg.Length(8)
	tableRow    = vg.Length(10.5)
	tableGap    = vg.Length(5) // after a group
	tableColumn = vg.Length(10)
	tableNumber = vg.Length(27) // a number of three digits behind a bar
)

func (t barTable) height() vg.Length { return t.rowsHeight() + axisRoom }

func (t barTable) rowsHeight() vg.Length {
	h := vg.Length(2)
	for _, g := range t.groups {
		h += vg.Length(len(g.rows))*tableRow + tableGap
		if g.heading != "" {
			h += lineHeight()
		}
	}
	return h
}

// hasPaper reports whether there is any published value.
func (t barTable) hasPaper() bool {
	return slices.ContainsFunc(t.groups, func(g barGroup) bool {
		return slices.ContainsFunc(g.rows, func(r barRow) bool {
			return slices.ContainsFunc(r.cells, func(c barCell) bool { return c.hasPaper && c.has })
		})
	})
}

// draw paints the columns beside each other; the rows are named in the first.
func (t barTable) draw(c draw.Canvas) {
	room := t.room()
	n := vg.Length(len(t.columns))
	width := (c.Max.X - c.Min.X - room - tableColumn*(n-1)) / n
	for k := range t.columns {
		from := room + (width+tableColumn)*vg.Length(k)
		area := c
		area.Min.X, area.Max.X = c.Min.X+from, c.Min.X+from+width
		if k == 0 {
			area.Min.X = c.Min.X
		}
		data := t.column(area, k)
		if k == 0 {
			t.headings(c, data)
		}
	}
}

// headings begin at the table's left edge. One may reach into the data, where
// neither axis nor grid must run through it.
func (t barTable) headings(c, data draw.Canvas) {
	t.each(func(vg.Length, barRow) {}, func(y vg.Length, text string) {
		sty := boldStyle(textSize, ink)
		at := vg.Point{X: c.Min.X, Y: data.Max.Y - y}
		if end := at.X + sty.Width(text) + 1; end > data.Min.X-5 {
			c.FillPolygon(white, corners(vg.Rectangle{Min: vg.Point{X: data.Min.X - 5, Y: at.Y - 1}, Max: vg.Point{X: end, Y: at.Y + textSize}}))
		}
		c.FillText(sty, at, text)
	})
}

// room is what the names of the rows take.
func (t barTable) room() vg.Length {
	room := vg.Length(0)
	for _, g := range t.groups {
		for _, r := range g.rows {
			room = max(room, textStyle(textSize, ink).Width(r.name))
		}
	}
	return room + 7
}

// fewTicks are at most n round steps.
type fewTicks struct{ n int }

// Ticks are like those of linearTicks.
func (f fewTicks) Ticks(lo, hi float64) []plot.Tick {
	return stepTicks(lo, hi, niceStep((hi-lo)/float64(max(2, min(6, f.n)))))
}

// column paints one column and returns its data area.
func (t barTable) column(c draw.Canvas, k int) draw.Canvas {
	p := newPlot(grid{x: true})
	lo, hi := 0.0, 0.0
	var ticks plot.ConstantTicks
	t.each(func(y vg.Length, r barRow) {
		if k == 0 {
			ticks = append(ticks, plot.Tick{Value: -float64(y), Label: r.name})
		} else {
			ticks = append(ticks, plot.Tick{Value: -float64(y)})
		}
		if cell := r.cells[k]; cell.has {
			l, h, _ := spread(cell.sum)
			lo, hi = math.Min(lo, l), math.Max(hi, h)
			if cell.hasPaper {
				lo, hi = math.Min(lo, cell.paper), math.Max(hi, cell.paper)
			}
		}
	}, nil)
	if hi <= 0 && lo == 0 {
		hi = 1 // all are zero
	} else if hi <= 0 {
		hi = math.Max(1e-9, -lo)
	}
	if t.floor < 0 {
		lo = math.Max(lo, t.floor)
	}
	// Behind the longest bar is room for a number.
	width := c.Max.X - c.Min.X
	if k == 0 {
		width -= t.room()
	}
	p.X.Min = lo
	if lo < 0 {
		p.X.Min = lo - 0.03*(hi-lo)
	}
	p.X.Max = hi + (hi-lo)*float64(tableNumber/(width-tableNumber))
	p.X.Tick.Marker = upTo{fewTicks{int(width / 19)}, hi * 1.02}
	p.Y.Min, p.Y.Max = -float64(t.rowsHeight()), 0
	p.Y.Tick.Marker, p.Y.Tick.Length = ticks, 0
	p.Add(tableBars{t, k})
	return paint(c, p, t.columns[k], "")
}

// upTo are ticks of another ticker up to a value: beyond is room for text.
type upTo struct {
	of  plot.Ticker
	top float64
}

// Ticks are those of the other ticker.
func (u upTo) Ticks(lo, _ float64) []plot.Tick { return u.of.Ticks(lo, u.top) }

// each calls row with the middle of each row, from the top, and head with the
// base line of each heading.
func (t barTable) each(row func(y vg.Length, r barRow), head func(y vg.Length, text string)) {
	y := vg.Length(2)
	for _, g := range t.groups {
		if g.heading != "" {
			y += lineHeight()
			if head != nil {
				head(y-1.2, g.heading)
			}
		}
		for _, r := range g.rows {
			row(y+tableRow/2, r)
			y += tableRow
		}
		y += tableGap
	}
}

// tableBars draws one column of a table.
type tableBars struct {
	barTable
	k int
}

// Plot draws bars, whiskers, published values and numbers.
func (t tableBars) Plot(c draw.Canvas, p *plot.Plot) {
	tx, ty := p.Transforms(&c)
	t.each(func(y vg.Length, r barRow) {
		if cell := r.cells[t.k]; cell.has {
			drawTableBar(c, func(v float64) vg.Length { return tx(math.Max(v, p.X.Min)) }, ty(-float64(y)), r.look, cell)
		}
	}, nil)
	if p.X.Min < 0 {
		c.StrokeLine2(draw.LineStyle{Color: ink, Width: thinLine}, tx(0), c.Min.Y, tx(0), c.Max.Y)
	}
}

func drawTableBar(c draw.Canvas, tx func(float64) vg.Length, y vg.Length, l look, cell barCell) {
	from, to := tx(0), tx(cell.sum.Median)
	if to < from {
		from, to = to, from
	}
	drawBox(c, vg.Rectangle{Min: vg.Point{X: from, Y: y - tableBar/2}, Max: vg.Point{X: to, Y: y + tableBar/2}}, look{color: l.color, hatch: l.hatch})
	lo, hi, caps := spread(cell.sum)
	right := math.Max(0, math.Max(cell.sum.Median, hi))
	if hi > lo {
		drawLevelWhisker(c, draw.LineStyle{Color: white, Width: 2}, y, tx(lo), tx(hi), false)
		drawLevelWhisker(c, draw.LineStyle{Color: black, Width: thinLine + 0.2}, y, tx(lo), tx(hi), caps)
	}
	if cell.hasPaper {
		drawPaperTick(c, tx(cell.paper), y, tableBar/2+1.5)
		right = math.Max(right, cell.paper)
	}
	sty := textStyle(textSize, ink)
	sty.YAlign = -0.4
	c.FillText(sty, vg.Point{X: tx(right) + 4, Y: y}, digits3(cell.sum.Median))
}

// drawPaperTick marks a published value across a bar: black, with white beside
// it, so that it shows on any bar.
func drawPaperTick(c draw.Canvas, x, y, half vg.Length) {
	c.StrokeLine2(draw.LineStyle{Color: white, Width: 3.2}, x, y-half, x, y+half)
	c.StrokeLine2(draw.LineStyle{Color: black, Width: 1.5}, x, y-half, x, y+half)
}

// paperTickLegend is the entry that explains the ticks.
func paperTickLegend() entry {
	return entry{"tick: paper (2011 hardware)", func(c draw.Canvas) {
		drawBox(c, c.Rectangle, look{color: midGrey})
		drawPaperTick(c, c.Min.X+0.7*(c.Max.X-c.Min.X), c.Center().Y, (c.Max.Y-c.Min.Y)/2+1.5)
	}}
}
