package metrics

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const fidelityName = "fidelity.json" // of a run: a RunFidelity

// RunFidelity is fidelity.json: how far the numbers of a run can be believed.
type RunFidelity struct {
	Kind   string     `json:"kind"` // "run", where that of a calibration has "calibration"
	Run    string     `json:"run"`
	Kernel KernelInfo `json:"kernel"` // and the clock
	// Grade is the worst of the trials that count, those that are left out apart;
	// void where every trial is left out.
	Grade string `json:"grade"` // pass | warn | void | unknown
	// Trials counts the finished trials by grade. Of those that nothing watched,
	// as in results of older versions, the grade is unknown and never pass.
	Trials map[string]int `json:"trials"`
	// Repeated counts the attempts that were void and were made again.
	Repeated int `json:"repeated"`
	// Worst has, of each invariant, the worst that was seen in a finished trial or
	// a void attempt; the worst of all is first.
	Worst []WorstSeen     `json:"worst"`
	List  []TrialFidelity `json:"list"`
}

// WorstSeen is the worst that was seen of an invariant, and where.
type WorstSeen struct {
	Check
	Grade      string `json:"grade"` // of this check
	Detail     string `json:"detail,omitempty"`
	Experiment string `json:"experiment"`
	Point      string `json:"point,omitempty"`
	Trial      int    `json:"trial"`
	Attempt    int    `json:"attempt"`
}

// TrialFidelity is one finished trial with the attempts before it.
type TrialFidelity struct {
	Experiment string            `json:"experiment"`
	Point      map[string]string `json:"point,omitempty"`
	Trial      int               `json:"trial"`
	Attempt    int               `json:"attempt"`
	Status     string            `json:"status"` // ok | failed
	Grade      string            `json:"grade"`  // pass | warn | void | unknown
	LeftOut    bool              `json:"left_out,omitempty"`
	Breaches   []Breach          `json:"breaches,omitempty"`
	// Void are the attempts before this one that were void, oldest first.
	Void []VoidAttempt `json:"void_attempts,omitempty"`
}

// VoidAttempt is an attempt at a trial that was made again because it was void.
type VoidAttempt struct {
	Attempt  int      `json:"attempt"`
	Breaches []Breach `json:"breaches"`
}

// Fidelity gathers what was seen of the invariants in all trials.
func (s *Store) Fidelity() (RunFidelity, error) {
	if s.reduced {
		if rep, err := s.readFidelity(); !errors.Is(err, fs.ErrNotExist) {
			return rep, err
		}
	}
	info := s.Info()
	rep := RunFidelity{Kind: "run", Run: info.ID, Kernel: info.Kernel, Grade: FidelityUnknown, Trials: map[string]int{}, Worst: []WorstSeen{}, List: []TrialFidelity{}}
	aside, err := s.voidAttempts()
	if err != nil {
		return rep, err
	}
	grade := ""
	for _, t := range s.sorted() {
		row := TrialFidelity{
			Experiment: t.Experiment, Point: t.Point, Trial: t.Trial, Attempt: t.Attempt, Status: t.Status,
			Grade: t.Grade(), LeftOut: !t.Good(),
		}
		if t.Fidelity != nil {
			row.Breaches = t.Fidelity.Breaches
		}
		for _, a := range aside[t.path] {
			row.Void = append(row.Void, VoidAttempt{a.Attempt, a.Fidelity.Breaches})
			rep.note(a)
		}
		rep.Repeated += len(row.Void)
		rep.Trials[row.Grade]++
		rep.note(t.TrialRecord)
		if !row.LeftOut {
			grade = worseGrade(grade, row.Grade)
		}
		rep.List = append(rep.List, row)
	}
	switch {
	case grade != "":
		rep.Grade = grade
	case rep.Trials[FidelityVoid] > 0:
		rep.Grade = FidelityVoid
	}
	slices.SortStableFunc(rep.Worst, func(a, b WorstSeen) int {
		return Breach{Check: a.Check, Grade: a.Grade}.order(Breach{Check: b.Check, Grade: b.Grade})
	})
	return rep, nil
}

// note takes a trial's checks into the worst of each invariant.
func (r *RunFidelity) note(t TrialRecord) {
	if t.Fidelity == nil {
		return
	}
	for _, c := range t.Fidelity.Checks {
		seen := WorstSeen{Check: c, Grade: c.Grade(), Experiment: t.Experiment, Point: PointText(t.Point), Trial: t.Trial, Attempt: t.Attempt}
		for _, b := range t.Fidelity.Breaches {
			if b.Invariant == c.Invariant {
				seen.Detail = b.Detail
			}
		}
		i := slices.IndexFunc(r.Worst, func(w WorstSeen) bool { return w.Invariant == c.Invariant })
		switch {
		case i < 0:
			r.Worst = append(r.Worst, seen)
		case (Breach{Check: c, Grade: seen.Grade}).order(Breach{Check: r.Worst[i].Check, Grade: r.Worst[i].Grade}) < 0:
			r.Worst[i] = seen
		}
	}
}

// voidAttempts are the attempts that were void and gave way to others, by trial
// path, oldest first.
func (s *Store) voidAttempts() (map[string][]TrialRecord, error) {
	found, err := filepath.Glob(filepath.Join(globEscape(s.dir), attempts, "*", "*", "*", trialName))
	if err != nil {
		return nil, fmt.Errorf("results folder %s: %w", s.dir, err)
	}
	all := map[string][]TrialRecord{}
	for _, name := range found {
		r, err := readTrial(name)
		if err != nil || r.Grade() != FidelityVoid {
			continue // a failed one, or what a killed process left
		}
		path := trialPath(r.Experiment, r.Point, r.Trial)
		all[path] = append(all[path], r)
	}
	for path := range all {
		slices.SortFunc(all[path], func(a, b TrialRecord) int { return a.Attempt - b.Attempt })
	}
	return all, nil
}

// readFidelity is what fidelity.json says, in a folder where it is all that was
// kept of the attempts.
func (s *Store) readFidelity() (rep RunFidelity, err error) {
	data, err := os.ReadFile(filepath.Join(s.dir, fidelityName))
	if err == nil {
		err = json.Unmarshal(data, &rep)
	}
	if err != nil {
		return rep, fmt.Errorf("results folder %s: read %s: %w", s.dir, fidelityName, err)
	}
	return rep, nil
}

// Line is the report in a line: "fidelity warn: 10 pass, 1 warn, 1 void left
// out, 2 attempts repeated; worst: stall 340 ms > 50 ms (vpc-setup sites=4, trial 2)".
func (r RunFidelity) Line() string {
	var parts []string
	for _, g := range fidelityGrades {
		if n := r.Trials[g]; n > 0 {
			text := fmt.Sprintf("%d %s", n, g)
			if g == FidelityVoid {
				text += " and left out"
			}
			parts = append(parts, text)
		}
	}
	if len(parts) == 0 {
		parts = append(parts, "no trials")
	}
	if r.Repeated > 0 {
		parts = append(parts, fmt.Sprintf("%d void %s made again", r.Repeated, plural(r.Repeated, "attempt", "attempts")))
	}
	line := fmt.Sprintf("fidelity %s: %s", r.Grade, strings.Join(parts, ", "))
	if len(r.Worst) > 0 && r.Worst[0].Grade != FidelityPass {
		line += "; worst: " + r.Worst[0].Text()
	}
	return line
}

// Text is what was seen, and where.
func (w WorstSeen) Text() string {
	text := fmt.Sprintf("%s %s", w.Invariant, ShowCheck(w.Value, w.Unit))
	if w.Grade != FidelityPass {
		text = Breach{Check: w.Check, Grade: w.Grade}.Text()
	}
	return text + " (" + w.Where() + ")"
}

// Where names the trial.
func (w WorstSeen) Where() string {
	text := w.Experiment
	if w.Point != "" {
		text += " " + w.Point
	}
	text += fmt.Sprintf(", trial %d", w.Trial)
	if w.Attempt > 1 {
		text += fmt.Sprintf(", attempt %d", w.Attempt)
	}
	return text
}

func (s *Store) gatherFidelity(b *bytes.Buffer) error {
	rep, err := s.Fidelity()
	if err != nil {
		return err
	}
	out := json.NewEncoder(b)
	out.SetIndent("", " ")
	return out.Encode(rep)
}

// gatherVoid writes void.csv, or takes it away where no trial is void any more.
func (s *Store) gatherVoid() error {
	void, err := s.VoidSamples()
	if err != nil {
		return err
	}
	path := filepath.Join(s.dir, voidName)
	if len(void) == 0 {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	var b bytes.Buffer
	if err := WriteCSV(&b, void); err != nil {
		return err
	}
	return ReplaceFile(path, b.Bytes())
}
