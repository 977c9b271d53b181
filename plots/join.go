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

// makeJoin draws the stages of joining and leaving, over all trials, and the
// probes of one trial meanwhile; either alone where a run has but one.
func makeJoin(d *data) (*page, string, error) {
	operations := d.experiments("operation.programmed") // their trains are of another figure
	train, record, err := d.tellingTrain(func(e string) bool { return !slices.Contains(operations, e) })
	if err != nil {
		return nil, "", err
	}
	stages, what := d.joinStages()
	if stages == nil && train == nil {
		return nil, "", missingf("no trial has a train.json, and there are no samples of join.* or leave.*")
	}
	pg := &page{width: doubleWidth}
	caption := "A site joins a VPC and leaves it."
	var parts []part
	if stages != nil {
		parts = append(parts, part{"stages, as time since each request", stages.height(), stages.draw})
		pg.subtitle = append(pg.subtitle, what...)
		caption += " Stages: time since each request. " + strings.Join(what, " ")
	}
	if train != nil {
		probes, text := d.trainPart(train, record, pg)
		parts = append(parts, part{"probes of one trial meanwhile", probes.height(), probes.draw})
		pg.subtitle = append(pg.subtitle, "Probes: "+text)
		caption += " Probes: a steady stream meanwhile; a row is an ordered pair of machines, marks are what the control plane did. " + capital(text)
	}
	pg.subtitle = append(pg.subtitle, d.kernelText())
	pg.bodyHeight, pg.body = stackParts(parts)
	return pg, caption + " " + d.kernelText(), nil
}

// part is one of several plots on a page, under a heading.
type part struct {
	heading string
	height  vg.Length
	draw    func(draw.Canvas)
}

// stackParts puts parts below each other; a single one has no heading.
func stackParts(parts []part) (vg.Length, func(draw.Canvas)) {
	if len(parts) == 1 {
		return parts[0].height, parts[0].draw
	}
	const gap = vg.Length(6)
	height := vg.Length(0)
	for _, p := range parts {
		height += p.height + lineHeight() + gap
	}
	return height, func(c draw.Canvas) {
		y := c.Max.Y
		for _, p := range parts {
			y -= lineHeight()
			c.FillText(boldStyle(textSize, ink), vg.Point{X: c.Min.X, Y: y}, p.heading)
			area := c
			area.Min.Y, area.Max.Y = y-p.height, y-2
			p.draw(area)
			y -= p.height + gap
		}
	}
}

// tellingTrain reads the train.json of an experiment that tells most: the one
// with most probes lost, so that no loss is hidden, and among equals the one
// with most probes.
func (d *data) tellingTrain(of func(experiment string) bool) (best *metrics.Train, record metrics.TrialRecord, err error) {
	dirs, records := d.store.TrialDirs("")
	mostLost := -1
	for i, dir := range dirs {
		if !of(records[i].Experiment) {
			continue
		}
		t, err := readTrain(filepath.Join(dir, "train.json"))
		if err != nil {
			return nil, records[i], err
		}
		if t == nil || len(t.Probes) == 0 {
			continue
		}
		lost := 0
		for _, p := range t.Probes {
			if !p.OK {
				lost++
			}
		}
		if lost > mostLost || lost == mostLost && len(t.Probes) > len(best.Probes) {
			best, record, mostLost = t, records[i], lost
		}
	}
	return best, record, nil
}

// readTrain reads one train.json; nil: there is none.
func readTrain(name string) (*metrics.Train, error) {
	raw, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var t metrics.Train
	if err := json.Unmarshal(raw, &t); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &t, nil
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

// trainPart lays out a train, adds what it needs to the page's legend and
// footer, and says what it is.
func (d *data) trainPart(t *metrics.Train, record metrics.TrialRecord, pg *page) (trainLayout, string) {
	all := flows(t)
	shown := all
	if len(shown) > maxFlows {
		shown = shown[:maxFlows]
	}
	marks := slices.SortedStableFunc(slices.Values(t.Marks), func(a, b metrics.TrainMark) int { return cmp.Compare(a.T, b.T) })
	pg.legend = []entry{{"probe came through", boxThumb(throughLook)}, {"no answer", boxThumb(lostLook)}}
	for i, m := range marks {
		pg.footer = append(pg.footer, bind(fmt.Sprintf("%s: %s %.3f s.", letter(i), m.Name, m.T)))
	}
	lost := 0
	for _, f := range all {
		lost += f.lost
	}
	text := fmt.Sprintf("%d over %s, %d without answer (n = 1 trial: %s).", len(t.Probes), count(fmt.Sprint(len(all)), "ordered pair"), lost, trialText(record))
	if len(shown) < len(all) {
		text += fmt.Sprintf(" %d pairs shown.", len(shown))
	}
	return trainLayout{flows: shown, marks: marks}, text
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
	return vg.Length(l.levels())*lineHeight() + 2
}

// span is the time from the first to the last thing to draw.
func (l trainLayout) span() (begin, end float64) {
	for _, f := range l.flows {
		end = math.Max(end, f.probes[len(f.probes)-1].T)
	}
	for _, m := range l.marks {
		begin, end = math.Min(begin, m.T), math.Max(end, m.T)
	}
	return begin, math.Max(end, 1e-3)
}

// levels is how many lines of letters the marks need, reckoned with less
// width than there will be.
func (l trainLayout) levels() int {
	begin, end := l.span()
	unit := float64(doubleWidth) * 0.6 / (end - begin)
	most := 0
	place := newMarkPlacer()
	for i, m := range l.marks {
		most = max(most, place.level(vg.Length(m.T*unit), letter(i))+1)
	}
	return most
}

// markPlacer puts letters on levels so that they do not cover each other.
type markPlacer struct{ reach [markLevels]vg.Length }

func newMarkPlacer() *markPlacer {
	p := &markPlacer{}
	for i := range p.reach {
		p.reach[i] = -1e6
	}
	return p
}

// level is where the name of a mark at x goes; marks come from left to right.
func (p *markPlacer) level(x vg.Length, name string) int {
	half := boldStyle(textSize, ink).Width(name)/2 + 1.5
	level := 0
	for level < markLevels-1 && x-half < p.reach[level] {
		level++
	}
	p.reach[level] = x + half
	return level
}

func (l trainLayout) height() vg.Length {
	return vg.Length(len(l.flows))*flowRow + axisRoom + l.markRoom()
}

func (l trainLayout) draw(c draw.Canvas) {
	p := newPlot(grid{x: true})
	var ticks plot.ConstantTicks
	for i, f := range l.flows {
		ticks = append(ticks, plot.Tick{Value: -(float64(i) + 0.5), Label: f.name})
	}
	begin, end := l.span()
	p.X.Min, p.X.Max, p.X.Tick.Marker = begin, end+(end-begin)*0.01, linearTicks{}
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
	place := newMarkPlacer()
	for i, m := range l.marks {
		x, name := tx(m.T), letter(i)
		half := sty.Width(name)/2 + 0.5
		level := place.level(x, name)
		y := c.Max.Y + vg.Length(level)*lineHeight()
		c.StrokeLine2(draw.LineStyle{Color: ink, Width: thinLine, Dashes: dotted}, x, c.Min.Y, x, y+1)
		c.FillPolygon(white, corners(vg.Rectangle{Min: vg.Point{X: x - half, Y: y + 1.5}, Max: vg.Point{X: x + half, Y: y + lineHeight() - 0.5}}))
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

// joinStages lays out the medians of the stages of join and leave in the
// largest lab, and says what they are; nil where there are none.
func (d *data) joinStages() (*stageDots, []string) {
	names := make([]string, len(joinMetrics))
	for i, m := range joinMetrics {
		names[i] = m.metric
	}
	experiments := d.experiments(names...)
	if len(experiments) == 0 {
		return nil, nil
	}
	exp := d.repeated(experiments, names...)[0]
	var rows []metrics.PointSummary
	for _, n := range names {
		rows = append(rows, d.of(exp, n)...)
	}
	ps := points(rows)
	shown := ps[len(ps)-1] // the largest lab
	l := &stageDots{}
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
	what := []string{
		fmt.Sprintf("Stages: median; %s; %s.", spreadText(used), nText(used)),
		sentence(describe(shown, slices.SortedFunc(maps.Keys(shown), compareKeys))),
	}
	if which := d.whichText(exp, experiments); which != "" {
		what = append(what, strings.TrimSpace(which))
	}
	return l, what
}

// stageDots is a dot and a whisker a row.
type stageDots struct {
	names []string
	sums  []metrics.Summary
	axis  string
}

func (l stageDots) height() vg.Length {
	return vg.Length(len(l.sums))*flowRow + axisRoom + 4
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
