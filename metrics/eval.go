package metrics

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Outcome is a judged expectation.
type Outcome struct {
	Experiment string            `json:"experiment,omitempty"`
	Expect     string            `json:"expect"` // as written
	Pass       bool              `json:"pass"`
	Text       string            `json:"text"`             // the value, the bar, n and the point, for people
	Value      float64           `json:"value"`            // left side at the deciding point, 0 where there is none
	Bar        float64           `json:"bar"`              // right side in the same unit
	Unit       string            `json:"unit,omitempty"`   // of Value and Bar
	N          int               `json:"n"`                // samples behind Value
	Points     int               `json:"points"`           // points that were compared
	Labels     map[string]string `json:"labels,omitempty"` // the deciding point
}

// Eval judges the expectation over samples (of one experiment). Samples are
// grouped by their labels, that is by point of the vary grid; every group
// must hold and the worst one is reported. Nothing to judge is a failure that
// lists the metrics there are; so is a bar in another dimension than the
// metric, and a point of the left side that has no counterpart on the right.
func (e *Expectation) Eval(samples []Sample) Outcome {
	o := Outcome{Expect: e.text}
	compared, err := e.compare(samples)
	if err != nil {
		o.Text = e.text + ": " + err.Error()
		return o
	}
	worst := slices.MinFunc(compared, func(a, b comparison) int { return a.order(b, e.op) })
	o.Pass = worst.holds(e.op)
	o.Value, o.Bar, o.Unit, o.N = worst.value, worst.bar, worst.unit, worst.n
	o.Points, o.Labels = len(compared), worst.labels
	o.Text = e.describe(worst, len(compared))
	return o
}

// comparison is both sides at one point.
type comparison struct {
	value, bar float64
	unit       string
	n, barN    int
	labels     map[string]string
}

func (c comparison) holds(op string) bool {
	switch op {
	case "<":
		return c.value < c.bar
	case "<=":
		return c.value <= c.bar
	case ">":
		return c.value > c.bar
	case ">=":
		return c.value >= c.bar
	case "==":
		return c.value == c.bar
	default: // "!="
		return c.value != c.bar
	}
}

// slack is how far the comparison is from its bar, in parts of the bar;
// larger is safer.
func (c comparison) slack(op string) float64 {
	d := c.bar - c.value
	switch op {
	case ">", ">=":
		d = -d
	case "==":
		d = -math.Abs(d)
	case "!=":
		d = math.Abs(d)
	}
	if c.bar != 0 {
		d /= math.Abs(c.bar)
	}
	return d
}

// order puts the worse comparison first.
func (c comparison) order(o comparison, op string) int {
	if a, b := c.holds(op), o.holds(op); a != b {
		if a {
			return 1
		}
		return -1
	}
	switch a, b := c.slack(op), o.slack(op); {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (e *Expectation) describe(c comparison, points int) string {
	rel := e.op
	if !c.holds(e.op) {
		rel = "is not " + e.op
	}
	text := fmt.Sprintf("%s %s %s %s", e.leftText(), withUnit(c.value, c.unit), rel, withUnit(c.bar, c.unit))
	if e.right != nil {
		factor := ""
		if e.scale != 1 {
			factor = FormatValue(e.scale) + " * "
		}
		right := e.right.named("median")
		if e.byTrial() {
			right = e.right.String()
		}
		text += fmt.Sprintf(" (%s%s of n=%d)", factor, right, c.barN)
	} else if e.scale != 1 {
		text += fmt.Sprintf(" (%s * %s)", FormatValue(e.scale), e.bar)
	}
	text += fmt.Sprintf(", n=%d", c.n)
	switch at := PointText(c.labels); {
	case points > 1:
		text += fmt.Sprintf(", worst of %d points: %s", points, at)
	case at != "":
		text += ", at " + at
	}
	return text
}

// leftText names the left side with what it is taken as.
func (e *Expectation) leftText() string {
	if e.byTrial() {
		return e.left.String() + " (every trial)"
	}
	if e.right == nil && e.left.agg == "" {
		if e.op == "==" || e.op == "!=" {
			return e.left.String() + " (every sample)"
		}
		return e.left.String() + " (every sample, the worst)"
	}
	return e.left.named("median")
}

// named is the reference with its aggregate, written or not.
func (r reference) named(agg string) string {
	if r.agg == "" {
		r.agg = agg
	}
	return r.String()
}

func withUnit(v float64, unit string) string {
	if unit == "count" || unit == "ratio" || unit == "" {
		return FormatValue(v)
	}
	return FormatValue(v) + " " + unit
}

// compare works out both sides at every point of the left side.
func (e *Expectation) compare(samples []Sample) ([]comparison, error) {
	left, err := e.left.find(samples)
	if err != nil {
		return nil, err
	}
	if e.right == nil {
		return e.compareBar(left)
	}
	right, err := e.right.find(samples)
	if err != nil {
		return nil, err
	}
	return e.compareMetrics(left, right)
}

func (e *Expectation) compareBar(left found) ([]comparison, error) {
	unit := unitOf(e.left.agg, left.unit)
	bar, err := e.bar.in(unit)
	if err != nil {
		return nil, err
	}
	bar *= e.scale
	out := make([]comparison, 0, len(left.groups))
	for _, g := range left.groups {
		c := comparison{bar: bar, unit: unit, n: len(g.values), labels: g.labels}
		if e.left.agg != "" {
			c.value = aggregate(e.left.agg, g.values)
			out = append(out, c)
			continue
		}
		each := make([]comparison, len(g.values))
		for i, v := range g.values {
			each[i] = c
			each[i].value = v
		}
		out = append(out, slices.MinFunc(each, func(a, b comparison) int { return a.order(b, e.op) }))
	}
	return out, nil
}

func (e *Expectation) compareMetrics(left, right found) ([]comparison, error) {
	unit := unitOf(e.left.agg, left.unit)
	rightUnit := unitOf(e.right.agg, right.unit)
	factor, err := convert(rightUnit, unit)
	if err != nil {
		return nil, err
	}
	chosen := append(slices.Clone(left.chosen), right.chosen...)
	var out []comparison
	for _, l := range left.groups {
		matched := false
		for _, r := range right.groups {
			if !compatible(l.labels, r.labels, chosen) {
				continue
			}
			matched = true
			if e.byTrial() {
				c, err := e.pairTrials(l, r, unit, factor)
				if err != nil {
					return nil, err
				}
				out = append(out, c)
				continue
			}
			out = append(out, comparison{
				value: aggregate(orMedian(e.left.agg), l.values), n: len(l.values),
				bar: e.scale * factor * aggregate(orMedian(e.right.agg), r.values), barN: len(r.values),
				unit: unit, labels: l.labels,
			})
		}
		if !matched {
			return nil, fmt.Errorf("no sample of %s to compare with %s at %s", e.right, e.left, PointText(l.labels))
		}
	}
	return out, nil
}

// byTrial reports whether the two sides are compared trial by trial: equality
// of two metrics is a claim about every trial, and two medians would hide the
// one that breaks it.
func (e *Expectation) byTrial() bool {
	return e.right != nil && e.left.agg == "" && e.right.agg == "" && (e.op == "==" || e.op == "!=")
}

// pairTrials compares the values of the same trials and returns the worst.
func (e *Expectation) pairTrials(l, r group, unit string, factor float64) (comparison, error) {
	var each []comparison
	for i, v := range l.values {
		for j, w := range r.values {
			if l.trials[i] == r.trials[j] {
				each = append(each, comparison{value: v, bar: e.scale * factor * w, n: len(l.values), barN: len(r.values), unit: unit, labels: l.labels})
			}
		}
	}
	if len(each) == 0 {
		return comparison{}, fmt.Errorf("no trial has both %s and %s at %s", e.left, e.right, PointText(l.labels))
	}
	return slices.MinFunc(each, func(a, b comparison) int { return a.order(b, e.op) }), nil
}

func orMedian(agg string) string {
	if agg == "" {
		return "median"
	}
	return agg
}

// unitOf is the unit of an aggregate: n counts.
func unitOf(agg, unit string) string {
	if agg == "n" {
		return "count"
	}
	return unit
}

// convert is the factor from one metric's unit to another's.
func convert(from, to string) (float64, error) {
	if from == to {
		return 1, nil
	}
	f, t := units[from], units[to]
	if f.dim != t.dim || f.dim == dimNone {
		return 0, fmt.Errorf("the right side is in %s, the left side in %s", from, to)
	}
	return f.scale / t.scale, nil
}

// compatible reports whether two points are the same but for the labels that
// either side selected by.
func compatible(a, b map[string]string, chosen []string) bool {
	for k, v := range a {
		if w, ok := b[k]; ok && w != v && !slices.Contains(chosen, k) {
			return false
		}
	}
	return true
}

// found is what a reference names, grouped by labels.
type found struct {
	metric string
	unit   string
	chosen []string // labels that were selected by
	groups []group
}

type group struct {
	labels map[string]string
	values []float64
	trials []int // of each value
}

// find resolves a reference: the longest tail of its words that is a metric
// is the metric, the words before it are selectors by value alone.
func (r reference) find(samples []Sample) (found, error) {
	if len(samples) == 0 {
		return found{}, errors.New("there are no samples")
	}
	metrics := map[string]bool{}
	for _, s := range samples {
		metrics[s.Metric] = true
	}
	for i := range r.words {
		metric := strings.Join(r.words[i:], ".")
		if !metrics[metric] {
			continue
		}
		of := slices.DeleteFunc(slices.Clone(samples), func(s Sample) bool { return s.Metric != metric })
		selectors := slices.Clone(r.selectors)
		for _, value := range r.words[:i] {
			label, err := labelOf(of, metric, value)
			if err != nil {
				return found{}, err
			}
			selectors = append(selectors, selector{label, value})
		}
		return pick(of, metric, selectors)
	}
	return found{}, unknownMetric(strings.Join(r.words, "."), slices.Sorted(maps.Keys(metrics)))
}

func unknownMetric(name string, known []string) error {
	hint := ""
	if near := nearest(name, known); near != "" {
		hint = " (did you mean " + near + "?)"
	}
	return fmt.Errorf("no sample of %s%s; known metrics: %s", name, hint, strings.Join(known, ", "))
}

// labelOf finds which label a value alone selects.
func labelOf(samples []Sample, metric, value string) (string, error) {
	having := map[string]bool{}
	values := map[string]bool{}
	for _, s := range samples {
		for k, v := range s.Labels {
			values[k+"="+v] = true
			if v == value {
				having[k] = true
			}
		}
	}
	names := slices.Sorted(maps.Keys(having))
	switch {
	case having["system"]:
		return "system", nil
	case len(names) == 1:
		return names[0], nil
	case len(names) == 0:
		return "", fmt.Errorf("no sample of %s has a label with the value %q; its labels: %s", metric, value, strings.Join(sortedNatural(values), ", "))
	default:
		return "", fmt.Errorf("%q is the value of the labels %s of %s: write %s=%s.%s", value, strings.Join(names, " and "), metric, names[0], value, metric)
	}
}

func sortedNatural(set map[string]bool) []string {
	return slices.SortedFunc(maps.Keys(set), compareNatural)
}

// pick selects samples of a metric and groups them by labels.
func pick(samples []Sample, metric string, selectors []selector) (found, error) {
	f := found{metric: metric}
	for _, sel := range selectors {
		values := map[string]bool{}
		for _, s := range samples {
			values[s.Labels[sel.label]] = true
		}
		samples = slices.DeleteFunc(slices.Clone(samples), func(s Sample) bool { return s.Labels[sel.label] != sel.value })
		if len(samples) == 0 {
			delete(values, "")
			return f, fmt.Errorf("no sample of %s has %s=%s; its values there: %s", metric, sel.label, sel.value, orNone(sortedNatural(values)))
		}
		f.chosen = append(f.chosen, sel.label)
	}
	f.unit = samples[0].Unit
	at := map[string]int{}
	for _, s := range samples {
		if s.Unit != f.unit {
			return f, fmt.Errorf("metric %s is measured in %s and in %s", metric, f.unit, s.Unit)
		}
		k := PointText(s.Labels)
		i, ok := at[k]
		if !ok {
			i = len(f.groups)
			at[k] = i
			f.groups = append(f.groups, group{labels: s.Labels})
		}
		f.groups[i].values = append(f.groups[i].values, s.Value)
		f.groups[i].trials = append(f.groups[i].trials, s.Trial)
	}
	slices.SortFunc(f.groups, func(a, b group) int { return ComparePoints(a.labels, b.labels) })
	return f, nil
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// aggregate reduces at least one value to one.
func aggregate(agg string, values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	switch agg {
	case "n":
		return float64(n)
	case "min":
		return sorted[0]
	case "max":
		return sorted[n-1]
	case "sum", "mean":
		sum := 0.0
		for _, v := range sorted {
			sum += v
		}
		if agg == "sum" {
			return sum
		}
		return sum / float64(n)
	case "median", "p50":
		return (sorted[(n-1)/2] + sorted[n/2]) / 2
	}
	p, _ := strconv.Atoi(strings.TrimPrefix(agg, "p")) // the parser let only p1…p99 through
	return sorted[(p*n+99)/100-1]
}

// nearest is the known name that a wrong one was most likely meant to be, or
// "" where none is near.
func nearest(name string, known []string) string {
	best, least := "", max(2, len(name)/4)+1
	for _, k := range known {
		if d := editDistance(name, k); d < least {
			best, least = k, d
		}
	}
	return best
}

// editDistance is Levenshtein's.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diag
			if a[i] != b[j] {
				cost++
			}
			diag = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
