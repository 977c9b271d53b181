package metrics

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Finish gathers the trials into trials.jsonl, samples.csv, events.jsonl,
// bench.txt, summary.json, fidelity.json and SHA256SUMS and rewrites run.json with the verdict
// and, for a run that went wrong, its cause. It may be called again after a resumed
// run. run.json comes last: a run whose verdict is not "running" has all its
// files.
func (s *Store) Finish(verdict string, cause error) error {
	samples, err := s.Samples()
	if err != nil {
		return s.fault("finish", err)
	}
	void, err := s.VoidSamples()
	if err != nil {
		return s.fault("finish", err)
	}
	for _, f := range []struct {
		name string
		fill func(*bytes.Buffer) error
	}{
		{trialsName, s.gatherTrials},
		{"events.jsonl", s.gatherEvents},
		{samplesName, func(b *bytes.Buffer) error { return WriteCSV(b, samples) }},
		{fidelityName, s.gatherFidelity},
		{"bench.txt", func(b *bytes.Buffer) error { return s.gatherBench(b, samples) }},
		{"summary.json", func(b *bytes.Buffer) error { return writeSummaries(b, WithVoid(SummarizeAll(samples), void)) }},
	} {
		var b bytes.Buffer
		if err := f.fill(&b); err != nil {
			return s.fault("finish: gather "+f.name, err)
		}
		if err := ReplaceFile(filepath.Join(s.dir, f.name), b.Bytes()); err != nil {
			return s.fault("finish: write "+f.name, err)
		}
	}
	if err := s.gatherVoid(); err != nil {
		return s.fault("finish: write "+voidName, err)
	}
	s.pruneAttempts()
	sums, err := s.writeSums()
	if err != nil {
		return s.fault("finish: write "+sumsName, err)
	}
	return s.Update(func(info *RunInfo) {
		s.endSession(info, verdict)
		info.Sums = sums
		info.Verdict = verdict
		info.Finished = time.Now()
		info.Error = ""
		if cause != nil {
			info.Error = cause.Error()
		}
	})
}

// pruneAttempts removes the folders under .attempts that are empty, deepest
// first; attempts that were killed or gave way stay as evidence.
func (s *Store) pruneAttempts() {
	root := filepath.Join(s.dir, attempts)
	var dirs []string
	_ = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	for _, dir := range slices.Backward(dirs) {
		_ = os.Remove(dir) // fails where it is not empty, as it should
	}
}

// gatherBench says, in a comment, what the lines leave out.
func (s *Store) gatherBench(b *bytes.Buffer, samples []Sample) error {
	if text := s.VoidText(""); text != "" {
		fmt.Fprintf(b, "# %s\n", text)
	}
	return WriteBench(b, s.Info(), samples)
}

func (s *Store) gatherTrials(b *bytes.Buffer) error {
	out := json.NewEncoder(b)
	for _, t := range s.sorted() {
		if err := out.Encode(t.TrialRecord); err != nil {
			return err
		}
	}
	return nil
}

// gatherEvents puts the trial that it belongs to around each event:
// {"experiment":…,"point":{…},"trial":1,"event":{…}}.
func (s *Store) gatherEvents(b *bytes.Buffer) error {
	type line struct {
		Experiment string            `json:"experiment"`
		Point      map[string]string `json:"point"`
		Trial      int               `json:"trial"`
		Event      json.RawMessage   `json:"event"`
	}
	out := json.NewEncoder(b)
	for _, t := range s.sorted() {
		name := filepath.Join(s.dir, "trials", t.path, eventsName)
		err := eachLine(name, func(text []byte) error {
			return out.Encode(line{t.Experiment, t.Point, t.Trial, text})
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// eachLine calls fn with every line of a file that is not empty.
func eachLine(name string, fn func([]byte) error) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	in := bufio.NewScanner(f)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		if text := bytes.TrimSpace(in.Bytes()); len(text) > 0 {
			if err := fn(text); err != nil {
				return err
			}
		}
	}
	return in.Err()
}

func writeSummaries(b *bytes.Buffer, rows []PointSummary) error {
	out := json.NewEncoder(b)
	out.SetIndent("", " ")
	return out.Encode(rows)
}
