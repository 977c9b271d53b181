package scenarios

import (
	"time"

	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/topo"
)

// RunConfig is one run of a scenario's experiments, inside the lab kernel.
type RunConfig struct {
	Lab      Lab // a running *lab.Lab; whatever it holds is converged to what the experiments need
	Scenario *topo.Scenario
	Plan     *topo.Plan
	Store    *metrics.Store
	// Only names the experiments to run; empty means all.
	Only []string
	// Trials overrides the number of trials of each experiment when above 0.
	Trials int
	// VoidRetries is how often a trial that is void is made again at most.
	VoidRetries int
	Progress    func(Progress) // may be nil; called from one goroutine at a time
}

// Progress is one step of a run, for a progress line or a log.
type Progress struct {
	Time       time.Time         `json:"time"`
	Phase      string            `json:"phase"` // build | warm-up | trial | skip | clean | judge
	Experiment string            `json:"experiment,omitempty"`
	Point      map[string]string `json:"point,omitempty"`
	Trial      int               `json:"trial,omitempty"`
	Done       int               `json:"done"`  // trials finished
	Total      int               `json:"total"` // trials to do
	ElapsedS   float64           `json:"elapsed_s"`
	RemainingS float64           `json:"remaining_s,omitempty"` // estimate; 0: not known yet
	Message    string            `json:"message,omitempty"`
	Error      string            `json:"error,omitempty"` // a trial that failed: the run goes on
	Void       string            `json:"void,omitempty"`  // what voided a trial
	Again      bool              `json:"again,omitempty"` // it is made again
}

// Verdict is how a run ended.
type Verdict struct {
	Status string `json:"status"` // pass | fail | interrupted | error, as in run.json
	Pass   bool   `json:"pass"`
	Dir    string `json:"dir"`    // the run's folder
	Trials int    `json:"trials"` // finished, those of an earlier attempt included
	Failed int    `json:"failed"` // trials that ended in an error
	Void   int    `json:"void"`   // trials that are left out, because the emulation did not keep its promises
	// Fidelity is a line about all of them: grades, and the worst that was seen.
	Fidelity string                 `json:"fidelity,omitempty"`
	Lines    []string               `json:"lines"` // one an expectation: value, bar, n; then the claims, each with its evidence
	Claims   []metrics.ClaimOutcome `json:"claims,omitempty"`
}

// Request asks the lab daemon to run the experiments of a scenario.
type Request struct {
	File    string   `json:"file"`             // path or library name, for messages and run.json
	Source  []byte   `json:"source"`           // the scenario's exact text
	Results string   `json:"results"`          // root of the results, a folder of the host
	Resume  string   `json:"resume,omitempty"` // folder of the run to go on with
	Only    []string `json:"only,omitempty"`
	Trials  int      `json:"trials,omitempty"`
	// VoidRetries is how often a void trial is made again at most.
	VoidRetries int     `json:"void_retries,omitempty"`
	Seed        *uint64 `json:"seed,omitempty"` // overrides the scenario's
	Name        string  `json:"name,omitempty"` // overrides the scenario's
	// Info is what only the outside knows of run.json: Args, Version, Host,
	// Kernel.Substrate, ID (empty: chosen by metrics).
	Info metrics.RunInfo `json:"info"`
}

// Reply is one line of the answer to a Request: NDJSON, the last line holds
// the verdict or an error.
type Reply struct {
	Progress *Progress `json:"progress,omitempty"`
	Verdict  *Verdict  `json:"verdict,omitempty"`
	Error    string    `json:"error,omitempty"`
}
