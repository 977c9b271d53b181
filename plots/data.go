package plots

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/vpclab/vpclab/metrics"
)

// data is what a run left, summarized by metric and labels.
type data struct {
	store *metrics.Store
	info  metrics.RunInfo
	rows  []metrics.PointSummary

	samples  []metrics.Sample
	bySample map[string]byTrial // of samples, by row; see index
	disks    map[string]bool    // experiments whose disks move; see movesDisks
	fidelity metrics.RunFidelity
}

// load reads a run's folder.
func load(dir string) (*data, error) {
	store, err := metrics.Open(dir)
	if err != nil {
		return nil, err
	}
	samples, err := store.Samples()
	if err != nil {
		return nil, err
	}
	rows, err := store.Summaries()
	if err != nil {
		return nil, err
	}
	fidelity, err := store.Fidelity()
	if err != nil {
		return nil, err
	}
	return &data{store: store, info: store.Info(), rows: rows, samples: samples, fidelity: fidelity}, nil
}

// Labels that say what a sample is about and not which point it belongs to.
var kindLabels = []string{"system", "kind", "class", "quantile"}

// of are the rows of one metric, of the experiment and with the labels given
// (k, v, k, v …). An empty experiment is any.
func (d *data) of(experiment, metric string, labels ...string) []metrics.PointSummary {
	var found []metrics.PointSummary
rows:
	for _, r := range d.rows {
		if r.Metric != metric || experiment != "" && r.Experiment != experiment {
			continue
		}
		for i := 0; i < len(labels); i += 2 {
			if r.Labels[labels[i]] != labels[i+1] {
				continue rows
			}
		}
		found = append(found, r)
	}
	return found
}

// experiments are the names of those that measured any of the metrics.
func (d *data) experiments(metricNames ...string) []string {
	seen := map[string]bool{}
	for _, r := range d.rows {
		if slices.Contains(metricNames, r.Metric) {
			seen[r.Experiment] = true
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// repeated are those experiments whose trials were repeated most: times are
// drawn from them, and not from one that was run once to count something.
func (d *data) repeated(experiments []string, metricNames ...string) []string {
	n := map[string]int{}
	for _, r := range d.rows {
		if slices.Contains(metricNames, r.Metric) {
			n[r.Experiment] = max(n[r.Experiment], r.N)
		}
	}
	most := 0
	for _, e := range experiments {
		most = max(most, n[e])
	}
	return slices.DeleteFunc(slices.Clone(experiments), func(e string) bool { return n[e] < most })
}

// best is the experiment that scores highest, the first of equals; "" where
// there is none.
func best(experiments []string, score func(string) int) string {
	chosen, high := "", -1
	for _, e := range experiments {
		if s := score(e); s > high {
			chosen, high = e, s
		}
	}
	return chosen
}

// point is the part of a row's labels that places it in the vary grid.
func point(r metrics.PointSummary) map[string]string {
	p := maps.Clone(r.Labels)
	for _, k := range kindLabels {
		delete(p, k)
	}
	return p
}

// points are the distinct points of rows, in natural order.
func points(rows []metrics.PointSummary) []map[string]string {
	seen := map[string]map[string]string{}
	for _, r := range rows {
		p := point(r)
		seen[metrics.PointText(p)] = p
	}
	return slices.SortedFunc(maps.Values(seen), metrics.ComparePoints)
}

// at is the row of rows at a point; ok is false where there is none.
func at(rows []metrics.PointSummary, p map[string]string) (metrics.PointSummary, bool) {
	for _, r := range rows {
		if maps.Equal(point(r), p) {
			return r, true
		}
	}
	return metrics.PointSummary{}, false
}

// varying splits the keys of points into those with several values and those
// with one.
func varying(ps []map[string]string) (varied, fixed []string) {
	values := map[string]map[string]bool{}
	for _, p := range ps {
		for k, v := range p {
			if values[k] == nil {
				values[k] = map[string]bool{}
			}
			values[k][v] = true
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(values), compareKeys) {
		if len(values[k]) > 1 {
			varied = append(varied, k)
		} else {
			fixed = append(fixed, k)
		}
	}
	return varied, fixed
}

// compareKeys puts the lab's size first, in the order people say it.
func compareKeys(a, b string) int {
	order := []string{"sites", "machines", "tenants"}
	ia, ib := slices.Index(order, a), slices.Index(order, b)
	if ia < 0 {
		ia = len(order)
	}
	if ib < 0 {
		ib = len(order)
	}
	if ia != ib {
		return ia - ib
	}
	return strings.Compare(a, b)
}

// describe is a point in words: "4 sites, 2 machines a site, 3 tenants".
func describe(p map[string]string, keys []string) string {
	var parts []string
	for _, k := range keys {
		v, ok := p[k]
		if !ok {
			continue
		}
		switch k {
		case "sites", "tenants":
			parts = append(parts, count(v, strings.TrimSuffix(k, "s")))
		case "machines":
			parts = append(parts, count(v, "machine")+" a site")
		case "flows":
			parts = append(parts, count(v, "greedy flow"))
		default:
			parts = append(parts, k+" "+v)
		}
	}
	return strings.Join(parts, ", ")
}

// trialText names a trial: "trial 2 of 4 sites, 2 tenants".
func trialText(r metrics.TrialRecord) string {
	text := fmt.Sprintf("trial %d", r.Trial)
	if p := describe(r.Point, slices.SortedFunc(maps.Keys(r.Point), compareKeys)); p != "" {
		text += " of " + p
	}
	return text
}

func count(v, noun string) string {
	if v != "1" {
		noun += "s"
	}
	return v + " " + noun
}

// vms is the number of machines in the lab of a row: the label "vms", or
// sites x machines x tenants.
func vms(r metrics.PointSummary) (float64, bool) {
	if v, ok := numeric(r, "vms"); ok {
		return v, true
	}
	product := 1.0
	for _, k := range []string{"sites", "machines", "tenants"} {
		v, ok := numeric(r, k)
		if !ok {
			return 0, false
		}
		product *= v
	}
	return product, product > 0
}

// numeric is a label's value as a positive number.
func numeric(r metrics.PointSummary, label string) (float64, bool) {
	v, err := strconv.ParseFloat(r.Labels[label], 64)
	return v, err == nil && v > 0
}

// nText is the n of what is drawn: "n = 8 trials" or "n = 6 to 8 trials", and how
// many void ones are not among them.
func nText(rows []metrics.PointSummary) string {
	if len(rows) == 0 {
		return bind("n = 0 trials")
	}
	lo, hi := rows[0].N, rows[0].N
	for _, r := range rows {
		lo, hi = min(lo, r.N), max(hi, r.N)
	}
	if lo == hi {
		return bind("n = "+count(strconv.Itoa(lo), "trial")) + voidText(rows)
	}
	return bind(fmt.Sprintf("n = %d to %d trials", lo, hi)) + voidText(rows)
}

// spreadText says what whiskers mean for these rows.
func spreadText(rows []metrics.PointSummary) string {
	with, without := 0, 0
	for _, r := range rows {
		if r.HasInterval() {
			with++
		} else {
			without++
		}
	}
	switch {
	case without == 0:
		return "whiskers: 95" + bound + "% interval of the median"
	case with == 0:
		return "whiskers: min to max (too few for a 95" + bound + "% interval)"
	default:
		return "whiskers: 95" + bound + "% interval of the median, without caps: min to max"
	}
}

// whichText names the experiment that a figure is about, where the run has
// several that could be meant.
func (d *data) whichText(exp string, all []string) string {
	if len(all) < 2 {
		return ""
	}
	return " Experiment " + exp + "."
}

// kernelText is where and when the numbers were taken, and how far they can be
// believed.
func (d *data) kernelText() string {
	k := d.info.Kernel
	return fmt.Sprintf("Kernel %s (%s), %s clock, %s. %s", k.Release, k.Substrate, k.Clock, d.info.Started.UTC().Format("2006-01-02"), d.fidelityText())
}

// redrawText is the command that draws a figure again.
func (d *data) redrawText(name string) string {
	return fmt.Sprintf("vpclab plot --figure %s results/%s/%s", name, d.info.Scenario, d.info.ID)
}
