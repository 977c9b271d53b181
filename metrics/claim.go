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
	Status   string    `json:"status"`        // pass | fail | open
	Why      string    `json:"why,omitempty"` // why it is open
	Evidence []Outcome `json:"evidence,omitempty"`
}

// Statuses of a claim.
const (
	ClaimPass = "pass"
	ClaimFail = "fail"
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
		o := ClaimOutcome{ID: c.ID, Says: c.Says, Status: ClaimPass}
		for _, h := range c.Holds {
			if all, _ := s.count(h.Experiment); all == 0 && slices.Contains(leftOut, h.Experiment) {
				o.Status, o.Why, o.Evidence = ClaimOpen, "experiment "+h.Experiment+" was left out", nil
				break
			}
			evidence, err := s.eval(samples, h.Experiment, h.Expect)
			if err != nil {
				return nil, fmt.Errorf("claim %s: experiment %s: %w", c.ID, h.Experiment, err)
			}
			o.Evidence = append(o.Evidence, evidence...)
			if slices.ContainsFunc(evidence, func(e Outcome) bool { return !e.Pass }) {
				o.Status = ClaimFail
			}
		}
		outcomes = append(outcomes, o)
	}
	return outcomes, s.Update(func(info *RunInfo) { info.Claims = outcomes })
}

// Lines are the claim for people: a line that says what came of it, and one a
// piece of evidence.
func (c ClaimOutcome) Lines() []string {
	mark := map[string]string{ClaimPass: "PASS", ClaimFail: "FAIL", ClaimOpen: "OPEN"}
	head := fmt.Sprintf("%s %s: %s", mark[c.Status], c.ID, c.Says)
	if c.Why != "" {
		head += " (" + c.Why + ")"
	}
	lines := []string{head}
	for _, e := range c.Evidence {
		m := mark[ClaimPass]
		if !e.Pass {
			m = mark[ClaimFail]
		}
		lines = append(lines, fmt.Sprintf("  %s %s: %s", m, e.Experiment, e.Text))
	}
	return lines
}
