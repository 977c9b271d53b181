package plots

import (
	"fmt"
	"strings"

	"github.com/vpclab/vpclab/metrics"
)

// fidelityRow is a trial that the report names: one that is not pass, or that
// was made again.
type fidelityRow struct {
	Experiment string
	Point      string
	Trial      int
	Grade      string
	Note       string   // what becomes of its samples
	Breaches   []string // of it, and of attempts before it
}

// fidelitySeen is the worst of one invariant.
type fidelitySeen struct {
	Invariant     string
	Worst         string
	Warn, Void    string
	Grade         string
	Where, Detail string
}

// fidelityPage is the report's section.
type fidelityPage struct {
	Line  string
	Grade string
	Worst []fidelitySeen
	Rows  []fidelityRow
}

func (d *data) fidelityPage() fidelityPage {
	p := fidelityPage{Line: d.fidelity.Line(), Grade: d.fidelity.Grade}
	for _, w := range d.fidelity.Worst {
		p.Worst = append(p.Worst, fidelitySeen{
			Invariant: w.Invariant, Worst: metrics.ShowCheck(w.Value, w.Unit), Warn: metrics.ShowCheck(w.Warn, w.Unit),
			Void: metrics.ShowCheck(w.Void, w.Unit), Grade: w.Grade, Where: w.Where(), Detail: w.Detail,
		})
	}
	for _, t := range d.fidelity.List {
		if t.Grade == metrics.FidelityPass && len(t.Void) == 0 || t.Grade == metrics.FidelityUnknown {
			continue
		}
		row := fidelityRow{Experiment: t.Experiment, Point: metrics.PointText(t.Point), Trial: t.Trial, Grade: t.Grade, Note: noteOf(t)}
		for _, v := range t.Void {
			row.Breaches = append(row.Breaches, fmt.Sprintf("attempt %d, void and made again: %s", v.Attempt, breachesText(v.Breaches)))
		}
		if len(t.Breaches) > 0 {
			row.Breaches = append(row.Breaches, fmt.Sprintf("attempt %d: %s", t.Attempt, breachesText(t.Breaches)))
		}
		p.Rows = append(p.Rows, row)
	}
	return p
}

// noteOf says what becomes of a trial's samples.
func noteOf(t metrics.TrialFidelity) string {
	switch {
	case t.Status == metrics.StatusFailed:
		return "failed"
	case t.LeftOut:
		return "left out"
	}
	return "used"
}

func breachesText(all []metrics.Breach) string {
	var parts []string
	for _, b := range all {
		parts = append(parts, b.Text())
	}
	return strings.Join(parts, ", ")
}

// fidelityText is the grade of the run, for the heads of figures.
func (d *data) fidelityText() string {
	text := "Fidelity " + d.fidelity.Grade
	if n := d.fidelity.Trials[metrics.FidelityVoid]; n > 0 {
		text += fmt.Sprintf(", %d void left out", n)
	}
	return bind(text + ".")
}

// voidText says how many values at most a point of these rows leaves out.
func voidText(rows []metrics.PointSummary) string {
	most := 0
	for _, r := range rows {
		most = max(most, r.Void)
	}
	if most == 0 {
		return ""
	}
	return bind(fmt.Sprintf(" (up to %d void)", most))
}
