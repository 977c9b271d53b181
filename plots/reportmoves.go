package plots

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/vpclab/vpclab/metrics"
)

// moveColumns are what the table of migrations has of each; a column that no
// row has anything in is left out.
var moveColumns = []struct {
	name, unit, metric string
	labels             []string
	k                  float64 // from the metric's unit
}{
	{"total", "s", "migration.total", nil, 1},
	{"pause", "ms", "migration.pause", nil, 1e3},
	{"gap of users", "ms", "migration.gap", nil, 1e3},
	{"data out", "MB", "migration.bytes", []string{"direction", "out"}, 1e-6},
	{"of the disk", "MB", "migration.disk_bytes", nil, 1e-6},
	{"iterations", "", "migration.rounds", nil, 1},
	{"pages waited for", "", "faults.demanded", nil, 1},
	{"reconnects", "", "migration.reconnects", nil, 1},
	{"resets", "", "client.resets", nil, 1},
	{"lost", "", "client.lost", nil, 1},
	{"hashes equal", "", "migration.verified", nil, 1},
}

// moveTable is the migrations of one experiment, a row each.
type moveTable struct {
	Experiment, Held string
	Labels, Columns  []string
	Rows             []moveRow
}

type moveRow struct {
	Cells  []string // values of the labels
	Values []moveValue
	N      int
	Void   int // values of void trials, which are not among them
}

// moveValue is a median with its spread, as text; "" where there is none.
type moveValue struct{ Median, Spread string }

// moveTables are the medians of all migrations, by experiment.
func (d *data) moveTables() (tables []moveTable) {
	for _, exp := range d.experiments("migration.total") {
		rows := slices.Clone(d.of(exp, "migration.total"))
		var all []map[string]string
		for _, r := range rows {
			all = append(all, r.Labels)
		}
		varied, fixed := varying(all)
		slices.SortFunc(varied, compareMoveKeys)
		held := map[string]string{}
		for _, k := range fixed {
			held[k] = rows[0].Labels[k]
		}
		t := moveTable{Experiment: exp, Held: strings.ReplaceAll(sweep{held: held}.heldText(), bound, " "), Labels: varied}
		slices.SortStableFunc(rows, func(a, b metrics.PointSummary) int {
			for _, k := range varied {
				if c := compareMoves(k, a.Labels[k], b.Labels[k]); c != 0 {
					return c
				}
			}
			return 0
		})
		used := make([]bool, len(moveColumns))
		for _, r := range rows {
			row := moveRow{N: r.N, Void: r.Void}
			for _, k := range varied {
				row.Cells = append(row.Cells, moveCell(k, r.Labels[k]))
			}
			for i, c := range moveColumns {
				v := moveValue{}
				if s, ok := d.beside(exp, r.Labels, c.metric, c.labels); ok {
					v, used[i] = moveText(scaled(s, c.k)), true
				}
				row.Values = append(row.Values, v)
			}
			t.Rows = append(t.Rows, row)
		}
		for i, c := range moveColumns {
			if name := c.name; used[i] {
				if c.unit != "" {
					name += " (" + c.unit + ")"
				}
				t.Columns = append(t.Columns, name)
			}
		}
		for i := range t.Rows {
			var kept []moveValue
			for k, v := range t.Rows[i].Values {
				if used[k] {
					kept = append(kept, v)
				}
			}
			t.Rows[i].Values = kept
		}
		tables = append(tables, t)
	}
	return tables
}

// beside is another metric of the same migration. Users are not told apart by
// the moves of a trial: what they saw stands at each.
func (d *data) beside(exp string, labels map[string]string, metric string, more []string) (metrics.Summary, bool) {
	want := maps.Clone(labels)
	for i := 0; i+1 < len(more); i += 2 {
		want[more[i]] = more[i+1]
	}
	if strings.HasPrefix(metric, "client.") {
		delete(want, "leg")
	}
	for _, r := range d.of(exp, metric) {
		if maps.Equal(r.Labels, want) {
			return r.Summary, true
		}
	}
	return metrics.Summary{}, false
}

// compareMoveKeys puts the labels of a migration in the order people say them.
func compareMoveKeys(a, b string) int {
	order := []string{"workload", "rate", "rtt", "scale", "memory", "group", "vm", "leg", "cache", "block", "encoders", "algorithm"}
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

// compareMoves puts the values of a label in order: algorithms and workloads
// as legends have them, quantities by size.
func compareMoves(k, a, b string) int {
	size := func(v string) float64 {
		for _, parse := range []func(string) (float64, bool){parseRate, parseTime, parseShare, parseBytes, parseScale} {
			if n, ok := parse(v); ok {
				return n
			}
		}
		return 0
	}
	switch k {
	case "algorithm":
		index := func(v string) int {
			return slices.IndexFunc(algorithms, func(x algorithm) bool { return x.id == v })
		}
		return cmp.Or(index(a)-index(b), strings.Compare(a, b))
	case "workload":
		index := func(v string) int {
			return slices.IndexFunc(workloads, func(x workload) bool { return x.id == v })
		}
		return cmp.Or(index(a)-index(b), strings.Compare(a, b))
	}
	return cmp.Or(cmp.Compare(size(a), size(b)), strings.Compare(a, b))
}

// moveCell is a label's value in words; the column has the label's name.
func moveCell(k, v string) string {
	switch k {
	case "algorithm":
		return algorithmOf(v).name
	case "workload":
		return workloadOf(v).name
	case "rate":
		return rateText(v)
	case "rtt":
		if t, ok := parseTime(v); ok {
			return timeText(t)
		}
	case "scale":
		if f, ok := parseScale(v); ok {
			return scaleText(f)
		}
	}
	return v
}

// moveText writes three digits of the median, and from where to where it goes
// unless all values are the same.
func moveText(s metrics.Summary) moveValue {
	v := moveValue{Median: tableNumberText(s.Median)}
	if s.Min != s.Max {
		lo, hi, caps := spread(s)
		v.Spread = tableNumberText(lo) + " to " + tableNumberText(hi)
		if caps {
			v.Spread = "[" + tableNumberText(lo) + ", " + tableNumberText(hi) + "]"
		}
	}
	return v
}

// tableNumberText writes counts whole and others with three digits.
func tableNumberText(v float64) string {
	if v == float64(int64(v)) {
		return metrics.FormatValue(v)
	}
	return digits3(v)
}

// withoutRounds are rows without those of single iterations: there are
// thousands, and figures show them better.
func withoutRounds(rows []metrics.PointSummary) []metrics.PointSummary {
	return slices.DeleteFunc(slices.Clone(rows), func(r metrics.PointSummary) bool { return strings.HasPrefix(r.Metric, "round.") })
}
