package plots

import (
	"fmt"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/vpclab/vpclab/metrics"
)

// reference is what the summary compares with.
const reference = "cloudnet"

// rivals are the algorithms of the summary, besides the one they are compared
// with.
var rivals = []string{"vpclab", "xen30", "xen5", "post-copy", "hybrid"}

// versusCosts are its columns.
var versusCosts = []struct{ metric, name string }{
	{"migration.bytes", "data, × CloudNet's"},
	{"migration.total", "total time, × CloudNet's"},
	{"migration.pause", "pause, × CloudNet's"},
}

// versusRow is a workload at a bandwidth.
type versusRow struct {
	workload workload
	rate     string
	cells    [][]metrics.Summary // by cost, by algorithm; N = 0: none
}

// makeVersus sums a run up: every algorithm against CloudNet, at every
// bandwidth, for every workload.
func makeVersus(d *data) (*page, string, error) {
	names := []string{"migration.total", "migration.pause", "migration.bytes"}
	s := d.chooseSweep([]string{"rate", "workload", "algorithm"}, names, func(r metrics.PointSummary) bool { return alone(r) && outBytes(r) })
	as := algorithmsOf(s.rows, rivals...)
	var rows []versusRow
	var used []metrics.PointSummary
	for _, w := range workloadsOf(s.rows) {
		for _, rate := range ratesOf(s.rows) {
			row, any := versusRow{workload: w, rate: rate}, false
			for _, c := range versusCosts {
				cells := make([]metrics.Summary, len(as))
				for k, a := range as {
					of, over := versusValue(s, c.metric, w, rate, a.id), versusValue(s, c.metric, w, rate, reference)
					if len(of) != 1 || len(over) != 1 {
						continue
					}
					if sum, ok := d.paired(of[0], over[0], func(v, by float64) float64 { return v / by }); ok && sum.Min > 0 {
						cells[k], any = sum, true
						used = append(used, metrics.PointSummary{Summary: sum})
					}
				}
				row.cells = append(row.cells, cells)
			}
			if any {
				rows = append(rows, row)
			}
		}
	}
	if len(rows) == 0 {
		return nil, "", missingf("no experiment has trials of algorithm=%s and, beside them, of one of %v", reference, rivals)
	}
	l := versusLayout{rows: rows, algorithms: as}
	pg := &page{width: doubleWidth, bodyHeight: l.height(), body: l.draw}
	for _, a := range as {
		pg.legend = append(pg.legend, entry{a.name, series{look: a.look}.thumb})
	}
	whole := fmt.Sprintf("Median of the ratios to CloudNet's algorithm in the same run, trial by trial; %s; %s a mark.", spreadText(used), nText(used))
	won, all := l.won()
	score := ""
	if all > 0 {
		score = fmt.Sprintf("vpclab needs less than CloudNet in %d of %d comparisons.", won, all)
	}
	pg.subtitle = []string{whole, score, s.heldText(), d.kernelText()}
	pg.footer = []string{"Left of the line is better.", "All algorithms run on the same emulated hardware and network, against the same seeded writes: the ratios compare, seconds of other hardware would not."}
	caption := fmt.Sprintf("All algorithms against our own reproduction of CloudNet, which stands at 1. %s %s %s %s %s %s", whole, score, pg.footer[0], pg.footer[1], s.heldText(), d.kernelText())
	return pg, caption + s.whichText(d, "migration.total"), nil
}

// versusValue is a cost of an algorithm at a bandwidth.
func versusValue(s sweep, metric string, w workload, rate, algorithm string) []metrics.PointSummary {
	labels := []string{"algorithm", algorithm}
	if rate != "" {
		labels = append(labels, "rate", rate)
	}
	return workloadRows(s, metric, w, labels...)
}

// ratesOf are the bandwidths among rows, lowest first; "" where there is no
// such label.
func ratesOf(rows []metrics.PointSummary) []string {
	seen := map[string]float64{}
	for _, r := range rows {
		v, _ := parseRate(r.Labels["rate"])
		seen[r.Labels["rate"]] = v
	}
	var out []string
	for rate := range seen {
		out = append(out, rate)
	}
	slices.SortFunc(out, func(a, b string) int { return int(math.Copysign(1, seen[a]-seen[b])) })
	return out
}

// versusLayout is three panels that share their rows.
type versusLayout struct {
	rows       []versusRow
	algorithms []algorithm
}

// versusMark is from one mark of a row down to the next: each algorithm has a
// level of its own, so that none covers another.
const (
	versusMark = vg.Length(4.2)
	versusGap  = vg.Length(4)
)

func (l versusLayout) rowHeight() vg.Length {
	return max(vg.Length(len(l.algorithms))*versusMark, textSize) + versusGap
}

// height is that of rows, headings and axis.
func (l versusLayout) height() vg.Length {
	h := axisRoom
	for i, r := range l.rows {
		h += l.rowHeight()
		if l.heads(i) && r.workload.name != "" {
			h += lineHeight() + 2
		}
	}
	return h
}

// heads reports whether a row begins a workload.
func (l versusLayout) heads(i int) bool {
	return i == 0 || l.rows[i].workload.id != l.rows[i-1].workload.id
}

// won counts the medians of ours that are below CloudNet's.
func (l versusLayout) won() (won, all int) {
	k := slices.IndexFunc(l.algorithms, func(a algorithm) bool { return a.id == "vpclab" })
	if k < 0 {
		return 0, 0
	}
	for _, r := range l.rows {
		for _, cells := range r.cells {
			if cells[k].N == 0 {
				continue
			}
			all++
			if cells[k].Median < 1 {
				won++
			}
		}
	}
	return won, all
}

func (l versusLayout) draw(c draw.Canvas) {
	room := vg.Length(0)
	for _, r := range l.rows {
		room = max(room, textStyle(textSize, ink).Width(versusName(r)))
	}
	room += 7
	n := vg.Length(len(versusCosts))
	width := (c.Max.X - c.Min.X - room - panelGap*(n-1)) / n
	for k := range versusCosts {
		area := c
		area.Min.X = c.Min.X + room + (width+panelGap)*vg.Length(k)
		area.Max.X = area.Min.X + width
		if k == 0 {
			area.Min.X = c.Min.X
		}
		l.panel(area, k)
	}
}

func versusName(r versusRow) string {
	if r.rate == "" {
		return r.workload.name
	}
	return rateText(r.rate)
}

func (l versusLayout) panel(c draw.Canvas, k int) {
	p := newPlot(grid{x: true})
	lo, hi := 0.5, 2.0
	var ticks plot.ConstantTicks
	l.each(func(y vg.Length, r versusRow) {
		name := ""
		if k == 0 {
			name = versusName(r)
		}
		ticks = append(ticks, plot.Tick{Value: -float64(y + l.rowHeight()/2), Label: name})
		for _, sum := range r.cells[k] {
			if sum.N > 0 {
				a, b, _ := spread(sum)
				lo, hi = math.Min(lo, a), math.Max(hi, b)
			}
		}
	}, nil)
	p.X.Scale = plot.LogScale{}
	p.X.Min, p.X.Max = lo/1.1, hi*1.1
	p.X.Tick.Marker = ratioTicks{}
	p.Y.Min, p.Y.Max = -float64(l.height()-axisRoom), 0
	p.Y.Tick.Marker, p.Y.Tick.Length = ticks, 0
	p.Add(versusMarks{l, k})
	paint(c, p, versusCosts[k].name, "")
}

// ratioTicks are logTicks whose labels keep apart: between decades where the
// axis has few of them.
type ratioTicks struct{}

// Ticks are the decades, and 0.5, 2 and so on where there are few.
func (ratioTicks) Ticks(lo, hi float64) []plot.Tick {
	ticks := logTicks{}.Ticks(lo, hi)
	decades := math.Log10(hi / lo)
	for i, t := range ticks {
		lead := t.Value / math.Pow(10, math.Floor(math.Log10(t.Value)+1e-9))
		switch {
		case lead < 1.5:
			ticks[i].Label = digits(t.Value)
		case decades < 2 && (math.Round(lead) == 2 || math.Round(lead) == 5):
			ticks[i].Label = digits(t.Value)
		default:
			ticks[i].Label = ""
		}
	}
	return ticks
}

// digits writes a ratio of one digit.
func digits(v float64) string { return groupDigits(math.Round(v*1e6) / 1e6) }

// each calls row with the top of each row and head with that of each heading.
func (l versusLayout) each(row func(y vg.Length, r versusRow), head func(y vg.Length, text string)) {
	y := vg.Length(0)
	for i, r := range l.rows {
		if l.heads(i) && r.workload.name != "" {
			if head != nil {
				head(y, r.workload.name)
			}
			y += lineHeight() + 2
		}
		row(y, r)
		y += l.rowHeight()
	}
}

// versusMarks draws one panel.
type versusMarks struct {
	versusLayout
	k int
}

// Plot draws a mark an algorithm, each on its own level.
func (m versusMarks) Plot(c draw.Canvas, p *plot.Plot) {
	tx, ty := p.Transforms(&c)
	c.StrokeLine2(draw.LineStyle{Color: ink, Width: thinLine + 0.3}, tx(1), c.Min.Y, tx(1), c.Max.Y)
	m.each(func(y vg.Length, r versusRow) {
		top := ty(-float64(y))
		c.StrokeLine2(draw.LineStyle{Color: gridGrey, Width: hairline}, c.Min.X, top-m.rowHeight(), c.Max.X, top-m.rowHeight())
		for i, sum := range r.cells[m.k] {
			if sum.N == 0 {
				continue
			}
			lk := m.algorithms[i].look
			at := vg.Point{X: tx(sum.Median), Y: top - versusGap/2 - versusMark*(vg.Length(i)+0.5)}
			lo, hi, caps := spread(sum)
			drawLevelWhisker(c, draw.LineStyle{Color: lk.color, Width: thinLine + 0.2}, at.Y, tx(lo), tx(hi), caps)
			drawMarker(c, lk, at)
		}
	}, func(y vg.Length, text string) {
		if m.k > 0 {
			return
		}
		sty := boldStyle(textSize, ink)
		at := vg.Point{X: c.Min.X + 3, Y: ty(-float64(y)) - lineHeight()}
		c.FillPolygon(white, corners(vg.Rectangle{Min: at.Add(vg.Point{X: -1, Y: -1}), Max: at.Add(vg.Point{X: sty.Width(text) + 1, Y: textSize})}))
		c.FillText(sty, at, text)
	})
}
