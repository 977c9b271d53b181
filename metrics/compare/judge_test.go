package compare

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// one compares two lists of values as one cell.
func one(t *testing.T, o Options, metric, unit string, old, new []float64, sameDraws bool) Cell {
	t.Helper()
	k := cellKey{"e", metric, unit, ""}
	side := func(values []float64) table {
		tab := table{values: map[cellKey][]value{}, labels: map[cellKey]map[string]string{}}
		for i, v := range values {
			tab.add(k, nil, trialID{1, i + 1}, v)
		}
		return tab
	}
	all := family{has: func(cellKey) bool { return true }}
	cells, _ := o.withDefaults().judge(side(old), side(new), all, sameDraws)
	require.Len(t, cells, 1)
	return cells[0]
}

func TestVerdicts(t *testing.T) {
	six := []float64{1.000, 1.001, 1.002, 1.003, 1.004, 1.005}
	by := func(k float64) (v []float64) {
		for _, x := range six {
			v = append(v, x*k)
		}
		return v
	}
	tenth := 0.1
	for name, c := range map[string]struct {
		o            Options
		metric, unit string
		old, new     []float64
		virtual      bool
		want         string
		exact        bool
	}{
		"slower by 5 %":                           {metric: "x.total", unit: "s", old: six, new: by(1.05), want: Regression},
		"faster by 5 %":                           {metric: "x.total", unit: "s", old: six, new: by(0.95), want: Improvement},
		"a rate that falls":                       {metric: "x.rate", unit: "bit/s", old: six, new: by(0.95), want: Regression},
		"a rate that rises":                       {metric: "x.rate", unit: "bit/s", old: six, new: by(1.05), want: Improvement},
		"slower by 1 %, surely":                   {metric: "x.total", unit: "s", old: six, new: by(1.01), want: Small},
		"slower by 2.8 %: 3 % cannot be excluded": {metric: "x.total", unit: "s", old: six, new: by(1.028), want: Regression},
		"slower by 2.8 %, by its estimate":        {o: Options{Estimate: true}, metric: "x.total", unit: "s", old: six, new: by(1.028), want: Small},
		"among each other":                        {metric: "x.total", unit: "s", old: six, new: by(1.001), want: Within},
		"the same times":                          {metric: "x.total", unit: "s", old: six, new: six, want: Same},
		"among each other, in noise":              {metric: "x.total", unit: "s", old: []float64{1, 1.1, 1.2, 1.3, 1.4, 1.5}, new: []float64{1.05, 1.15, 1.25, 1.35, 1.45, 1.2}, want: NoFinding},
		"a constant time":                         {metric: "x.total", unit: "s", old: []float64{2, 2}, new: []float64{2}, want: Same},
		"five trials":                             {metric: "x.total", unit: "s", old: six, new: by(1.5)[:5], want: TooFew},
		"one trial, equal":                        {metric: "x.rules", unit: "count", old: []float64{7}, new: []float64{7}, want: Same, exact: true},
		"one trial, not equal":                    {metric: "x.total", unit: "s", old: []float64{1}, new: []float64{2}, want: TooFew},
		"nothing became something":                {metric: "x.total", unit: "s", old: make([]float64, 6), new: six, want: Regression},
		"a ratio has no direction":                {metric: "x.share", unit: "ratio", old: six, new: by(2), want: Hint},
		"a ratio is given one":                    {o: Options{Higher: []string{"*.share"}}, metric: "x.share", unit: "ratio", old: six, new: by(0.5), want: Regression},

		"virtual: one rule more in one trial":                    {metric: "rules", unit: "count", old: []float64{9, 9, 9}, new: []float64{9, 10, 9}, virtual: true, want: Regression, exact: true},
		"virtual: one rule fewer in one trial":                   {metric: "rules", unit: "count", old: []float64{9, 9, 9}, new: []float64{9, 8, 9}, virtual: true, want: Improvement, exact: true},
		"virtual: a pair is not reached":                         {metric: "setup.pairs_reached", unit: "count", old: []float64{9, 9}, new: []float64{9, 8}, virtual: true, want: Regression, exact: true},
		"virtual: a leak":                                        {metric: "setup.leaks", unit: "count", old: []float64{0, 0}, new: []float64{0, 1}, virtual: true, want: Regression, exact: true},
		"virtual: pages to send differ":                          {metric: "round.to_send", unit: "pages", old: []float64{9, 9, 9, 9, 9, 9}, new: []float64{8, 8, 8, 8, 8, 8}, virtual: true, want: Changed, exact: true},
		"virtual: a round more, always":                          {metric: "migration.rounds", unit: "count", old: []float64{8, 8, 8, 8, 8, 8}, new: []float64{9, 9, 9, 9, 9, 9}, virtual: true, want: Regression, exact: true},
		"virtual: a round more, once":                            {metric: "migration.rounds", unit: "count", old: []float64{8, 8, 8, 8, 8, 8}, new: []float64{8, 8, 8, 9, 8, 8}, virtual: true, want: TooFew},
		"virtual: a byte more in one trial":                      {metric: "migration.payload", unit: "bytes", old: []float64{800}, new: []float64{801}, virtual: true, want: TooFew},
		"virtual: bytes as they were, by trial":                  {metric: "x.bytes", unit: "bytes", old: []float64{8, 7, 9}, new: []float64{8, 7, 9}, virtual: true, want: Same, exact: true},
		"virtual: bytes that depend on the seed are a statistic": {metric: "x.bytes", unit: "bytes", old: six, new: by(1.05), virtual: true, want: Regression},
		"virtual: and small changes of theirs are no matter":     {metric: "x.bytes", unit: "bytes", old: six, new: by(1.001), virtual: true, want: Within},
		"a leak in real time, once":                              {metric: "setup.leaks", unit: "count", old: make([]float64, 6), new: []float64{0, 0, 0, 0, 0, 1}, want: TooFew},
		"a leak in real time, with no tolerance":                 {o: Options{Tolerance: new(float64)}, metric: "setup.leaks", unit: "count", old: make([]float64, 6), new: []float64{0, 0, 0, 0, 0, 1}, want: Regression, exact: true},
		"bytes within a tolerance":                               {o: Options{Tolerance: &tenth}, metric: "x.bytes", unit: "bytes", old: []float64{100, 101}, new: []float64{105, 110}, want: Changed, exact: true},
		"bytes beyond it":                                        {o: Options{Tolerance: &tenth}, metric: "x.bytes", unit: "bytes", old: []float64{100, 101}, new: []float64{105, 112}, want: Regression, exact: true},
	} {
		t.Run(name, func(t *testing.T) {
			got := one(t, c.o, c.metric, c.unit, c.old, c.new, c.virtual)
			require.Equal(t, c.want, got.Verdict, "%+v", got)
			require.Equal(t, c.exact, got.Exact)
		})
	}
}

// TestConclusions: nothing undecided passes for equal.
func TestConclusions(t *testing.T) {
	for name, c := range map[string]struct {
		cells   []Cell
		want    string
		reasons int
	}{
		"nothing at all":         {nil, Undecided, 1},
		"only hints":             {[]Cell{{Verdict: Hint}}, Undecided, 1},
		"equal":                  {[]Cell{{Primary: true, Verdict: Same}}, NoneFound, 0},
		"counters are enough":    {[]Cell{{Exact: true, Verdict: Same}}, NoneFound, 0},
		"few trials":             {[]Cell{{Primary: true, Verdict: NoFinding}, {Primary: true, Verdict: TooFew}}, Undecided, 1},
		"few trials of others":   {[]Cell{{Primary: true, Verdict: NoFinding}, {Verdict: TooFew}}, NoneFound, 0},
		"gone":                   {[]Cell{{Primary: true, Verdict: NoFinding}, {Primary: true, Verdict: OldOnly}}, Undecided, 1},
		"new":                    {[]Cell{{Primary: true, Verdict: NoFinding}, {Primary: true, Verdict: NewOnly}}, NoneFound, 0},
		"worse is worse":         {[]Cell{{Primary: true, Verdict: TooFew}, {Exact: true, Verdict: Regression}}, Regression, 1},
		"better does not matter": {[]Cell{{Primary: true, Verdict: Improvement}}, NoneFound, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := Report{Cells: c.cells}
			r.conclude()
			require.Equal(t, c.want, r.Verdict)
			require.Len(t, r.Reasons, c.reasons)
		})
	}
}

// TestFamilyTooLarge: with 24 metrics and six trials nothing can be found, and
// that is said.
func TestFamilyTooLarge(t *testing.T) {
	old := table{values: map[cellKey][]value{}, labels: map[cellKey]map[string]string{}}
	new := table{values: map[cellKey][]value{}, labels: map[cellKey]map[string]string{}}
	for m := range 24 {
		for trial := range 6 {
			k := cellKey{"e", string(rune('a'+m)) + ".total", "s", ""}
			old.add(k, nil, trialID{1, trial}, float64(10+trial))
			new.add(k, nil, trialID{1, trial}, float64(20+trial))
		}
	}
	all := family{has: func(cellKey) bool { return true }}
	cells, fam := Options{}.withDefaults().judge(old, new, all, false)
	require.Equal(t, 0, fam.Tested)
	require.Equal(t, 7, fam.Needs)
	for _, c := range cells {
		require.Equal(t, TooFew, c.Verdict)
		require.Contains(t, c.Why, "for a family of 24 tests")
		require.Contains(t, c.Why, "7 a side are needed")
	}
	few := family{has: func(k cellKey) bool { return k.metric < "d" }}
	cells, fam = Options{}.withDefaults().judge(old, new, few, false)
	require.Equal(t, 3, fam.Tested)
	require.Equal(t, Regression, cells[0].Verdict)
	require.InDelta(t, 6./924, *cells[0].Holm, 1e-12)
	require.Equal(t, Hint, cells[3].Verdict, "the others are shown, and decide nothing")
}

func TestDirections(t *testing.T) {
	for metric, c := range map[string]struct {
		unit string
		want Direction
	}{
		"migration.total":             {"s", Lower},
		"migration.bytes":             {"bytes", Lower},
		"migration.verified":          {"count", Higher},
		"lan.throughput":              {"bit/s", Higher},
		"replica.rate":                {"bit/s", Lower},
		"audit.pair_rate":             {"pairs/s", Higher},
		"setup.leaks":                 {"count", Lower},
		"setup.pairs_allowed":         {"count", Neither},
		"setup.probe_interval":        {"s", Neither},
		"round.took":                  {"s", Neither},
		"availability.ratio":          {"ratio", Higher},
		"something.nobody_thought_of": {"count", Neither},
	} {
		require.Equal(t, c.want, Options{}.better(metric, c.unit), metric)
	}
	require.Equal(t, Neither, Options{Neither: []string{"migration.*"}}.better("migration.total", "s"))
}

func TestRelative(t *testing.T) {
	require.Equal(t, 0.5, relative(1, 2))
	require.Equal(t, 0.5, relative(1, -2))
	require.Equal(t, 0.0, relative(0, 0))
	require.True(t, math.IsInf(relative(-1, 0), -1))
}
