package metrics

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func newStore(t *testing.T) *Store {
	t.Helper()
	s, err := Create(t.TempDir(), RunInfo{
		Scenario: "unit", Seed: 1, Version: "test",
		Kernel: KernelInfo{Substrate: "uml", Release: "6.1.0", Clock: "monotonic", CPUs: 1},
	})
	require.NoError(t, err)
	return s
}

// addTrial commits a good trial with one sample.
func addTrial(t *testing.T, s *Store, exp string, point map[string]string, n int, v float64) {
	t.Helper()
	tr, err := s.Begin(exp, point, n)
	require.NoError(t, err)
	tr.Add("setup.first_packet", "s", v, map[string]string{"system": "vpn"})
	tr.Event(map[string]any{"kind": "test", "v": v})
	require.NoError(t, tr.WriteJSON("matrix.json", Matrix{}))
	require.NoError(t, tr.Commit(StatusOK, nil))
}

func TestCreateRefusesNamelessScenario(t *testing.T) {
	_, err := Create(t.TempDir(), RunInfo{})
	require.ErrorContains(t, err, "the scenario has no name")
}

func TestRunIDsSortByTime(t *testing.T) {
	t0 := time.Date(2026, 2, 3, 4, 5, 6, 7e6, time.FixedZone("x", 3600))
	a, b := NewRunID(t0), NewRunID(t0.Add(time.Millisecond))
	require.Less(t, a, b)
	require.Regexp(t, `^20260203T030506\.007Z-[0-9a-f]{4}$`, a)
}

func TestCommitPublishesAndReopens(t *testing.T) {
	s := newStore(t)
	point := map[string]string{"sites": "10", "machines": "2"}
	addTrial(t, s, "vpc-setup", point, 1, 0.25)
	dir := filepath.Join(s.Dir(), "trials", "vpc-setup", "machines=2,sites=10", "1")
	for _, f := range []string{"trial.json", "samples.csv", "events.jsonl", "matrix.json"} {
		require.FileExists(t, filepath.Join(dir, f))
	}
	for _, s := range []*Store{s, reopen(t, s)} {
		require.True(t, s.Done("vpc-setup", point, 1))
		require.False(t, s.Done("vpc-setup", point, 2))
		require.Equal(t, VerdictRunning, s.Info().Verdict)
		samples, err := s.Samples()
		require.NoError(t, err)
		require.Equal(t, []Sample{{
			Experiment: "vpc-setup", Trial: 1, Metric: "setup.first_packet", Unit: "s", Value: 0.25,
			Labels: map[string]string{"machines": "2", "sites": "10", "system": "vpn"},
		}}, samples)
	}
}

func reopen(t *testing.T, s *Store) *Store {
	t.Helper()
	again, err := Open(s.Dir())
	require.NoError(t, err)
	return again
}

func TestFailedTrialIsTriedAgain(t *testing.T) {
	s := newStore(t)
	tr, err := s.Begin("e", nil, 1)
	require.NoError(t, err)
	tr.Add("x", "s", 1, nil)
	require.NoError(t, tr.Commit(StatusFailed, errors.New("no route at pe1")))
	require.False(t, s.Done("e", nil, 1))
	samples, err := s.Samples()
	require.NoError(t, err)
	require.Empty(t, samples, "a failed trial's samples are in no statistics")

	s = reopen(t, s)
	addTrial(t, s, "e", nil, 1, 2)
	records, err := s.Trials()
	require.NoError(t, err)
	require.Len(t, records, 1)
	require.Equal(t, StatusOK, records[0].Status)
	require.Equal(t, 2, records[0].Attempt)
	require.FileExists(t, filepath.Join(s.Dir(), ".attempts", "e", "default", "1.1", "trial.json"), "the failed one is kept as evidence")

	tr, err = s.Begin("e", nil, 1)
	require.NoError(t, err)
	require.ErrorIs(t, tr.Commit(StatusOK, nil), ErrDone)
}

func TestWarmupAndAbandonLeaveNothing(t *testing.T) {
	s := newStore(t)
	for n := range 2 {
		tr, err := s.Begin("e", nil, n)
		require.NoError(t, err)
		tr.Add("x", "s", 1, nil)
		if n == 0 {
			require.NoError(t, tr.Commit(StatusOK, nil))
		} else {
			require.NoError(t, tr.Abandon())
		}
		require.NoDirExists(t, tr.Dir())
	}
	records, err := s.Trials()
	require.NoError(t, err)
	require.Empty(t, records)
}

func TestCommitReportsWhatCannotBeStored(t *testing.T) {
	for name, tc := range map[string]struct {
		do   func(*Trial)
		want string
	}{
		"not finite":   {func(tr *Trial) { tr.Add("x", "s", 1/zero, nil) }, "not finite"},
		"two units":    {func(tr *Trial) { tr.Add("x", "s", 1, nil); tr.Add("x", "ms", 1, nil) }, `unit "ms" here, "s" before`},
		"column label": {func(tr *Trial) { tr.Add("x", "s", 1, map[string]string{"trial": "3"}) }, `a label cannot be called "trial"`},
		"bad name":     {func(tr *Trial) { tr.Add("Setup Time", "s", 1, nil) }, "dotted lower case words"},
		"aggregate":    {func(tr *Trial) { tr.Add("setup.p95", "s", 1, nil) }, "p95 is the name of an aggregate"},
		"no unit":      {func(tr *Trial) { tr.Add("x", "", 1, nil) }, "a unit is one word"},
		"event":        {func(tr *Trial) { tr.Event(func() {}) }, "event func()"},
		"outside":      {func(tr *Trial) { _ = tr.WriteFile("../x", nil) }, "not a path inside"},
		"reserved":     {func(tr *Trial) { _ = tr.WriteFile("trial.json", nil) }, "written by the trial itself"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			tr, err := s.Begin("e", nil, 1)
			require.NoError(t, err)
			tc.do(tr)
			require.ErrorContains(t, tr.Commit(StatusOK, nil), tc.want)
			require.False(t, s.Done("e", nil, 1))
		})
	}
}

var zero float64

func TestConcurrentTrials(t *testing.T) {
	s := newStore(t)
	var wg sync.WaitGroup
	won := make(chan bool, 16)
	for i := range 16 { // two goroutines compete for each trial
		wg.Go(func() {
			tr, err := s.Begin("e", map[string]string{"k": "v"}, i/2+1)
			if err != nil {
				t.Error(err)
				return
			}
			var inner sync.WaitGroup
			for range 4 {
				inner.Go(func() { tr.Add("x", "count", 1, nil); tr.Event("e") })
			}
			inner.Wait()
			err = tr.Commit(StatusOK, nil)
			if err != nil && !errors.Is(err, ErrDone) {
				t.Error(err)
			}
			won <- err == nil
		})
	}
	wg.Wait()
	close(won)
	n := 0
	for w := range won {
		if w {
			n++
		}
	}
	require.Equal(t, 8, n)
	samples, err := reopen(t, s).Samples()
	require.NoError(t, err)
	require.Len(t, samples, 8*4)
}

func TestOpenChecksSchema(t *testing.T) {
	s := newStore(t)
	name := filepath.Join(s.Dir(), "run.json")
	data, err := os.ReadFile(name)
	require.NoError(t, err)
	for old, want := range map[string]string{
		`"schema": 99`: "results format 99 (of vpclab test) is newer than format 2",
		`"schema": 0`:  "names no schema version",
		`"schema": "`:  "run.json",
	} {
		require.NoError(t, os.WriteFile(name, []byte(strings.Replace(string(data), `"schema": 2`, old, 1)), 0o600))
		_, err = Open(s.Dir())
		require.ErrorContains(t, err, want)
	}
	_, err = Open(t.TempDir())
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, "no run folder")
}

func TestSlugsAreDistinctAndSafe(t *testing.T) {
	points := []map[string]string{
		nil, {"a": "b"}, {"a": "b,c=d"}, {"a": "b", "c": "d"}, {"a": "../x"}, {"a": "x"}, {"a": "ä"},
		{"a": strings.Repeat("y", 300)}, {"a": strings.Repeat("y", 299) + "z"}, {"a": "%2F"}, {"a": "/"},
	}
	seen := map[string]bool{}
	for _, p := range points {
		s := Slug(p)
		require.False(t, seen[s], s)
		seen[s] = true
		require.LessOrEqual(t, len(s), maxSlug)
		require.Regexp(t, `^[A-Za-z0-9][A-Za-z0-9._=,%-]*$`, s)
	}
}

func TestNaturalOrder(t *testing.T) {
	got := []string{"sites=10", "sites=2", "sites=1", "sites=2 tenants=9", "a"}
	slices.SortFunc(got, compareNatural)
	require.Equal(t, []string{"a", "sites=1", "sites=2", "sites=2 tenants=9", "sites=10"}, got)
}

func TestRunsAreListedOldestFirst(t *testing.T) {
	root := t.TempDir()
	var want []string
	for i := range 3 {
		s, err := Create(root, RunInfo{Scenario: "q", Started: time.Unix(int64(1000+i), 0)})
		require.NoError(t, err)
		want = append(want, s.Dir())
	}
	got, err := Runs(root)
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func ExampleSlug() {
	fmt.Println(Slug(map[string]string{"sites": "8", "rate": "1.5/2"}))
	// Output: rate=1.5%2F2,sites=8
}
