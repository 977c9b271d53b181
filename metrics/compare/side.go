package compare

import (
	"fmt"
	"slices"

	"github.com/vpclab/vpclab/metrics"
)

// Side is what one side of a comparison has: the trials of one run or several.
type Side struct {
	Name  string // as the user named it
	Dirs  []string
	Runs  []metrics.RunInfo
	Books []Book // of each run
}

// Book is the trials of one run with their samples.
type Book struct {
	Seed    uint64
	Records []metrics.TrialRecord
	Samples [][]metrics.Sample // of each record; none of those that failed or are void
}

// Load reads the runs in dirs as one side.
func Load(name string, dirs []string) (Side, error) {
	s := Side{Name: name, Dirs: dirs}
	for _, dir := range dirs {
		store, err := metrics.Open(dir)
		if err != nil {
			return s, err
		}
		book, err := read(store)
		if err != nil {
			return s, err
		}
		info := store.Info()
		if len(s.Runs) > 0 && info.Scenario != s.Runs[0].Scenario {
			return s, fmt.Errorf("%s: there are runs of %s and of %s in it: name the folder of one scenario", name, s.Runs[0].Scenario, info.Scenario)
		}
		s.Runs, s.Books = append(s.Runs, info), append(s.Books, book)
	}
	if len(s.Runs) == 0 {
		return s, fmt.Errorf("%s: there is no run", name)
	}
	return s, nil
}

// read takes a run's trials and samples.
func read(store *metrics.Store) (Book, error) {
	records, err := store.Trials()
	if err != nil {
		return Book{}, err
	}
	samples, err := store.Samples()
	if err != nil {
		return Book{}, err
	}
	if len(records) == 0 {
		return Book{}, fmt.Errorf("%s: no trial of it is finished", store.Dir())
	}
	return newBook(store.Info().Seed, records, samples), nil
}

// newBook gives each sample to its trial: the one with its experiment and
// number whose point is among the sample's labels, and of several the one that
// says most.
func newBook(seed uint64, records []metrics.TrialRecord, samples []metrics.Sample) Book {
	b := Book{Seed: seed, Records: records, Samples: make([][]metrics.Sample, len(records))}
	type key struct {
		experiment string
		trial      int
	}
	at := map[key][]int{}
	for i, r := range records {
		k := key{r.Experiment, r.Trial}
		at[k] = append(at[k], i)
	}
	for _, s := range samples {
		best := -1
		for _, i := range at[key{s.Experiment, s.Trial}] {
			if within(records[i].Point, s.Labels) && (best < 0 || len(records[i].Point) > len(records[best].Point)) {
				best = i
			}
		}
		if best >= 0 && good(records[best]) {
			b.Samples[best] = append(b.Samples[best], s)
		}
	}
	return b
}

// within tells whether a point's parameters are among labels; a parameter
// without a value is no label.
func within(point, labels map[string]string) bool {
	for k, v := range point {
		if labels[k] != v {
			return false
		}
	}
	return true
}

func void(r metrics.TrialRecord) bool {
	return r.Fidelity != nil && r.Fidelity.Grade == metrics.FidelityVoid
}

func good(r metrics.TrialRecord) bool { return r.Status == metrics.StatusOK && !void(r) }

// count is how many trials a side has, and how many of them are void or have
// failed.
func (s Side) count() (all, voids, failed int) {
	for _, b := range s.Books {
		for _, r := range b.Records {
			all++
			switch {
			case void(r):
				voids++
			case r.Status != metrics.StatusOK:
				failed++
			}
		}
	}
	return all, voids, failed
}

// samples are all samples of a side that count.
func (s Side) samples() (all []metrics.Sample) {
	for _, b := range s.Books {
		all = append(all, slices.Concat(b.Samples...)...)
	}
	return all
}

// trialID names a trial across sides: the same seed and number mean the same
// random choices.
type trialID struct {
	seed  uint64
	trial int
}

// value is what a trial says of a metric.
type value struct {
	id trialID
	v  float64
}

// cellKey is an experiment, a metric and all labels of its samples.
type cellKey struct{ experiment, metric, unit, labels string }

// table is a side by cell.
type table struct {
	values map[cellKey][]value
	labels map[cellKey]map[string]string
}

// failedMetric counts, trial by trial, 1 for one that failed.
const failedMetric = "trial.failed"

// tabulate reduces each trial to one value a cell: trials are independent of
// each other, values within one are not. Of several it takes their mean, so
// that none of them can change unnoticed.
func (s Side) tabulate() table {
	t := table{values: map[cellKey][]value{}, labels: map[cellKey]map[string]string{}}
	for _, b := range s.Books {
		for i, r := range b.Records {
			if void(r) {
				continue
			}
			id := trialID{b.Seed, r.Trial}
			failed := 0.0
			if r.Status != metrics.StatusOK {
				failed = 1
			}
			t.add(cellKey{r.Experiment, failedMetric, "count", metrics.PointText(r.Point)}, r.Point, id, failed)
			t.addTrial(id, b.Samples[i])
		}
	}
	return t
}

func (t table) addTrial(id trialID, samples []metrics.Sample) {
	sums, ns := map[cellKey]float64{}, map[cellKey]int{}
	labels := map[cellKey]map[string]string{}
	var order []cellKey
	for _, s := range samples {
		k := cellKey{s.Experiment, s.Metric, s.Unit, metrics.PointText(s.Labels)}
		if ns[k] == 0 {
			order, labels[k] = append(order, k), s.Labels
		}
		sums[k] += s.Value
		ns[k]++
	}
	for _, k := range order {
		t.add(k, labels[k], id, sums[k]/float64(ns[k]))
	}
}

func (t table) add(k cellKey, labels map[string]string, id trialID, v float64) {
	t.values[k] = append(t.values[k], value{id, v})
	t.labels[k] = labels
}

func plain(values []value) []float64 {
	out := make([]float64, len(values))
	for i, v := range values {
		out[i] = v.v
	}
	return out
}
