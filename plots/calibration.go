package plots

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/vpclab/vpclab/metrics"
)

// calibrationKinds are the figures of a calibration.
var calibrationKinds = []struct {
	name, title string
	make        func(c *metrics.Calibration) (*page, string, error)
}{
	{"calibration-gaps", "How far frames are from where a line should let go of them", makeGaps},
	{"calibration-delays", "How far delays are off", makeDelays},
}

// DrawCalibration draws the figures of a calibration into the figures/ folder
// of its folder, as SVG and PNG. Figures that it has no measurements for are
// returned with a Reason.
func DrawCalibration(dir string) ([]Figure, error) {
	c, err := metrics.ReadCalibration(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(dir, "figures"), 0o755); err != nil {
		return nil, fmt.Errorf("draw %s: %w", dir, err)
	}
	var figures []Figure
	for _, k := range calibrationKinds {
		f := Figure{Name: k.name, Title: k.title}
		var p *page
		p, f.Caption, err = k.make(c)
		var none *missing
		switch {
		case errors.As(err, &none):
			f.Reason = none.reason
			err = removeOld(dir, filepath.Join("figures", k.name))
		case err == nil:
			p.title = k.title
			err = f.store(dir, p)
		}
		if err != nil {
			return figures, fmt.Errorf("draw %s: figure %s: %w", dir, k.name, err)
		}
		figures = append(figures, f)
	}
	return figures, nil
}

// store writes the two files of a figure.
func (f *Figure) store(dir string, p *page) error {
	base := filepath.Join("figures", f.Name)
	f.SVG, f.PNG = base+".svg", base+".png"
	svg, err := p.svg(*f)
	if err != nil {
		return err
	}
	png, err := p.png()
	if err != nil {
		return err
	}
	if err := metrics.ReplaceFile(filepath.Join(dir, f.SVG), svg); err != nil {
		return err
	}
	return metrics.ReplaceFile(filepath.Join(dir, f.PNG), png)
}

// calibrationText says where, when and on what it was measured.
func calibrationText(c *metrics.Calibration) string {
	return fmt.Sprintf("Kernel %s %s, clock %s, %s.", c.Kernel.Substrate, c.Kernel.Release, c.Kernel.Clock, c.Started.Format(time.DateOnly))
}

// curveLooks are those of the rates, slowest first.
var curveLooks = []look{
	{color: blue}, {color: skyBlue, dashes: dashed}, {color: green, dashes: []vg.Length{7, 2, 1.5, 2}}, {color: orange},
	{color: vermillion, dashes: dashed}, {color: purple, dashes: dotted}, {color: black, dashes: dotted}, {color: grey},
}

// superDashes are those of super frames, in the colour of their rate.
var superDashes = []vg.Length{8, 1.5, 1, 1.5, 1, 1.5}

// Bounds of the axes of makeGaps, in percent and as a share.
const (
	leastDeviation, mostDeviation = 0.001, 1e5
	leastShare                    = 1e-4
)

// makeGaps draws the complementary distribution of |gap/ideal - 1| for each
// rate, with the quantiles that Mininet-HiFi's data have as points.
func makeGaps(c *metrics.Calibration) (*page, string, error) {
	var curves []metrics.GapCurve
	for _, k := range c.Curves {
		if k.System == "vpclab" {
			curves = append(curves, k)
		}
	}
	if len(curves) == 0 {
		return nil, "", missingf("F1 was not measured")
	}
	slices.SortStableFunc(curves, func(a, b metrics.GapCurve) int {
		return cmp.Or(cmp.Compare(a.Frame, b.Frame), cmp.Compare(a.RateBps, b.RateBps))
	})
	var rates []float64
	for _, k := range curves {
		rates = append(rates, k.RateBps)
	}
	slices.Sort(rates)
	rates = slices.Compact(rates)
	pg := &page{width: doubleWidth, bodyHeight: 2.8 * vg.Inch}
	var all []series
	for _, k := range curves {
		name, looks := rateName(k.RateBps), curveLooks[slices.Index(rates, k.RateBps)%len(curveLooks)]
		if k.Frame > 10000 {
			name, looks.dashes = name+", super frames", superDashes
		}
		s := series{name: name, look: looks, lines: true}
		for j, d := range k.Deviation {
			s.pts = append(s.pts, dot(min(max(d, leastDeviation), mostDeviation), max(k.Share[j], leastShare)))
		}
		all = append(all, s)
		pg.legend = append(pg.legend, entry{s.name, lineThumb(curve(s).stroke())})
	}
	hifi := hifiPoints()
	for _, s := range hifi {
		pg.legend = append(pg.legend, entry{s.name, s.thumb})
	}
	what := "Share of gaps between frames that are farther than x from the ideal gap, while the line is proven to be backlogged."
	pg.subtitle = []string{what, "Grey: one packet time, beyond which results are not to be trusted.", calibrationText(c)}
	pg.body = func(cv draw.Canvas) {
		p := newPlot(grid{x: true, y: true})
		setLogAxis(&p.X, leastDeviation, mostDeviation)
		setLogAxis(&p.Y, leastShare, 1)
		p.Add(upright{100})
		for _, s := range all {
			p.Add(curve(s))
		}
		for _, s := range hifi {
			p.Add(s)
		}
		paint(cv, p, "off by, % of the ideal gap", "share of gaps")
	}
	return pg, what + " Points: median, p90, p99 and p99.9 of Mininet-HiFi's published data (CoNEXT 2012), whose gaps are not chosen by backlog. " + calibrationText(c), nil
}

// dot is a point without a spread.
func dot(x, y float64) seriesPoint {
	return seriesPoint{x: x, sum: metrics.Summary{Median: y, Lo: y, Hi: y, Min: y, Max: y}}
}

// hifiPoints are the quantiles of what Mininet-HiFi's authors published.
func hifiPoints() (all []series) {
	looks := []look{{color: black, marker: openCircle}, {color: black, marker: openSquare}, {color: grey, marker: openTriangle}, {color: grey, marker: openDiamond}, {color: grey, marker: openDown}}
	for i, h := range metrics.HiFi {
		s := series{name: "HiFi: " + h.Name + ", " + rateName(h.RateBps), look: looks[i%len(looks)]}
		s.pts = []seriesPoint{dot(h.Median, 0.5), dot(h.P90, 0.1), dot(h.P99, 0.01), dot(h.P999, 0.001)}
		all = append(all, s)
	}
	return all
}

func rateName(bps float64) string {
	if bps >= 1e9 {
		return fmt.Sprintf("%g Gb/s", bps/1e9)
	}
	return fmt.Sprintf("%g Mb/s", bps/1e6)
}

// curve is a series as a line alone.
type curve series

func (s curve) Plot(c draw.Canvas, p *plot.Plot) {
	tx, ty := p.Transforms(&c)
	var path []vg.Point
	for _, pt := range s.pts {
		path = append(path, vg.Point{X: tx(pt.x), Y: ty(pt.sum.Median)})
	}
	c.StrokeLines(s.stroke(), path)
}

func (s curve) stroke() draw.LineStyle {
	return draw.LineStyle{Color: s.look.color, Width: seriesLine, Dashes: s.look.dashes}
}

// upright is a grey line at an x.
type upright struct{ x float64 }

func (u upright) Plot(c draw.Canvas, p *plot.Plot) {
	tx, _ := p.Transforms(&c)
	c.StrokeLine2(draw.LineStyle{Color: grey, Width: seriesLine}, tx(u.x), c.Min.Y, tx(u.x), c.Max.Y)
}

// makeDelays draws how far mean and p99 of delays are from what was set.
func makeDelays(c *metrics.Calibration) (*page, string, error) {
	mean := series{name: "mean", look: look{color: blue, marker: filledCircle}, lines: true}
	tail := series{name: "p99", look: look{color: vermillion, marker: openSquare, dashes: dashed}, lines: true}
	bar := series{name: "bar for the mean", look: look{color: grey, dashes: dotted}, lines: true}
	var xs []float64
	const least = 1e-4 // ms: a time stamp shows no less
	for _, r := range c.Results {
		set := r.Values["set_ms"]
		if r.Test != "F3" || r.System != "vpclab" || r.What != "one-way delay" || set == 0 || r.Bar != math.Max(0.1, 0.01*set) {
			continue // no delay was set, or jitter too
		}
		xs = append(xs, set)
		mean.pts = append(mean.pts, dot(set, max(math.Abs(r.Values["mean_ms"]-set), least)))
		tail.pts = append(tail.pts, dot(set, max(math.Abs(r.Values["p99_ms"]-set), least)))
		bar.pts = append(bar.pts, dot(set, r.Bar))
	}
	if len(xs) < 2 {
		return nil, "", missingf("F3 was not measured at two delays")
	}
	lo, hi := math.Inf(1), 0.0
	for _, s := range []series{mean, tail, bar} {
		for _, pt := range s.pts {
			lo, hi = math.Min(lo, pt.sum.Median), math.Max(hi, pt.sum.Median)
		}
	}
	pg := &page{width: columnWidth, bodyHeight: 2.2 * vg.Inch}
	pg.legend = []entry{{mean.name, mean.thumb}, {tail.name, tail.thumb}, {bar.name, lineThumb(curve(bar).stroke())}}
	what := "Measured less what was set, without sign, both ends stamped by the kernel."
	pg.subtitle = []string{what, calibrationText(c)}
	pg.body = func(cv draw.Canvas) {
		p := newPlot(grid{x: true, y: true})
		setLogAxis(&p.X, xs[0], xs[len(xs)-1])
		p.X.Tick.Marker = atValues(&p.X, xs, 0.08)
		setLogAxis(&p.Y, lo, hi)
		p.Add(curve(bar), mean, tail)
		paint(cv, p, "delay that was set, ms", "off by, ms")
	}
	return pg, what + " Forwarding by one router is part of it. " + calibrationText(c), nil
}
