package metrics

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Names of the files that every trial has.
const (
	trialName   = "trial.json"
	samplesName = "samples.csv"
	eventsName  = "events.jsonl"
	trialsName  = "trials.jsonl" // of a run: all trial.json
)

// Trial is one attempt at one trial of one point. It collects samples, events
// and evidence in a folder of its own; Commit publishes it, Abandon throws it
// away. Its methods may be called from many goroutines.
type Trial struct {
	store  *Store
	dir    string // .attempts/<experiment>/<point>/<n>.<attempt>
	path   string // below trials/
	record TrialRecord
	begun  time.Time

	mu      sync.Mutex
	samples []Sample
	units   map[string]string // metric -> unit
	events  *os.File
	buf     *bufio.Writer
	err     error // first thing that went wrong; Commit reports it
	closed  bool
}

// Begin opens an attempt at a trial. Trials of a point count from 1; trial 0
// is a warm-up: it can be used as any other and Commit throws it away.
func (s *Store) Begin(experiment string, point map[string]string, trial int) (*Trial, error) {
	what := fmt.Sprintf("trial %d of %s %s", trial, experiment, PointText(point))
	if s.reduced {
		return nil, fmt.Errorf("begin %s: %s has samples and no trials: it is what was kept of a run", what, s.dir)
	}
	if experiment == "" || trial < 0 {
		return nil, fmt.Errorf("begin %s: a trial needs an experiment's name and a number", what)
	}
	t := &Trial{
		store: s,
		path:  trialPath(experiment, point, trial),
		begun: time.Now(),
		units: map[string]string{},
		record: TrialRecord{
			Experiment: experiment, Point: maps.Clone(point), Trial: trial, Started: time.Now(),
		},
	}
	if err := t.makeFolder(); err != nil {
		return nil, s.fault("begin "+what, err)
	}
	step("make", filepath.Join(t.dir, eventsName))
	f, err := os.Create(filepath.Join(t.dir, eventsName))
	if err != nil {
		return nil, s.fault("begin "+what, err)
	}
	t.events, t.buf = f, bufio.NewWriter(stepped{f})
	return t, nil
}

// makeFolder makes the attempt's folder under the next free attempt number.
func (t *Trial) makeFolder() error {
	base := filepath.Join(t.store.dir, attempts, filepath.Dir(t.path))
	if err := os.MkdirAll(base, 0o755); err != nil {
		return err
	}
	t.store.mu.Lock()
	t.record.Session = len(t.store.info.Sessions)
	t.record.Attempt = t.store.status[t.path].Attempt
	t.store.mu.Unlock()
	for {
		t.record.Attempt++
		t.dir = filepath.Join(base, filepath.Base(t.path)+"."+strconv.Itoa(t.record.Attempt))
		err := mkdir(t.dir)
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
}

// Dir is the attempt's folder, for tools that write evidence themselves. It
// moves at Commit.
func (t *Trial) Dir() string { return t.dir }

// Add notes one measured value. The point's parameters are labels of every
// sample; labels adds to them and wins where both name a label. Labels with
// an empty value are left out. What cannot be stored (a value that is not
// finite, a metric with two units, a label called as a column of samples.csv)
// is reported by Commit.
func (t *Trial) Add(metric, unit string, v float64, labels map[string]string) {
	all := make(map[string]string, len(labels)+len(t.record.Point))
	maps.Copy(all, t.record.Point)
	maps.Copy(all, labels)
	maps.DeleteFunc(all, func(_, v string) bool { return v == "" })
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := checkSample(metric, unit, v, all); err != nil {
		t.keep(err)
		return
	}
	if had, ok := t.units[metric]; ok && had != unit {
		t.keep(fmt.Errorf("metric %s: unit %q here, %q before", metric, unit, had))
		return
	}
	t.units[metric] = unit
	t.samples = append(t.samples, Sample{
		Experiment: t.record.Experiment, Trial: t.record.Trial,
		Metric: metric, Unit: unit, Value: v, Labels: all,
	})
}

// checkSample finds what the stored formats cannot hold.
func checkSample(metric, unit string, v float64, labels map[string]string) error {
	if !isMetricName(metric) {
		return fmt.Errorf("metric %q: a metric's name is dotted lower case words, as setup.first_packet", metric)
	}
	if last := metric[strings.LastIndexByte(metric, '.')+1:]; isAggregate(last) {
		return fmt.Errorf("metric %q: %s is the name of an aggregate: call it otherwise", metric, last)
	}
	if unit == "" || strings.ContainsAny(unit, " \t\r\n") {
		return fmt.Errorf("metric %s: unit %q: a unit is one word, as s, bytes, count", metric, unit)
	}
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return fmt.Errorf("metric %s: the value %v cannot be stored: it is not finite", metric, v)
	}
	for k := range labels {
		if isFixedColumn(k) || k == "" {
			return fmt.Errorf("metric %s: a label cannot be called %q: samples.csv has that column", metric, k)
		}
	}
	return nil
}

// isMetricName accepts dotted words of lower case letters, digits, _ and -
// that begin with a letter.
func isMetricName(s string) bool {
	for word := range strings.SplitSeq(s, ".") {
		for i := range len(word) {
			c := word[i]
			letter := c >= 'a' && c <= 'z'
			if !letter && (i == 0 || !(c >= '0' && c <= '9' || c == '_' || c == '-')) {
				return false
			}
		}
		if word == "" {
			return false
		}
	}
	return true
}

// Event appends v as one JSON line to the trial's events.
func (t *Trial) Event(v any) {
	data, err := json.Marshal(v)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		t.keep(fmt.Errorf("event %T: %w", v, err))
		return
	}
	if t.closed {
		return
	}
	if _, err := t.buf.Write(append(data, '\n')); err != nil {
		t.keep(err)
	}
}

// WriteFile puts a file of evidence into the trial's folder. name is a path
// inside it.
func (t *Trial) WriteFile(name string, data []byte) error {
	err := t.writeFile(name, data)
	if err == nil {
		return nil
	}
	t.mu.Lock()
	t.keep(err)
	t.mu.Unlock()
	return t.store.fault(fmt.Sprintf("trial %s: write %s", t.path, name), err)
}

func (t *Trial) writeFile(name string, data []byte) error {
	switch {
	case !filepath.IsLocal(name):
		return fmt.Errorf("%q is not a path inside the trial's folder", name)
	case name == trialName || name == samplesName || name == eventsName:
		return fmt.Errorf("%s is written by the trial itself", name)
	}
	path := filepath.Join(t.dir, name)
	if err := mkdirDurable(t.dir, filepath.Dir(path)); err != nil {
		return err
	}
	return writeDurable(path, data)
}

// WriteJSON puts v as an indented JSON file into the trial's folder
// (matrix.json, train.json).
func (t *Trial) WriteJSON(name string, v any) error {
	data, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return fmt.Errorf("trial %s: write %s: %w", t.path, name, err)
	}
	return t.WriteFile(name, append(data, '\n'))
}

// keep remembers the first error; the caller holds mu.
func (t *Trial) keep(err error) {
	if t.err == nil {
		t.err = err
	}
}

// SetFidelity notes how far the emulation kept its promises during the trial; it
// comes before Commit.
func (t *Trial) SetFidelity(f *Fidelity) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.record.Fidelity = f
}

// Commit ends the trial with a status (ok, failed) and, for a failed one, the
// cause, and publishes its folder by one rename. A failed or void trial that was
// published earlier gives way; a good one stays and the error is ErrDone.
// When Commit returns nil the trial survives a crash of the machine. Of what
// went wrong in Add, Event and WriteFile, Commit reports the first.
func (t *Trial) Commit(status string, cause error) error {
	if t.record.Trial == 0 {
		return t.Abandon()
	}
	if status != StatusOK && status != StatusFailed {
		return fmt.Errorf("trial %s: commit: status %q is neither %s nor %s", t.path, status, StatusOK, StatusFailed)
	}
	t.record.Status = status
	if cause != nil {
		t.record.Error = cause.Error()
	}
	if err := t.seal(); err != nil {
		return t.store.fault("trial "+t.path+": commit", err)
	}
	if err := t.publish(); err != nil {
		return t.store.fault("trial "+t.path+": publish", err)
	}
	return nil
}

// seal brings everything in the attempt's folder to the disk; trial.json is
// last, so that a folder that has it is whole.
func (t *Trial) seal() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return errors.New("the trial has ended already")
	}
	if t.err != nil {
		return t.err
	}
	if err := t.buf.Flush(); err != nil {
		return err
	}
	t.closed = true
	if err := closeDurable(t.events); err != nil {
		return err
	}
	var csv bytes.Buffer
	if err := WriteCSV(&csv, t.samples); err != nil {
		return err
	}
	if err := writeDurable(filepath.Join(t.dir, samplesName), csv.Bytes()); err != nil {
		return err
	}
	t.record.WallS = time.Since(t.begun).Seconds()
	return t.writeRecord()
}

// writeRecord writes trial.json and brings the folder to the disk.
func (t *Trial) writeRecord() error {
	data, err := json.MarshalIndent(t.record, "", "  ")
	if err != nil {
		return err
	}
	if err := writeDurable(filepath.Join(t.dir, trialName), append(data, '\n')); err != nil {
		return err
	}
	return syncDir(t.dir)
}

// publish renames the attempt's folder to its place under trials/.
func (t *Trial) publish() error {
	s := t.store
	dst := filepath.Join(s.dir, "trials", t.path)
	s.mu.Lock()
	defer s.mu.Unlock()
	old, exists := s.status[t.path]
	if old.Good() {
		return ErrDone
	}
	if err := mkdirDurable(s.dir, filepath.Dir(dst)); err != nil {
		return err
	}
	if exists { // a failed or void one: back to the attempts
		aside := filepath.Join(s.dir, attempts, t.path+"."+strconv.Itoa(old.Attempt))
		if err := rename(dst, aside); err != nil {
			return err
		}
		delete(s.status, t.path)
	}
	if err := rename(t.dir, dst); err != nil {
		if errors.Is(err, fs.ErrExist) { // another process was first
			return ErrDone
		}
		return err
	}
	s.status[t.path] = t.record
	if err := syncDir(filepath.Dir(dst)); err != nil || s.published == nil {
		return err
	}
	return s.published(dst)
}

// Abandon throws the attempt away. After Commit it does nothing, so it can be
// deferred.
func (t *Trial) Abandon() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	t.closed = true
	t.events.Close()
	if err := os.RemoveAll(t.dir); err != nil {
		return fmt.Errorf("results folder %s: abandon trial %s: %w", t.store.dir, t.path, err)
	}
	return nil
}
