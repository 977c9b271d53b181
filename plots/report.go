package plots

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vpclab/vpclab/metrics"
)

//go:embed report.html.tmpl
var reportText string

var reportTemplate = template.Must(template.New("report").Funcs(template.FuncMap{
	"value": metrics.FormatValue,
	"point": metrics.PointText,
	"when":  func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") },
}).Parse(reportText))

// reportFigure is a figure with its drawing inline.
type reportFigure struct {
	Figure
	Drawing template.HTML // our own SVG, every text in it escaped
}

// reportTable is the summaries of one experiment.
type reportTable struct {
	Experiment string
	Labels     []string // columns
	Rows       []reportRow
}

type reportRow struct {
	metrics.PointSummary
	Cells []string // label values, in the order of the columns
}

// reportData is what the template shows.
type reportData struct {
	metrics.RunInfo
	Took     string
	Folder   string // as commands name it
	Good     int
	Void     int
	Failed   []metrics.TrialRecord
	Fidelity fidelityPage
	Figures  []reportFigure
	NotDrawn []Figure
	Moves    []moveTable
	Tables   []reportTable
	Hidden   int // summaries by iteration, which no table has
	Versions []string
	Command  string
}

// Report writes report.html into a run's folder: one file with its styles and
// figures inside, which loads nothing from anywhere. It shows the figures
// that were drawn last (all, where none was), redrawn from the stored results.
func Report(dir string) error {
	if err := report(dir); err != nil {
		return fmt.Errorf("report of %s: %w", dir, err)
	}
	return nil
}

func report(dir string) error {
	d, err := load(dir)
	if err != nil {
		return err
	}
	page := reportData{
		RunInfo: d.info, Folder: fmt.Sprintf("results/%s/%s", d.info.Scenario, d.info.ID),
		Fidelity: d.fidelityPage(),
		Moves:    d.moveTables(), Tables: tables(withoutRounds(d.rows)), Hidden: len(d.rows) - len(withoutRounds(d.rows)), Command: "vpclab " + quoteArgs(d.info.Args),
	}
	if !d.info.Finished.IsZero() {
		page.Took = d.info.Finished.Sub(d.info.Started).Round(time.Second).String()
	}
	for _, k := range slices.Sorted(maps.Keys(d.info.Versions)) {
		page.Versions = append(page.Versions, k+" "+d.info.Versions[k])
	}
	trials, err := d.store.Trials()
	if err != nil {
		return err
	}
	for _, t := range trials {
		switch {
		case t.Good():
			page.Good++
		case t.Status == metrics.StatusFailed:
			page.Failed = append(page.Failed, t)
		default:
			page.Void++
		}
	}
	if err := page.addFigures(d, dir); err != nil {
		return err
	}
	var b bytes.Buffer
	if err := reportTemplate.Execute(&b, page); err != nil {
		return err
	}
	return metrics.ReplaceFile(filepath.Join(dir, "report.html"), b.Bytes())
}

// addFigures draws the figures that the catalogue names, or all.
func (r *reportData) addFigures(d *data, dir string) error {
	known, err := recall(dir)
	if err != nil {
		known = nil // unreadable: all figures
	}
	for _, k := range kinds {
		if len(known) > 0 && !slices.ContainsFunc(known, func(f Figure) bool { return f.Name == k.name }) {
			continue
		}
		f, p, err := k.layOut(d)
		if err != nil {
			return fmt.Errorf("figure %s: %w", k.name, err)
		}
		var svg []byte
		if old, ok := kept(d, dir, k.name); p == nil && ok {
			f = old
			svg, err = os.ReadFile(filepath.Join(dir, f.SVG))
		} else if p == nil {
			r.NotDrawn = append(r.NotDrawn, f)
			continue
		} else {
			svg, err = p.svg(f)
		}
		if err != nil {
			return fmt.Errorf("figure %s: %w", k.name, err)
		}
		r.Figures = append(r.Figures, reportFigure{f, template.HTML(svg)})
	}
	return nil
}

// layOut makes a figure's page; the page is nil where the run has no data
// for it, and the figure says why.
func (k figureKind) layOut(d *data) (Figure, *page, error) {
	f := Figure{Name: k.name, Title: k.title}
	p, caption, err := k.make(d)
	if none := (*missing)(nil); errors.As(err, &none) {
		f.Reason = none.reason
		return f, nil, nil
	}
	if err != nil {
		return f, nil, err
	}
	p.title = k.title
	f.Caption = strings.ReplaceAll(caption, bound, " ") + " Drawn from stored results; to draw it again: " + d.redrawText(k.name)
	return f, p, nil
}

// tables are the summaries by experiment, a column a label.
func tables(rows []metrics.PointSummary) []reportTable {
	var all []reportTable
	for _, r := range rows {
		if n := len(all); n == 0 || all[n-1].Experiment != r.Experiment {
			all = append(all, reportTable{Experiment: r.Experiment})
		}
		t := &all[len(all)-1]
		t.Rows = append(t.Rows, reportRow{PointSummary: r})
		for k := range r.Labels {
			if !slices.Contains(t.Labels, k) {
				t.Labels = append(t.Labels, k)
			}
		}
	}
	for i := range all {
		slices.SortFunc(all[i].Labels, compareKeys)
		for j := range all[i].Rows {
			for _, k := range all[i].Labels {
				all[i].Rows[j].Cells = append(all[i].Rows[j].Cells, all[i].Rows[j].Labels[k])
			}
		}
	}
	return all
}

// quoteArgs writes a command line that a shell reads back.
func quoteArgs(args []string) string {
	out := make([]string, len(args))
	for i, a := range args {
		if a == "" || strings.ContainsAny(a, " \t\n'\"\\$`*?[]{}()<>|&;#~!") {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		out[i] = a
	}
	return strings.Join(out, " ")
}
