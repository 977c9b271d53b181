package compare

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/vpclab/vpclab/metrics"
)

// Options of a comparison. Zero values are the defaults.
type Options struct {
	// Metrics are patterns (as "migration.*") of the metrics that decide; none:
	// the headlines and those of the scenario's expectations.
	Metrics []string
	// Lower, Higher and Neither are patterns of metrics whose direction is to be
	// other than that of the table in direction.go.
	Lower, Higher, Neither []string
	// Alpha is the probability of a false alarm over all that decides; default 0.05.
	Alpha float64
	// Threshold is the smallest change, in parts of the old median, that matters;
	// default 0.03.
	Threshold float64
	// Estimate lets the estimated change itself, in place of the end of its
	// interval, have to reach the threshold; see [Cell.Verdict].
	Estimate bool
	// Tolerance, where it is not nil, is how much worse in parts of the old value
	// a counter may be; every counter is judged by it, and none as a statistic.
	Tolerance *float64
	// Trials is how many a side needs at least; default 6.
	Trials int
	// Force compares what is not comparable; the reasons become warnings.
	Force bool
}

func (o Options) withDefaults() Options {
	if o.Alpha == 0 {
		o.Alpha = 0.05
	}
	if o.Threshold == 0 {
		o.Threshold = 0.03
	}
	if o.Trials == 0 {
		o.Trials = 6
	}
	return o
}

// Verdicts of a cell, and the last three of a whole comparison.
const (
	Same        = "same"    // equal in all trials
	Changed     = "changed" // a counter that differs, in a direction that is neither or by no more than is tolerated
	Within      = "within"  // no difference was found, and one as large as the threshold is excluded
	NoFinding   = "none"    // no difference was found, but one as large as the threshold may hide in the noise
	Small       = "small"   // there is one, and it does not reach the threshold
	Improvement = "improvement"
	Hint        = "hint" // a metric that does not decide differs enough to be looked at
	OldOnly     = "old-only"
	NewOnly     = "new-only"
	TooFew      = "too-few" // trials

	Regression = "regression"
	Undecided  = "undecided" // no regression, but of something that decides nothing can be said
	NoneFound  = "none"
)

// Cell is an experiment × point × metric with what came of comparing it.
type Cell struct {
	Experiment string            `json:"experiment"`
	Metric     string            `json:"metric"`
	Unit       string            `json:"unit"`
	Labels     map[string]string `json:"labels,omitempty"`
	Better     Direction         `json:"better"`
	Exact      bool              `json:"exact,omitempty"`   // judged as a counter, without statistics
	Primary    bool              `json:"primary,omitempty"` // one of those that decide
	Old        Numbers           `json:"old"`
	New        Numbers           `json:"new"`
	// By is the change in the metric's unit, Shift the same in parts of the old
	// median with its interval: absent where there is none. Of an exact counter
	// they are of the worst trial, which needs no interval.
	By    float64  `json:"by"`
	Shift *float64 `json:"shift,omitempty"`
	Lo    *float64 `json:"lo,omitempty"`
	Hi    *float64 `json:"hi,omitempty"`
	Level float64  `json:"level,omitempty"` // of the interval
	A12   *float64 `json:"a12,omitempty"`   // how often a new value is larger than an old one
	P     *float64 `json:"p,omitempty"`
	Holm  *float64 `json:"p_holm,omitempty"` // adjusted over the family; of primary cells
	// Verdict of a statistic: a regression is significant (Holm), its estimate
	// goes in the bad direction, and its interval reaches the threshold: a change
	// that large cannot be excluded. With [Options.Estimate] the estimate must
	// reach it: then a change of exactly the threshold is found half of the time
	// at most, however many trials there are.
	Verdict string `json:"verdict"`
	Why     string `json:"why,omitempty"` // for people, where the verdict needs it

	key   cellKey
	least float64
	point string // what tells it from other cells: its labels without those of all
}

// Numbers are a side of a cell.
type Numbers struct {
	N      int     `json:"n"`
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

func numbersOf(values []float64) Numbers {
	if len(values) == 0 {
		return Numbers{}
	}
	return Numbers{len(values), median(values), slices.Min(values), slices.Max(values)}
}

func (n Numbers) varies() bool { return n.Min != n.Max }

// Family is the set of tests that decide.
type Family struct {
	How    string `json:"how"`
	Cells  int    `json:"cells"`  // that decide, apart from exact counters
	Tested int    `json:"tested"` // of them, those whose values leave something to test
	// Needs is how many trials a side a family of that size needs.
	Needs int `json:"needs"`
}

// Report is the outcome of a comparison.
type Report struct {
	Old       SideFacts `json:"old"`
	New       SideFacts `json:"new"`
	Warnings  []string  `json:"warnings,omitempty"`
	Alpha     float64   `json:"alpha"`
	Threshold float64   `json:"threshold"`
	Family    Family    `json:"family"`
	// Held are the labels that all cells have in common.
	Held    map[string]string `json:"held,omitempty"`
	Cells   []Cell            `json:"cells"`
	Verdict string            `json:"verdict"` // regression | none | undecided
	// Open is how many cells that decide could not be judged; Reasons say why.
	Open    int      `json:"open"`
	Reasons []string `json:"reasons,omitempty"`
}

// SideFacts say what a side was.
type SideFacts struct {
	Name     string   `json:"name"`
	Dirs     []string `json:"dirs"`
	Versions []string `json:"versions"`
	Trials   int      `json:"trials"`
	Void     int      `json:"void"`   // left out: their fidelity
	Failed   int      `json:"failed"` // left out of all but trial.failed
}

func (s Side) facts() SideFacts {
	f := SideFacts{Name: s.Name, Dirs: s.Dirs}
	for _, r := range s.Runs {
		if !slices.Contains(f.Versions, r.Version) {
			f.Versions = append(f.Versions, r.Version)
		}
	}
	f.Trials, f.Void, f.Failed = s.count()
	return f
}

// Compare compares two sides. An error is about options, or about sides that
// are not comparable (a [*NotComparableError]).
func Compare(old, new Side, o Options) (Report, error) {
	o = o.withDefaults()
	r := Report{Old: old.facts(), New: new.facts(), Alpha: o.Alpha, Threshold: o.Threshold}
	var err error
	if r.Warnings, err = comparable(old, new, o.Force); err != nil {
		return r, err
	}
	f, err := o.familyOf(old, new)
	if err != nil {
		return r, err
	}
	r.Cells, r.Family = o.judge(old.tabulate(), new.tabulate(), f, sameDraws(old, new))
	r.hold()
	r.conclude()
	return r, nil
}

// judge compares two tables cell by cell: exact counters first, then what
// decides, then the rest.
func (o Options) judge(old, new table, f family, sameDraws bool) ([]Cell, Family) {
	var cells []Cell
	for _, k := range keysOf(old, new) {
		cells = append(cells, o.cell(k, old, new, f, sameDraws))
	}
	fam := o.decide(cells)
	fam.How = f.how
	slices.SortStableFunc(cells, func(a, b Cell) int { return a.rank() - b.rank() })
	return cells, fam
}

// cell compares what needs no other cell: everything but Holm's correction.
func (o Options) cell(k cellKey, old, new table, f family, sameDraws bool) Cell {
	c := Cell{
		Experiment: k.experiment, Metric: k.metric, Unit: k.unit, Labels: old.labels[k],
		Better: o.better(k.metric, k.unit), Primary: f.has(k), key: k, least: 1,
	}
	if c.Labels == nil {
		c.Labels = new.labels[k]
	}
	was, is := old.values[k], new.values[k]
	c.Old, c.New = numbersOf(plain(was)), numbersOf(plain(is))
	switch {
	case len(was) == 0:
		c.Verdict = NewOnly
	case len(is) == 0:
		c.Verdict = OldOnly
	case sameTrials(was, is) || !c.Old.varies() && c.Old.Min == c.New.Min && c.Old.Max == c.New.Max:
		c.Verdict, c.Exact = Same, isCounter(k.unit)
		c.Shift = number(0)
	case isCounter(k.unit) && (o.Tolerance != nil || sameDraws && o.certain(c)):
		o.exact(&c)
	default:
		o.statistic(&c, plain(was), plain(is))
	}
	return c
}

// certain tells whether a counter owes nothing to chance: it was the same in all
// old trials; and one that depends on the schedule is so on both sides, in as
// many trials as a statistic needs.
func (o Options) certain(c Cell) bool {
	if c.Old.varies() {
		return false
	}
	return !byChance(c.Metric, c.Unit) || !c.New.varies() && min(c.Old.N, c.New.N) >= o.Trials
}

// sameTrials tells whether both sides have the same trials with the same values.
func sameTrials(old, new []value) bool {
	if len(old) != len(new) {
		return false
	}
	of := map[trialID]float64{}
	for _, v := range old {
		of[v.id] = v.v
	}
	for _, v := range new {
		if had, ok := of[v.id]; !ok || had != v.v {
			return false
		}
		delete(of, v.id) // a run that is there twice has no counterpart for its second self
	}
	return true
}

// exact judges a counter that owes nothing to chance: no new trial may be worse
// than the worst old one by more than is tolerated.
func (o Options) exact(c *Cell) {
	c.Exact = true
	tolerated := 0.0
	if o.Tolerance != nil {
		tolerated = *o.Tolerance
	}
	from, to := c.Old.Max, c.New.Max
	if c.Better == Higher || c.Better == Neither && c.New.Max == c.Old.Max {
		from, to = c.Old.Min, c.New.Min
	}
	if from == to { // the worst trial is no worse: then it is the best that has changed
		from, to = c.Old.Min+c.Old.Max-from, c.New.Min+c.New.Max-to
	}
	c.By = to - from
	change := relative(c.By, from)
	c.Shift = number(change)
	c.Verdict = Changed
	switch bad := c.Better.bad(change); {
	case c.Better == Neither:
	case bad > tolerated:
		c.Verdict = Regression
	case bad < -tolerated:
		c.Verdict = Improvement
	}
}

// bad is a change counted so that more is worse.
func (d Direction) bad(change float64) float64 {
	if d == Higher {
		return -change
	}
	return change
}

// statistic measures the difference; decide judges it.
func (o Options) statistic(c *Cell, old, new []float64) {
	if n := min(len(old), len(new)); n < o.Trials {
		c.Verdict = TooFew
		c.By = median(new) - median(old)
		c.Shift = number(relative(c.By, c.Old.Median))
		c.Why = fmt.Sprintf("too few trials (n=%d and %d): %d a side are needed", len(old), len(new), o.Trials)
		return
	}
	t := mannWhitney(old, new)
	s := shiftOf(old, new, t.u, metrics.Confidence)
	c.By, c.Level, c.least = s.by, s.level, t.least
	c.Shift, c.Lo, c.Hi = number(relative(s.by, c.Old.Median)), number(relative(s.lo, c.Old.Median)), number(relative(s.hi, c.Old.Median))
	c.A12, c.P = number(s.a12), number(t.p)
}

// number is a value for JSON, which has no infinity.
func number(v float64) *float64 {
	if math.IsInf(v, 0) || math.IsNaN(v) {
		return nil
	}
	return &v
}

// decide tests the primary cells as one family and judges all statistics.
func (o Options) decide(cells []Cell) Family {
	var fam Family
	var at []int
	var least []float64
	for i, c := range cells {
		if !c.Primary || c.Exact {
			continue
		}
		fam.Cells++
		if c.P != nil {
			at, least = append(at, i), append(least, c.least)
		}
	}
	can := testable(least, o.Alpha)
	var p []float64
	var tested []int
	spent := 0 // tests that there is something to test in
	for j, i := range at {
		if least[j] < 1 {
			spent++
		}
		if can[j] {
			tested, p = append(tested, i), append(p, *cells[i].P)
		}
	}
	fam.Tested, fam.Needs = len(tested), trialsFor(spent, o.Alpha, o.Trials)
	for j, adjusted := range holm(p) {
		c := &cells[tested[j]]
		c.Holm = number(adjusted)
		c.Verdict = o.verdict(*c, adjusted, true)
	}
	for j, i := range at {
		if c := &cells[i]; !can[j] {
			c.Verdict = TooFew
			c.Why = fmt.Sprintf("too few trials (n=%d and %d) for a family of %d tests: p is %.2g at least", c.Old.N, c.New.N, max(spent, 1), c.least)
			if fam.Needs > min(c.Old.N, c.New.N) {
				c.Why += fmt.Sprintf("; %d a side are needed, or fewer metrics that decide", fam.Needs)
			} else {
				c.Why += ", because most values are equal"
			}
		}
	}
	for i := range cells {
		if c := &cells[i]; c.P != nil && !c.Primary {
			c.Verdict = o.verdict(*c, *c.P, false)
		}
	}
	return fam
}

// verdict judges one statistic by its p.
func (o Options) verdict(c Cell, p float64, decides bool) string {
	if p >= o.Alpha {
		if c.Lo != nil && c.Hi != nil && *c.Lo > -o.Threshold && *c.Hi < o.Threshold {
			return Within
		}
		return NoFinding
	}
	// A change of nothing into something has no relative size and is large.
	worse, reach := c.By > 0, math.Inf(1)
	if c.Shift != nil && c.Lo != nil && c.Hi != nil {
		if reach = -*c.Lo; worse {
			reach = *c.Hi
		}
		if o.Estimate {
			reach = math.Abs(*c.Shift)
		}
	}
	if c.Better == Higher {
		worse = !worse
	}
	switch {
	case c.By == 0 || reach < o.Threshold:
		return Small
	case !decides || c.Better == Neither:
		return Hint
	case worse:
		return Regression
	}
	return Improvement
}

// hold finds the labels that never differ among the cells that have them, so
// that people read them once.
func (r *Report) hold() {
	values := map[string]map[string]bool{}
	for _, c := range r.Cells {
		for k, v := range c.Labels {
			if values[k] == nil {
				values[k] = map[string]bool{}
			}
			values[k][v] = true
		}
	}
	for k, all := range values {
		for v := range all {
			if len(all) == 1 && len(r.Cells) > 1 {
				if r.Held == nil {
					r.Held = map[string]string{}
				}
				r.Held[k] = v
			}
		}
	}
	for i := range r.Cells {
		labels := maps.Clone(r.Cells[i].Labels)
		maps.DeleteFunc(labels, func(k, _ string) bool { _, held := r.Held[k]; return held })
		r.Cells[i].point = metrics.PointText(labels)
	}
}

// Point is what tells the cell from others of its metric, for people: its labels
// but for those that a report's Held has.
func (c Cell) Point() string { return c.point }

// conclude gives the whole its verdict.
func (r *Report) conclude() {
	r.Verdict = NoneFound
	open := map[string][]string{} // names of cells by why nothing can be said of them
	var order []string
	worse, judged := 0, 0
	for _, c := range r.Cells {
		why := c.Why
		switch {
		case c.Verdict == Regression:
			worse++
		case c.Primary && c.Verdict == OldOnly:
			why = "there is no value of it in " + r.New.Name
			fallthrough
		case c.Primary && c.Verdict == TooFew:
			if open[why] == nil {
				order = append(order, why)
			}
			open[why] = append(open[why], c.Name())
			r.Open++
		}
		if c.Exact || c.Primary && c.Verdict != NewOnly {
			judged++
		}
	}
	for _, why := range order {
		r.Reasons = append(r.Reasons, why+": "+strings.Join(open[why], "; "))
	}
	if judged == 0 {
		r.Reasons = append(r.Reasons, "no metric of both sides decides anything: name some with --metric")
		r.Open++
	}
	switch {
	case worse > 0:
		r.Verdict = Regression
	case r.Open > 0:
		r.Verdict = Undecided
	}
}

// Name is the cell in one line: "migration migration.total algorithm=xen30".
func (c Cell) Name() string {
	return strings.TrimRight(c.Experiment+" "+c.Metric+" "+metrics.PointText(c.Labels), " ")
}

// rank orders cells as they are read: counters, then what decides, then the
// rest; in each, what was found first.
func (c Cell) rank() int {
	part := 2
	switch {
	case c.Exact:
		part = 0
	case c.Primary:
		part = 1
	}
	order := []string{Regression, OldOnly, NewOnly, TooFew, Improvement, Hint, Changed, Small, NoFinding, Within, Same}
	return part*len(order) + slices.Index(order, c.Verdict)
}
