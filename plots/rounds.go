package plots

import (
	"cmp"
	"fmt"
	"image/color"
	"maps"
	"math"
	"slices"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/vpclab/vpclab/metrics"
)

// roundTrial is the rounds of one trial: by metric and number, from 1.
type roundTrial struct {
	trial  int
	rounds int
	values map[string]map[int]float64
}

// at is a value of a round; 0 where there is none.
func (r roundTrial) at(metric string, n int) float64 { return r.values[metric][n] }

// roundTrials are the rounds of all trials at one point, those with least
// rounds first.
func (d *data) roundTrials(s sweep, metricNames []string, labels ...string) []roundTrial {
	found := map[int]*roundTrial{}
	for _, metric := range metricNames {
		for _, r := range s.of(metric, labels...) {
			n, err := strconv.Atoi(r.Labels["round"])
			if err != nil {
				continue
			}
			for trial, vs := range d.byTrials(r) {
				t := found[trial]
				if t == nil {
					t = &roundTrial{trial: trial, values: map[string]map[int]float64{}}
					found[trial] = t
				}
				if t.values[metric] == nil {
					t.values[metric] = map[int]float64{}
				}
				t.values[metric][n] = vs[0]
				t.rounds = max(t.rounds, n)
			}
		}
	}
	var out []roundTrial
	for _, t := range found {
		out = append(out, *t)
	}
	slices.SortFunc(out, func(a, b roundTrial) int { return cmp.Or(a.rounds-b.rounds, a.trial-b.trial) })
	return out
}

// typical is the trial with the median number of rounds.
func typical(trials []roundTrial) roundTrial { return trials[(len(trials)-1)/2] }

// leftLine is the pages left after each round but the last: what the next had
// to send.
type leftLine struct {
	algorithm algorithm
	shown     roundTrial
	others    []roundTrial
}

// left are the pages left when a trial's rounds ended.
func left(t roundTrial) (out []float64) {
	for n := 2; n <= t.rounds; n++ {
		out = append(out, t.at("round.to_send", n))
	}
	return out
}

// roundAlgorithms are those whose rounds are drawn.
var roundAlgorithms = []string{"xen30", "xen5", "smart-stop", "cloudnet", "vpclab"}

// leftSweep is the sweep whose rounds are drawn for a workload: at the
// bandwidth of figure 7, where the run has that, else at the one with most
// algorithms.
func (d *data) leftSweep(w workload) sweep {
	const metric = "round.to_send"
	for _, rate := range []float64{622e6, 0} {
		if rate != 0 && w.id != fig7Workload {
			continue
		}
		s := d.chooseSweep([]string{"algorithm"}, []string{metric}, func(r metrics.PointSummary) bool {
			v, _ := parseRate(r.Labels["rate"])
			return alone(r) && slices.Contains(roundAlgorithms, r.Labels["algorithm"]) && r.Labels["workload"] == w.id && (rate == 0 || v == rate)
		})
		if len(s.rows) > 0 {
			return s
		}
	}
	return sweep{}
}

// fig7Workload is the one of figure 7.
const fig7Workload = "kernelbuild"

// makeRounds is figure 7 of CloudNet: the pages left to send when each
// iteration ends, and where each algorithm stops.
func makeRounds(d *data) (*page, string, error) {
	const metric = "round.to_send"
	all := slices.DeleteFunc(d.of("", metric), func(r metrics.PointSummary) bool {
		return !alone(r) || !slices.Contains(roundAlgorithms, r.Labels["algorithm"])
	})
	if len(all) == 0 {
		return nil, "", missingf("no samples of %s: no migration experiment has finished a trial with rounds", metric)
	}
	ws := workloadsOf(all)
	if len(ws) > 3 {
		ws = ws[:3]
	}
	panels := make([]leftPanel, len(ws))
	trials, sources, paper := map[int]bool{}, map[string]bool{}, 0.0
	var shown []algorithm
	for i, w := range ws {
		s := d.leftSweep(w)
		p := leftPanel{workload: w, sweep: s, papers: publishedLeft(s, w)}
		for _, a := range algorithmsOf(s.rows, roundAlgorithms...) {
			found := d.roundTrials(s, []string{metric}, "algorithm", a.id)
			if len(found) == 0 || len(left(typical(found))) == 0 {
				continue
			}
			p.lines = append(p.lines, leftLine{a, typical(found), found})
			trials[len(found)] = true
			if !slices.ContainsFunc(shown, func(b algorithm) bool { return a.id == b.id }) {
				shown = append(shown, a)
			}
		}
		if len(p.papers) > 0 {
			paper = s.scale()
		}
		for _, e := range s.experiments {
			sources[e] = true
		}
		panels[i] = p
	}
	if len(shown) == 0 {
		return nil, "", missingf("no trial has had more than one round")
	}
	// What all panels hold is said once, above them; the rest in each heading.
	common := maps.Clone(panels[0].sweep.held)
	maps.DeleteFunc(common, func(k, v string) bool {
		return slices.ContainsFunc(panels, func(p leftPanel) bool { return p.sweep.held[k] != v })
	})
	held := sweep{held: common}.heldText()
	var row []panel
	for i, p := range panels {
		pn := panel{heading: p.heading(common), xName: "iteration", plot: p.plot}
		if i == 0 {
			pn.yName = "pages left when it ends"
		}
		row = append(row, pn)
	}
	pg := &page{width: doubleWidth}
	slices.SortStableFunc(shown, func(a, b algorithm) int {
		return slices.Index(roundAlgorithms, a.id) - slices.Index(roundAlgorithms, b.id)
	})
	for _, a := range shown {
		pg.legend = append(pg.legend, entry{a.name, series{look: a.look, lines: true}.thumb})
	}
	pg.legend = append(pg.legend, entry{"stops: sent while the VM stands", stopThumb})
	text := ""
	if paper > 0 {
		pg.legend = append(pg.legend, paperLegend())
		text = " " + paperText(paper, "Hollow circles", Fig7)
	}
	whole := typicalText("algorithm", "with the median number of iterations", trials)
	if !trials[1] || len(trials) > 1 {
		whole += " Pale: all of them."
	}
	pg.subtitle = []string{whole, held, d.kernelText()}
	if len(row) == 1 {
		pg.width = columnWidth
	}
	g := panelRows{rows: [][]panel{row}, each: 1.75 * vg.Inch}
	pg.bodyHeight, pg.body = g.height(), g.draw
	caption := fmt.Sprintf("Pages that are left to send when each iteration ends. They collapse within a few iterations and then only vary: what is left at the ring is sent while the VM stands, so the moment of stopping makes the pause, and iterations after that are wasted. %s%s %s %s",
		whole, text, held, d.kernelText())
	return pg, caption + sweep{experiments: slices.Sorted(maps.Keys(sources))}.whichText(d, metric), nil
}

// leftPanel is the rounds of a workload.
type leftPanel struct {
	workload workload
	sweep    sweep
	lines    []leftLine
	papers   []seriesPoint
}

// heading names the workload, and what is held here only.
func (p leftPanel) heading(common map[string]string) string {
	text := p.workload.name
	for _, k := range slices.Sorted(maps.Keys(p.sweep.held)) {
		if _, ok := common[k]; !ok && k != "workload" {
			text += ", " + labelText(k, p.sweep.held[k])
		}
	}
	return text
}

// typicalText says that one trial of each of some ways is shown, and of how many.
func typicalText(each, which string, ns map[int]bool) string {
	if len(ns) == 1 && ns[1] {
		return "Of each " + each + " " + bind("n = 1 trial.")
	}
	return "Of each " + each + " the trial " + which + ", of " + trialsText(ns) + "."
}

// trialsText is the n of trials of several lines.
func trialsText(ns map[int]bool) string {
	sorted := slices.Sorted(maps.Keys(ns))
	if len(sorted) == 0 {
		return bind("n = 0 trials")
	}
	lo, hi := sorted[0], sorted[len(sorted)-1]
	if lo == hi {
		return bind("n = " + count(strconv.Itoa(lo), "trial"))
	}
	return bind(fmt.Sprintf("n = %d to %d trials", lo, hi))
}

// publishedLeft is figure 7, where the sweep is of its workload and bandwidth.
func publishedLeft(s sweep, w workload) []seriesPoint {
	rate, _ := parseRate(s.held["rate"])
	if w.id != fig7Workload || rate != 622e6 || s.scale() <= 0 {
		return nil
	}
	var pts []seriesPoint
	for _, p := range Papers(Fig7, "round.left") {
		n, _ := strconv.Atoi(p.Labels["round"])
		pts = append(pts, seriesPoint{x: float64(n), sum: single(p.At(s.scale()))})
	}
	return pts
}

func (p leftPanel) plot() *plot.Plot {
	pl := newPlot(grid{y: true})
	last, top := 2, 0.0
	for _, l := range p.lines {
		for _, t := range l.others {
			last = max(last, t.rounds)
			for _, v := range left(t) {
				top = math.Max(top, v)
			}
		}
	}
	for _, pt := range p.papers {
		last, top = max(last, int(pt.x)), math.Max(top, pt.sum.Median)
	}
	pl.X.Min, pl.X.Max, pl.X.Tick.Marker = 0, float64(last), wholeTicks{}
	pl.Y.Min, pl.Y.Max, pl.Y.Tick.Marker = 0, math.Max(top, 1)*1.05, wholeTicks{}
	pl.Add(paperPoints{look{color: subtleInk, marker: openCircle}, p.papers}, leftLines(p.lines))
	return pl
}

// leftLines draws the pages left.
type leftLines []leftLine

// Plot draws all trials pale, then the typical ones.
func (ls leftLines) Plot(c draw.Canvas, p *plot.Plot) {
	tx, ty := p.Transforms(&c)
	path := func(t roundTrial) (out []vg.Point) {
		for i, v := range left(t) {
			out = append(out, vg.Point{X: tx(float64(i + 1)), Y: ty(v)})
		}
		return out
	}
	for _, l := range ls {
		for _, t := range l.others {
			c.StrokeLines(draw.LineStyle{Color: pale(l.algorithm.look.color), Width: thinLine}, path(t))
		}
	}
	for _, l := range ls {
		lk := l.algorithm.look
		pts := path(l.shown)
		c.StrokeLines(draw.LineStyle{Color: lk.color, Width: seriesLine, Dashes: lk.dashes}, pts)
		for _, at := range pts {
			drawMarkerOf(c, lk, at, 1.5)
		}
	}
	for _, l := range ls {
		pts := path(l.shown)
		drawStop(c, l.algorithm.look, pts[len(pts)-1])
	}
}

// drawStop rings the point at which an algorithm pauses the VM.
func drawStop(c draw.Canvas, l look, at vg.Point) {
	drawMarkerOf(c, l, at, markerRadius+0.6)
	var ring vg.Path
	const r = vg.Length(5)
	ring.Move(vg.Point{X: at.X + r, Y: at.Y})
	ring.Arc(at, r, 0, 2*math.Pi)
	ring.Close()
	c.SetLineStyle(draw.LineStyle{Color: black, Width: 1})
	c.Stroke(ring)
}

func stopThumb(c draw.Canvas) { drawStop(c, look{color: subtleInk, marker: filledCircle}, c.Center()) }

// byteAlgorithms are those whose bytes by round are drawn.
var byteAlgorithms = []string{"xen30", "smart-stop", "cloudnet", "vpclab"}

// makeRoundBytes is figure 12 of CloudNet: what each iteration sends, and how
// much of it is never sent again.
func makeRoundBytes(d *data) (*page, string, error) {
	names := []string{"round.bytes", "round.final_bytes"}
	s := d.chooseSweep([]string{"workload", "algorithm"}, names, func(r metrics.PointSummary) bool {
		return alone(r) && slices.Contains(byteAlgorithms, r.Labels["algorithm"])
	})
	if len(s.rows) == 0 {
		return nil, "", missingf("no samples of round.bytes: no migration experiment has finished a trial with rounds")
	}
	as := algorithmsOf(s.rows, byteAlgorithms...)
	slices.SortStableFunc(as, func(a, b algorithm) int {
		return slices.Index(byteAlgorithms, a.id) - slices.Index(byteAlgorithms, b.id)
	})
	g := panelRows{each: 0.85 * vg.Inch}
	trials, hasPaper := map[int]bool{}, false
	ws := workloadsOf(s.rows)
	for i, w := range ws {
		tops := make([]roundTrial, len(as))
		most, last := 0.0, 3
		for k, a := range as {
			labels := []string{"algorithm", a.id}
			if w.id != "" {
				labels = append(labels, "workload", w.id)
			}
			all := d.roundTrials(s, names, labels...)
			if len(all) == 0 {
				continue
			}
			trials[len(all)] = true
			tops[k] = typical(all)
			last = max(last, tops[k].rounds)
			for n := 2; n <= tops[k].rounds; n++ {
				most = math.Max(most, tops[k].at("round.bytes", n))
			}
		}
		factor, unit := sizeUnit(most)
		var row []panel
		for k, a := range as {
			t := tops[k]
			if t.rounds == 0 {
				row = append(row, panel{})
				continue
			}
			papers := publishedRounds(s, w, a, factor)
			for _, list := range papers {
				hasPaper = hasPaper || len(list) > 0
				for _, pt := range list {
					last = max(last, int(pt.x))
				}
			}
			b := roundBars{trial: t, k: factor, fill: a.look.color, papers: papers}
			pn := panel{heading: w.name + ", " + a.name}
			if k == 0 {
				pn.yName = unit
			}
			if i == len(ws)-1 {
				pn.xName = "iteration"
			}
			top := most * factor
			pn.plot = func() *plot.Plot {
				p := newPlot(grid{y: true})
				p.X.Min, p.X.Max, p.X.Tick.Marker = 1.2, float64(last)+0.9, wholeTicks{}
				for _, list := range papers {
					for _, pt := range list {
						top = math.Max(top, pt.sum.Median)
					}
				}
				p.Y.Min, p.Y.Max, p.Y.Tick.Marker = 0, top*1.35, linearTicks{} // room for the first round's note
				p.Add(b)
				return p
			}
			row = append(row, pn)
		}
		g.rows = append(g.rows, row)
	}
	pg := &page{width: doubleWidth}
	pg.legend = []entry{
		{"sent and never sent again", boxThumb(look{color: subtleInk})},
		{"sent, and again later", boxThumb(look{color: white, hatch: risingBars})},
	}
	text := ""
	if hasPaper {
		pg.legend = append(pg.legend, entry{"paper (2011 hardware): all / never again", paperRoundThumb})
		text = " " + paperText(s.scale(), "Hollow squares and diamonds", Fig12) + " Of Xen's bars it has the second and the last."
	}
	whole := typicalText("algorithm", "with the median number of iterations", trials) + " The first iteration as text (1st)."
	pg.subtitle = []string{whole, s.heldText(), d.kernelText()}
	pg.bodyHeight, pg.body = g.height(), g.draw
	caption := fmt.Sprintf("What each iteration puts on the network, and how much of it is final: never sent again. Iterations in the middle send the hot set over and over for nothing; the last bar is the hot set in any case, and the pause is the time that it takes. %s%s %s %s",
		whole, text, s.heldText(), d.kernelText())
	return pg, caption + s.whichText(d, "round.bytes"), nil
}

// publishedRounds is figure 12: all bytes, and those that are final.
func publishedRounds(s sweep, w workload, a algorithm, k float64) (lists [2][]seriesPoint) {
	rate, _ := parseRate(s.held["rate"])
	if rate != 100e6 || s.scale() <= 0 {
		return lists
	}
	for i, metric := range []string{"round.bytes", "round.final_bytes"} {
		for _, p := range Papers(Fig12, metric, "workload", w.id, "algorithm", a.id) {
			n, _ := strconv.Atoi(p.Labels["round"])
			lists[i] = append(lists[i], seriesPoint{x: float64(n), sum: single(p.At(s.scale()) * k)})
		}
	}
	return lists
}

// roundBars draws the rounds of a trial from the second on.
type roundBars struct {
	trial  roundTrial
	k      float64 // from bytes to the axis's unit
	fill   color.Color
	papers [2][]seriesPoint
}

// Plot draws a bar a round.
func (b roundBars) Plot(c draw.Canvas, p *plot.Plot) {
	tx, ty := p.Transforms(&c)
	half := (tx(2) - tx(1)) * 0.36
	for n := 2; n <= b.trial.rounds; n++ {
		all, final := b.trial.at("round.bytes", n)*b.k, b.trial.at("round.final_bytes", n)*b.k
		box := vg.Rectangle{Min: vg.Point{X: tx(float64(n)) - half, Y: ty(0)}, Max: vg.Point{X: tx(float64(n)) + half, Y: ty(math.Max(all, final))}}
		drawBox(c, box, look{color: white})
		drawHatch(c, box, risingBars, grey, 2.5)
		box.Max.Y = ty(final)
		if final > 0 {
			drawBox(c, box, look{color: b.fill})
		}
	}
	for i, m := range []marker{openSquare, openDiamond} {
		for _, pt := range b.papers[i] {
			drawMarkerOf(c, look{color: black, marker: m}, vg.Point{X: tx(pt.x), Y: ty(pt.sum.Median)}, 2)
		}
	}
	sty := textStyle(textSize, ink)
	sty.XAlign, sty.YAlign = draw.XRight, draw.YTop
	text, short := b.first()
	if sty.Width(text) > c.Max.X-c.Min.X-4 {
		text = short
	}
	c.FillText(sty, vg.Point{X: c.Max.X - 2, Y: c.Max.Y - 1}, text)
}

// first is what the first round sent, as text, and as a shorter one: a bar
// would dwarf the others.
func (b roundBars) first() (text, short string) {
	all, final := b.trial.at("round.bytes", 1), b.trial.at("round.final_bytes", 1)
	if all == 0 {
		return "", ""
	}
	k, unit := sizeUnit(2 * all) // 1.07 GB is shorter than 1074 MB
	share := fmt.Sprintf("%.0f %%", 100*final/all)
	if share == "100 %" {
		share = "all"
	}
	short = fmt.Sprintf("1st: %s %s", digits3(all*k), unit)
	return short + ", " + share + " final", short
}

func paperRoundThumb(c draw.Canvas) {
	y := c.Center().Y
	drawMarkerOf(c, look{color: black, marker: openSquare}, vg.Point{X: c.Min.X + 5, Y: y}, 2)
	drawMarkerOf(c, look{color: black, marker: openDiamond}, vg.Point{X: c.Max.X - 5, Y: y}, 2)
}
