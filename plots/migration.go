package plots

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"gonum.org/v1/plot/vg"

	"github.com/vpclab/vpclab/metrics"
)

// algorithm is a way to migrate, with its look as a line and as a bar.
type algorithm struct {
	id, name string
	look     look
}

// algorithms are in the order of legends: ours first, then the paper's, the
// parts that it is made of, and others. Xen's first one is what all compare
// with.
var algorithms = []algorithm{
	{"vpclab", "vpclab", look{color: blue, marker: filledCircle}},
	{"cloudnet", "CloudNet", look{color: green, marker: filledTriangle, dashes: []vg.Length{5, 1.5}, hatch: uprightBars}},
	{"xen30", "Xen, 30 iterations", look{color: vermillion, marker: filledSquare, dashes: []vg.Length{7, 2, 1.5, 2}, hatch: risingBars}},
	{"xen5", "Xen, 5 iterations", look{color: orange, marker: filledDown, dashes: dashed, hatch: fallingBars}},
	{"smart-stop", "Smart Stop", look{color: skyBlue, marker: filledDiamond, dashes: dotted, hatch: risingBars}},
	{"cbr", "redundancy elimination", look{color: orange, marker: plusMark, dashes: []vg.Length{2.5, 1.5}, hatch: fallingBars}},
	{"deltas", "page deltas", look{color: yellow, marker: crossMark, dashes: []vg.Length{9, 2}, hatch: crossedBars}},
	{"post-copy", "post-copy", look{color: black, marker: crossMark, dashes: []vg.Length{2, 1.5}, hatch: crossedBars}},
	{"hybrid", "hybrid", look{color: purple, marker: filledDiamond, dashes: []vg.Length{4, 1.5, 1.2, 1.5, 1.2, 1.5}, hatch: levelBars}},
	{"stop-and-copy", "stop and copy", look{color: grey, marker: plusMark, dashes: dotted, hatch: levelBars}},
	{"wanopt", "optimiser", look{color: skyBlue, marker: openCircle}},
	{"wanopt-plain", "optimiser, no Smart Stop", look{color: skyBlue, marker: openCircle, dashes: dashed, hatch: risingBars}},
	{"wanopt-cre", "optimiser, redundancy only", look{color: skyBlue, marker: openSquare, dashes: dotted, hatch: uprightBars}},
	{"wanopt-raw", "optimiser, bytes as they are", look{color: skyBlue, marker: openDiamond, dashes: []vg.Length{9, 2}, hatch: levelBars}},
	{"qemu-pre-copy", "QEMU pre-copy", look{color: purple, marker: filledSquare}},
	{"qemu-xbzrle", "QEMU XBZRLE", look{color: purple, marker: openSquare, dashes: dashed, hatch: risingBars}},
	{"qemu-multifd", "QEMU multifd", look{color: purple, marker: filledTriangle, dashes: dotted, hatch: fallingBars}},
	{"qemu-multifd-zstd", "QEMU multifd, zstd", look{color: purple, marker: openTriangle, dashes: []vg.Length{7, 2, 1.5, 2}, hatch: crossedBars}},
	{"qemu-auto-converge", "QEMU auto-converge", look{color: purple, marker: filledDown, dashes: []vg.Length{9, 2}, hatch: levelBars}},
	{"qemu-post-copy", "QEMU post-copy", look{color: grey, marker: filledDiamond, dashes: dashed, hatch: risingBars}},
	{"qemu-post-copy-preempt", "QEMU post-copy, preempt", look{color: grey, marker: openDown, dashes: []vg.Length{2.5, 1.5}, hatch: uprightBars}},
}

// baseline is what cuts are counted from.
const baseline = "xen30"

// workload is what a VM does meanwhile.
type workload struct {
	id, name string
	look     look
}

// workloads are in the order of rows.
var workloads = []workload{
	{"tpcw", "TPC-W", look{color: blue, marker: filledCircle}},
	{"kernelbuild", "kernel build", look{color: vermillion, marker: filledSquare, dashes: dashed, hatch: risingBars}},
	{"specjbb", "SPECjbb", look{color: green, marker: filledTriangle, dashes: []vg.Length{7, 2, 1.5, 2}, hatch: fallingBars}},
	{"mmuncher", "mmuncher", look{color: black, marker: filledDown, dashes: dotted, hatch: crossedBars}},
	{"idle", "idle", look{color: orange, marker: filledDiamond, dashes: []vg.Length{2.5, 1.5}, hatch: levelBars}},
	{"trace", "trace", look{color: purple, marker: crossMark, dashes: []vg.Length{9, 2}, hatch: uprightBars}},
}

// algorithmOf finds an algorithm by the name that samples have.
func algorithmOf(id string) algorithm {
	if i := slices.IndexFunc(algorithms, func(a algorithm) bool { return a.id == id }); i >= 0 {
		return algorithms[i]
	}
	return algorithm{id, id, look{color: grey, marker: crossMark, dashes: dotted, hatch: levelBars}}
}

// workloadOf finds a workload by the name that samples have.
func workloadOf(id string) workload {
	if i := slices.IndexFunc(workloads, func(w workload) bool { return w.id == id }); i >= 0 {
		return workloads[i]
	}
	return workload{id, id, look{color: grey, marker: crossMark, dashes: dotted, hatch: levelBars}}
}

// ordered are the values of a label among rows: first those known, in their
// order, then others by name.
func ordered(rows []metrics.PointSummary, label string, known func(yield func(string))) []string {
	seen := map[string]bool{}
	for _, r := range rows {
		if v := r.Labels[label]; v != "" {
			seen[v] = true
		}
	}
	var out []string
	known(func(id string) {
		if seen[id] {
			out = append(out, id)
			delete(seen, id)
		}
	})
	return append(out, slices.Sorted(maps.Keys(seen))...)
}

// algorithmsOf are the algorithms among rows, of those wanted; none wanted is
// all.
func algorithmsOf(rows []metrics.PointSummary, wanted ...string) (out []algorithm) {
	for _, id := range ordered(rows, "algorithm", func(yield func(string)) {
		for _, a := range algorithms {
			yield(a.id)
		}
	}) {
		if len(wanted) == 0 || slices.Contains(wanted, id) {
			out = append(out, algorithmOf(id))
		}
	}
	return out
}

// workloadsOf are the workloads among rows; rows without the label are of a
// workload without a name.
func workloadsOf(rows []metrics.PointSummary) (out []workload) {
	for _, id := range ordered(rows, "workload", func(yield func(string)) {
		for _, w := range workloads {
			yield(w.id)
		}
	}) {
		out = append(out, workloadOf(id))
	}
	if out == nil && len(rows) > 0 {
		out = []workload{{look: workloads[0].look}}
	}
	return out
}

// migrationKinds are labels that say what a sample of a migration is about,
// and not which migration.
var migrationKinds = []string{"direction", "phase", "round", "encoder", "side", "quantile", "vm", "leg"}

// sweep is rows whose labels differ in the axes of a figure only: what may be
// compared. It can come from several experiments of a run, each of which has
// measured another part of it.
type sweep struct {
	rows        []metrics.PointSummary
	held        map[string]string // the labels that all rows have in common
	experiments []string
}

// chooseSweep holds all labels but the axes: of the ways to hold them, the
// one with most points of the first of the metrics, and of equals the one at
// the bandwidth that is nearest to that of the paper's main table.
func (d *data) chooseSweep(axes, metricNames []string, keep func(metrics.PointSummary) bool) sweep {
	groups := map[string]*sweep{}
	for _, r := range d.rows {
		if !slices.Contains(metricNames, r.Metric) || keep != nil && !keep(r) {
			continue
		}
		held := heldLabels(r, axes)
		if d.movesDisks(r.Experiment) {
			held["disk"] = "moves" // its bytes and its time are among those of the migration
		}
		key := metrics.PointText(held)
		if groups[key] == nil {
			groups[key] = &sweep{held: held}
		}
		groups[key].rows = append(groups[key].rows, r)
	}
	var chosen sweep
	most := 0
	for _, g := range slices.SortedFunc(maps.Values(groups), func(a, b *sweep) int {
		return cmp.Or(cmp.Compare(a.offHeadline(), b.offHeadline()), metrics.ComparePoints(a.held, b.held))
	}) {
		g.once()
		if n := g.reach(metricNames[0], axes); n > most {
			chosen, most = *g, n
		}
	}
	return chosen
}

// reach is at how many points of the axes there is a metric.
func (s *sweep) reach(metric string, axes []string) int {
	seen := map[string]bool{}
	for _, r := range s.of(metric) {
		at := map[string]string{}
		for _, k := range axes {
			at[k] = r.Labels[k]
		}
		seen[metrics.PointText(at)] = true
	}
	return len(seen)
}

// offHeadline is how far, by factors, the held bandwidth is from 100 Mb/s.
func (s *sweep) offHeadline() float64 {
	rate, ok := parseRate(s.held["rate"])
	if !ok {
		return 0
	}
	return math.Abs(math.Log(rate / 100e6))
}

// movesDisks reports whether the disks of an experiment move with the VMs.
func (d *data) movesDisks(experiment string) bool {
	if d.disks == nil {
		d.disks = map[string]bool{}
		for _, r := range d.rows {
			if r.Metric == "migration.disk_bytes" && r.Max > 0 {
				d.disks[r.Experiment] = true
			}
		}
	}
	return d.disks[experiment]
}

// heldLabels are those that a figure with these axes holds.
func heldLabels(r metrics.PointSummary, axes []string) map[string]string {
	held := maps.Clone(r.Labels)
	for _, list := range [][]string{axes, kindLabels, migrationKinds} {
		for _, k := range list {
			delete(held, k)
		}
	}
	return held
}

// once keeps each point once: where two experiments have measured it, the one
// that measured more of the sweep.
func (s *sweep) once() {
	size := map[string]int{}
	for _, r := range s.rows {
		size[r.Experiment]++
	}
	slices.SortStableFunc(s.rows, func(a, b metrics.PointSummary) int {
		return cmp.Or(size[b.Experiment]-size[a.Experiment], strings.Compare(a.Experiment, b.Experiment))
	})
	seen := map[string]bool{}
	s.rows = slices.DeleteFunc(s.rows, func(r metrics.PointSummary) bool {
		key := r.Metric + "\x00" + metrics.PointText(r.Labels)
		if seen[key] {
			return true
		}
		seen[key] = true
		if !slices.Contains(s.experiments, r.Experiment) {
			s.experiments = append(s.experiments, r.Experiment)
		}
		return false
	})
	slices.Sort(s.experiments)
}

// of are the rows of a metric with the labels given (k, v, k, v …).
func (s sweep) of(metric string, labels ...string) []metrics.PointSummary {
	return (&data{rows: s.rows}).of("", metric, labels...)
}

// scale is by what the published VM was made smaller; 0: the samples do not
// say, and published times cannot be placed beside them.
func (s sweep) scale() float64 {
	v, _ := parseScale(s.held["scale"])
	return v
}

// whichText names the experiments, where the run has more of the kind.
func (s sweep) whichText(d *data, metric string) string {
	if len(d.experiments(metric)) < 2 {
		return ""
	}
	return " " + capital(plural(len(s.experiments), "experiment")) + " " + strings.Join(s.experiments, ", ") + "."
}

func plural(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return noun
}

// heldText is what a sweep holds, in a sentence.
func (s sweep) heldText() string {
	keys := slices.SortedFunc(maps.Keys(s.held), func(a, b string) int {
		order := []string{"workload", "algorithm", "rate", "rtt", "scale", "memory", "group", "cache", "block"}
		ia, ib := slices.Index(order, a), slices.Index(order, b)
		if ia < 0 {
			ia = len(order)
		}
		if ib < 0 {
			ib = len(order)
		}
		return cmp.Or(ia-ib, strings.Compare(a, b))
	})
	var parts []string
	for _, k := range keys {
		parts = append(parts, bind(labelText(k, s.held[k])))
	}
	return sentence(strings.Join(parts, ", "))
}

// labelText is a label in words: "100 Mb/s", "RTT 1.25 ms".
func labelText(k, v string) string {
	switch k {
	case "workload":
		return workloadOf(v).name
	case "algorithm":
		return algorithmOf(v).name
	case "rate":
		return rateText(v)
	case "rtt":
		if s, ok := parseTime(v); ok {
			return "RTT " + timeText(s)
		}
	case "block":
		if b, ok := parseBytes(v); ok {
			return "blocks of " + groupDigits(b) + " bytes"
		}
	case "disk":
		return "the disk moves too"
	case "chunking":
		if v == "fixed" {
			return "fixed blocks"
		}
	case "scale":
		if f, ok := parseScale(v); ok {
			return "scale " + scaleText(f)
		}
	}
	return k + " " + v
}

// rateText is a bandwidth in words: "100 Mb/s".
func rateText(v string) string {
	r, ok := parseRate(v)
	if !ok {
		return "rate " + v
	}
	if r >= 1e9 && math.Mod(r, 1e9) == 0 {
		return groupDigits(r/1e9) + " Gb/s"
	}
	return groupDigits(r/1e6) + " Mb/s"
}

// timeText is seconds as a person says them: "1.25 ms", "2 s".
func timeText(s float64) string {
	if s < 1 {
		return strconv.FormatFloat(math.Round(s*1e6)/1e3, 'f', -1, 64) + " ms"
	}
	return strconv.FormatFloat(math.Round(s*1e3)/1e3, 'f', -1, 64) + " s"
}

// scaleText is a scale as a fraction where it is one: "1/16".
func scaleText(f float64) string {
	if f == 1 {
		return "1"
	}
	if n := math.Round(1 / f); n > 1 && math.Abs(1/f-n) < 1e-6*n {
		return "1/" + strconv.FormatFloat(n, 'f', -1, 64)
	}
	return strconv.FormatFloat(f, 'g', 3, 64)
}

// parseScale reads full, quarter, mini, a fraction or a number.
func parseScale(v string) (float64, bool) {
	switch v {
	case "full":
		return 1, true
	case "quarter":
		return 0.25, true
	case "mini":
		return 1.0 / 16, true
	}
	over, under, fraction := strings.Cut(v, "/")
	n, err := strconv.ParseFloat(over, 64)
	if fraction && err == nil {
		var m float64
		m, err = strconv.ParseFloat(under, 64)
		n /= m
	}
	return n, err == nil && n > 0 && !math.IsInf(n, 0)
}

// parseRate reads a bandwidth, in bits a second: 100mbit, 1gbit.
func parseRate(v string) (float64, bool) {
	for _, u := range []struct {
		unit string
		k    float64
	}{{"kbit", 1e3}, {"mbit", 1e6}, {"gbit", 1e9}, {"bit", 1}} {
		if number, ok := strings.CutSuffix(v, u.unit); ok {
			n, err := strconv.ParseFloat(number, 64)
			return n * u.k, err == nil && n > 0
		}
	}
	return 0, false
}

// parseTime reads a time, in seconds: 1.25ms.
func parseTime(v string) (float64, bool) {
	t, err := time.ParseDuration(v)
	return t.Seconds(), err == nil && t > 0
}

// parseBytes reads a size: 1024, 1KiB, 6.25MB.
func parseBytes(v string) (float64, bool) {
	k := 1.0
	for _, u := range []struct {
		unit string
		k    float64
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1}} {
		if number, ok := strings.CutSuffix(v, u.unit); ok {
			v, k = strings.TrimSpace(number), u.k
			break
		}
	}
	n, err := strconv.ParseFloat(v, 64)
	return n * k, err == nil && n > 0
}

// parseShare reads a share: 10%.
func parseShare(v string) (float64, bool) {
	number, ok := strings.CutSuffix(v, "%")
	n, err := strconv.ParseFloat(number, 64)
	return n / 100, ok && err == nil && n > 0
}

// axis is a label that a figure has along x.
type axis struct {
	label string
	name  string                       // with unit
	parse func(string) (float64, bool) // into the unit of the name
	log   bool
}

// inUnits reads values in units of k.
func inUnits(parse func(string) (float64, bool), k float64) func(string) (float64, bool) {
	return func(v string) (float64, bool) {
		n, ok := parse(v)
		return n / k, ok
	}
}

var (
	rateAxis  = axis{"rate", "bandwidth (Mb/s)", inUnits(parseRate, 1e6), true}
	rttAxis   = axis{"rtt", "round-trip time (ms)", inUnits(parseTime, 1e-3), true}
	blockAxis = axis{"block", "block (bytes)", parseBytes, true}
)

// line is a series of rows along an axis, its values times k.
func (a axis) line(name string, lk look, rows []metrics.PointSummary, k float64) series {
	s := series{name: name, look: lk, lines: true}
	for _, r := range rows {
		if x, ok := a.parse(r.Labels[a.label]); ok {
			s.pts = append(s.pts, seriesPoint{x: x, sum: scaled(r.Summary, k)})
		}
	}
	slices.SortStableFunc(s.pts, func(p, q seriesPoint) int { return cmp.Compare(p.x, q.x) })
	return s
}

// values are the distinct values of the axis among rows, in order.
func (a axis) values(rows []metrics.PointSummary) []float64 {
	seen := map[float64]bool{}
	for _, r := range rows {
		if x, ok := a.parse(r.Labels[a.label]); ok {
			seen[x] = true
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// paperPoints are published values along an axis: hollow marks without
// whiskers or a line.
type paperPoints struct {
	look look
	pts  []seriesPoint
}

// paperPoints places published values; rttScale is by what their RTT shrinks,
// where that is the axis.
func (a axis) paperPoints(lk look, values []Published, scale, k float64) paperPoints {
	p := paperPoints{look: look{color: lk.color, marker: hollow(lk.marker)}}
	for _, v := range values {
		x, ok := a.parse(v.Labels[a.label])
		if !ok || scale <= 0 && !v.Fixed && v.Unit != "share" && v.Unit != "count" {
			continue
		}
		if a.label == "rtt" {
			x *= scale
		}
		p.pts = append(p.pts, seriesPoint{x: x, sum: single(v.At(scale) * k)})
	}
	return p
}

// single is one value that nobody gave a spread of.
func single(v float64) metrics.Summary {
	return metrics.Summary{N: 1, Median: v, Lo: v, Hi: v, Min: v, Max: v, Mean: v}
}

// values of a trial by its number.
type byTrial map[int][]float64

// byTrials are the values of a row, by trial.
func (d *data) byTrials(r metrics.PointSummary) byTrial {
	return d.index()[sampleKey(r.Experiment, r.Metric, r.Labels)]
}

func sampleKey(experiment, metric string, labels map[string]string) string {
	return experiment + "\x00" + metric + "\x00" + metrics.PointText(labels)
}

// index finds samples by their row.
func (d *data) index() map[string]byTrial {
	if d.bySample != nil {
		return d.bySample
	}
	d.bySample = map[string]byTrial{}
	for _, s := range d.samples {
		key := sampleKey(s.Experiment, s.Metric, s.Labels)
		if d.bySample[key] == nil {
			d.bySample[key] = byTrial{}
		}
		d.bySample[key][s.Trial] = append(d.bySample[key][s.Trial], s.Value)
	}
	return d.bySample
}

// paired summarizes f(a, b) over the trials that both rows have, trial by
// trial: the trials of one number have the same seed, and run close to each
// other. ok is false where there is no such pair.
func (d *data) paired(a, b metrics.PointSummary, f func(a, b float64) float64) (metrics.Summary, bool) {
	if a.Experiment != b.Experiment {
		return metrics.Summary{}, false
	}
	of, over := d.byTrials(a), d.byTrials(b)
	var values []float64
	for _, trial := range slices.Sorted(maps.Keys(of)) {
		if vs, ws := of[trial], over[trial]; len(vs) == 1 && len(ws) == 1 && ws[0] != 0 {
			values = append(values, f(vs[0], ws[0]))
		}
	}
	return metrics.Summarize(values), len(values) > 0
}

// paperLegend is the entry that explains hollow marks.
func paperLegend() entry {
	return entry{"hollow: paper (2011 hardware)", series{look: look{color: subtleInk, marker: openCircle}}.thumb}
}

// paperText says in a caption where published values come from and what was
// done to them; scale 0 says that they could not be placed.
func paperText(scale float64, marks string, sources ...string) string {
	if scale <= 0 {
		return "The samples have no label scale, so that published times and sizes cannot be placed beside them."
	}
	text := fmt.Sprintf("%s: %s, %s, on hardware of 2011", marks, PaperName, strings.Join(sources, " and "))
	if scale != 1 {
		text += fmt.Sprintf("; its seconds, megabytes and RTTs are multiplied by the scale %s, as memory and RTT are here", scaleText(scale))
	}
	return text + "."
}

// sizeUnit chooses a unit for bytes.
func sizeUnit(top float64) (k float64, unit string) {
	switch {
	case top >= 2e9:
		return 1e-9, "GB"
	case top >= 2e6:
		return 1e-6, "MB"
	default:
		return 1e-3, "kB"
	}
}
