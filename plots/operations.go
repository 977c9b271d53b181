package plots

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/vpclab/vpclab/metrics"
)

// cloudNet is how long CloudNet's routers took to take an endpoint into a VPN:
// 24.21 s for the commit at one router and 0.03 s for BGP to tell three sites
// (Wood et al., VEE 2011 and IEEE/ACM ToN 23(5), 2015, figure 9).
const cloudNet = 24.24

// operationStage is a mark in the row of an operation.
type operationStage struct {
	metric, name string
	look         look
}

// operationStages are in the order of the work, each on a level of its own
// below the one before: stages that follow each other closely stay apart. The
// last is no time since the request: it is how long packets were lost.
var operationStages = []operationStage{
	{"operation.configured", "configured", look{color: blue, marker: filledCircle}},
	{"operation.policy", "RT policy set", look{color: skyBlue, marker: openCircle}},
	{"operation.announced", "BGP announced", look{color: green, marker: filledTriangle}},
	{"operation.programmed", "programmed", look{color: black, marker: filledSquare}},
	{"operation.first_packet", "first packet", look{color: vermillion, marker: openDiamond}},
	{outageMetric, "outage (duration)", look{color: orange, marker: openSquare}},
}

const outageMetric = "operation.outage"

// makeOperations is CloudNet's figure 9 for every operation of an experiment:
// when each stage was done.
func makeOperations(d *data) (*page, string, error) {
	experiments := d.experiments("operation.programmed")
	if len(experiments) == 0 {
		return nil, "", missingf("no samples of operation.programmed: no vpc-operations experiment has finished a trial")
	}
	exp := best(d.repeated(experiments, "operation.programmed"), func(e string) int { return len(d.of(e, "operation.programmed")) })
	names, err := d.inOrder(exp, "operation.programmed", "operation")
	if err != nil {
		return nil, "", err
	}
	l := operationRows{names: names, marks: make([][]operationMark, len(names))}
	var used []metrics.PointSummary
	for i, name := range names {
		for level, st := range operationStages {
			for _, r := range d.of(exp, st.metric, "operation", name) {
				l.marks[i] = append(l.marks[i], operationMark{level, r.Summary})
				used = append(used, r)
			}
		}
	}
	whole := fmt.Sprintf("Median time since each request; %s; %s a mark.", spreadText(used), nText(used))
	others := d.othersText(exp)
	pg := &page{width: doubleWidth, subtitle: []string{whole, others, d.kernelText()}}
	pg.footer = []string{"The broken line is one site that CloudNet's routers took into a VPN: hardware of 2011 on another network.", "Compare orders of magnitude only."}
	for _, st := range operationStages {
		if slices.ContainsFunc(used, func(r metrics.PointSummary) bool { return r.Metric == st.metric }) {
			pg.legend = append(pg.legend, entry{st.name, series{look: st.look}.thumb})
		}
	}
	parts := []part{{"stages, as time since each request", l.height(), l.draw}}
	train, record, err := d.tellingTrain(func(e string) bool { return e == exp })
	if err != nil {
		return nil, "", err
	}
	if train != nil {
		stages := pg.legend
		probes, text := d.trainPart(onlyRequests(train), record, pg)
		pg.legend = append(stages, pg.legend...)
		parts = append(parts, part{"probes of those who talk meanwhile, in one trial", probes.height(), probes.draw})
		pg.subtitle = slices.Insert(pg.subtitle, 2, "Probes: "+text)
	}
	pg.bodyHeight, pg.body = stackParts(parts)
	caption := fmt.Sprintf("Operations on running VPCs in the order they were carried out, and when each stage was done. %s The first packet is that of the last pair between what came and each other site of its VPC; an outage is the longest run of lost probes. %s"+
		" The broken line is what CloudNet's routers took to take one site into a VPN, 24.24 s (figure 9 of Wood et al., VEE 2011 and ToN 2015). That was routers of 2011 on another network, most of it the commit of one configuration: the comparison is one of orders of magnitude. A whisker that reaches the left edge goes on to zero. %s%s",
		whole, others, d.kernelText(), d.whichText(exp, experiments))
	return pg, caption, nil
}

// onlyRequests is a train with the marks of the requests alone: what followed
// them is in the rows of the operations.
func onlyRequests(t *metrics.Train) *metrics.Train {
	marks := slices.DeleteFunc(slices.Clone(t.Marks), func(m metrics.TrainMark) bool { return !strings.HasSuffix(m.Name, " requested") })
	for i := range marks {
		marks[i].Name = operationText(strings.TrimSuffix(marks[i].Name, " requested"))
	}
	return &metrics.Train{Probes: t.Probes, Marks: marks}
}

// inOrder are the values of a label of a metric, in the order in which the
// first trial measured them.
func (d *data) inOrder(experiment, metric, label string) (values []string, err error) {
	samples, err := d.store.Samples()
	for _, s := range samples {
		if s.Experiment == experiment && s.Metric == metric && !slices.Contains(values, s.Labels[label]) {
			values = append(values, s.Labels[label])
		}
	}
	return values, err
}

// othersText says what those noticed whom no operation was about.
func (d *data) othersText(exp string) string {
	sent, lost := d.of(exp, "operations.probes_sent"), d.of(exp, "operations.probes_lost")
	if len(sent) != 1 || len(lost) != 1 {
		return ""
	}
	return fmt.Sprintf("Those who talk meanwhile lost %s of %s probes.", groupDigits(math.Round(lost[0].Mean*float64(lost[0].N))), groupDigits(math.Round(sent[0].Mean*float64(sent[0].N))))
}

// operationRows is a row an operation.
type operationRows struct {
	names []string
	marks [][]operationMark
}

// operationMark is a stage in a row.
type operationMark struct {
	level int // index of the stage
	sum   metrics.Summary
}

const (
	stageStep    = vg.Length(4.6) // from one level to the next
	operationPad = vg.Length(5.5) // above and below the levels of a row
)

// levels are how many levels the rows need, and the first of them that is
// used: stages that no operation has take no room.
func (l operationRows) levels() (used []int) {
	for level := range operationStages {
		if slices.ContainsFunc(l.marks, func(row []operationMark) bool {
			return slices.ContainsFunc(row, func(m operationMark) bool { return m.level == level })
		}) {
			used = append(used, level)
		}
	}
	return used
}

func (l operationRows) rowHeight() vg.Length {
	return vg.Length(len(l.levels())-1)*stageStep + 2*operationPad
}

func (l operationRows) height() vg.Length {
	return vg.Length(len(l.names))*l.rowHeight() + axisRoom + lineHeight() + 2
}

func (l operationRows) draw(c draw.Canvas) {
	p := newPlot(grid{x: true})
	var ticks plot.ConstantTicks
	lo := 1.0
	for i, row := range l.marks {
		ticks = append(ticks, plot.Tick{Value: -(float64(i) + 0.5), Label: operationText(l.names[i])})
		for _, m := range row {
			if low, _, _ := spread(m.sum); low > 0 {
				lo = math.Min(lo, low)
			}
		}
	}
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, durationTicks{}
	p.X.Min, p.X.Max = lo/1.6, cloudNet*1.7
	p.Y.Min, p.Y.Max = -float64(len(l.names)), 0
	p.Y.Tick.Marker, p.Y.Tick.Length = ticks, 0
	p.Add(l)
	paint(draw.Crop(c, 0, 0, 0, -(lineHeight()+2)), p, "time since the request, logarithmic", "")
}

// operationText is an operation's name for people: "join-2" is the second
// join.
func operationText(name string) string {
	do, nth, numbered := strings.Cut(name, "-")
	if _, err := strconv.Atoi(nth); !numbered || err != nil {
		return name
	}
	return do + " (" + nth + ")"
}

// Plot draws the rows and CloudNet's line.
func (l operationRows) Plot(c draw.Canvas, p *plot.Plot) {
	tx, ty := p.Transforms(&c)
	l.cloudNet(c, tx(cloudNet))
	levels := l.levels()
	for i, row := range l.marks {
		if i > 0 {
			c.StrokeLine2(draw.LineStyle{Color: midGrey, Width: hairline}, c.Min.X, ty(-float64(i)), c.Max.X, ty(-float64(i)))
		}
		top := ty(-float64(i)) - operationPad
		at := func(m operationMark) vg.Point {
			x := c.Min.X // a stage that took no time that can be seen
			if m.sum.Median > p.X.Min {
				x = tx(m.sum.Median)
			}
			return vg.Point{X: x, Y: top - vg.Length(slices.Index(levels, m.level))*stageStep}
		}
		l.path(c, row, at)
		for k, m := range row {
			metric := operationStages[m.level].metric
			// The end of the time line has its value beside it, and what
			// packets noticed.
			end := metric != outageMetric && (k == len(row)-1 || operationStages[row[k+1].level].metric == outageMetric)
			l.mark(c, tx, p.X.Min, m, at(m), end || metric == outageMetric)
		}
	}
}

func (l operationRows) cloudNet(c draw.Canvas, x vg.Length) {
	c.StrokeLine2(draw.LineStyle{Color: subtleInk, Width: seriesLine, Dashes: dashed}, x, c.Min.Y, x, c.Max.Y+2)
	sty := textStyle(textSize, ink)
	sty.XAlign = draw.XRight
	c.FillText(sty, vg.Point{X: c.Max.X, Y: c.Max.Y + 4.5}, "CloudNet, 2011: 24.24 s to add a site")
}

// path leads down the stages of a row, as they followed each other.
func (l operationRows) path(c draw.Canvas, row []operationMark, at func(operationMark) vg.Point) {
	var steps []vg.Point
	for _, m := range row {
		if operationStages[m.level].metric == outageMetric {
			continue
		}
		if n := len(steps); n > 0 {
			steps = append(steps, vg.Point{X: steps[n-1].X, Y: at(m).Y})
		}
		steps = append(steps, at(m))
	}
	if len(steps) > 1 {
		c.StrokeLines(draw.LineStyle{Color: grey, Width: thinLine}, steps)
	}
}

// mark draws one stage with its interval; nothing is drawn left of least.
func (l operationRows) mark(c draw.Canvas, tx func(float64) vg.Length, least float64, m operationMark, at vg.Point, named bool) {
	st := operationStages[m.level]
	lo, hi, caps := spread(m.sum)
	if hi > least {
		drawLevelWhisker(c, draw.LineStyle{Color: st.look.color, Width: thinLine + 0.2}, at.Y, tx(math.Max(lo, least)), tx(hi), caps)
	}
	drawMarker(c, st.look, at)
	if !named {
		return
	}
	sty := textStyle(textSize, ink)
	sty.YAlign = -0.4
	right := at.X
	if hi > least {
		right = max(right, tx(hi))
	}
	c.FillText(sty, vg.Point{X: right + markerRadius + 4, Y: at.Y}, durationText(m.sum.Median))
}

// durationTicks are logTicks of seconds that say their unit: 10 ms, 1 s.
type durationTicks struct{}

func (durationTicks) Ticks(lo, hi float64) []plot.Tick {
	ticks := logTicks{}.Ticks(lo, hi)
	for i, t := range ticks {
		switch {
		case t.Label == "":
		case t.Value < 1-1e-9:
			ticks[i].Label = groupDigits(math.Round(t.Value*1e6)/1e3) + " ms"
		default:
			ticks[i].Label += " s"
		}
	}
	return ticks
}

// durationText writes seconds with three digits, in ms below half a second.
func durationText(s float64) string {
	if s < 0.5 {
		return digits3(s*1000) + " ms"
	}
	return digits3(s) + " s"
}
