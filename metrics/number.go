package metrics

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Number is a value that others published and that a run measures again.
type Number struct {
	Experiment string
	What       string // it is of, for tables; "": the formula says it
	Measure    string // see Measure
	Printed    string // the published value with its unit: "40%", "7"
	// Within is how far from it a measured value may be: in percentage points
	// ("10pp"), as a share of the published value ("25%"), or in its unit.
	Within string
	Source string // where it was published: "Table I"
	Hard   bool   // outside is a failure; else it is only marked
	Why    string // what makes the difference, where there is one
}

// NumberOutcome is a published value beside what was measured.
type NumberOutcome struct {
	Experiment string  `json:"experiment"`
	What       string  `json:"what,omitempty"`
	Measure    string  `json:"measure"`
	Source     string  `json:"source,omitempty"`
	Printed    float64 `json:"printed"`
	Tolerance  float64 `json:"tolerance"`       // same unit
	Unit       string  `json:"unit,omitempty"`  // of all values here
	Value      float64 `json:"value,omitempty"` // the median
	Min        float64 `json:"min,omitempty"`
	Max        float64 `json:"max,omitempty"`
	N          int     `json:"n"`
	Void       int     `json:"void,omitempty"` // trials of the experiment that are left out
	Status     string  `json:"status"`         // pass | outside | fail | open
	Why        string  `json:"why,omitempty"`  // outside: what makes the difference; open: what is missing
	Hard       bool    `json:"hard,omitempty"`
}

// Measure is the formula of a measured value, parsed:
//
//	[1 -] [selector.]metric [/ [selector.]metric]
//
//	iterations.migration.rounds
//	1 - cloudnet.migration.bytes / xen30.migration.bytes
//
// Metrics are written as in an [Expectation], without an aggregate, and each
// must name one point. A ratio is taken trial by trial, of trials with the same
// number: those ran in the same round of the schedule.
type Measure struct {
	text   string
	rest   bool // 1 - the ratio
	metric reference
	over   *reference
}

// ParseMeasure parses a formula. The error is an *ExpectError.
func ParseMeasure(text string) (*Measure, error) {
	p := &expectParser{text: text}
	m, err := p.measure()
	if err != nil {
		return nil, err
	}
	return m, nil
}

func (p *expectParser) measure() (*Measure, *ExpectError) {
	m := &Measure{text: p.text}
	p.space()
	if strings.HasPrefix(p.rest(), "1") {
		p.pos++
		p.space()
		if !strings.HasPrefix(p.rest(), "-") {
			return nil, p.fail(p.pos, measureHint, "expected - after 1, found %s", p.found())
		}
		p.pos++
		p.space()
		m.rest = true
	}
	var err *ExpectError
	if m.metric, err = p.plainReference(); err != nil {
		return nil, err
	}
	p.space()
	if strings.HasPrefix(p.rest(), "/") {
		p.pos++
		p.space()
		over, err := p.plainReference()
		if err != nil {
			return nil, err
		}
		m.over = &over
		p.space()
	}
	switch {
	case p.pos < len(p.text):
		return nil, p.fail(p.pos, measureHint, "%s does not belong here", p.found())
	case m.rest && m.over == nil:
		return nil, p.fail(p.pos, measureHint, "1 - is for a ratio, and there is no /")
	}
	return m, nil
}

const measureHint = "a measure reads as `1 - cloudnet.migration.bytes / xen30.migration.bytes`"

// plainReference is a reference without an aggregate: the median is taken in
// the end.
func (p *expectParser) plainReference() (reference, *ExpectError) {
	at := p.pos
	r, err := p.reference()
	if err == nil && r.agg != "" {
		err = p.fail(at, "write the metric alone", "%s is an aggregate, and a measure is a median already", r.agg)
	}
	return r, err
}

// values are the measured values, one a trial, and their unit.
func (m *Measure) values(samples []Sample) (values []float64, unit string, err error) {
	left, unit, err := m.metric.single(samples)
	if err != nil {
		return nil, "", err
	}
	if m.over == nil {
		return left.values, unit, nil
	}
	right, rightUnit, err := m.over.single(samples)
	if err != nil {
		return nil, "", err
	}
	factor, err := convert(rightUnit, unit)
	if err != nil {
		return nil, "", err
	}
	for i, v := range left.values {
		j := slices.Index(right.trials, left.trials[i])
		if j < 0 || right.values[j] == 0 {
			continue
		}
		ratio := v / (factor * right.values[j])
		if m.rest {
			ratio = 1 - ratio
		}
		values = append(values, ratio)
	}
	if len(values) == 0 {
		return nil, "", fmt.Errorf("no trial has both %s and %s", m.metric, m.over)
	}
	return values, "ratio", nil
}

// single is what a reference names, where that is one point.
func (r reference) single(samples []Sample) (group, string, error) {
	f, err := r.find(samples)
	if err != nil {
		return group{}, "", err
	}
	if len(f.groups) == 1 {
		return f.groups[0], f.unit, nil
	}
	var points []string
	for _, g := range f.groups[:min(len(f.groups), 3)] {
		points = append(points, PointText(g.labels))
	}
	return group{}, "", fmt.Errorf("%s names %d points (%s …): select one, as label=value.%s", r, len(f.groups), strings.Join(points, "; "), strings.Join(r.words, "."))
}

// Eval holds a published value against samples of one experiment. What cannot
// be measured from them is open; an error is about what is written, never
// about what was measured.
func (n Number) Eval(samples []Sample) (NumberOutcome, error) {
	o := NumberOutcome{Experiment: n.Experiment, What: n.What, Measure: n.Measure, Source: n.Source, Hard: n.Hard}
	m, err := ParseMeasure(n.Measure)
	if err != nil {
		return o, fmt.Errorf("measure: %w", err)
	}
	printed, err := parseQuantity(n.Printed)
	if err != nil {
		return o, fmt.Errorf("printed: %w", err)
	}
	values, unit, err := m.values(samples)
	if err != nil {
		o.Status, o.Why = NumberOpen, err.Error()
		return o, nil
	}
	o.Unit = unit
	if o.Printed, err = printed.in(unit); err != nil {
		return o, fmt.Errorf("printed: %w", err)
	}
	if o.Tolerance, err = tolerance(n.Within, unit, o.Printed); err != nil {
		return o, fmt.Errorf("within: %w", err)
	}
	o.N, o.Value, o.Min, o.Max = len(values), aggregate("median", values), slices.Min(values), slices.Max(values)
	switch {
	case math.Abs(o.Value-o.Printed) <= o.Tolerance*(1+1e-9): // 10 pp of 0.4 is not exact in binary
		o.Status = NumberPass
	case n.Hard:
		o.Status, o.Why = NumberFail, n.Why
	default:
		o.Status, o.Why = NumberOutside, n.Why
	}
	return o, nil
}

// Statuses of a published value.
const (
	NumberPass    = "pass"
	NumberOutside = "outside" // measured otherwise, and nothing depends on it
	NumberFail    = "fail"    // measured otherwise, and it is hard
	NumberOpen    = "open"    // not measured
)

// parseQuantity reads a number with or without a unit.
func parseQuantity(text string) (quantity, error) {
	p := &expectParser{text: text}
	p.space()
	q, err := p.quantity()
	if err != nil {
		return q, err
	}
	p.space()
	if p.pos < len(p.text) {
		return q, p.fail(p.pos, "write a number and its unit, as 40%", "%s does not belong here", p.found())
	}
	return q, nil
}

// tolerance reads how far values may be from a published one, in their unit.
func tolerance(text, unit string, printed float64) (float64, error) {
	if points, ok := strings.CutSuffix(strings.TrimSpace(text), "pp"); ok {
		v, err := strconv.ParseFloat(strings.TrimSpace(points), 64)
		switch {
		case err != nil || v < 0:
			return 0, fmt.Errorf("%q is no number of percentage points, as 10pp", text)
		case units[unit].dim != dimPercent:
			return 0, fmt.Errorf("%q is in percentage points, and the value is in %s: write a share of it, as 25%%", text, unit)
		}
		return v / units[unit].scale, nil
	}
	q, err := parseQuantity(text)
	switch {
	case err != nil:
		return 0, err
	case q.value < 0:
		return 0, errors.New("a distance is not negative")
	case q.unit == "%":
		return math.Abs(printed) * q.value / 100, nil
	}
	return q.in(unit)
}

// Text is the outcome for people, without the marks of its status.
func (o NumberOutcome) Text() string {
	if o.Status == NumberOpen {
		return o.Name() + ": " + o.Why + o.voidText()
	}
	text := fmt.Sprintf("%s: %s", o.Name(), o.show(o.Value))
	if o.N > 1 {
		text += fmt.Sprintf(" [%s … %s]", o.show(o.Min), o.show(o.Max))
	}
	text += fmt.Sprintf(", n=%d%s; printed %s", o.N, o.voidText(), o.show(o.Printed))
	if o.Source != "" {
		text += " (" + o.Source + ")"
	}
	text += ", within " + o.ShowTolerance()
	if o.Why != "" {
		text += "; " + o.Why
	}
	return text
}

// voidText says what the value leaves out.
func (o NumberOutcome) voidText() string {
	if o.Void == 0 {
		return ""
	}
	return fmt.Sprintf(", %d void %s left out", o.Void, plural(o.Void, "trial", "trials"))
}

// Name is what the value is of: words where there are any, else the formula.
func (o NumberOutcome) Name() string {
	if o.What != "" {
		return o.What
	}
	return o.Measure
}

// show is a value of the outcome with its unit; ratios are percentages.
func (o NumberOutcome) show(v float64) string {
	if o.Unit == "ratio" {
		return strconv.FormatFloat(100*v, 'f', 1, 64) + " %"
	}
	return withUnit(v, o.Unit)
}

// ShowTolerance, ShowPrinted and ShowMeasured are the parts of a row of a
// table.
func (o NumberOutcome) ShowTolerance() string {
	if o.Unit == "ratio" {
		return "±" + strconv.FormatFloat(100*o.Tolerance, 'f', -1, 64) + " pp"
	}
	return "±" + withUnit(o.Tolerance, o.Unit)
}

// ShowPrinted is the published value.
func (o NumberOutcome) ShowPrinted() string { return o.show(o.Printed) }

// ShowMeasured is the median and, of several values, the smallest and largest.
func (o NumberOutcome) ShowMeasured() string {
	switch {
	case o.N == 0:
		return "–"
	case o.N == 1:
		return o.show(o.Value)
	}
	return fmt.Sprintf("%s [%s … %s]", o.show(o.Value), o.show(o.Min), o.show(o.Max))
}
