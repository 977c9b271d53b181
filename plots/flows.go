package plots

import (
	"encoding/json"
	"errors"
	"fmt"
	"image/color"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/vpclab/vpclab/metrics"
)

// flowSystems are the systems of the experiment reservation, in the order of
// panels and lines.
var flowSystems = []struct {
	id, name string
	look     look
}{
	{"with", "with reservation", withLook},
	{"without", "without reservation", withoutLook},
}

// races are the flows of all trials at one point, by system.
type races struct {
	exp   string
	point map[string]string
	runs  map[string][]metrics.Flows
}

// theRaces reads the flows of the experiment that was repeated most, at the
// point with most flows.
func (d *data) theRaces() (*races, error) {
	const metric = "reservation.rate"
	experiments := d.experiments(metric)
	if len(experiments) == 0 {
		return nil, missingf("no samples of %s: no reservation experiment has finished a trial", metric)
	}
	exp := d.repeated(experiments, metric)[0]
	ps := points(d.of(exp, metric))
	r := &races{exp: exp, point: ps[len(ps)-1], runs: map[string][]metrics.Flows{}}
	dirs, records := d.store.TrialDirs(exp)
	for i, dir := range dirs {
		if !maps.Equal(records[i].Point, r.point) {
			continue
		}
		for _, s := range flowSystems {
			f, err := readFlows(filepath.Join(dir, "flows-"+s.id+".json"))
			if err != nil {
				return nil, err
			}
			if f != nil {
				r.runs[s.id] = append(r.runs[s.id], *f)
			}
		}
	}
	if len(r.runs) == 0 {
		return nil, missingf("no trial at %s has a flows-with.json or flows-without.json", metrics.PointText(r.point))
	}
	return r, nil
}

// readFlows reads one file of flows; nil: there is none.
func readFlows(name string) (*metrics.Flows, error) {
	raw, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var f metrics.Flows
	if err := json.Unmarshal(raw, &f); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if f.BinS <= 0 || len(f.Flows) == 0 {
		return nil, fmt.Errorf("%s: no flows, or bins of no width", name)
	}
	return &f, nil
}

// trials is the n of the races.
func (r *races) trials() int {
	n := 0
	for _, runs := range r.runs {
		n = max(n, len(runs))
	}
	return n
}

// any is one of the runs, for what is the same in all.
func (r *races) any() metrics.Flows {
	for _, s := range flowSystems {
		if runs := r.runs[s.id]; len(runs) > 0 {
			return runs[0]
		}
	}
	return metrics.Flows{}
}

// markAt is the median time of a mark, over the runs that have it.
func markAt(runs []metrics.Flows, name string) (float64, bool) {
	var at []float64
	for _, f := range runs {
		if t, ok := mark(f, name); ok {
			at = append(at, t)
		}
	}
	return metrics.Summarize(at).Median, len(at) > 0
}

func mark(f metrics.Flows, name string) (float64, bool) {
	i := slices.IndexFunc(f.Marks, func(m metrics.TrainMark) bool { return m.Name == name })
	if i < 0 {
		return 0, false
	}
	return f.Marks[i].T, true
}

// summed is the goodput of all flows of a class together, in Mbit/s a bin.
func summed(f metrics.Flows, class string) []float64 {
	var sum []float64
	for _, s := range f.Flows {
		if s.Class != class {
			continue
		}
		if sum == nil {
			sum = make([]float64, len(s.Goodput))
		}
		for i := range min(len(sum), len(s.Goodput)) {
			sum[i] += s.Goodput[i] / 1e6
		}
	}
	return sum
}

// resample is the mean of a series of bins over [from+i*step, from+(i+1)*step).
func resample(bins []float64, width, from, step float64, n int) []float64 {
	total := func(t float64) float64 { // what came until t
		sum := 0.0
		for i, v := range bins {
			sum += v * math.Min(width, math.Max(0, t-float64(i)*width))
		}
		return sum
	}
	out := make([]float64, n)
	for i := range out {
		a := from + float64(i)*step
		out[i] = (total(a+step) - total(a)) / step
	}
	return out
}

// band is a line through medians over time, with their spread around it.
type band struct {
	look look
	x    []float64
	sums []metrics.Summary
}

// bandOf summarizes series of equal step across trials; point i stands for
// the middle of its bin.
func bandOf(lk look, from, step float64, series [][]float64) band {
	b := band{look: lk}
	if len(series) == 0 {
		return b
	}
	for i := range series[0] {
		var values []float64
		for _, s := range series {
			values = append(values, s[i])
		}
		b.x = append(b.x, from+(float64(i)+0.5)*step)
		b.sums = append(b.sums, metrics.Summarize(values))
	}
	return b
}

// top is the highest value that the band reaches.
func (b band) top() float64 {
	top := 0.0
	for _, s := range b.sums {
		_, hi, _ := spread(s)
		top = math.Max(top, hi)
	}
	return top
}

// Plot draws the spread as a pale area and the medians as a line.
func (b band) Plot(c draw.Canvas, p *plot.Plot) {
	if len(b.x) == 0 {
		return
	}
	tx, ty := p.Transforms(&c)
	var upper, lower, line []vg.Point
	for i, s := range b.sums {
		lo, hi, _ := spread(s)
		x := tx(b.x[i])
		upper = append(upper, vg.Point{X: x, Y: ty(hi)})
		lower = append(lower, vg.Point{X: x, Y: ty(lo)})
		line = append(line, vg.Point{X: x, Y: ty(s.Median)})
	}
	slices.Reverse(lower)
	c.FillPolygon(pale(b.look.color), append(upper, lower...))
	c.StrokeLines(draw.LineStyle{Color: b.look.color, Width: seriesLine, Dashes: b.look.dashes}, line)
}

// thumb is the legend's picture.
func (b band) thumb(c draw.Canvas) {
	c.FillPolygon(pale(b.look.color), corners(c.Rectangle))
	y := c.Center().Y
	c.StrokeLine2(draw.LineStyle{Color: b.look.color, Width: seriesLine, Dashes: b.look.dashes}, c.Min.X, y, c.Max.X, y)
}

// pale is a colour that lets what is under it be seen.
func pale(c color.Color) color.Color {
	n := color.NRGBAModel.Convert(c).(color.NRGBA)
	n.A = 0x38
	return n
}

// bandText says what the pale areas mean.
func bandText(n int) string {
	switch {
	case n < 2:
		return "one trial: no spread"
	case metrics.Summarize(make([]float64, n)).HasInterval():
		return "pale: 95" + bound + "% interval of the median"
	default:
		return "pale: min to max (too few for a 95" + bound + "% interval)"
	}
}

// shade is a stretch of time in which something was the case.
type shade struct{ from, to float64 }

// Plot draws it behind the data.
func (s shade) Plot(c draw.Canvas, p *plot.Plot) {
	tx, _ := p.Transforms(&c)
	drawShade(c, vg.Rectangle{Min: vg.Point{X: max(tx(s.from), c.Min.X), Y: c.Min.Y}, Max: vg.Point{X: min(tx(s.to), c.Max.X), Y: c.Max.Y}})
}

func drawShade(c draw.Canvas, r vg.Rectangle) {
	if r.Max.X <= r.Min.X {
		return
	}
	c.FillPolygon(paleGrey, corners(r))
	drawHatch(c, r, risingBars, midGrey, 5)
}

func shadeThumb(c draw.Canvas) { drawShade(c, c.Rectangle) }

// level is a line across at a value.
type level float64

// Plot draws it.
func (l level) Plot(c draw.Canvas, p *plot.Plot) {
	_, ty := p.Transforms(&c)
	c.StrokeLine2(levelLine, c.Min.X, ty(float64(l)), c.Max.X, ty(float64(l)))
}

var levelLine = draw.LineStyle{Color: ink, Width: thinLine + 0.2, Dashes: dotted}

func levelThumb(c draw.Canvas) {
	c.StrokeLine2(levelLine, c.Min.X, c.Center().Y, c.Max.X, c.Center().Y)
}
