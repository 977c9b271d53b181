package compare

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/vpclab/vpclab/metrics"
)

// section is a part of a report: a heading, rows of cells, and what to say of
// those that are not shown.
type section struct {
	head string
	rows []Cell
	rest string
}

// sections are a report's parts in the order of trust. all shows every cell.
func (r Report) sections(all bool) []section {
	exact, primary, rest := section{}, section{}, section{}
	same, hints, quiet, only := 0, 0, 0, 0
	for _, c := range r.Cells {
		switch {
		case c.Exact && c.Verdict == Same:
			same++
			if all {
				exact.rows = append(exact.rows, c)
			}
		case c.Exact:
			exact.rows = append(exact.rows, c)
		case c.Primary && c.Verdict != NewOnly:
			primary.rows = append(primary.rows, c)
		case c.Verdict == Hint:
			hints++
			rest.rows = append(rest.rows, c)
		case c.Verdict == OldOnly || c.Verdict == NewOnly:
			only++
			rest.rows = append(rest.rows, c)
		default:
			quiet++
			if all {
				rest.rows = append(rest.rows, c)
			}
		}
	}
	differ := len(exact.rows)
	if all {
		differ -= same
	}
	exact.head = fmt.Sprintf("Counters that owe nothing to chance: %d the same in every trial, %d not", same, differ)
	primary.head = fmt.Sprintf("What decides: %s", r.Family.How)
	primary.rest = fmt.Sprintf("%d %s with Holm's correction, alpha %s; threshold %s", r.Family.Tested, noun(r.Family.Tested, "test"), metrics.FormatValue(r.Alpha), percent(r.Threshold, false))
	rest.head = "Everything else, which decides nothing"
	rest.rest = fmt.Sprintf("%d compared without a finding, %d to look at (p not corrected), %d on one side only", quiet, hints, only)
	return []section{exact, primary, rest}
}

// columns of a table.
var columns = []string{"experiment", "metric", "point", "old", "new", "change", "interval", "p", "A12", "verdict"}

// row is a cell as text.
func (c Cell) row() []string {
	p := "–"
	if c.Holm != nil {
		p = probability(*c.Holm)
	} else if c.P != nil {
		p = probability(*c.P)
	}
	interval := "–"
	if c.Lo != nil && c.Hi != nil {
		interval = percent(*c.Lo, true) + " … " + percent(*c.Hi, true)
	}
	a12 := "–"
	if c.A12 != nil {
		a12 = strconv.FormatFloat(*c.A12, 'f', 2, 64)
	}
	verdict := c.Verdict
	if verdict == Regression {
		verdict = "REGRESSION"
	}
	return []string{c.Experiment, c.Metric, c.point, c.side(c.Old), c.side(c.New), c.change(), interval, p, a12, verdict}
}

// side is a median with its n; of a counter, its extremes.
func (c Cell) side(n Numbers) string {
	switch {
	case n.N == 0:
		return "–"
	case c.Exact && n.varies():
		return fmt.Sprintf("%s … %s (%d)", amount(n.Min, c.Unit), amount(n.Max, c.Unit), n.N)
	}
	return fmt.Sprintf("%s (%d)", amount(n.Median, c.Unit), n.N)
}

// amount is a value with its unit, in one that people read.
func amount(v float64, unit string) string {
	a := math.Abs(v)
	switch {
	case unit == "s" && a != 0 && a < 1e-3:
		return digits4(v*1e6) + " µs"
	case unit == "s" && a != 0 && a < 1:
		return digits4(v*1e3) + " ms"
	case unit == "s":
		return digits4(v) + " s"
	case unit == "bytes" && a >= 1e6:
		return digits4(v/1e6) + " MB"
	case unit == "bytes":
		return metrics.FormatValue(v) + " B"
	case unit == "bit/s" && a >= 1e6:
		return digits4(v/1e6) + " Mbit/s"
	case unit == "count" || unit == "ratio":
		return metrics.FormatValue(v)
	}
	return metrics.FormatValue(v) + " " + unit
}

func digits4(v float64) string { return strconv.FormatFloat(v, 'g', 4, 64) }

func (c Cell) change() string {
	switch {
	case c.Old.N == 0 || c.New.N == 0:
		return "–"
	case c.Shift != nil:
		return percent(*c.Shift, true)
	}
	sign := ""
	if c.By > 0 {
		sign = "+"
	}
	return sign + amount(c.By, c.Unit) // of nothing there is no share
}

// percent is a share with two digits after the point where they say something.
func percent(v float64, signed bool) string {
	v *= 100
	decimals := 2
	switch {
	case v == math.Trunc(v):
		decimals = 0
	case math.Abs(v) >= 100:
		decimals = 0
	case math.Abs(v) >= 10:
		decimals = 1
	}
	text := strconv.FormatFloat(v, 'f', decimals, 64)
	if zero := strings.Trim(text, "-0.") == ""; signed && v > 0 && !zero {
		text = "+" + text
	} else if zero {
		text = strings.TrimPrefix(text, "-")
	}
	return text + " %"
}

func probability(p float64) string {
	if p < 0.0001 {
		return "<0.0001"
	}
	return strconv.FormatFloat(p, 'f', 4, 64)
}

// WriteText writes the report as tables for a terminal; all shows also what is
// the same.
func (r Report) WriteText(w io.Writer, all bool) error {
	var b strings.Builder
	fmt.Fprintf(&b, "old  %s\nnew  %s\n", r.Old.line(), r.New.line())
	if len(r.Held) > 0 {
		fmt.Fprintf(&b, "all  %s\n", metrics.PointText(r.Held))
	}
	for _, warning := range r.Warnings {
		fmt.Fprintf(&b, "warning: %s\n", warning)
	}
	for _, s := range r.sections(all) {
		fmt.Fprintf(&b, "\n%s\n", s.head)
		if len(s.rows) > 0 {
			rows := [][]string{columns}
			for _, c := range s.rows {
				rows = append(rows, c.row())
			}
			writeColumns(&b, rows)
		}
		if s.rest != "" {
			fmt.Fprintf(&b, "  %s\n", s.rest)
		}
	}
	fmt.Fprintf(&b, "\n%s\n", r.Says())
	for _, why := range r.Reasons {
		fmt.Fprintf(&b, "  %s\n", why)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// line is a side in one line.
func (f SideFacts) line() string {
	text := fmt.Sprintf("%s: version %s, %d %s in %d %s", f.Name, orNone(f.Versions), f.Trials, noun(f.Trials, "trial"), len(f.Dirs), noun(len(f.Dirs), "run"))
	if f.Void > 0 {
		text += fmt.Sprintf(", %d VOID left out", f.Void)
	}
	if f.Failed > 0 {
		text += fmt.Sprintf(", %d failed", f.Failed)
	}
	return text
}

// Says is the verdict in one sentence.
func (r Report) Says() string {
	worse, hidden, tests := 0, 0, 0
	for _, c := range r.Cells {
		if c.Verdict == Regression {
			worse++
		}
		if c.Primary && c.Holm != nil {
			tests++
			hidden += count(c.Verdict == NoFinding)
		}
	}
	switch r.Verdict {
	case Regression:
		if worse == 1 {
			return "REGRESSION: one metric is worse"
		}
		return fmt.Sprintf("REGRESSION: %d metrics are worse", worse)
	case Undecided:
		return fmt.Sprintf("UNDECIDED: no regression was found, but %d of what decides could not be judged", r.Open)
	}
	if hidden > 0 {
		return fmt.Sprintf("no regression was found; in %d of %d tests the noise could hide a change of %s", hidden, tests, percent(r.Threshold, false))
	}
	return "no regression"
}

// writeColumns aligns rows; the first is the heading. Columns that are the same
// dash everywhere are left out.
func writeColumns(b *strings.Builder, rows [][]string) {
	width := make([]int, len(rows[0]))
	for j := range width {
		used := false
		for _, row := range rows[1:] {
			used = used || row[j] != "–" && row[j] != ""
		}
		if !used {
			continue
		}
		for _, row := range rows {
			width[j] = max(width[j], utf8.RuneCountInString(row[j]))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for j, text := range row {
			if width[j] > 0 {
				line.WriteString("  " + text + strings.Repeat(" ", width[j]-utf8.RuneCountInString(text)))
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
}

// WriteText writes the outcome of resampling for people.
func (a AA) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s against itself: %d trials a side, drawn at random %d times (seed %d)\n", a.Name, a.Trials, a.Draws, a.Seed)
	fmt.Fprintf(&b, "what decides: %s; %d tests in the first division\n", a.Family.How, a.Family.Tested)
	fmt.Fprintf(&b, "false alarms: %d of %d, %s [%s, %s]; differences of either kind: %d\n", a.Alarms, a.Draws,
		percent(a.Rate, false), percent(a.Lo, false), percent(a.Hi, false), a.Found)
	for _, name := range sortedKeys(a.By) {
		fmt.Fprintf(&b, "  %4d  %s\n", a.By[name], name)
	}
	if a.InOrder == NoneFound {
		b.WriteString("the earlier half against the later one: no difference\n")
	} else {
		b.WriteString("the earlier half against the later one: THEY DIFFER: the machine changed meanwhile, and runs one after the other cannot be compared (vpclab ab alternates them)\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// noun is the word for one or several of something.
func noun(n int, one string) string {
	if n == 1 {
		return one
	}
	return one + "s"
}
