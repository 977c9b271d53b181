package plots

import (
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/vpclab/vpclab/metrics"
)

// Files of a trial: every answer that users got, and when the VM's phases
// began and ended. Both count from the request to move it.
const (
	responsesName = "responses.csv"
	phasesName    = "phases.csv"
)

// response is one answer: when it was asked for, in seconds since the request
// to move the VM, and how long it took.
type response struct{ at, took float64 }

// movePhases are the phases of a migration, in order, and of a failover, by their
// names in the file of phases. The hand-over is beside the pause and has no box of its own.
var movePhases = []movePhase{
	{"join", "VPN join", look{color: orange, hatch: levelBars}},
	{"disk", "disk", look{color: skyBlue, hatch: fallingBars}},
	{"sync", "disk in step", look{color: green, hatch: uprightBars}},
	{"memory", "memory", look{color: yellow, hatch: risingBars}},
	{"pause", "VM stands", look{color: black}},
	{"rest", "pages follow", look{color: purple, hatch: crossedBars}},
	// Of a failover.
	{"detect", "detect", look{color: orange, hatch: risingBars}},
	{"decide", "decide and fence", look{color: yellow}},
	{"activate", "activate", look{color: blue}},
	{"redirect", "redirect", look{color: purple, hatch: crossedBars}},
	{"client", "client", look{color: green, hatch: fallingBars}},
}

type movePhase struct {
	id, name string
	look     look
}

// phaseSpan is a phase of one migration, in seconds since the request.
type phaseSpan struct {
	phase    int // of movePhases
	from, to float64
}

// moveTimeline is one migration as its users saw it.
type moveTimeline struct {
	algorithm algorithm
	title     string // of what is no migration
	record    metrics.TrialRecord
	phases    []phaseSpan
	responses []response
	pause     float64
	// stop and start bound the time that the VM stood.
	stop, start float64
}

// maxTimelines is how many migrations fit a page.
const maxTimelines = 4

// timelineAlgorithms are drawn before others.
var timelineAlgorithms = []string{"xen30", "cloudnet", "vpclab", "post-copy", "hybrid", "xen5"}

// makeTimeline is figure 10 of CloudNet: what users of a VM see while it moves.
func makeTimeline(d *data) (*page, string, error) {
	rows, s, n, err := d.timelines()
	if err != nil {
		return nil, "", err
	}
	l := timelineLayout{rows: rows, since: "the request"}
	pg := &page{width: doubleWidth, bodyHeight: l.height(), body: l.draw}
	for i, ph := range movePhases {
		if slices.ContainsFunc(rows, func(m moveTimeline) bool {
			return slices.ContainsFunc(m.phases, func(p phaseSpan) bool { return p.phase == i })
		}) {
			pg.legend = append(pg.legend, entry{ph.name, boxThumb(ph.look)})
		}
	}
	pg.legend = append(pg.legend, entry{"one answer", answerThumb}, entry{"median over time", lineThumb(medianLine)}, entry{"95th percentile", lineThumb(slowLine)})
	whole := typicalText("algorithm", "with the median pause", n)
	if k := l.thinning(); k > 1 {
		whole += fmt.Sprintf(" Of answers that are faster than the 95th percentile, one in %d is drawn.", k)
	}
	pg.subtitle = []string{whole, s.heldText(), d.kernelText()}
	caption := fmt.Sprintf("What users of a VM see while it moves: how long each answer took, by the moment of its question, on a logarithmic axis; above it the phases of the migration. On the right, the time around the pause: questions from then wait until the VM runs at the destination and the network leads there. %s All connections are those from before the move. %s %s",
		whole, s.heldText(), d.kernelText())
	return pg, caption + s.whichText(d, "migration.pause"), nil
}

// timelines finds the migrations to show: of the paper's workload and
// bandwidth where the run has them, else of any.
func (d *data) timelines() ([]moveTimeline, sweep, map[int]bool, error) {
	dirs, records := d.store.TrialDirs("")
	withFile := map[string]string{} // folder, by experiment, point and trial
	for i, dir := range dirs {
		if _, err := os.Stat(filepath.Join(dir, responsesName)); err == nil {
			withFile[trialKey(records[i].Experiment, records[i].Point, records[i].Trial)] = dir
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, sweep{}, nil, err
		}
	}
	recordOf := map[string]metrics.TrialRecord{}
	for _, r := range records {
		recordOf[trialKey(r.Experiment, r.Point, r.Trial)] = r
	}
	dirOf := func(r metrics.PointSummary, trial int) (string, metrics.TrialRecord) {
		p := maps.Clone(r.Labels)
		delete(p, "leg")
		key := trialKey(r.Experiment, p, trial)
		return withFile[key], recordOf[key]
	}
	for _, wanted := range []map[string]string{{"workload": "tpcw", "rate": "85mbit"}, {"workload": "tpcw", "rate": "100mbit"}, {"workload": "tpcw"}, nil} {
		s := d.chooseSweep([]string{"algorithm"}, []string{"migration.pause"}, func(r metrics.PointSummary) bool {
			for k, v := range wanted {
				if r.Labels[k] != v {
					return false
				}
			}
			if !alone(r) {
				return false
			}
			for trial := range d.byTrials(r) {
				if dir, _ := dirOf(r, trial); dir != "" {
					return true
				}
			}
			return false
		})
		if len(s.rows) == 0 {
			continue
		}
		as := algorithmsOf(s.rows)
		slices.SortStableFunc(as, func(a, b algorithm) int { return rank(a.id) - rank(b.id) })
		var rows []moveTimeline
		ns := map[int]bool{}
		for _, a := range as[:min(len(as), maxTimelines)] {
			r := s.of("migration.pause", "algorithm", a.id)[0]
			trial := d.typicalTrial(r)
			dir, record := dirOf(r, trial)
			if dir == "" {
				continue
			}
			m, err := readTimeline(a, dir)
			if err != nil {
				return nil, s, nil, err
			}
			if len(m.responses) > 0 && len(m.phases) > 0 {
				m.record = record
				rows, ns[r.N] = append(rows, m), true
			}
		}
		if len(rows) > 0 {
			return rows, s, ns, nil
		}
	}
	return nil, sweep{}, nil, missingf("no trial of a migration has a %s: nobody used the VM (clients), or it has no %s", responsesName, phasesName)
}

func rank(id string) int {
	if i := slices.Index(timelineAlgorithms, id); i >= 0 {
		return i
	}
	return len(timelineAlgorithms)
}

func trialKey(experiment string, point map[string]string, trial int) string {
	return fmt.Sprintf("%s\x00%s\x00%d", experiment, metrics.PointText(point), trial)
}

// typicalTrial is the trial with the median value of a row.
func (d *data) typicalTrial(r metrics.PointSummary) int {
	values := d.byTrials(r)
	trials := slices.SortedFunc(maps.Keys(values), func(a, b int) int {
		return cmp.Or(cmp.Compare(values[a][0], values[b][0]), a-b)
	})
	return trials[(len(trials)-1)/2]
}

// readTimeline reads one migration; without phases there is nothing to show.
func readTimeline(a algorithm, dir string) (m moveTimeline, err error) {
	m.algorithm = a
	for _, name := range []string{phasesName, "phases-out-1.csv"} { // of one move, or of the first of several
		if m.phases, err = readPhases(filepath.Join(dir, name)); err != nil {
			return m, err
		}
		if len(m.phases) > 0 {
			break
		}
	}
	for _, ph := range m.phases {
		if movePhases[ph.phase].id == "pause" {
			m.stop, m.start, m.pause = ph.from, ph.to, ph.to-ph.from
		}
	}
	m.responses, err = readResponses(filepath.Join(dir, responsesName))
	return m, err
}

// readPhases reads a file of phases; no file is no phases.
func readPhases(name string) ([]phaseSpan, error) {
	table, err := readCSV(name, "phase", "from_s", "to_s")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var spans []phaseSpan
	for _, row := range table {
		i := slices.IndexFunc(movePhases, func(ph movePhase) bool { return ph.id == row.text })
		if i >= 0 && row.numbers[1] > row.numbers[0] {
			spans = append(spans, phaseSpan{i, row.numbers[0], row.numbers[1]})
		}
	}
	return spans, nil
}

// readResponses reads a file of answers, in the order of their questions.
func readResponses(name string) ([]response, error) {
	table, err := readCSV(name, "", "t_s", "response_s")
	if err != nil {
		return nil, err
	}
	all := make([]response, len(table))
	for i, row := range table {
		all[i] = response{row.numbers[0], row.numbers[1]}
	}
	slices.SortStableFunc(all, func(a, b response) int { return cmp.Compare(a.at, b.at) })
	return all, nil
}

// csvRow is what is wanted of a row of a file.
type csvRow struct {
	text    string
	numbers []float64
}

// readCSV reads columns of a file with a head: one of text ("": none), and
// some of numbers.
func readCSV(name, text string, numbers ...string) ([]csvRow, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(rows) == 0 {
		return nil, fmt.Errorf("%s: it is empty; expected a head with %v", name, numbers)
	}
	column := map[string]int{}
	for _, want := range append([]string{text}, numbers...) {
		if column[want] = slices.Index(rows[0], want); want != "" && column[want] < 0 {
			return nil, fmt.Errorf("%s: the columns are %v; expected %s among them", name, rows[0], want)
		}
	}
	table := make([]csvRow, 0, len(rows)-1)
	for i, row := range rows[1:] {
		var out csvRow
		if text != "" {
			out.text = row[column[text]]
		}
		for _, n := range numbers {
			v, err := strconv.ParseFloat(row[column[n]], 64)
			if err != nil {
				return nil, fmt.Errorf("%s: line %d: %s: %w", name, i+2, n, err)
			}
			out.numbers = append(out.numbers, v)
		}
		table = append(table, out)
	}
	return table, nil
}

// timelineLayout is a row a migration: all of it on the left, the pause on
// the right.
type timelineLayout struct {
	rows  []moveTimeline
	since string // what times count from
}

const (
	timelinePlot   = vg.Length(82)
	timelineRibbon = vg.Length(8)
)

func (l timelineLayout) rowHeight() vg.Length {
	return lineHeight() + timelineRibbon + timelinePlot + lineHeight() + 10
}

func (l timelineLayout) height() vg.Length {
	return vg.Length(len(l.rows))*l.rowHeight() + labelSize + 4
}

// bounds are those of all rows: times in seconds, answers in milliseconds.
func (l timelineLayout) bounds() (from, to, lo, hi float64) {
	from, lo = 0, math.Inf(1)
	for _, m := range l.rows {
		from = math.Min(from, m.responses[0].at)
		to = math.Max(to, math.Max(slices.MaxFunc(m.phases, func(a, b phaseSpan) int { return cmp.Compare(a.to, b.to) }).to, m.responses[len(m.responses)-1].at))
		for _, r := range m.responses {
			if v := r.took * 1000; v > 0 {
				lo, hi = math.Min(lo, v), math.Max(hi, v)
			}
		}
	}
	if hi == 0 {
		lo, hi = 1, 10
	}
	return from, to, lo, hi
}

func (l timelineLayout) draw(c draw.Canvas) {
	from, to, lo, hi := l.bounds()
	y := c.Max.Y
	right := (c.Max.X - c.Min.X) * 0.33
	for i, m := range l.rows {
		bottom := y - l.rowHeight()
		name := ""
		if i == len(l.rows)-1 {
			name = "time since " + l.since + " (s)"
			bottom -= labelSize + 4
		}
		c.FillText(boldStyle(textSize, ink), vg.Point{X: c.Min.X, Y: y - lineHeight() + 1}, m.heading())
		area := c
		area.Max.Y, area.Min.Y = y-lineHeight()-timelineRibbon, bottom
		whole, near := area, area
		whole.Max.X -= right + panelGap
		near.Min.X = c.Max.X - right
		m.panel(whole, from, to, lo, hi, name, true, l.thinning())
		around := math.Max(m.pause, 0.05)
		m.panel(near, m.stop-1.5*around, m.start+2.5*around, lo, hi, name, false, 1)
		y -= l.rowHeight()
	}
}

// heading says what a row is, with what counts of it.
func (m moveTimeline) heading() string {
	if m.title != "" {
		return m.title
	}
	longest := 0.0
	for _, r := range m.responses {
		longest = math.Max(longest, r.took)
	}
	return fmt.Sprintf("%s: the VM stands for %s, the longest answer takes %s", m.algorithm.name, durationText(m.pause), durationText(longest))
}

// panel draws a stretch of time, with the ribbon of phases above.
func (m moveTimeline) panel(c draw.Canvas, from, to, lo, hi float64, xName string, named bool, thinning int) {
	p := newPlot(grid{y: true})
	p.X.Min, p.X.Max, p.X.Tick.Marker = from, to, linearTicks{}
	setLogAxis(&p.Y, lo, hi)
	yName := ""
	if named {
		yName = "answer (ms)"
	}
	p.Add(answersPlot{m, from, to, thinning})
	area := paint(c, p, xName, yName)
	x := func(t float64) vg.Length {
		return area.Min.X + (area.Max.X-area.Min.X)*vg.Length((math.Max(from, math.Min(to, t))-from)/(to-from))
	}
	for _, ph := range m.phases {
		drawBox(c, vg.Rectangle{Min: vg.Point{X: x(ph.from), Y: area.Max.Y + 1}, Max: vg.Point{X: x(ph.to), Y: area.Max.Y + timelineRibbon - 1}}, movePhases[ph.phase].look)
	}
}

// answersPlot draws the answers of a stretch of time.
type answersPlot struct {
	moveTimeline
	from, to float64
	thinning int
}

var (
	medianLine = draw.LineStyle{Color: blue, Width: seriesLine}
	slowLine   = draw.LineStyle{Color: vermillion, Width: seriesLine, Dashes: []vg.Length{3, 1.5}}
)

// maxDots is how many answers are drawn one by one in a panel. Of more, all
// that are slower than the 95th percentile are, and one in some of the others.
const maxDots = 1500

// thinning is of how many fast answers one is drawn, the same for all rows.
func (l timelineLayout) thinning() int {
	most := 0
	for _, m := range l.rows {
		most = max(most, len(m.responses))
	}
	return (most + maxDots - 1) / maxDots
}

// Plot draws the pause as a shade, the answers, and lines through bins.
func (a answersPlot) Plot(c draw.Canvas, p *plot.Plot) {
	tx, ty := p.Transforms(&c)
	if a.start > a.from && a.stop < a.to {
		c.FillPolygon(midGrey, corners(vg.Rectangle{
			Min: vg.Point{X: tx(math.Max(a.stop, a.from)), Y: c.Min.Y}, Max: vg.Point{X: tx(math.Min(a.start, a.to)), Y: c.Max.Y},
		}))
	}
	for _, ph := range a.phases {
		if ph.from > a.from && ph.from < a.to {
			c.StrokeLine2(draw.LineStyle{Color: grey, Width: hairline}, tx(ph.from), c.Min.Y, tx(ph.from), c.Max.Y)
		}
	}
	var seen []response
	for _, r := range a.responses {
		if r.at >= a.from && r.at <= a.to && r.took > 0 {
			seen = append(seen, r)
		}
	}
	bins := binned(seen, a.from, a.to)
	var dots vg.Path
	for i, r := range seen {
		if i%a.thinning == 0 || r.took >= slowIn(bins, r.at) {
			addDot(&dots, vg.Point{X: tx(r.at), Y: ty(r.took * 1000)})
		}
	}
	c.SetColor(subtleInk)
	if len(dots) > 0 {
		c.Fill(dots)
	}
	a.line(c, tx, ty, bins, slowLine, func(b answerBin) float64 { return b.slow })
	a.line(c, tx, ty, bins, medianLine, func(b answerBin) float64 { return b.median })
}

// addDot adds an answer to a path: a small square. All in one path are few
// bytes of a file.
func addDot(path *vg.Path, at vg.Point) {
	const r = vg.Length(0.55)
	for i, p := range corners(vg.Rectangle{Min: vg.Point{X: at.X - r, Y: at.Y - r}, Max: vg.Point{X: at.X + r, Y: at.Y + r}}) {
		if i == 0 {
			path.Move(p)
		} else {
			path.Line(p)
		}
	}
	path.Close()
}

func answerThumb(c draw.Canvas) {
	var dot vg.Path
	addDot(&dot, c.Center())
	c.SetColor(subtleInk)
	c.Fill(dot)
}

func lineThumb(sty draw.LineStyle) func(draw.Canvas) {
	return func(c draw.Canvas) { c.StrokeLine2(sty, c.Min.X, c.Center().Y, c.Max.X, c.Center().Y) }
}

// line joins the bins; where nothing was asked it is broken.
func (a answersPlot) line(c draw.Canvas, tx, ty func(float64) vg.Length, bins []answerBin, sty draw.LineStyle, of func(answerBin) float64) {
	var path []vg.Point
	flush := func() {
		if len(path) > 1 {
			c.StrokeLines(sty, path)
		}
		path = nil
	}
	for _, b := range bins {
		if b.n < 3 {
			flush()
			continue
		}
		path = append(path, vg.Point{X: tx((b.from + b.to) / 2), Y: ty(of(b) * 1000)})
	}
	flush()
}

// answerBin is the answers of a while.
type answerBin struct {
	from, to     float64
	n            int
	median, slow float64 // 95th percentile
}

// binned divides a stretch of time so that a bin has about twenty answers.
func binned(seen []response, from, to float64) []answerBin {
	n := min(60, max(8, len(seen)/20))
	bins := make([]answerBin, n)
	step := (to - from) / float64(n)
	values := make([][]float64, n)
	for _, r := range seen {
		i := min(n-1, max(0, int((r.at-from)/step)))
		values[i] = append(values[i], r.took)
	}
	for i := range bins {
		slices.Sort(values[i])
		bins[i] = answerBin{from: from + float64(i)*step, to: from + float64(i+1)*step, n: len(values[i])}
		if k := len(values[i]); k > 0 {
			bins[i].median, bins[i].slow = values[i][(k-1)/2], values[i][(95*k+99)/100-1]
		}
	}
	return bins
}

// slowIn is the 95th percentile of the bin at a time.
func slowIn(bins []answerBin, at float64) float64 {
	for _, b := range bins {
		if at <= b.to {
			return b.slow
		}
	}
	return 0
}
