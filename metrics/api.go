package metrics

import "errors"

var errNotYet = errors.New("metrics: being written")

// Store is one run's folder of results.
type Store struct{ dir string }

// Trial is one attempt at one trial.
type Trial struct{}

func Create(root string, info RunInfo) (*Store, error) { return nil, errNotYet }
func Open(dir string) (*Store, error)                  { return nil, errNotYet }
func (s *Store) Dir() string                           { return s.dir }
func (s *Store) Info() RunInfo                         { return RunInfo{} }
func (s *Store) Update(fn func(*RunInfo)) error        { return errNotYet }
func (s *Store) Begin(exp string, point map[string]string, n int) (*Trial, error) {
	return nil, errNotYet
}
func (s *Store) Done(exp string, point map[string]string, trial int) bool { return false }
func (s *Store) Samples() ([]Sample, error)                               { return nil, errNotYet }
func (s *Store) Trials() ([]TrialRecord, error)                           { return nil, errNotYet }
func (s *Store) Judge(exp string, expect []string) ([]Outcome, error)     { return nil, errNotYet }
func (s *Store) Finish(verdict string, cause error) error                 { return errNotYet }

func (t *Trial) Dir() string                                                  { return "" }
func (t *Trial) Add(metric, unit string, v float64, labels map[string]string) {}
func (t *Trial) Event(v any)                                                  {}
func (t *Trial) WriteFile(name string, data []byte) error                     { return errNotYet }
func (t *Trial) WriteJSON(name string, v any) error                           { return errNotYet }
func (t *Trial) Commit(status string, cause error) error                      { return errNotYet }
func (t *Trial) Abandon() error                                               { return errNotYet }

type Summary struct {
	N              int
	Median, Lo, Hi float64
	Confidence     float64
	Min, Max, Mean float64
}

func Summarize(values []float64) Summary { return Summary{} }

type Expectation struct{}

func ParseExpect(text string) (*Expectation, error)  { return nil, errNotYet }
func (e *Expectation) Eval(samples []Sample) Outcome { return Outcome{} }
func (e *Expectation) String() string                { return "" }

type Outcome struct {
	Pass bool
	Text string
}
