package plots

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"image/color"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/vpclab/vpclab/metrics"
)

// joinMetrics are drawn where there is no probe train.
var joinMetrics = []struct{ metric, name string }{
	{"join.configured", "join: configured"},
	{"join.policy", "join: RT policy"},
	{"join.announced", "join: BGP announced"},
	{"join.programmed", "join: programmed"},
	{"join.first_packet", "join: first packet"},
	{"leave.withdrawn", "leave: withdrawn"},
	{"leave.last_packet", "leave: last packet"},
}

// maxFlows is how many pairs of a train get a row of their own.
const maxFlows = 12

// makeJoin draws the probes of one train while a site joins and leaves; of a
// run that keeps no trains, the medians of the stages.
func makeJoin(d *data) (*page, string, error) {
	train, record, err := d.firstTrain()
	if err != nil {
		return nil, "", err
	}
	if train != nil {
		return d.trainPage(train, record)
	}
	return d.joinStages()
}

// firstTrain reads train.json of the first good trial that has one.
func (d *data) firstTrain() (*metrics.Train, metrics.TrialRecord, error) {
	dirs, records := d.store.TrialDirs("")
	for i, dir := range dirs {
		name := filepath.Join(dir, "train.json")
		raw, err := os.ReadFile(name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, records[i], err
		}
		var t metrics.Train
		if err := json.Unmarshal(raw, &t); err != nil {
			return nil, records[i], fmt.Errorf("%s: %w", name, err)
		}
		if len(t.Probes) > 0 {
			return &t, records[i], nil
		}
	}
	return nil, metrics.TrialRecord{}, nil
}

// flow is the probes of one ordered pair, by time.
type flow struct {
	name   string
	probes []metrics.TrainProbe
	lost   int
}

// flows splits a train by pair, in order of first appearance.
func flows(t *metrics.Train) []flow {
	at := map[string]int{}
	var all []flow
	for _, p := range t.Probes {
		name := p.From + " → " + p.To
		i, ok := at[name]
		if !ok {
			i = len(all)
			at[name] = i
			all = append(all, flow{name: name})
		}
		all[i].probes = append(all[i].probes, p)
		if !p.OK {
			all[i].lost++
		}
	}
	for _, f := range all {
		slices.SortStableFunc(f.probes, func(a, b metrics.TrainProbe) int { return cmp.Compare(a.T, b.T) })
	}
	return all
}

func (d *data) trainPage(t *metrics.Train, record metrics.TrialRecord) (*page, string, error) {
	all := flows(t)
	shown := all
	if len(shown) > maxFlows {
		shown = shown[:maxFlows]
	}
	marks := slices.SortedStableFunc(slices.Values(t.Marks), func(a, b metrics.TrainMark) int { return cmp.Compare(a.T, b.T) })
	l := trainLayout{flows: shown, marks: marks}
	pg := &page{width: doubleWidth, bodyHeight: l.height(), body: l.draw}
	pg.legend = []entry{{"probe came through", boxThumb(throughLook)}, {"no answer", boxThumb(lostLook)}}
	if len(marks) > 0 {
		for i, m := range marks {
			pg.footer = append(pg.footer, bind(fmt.Sprintf("%s: %s %.3f s.  ", letter(i), m.Name, m.T)))
		}
	}
	trial := fmt.Sprintf("trial %d", record.Trial)
	if p := metrics.PointText(record.Point); p != "" {
		trial += " of " + p
	}
	what := fmt.Sprintf("%d probes over %s (n = 1 trial: %s).", len(t.Probes), count(fmt.Sprint(len(all)), "ordered pair"), trial)
	if len(shown) < len(all) {
		what += fmt.Sprintf(" %d pairs shown.", len(shown))
	}
	pg.subtitle = []string{what, d.kernelText()}
	caption := fmt.Sprintf("A steady stream of probes while a site joins the VPC and leaves it again; a row is an ordered pair of machines, marks are what the control plane did. %s %s", what, d.kernelText())
	return pg, caption, nil
}

// letter names the marks a, b, … z, aa …
func letter(i int) string {
	if i < 26 {
		return string(rune('a' + i))
	}
	return letter(i/26-1) + letter(i%26)
}

var (
	throughLook = look{color: blue}
	lostLook    = look{color: white, hatch: fallingBars}
)

// trainLayout is a row a flow and upright lines at the marks.
type trainLayout struct {
	flows []flow
	marks []metrics.TrainMark
}

const (
	flowRow    = vg.Length(13)
	flowBar    = vg.Length(8)
	markLevels = 3
)

func (l trainLayout) markRoom() vg.Length {
	if len(l.marks) == 0 {
		return 3
	}
	return markLevels*lineHeight() + 2
}

func (l trainLayout) height() vg.Length {
	return vg.Length(len(l.flows))*flowRow + axisRoom + l.markRoom()
}

func (l trainLayout) draw(c draw.Canvas) {
	p := newPlot(grid{x: true})
	begin, end := 0.0, 0.0
	var ticks plot.ConstantTicks
	for i, f := range l.flows {
		ticks = append(ticks, plot.Tick{Value: -(float64(i) + 0.5), Label: f.name})
		end = math.Max(end, f.probes[len(f.probes)-1].T)
	}
	for _, m := range l.marks {
		begin, end = math.Min(begin, m.T), math.Max(end, m.T)
	}
	p.X.Min, p.X.Max, p.X.Tick.Marker = begin, math.Max(end, 1e-3)*1.01, linearTicks{}
	p.Y.Min, p.Y.Max = -float64(len(l.flows)), 0
	p.Y.Tick.Marker, p.Y.Tick.Length = ticks, 0
	p.Add(l)
	paint(draw.Crop(c, 0, 0, 0, -l.markRoom()), p, "time since the probes began (s)", "")
}

// Plot draws the rows and the marks above them.
func (l trainLayout) Plot(c draw.Canvas, p *plot.Plot) {
	tx, ty := p.Transforms(&c)
	for i, f := range l.flows {
		y := ty(-(float64(i) + 0.5))
		for _, s := range stretches(f.probes) {
			look := throughLook
			if !s.ok {
				look = lostLook
			}
			drawBand(c, vg.Rectangle{Min: vg.Point{X: tx(s.from), Y: y - flowBar/2}, Max: vg.Point{X: tx(s.to), Y: y + flowBar/2}}, look)
		}
	}
	sty := boldStyle(textSize, ink)
	sty.XAlign = draw.XCenter
	reach := [markLevels]vg.Length{-100, -100, -100} // right end of the last name on each level
	for i, m := range l.marks {
		x := tx(m.T)
		name := letter(i)
		half := sty.Width(name)/2 + 1.5
		level := 0
		for level < markLevels-1 && x-half < reach[level] {
			level++
		}
		reach[level] = x + half
		y := c.Max.Y + vg.Length(level)*lineHeight()
		c.StrokeLine2(draw.LineStyle{Color: ink, Width: thinLine, Dashes: dotted}, x, c.Min.Y, x, y+1)
		c.FillPolygon(white, corners(vg.Rectangle{Min: vg.Point{X: x - half + 1, Y: y + 1.5}, Max: vg.Point{X: x + half - 1, Y: y + lineHeight() - 0.5}}))
		c.FillText(sty, vg.Point{X: x, Y: y + 2}, name)
	}
}

// drawBand is drawBox with an edge that narrow stretches do not drown in.
func drawBand(c draw.Canvas, r vg.Rectangle, l look) {
	r = vg.Rectangle{Min: r.Min, Max: vg.Point{X: max(r.Max.X, r.Min.X+0.4), Y: r.Max.Y}}
	c.FillPolygon(l.color, corners(r))
	drawHatch(c, r, l.hatch, color.Color(vermillion), 3)
	if l.hatch != noHatch {
		c.StrokeLines(draw.LineStyle{Color: vermillion, Width: hairline}, append(corners(r), r.Min))
	}
}

// stretch is a run of probes with the same fate, until the next begins.
type stretch struct {
	from, to float64
	ok       bool
}

func stretches(probes []metrics.TrainProbe) []stretch {
	var all []stretch
	for _, p := range probes {
		if n := len(all); n > 0 {
			all[n-1].to = p.T
			if all[n-1].ok == p.OK {
				continue
			}
		}
		all = append(all, stretch{p.T, p.T, p.OK})
	}
	return all
}

// joinStages draws medians of the stages of join and leave.
func (d *data) joinStages() (*page, string, error) {
	names := make([]string, len(joinMetrics))
	for i, m := range joinMetrics {
		names[i] = m.metric
	}
	experiments := d.experiments(names...)
	if len(experiments) == 0 {
		return nil, "", missingf("no trial has a train.json, and there are no samples of join.* or leave.*")
	}
	exp := experiments[0]
	var rows []metrics.PointSummary
	for _, n := range names {
		rows = append(rows, d.of(exp, n)...)
	}
	ps := points(rows)
	shown := ps[len(ps)-1] // the largest lab
	l := stageDots{}
	var used []metrics.PointSummary
	for _, m := range joinMetrics {
		if r, ok := at(d.of(exp, m.metric), shown); ok {
			used = append(used, r)
			l.names = append(l.names, m.name)
		}
	}
	scale, unit := secondsOrMillis(used)
	for _, r := range used {
		l.sums = append(l.sums, scaled(r.Summary, scale))
	}
	l.axis = "time since the request (" + unit + ")"
	what := fmt.Sprintf("Median; %s; %s.", spreadText(used), nText(used))
	where := sentence(describe(shown, slices.SortedFunc(maps.Keys(shown), compareKeys)))
	pg := &page{
		width: columnWidth, bodyHeight: vg.Length(len(l.sums))*flowRow + axisRoom + 4,
		subtitle: []string{what, where, d.kernelText()}, body: l.draw,
	}
	caption := fmt.Sprintf("Stages of a site's joining and leaving a VPC with traffic running, as time since each request. %s %s %s", what, where, d.kernelText())
	return pg, caption + d.whichText(exp, experiments), nil
}

// stageDots is a dot and a whisker a row.
type stageDots struct {
	names []string
	sums  []metrics.Summary
	axis  string
}

func (l stageDots) draw(c draw.Canvas) {
	p := newPlot(grid{x: true})
	var ticks plot.ConstantTicks
	top := 0.0
	for i, s := range l.sums {
		ticks = append(ticks, plot.Tick{Value: -(float64(i) + 0.5), Label: l.names[i]})
		_, hi, _ := spread(s)
		top = math.Max(top, hi)
	}
	p.X.Min, p.X.Max, p.X.Tick.Marker = 0, math.Max(top, 1e-6)*1.16, linearTicks{}
	p.Y.Min, p.Y.Max = -float64(len(l.sums)), 0
	p.Y.Tick.Marker, p.Y.Tick.Length = ticks, 0
	p.Add(l)
	paint(c, p, l.axis, "")
}

// Plot draws the dots.
func (l stageDots) Plot(c draw.Canvas, p *plot.Plot) {
	tx, ty := p.Transforms(&c)
	for i, s := range l.sums {
		lk := vpnLook
		if strings.HasPrefix(l.names[i], "leave") {
			lk = firewallLook
		}
		y := ty(-(float64(i) + 0.5))
		lo, hi, caps := spread(s)
		drawLevelWhisker(c, draw.LineStyle{Color: lk.color, Width: thinLine + 0.2}, y, tx(lo), tx(hi), caps)
		drawMarker(c, lk, vg.Point{X: tx(s.Median), Y: y})
		sty := textStyle(textSize, ink)
		sty.YAlign = -0.4
		c.FillText(sty, vg.Point{X: tx(hi) + 4, Y: y}, digits3(s.Median))
	}
}
