package plots

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/vpclab/vpclab/metrics"
)

// Files of a trial of a reconvergence, in seconds since the fault.
const (
	goodputName = "goodput.csv"
	marksName   = "marks.csv"
)

// recoveryTrial is one of them.
type recoveryTrial struct {
	recovery    recovery
	outage      float64
	there, back plotter.XYs // Mb/s over time
	found, flow float64     // when somebody had found out, and when packets flowed; NaN: never
	switched    []float64   // when routers and the controller acted
}

// makeRecoveryTimeline draws goodput around a fault, by what the network has
// to get over it.
func makeRecoveryTimeline(d *data) (*page, string, error) {
	const metric = "reconvergence.outage"
	s := d.chooseSweep([]string{"recovery", "fault"}, []string{metric}, nil)
	if len(s.rows) == 0 {
		return nil, "", missingf("no samples of %s: no reconvergence experiment has finished a trial", metric)
	}
	faults := ordered(s.rows, "fault", func(func(string)) {})
	fault := best(faults, func(f string) int { return len(s.of(metric, "fault", f)) })
	var rows []recoveryTrial
	ns := map[int]bool{}
	for _, r := range recoveriesOf(s.of(metric, "fault", fault)) {
		row := s.of(metric, "fault", fault, "recovery", r.id)[0]
		t, ok, err := d.recoveryTrial(r, row)
		if err != nil {
			return nil, "", err
		}
		if ok && len(rows) < 6 {
			rows, ns[row.N] = append(rows, t), true
		}
	}
	if len(rows) == 0 {
		return nil, "", missingf("no trial of a reconvergence has a %s", goodputName)
	}
	top := 0.0
	for _, t := range rows {
		for _, xy := range slices.Concat(t.there, t.back) {
			top = math.Max(top, xy.Y)
		}
	}
	g := panelRows{each: 0.95 * vg.Inch}
	for _, t := range rows {
		pn := panel{heading: fmt.Sprintf("%s: outage %s", t.recovery.name, durationText(t.outage)), yName: "Mb/s", plot: func() *plot.Plot { return t.plot(top) }}
		if n := len(g.rows); n > 0 && len(g.rows[n-1]) == 1 {
			g.rows[n-1] = append(g.rows[n-1], pn)
		} else {
			g.rows = append(g.rows, []panel{pn})
		}
	}
	for i := range g.rows[len(g.rows)-1] {
		g.rows[len(g.rows)-1][i].xName = "time since the fault (s)"
	}
	pg := &page{width: doubleWidth, bodyHeight: g.height(), body: g.draw}
	pg.legend = []entry{
		{"there", lineThumb(thereLine)}, {"back", lineThumb(backLine)},
		{"packets are lost", boxThumb(look{color: midGrey})}, {"found out", lineThumb(foundLine)}, {"router or controller acts", lineThumb(actsLine)},
	}
	whole := typicalText("way to recover", "with the median outage", ns)
	pg.subtitle = []string{capital(faultText(fault)) + ". " + whole, s.heldText(), d.kernelText()}
	caption := fmt.Sprintf("Goodput of a TCP flow in each direction around a fault (%s), by what the network has to get over it. TCP sees more than packets do: what was lost is sent again when its timer runs out, 200 ms at the soonest, which doubles each time. %s %s %s%s",
		faultText(fault), whole, s.heldText(), d.kernelText(), s.whichText(d, metric))
	return pg, caption, nil
}

// recoveryTrial reads the trial with the median outage.
func (d *data) recoveryTrial(r recovery, row metrics.PointSummary) (t recoveryTrial, ok bool, err error) {
	dirs, records := d.store.TrialDirs(row.Experiment)
	trial := d.typicalTrial(row)
	i := slices.IndexFunc(records, func(rec metrics.TrialRecord) bool {
		return rec.Trial == trial && metrics.PointText(rec.Point) == metrics.PointText(row.Labels)
	})
	if i < 0 {
		return t, false, nil
	}
	t = recoveryTrial{recovery: r, outage: d.byTrials(row)[trial][0], found: math.NaN(), flow: math.NaN()}
	table, err := readCSV(filepath.Join(dirs[i], goodputName), "", "t_s", "there_bps", "back_bps")
	if errors.Is(err, fs.ErrNotExist) {
		return t, false, nil
	}
	if err != nil {
		return t, false, err
	}
	for _, line := range table {
		t.there = append(t.there, plotter.XY{X: line.numbers[0], Y: line.numbers[1] / 1e6})
		t.back = append(t.back, plotter.XY{X: line.numbers[0], Y: line.numbers[2] / 1e6})
	}
	marks, err := readCSV(filepath.Join(dirs[i], marksName), "mark", "t_s")
	if err != nil {
		return t, false, err
	}
	for _, m := range marks {
		at := m.numbers[0]
		switch {
		case m.text == "found out":
			t.found = at
		case m.text == "packets flow":
			t.flow = at
		case strings.HasPrefix(m.text, "repair.switched"), strings.HasPrefix(m.text, "pic.switched"), strings.HasPrefix(m.text, "reroute.applied"):
			t.switched = append(t.switched, at)
		}
	}
	return t, len(t.there) > 0, nil
}

var (
	thereLine = draw.LineStyle{Color: blue, Width: seriesLine}
	backLine  = draw.LineStyle{Color: vermillion, Width: seriesLine, Dashes: dashed}
	foundLine = draw.LineStyle{Color: orange, Width: seriesLine}
	actsLine  = draw.LineStyle{Color: green, Width: thinLine, Dashes: dotted}
)

// plot is one panel, up to twice the outage after the fault.
func (t recoveryTrial) plot(top float64) *plot.Plot {
	p := newPlot(grid{y: true})
	to := math.Max(0.6, math.Min(t.there[len(t.there)-1].X, 2*t.outage+0.5))
	p.X.Min, p.X.Max, p.X.Tick.Marker = math.Max(-0.3, t.there[0].X), to*1.04, fewTicks{4}
	p.Y.Min, p.Y.Max, p.Y.Tick.Marker = 0, top*1.05, fewTicks{3}
	p.Add(t)
	return p
}

// Plot draws what is to be seen of the trial.
func (t recoveryTrial) Plot(c draw.Canvas, p *plot.Plot) {
	tx, ty := p.Transforms(&c)
	x := func(at float64) vg.Length { return tx(math.Max(p.X.Min, math.Min(p.X.Max, at))) }
	if !math.IsNaN(t.flow) {
		c.FillPolygon(midGrey, corners(vg.Rectangle{Min: vg.Point{X: x(t.flow - t.outage), Y: c.Min.Y}, Max: vg.Point{X: x(t.flow), Y: c.Max.Y}}))
	}
	for _, s := range []struct {
		pts plotter.XYs
		sty draw.LineStyle
	}{{t.there, thereLine}, {t.back, backLine}} {
		var line []vg.Point
		for _, xy := range s.pts {
			if xy.X >= p.X.Min && xy.X <= p.X.Max {
				line = append(line, vg.Point{X: tx(xy.X), Y: ty(math.Min(xy.Y, p.Y.Max))})
			}
		}
		c.StrokeLines(s.sty, line)
	}
	if !math.IsNaN(t.found) && t.found <= p.X.Max {
		c.StrokeLine2(foundLine, x(t.found), c.Min.Y, x(t.found), c.Max.Y)
	}
	for _, at := range t.switched {
		if at <= p.X.Max {
			c.StrokeLine2(actsLine, x(at), c.Min.Y, x(at), c.Max.Y)
		}
	}
}
