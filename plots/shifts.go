package plots

import (
	"fmt"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/metrics/compare"
)

// shiftsMost bounds the rows of the figure; what is left out is counted in it.
const shiftsMost = 48

// Looks of a change: better and worse differ in shape too.
var (
	worseLook     = look{color: vermillion, marker: filledSquare}
	betterLook    = look{color: green, marker: filledTriangle}
	unchangedLook = look{color: blue, marker: openCircle}
	unknownLook   = look{color: grey, marker: openDiamond}
	oddLook       = look{color: purple, marker: filledDiamond}
)

// Shifts draws what a comparison found into a file, SVG or PNG by the name's
// end: a row for each metric that decides and each counter that differs, with
// the change in parts of the old value and its interval, and the threshold as a
// band. In the band a change does not matter.
func Shifts(r compare.Report, path string) error {
	p, f := shiftsPage(r)
	var data []byte
	var err error
	switch ext := strings.ToLower(filepath.Ext(path)); ext {
	case ".svg":
		data, err = p.svg(f)
	case ".png":
		data, err = p.png()
	default:
		err = fmt.Errorf("%q is neither .svg nor .png", ext)
	}
	if err != nil {
		return fmt.Errorf("draw %s: %w", path, err)
	}
	return os.WriteFile(path, data, 0o644)
}

// shiftRows are the cells of the figure.
func shiftRows(r compare.Report) (rows []compare.Cell, left int) {
	for _, c := range r.Cells {
		decides := c.Primary && !(c.Exact && c.Verdict == compare.Same) || c.Exact && c.Verdict != compare.Same
		if !decides && c.Verdict != compare.Hint || c.Old.N == 0 || c.New.N == 0 {
			continue
		}
		if len(rows) == shiftsMost {
			left++
			continue
		}
		rows = append(rows, c)
	}
	return rows, left
}

func shiftsPage(r compare.Report) (*page, Figure) {
	rows, left := shiftRows(r)
	l := shiftsLayout{rows: rows, threshold: r.Threshold, reach: shiftsReach(rows, r.Threshold)}
	same := 0
	for _, c := range r.Cells {
		if c.Exact && c.Verdict == compare.Same {
			same++
		}
	}
	f := Figure{Name: "shifts", Title: r.Says()}
	pg := &page{width: doubleWidth, bodyHeight: l.height(), title: f.Title, body: l.draw}
	pg.subtitle = []string{
		fmt.Sprintf("%s (%s) against %s (%s).", r.New.Name, strings.Join(r.New.Versions, ", "), r.Old.Name, strings.Join(r.Old.Versions, ", ")),
		fmt.Sprintf("Change of the median by Hodges and Lehmann's estimate, with the interval of at least %g %%; n, old and new, behind the name.", 100*metrics.Confidence),
		fmt.Sprintf("Counters that are the same in every trial: %d, not shown.", same),
	}
	if len(r.Held) > 0 {
		pg.subtitle = append(pg.subtitle, "All: "+metrics.PointText(r.Held)+".")
	}
	if voids := r.Old.Void + r.New.Void; voids > 0 {
		pg.subtitle = append(pg.subtitle, fmt.Sprintf("%d void trials left out.", voids))
	}
	for _, e := range []struct {
		name string
		look look
	}{{"regression", worseLook}, {"improvement", betterLook}, {"no difference found, or a small one", unchangedLook}, {"differs, and decides nothing", oddLook}, {"cannot be judged", unknownLook}} {
		pg.legend = append(pg.legend, entry{e.name, series{look: e.look}.thumb})
	}
	pg.legend = append(pg.legend, entry{bind(fmt.Sprintf("less than the threshold of %g %%", 100*r.Threshold)), boxThumb(look{color: paleGrey})})
	if left > 0 {
		pg.footer = []string{fmt.Sprintf("%d more are in the table.", left)}
	}
	f.Caption = strings.Join(append(pg.subtitle, pg.footer...), " ")
	return pg, f
}

// shiftsReach is how far the axis goes to either side: as far as the intervals,
// but not so far that a threshold cannot be seen.
func shiftsReach(rows []compare.Cell, threshold float64) float64 {
	reach := 2 * threshold
	for _, c := range rows {
		for _, v := range []*float64{c.Shift, c.Lo, c.Hi} {
			if v != nil {
				reach = math.Max(reach, math.Abs(*v)*1.1)
			}
		}
	}
	return math.Min(reach, 6*threshold)
}

type shiftsLayout struct {
	rows             []compare.Cell
	threshold, reach float64
}

const shiftRow = textSize + 4

func (l shiftsLayout) height() vg.Length {
	return vg.Length(max(len(l.rows), 1))*shiftRow + axisRoom + labelSize
}

func (l shiftsLayout) draw(c draw.Canvas) {
	p := newPlot(grid{x: true})
	var ticks plot.ConstantTicks
	for i, cell := range l.rows {
		ticks = append(ticks, plot.Tick{Value: -float64(i), Label: shiftName(cell)})
	}
	p.X.Min, p.X.Max = -100*l.reach, 100*l.reach
	p.X.Tick.Marker = linearTicks{}
	p.Y.Min, p.Y.Max = -float64(max(len(l.rows), 1))+0.5, 0.5
	p.Y.Tick.Marker, p.Y.Tick.Length = ticks, 0
	p.Add(shiftMarks{l})
	paint(c, p, "change, % of the old median", "")
}

// shiftName is a row's label: metric, point, n.
func shiftName(c compare.Cell) string {
	name := c.Metric
	if point := c.Point(); point != "" {
		name += "  " + point
	}
	const most = 62
	if len([]rune(name)) > most {
		name = string([]rune(name)[:most-1]) + "…"
	}
	return fmt.Sprintf("%s  (%d, %d)", name, c.Old.N, c.New.N)
}

func lookOf(verdict string) look {
	switch verdict {
	case compare.Regression:
		return worseLook
	case compare.Improvement:
		return betterLook
	case compare.TooFew:
		return unknownLook
	case compare.Hint, compare.Changed:
		return oddLook
	}
	return unchangedLook
}

type shiftMarks struct{ shiftsLayout }

// Plot draws the band, then a row each. What lies beyond the axis stands at its
// end, as an arrow with its value.
func (m shiftMarks) Plot(c draw.Canvas, p *plot.Plot) {
	tx, ty := p.Transforms(&c)
	band := vg.Rectangle{Min: vg.Point{X: tx(-100 * m.threshold), Y: c.Min.Y}, Max: vg.Point{X: tx(100 * m.threshold), Y: c.Max.Y}}
	c.FillPolygon(paleGrey, corners(band))
	c.StrokeLine2(draw.LineStyle{Color: ink, Width: thinLine}, tx(0), c.Min.Y, tx(0), c.Max.Y)
	for i, cell := range m.rows {
		y := ty(-float64(i))
		lk := lookOf(cell.Verdict)
		if cell.Shift == nil {
			m.beyond(c, lk.color, y, cell.By > 0, "from nothing", tx)
			continue
		}
		if cell.Lo != nil && cell.Hi != nil && math.Abs(*cell.Shift) <= m.reach {
			lo, hi := tx(100*max(*cell.Lo, -m.reach)), tx(100*max(min(*cell.Hi, m.reach), -m.reach))
			lo = min(lo, tx(100*m.reach))
			drawLevelWhisker(c, draw.LineStyle{Color: lk.color, Width: thinLine + 0.2}, y, lo, hi, *cell.Lo >= -m.reach && *cell.Hi <= m.reach)
		}
		if math.Abs(*cell.Shift) > m.reach {
			m.beyond(c, lk.color, y, *cell.Shift > 0, fmt.Sprintf("%+.0f %%", 100**cell.Shift), tx)
			continue
		}
		drawMarker(c, lk, vg.Point{X: tx(100 * *cell.Shift), Y: y})
	}
}

// beyond draws an arrow at the end of the axis.
func (m shiftMarks) beyond(c draw.Canvas, col color.Color, y vg.Length, right bool, text string, tx func(float64) vg.Length) {
	x, back := tx(100*m.reach)-1, vg.Length(5)
	sty := textStyle(textSize, ink)
	at := vg.Point{X: x - back - 2 - sty.Width(text), Y: y - textSize/2 + 1}
	if !right {
		x, back = tx(-100*m.reach)+1, -5
		at.X = x - back + 2
	}
	c.FillPolygon(col, []vg.Point{{X: x, Y: y}, {X: x - back, Y: y + 2.5}, {X: x - back, Y: y - 2.5}})
	c.FillText(sty, at, text)
}
