package plots

import (
	"fmt"
	"image/color"
	"math"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/vpclab/vpclab/metrics"
)

// rateStep is the width of a drawn bin in seconds.
const rateStep = 0.1

// makeReservationRate draws goodput over time, with reservations beside
// without: the reserved flow and the others together.
func makeReservationRate(d *data) (*page, string, error) {
	r, err := d.theRaces()
	if err != nil {
		return nil, "", err
	}
	l := &rateLayout{level: level(r.any().Reserved / 1e6)}
	for _, s := range flowSystems {
		if runs := r.runs[s.id]; len(runs) > 0 {
			l.panels = append(l.panels, ratePanelOf(s.name, runs))
		}
	}
	others := r.others()
	pg := &page{width: doubleWidth, bodyHeight: 2.2 * vg.Inch, body: l.draw}
	pg.legend = []entry{
		{"reserved flow, offers " + plain(mbits(r.offered())), band{look: reservedLook}.thumb},
		{others + " together", band{look: othersLook}.thumb},
		{"reserved rate, " + plain(mbits(r.any().Reserved)), levelThumb},
		{"a link of its path is down", shadeThumb},
	}
	what := fmt.Sprintf("Payload that arrived, in bins of %g s; median; %s; n"+bound+"="+bound+"%s.", rateStep, bandText(r.trials()), plainCount(r.trials(), "trial"))
	pg.subtitle = []string{what, fmt.Sprintf("The flows share a link of %s.", mbits(r.any().Line)), d.kernelText()}
	caption := fmt.Sprintf("Goodput over time of one TCP flow that offers %s of its reserved %s, beside %s that take what they get, over a core link of %s. The others begin alone; then the reserved flow begins; then a link of its path fails (shaded) and comes back. %s %s",
		mbits(r.offered()), mbits(r.any().Reserved), others, mbits(r.any().Line), what, d.kernelText())
	return pg, caption + d.whichText(r.exp, d.experiments("reservation.rate")), nil
}

// others names the flows beside the reserved one.
func (r *races) others() string {
	n := 0
	for _, f := range r.any().Flows {
		if f.Class == "other" {
			n++
		}
	}
	return plainCount(n, "greedy flow")
}

// offered is what the reserved flow offers, in bits a second.
func (r *races) offered() float64 {
	for _, f := range r.any().Flows {
		if f.Class == "reserved" {
			return f.Offered
		}
	}
	return 0
}

func plainCount(n int, noun string) string { return count(fmt.Sprint(n), noun) }

// plain is text without the spaces that lines do not break at.
func plain(s string) string { return strings.ReplaceAll(s, bound, " ") }

func mbits(bits float64) string { return metrics.FormatValue(bits/1e6) + bound + "Mbit/s" }

// ratePanel is one system over time.
type ratePanel struct {
	name             string
	reserved, others band
	down             shade
	end              float64
}

func ratePanelOf(name string, runs []metrics.Flows) ratePanel {
	p := ratePanel{name: name, end: math.Inf(1)}
	for _, f := range runs { // what all trials have
		for _, s := range f.Flows {
			p.end = math.Min(p.end, float64(len(s.Goodput))*f.BinS)
		}
	}
	n := int(p.end/rateStep + 1e-9)
	series := func(class string) (all [][]float64) {
		for _, f := range runs {
			all = append(all, resample(summed(f, class), f.BinS, 0, rateStep, n))
		}
		return all
	}
	p.reserved = bandOf(reservedLook, 0, rateStep, series("reserved"))
	p.others = bandOf(othersLook, 0, rateStep, series("other"))
	if at, ok := markAt(runs, "link failed"); ok {
		p.down.from = at
		if p.down.to, ok = markAt(runs, "link restored"); !ok {
			p.down.to = p.end
		}
	}
	return p
}

// rateLayout is a panel a system, side by side, with the same axes.
type rateLayout struct {
	panels []ratePanel
	level  level
}

func (l *rateLayout) draw(c draw.Canvas) {
	end, top := 0.0, float64(l.level)
	for _, p := range l.panels {
		end, top = math.Max(end, p.end), math.Max(top, math.Max(p.reserved.top(), p.others.top()))
	}
	const gap = vg.Length(14)
	width := (c.Max.X - c.Min.X - gap*vg.Length(len(l.panels)-1)) / vg.Length(len(l.panels))
	for i, panel := range l.panels {
		sub := c
		sub.Min.X = c.Min.X + vg.Length(i)*(width+gap)
		sub.Max.X, sub.Max.Y = sub.Min.X+width, c.Max.Y-lineHeight()-2
		p := newPlot(grid{y: true})
		p.X.Min, p.X.Max, p.X.Tick.Marker = 0, end, linearTicks{}
		p.Y.Min, p.Y.Max, p.Y.Tick.Marker = 0, top*1.08, linearTicks{}
		p.Add(panel.down, panel.others, panel.reserved, l.level)
		area := paint(sub, p, "time since the others began (s)", "goodput (Mbit/s)")
		c.FillText(boldStyle(textSize, ink), vg.Point{X: area.Min.X, Y: c.Max.Y - lineHeight()}, panel.name)
	}
}

// latencyLines are the lines of the latency figure.
var latencyLines = []struct {
	system, quantile, name string
	look                   look
}{
	{"with", "p50", "with, median", withLook},
	{"with", "p95", "with, p95", withSecond},
	{"with", "p99", "with, p99", withThird},
	{"without", "p50", "without, median", withoutLook},
	{"without", "p95", "without, p95", withoutSecond},
	{"without", "p99", "without, p99", withoutThird},
}

// makeReservationLatency draws how long small packets of the reserved pair
// are under way, against the number of greedy flows.
func makeReservationLatency(d *data) (*page, string, error) {
	const metric = "reservation.latency"
	experiments := d.experiments(metric)
	if len(experiments) == 0 {
		return nil, "", missingf("no samples of %s: no reservation experiment has finished a trial", metric)
	}
	exp := best(d.repeated(experiments, metric), func(e string) int { return len(valuesOf(d.of(e, metric), "flows")) })
	rows := d.of(exp, metric, "class", "reserved")
	xs := valuesOf(rows, "flows")
	if len(xs) == 0 {
		return nil, "", missingf("the samples of %s have no label flows", metric)
	}
	var lines []series
	for _, l := range latencyLines {
		s := series{name: l.name, look: l.look, lines: true}
		for _, r := range d.of(exp, metric, "class", "reserved", "system", l.system, "quantile", l.quantile) {
			if x, ok := numeric(r, "flows"); ok {
				s.pts = append(s.pts, seriesPoint{x: x, sum: r.Summary})
			}
		}
		if len(s.pts) > 0 {
			slices.SortFunc(s.pts, func(a, b seriesPoint) int { return int(math.Copysign(1, a.x-b.x)) })
			lines = append(lines, s)
		}
	}
	if len(lines) == 0 {
		return nil, "", missingf("the samples of %s have no labels system=with|without and quantile=p50|p95|p99", metric)
	}
	pg := scalingPage(lines, rows, xs, "greedy TCP flows on the same link", "one-way latency")
	quantiles := "The median, p95 and p99 are those of the probes of one trial."
	what := fmt.Sprintf("Median over trials; %s; %s a point.", spreadText(rows), nText(rows))
	pg.subtitle = []string{what, quantiles, d.kernelText()}
	caption := fmt.Sprintf("One-way latency of small UDP probes between the reserved machines, while a TCP flow between them offers what fits into the reservation, against the number of greedy TCP flows on the same core link, with the scenario's reservations and without. Sender and receiver share one clock: nothing is halved. %s %s %s",
		quantiles, what, d.kernelText())
	return pg, caption + d.whichText(exp, experiments), nil
}

// Around the failure, in seconds, and the bins there.
const (
	failureBefore = 0.6
	failureAfter  = 1.4
	failureStep   = 0.05
)

// makeReservationFailure draws the reserved flow's goodput around the failure
// of a link, and how long small packets did not come through.
func makeReservationFailure(d *data) (*page, string, error) {
	r, err := d.theRaces()
	if err != nil {
		return nil, "", err
	}
	l := &failureLayout{level: level(r.any().Reserved / 1e6)}
	pg := &page{width: columnWidth}
	for _, s := range flowSystems {
		row, ok := failureRowOf(s.name, s.look, r.runs[s.id])
		if !ok {
			continue
		}
		l.rows = append(l.rows, row)
		pg.legend = append(pg.legend, entry{s.name, row.rate.thumb})
	}
	if len(l.rows) == 0 {
		return nil, "", missingf("no trial at %s let a link fail", metrics.PointText(r.point))
	}
	pg.legend = append(pg.legend, entry{"reserved rate, " + plain(mbits(r.any().Reserved)), levelThumb}, entry{"no probe came through", boxThumb(lostLook)}, entry{"all routers know another way", repairThumb})
	pg.bodyHeight, pg.body = 2.2*vg.Inch+l.bars(), l.draw
	what := fmt.Sprintf("Reserved flow beside %s, in bins of %g s; median; %s; n"+bound+"="+bound+"%s.", r.others(), failureStep, bandText(r.trials()), plainCount(r.trials(), "trial"))
	outages := "Bars: longest gap in the probes of the reserved pair, median."
	pg.subtitle = []string{what, outages, d.kernelText()}
	caption := fmt.Sprintf("A link of the flow's path fails at 0: its goodput around that moment, and (bars) for how long no small packet of the reserved pair came through. After the failure the controller computes and programs another way; a TCP flow then waits for its own retransmission timer. %s %s %s",
		what, l.outageText(), d.kernelText())
	return pg, caption + d.whichText(r.exp, d.experiments("reservation.rate")), nil
}

// failureRow is one system around the failure.
type failureRow struct {
	name     string
	rate     band
	gap      shade   // of the probes; none where from == to
	repaired float64 // another way is programmed
}

func failureRowOf(name string, lk look, runs []metrics.Flows) (row failureRow, ok bool) {
	n := int(math.Round((failureBefore + failureAfter) / failureStep))
	var rates [][]float64
	var repaired, begins, lengths []float64
	for _, f := range runs {
		at, failed := mark(f, "link failed")
		if !failed {
			continue
		}
		rates = append(rates, resample(summed(f, "reserved"), f.BinS, at-failureBefore, failureStep, n))
		if t, ok := mark(f, "repaired"); ok {
			repaired = append(repaired, t-at)
		}
		from, lost := mark(f, "outage begins")
		to, _ := mark(f, "outage ends")
		lengths = append(lengths, to-from) // 0 where no probe was lost
		if lost {
			begins = append(begins, from-at)
		}
	}
	row = failureRow{name: name, rate: bandOf(lk, -failureBefore, failureStep, rates)}
	if len(repaired) > 0 {
		row.repaired = metrics.Summarize(repaired).Median
	}
	if length := metrics.Summarize(lengths); length.Median > 0 {
		from := metrics.Summarize(begins).Median
		row.gap = shade{from, from + length.Median}
	}
	return row, len(rates) > 0
}

// failureLayout is the goodput with a bar a system below it.
type failureLayout struct {
	rows  []failureRow
	level level
}

const gapBar = vg.Length(11)

func (l *failureLayout) bars() vg.Length { return vg.Length(len(l.rows))*gapBar + 4 }

func (l *failureLayout) outageText() string {
	var parts []string
	for _, r := range l.rows {
		parts = append(parts, fmt.Sprintf("%s: no probe for %s ms, another way programmed after %s ms", capital(r.name), digits3((r.gap.to-r.gap.from)*1e3), digits3(r.repaired*1e3)))
	}
	return strings.Join(parts, "; ") + " (medians)."
}

func (l *failureLayout) draw(c draw.Canvas) {
	top := float64(l.level)
	for _, r := range l.rows {
		top = math.Max(top, r.rate.top())
	}
	p := newPlot(grid{x: true, y: true})
	p.X.Min, p.X.Max, p.X.Tick.Marker = -failureBefore, failureAfter, linearTicks{}
	p.Y.Min, p.Y.Max, p.Y.Tick.Marker = 0, top*1.12, linearTicks{}
	for _, r := range slices.Backward(l.rows) {
		p.Add(r.rate)
	}
	p.Add(l.level, l)
	paint(draw.Crop(c, 0, 0, 0, -l.bars()), p, "time since the link failed (s)", "goodput (Mbit/s)")
}

// Plot draws the failure, the repairs, and the bars above the data area.
func (l *failureLayout) Plot(c draw.Canvas, p *plot.Plot) {
	tx, _ := p.Transforms(&c)
	c.StrokeLine2(draw.LineStyle{Color: ink, Width: thinLine}, tx(0), c.Min.Y, tx(0), c.Max.Y+l.bars())
	for i, r := range l.rows {
		y := c.Max.Y + 3 + gapBar*vg.Length(len(l.rows)-1-i)
		box := vg.Rectangle{Min: vg.Point{X: tx(r.gap.from), Y: y}, Max: vg.Point{X: tx(r.gap.to), Y: y + gapBar - 3}}
		text := "no probe lost"
		if r.gap.to > r.gap.from {
			drawBox(c, box, lostLook)
			text = digits3((r.gap.to-r.gap.from)*1e3) + " ms"
		}
		drawRepair(c, tx(r.repaired), y, y+gapBar-3, r.rate.look.color)
		sty := textStyle(textSize, ink)
		sty.YAlign = -0.4
		c.FillText(sty, vg.Point{X: max(box.Max.X, tx(r.repaired), tx(0)) + 6, Y: y + (gapBar-3)/2}, text)
		sty.XAlign = draw.XRight
		c.FillText(sty, vg.Point{X: min(tx(0), box.Min.X, tx(r.repaired)-markerRadius) - 4, Y: y + (gapBar-3)/2}, r.name)
	}
}

// drawRepair marks the moment at which another way was programmed.
func drawRepair(c draw.Canvas, x, lo, hi vg.Length, col color.Color) {
	c.StrokeLine2(draw.LineStyle{Color: col, Width: seriesLine + 0.4}, x, lo-1, x, hi+1)
	drawMarker(c, look{color: col, marker: openDiamond}, vg.Point{X: x, Y: (lo + hi) / 2})
}

func repairThumb(c draw.Canvas) { drawRepair(c, c.Center().X, c.Min.Y, c.Max.Y, ink) }
