package metrics

import (
	"fmt"
	"slices"
)

// Claim is a statement in words that a run is to prove by numbers.
type Claim struct {
	ID   string // "C1"
	Says string // the statement
	// Holds is what must hold of the results for the claim to stand; all of
	// it.
	Holds []Support
	// Numbers are published values that the results are held against.
	Numbers []Number
}

// Support is what must hold of one experiment.
type Support struct {
	Experiment string
	Expect     []string
}

// ClaimOutcome is a judged claim, with its evidence.
type ClaimOutcome struct {
	ID       string    `json:"id"`
	Says     string    `json:"says"`
	Status   string    `json:"status"`        // pass | outside | fail | open
	Why      string    `json:"why,omitempty"` // why it is open
	Evidence []Outcome `json:"evidence,omitempty"`
	// Numbers are the published values beside the measured ones.
	Numbers []NumberOutcome `json:"numbers,omitempty"`
}

// Statuses of a claim.
const (
	ClaimPass = "pass"
	ClaimFail = "fail"
	// ClaimOutside: what must hold does, but some measured value is farther from
	// the published one than its tolerance. That fails no run.
	ClaimOutside = "outside"
	// ClaimOpen: an experiment that it rests on was left out of the run.
	ClaimOpen = "open"
)

// JudgeClaims evaluates claims over the stored samples and keeps what comes
// out in run.json, in place of what was there. leftOut names experiments that
// the run was told to leave out: a claim that rests on one of them, where no
// earlier attempt has done it either, is open. The error is about syntax or
// reading, never about a claim that does not hold.
func (s *Store) JudgeClaims(claims []Claim, leftOut []string) ([]ClaimOutcome, error) {
	samples, err := s.Samples()
	if err != nil {
		return nil, err
	}
	outcomes := make([]ClaimOutcome, 0, len(claims))
	for _, c := range claims {
		o, err := s.judgeClaim(c, samples, leftOut)
		if err != nil {
			return nil, err
		}
		outcomes = append(outcomes, o)
	}
	return outcomes, s.Update(func(info *RunInfo) { info.Claims = outcomes })
}

func (s *Store) judgeClaim(c Claim, samples []Sample, leftOut []string) (ClaimOutcome, error) {
	o := ClaimOutcome{ID: c.ID, Says: c.Says, Status: ClaimPass}
	missing := func(experiment string) bool {
		all, _ := s.count(experiment)
		return all == 0 && slices.Contains(leftOut, experiment)
	}
	for _, h := range c.Holds {
		if missing(h.Experiment) {
			return ClaimOutcome{ID: c.ID, Says: c.Says, Status: ClaimOpen, Why: "experiment " + h.Experiment + " was left out"}, nil
		}
		evidence, err := s.eval(samples, h.Experiment, h.Expect)
		if err != nil {
			return o, fmt.Errorf("claim %s: experiment %s: %w", c.ID, h.Experiment, err)
		}
		o.Evidence = append(o.Evidence, evidence...)
		if slices.ContainsFunc(evidence, func(e Outcome) bool { return !e.Pass }) {
			o.Status = ClaimFail
		}
	}
	for _, n := range c.Numbers {
		if missing(n.Experiment) {
			o.Numbers = append(o.Numbers, NumberOutcome{Experiment: n.Experiment, What: n.What, Measure: n.Measure, Source: n.Source, Status: NumberOpen, Why: "experiment " + n.Experiment + " was left out"})
			continue
		}
		number, err := n.Eval(slices.DeleteFunc(slices.Clone(samples), func(x Sample) bool { return x.Experiment != n.Experiment }))
		if err != nil {
			return o, fmt.Errorf("claim %s: experiment %s: %w", c.ID, n.Experiment, err)
		}
		number.Void, _ = s.voidCount(n.Experiment)
		o.Numbers = append(o.Numbers, number)
	}
	o.Status = o.withNumbers()
	return o, nil
}

// withNumbers is a claim's status once its published values count: the worst
// of all. One that nothing was measured for is open.
func (c ClaimOutcome) withNumbers() string {
	status, measured := c.Status, len(c.Evidence) > 0
	for _, n := range c.Numbers {
		switch {
		case n.Status == NumberFail, n.Status == NumberOpen && n.Hard:
			status = ClaimFail
		case n.Status == NumberOutside && status == ClaimPass:
			status = ClaimOutside
		}
		measured = measured || n.Status != NumberOpen
	}
	if !measured && status == ClaimPass && len(c.Numbers) > 0 {
		return ClaimOpen
	}
	return status
}

// marks of statuses in lines of text.
var marks = map[string]string{ClaimPass: "PASS", ClaimOutside: "OUTSIDE", ClaimFail: "FAIL", ClaimOpen: "OPEN"}

// Lines are the claim for people: a line that says what came of it, and one a
// piece of evidence.
func (c ClaimOutcome) Lines() []string {
	head := fmt.Sprintf("%s %s: %s", marks[c.Status], c.ID, c.Says)
	if c.Why != "" {
		head += " (" + c.Why + ")"
	}
	lines := []string{head}
	for _, e := range c.Evidence {
		m := marks[ClaimPass]
		if !e.Pass {
			m = marks[ClaimFail]
		}
		lines = append(lines, fmt.Sprintf("  %s %s: %s", m, e.Experiment, e.Text))
	}
	for _, n := range c.Numbers {
		lines = append(lines, fmt.Sprintf("  %s %s: %s", marks[n.Status], n.Experiment, n.Text()))
	}
	return lines
}
