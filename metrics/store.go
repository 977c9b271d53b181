package metrics

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Schema is the version of the results format that this package writes and
// the newest that it reads.
//
//	1: run.json tells arguments, versions, kernel and host of the first start
//	2: flags by name, digests of program and kernel, sessions, the session and
//	   the fidelity of each trial, SHA256SUMS
const Schema = 2

// ErrDone says that a trial is finished already and its result stands.
var ErrDone = errors.New("the trial is finished already")

// Store is the folder of one run. Its methods may be called from many
// goroutines.
type Store struct {
	dir string

	mu     sync.Mutex
	info   RunInfo
	status map[string]TrialRecord // by trial path below trials/

	published func(dir string) error // see OnPublish; may be nil

	// reduced is a folder of which only what stands for the whole run was kept:
	// samples.csv and trials.jsonl, without trials/.
	reduced bool
}

// Create makes results folder root/<scenario>/<run-id>/ with run.json and the
// verdict "running" in it; it is there with both or not at all. An empty info.ID
// becomes a new run id that sorts by time; an empty info.Started becomes now. A
// folder that [HoldNew] has made for this id is used.
func Create(root string, info RunInfo) (*Store, error) {
	if info.Scenario == "" {
		return nil, errors.New("create results: the scenario has no name")
	}
	info.Schema = Schema
	info.Verdict = VerdictRunning
	if info.Started.IsZero() {
		info.Started = time.Now()
	}
	info.Sessions = []Session{info.session()}
	parent := filepath.Join(root, escapeName(info.Scenario))
	step("make folder", parent)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return nil, fmt.Errorf("create results: %w", err)
	}
	for given := info.ID != ""; ; {
		if !given {
			info.ID = NewRunID(info.Started)
		}
		s, err := create(parent, info, given)
		if errors.Is(err, fs.ErrExist) && !given {
			continue // another run began in this millisecond with the same four digits
		}
		return s, err
	}
}

// create makes one folder under a name that nobody looks at, and gives it its
// own when run.json is in it.
func create(parent string, info RunInfo, reserved bool) (*Store, error) {
	dir := filepath.Join(parent, escapeName(info.ID))
	s := &Store{dir: filepath.Join(parent, newPrefix+escapeName(info.ID)), info: info, status: map[string]TrialRecord{}}
	if _, err := os.Lstat(dir); err == nil {
		return nil, fmt.Errorf("create results %s: %w", dir, fs.ErrExist)
	}
	if err := mkdir(s.dir); err != nil && !(reserved && errors.Is(err, fs.ErrExist)) {
		return nil, fmt.Errorf("create results: %w", err)
	}
	if err := s.writeInfo(); err != nil {
		return nil, s.fault("write run.json", err)
	}
	if err := rename(s.dir, dir); err != nil {
		return nil, fmt.Errorf("create results: %w", err)
	}
	s.dir = dir
	if err := syncDir(parent); err != nil {
		return nil, s.fault("create", err)
	}
	return s, nil
}

// NewRunID is a run's name: UTC time to the millisecond, so that names sort
// by time, and four random hexadecimal digits.
func NewRunID(t time.Time) string {
	var b [2]byte
	_, _ = rand.Read(b[:]) // crypto/rand does not fail: it ends the program instead
	return t.UTC().Format("20060102T150405.000Z") + "-" + hex.EncodeToString(b[:])
}

// Open reads the folder of an earlier run, finished or interrupted, to go on
// with it or to look at it. It changes nothing.
func Open(dir string) (*Store, error) {
	info, err := readInfo(dir)
	if err != nil {
		return nil, fmt.Errorf("open results %s: %w", dir, err)
	}
	s := &Store{dir: dir, info: info, status: map[string]TrialRecord{}}
	return s, s.scan()
}

// readInfo reads a run.json that this version understands.
func readInfo(dir string) (info RunInfo, err error) {
	data, err := os.ReadFile(filepath.Join(dir, "run.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return info, fmt.Errorf("this is no run folder (it has no run.json): %w", fs.ErrNotExist)
	}
	if err != nil {
		return info, err
	}
	if err := checkSchema(data); err != nil {
		return info, err
	}
	if err := json.Unmarshal(data, &info); err != nil {
		return info, fmt.Errorf("run.json: %w", err)
	}
	return info, nil
}

// checkSchema refuses what this version cannot read. It looks at nothing else
// of run.json, which may be of any shape in another version.
func checkSchema(data []byte) error {
	var head struct {
		Schema  int    `json:"schema"`
		Version string `json:"version"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return fmt.Errorf("run.json: %w", err)
	}
	switch v := head.Schema; {
	case v < 1:
		return errors.New("run.json names no schema version: it was not written by vpclab")
	case v > Schema:
		return fmt.Errorf("results format %d (of vpclab %s) is newer than format %d, the newest that this vpclab reads: use that version or a later one", v, head.Version, Schema)
	}
	return nil
}

// Runs lists the run folders below root (root/<scenario>/<run-id>), oldest
// first within a scenario.
func Runs(root string) ([]string, error) {
	found, err := filepath.Glob(filepath.Join(root, "*", "*", "run.json"))
	if err != nil {
		return nil, fmt.Errorf("list runs in %s: %w", root, err)
	}
	var dirs []string
	for _, name := range found {
		if dir := filepath.Dir(name); !strings.HasPrefix(filepath.Base(dir), newPrefix) {
			dirs = append(dirs, dir)
		}
	}
	slices.Sort(dirs)
	return dirs, nil
}

// Dir is the run's folder.
func (s *Store) Dir() string { return s.dir }

// Info is a copy of the run's facts.
func (s *Store) Info() RunInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.info
}

// Update changes the run's facts (kernel, host load at the end …) and
// rewrites run.json.
func (s *Store) Update(fn func(*RunInfo)) error {
	s.mu.Lock()
	fn(&s.info)
	s.info.Schema = Schema
	err := s.writeInfo()
	s.mu.Unlock()
	if err != nil {
		return s.fault("write run.json", err)
	}
	return nil
}

// Done reports whether this trial of this point is finished and good, so
// that a resumed run leaves it out. Failed and void trials are not done: they
// are tried again.
func (s *Store) Done(experiment string, point map[string]string, trial int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status[trialPath(experiment, point, trial)].Good()
}

// Has reports whether this trial of this point is finished, be it good or not.
func (s *Store) Has(experiment string, point map[string]string, trial int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, has := s.status[trialPath(experiment, point, trial)]
	return has
}

// Trials are the finished trials, good and failed, ordered by experiment,
// point and number.
func (s *Store) Trials() ([]TrialRecord, error) {
	found := s.sorted()
	records := make([]TrialRecord, len(found))
	for i, t := range found {
		records[i] = t.TrialRecord
	}
	return records, nil
}

// Samples are the samples of all good trials, in the order of Trials. What a
// failed trial measured stays in its own folder and is in no statistics; what
// a void one did, see VoidSamples.
func (s *Store) Samples() ([]Sample, error) {
	if s.reduced {
		all, err := readCSVFile(filepath.Join(s.dir, samplesName))
		if err != nil {
			return nil, fmt.Errorf("read samples of %s: %w", s.dir, err)
		}
		return all, nil
	}
	return s.samplesOf(TrialRecord.Good)
}

// Judge evaluates expectations of one experiment over its samples and keeps
// the outcomes in run.json, in place of earlier outcomes of that experiment.
// The error is about syntax or reading, never about a failed expectation.
func (s *Store) Judge(experiment string, expect []string) ([]Outcome, error) {
	samples, err := s.Samples()
	if err != nil {
		return nil, err
	}
	outcomes, err := s.eval(samples, experiment, expect)
	if err != nil {
		return nil, fmt.Errorf("experiment %s: %w", experiment, err)
	}
	return outcomes, s.Update(func(info *RunInfo) {
		kept := slices.DeleteFunc(slices.Clone(info.Outcomes), func(o Outcome) bool { return o.Experiment == experiment })
		info.Outcomes = append(kept, outcomes...)
	})
}

// eval judges expectations over the samples of one experiment.
func (s *Store) eval(samples []Sample, experiment string, expect []string) ([]Outcome, error) {
	samples = ofExperiment(samples, experiment)
	_, failed := s.count(experiment)
	void, err := s.VoidSamples()
	if err != nil {
		return nil, err
	}
	void = ofExperiment(void, experiment)
	outcomes := make([]Outcome, 0, len(expect))
	for _, text := range expect {
		e, err := ParseExpect(text)
		if err != nil {
			return nil, fmt.Errorf("expectation: %w", err)
		}
		o := e.Eval(samples)
		o.Experiment = experiment
		e.admit(&o, samples, void)
		if failed > 0 {
			o.Text += fmt.Sprintf("; %d failed %s left out", failed, plural(failed, "trial", "trials"))
		}
		if n, of := s.voidCount(experiment); n > 0 {
			o.Text += fmt.Sprintf("; %d of %d %s void and left out", n, of, plural(of, "trial", "trials"))
		}
		outcomes = append(outcomes, o)
	}
	return outcomes, nil
}

// count is how many trials of an experiment are finished, and how many of
// them have failed.
func (s *Store) count(experiment string) (all, failed int) {
	for _, t := range s.sorted() {
		if t.Experiment != experiment {
			continue
		}
		all++
		if t.Status == StatusFailed {
			failed++
		}
	}
	return all, failed
}

// storedTrial is a published trial and its folder below trials/.
type storedTrial struct {
	TrialRecord
	path string
}

// sorted lists published trials by experiment, point and number.
func (s *Store) sorted() []storedTrial {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]storedTrial, 0, len(s.status))
	for path, r := range s.status {
		all = append(all, storedTrial{r, path})
	}
	slices.SortFunc(all, func(a, b storedTrial) int { return compareNatural(a.path, b.path) })
	return all
}

// TrialDirs are the folders of the good trials of an experiment ("" for all),
// with their records, in the order of Trials.
func (s *Store) TrialDirs(experiment string) (dirs []string, records []TrialRecord) {
	for _, t := range s.sorted() {
		if t.Good() && (experiment == "" || t.Experiment == experiment) {
			dirs = append(dirs, filepath.Join(s.dir, "trials", t.path))
			records = append(records, t.TrialRecord)
		}
	}
	return dirs, records
}

// scan reads the records of all published trials.
func (s *Store) scan() error {
	found, err := filepath.Glob(filepath.Join(globEscape(s.dir), "trials", "*", "*", "*", "trial.json"))
	if err != nil {
		return fmt.Errorf("open results %s: %w", s.dir, err)
	}
	for _, name := range found {
		r, err := readTrial(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // whoever is at work in the folder has just made it give way
		}
		if err != nil {
			return fmt.Errorf("open results %s: %w", s.dir, err)
		}
		s.status[trialPath(r.Experiment, r.Point, r.Trial)] = r
	}
	if len(found) > 0 {
		return nil
	}
	return s.scanReduced()
}

// readTrial reads a trial.json.
func readTrial(name string) (r TrialRecord, err error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return r, err
	}
	if r, err = parseTrial(data); err != nil {
		return r, fmt.Errorf("%s: %w", name, err)
	}
	return r, nil
}

func parseTrial(data []byte) (r TrialRecord, err error) {
	err = json.Unmarshal(data, &r)
	return r, err
}

// scanReduced reads the records of a folder whose trials were not kept, from
// trials.jsonl.
func (s *Store) scanReduced() error {
	if _, err := os.Stat(filepath.Join(s.dir, samplesName)); err != nil {
		return nil // a run that has not come to its first trial
	}
	name := filepath.Join(s.dir, trialsName)
	err := eachLine(name, func(text []byte) error {
		var r TrialRecord
		if err := json.Unmarshal(text, &r); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		s.status[trialPath(r.Experiment, r.Point, r.Trial)] = r
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("open results %s: %w", s.dir, err)
	}
	s.reduced = len(s.status) > 0
	return nil
}

// Reduced reports whether only what stands for the whole run was kept of it:
// samples.csv and trials.jsonl, as in results that are put under version
// control. There is no evidence of single trials then, and nothing to go on
// with.
func (s *Store) Reduced() bool { return s.reduced }

// globEscape lets a folder's name stand for itself in a glob pattern.
func globEscape(dir string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(dir)
}

// trialPath is a trial's folder below trials/.
func trialPath(experiment string, point map[string]string, trial int) string {
	return filepath.Join(shorten(escapeName(experiment)), Slug(point), strconv.Itoa(trial))
}

// writeInfo rewrites run.json; the caller holds mu or is alone.
func (s *Store) writeInfo() error {
	data, err := json.MarshalIndent(s.info, "", "  ")
	if err != nil {
		return err
	}
	return ReplaceFile(filepath.Join(s.dir, "run.json"), append(data, '\n'))
}

// fault names the run's folder in an error, and turns a full disk into a
// FullError. The caller does not hold mu.
func (s *Store) fault(doing string, err error) error {
	if full := (*FullError)(nil); errors.As(err, &full) {
		return err
	}
	if !isFull(err) {
		return fmt.Errorf("results folder %s: %s: %w", s.dir, doing, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := 0
	for _, r := range s.status {
		if r.Good() {
			kept++
		}
	}
	return &FullError{Dir: s.dir, Kept: kept, Err: err}
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}
