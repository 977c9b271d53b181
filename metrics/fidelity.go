package metrics

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Grades of fidelity, best first.
const (
	FidelityPass = "pass"
	FidelityWarn = "warn" // the figures hold, and somebody should look
	FidelityVoid = "void" // the emulation was not what it says: the figures are not used
	// FidelityUnknown is the grade of a trial that nothing watched. It is not stored.
	FidelityUnknown = "unknown"
)

// fidelityGrades, best first; what is unknown stands between what was seen to
// be good and what was seen to be bad.
var fidelityGrades = []string{FidelityPass, FidelityUnknown, FidelityWarn, FidelityVoid}

// Fidelity says whether the emulation kept its promises while a trial was
// measured: the invariants that every real network obeys, and that an
// overloaded machine breaks.
type Fidelity struct {
	Grade    string   `json:"grade"`              // pass | warn | void
	Breaches []Breach `json:"breaches,omitempty"` // those that made it less than pass, worst first
	Checks   []Check  `json:"checks,omitempty"`   // all that was looked at
}

// Check is one invariant with what was seen of it.
type Check struct {
	Invariant string  `json:"invariant"` // "timer-lateness", "clock-jump", "steal" …
	Value     float64 `json:"value"`
	Warn      float64 `json:"warn"` // above it the trial is a warning
	Void      float64 `json:"void"` // above it the trial is void
	Unit      string  `json:"unit"`
}

// Breach is an invariant that did not hold.
type Breach struct {
	Check
	Grade  string `json:"grade"`            // warn | void
	Detail string `json:"detail,omitempty"` // where and when, for people
}

// Grade is what the check alone makes of a trial.
func (c Check) Grade() string {
	switch {
	case c.Value > c.Void:
		return FidelityVoid
	case c.Value > c.Warn:
		return FidelityWarn
	}
	return FidelityPass
}

// excess is how far the value is above the bound that it broke, in parts of
// that bound; of what nothing is allowed of, the value itself.
func (c Check) excess() float64 {
	bound := c.Warn
	if c.Grade() == FidelityVoid {
		bound = c.Void
	}
	if bound == 0 {
		return c.Value
	}
	return c.Value / bound
}

// GradeChecks is the fidelity of a trial in which this was seen: the worst of
// all checks. detail says, by invariant, where and when; it may be nil.
func GradeChecks(checks []Check, detail map[string]string) *Fidelity {
	f := &Fidelity{Grade: FidelityPass, Checks: checks}
	for _, c := range checks {
		g := c.Grade()
		if g == FidelityPass {
			continue
		}
		f.Breaches = append(f.Breaches, Breach{Check: c, Grade: g, Detail: detail[c.Invariant]})
		f.Grade = worseGrade(f.Grade, g)
	}
	slices.SortStableFunc(f.Breaches, Breach.order)
	return f
}

// order puts the worse breach first.
func (b Breach) order(o Breach) int {
	if c := compareGrades(o.Grade, b.Grade); c != 0 {
		return c
	}
	return cmp.Compare(o.excess(), b.excess())
}

// compareGrades orders grades, better ones first.
func compareGrades(a, b string) int {
	return cmp.Compare(slices.Index(fidelityGrades, a), slices.Index(fidelityGrades, b))
}

func worseGrade(a, b string) string {
	if compareGrades(a, b) < 0 {
		return b
	}
	return a
}

// WorseOf is the worse of two stretches of time, of which one or both may not have
// been watched.
func WorseOf(a, b *Fidelity) *Fidelity {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	if c := compareGrades(a.Grade, b.Grade); c != 0 {
		if c < 0 {
			return b
		}
		return a
	}
	if len(a.Breaches) > 0 && len(b.Breaches) > 0 && b.Breaches[0].order(a.Breaches[0]) < 0 {
		return b
	}
	return a
}

// GradeOf is a fidelity's grade; of none it is unknown, never pass.
func GradeOf(f *Fidelity) string {
	if f == nil || !slices.Contains(fidelityGrades, f.Grade) {
		return FidelityUnknown
	}
	return f.Grade
}

// Text is the grade and what broke it: "void: stall 340 ms > 50 ms".
func (f *Fidelity) Text() string {
	g := GradeOf(f)
	if f == nil || len(f.Breaches) == 0 {
		return g
	}
	var parts []string
	for _, b := range f.Breaches {
		if b.Grade == f.Grade { // what is less bad explains nothing
			parts = append(parts, b.Text())
		}
	}
	return g + ": " + strings.Join(parts, ", ")
}

// Text is the breach for people: "stall 340 ms > 50 ms (4.1 s after the
// beginning)".
func (b Breach) Text() string {
	bound := b.Warn
	if b.Grade == FidelityVoid {
		bound = b.Void
	}
	text := fmt.Sprintf("%s %s > %s", b.Invariant, ShowCheck(b.Value, b.Unit), ShowCheck(bound, b.Unit))
	if b.Detail != "" {
		text += " (" + b.Detail + ")"
	}
	return text
}

// ShowCheck prints a value or a bound of a check: times in milliseconds below a
// second, ratios in percent.
func ShowCheck(v float64, unit string) string {
	switch {
	case unit == "s" && v < 1:
		return FormatValue(roundTo(1e3*v)) + " ms"
	case unit == "ratio":
		return FormatValue(roundTo(100*v)) + " %"
	}
	return withUnit(roundTo(v), unit)
}

// roundTo keeps three significant digits: nothing of fidelity is known better.
func roundTo(v float64) float64 {
	var r float64
	_, _ = fmt.Sscan(fmt.Sprintf("%.3g", v), &r) // what was just printed
	return r
}
