package plots

import (
	"fmt"
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/vpclab/vpclab/metrics"
)

// touchedPanels are the two halves of the figure.
var touchedPanels = []struct{ metric, name string }{
	{"touched.add_vm", "a VM is added"},
	{"touched.move_vm", "a VM moves to another site"},
}

// makeTouched draws, lab by lab, how many rules change hands when one VM
// comes or moves.
func makeTouched(d *data) (*page, string, error) {
	experiments := d.experiments("touched.add_vm", "touched.move_vm")
	if len(experiments) == 0 {
		return nil, "", missingf("no samples of touched.add_vm or touched.move_vm")
	}
	rowsOf := func(e string) []metrics.PointSummary {
		return append(d.of(e, "touched.add_vm"), d.of(e, "touched.move_vm")...)
	}
	exp := best(experiments, func(e string) int { return len(points(rowsOf(e))) })
	rows := rowsOf(exp)
	all := points(rows)
	shown := thin(all, maxGroups(rows))
	varied, fixed := varying(all)
	if len(all) == 1 { // nothing varies: name the lab
		varied, fixed = fixed, nil
	}
	bars := touchedLayout{d: d, exp: exp, points: shown, keys: varied}
	pg := &page{width: doubleWidth}
	for _, s := range systems {
		if len(d.of(exp, "touched.add_vm", "system", s.id))+len(d.of(exp, "touched.move_vm", "system", s.id)) > 0 {
			bars.systems = append(bars.systems, s)
			pg.legend = append(pg.legend, entry{s.name, boxThumb(s.bar)})
		}
	}
	if len(bars.systems) == 0 {
		return nil, "", missingf("the samples of touched.* have no label system=vpn, firewall or firewall-sets")
	}
	pg.bodyHeight, pg.body = bars.height(), bars.draw
	what := fmt.Sprintf("Median number of rules added, changed or removed; %s; %s a bar.", spreadText(rows), nText(rows))
	pg.subtitle = []string{what, sentence(describe(all[0], fixed)), d.kernelText()}
	caption := fmt.Sprintf("Rules that must be touched, in all devices together, when one VM is added to a tenant and when one moves to another site. %s %s %s", what, sentence(describe(all[0], fixed)), d.kernelText())
	caption += d.whichText(exp, experiments)
	if len(shown) < len(all) {
		caption += fmt.Sprintf(" %d of %d points shown; all are in summary.json.", len(shown), len(all))
	}
	return pg, caption, nil
}

// touchedLayout is two panels that share their rows.
type touchedLayout struct {
	d       *data
	exp     string
	points  []map[string]string
	keys    []string
	systems []system
}

const touchedBar = vg.Length(9.5)

func (l touchedLayout) height() vg.Length {
	row := vg.Length(len(l.systems))*touchedBar + 7
	return vg.Length(len(l.points))*row + axisRoom + lineHeight() + 4
}

func (l touchedLayout) draw(c draw.Canvas) {
	labels := make([]string, len(l.points))
	room := vg.Length(0)
	for i, p := range l.points {
		labels[i] = describe(p, l.keys)
		room = max(room, textStyle(textSize, ink).Width(labels[i]))
	}
	room += 8
	half := (c.Max.X - c.Min.X - room - 14) / 2
	left := draw.Crop(c, 0, -(half + 14), 0, -(lineHeight() + 2))
	right := draw.Crop(c, room+half+14, 0, 0, -(lineHeight() + 2))
	for i, sub := range []draw.Canvas{left, right} {
		names := labels
		if i == 1 {
			names = make([]string, len(labels)) // the rows are named once
		}
		area := l.panel(touchedPanels[i].metric, names, sub)
		sty := boldStyle(textSize, ink)
		c.FillText(sty, vg.Point{X: area.Min.X, Y: c.Max.Y - lineHeight()}, touchedPanels[i].name)
	}
}

// panel draws one half and returns its data area.
func (l touchedLayout) panel(metric string, names []string, c draw.Canvas) draw.Canvas {
	p := newPlot(grid{x: true})
	var ticks plot.ConstantTicks
	bars := touchedPlot{systems: l.systems}
	top := 1.0
	for i, pt := range l.points {
		y := -(float64(i) + 0.5)
		ticks = append(ticks, plot.Tick{Value: y, Label: names[i]})
		for j, s := range l.systems {
			r, ok := at(l.d.of(l.exp, metric, "system", s.id), pt)
			if !ok {
				continue
			}
			_, hi, _ := spread(r.Summary)
			top = math.Max(top, hi)
			bars.values = append(bars.values, touchedValue{y, j, r.Summary})
		}
	}
	p.Y.Min, p.Y.Max = -float64(len(l.points)), 0
	p.Y.Tick.Marker, p.Y.Tick.Length = ticks, 0
	p.X.Min, p.X.Max = 0, top*1.18
	p.X.Tick.Marker = wholeTicks{}
	p.Add(bars)
	return paint(c, p, "rules touched", "")
}

// wholeTicks are linear ticks at whole numbers.
type wholeTicks struct{}

func (wholeTicks) Ticks(lo, hi float64) []plot.Tick {
	step := math.Max(1, niceStep((hi-lo)/5))
	var ticks []plot.Tick
	for v := math.Ceil(lo/step) * step; v <= hi; v += step {
		ticks = append(ticks, plot.Tick{Value: v, Label: groupDigits(v)})
	}
	return ticks
}

type touchedValue struct {
	y   float64
	bar int // index of the system
	sum metrics.Summary
}

type touchedPlot struct {
	systems []system
	values  []touchedValue
}

func (t touchedPlot) Plot(c draw.Canvas, p *plot.Plot) {
	tx, ty := p.Transforms(&c)
	for _, v := range t.values {
		y := ty(v.y) + touchedBar*(vg.Length(len(t.systems)-1)/2-vg.Length(v.bar))
		box := vg.Rectangle{Min: vg.Point{X: tx(0), Y: y - touchedBar/2}, Max: vg.Point{X: tx(v.sum.Median), Y: y + touchedBar/2}}
		drawBox(c, box, t.systems[v.bar].bar)
		lo, hi, caps := spread(v.sum)
		if hi > lo {
			drawLevelWhisker(c, draw.LineStyle{Color: black, Width: thinLine}, y, tx(lo), tx(hi), caps)
		}
		sty := textStyle(textSize, ink)
		sty.YAlign = -0.4
		c.FillText(sty, vg.Point{X: max(tx(hi), box.Max.X) + 3, Y: y}, groupDigits(v.sum.Median))
	}
}
