package metrics

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

// A void trial is kept, and counts for nothing: its samples are in its own
// folder and in void.csv, and in no statistics, expectation or figure. Whoever
// leaves it out says so.

const voidName = "void.csv" // of a run: the samples of its void trials

// Grade is the trial's fidelity: pass, warn, void or unknown.
func (r TrialRecord) Grade() string { return GradeOf(r.Fidelity) }

// Good tells whether what the trial measured is used: it came to its end, and
// the emulation kept its promises meanwhile, as far as anybody looked.
func (r TrialRecord) Good() bool { return r.Status == StatusOK && r.Grade() != FidelityVoid }

// void tells a trial that came to its end, and is left out for its fidelity alone.
func (r TrialRecord) void() bool { return r.Status == StatusOK && r.Grade() == FidelityVoid }

// VoidSamples are the samples of the void trials, in the order of Trials. They
// are for those who want to see what a void trial would have said.
func (s *Store) VoidSamples() ([]Sample, error) {
	if !s.reduced {
		return s.samplesOf(TrialRecord.void)
	}
	all, err := readCSVFile(filepath.Join(s.dir, voidName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // none was void
	}
	if err != nil {
		return nil, fmt.Errorf("read samples of %s: %w", s.dir, err)
	}
	return all, nil
}

// samplesOf reads the samples of the trials that are wanted.
func (s *Store) samplesOf(want func(TrialRecord) bool) ([]Sample, error) {
	var all []Sample
	for _, t := range s.sorted() {
		if !want(t.TrialRecord) {
			continue
		}
		got, err := readCSVFile(filepath.Join(s.dir, "trials", t.path, samplesName))
		if errors.Is(err, fs.ErrNotExist) && !t.Good() {
			continue // whoever is at work in the folder has made it give way since
		}
		if err != nil {
			return nil, fmt.Errorf("read samples of %s: %w", t.path, err)
		}
		all = append(all, got...)
	}
	return all, nil
}

func ofExperiment(samples []Sample, experiment string) []Sample {
	return slices.DeleteFunc(slices.Clone(samples), func(x Sample) bool { return x.Experiment != experiment })
}

// VoidText says how many trials of an experiment ("" for all) are void, and
// what voided them: "2 of 12 trials void (stall 340 ms > 50 ms) and left out".
// It is empty where none is.
func (s *Store) VoidText(experiment string) string {
	all, n := 0, 0
	var why []string
	for _, t := range s.sorted() {
		if experiment != "" && t.Experiment != experiment {
			continue
		}
		all++
		if t.void() {
			n++
			why = append(why, worstBreach(t.Fidelity))
		}
	}
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%d of %d %s void (%s) and left out", n, all, plural(all, "trial", "trials"), someOf(why))
}

// voidCount is how many trials of an experiment are void, and how many there are.
func (s *Store) voidCount(experiment string) (void, all int) {
	for _, t := range s.sorted() {
		if t.Experiment != experiment {
			continue
		}
		all++
		if t.void() {
			void++
		}
	}
	return void, all
}

// worstBreach is what voided a trial, in short.
func worstBreach(f *Fidelity) string {
	if f == nil || len(f.Breaches) == 0 {
		return "no breach was noted"
	}
	b := f.Breaches[0]
	b.Detail = ""
	return b.Text()
}

// someOf are the first reasons of many, each once.
func someOf(texts []string) string {
	const most = 3
	var each []string
	for _, t := range texts {
		if !slices.Contains(each, t) {
			each = append(each, t)
		}
	}
	if more := len(each) - most; more > 0 {
		each = append(each[:most], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(each, "; ")
}

// Unmeasured says of which points of an experiment every trial is void, in
// natural order: "sites=8: 3 void (stall 340 ms > 50 ms)". There nothing is
// known, whatever the rest of the grid says.
func (s *Store) Unmeasured(experiment string) []string {
	type at struct {
		void int
		why  []string
		good bool
	}
	points := map[string]*at{}
	var order []string
	for _, t := range s.sorted() {
		if t.Experiment != experiment {
			continue
		}
		key := PointText(t.Point)
		p := points[key]
		if p == nil {
			p = &at{}
			points[key] = p
			order = append(order, key)
		}
		switch {
		case t.Good():
			p.good = true
		case t.void():
			p.void++
			p.why = append(p.why, worstBreach(t.Fidelity))
		}
	}
	var texts []string
	for _, key := range order {
		p := points[key]
		if p.good || p.void == 0 {
			continue
		}
		text := fmt.Sprintf("%d void (%s)", p.void, someOf(p.why))
		if key != "" {
			text = key + ": " + text
		}
		texts = append(texts, text)
	}
	return texts
}

// admit fails an outcome that stands on a grid with a hole in it: a point that
// the expectation is about and that only void trials measured. Without it the
// expectation would be judged by the rest, and nobody would know.
func (e *Expectation) admit(o *Outcome, good, void []Sample) {
	if len(void) == 0 {
		return
	}
	for _, ref := range e.references() {
		all, err := ref.find(slices.Concat(good, void))
		if err != nil {
			continue // as wrong without the void ones: Eval has said what
		}
		for _, g := range all.groups {
			if slices.ContainsFunc(good, func(s Sample) bool { return s.Metric == all.metric && maps.Equal(s.Labels, g.labels) }) {
				continue
			}
			o.Pass = false
			o.Text += fmt.Sprintf("; no valid value of %s", all.metric)
			if at := PointText(g.labels); at != "" {
				o.Text += " at " + at
			}
			o.Text += fmt.Sprintf(": all %d are of void trials", len(g.values))
			return
		}
	}
}

// references are the metrics that an expectation names.
func (e *Expectation) references() []reference {
	if e.right == nil {
		return []reference{e.left}
	}
	return []reference{e.left, *e.right}
}

// WithVoid notes at each row how many values of void trials it leaves out.
func WithVoid(rows []PointSummary, void []Sample) []PointSummary {
	if len(void) == 0 {
		return rows
	}
	type key struct{ experiment, metric, labels string }
	n := map[key]int{}
	for _, s := range void {
		n[key{s.Experiment, s.Metric, PointText(s.Labels)}]++
	}
	rows = slices.Clone(rows)
	for i, r := range rows {
		rows[i].Void = n[key{r.Experiment, r.Metric, PointText(r.Labels)}]
	}
	return rows
}

// Summaries are the summaries of all good trials; each row says how many
// values of void ones it leaves out.
func (s *Store) Summaries() ([]PointSummary, error) {
	good, err := s.Samples()
	if err != nil {
		return nil, err
	}
	void, err := s.VoidSamples()
	if err != nil {
		return nil, err
	}
	return WithVoid(SummarizeAll(good), void), nil
}
