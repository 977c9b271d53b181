package metrics

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTwoCannotGoOnWithOneRun(t *testing.T) {
	s, err := Create(t.TempDir(), RunInfo{Scenario: "unit", PID: 4711})
	require.NoError(t, err)
	first, err := HoldRun(t.Context(), s.Dir())
	require.NoError(t, err)
	_, err = HoldRun(t.Context(), s.Dir())
	var busy *BusyError
	require.ErrorAs(t, err, &busy)
	require.ErrorContains(t, err, "another vpclab (pid 4711, since ")
	require.NoError(t, first.Release())
	second, err := HoldRun(t.Context(), s.Dir())
	require.NoError(t, err)
	require.NoError(t, second.Release())
	require.FileExists(t, filepath.Join(s.Dir(), "run.json"), "a run that has begun stays")
}

// A command that was killed may leave a kernel that ends a moment later: it
// inherited one of the two locks.
func TestGoingOnWaitsForTheKernelOfAKilledCommand(t *testing.T) {
	s := newStore(t)
	killed, err := HoldRun(t.Context(), s.Dir())
	require.NoError(t, err)
	require.NoError(t, killed.run.Close()) // as its end does
	why := errors.New("it does not end")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, why)
	defer cancel()
	_, err = HoldRun(ctx, s.Dir())
	require.ErrorIs(t, err, why)
	require.ErrorContains(t, err, "wait for the end of the kernel")
	for _, f := range killed.Files() {
		require.NoError(t, f.Close())
	}
	h, err := HoldRun(t.Context(), s.Dir())
	require.NoError(t, err)
	require.NoError(t, h.Release())
}

func TestARunThatDidNotBeginLeavesNothing(t *testing.T) {
	root := t.TempDir()
	h, err := HoldNew(root, "unit", "a")
	require.NoError(t, err)
	found, err := Runs(root)
	require.NoError(t, err)
	require.Empty(t, found)
	require.NoError(t, h.Release())
	require.NoDirExists(t, filepath.Join(root, "unit"))

	h, err = HoldNew(root, "unit", "killed")
	require.NoError(t, err)
	living, err := HoldNew(root, "unit", "living")
	require.NoError(t, err)
	require.DirExists(t, h.dir, "another's beginning is left alone")
	h.close() // as its end does
	h, err = HoldNew(root, "unit", "b")
	require.NoError(t, err)
	left, err := os.ReadDir(filepath.Join(root, "unit"))
	require.NoError(t, err)
	require.Len(t, left, 2, "the killed one's is gone")
	s, err := Create(root, RunInfo{Scenario: "unit", ID: "b"})
	require.NoError(t, err)
	require.NoError(t, h.Release())
	require.FileExists(t, filepath.Join(s.Dir(), "run.json"))
	require.NoError(t, living.Release())
	found, err = Runs(root)
	require.NoError(t, err)
	require.Equal(t, []string{s.Dir()}, found)
}

func TestSessionsTellWhatIsMixed(t *testing.T) {
	s, err := Create(t.TempDir(), RunInfo{Scenario: "unit", Version: "a", Kernel: KernelInfo{Substrate: "uml", Release: "6.1.1", CPUs: 1}})
	require.NoError(t, err)
	addTrial(t, s, "e", nil, 1, 1)
	for _, next := range []RunInfo{
		{Version: "never came to a trial"},
		{Version: "b", Kernel: KernelInfo{Substrate: "uml", Release: "6.1.2", CPUs: 1}, Flags: map[string][]string{"trials": {"2"}}},
	} {
		s = reopen(t, s)
		require.NoError(t, s.Resume(next))
		require.Equal(t, VerdictRunning, s.Info().Verdict)
		require.True(t, s.Info().Finished.IsZero())
	}
	addTrial(t, s, "e", nil, 2, 1)
	require.NoError(t, s.Finish(VerdictPass, nil))
	info := reopen(t, s).Info()
	require.Equal(t, "a", info.Version, "of the first session")
	require.Equal(t, []string{"2"}, info.Flags["trials"], "of the last one")
	require.Len(t, info.Sessions, 3)
	for i, n := range []int{1, 0, 1} {
		require.Equal(t, n, info.Sessions[i].Trials)
	}
	require.Equal(t, VerdictPass, info.Sessions[2].Verdict)
	require.Equal(t, VerdictRunning, info.Sessions[0].Verdict, "it was killed")
	require.Equal(t, []string{
		"session 3: vpclab's version: a, now b",
		"session 3: kernel release: 6.1.1, now 6.1.2",
	}, info.Mixture())
}

func TestVerifyNamesWhatIsNotAsItWas(t *testing.T) {
	s := twoPoints(t)
	_, _, err := s.Verify()
	require.ErrorIs(t, err, ErrNoSums)
	require.NoError(t, s.Finish(VerdictPass, nil))
	n, faults, err := reopen(t, s).Verify()
	require.NoError(t, err)
	require.Empty(t, faults)
	require.Equal(t, 6+4*15-1, n, "six of the run, four a good trial, three of the failed one")

	trial := filepath.Join("trials", "vpc-setup", "sites=2", "1")
	require.NoError(t, os.WriteFile(filepath.Join(s.Dir(), trial, "matrix.json"), []byte("{}"), 0o600))
	require.NoError(t, os.Remove(filepath.Join(s.Dir(), trial, "events.jsonl")))
	require.NoError(t, os.WriteFile(filepath.Join(s.Dir(), trial, "x"), nil, 0o600))
	require.NoError(t, os.Mkdir(filepath.Join(s.Dir(), "figures"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(s.Dir(), "figures", "a.svg"), nil, 0o600))
	_, faults, err = reopen(t, s).Verify()
	require.NoError(t, err)
	require.Equal(t, []string{
		"trials/vpc-setup/sites=2/1/events.jsonl: it is gone",
		"trials/vpc-setup/sites=2/1/matrix.json: its content has changed",
		"trials/vpc-setup/sites=2/1/x: it was not there when the run ended",
	}, faults)
}

// Whoever reads a run while it goes on sees whole trials, also while failed ones
// give way to good ones.
func TestReadersOfARunThatGoesOn(t *testing.T) {
	s := newStore(t)
	addTrial(t, s, "e", nil, 1, 1)
	done := make(chan struct{})
	var reader sync.WaitGroup
	reads := 0
	reader.Go(func() {
		for had := 1; ; reads++ {
			select {
			case <-done:
				return
			default:
			}
			seen, err := Open(s.Dir())
			if err != nil {
				t.Error(err)
				return
			}
			samples, err := seen.Samples()
			if err != nil || len(samples) < had {
				t.Errorf("%d samples after %d: %v", len(samples), had, err)
				return
			}
			had = len(samples)
		}
	})
	for n := 2; n <= 60; n++ {
		tr, err := s.Begin("e", nil, n)
		require.NoError(t, err)
		require.NoError(t, tr.Commit(StatusFailed, nil))
		addTrial(t, s, "e", nil, n, 1)
		if n%10 == 0 {
			require.NoError(t, s.Finish(VerdictPass, nil))
		}
	}
	close(done)
	reader.Wait()
	require.Greater(t, reads, 10, "nobody read meanwhile: the test says nothing")
}

func TestPruneLeavesWhatNumbersRestOn(t *testing.T) {
	s := newStore(t)
	attempt := func(status string, grade string) {
		tr, err := s.Begin("e", nil, 1)
		require.NoError(t, err)
		tr.Add("x", "s", 1, nil)
		require.NoError(t, tr.WriteFile("big.bin", make([]byte, 100_000)))
		tr.SetFidelity(&Fidelity{Grade: grade})
		require.NoError(t, tr.Commit(status, nil))
	}
	attempt(StatusFailed, FidelityPass)
	attempt(StatusOK, FidelityVoid)
	attempt(StatusOK, FidelityPass)
	killed, err := s.Begin("e", nil, 2)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(killed.Dir(), "half.bin"), make([]byte, 50_000), 0o600))

	freed, err := Prune(s.Dir())
	require.NoError(t, err)
	require.Zero(t, freed, "of a run that is not over nothing is taken")
	require.NoError(t, s.Finish(VerdictPass, nil))
	want, err := s.Fidelity()
	require.NoError(t, err)
	require.Equal(t, 1, want.Repeated)

	at, err := HoldRun(t.Context(), s.Dir())
	require.NoError(t, err)
	_, err = Prune(s.Dir())
	require.ErrorContains(t, err, "is at work in it")
	require.NoError(t, at.Release())
	freed, err = Prune(s.Dir())
	require.NoError(t, err)
	require.InDelta(t, 150_000, freed, 5_000)
	got, err := reopen(t, s).Fidelity()
	require.NoError(t, err)
	require.Equal(t, want, got, "the void attempt still counts")
	_, faults, err := reopen(t, s).Verify()
	require.NoError(t, err)
	require.Empty(t, faults)
}
