package plots

import (
	"fmt"
	"math"
	"slices"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/vpclab/vpclab/metrics"
)

// replicaMode is a mode of replication, as figures show it.
type replicaMode struct {
	id, name string
	look     look
}

var replicaModes = []replicaMode{
	{"async", "asynchronous", look{color: grey, marker: openCircle, dashes: dotted, hatch: levelBars}},
	{"checkpoint", "checkpoints, output held", look{color: blue, marker: filledCircle}},
	{"pipelined", "pipelined", look{color: green, marker: filledTriangle, dashes: dashed, hatch: risingBars}},
	{"sync", "synchronous", look{color: vermillion, marker: filledSquare, hatch: fallingBars}},
}

// replicaModesOf are the modes among rows.
func replicaModesOf(rows []metrics.PointSummary) (out []replicaMode) {
	for _, id := range ordered(rows, "mode", func(yield func(string)) {
		for _, m := range replicaModes {
			yield(m.id)
		}
	}) {
		i := slices.IndexFunc(replicaModes, func(m replicaMode) bool { return m.id == id })
		if i >= 0 {
			out = append(out, replicaModes[i])
		}
	}
	return out
}

// failoverParts are what a recovery is made of, in order of time.
var failoverParts = []struct {
	metric, name string
	look         look
}{
	{"failover.detect", "detect", look{color: orange, hatch: risingBars}},
	{"failover.decide", "decide and fence", look{color: yellow}},
	{"failover.activate", "activate", look{color: blue}},
	{"failover.redirect", "redirect", look{color: purple, hatch: crossedBars}},
	{"failover.client", "client", look{color: green, hatch: fallingBars}},
}

// failoverRows hold all labels but the mode and the fault, each mode at its own
// epoch: experiments that vary epochs have a figure of their own.
func (d *data) failoverRows(names ...string) sweep {
	return d.chooseSweep([]string{"mode", "fault", "epoch"}, names, func(r metrics.PointSummary) bool {
		return d.values(r.Experiment, "epoch") <= d.values(r.Experiment, "mode")
	})
}

// values is how many values of a label an experiment about failovers has.
func (d *data) values(experiment, label string) int {
	seen := map[string]bool{}
	for _, r := range d.of(experiment, "failover.gap") {
		seen[r.Labels[label]] = true
	}
	return len(seen)
}

// makeRTO draws the recovery time of each mode from each fault, split.
func makeRTO(d *data) (*page, string, error) {
	const metric = "failover.rto"
	names := []string{metric}
	for _, p := range failoverParts {
		names = append(names, p.metric)
	}
	s := d.failoverRows(names...)
	if len(s.rows) == 0 {
		return nil, "", missingf("no samples of %s: no failover experiment has finished a trial in which the other seat took over", metric)
	}
	var groups []breakdownGroup
	var used []metrics.PointSummary
	for _, fault := range ordered(s.rows, "fault", func(func(string)) {}) {
		if fault == "planned" {
			continue // makePlanned
		}
		g := breakdownGroup{label: capital(faultText(fault))}
		for _, m := range replicaModesOf(s.of(metric, "fault", fault)) {
			bar := breakdownBar{label: m.name}
			sums := map[string]float64{}
			for _, p := range failoverParts {
				rows := s.of(p.metric, "fault", fault, "mode", m.id)
				if len(rows) == 0 {
					continue
				}
				// Parts follow each other: a part ends where it and those before it do.
				r := rows[0]
				sums[m.id] += r.Median
				r.Summary = shifted(r.Summary, sums[m.id]-r.Median)
				bar.ends, bar.looks = append(bar.ends, r), append(bar.looks, p.look)
			}
			if len(bar.ends) > 0 {
				g.bars, used = append(g.bars, bar), append(used, s.of(metric, "fault", fault, "mode", m.id)...)
			}
		}
		if len(g.bars) > 0 {
			groups = append(groups, g)
		}
	}
	if len(groups) == 0 {
		return nil, "", missingf("all samples of %s are of planned moves", metric)
	}
	scale, unit := secondsOrMillis(used)
	layout := stackLayout{groups: groups, scale: scale}
	pg := &page{width: doubleWidth, bodyHeight: layout.height()}
	for _, p := range failoverParts {
		pg.legend = append(pg.legend, entry{p.name, boxThumb(p.look)})
	}
	pg.body = func(c draw.Canvas) { layout.draw(c, "time since the fault ("+unit+")") }
	whole := fmt.Sprintf("Medians of each part; %s, at the end of each; %s a bar.", spreadText(used), nText(used))
	pg.subtitle = []string{whole, s.heldText(), d.kernelText()}
	caption := fmt.Sprintf("Recovery time of an application that fails over from one cloud to another, split: the standby hears nothing any more; the witness gives it the VM, when the other's lease has run out; the VM takes its first step; the network is told; the first user is answered. On the right, the same bars as shares of their whole. %s %s %s%s",
		whole, s.heldText(), d.kernelText(), s.whichText(d, metric))
	return pg, caption, nil
}

// shifted is a summary of values that are all greater by v.
func shifted(s metrics.Summary, v float64) metrics.Summary {
	s.Median, s.Lo, s.Hi, s.Min, s.Max, s.Mean = s.Median+v, s.Lo+v, s.Hi+v, s.Min+v, s.Max+v, s.Mean+v
	return s
}

// makeRPO draws what each mode loses, and what its users notice.
func makeRPO(d *data) (*page, string, error) {
	const metric = "failover.lost"
	columns := []struct {
		metric, name string
		factor       float64
	}{
		{metric, "acknowledged and lost", 1}, {"failover.rpo_time", "age of the oldest (ms)", 1e3},
		{"client.resets", "connections broken", 1}, {"failover.gap", "longest silence (s)", 1},
	}
	var names []string
	for _, c := range columns {
		names = append(names, c.metric)
	}
	s := d.failoverRows(names...)
	if len(s.rows) == 0 {
		return nil, "", missingf("no samples of %s: no failover experiment has finished a trial", metric)
	}
	t := barTable{}
	for _, c := range columns {
		t.columns = append(t.columns, c.name)
	}
	var used []metrics.PointSummary
	for _, fault := range ordered(s.rows, "fault", func(func(string)) {}) {
		g := barGroup{heading: capital(faultText(fault))}
		if fault == "planned" {
			g.heading = "The VM is switched over"
		}
		for _, m := range replicaModesOf(s.of(metric, "fault", fault)) {
			row := barRow{name: m.name, look: m.look}
			for _, c := range columns {
				cell := barCell{}
				if rows := s.of(c.metric, "fault", fault, "mode", m.id); len(rows) > 0 {
					cell.sum, cell.has = scaled(rows[0].Summary, c.factor), true
					used = append(used, rows[0])
				}
				row.cells = append(row.cells, cell)
			}
			g.rows = append(g.rows, row)
		}
		if len(g.rows) > 0 {
			t.groups = append(t.groups, g)
		}
	}
	pg := &page{width: doubleWidth, bodyHeight: t.height(), body: t.draw}
	whole := fmt.Sprintf("Median; %s; %s a bar.", spreadText(used), nText(used))
	pg.subtitle = []string{whole, s.heldText(), d.kernelText()}
	caption := fmt.Sprintf("What a failover costs, by mode of replication: transactions that users had been told are done and of which the VM knows nothing afterwards (the recovery point in transactions), how old the oldest of them was (in time), connections that broke, and the longest time without an answer. Counted by the users' own ledgers against the VM's, in every trial. %s %s %s%s",
		whole, s.heldText(), d.kernelText(), s.whichText(d, metric))
	return pg, caption, nil
}

// remusOverhead are the checkpoints a second and the overhead that Remus
// prints for a kernel compilation (NSDI'08, figure 5 and section 5.4).
var remusOverhead = []struct{ perSecond, overhead float64 }{{10, 0.31}, {20, 0.52}, {30, 0.80}, {40, 1.03}}

// epochAxis is how often checkpoints are taken, by their epoch.
var epochAxis = axis{"epoch", "checkpoints asked for a second", func(v string) (float64, bool) {
	s, ok := parseTime(v)
	return math.Round(1 / s), ok && s > 0
}, false}

// makeReplicationCost draws what checkpoints cost the VM and its users, against
// how often they are taken.
func makeReplicationCost(d *data) (*page, string, error) {
	names := []string{"guest.overhead", "client.response", "replica.pause", "replica.rate"}
	s := d.chooseSweep([]string{"epoch", "mode"}, names, func(r metrics.PointSummary) bool {
		if r.Labels["mode"] != "async" && r.Labels["mode"] != "checkpoint" {
			return false
		}
		return r.Labels["quantile"] == "" || r.Labels["quantile"] == "p50" && (r.Metric != "client.response" || r.Labels["phase"] == "protected")
	})
	xs := epochAxis.values(s.rows)
	if len(xs) < 2 {
		return nil, "", missingf("epoch has %s: a line needs two values or more (vary: {epoch: […]})", oneOrNo(len(xs)))
	}
	var legend [][]series
	panelOf := func(metric, name string, k float64, papers []paperPoints) panel {
		var lines []series
		for _, m := range replicaModesOf(s.rows) {
			if l := epochAxis.line(m.name, m.look, s.of(metric, "mode", m.id), k); len(l.pts) > 0 {
				lines = append(lines, l)
			}
		}
		if len(lines) == 0 {
			return panel{}
		}
		legend = append(legend, lines)
		return panel{xName: epochAxis.name, yName: name, plot: func() *plot.Plot { return linesPlot(epochAxis, xs, lines, papers, false) }}
	}
	remus := paperPoints{look: look{color: ink, marker: openDiamond}}
	for _, p := range remusOverhead {
		remus.pts = append(remus.pts, seriesPoint{x: p.perSecond, sum: metrics.Summary{Median: 100 * p.overhead}})
	}
	g := panelRows{each: 1.5 * vg.Inch, rows: [][]panel{
		{panelOf("guest.overhead", "overhead of the workload (%)", 100, []paperPoints{remus}), panelOf("client.response", "median answer (ms)", 1e3, nil)},
		{panelOf("replica.pause", "median pause (ms)", 1e3, nil), panelOf("replica.rate", "WAN (Mb/s)", 1e-6, nil)},
	}}
	pg := &page{width: doubleWidth, legend: append(legendOf(legend), entry{"Remus, printed", func(c draw.Canvas) {
		drawMarkerOf(c, remus.look, c.Center(), paperRadius)
	}})}
	pg.bodyHeight, pg.body = g.height(), g.draw
	whole := fmt.Sprintf("Median; %s; %s a point.", spreadText(s.rows), nText(s.rows))
	pg.subtitle = []string{whole, s.heldText(), d.kernelText()}
	caption := fmt.Sprintf("What protection costs against how often checkpoints are asked for: time that the workload loses, what a user waits, how long the VM stands for a checkpoint, and what goes over the WAN. Open diamonds: the overhead that Remus prints for a kernel compilation on its hardware (NSDI'08), which is another workload on another machine. %s %s %s%s",
		whole, s.heldText(), d.kernelText(), s.whichText(d, "guest.overhead"))
	return pg, caption, nil
}

// makeReplicationRTT draws what users wait against the round-trip time between
// the clouds, by mode.
func makeReplicationRTT(d *data) (*page, string, error) {
	s := d.chooseSweep([]string{"rtt", "mode", "epoch"}, []string{"client.response", "client.rate"}, func(r metrics.PointSummary) bool {
		return r.Labels["phase"] == "protected" && (r.Labels["quantile"] == "" || r.Labels["quantile"] == "p50") && d.values(r.Experiment, "rtt") > 1
	})
	xs := rttAxis.values(s.rows)
	if len(xs) < 2 {
		return nil, "", missingf("rtt has %s: a line needs two values or more (vary: {rtt: […]})", oneOrNo(len(xs)))
	}
	var legend [][]series
	panelOf := func(metric, name string, k float64) panel {
		var lines []series
		for _, m := range replicaModesOf(s.rows) {
			if l := rttAxis.line(m.name, m.look, s.of(metric, "mode", m.id), k); len(l.pts) > 0 {
				lines = append(lines, l)
			}
		}
		legend = append(legend, lines)
		return panel{xName: rttAxis.name, yName: name, plot: func() *plot.Plot { return linesPlot(rttAxis, xs, lines, nil, false) }}
	}
	g := panelRows{each: 1.7 * vg.Inch, rows: [][]panel{{panelOf("client.response", "median answer (ms)", 1e3), panelOf("client.rate", "answers a second", 1)}}}
	pg := &page{width: doubleWidth, legend: legendOf(legend)}
	pg.bodyHeight, pg.body = g.height(), g.draw
	whole := fmt.Sprintf("Median; %s; %s a point.", spreadText(s.rows), nText(s.rows))
	pg.subtitle = []string{whole, s.heldText(), d.kernelText()}
	caption := fmt.Sprintf("What users of a protected VM wait, and how many answers they get, against the round-trip time between its two clouds. Asynchronous replication waits for nothing and may lose; pipelined waits once for what an answer rests on, synchronous once for every write (as PipeCloud, SoCC'11, compares them); checkpoints wait for the next one and its way. %s %s %s%s",
		whole, s.heldText(), d.kernelText(), s.whichText(d, "client.response"))
	return pg, caption, nil
}

// makePlanned draws a planned move beside failovers: what moving in time saves.
func makePlanned(d *data) (*page, string, error) {
	type way struct {
		name string
		look look
		row  func(metric string) (metrics.PointSummary, bool)
	}
	fail := d.failoverRows("failover.gap", "failover.lost", "client.resets")
	var ways []way
	moves := d.chooseSweep([]string{"algorithm"}, []string{"migration.gap"}, alone)
	for _, a := range algorithmsOf(moves.rows) {
		r := moves.of("migration.gap", "algorithm", a.id)[0]
		rows := map[string]string{"failover.gap": "migration.gap", "failover.lost": "client.lost", "client.resets": "client.resets"}
		ways = append(ways, way{"migrated live, " + a.name, a.look, func(metric string) (metrics.PointSummary, bool) {
			return at(d.of(r.Experiment, rows[metric]), point(r))
		}})
	}
	for _, fault := range ordered(fail.rows, "fault", func(yield func(string)) { yield("planned") }) {
		for _, m := range replicaModesOf(fail.of("failover.gap", "fault", fault)) {
			name := faultText(fault) + ", " + m.name
			if fault == "planned" {
				name = "switched over, " + m.name
			}
			ways = append(ways, way{name, m.look, func(metric string) (metrics.PointSummary, bool) {
				rows := fail.of(metric, "fault", fault, "mode", m.id)
				if len(rows) == 0 {
					return metrics.PointSummary{}, false
				}
				return rows[0], true
			}})
		}
	}
	moved := slices.ContainsFunc(ways, func(w way) bool { return w.name[0] == 'm' || w.name[0] == 's' })
	if len(fail.rows) == 0 || !moved {
		return nil, "", missingf("it takes a failover experiment, and a migration or a planned switch-over beside it")
	}
	columns := []struct{ metric, name string }{{"failover.gap", "longest silence (s)"}, {"failover.lost", "acknowledged and lost"}, {"client.resets", "connections broken"}}
	t := barTable{groups: []barGroup{{}}}
	for _, c := range columns {
		t.columns = append(t.columns, c.name)
	}
	var used []metrics.PointSummary
	for _, w := range ways {
		row := barRow{name: w.name, look: w.look}
		for _, c := range columns {
			cell := barCell{}
			if r, ok := w.row(c.metric); ok {
				cell.sum, cell.has = r.Summary, true
				used = append(used, r)
			}
			row.cells = append(row.cells, cell)
		}
		t.groups[0].rows = append(t.groups[0].rows, row)
	}
	pg := &page{width: doubleWidth, bodyHeight: t.height(), body: t.draw}
	whole := fmt.Sprintf("Median; %s; %s a bar.", spreadText(used), nText(used))
	pg.subtitle = []string{whole, d.kernelText()}
	caption := "An application leaves a cloud: moved in time, by live migration or by switching over to its standby, or failed over once the cloud was lost. " + whole + " " + d.kernelText()
	return pg, caption, nil
}

// makeAvailability draws what random faults do to a VM, by mode.
func makeAvailability(d *data) (*page, string, error) {
	columns := []struct {
		metric, name string
		factor       float64
	}{
		{"availability.ratio", "availability (%)", 100}, {"availability.down", "not answered (s)", 1},
		{"availability.lost", "acknowledged and lost", 1}, {"availability.violations", "invariants broken", 1},
	}
	var names []string
	for _, c := range columns {
		names = append(names, c.metric)
	}
	s := d.chooseSweep([]string{"mode"}, names, func(r metrics.PointSummary) bool { return r.Labels["invariant"] == "" })
	if len(s.rows) == 0 {
		return nil, "", missingf("no samples of availability.ratio: no availability experiment has finished a trial")
	}
	t := barTable{groups: []barGroup{{}}}
	for _, c := range columns {
		t.columns = append(t.columns, c.name)
	}
	modes := replicaModesOf(s.rows)
	if len(s.of("availability.ratio", "mode", "alone")) > 0 {
		modes = append([]replicaMode{{"alone", "no standby", look{color: black, hatch: crossedBars}}}, modes...)
	}
	var used []metrics.PointSummary
	for _, m := range modes {
		row := barRow{name: m.name, look: m.look}
		for _, c := range columns {
			cell := barCell{}
			if rows := s.of(c.metric, "mode", m.id); len(rows) > 0 {
				cell.sum, cell.has = scaled(rows[0].Summary, c.factor), true
				used = append(used, rows[0])
			}
			row.cells = append(row.cells, cell)
		}
		t.groups[0].rows = append(t.groups[0].rows, row)
	}
	faults := 0.0
	for _, r := range d.of("", "availability.faults") {
		faults += r.Mean * float64(r.N)
	}
	pg := &page{width: doubleWidth, bodyHeight: t.height(), body: t.draw}
	whole := fmt.Sprintf("Median; %s; %s a bar; %s faults in all.", spreadText(used), nText(used), strconv.FormatFloat(faults, 'f', 0, 64))
	pg.subtitle = []string{whole, s.heldText(), d.kernelText()}
	caption := fmt.Sprintf("A VM under random faults, by how it is replicated: the share of time in which users are answered as usual, the time in which they are not, transactions that were acknowledged and lost, and how often an invariant was broken (two seats active, a write lost that a synchronous mode had promised, a lab that was not whole after a fault was undone). Faults come far more often here than in any cloud, so the share is no forecast; the time lost to each fault is. %s %s %s%s",
		whole, s.heldText(), d.kernelText(), s.whichText(d, "availability.ratio"))
	return pg, caption, nil
}
