package compare

import (
	"encoding/json"
	"encoding/xml"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/metrics"
)

var update = flag.Bool("update", false, "write the golden files anew; then read them")

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err, "run with -update to make it")
	require.Equal(t, string(want), got, "%s is not current (run with -update, and read it)", file)
}

// madeUp is a run with stored results as an experiment leaves them.
type madeUp struct {
	scenario string
	version  string
	clock    string
	seed     uint64
	draws    uint64 // of the values
	trials   int
	slower   float64 // vpclab's times, by this share
	rounds   float64 // more of them
	void     []int   // trials
	failed   []int
	without  string // a metric that is not measured
	more     string // one that is
}

// write stores the run below root and gives its folder.
func (m madeUp) write(t *testing.T, root string) string {
	t.Helper()
	if m.scenario == "" {
		m.scenario = "wan-migration"
	}
	if m.clock == "" {
		m.clock = "virtual"
	}
	began := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	s, err := metrics.Create(root, metrics.RunInfo{
		ID: "20260304T050607.000Z-" + m.version, Scenario: m.scenario, Source: "name: " + m.scenario + "\n", Seed: m.seed, Started: began, Version: m.version,
		Kernel: metrics.KernelInfo{Substrate: "qemu", Release: "6.1.0-53-amd64", Clock: m.clock, CPUs: 1, MemoryMiB: 512},
		Host:   metrics.HostInfo{CPU: "a processor", CPUs: 2},
	})
	require.NoError(t, err)
	rng := rand.New(rand.NewPCG(m.draws, 5))
	for trial := 1; trial <= m.trials; trial++ {
		for _, algorithm := range []string{"xen30", "vpclab"} {
			m.trial(t, s, rng, trial, algorithm)
		}
	}
	_, err = s.Judge("migration", []string{"migration.verified == 1", "client.resets == 0", "direction=out.migration.bytes < 1GB"})
	require.NoError(t, err)
	require.NoError(t, s.Finish(metrics.VerdictPass, nil))
	m.grade(t, s.Dir())
	return s.Dir()
}

func (m madeUp) trial(t *testing.T, s *metrics.Store, rng *rand.Rand, trial int, algorithm string) {
	tr, err := s.Begin("migration", map[string]string{"algorithm": algorithm}, trial)
	require.NoError(t, err)
	k := 1.0
	if algorithm == "vpclab" {
		k = 0.6 * (1 + m.slower)
	}
	around := func(v float64) float64 { return v * (1 + 0.006*rng.NormFloat64()) }
	add := func(metric, unit string, v float64, labels map[string]string) {
		if metric != m.without {
			tr.Add(metric, unit, v, labels)
		}
	}
	add("migration.total", "s", around(1.6*k), nil)
	add("migration.pause", "s", around(0.058*k), nil)
	add("migration.handover", "s", around(0.0033), nil)
	add("migration.bytes", "bytes", float64(int(around(84e6))), map[string]string{"direction": "out"})
	add("migration.bytes", "bytes", float64(int(around(160e3))), map[string]string{"direction": "back"})
	add("migration.rounds", "count", 8+m.rounds, nil)
	add("migration.verified", "count", 1, nil)
	add("client.resets", "count", 0, nil)
	for round := range 3 {
		add("round.to_send", "pages", 16384/float64(1+round), map[string]string{"round": fmt.Sprint(round + 1)})
	}
	if m.more != "" {
		add(m.more, "s", around(1), nil)
	}
	for _, n := range m.failed {
		if n == trial && algorithm == "vpclab" {
			require.NoError(t, tr.Commit(metrics.StatusFailed, fmt.Errorf("the WAN was away")))
			return
		}
	}
	require.NoError(t, tr.Commit(metrics.StatusOK, nil))
}

// grade marks trials as void, as the observer of a lab does.
func (m madeUp) grade(t *testing.T, dir string) {
	for _, n := range m.void {
		found, err := filepath.Glob(filepath.Join(dir, "trials", "migration", "*", fmt.Sprint(n), "trial.json"))
		require.NoError(t, err)
		require.Len(t, found, 2)
		for _, name := range found {
			var r metrics.TrialRecord
			text, err := os.ReadFile(name)
			require.NoError(t, err)
			require.NoError(t, json.Unmarshal(text, &r))
			r.Fidelity = &metrics.Fidelity{Grade: metrics.FidelityVoid}
			text, err = json.Marshal(r)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(name, text, 0o644))
		}
	}
}

// pair compares two made-up runs.
func pair(t *testing.T, old, new madeUp, o Options) (Report, error) {
	t.Helper()
	root := t.TempDir()
	a, err := Load("old", []string{old.write(t, filepath.Join(root, "a"))})
	require.NoError(t, err)
	b, err := Load("new", []string{new.write(t, filepath.Join(root, "b"))})
	require.NoError(t, err)
	for _, s := range []*Side{&a, &b} {
		s.Dirs = []string{"results/" + s.Name} // the same wherever the test runs
	}
	r, err := Compare(a, b, o)
	return r, err
}

func find(t *testing.T, r Report, name string) Cell {
	t.Helper()
	for _, c := range r.Cells {
		if c.Name() == name {
			return c
		}
	}
	t.Fatalf("no cell %s", name)
	return Cell{}
}

func TestGolden(t *testing.T) {
	r, err := pair(t, madeUp{version: "v1", seed: 1, draws: 1, trials: 6, without: "migration.handover"},
		madeUp{version: "v2", seed: 1, draws: 2, trials: 7, slower: 0.04, rounds: 1, void: []int{3}, more: "migration.afterglow"}, Options{})
	require.NoError(t, err)
	require.Equal(t, Regression, r.Verdict)
	require.Equal(t, Regression, find(t, r, "migration migration.total algorithm=vpclab").Verdict)
	require.Equal(t, Regression, find(t, r, "migration migration.rounds algorithm=xen30").Verdict)
	require.Equal(t, Within, find(t, r, "migration migration.total algorithm=xen30").Verdict)
	require.Equal(t, 2, r.New.Void)
	for name, write := range map[string]func(w *strings.Builder) error{
		"regression.txt": func(w *strings.Builder) error { return r.WriteText(w, false) },
		"all.txt":        func(w *strings.Builder) error { return r.WriteText(w, true) },
		"regression.md":  func(w *strings.Builder) error { return r.WriteMarkdown(w, false) },
		"regression.xml": func(w *strings.Builder) error { return r.WriteJUnit(w) },
		"regression.json": func(w *strings.Builder) error {
			enc := json.NewEncoder(w)
			enc.SetIndent("", " ")
			return enc.Encode(r)
		},
	} {
		var b strings.Builder
		require.NoError(t, write(&b))
		golden(t, name, b.String())
	}
}

func TestUndecided(t *testing.T) {
	r, err := pair(t, madeUp{version: "v1", seed: 1, draws: 1, trials: 3}, madeUp{version: "v2", seed: 1, draws: 2, trials: 3}, Options{})
	require.NoError(t, err)
	require.Equal(t, Undecided, r.Verdict)
	var b strings.Builder
	require.NoError(t, r.WriteText(&b, false))
	golden(t, "undecided.txt", b.String())
	require.Contains(t, b.String(), "too few trials (n=3 and 3): 6 a side are needed")
}

// TestSameRunTwice: a run compared with itself has nothing to tell, whatever
// the number of its trials.
func TestSameRunTwice(t *testing.T) {
	m := madeUp{version: "v1", seed: 1, draws: 1, trials: 6}
	r, err := pair(t, m, m, Options{})
	require.NoError(t, err)
	require.Equal(t, NoneFound, r.Verdict)
	for _, c := range r.Cells {
		require.Contains(t, []string{Same, Within}, c.Verdict, c.Name())
	}
}

func TestFailedTrials(t *testing.T) {
	r, err := pair(t, madeUp{version: "v1", seed: 1, draws: 1, trials: 8}, madeUp{version: "v2", seed: 1, draws: 2, trials: 8, failed: []int{2}}, Options{})
	require.NoError(t, err)
	require.Equal(t, Regression, r.Verdict)
	require.Equal(t, Regression, find(t, r, "migration trial.failed algorithm=vpclab").Verdict, "on the virtual clock a trial that fails now is the version's doing")
	require.Equal(t, 1, r.New.Failed)
	r, err = pair(t, madeUp{version: "v1", seed: 1, draws: 1, trials: 8, clock: "monotonic"}, madeUp{version: "v2", seed: 1, draws: 2, trials: 8, failed: []int{2}, clock: "monotonic"}, Options{})
	require.NoError(t, err)
	require.Equal(t, Undecided, r.Verdict, "in real time one of eight may be the machine's, and does not pass for nothing")
}

func TestNotComparable(t *testing.T) {
	base := madeUp{version: "v1", seed: 1, draws: 1, trials: 6}
	other := base
	other.scenario, other.clock = "vpc-setup", "monotonic"
	_, err := pair(t, base, other, Options{})
	var not *NotComparableError
	require.ErrorAs(t, err, &not)
	require.Equal(t, []string{
		"scenario differs: wan-migration in old, vpc-setup in new",
		"clock differs: virtual in old, monotonic in new",
	}, not.Reasons)
	r, err := pair(t, base, other, Options{Force: true})
	require.NoError(t, err)
	require.Len(t, r.Warnings, 3, "the reasons, and the text that differs")
}

func TestOneScenarioASide(t *testing.T) {
	root := t.TempDir()
	a := madeUp{version: "v1", trials: 1}.write(t, root)
	b := madeUp{scenario: "vpc-setup", version: "v1", trials: 1}.write(t, root)
	_, err := Load("mix", []string{a, b})
	require.ErrorContains(t, err, "there are runs of wan-migration and of vpc-setup in it")
}

// TestSeedsAreTrials: six runs of one trial each, with seeds of their own, are
// as good as one of six.
func TestSeedsAreTrials(t *testing.T) {
	root := t.TempDir()
	var sides []Side
	for i, slower := range []float64{0, 0.05} {
		dir := filepath.Join(root, fmt.Sprint(i))
		for seed := range 6 {
			m := madeUp{version: fmt.Sprint("v", i, "-", seed), seed: uint64(seed), draws: uint64(10*i + seed), trials: 1, slower: slower}
			m.write(t, dir)
		}
		side, err := Baselines("nowhere").Find(dir)
		require.NoError(t, err)
		sides = append(sides, side)
	}
	r, err := Compare(sides[0], sides[1], Options{})
	require.NoError(t, err)
	require.Equal(t, 6, find(t, r, "migration migration.total algorithm=vpclab").New.N)
	require.Equal(t, Regression, r.Verdict)
}

func TestResample(t *testing.T) {
	side, err := Load("pool", []string{madeUp{version: "v1", seed: 1, draws: 4, trials: 16}.write(t, t.TempDir())})
	require.NoError(t, err)
	a, err := Resample(side, 400, 1, Options{})
	require.NoError(t, err)
	require.Equal(t, 8, a.Trials)
	require.LessOrEqual(t, a.Lo, 0.05)
	require.Equal(t, NoneFound, a.InOrder)
	again, err := Resample(side, 400, 1, Options{})
	require.NoError(t, err)
	require.Equal(t, a, again, "the same seed draws the same halves")
	few, err := Load("few", []string{madeUp{version: "v1", seed: 1, trials: 11}.write(t, t.TempDir())})
	require.NoError(t, err)
	_, err = Resample(few, 10, 1, Options{})
	require.ErrorContains(t, err, "few has 11 trials a point: halves of 6 need 12")
}

// TestDrift: a machine that becomes slower half way is seen in the order of
// the trials, and not in random halves.
func TestDrift(t *testing.T) {
	root := t.TempDir()
	var dirs []string
	for i, slower := range []float64{0, 0.05} {
		dirs = append(dirs, madeUp{version: fmt.Sprint("v", i), seed: uint64(i), draws: uint64(i), trials: 8, slower: slower}.write(t, root))
	}
	side, err := Load("drifting", dirs)
	require.NoError(t, err)
	a, err := Resample(side, 50, 1, Options{})
	require.NoError(t, err)
	require.Equal(t, "differs", a.InOrder)
}

func TestBaselines(t *testing.T) {
	root := t.TempDir()
	b := Baselines(filepath.Join(root, "baselines"))
	list, err := b.List()
	require.NoError(t, err)
	require.Empty(t, list)
	dir := madeUp{version: "v1", seed: 1, draws: 1, trials: 6, void: []int{2}}.write(t, filepath.Join(root, "r"))
	require.NoError(t, b.Save("main", []string{dir}))
	newer := madeUp{version: "v2", seed: 1, draws: 1, trials: 6}.write(t, filepath.Join(root, "r"))
	require.NoError(t, b.Save("main", []string{newer}), "in place of what was there")
	one, err := b.Show("main")
	require.NoError(t, err)
	require.Equal(t, []any{"v2", 1, 12}, []any{one.Version, one.Runs, one.Trials})
	require.ErrorContains(t, b.Save("../main", []string{newer}), "want letters a-z")
	require.ErrorContains(t, b.Save("half", []string{root}), "this is no run folder")
	list, err = b.List()
	require.NoError(t, err)
	require.Len(t, list, 1, "what could not be saved is not there")
	kept, err := b.Find("main")
	require.NoError(t, err)
	from, err := b.Find(newer)
	require.NoError(t, err)
	r, err := Compare(kept, from, Options{})
	require.NoError(t, err)
	require.Equal(t, NoneFound, r.Verdict, "what was kept is the run")
	require.NoError(t, b.Remove("main"))
	require.ErrorIs(t, b.Remove("main"), ErrNoBaseline)
	_, err = b.Find("main")
	require.ErrorContains(t, err, "there is neither a folder nor a baseline of that name")
}

func TestJUnitIsXML(t *testing.T) {
	var b strings.Builder
	require.NoError(t, Report{Old: SideFacts{Name: `a"<b`}, Cells: []Cell{{Experiment: "e&", Metric: "m", Primary: true, Verdict: Regression}}}.WriteJUnit(&b))
	var back junitSuites
	require.NoError(t, xml.Unmarshal([]byte(b.String()), &back))
	require.Equal(t, 1, back.Failures)
	require.Equal(t, "e&", back.Suites[0].Name)
}

func TestMixedRuns(t *testing.T) {
	s := func(versions ...string) Side {
		r := metrics.RunInfo{ID: "r1"}
		for _, v := range versions {
			r.Sessions = append(r.Sessions, metrics.Session{Version: v})
		}
		return Side{Name: "side", Runs: []metrics.RunInfo{r}}
	}
	require.Empty(t, mixed(s(), s("v1"), s("v1", "v1")))
	require.Equal(t, []string{"side: run r1 was gone on with by another version or on another kernel"}, mixed(s("v1", "v2")))
}

// TestSpeeds: a virtual processor of another speed makes other times.
func TestSpeeds(t *testing.T) {
	s := func(speed int) Side {
		return Side{Name: fmt.Sprint("speed ", speed), Runs: []metrics.RunInfo{{Kernel: metrics.KernelInfo{Clock: "virtual", Virtual: &metrics.VirtualInfo{Speed: speed}}}}}
	}
	_, err := comparable(s(0), s(1), false)
	require.NoError(t, err, "results of before there were speeds")
	_, err = comparable(s(1), s(4), false)
	require.ErrorContains(t, err, "speed of the virtual processor differs: 1 instructions in 2^0 ns in speed 1, 4 instructions in 2^0 ns in speed 4")
}
