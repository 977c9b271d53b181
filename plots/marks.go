package plots

import (
	"image/color"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/vpclab/vpclab/metrics"
)

// series is a line through medians, with whiskers and markers.
type series struct {
	name  string
	look  look
	dodge vg.Length // moved right by so much, so that whiskers do not cover each other
	lines bool      // joined by a line
	pts   []seriesPoint
}

type seriesPoint struct {
	x    float64
	sum  metrics.Summary
	line string // points of different lines are not joined
}

// spread is where a summary's whiskers end: the interval, or the extremes
// where there is none (then without caps).
func spread(s metrics.Summary) (lo, hi float64, caps bool) {
	if s.HasInterval() {
		return s.Lo, s.Hi, true
	}
	return s.Min, s.Max, false
}

// Plot draws the series. Values are multiplied by nothing: the caller scales.
func (s series) Plot(c draw.Canvas, p *plot.Plot) {
	tx, ty := p.Transforms(&c)
	var path []vg.Point
	for _, pt := range s.pts {
		path = append(path, vg.Point{X: tx(pt.x) + s.dodge, Y: ty(pt.sum.Median)})
	}
	for from, i := 0, 1; s.lines && i <= len(path); i++ {
		if i == len(path) || s.pts[i].line != s.pts[from].line {
			c.StrokeLines(draw.LineStyle{Color: s.look.color, Width: seriesLine, Dashes: s.look.dashes}, path[from:i])
			from = i
		}
	}
	whisker := draw.LineStyle{Color: s.look.color, Width: thinLine + 0.2}
	for i, pt := range s.pts {
		lo, hi, caps := spread(pt.sum)
		drawWhisker(c, whisker, path[i].X, ty(lo), ty(hi), caps)
	}
	for _, at := range path {
		drawMarker(c, s.look, at)
	}
}

// drawWhisker is an upright whisker.
func drawWhisker(c draw.Canvas, sty draw.LineStyle, x, lo, hi vg.Length, caps bool) {
	c.StrokeLine2(sty, x, lo, x, hi)
	if caps {
		c.StrokeLine2(sty, x-capHalf, lo, x+capHalf, lo)
		c.StrokeLine2(sty, x-capHalf, hi, x+capHalf, hi)
	}
}

// drawLevelWhisker is a whisker along x.
func drawLevelWhisker(c draw.Canvas, sty draw.LineStyle, y, lo, hi vg.Length, caps bool) {
	c.StrokeLine2(sty, lo, y, hi, y)
	if caps {
		c.StrokeLine2(sty, lo, y-capHalf, lo, y+capHalf)
		c.StrokeLine2(sty, hi, y-capHalf, hi, y+capHalf)
	}
}

// thumb is the legend's picture of the series.
func (s series) thumb(c draw.Canvas) {
	y := c.Center().Y
	if s.lines {
		c.StrokeLine2(draw.LineStyle{Color: s.look.color, Width: seriesLine, Dashes: s.look.dashes}, c.Min.X, y, c.Max.X, y)
	}
	drawMarker(c, s.look, c.Center())
}

// drawMarker draws the look's marker; open ones are filled white, so that
// lines do not run through them.
func drawMarker(c draw.Canvas, l look, at vg.Point) { drawMarkerOf(c, l, at, markerRadius) }

// drawMarkerOf is drawMarker in another size.
func drawMarkerOf(c draw.Canvas, l look, at vg.Point, r vg.Length) {
	var outline vg.Path
	poly := func(pts ...vg.Point) {
		outline.Move(pts[0].Add(at))
		for _, p := range pts[1:] {
			outline.Line(p.Add(at))
		}
		outline.Close()
	}
	switch l.marker {
	case filledSquare, openSquare:
		poly(vg.Point{X: -r, Y: -r}, vg.Point{X: r, Y: -r}, vg.Point{X: r, Y: r}, vg.Point{X: -r, Y: r})
	case plusMark, crossMark:
		drawStrokes(c, l, at)
		return
	case filledTriangle, openTriangle:
		poly(vg.Point{X: -r, Y: -r * 0.8}, vg.Point{X: r, Y: -r * 0.8}, vg.Point{Y: r * 1.1})
	case filledDown, openDown:
		poly(vg.Point{X: -r, Y: r * 0.8}, vg.Point{X: r, Y: r * 0.8}, vg.Point{Y: -r * 1.1})
	case filledDiamond, openDiamond:
		poly(vg.Point{X: -1.3 * r}, vg.Point{Y: -1.3 * r}, vg.Point{X: 1.3 * r}, vg.Point{Y: 1.3 * r})
	default:
		outline.Move(vg.Point{X: at.X + r, Y: at.Y})
		outline.Arc(at, r, 0, 2*math.Pi)
		outline.Close()
	}
	fill := l.color
	if slices.Contains([]marker{openCircle, openSquare, openDiamond, openTriangle, openDown}, l.marker) {
		fill = white
	}
	c.SetColor(fill)
	c.Fill(outline)
	c.SetLineStyle(draw.LineStyle{Color: l.color, Width: 1})
	c.Stroke(outline)
}

// drawStrokes draws the markers that are two strokes.
func drawStrokes(c draw.Canvas, l look, at vg.Point) {
	line := draw.LineStyle{Color: l.color, Width: 1.2}
	r := markerRadius * 1.1
	if l.marker == plusMark {
		c.StrokeLine2(line, at.X-r, at.Y, at.X+r, at.Y)
		c.StrokeLine2(line, at.X, at.Y-r, at.X, at.Y+r)
		return
	}
	c.StrokeLine2(line, at.X-r, at.Y-r, at.X+r, at.Y+r)
	c.StrokeLine2(line, at.X-r, at.Y+r, at.X+r, at.Y-r)
}

// drawBox fills a rectangle in a look, hatched and with a thin edge.
func drawBox(c draw.Canvas, r vg.Rectangle, l look) {
	if r.Max.X-r.Min.X <= 0 {
		return
	}
	c.FillPolygon(l.color, corners(r))
	drawHatch(c, r, l.hatch, hatchInk(l.color), 4)
	c.StrokeLines(draw.LineStyle{Color: ink, Width: hairline}, append(corners(r), r.Min))
}

// boxThumb is the legend's picture of a hatched box.
func boxThumb(l look) func(draw.Canvas) {
	return func(c draw.Canvas) { drawBox(c, c.Rectangle, l) }
}

// hatchInk is visible on the fill: white on dark, dark on light.
func hatchInk(fill color.Color) color.Color {
	r, g, b, _ := fill.RGBA()
	if 0.299*float64(r)+0.587*float64(g)+0.114*float64(b) < 0.45*0xFFFF {
		return white
	}
	return ink
}

// drawHatch draws the pattern's lines inside r, gap apart.
func drawHatch(c draw.Canvas, r vg.Rectangle, h hatch, col color.Color, gap vg.Length) {
	line := draw.LineStyle{Color: col, Width: hairline}
	switch h {
	case risingBars, fallingBars:
		drawSlanted(c, r, h == risingBars, line, gap)
	case crossedBars:
		drawSlanted(c, r, true, line, gap)
		drawSlanted(c, r, false, line, gap)
	case uprightBars:
		for x := r.Min.X + gap/2; x < r.Max.X; x += gap {
			c.StrokeLine2(line, x, r.Min.Y, x, r.Max.Y)
		}
	case levelBars:
		for y := r.Min.Y + gap/2; y < r.Max.Y; y += gap * 0.75 {
			c.StrokeLine2(line, r.Min.X, y, r.Max.X, y)
		}
	}
}

// drawSlanted draws lines at 45 degrees, cut at the rectangle's edges.
func drawSlanted(c draw.Canvas, r vg.Rectangle, rising bool, line draw.LineStyle, gap vg.Length) {
	w, h := r.Max.X-r.Min.X, r.Max.Y-r.Min.Y
	for d := -h + gap/2; d < w; d += gap {
		// The line y = x - d of the box's own coordinates.
		x0, x1 := max(d, 0), min(d+h, w)
		if x1 <= x0 {
			continue
		}
		y0, y1 := x0-d, x1-d
		if !rising {
			y0, y1 = h-y0, h-y1
		}
		c.StrokeLine2(line, r.Min.X+x0, r.Min.Y+y0, r.Min.X+x1, r.Min.Y+y1)
	}
}
