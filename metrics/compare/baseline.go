package compare

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/vpclab/vpclab/metrics"
)

// Baselines is the folder of results that are kept to compare with, a folder a
// name: results/baselines/<name>/<run-id>/. They are small enough for git.
type Baselines string

// kept are the files of a run that a comparison needs, and what people want to
// see of it; figures, events and evidence stay with the run.
var kept = []struct {
	name string
	must bool
}{{"samples.csv", true}, {"trials.jsonl", true}, {"fidelity.json", false}, {"bench.txt", false}, {"summary.json", false}, {"run.json", true}}

// baselineName keeps names apart from paths.
var baselineName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// ErrNoBaseline says that there is none of that name.
var ErrNoBaseline = errors.New("there is no such baseline")

// Save keeps runs under a name, in place of what was kept under it. It is
// complete or not there: the files are written beside it and renamed.
func (b Baselines) Save(name string, dirs []string) (err error) {
	if !baselineName.MatchString(name) {
		return fmt.Errorf("baseline %q: want letters a-z, digits, dots, _ and -, at most 63", name)
	}
	if err := os.MkdirAll(string(b), 0o755); err != nil {
		return fmt.Errorf("save baseline %s: %w", name, err)
	}
	tmp, err := os.MkdirTemp(string(b), ".saving-*")
	if err != nil {
		return fmt.Errorf("save baseline %s: %w", name, err)
	}
	defer os.RemoveAll(tmp) // gone already when all went well
	if err := os.Chmod(tmp, 0o755); err != nil {
		return fmt.Errorf("save baseline %s: %w", name, err)
	}
	for _, dir := range dirs {
		if err := keep(dir, tmp); err != nil {
			return fmt.Errorf("save baseline %s: %w", name, err)
		}
	}
	if _, err := Load(name, runsIn(tmp)); err != nil {
		return fmt.Errorf("save baseline %s: %w", name, err)
	}
	place := filepath.Join(string(b), name)
	old := tmp + ".old"
	if err := os.Rename(place, old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("save baseline %s: %w", name, err)
	}
	if err := os.Rename(tmp, place); err != nil {
		return errors.Join(fmt.Errorf("save baseline %s: %w", name, err), os.Rename(old, place))
	}
	return os.RemoveAll(old)
}

// keep copies a run's small files.
func keep(dir, into string) error {
	store, err := metrics.Open(dir)
	if err != nil {
		return err
	}
	info := store.Info()
	if info.Verdict == metrics.VerdictRunning {
		return fmt.Errorf("run %s is not finished", dir)
	}
	place := filepath.Join(into, filepath.Base(filepath.Clean(info.ID)))
	if err := os.Mkdir(place, 0o755); err != nil {
		return fmt.Errorf("run %s: %w", info.ID, err)
	}
	for _, f := range kept {
		data, err := os.ReadFile(filepath.Join(dir, f.name))
		if errors.Is(err, fs.ErrNotExist) && !f.must {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(place, f.name), data, 0o644)
		}
		if err != nil {
			return fmt.Errorf("run %s: %w", dir, err)
		}
	}
	return nil
}

// Baseline is one entry of the list.
type Baseline struct {
	Name     string             `json:"name"`
	Scenario string             `json:"scenario"`
	Version  string             `json:"version"`
	Kernel   metrics.KernelInfo `json:"kernel"`
	Started  time.Time          `json:"started"`
	Runs     int                `json:"runs"`
	Trials   int                `json:"trials"`
	Void     int                `json:"void"`
	Failed   int                `json:"failed"`
	Dir      string             `json:"dir"`
}

// List are all baselines by name. One that cannot be read is an error.
func (b Baselines) List() ([]Baseline, error) {
	entries, err := os.ReadDir(string(b))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []Baseline
	for _, e := range entries {
		if !e.IsDir() || !baselineName.MatchString(e.Name()) {
			continue
		}
		one, err := b.Show(e.Name())
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}

// Show describes one baseline.
func (b Baselines) Show(name string) (Baseline, error) {
	side, err := b.load(name)
	if err != nil {
		return Baseline{}, err
	}
	r := side.Runs[0]
	one := Baseline{Name: name, Scenario: r.Scenario, Version: r.Version, Kernel: r.Kernel, Started: r.Started, Runs: len(side.Runs), Dir: filepath.Join(string(b), name)}
	one.Trials, one.Void, one.Failed = side.count()
	return one, nil
}

func (b Baselines) load(name string) (Side, error) {
	dir := filepath.Join(string(b), name)
	if _, err := os.Stat(dir); err != nil || !baselineName.MatchString(name) {
		return Side{}, fmt.Errorf("baseline %s: %w", name, ErrNoBaseline)
	}
	return Load(name, runsIn(dir))
}

// Remove forgets a baseline.
func (b Baselines) Remove(name string) error {
	dir := filepath.Join(string(b), name)
	if _, err := os.Stat(dir); err != nil || !baselineName.MatchString(name) {
		return fmt.Errorf("baseline %s: %w", name, ErrNoBaseline)
	}
	return os.RemoveAll(dir)
}

// Find is what the user means by a word: a run's folder, a folder with the
// runs of one scenario, a results folder with those of one scenario, or a
// baseline. A folder goes before a baseline of the same name.
func (b Baselines) Find(word string) (Side, error) {
	if st, err := os.Stat(word); err == nil && st.IsDir() {
		dirs := runsIn(word)
		if len(dirs) == 0 {
			return Side{}, fmt.Errorf("%s: there is no run in it (no run.json in it, below it, or two levels below)", word)
		}
		return Load(word, dirs)
	}
	side, err := b.load(word)
	if errors.Is(err, ErrNoBaseline) {
		return side, fmt.Errorf("%s: there is neither a folder nor a baseline of that name (vpclab baseline list)", word)
	}
	return side, err
}

// runsIn are the run folders at, below, or two levels below a folder: the
// nearest that there are.
func runsIn(dir string) []string {
	level := []string{dir}
	for range 3 {
		var runs, next []string
		for _, d := range level {
			if _, err := os.Stat(filepath.Join(d, "run.json")); err == nil {
				runs = append(runs, d)
			}
			entries, _ := os.ReadDir(d) // one that cannot be read holds nothing for us
			for _, e := range entries {
				if e.IsDir() {
					next = append(next, filepath.Join(d, e.Name()))
				}
			}
		}
		if len(runs) > 0 {
			return runs
		}
		level = next
	}
	return nil
}
