package scenarios

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/watch"
	"github.com/vpclab/vpclab/metrics"
)

func TestEveryKindSaysWhatItCanTellApart(t *testing.T) {
	for name, k := range kinds() {
		require.NotZero(t, k.resolution, name)
	}
}

// The same thing seen spoils one experiment and not another.
func TestWhatIsSeenAndWhatItSpoils(t *testing.T) {
	quiet := watch.Seen{Lasted: 10 * time.Second, Beats: 435, Median: 100 * time.Microsecond, P99: 900 * time.Microsecond, Stall: 4 * time.Millisecond, Busy: 0.5, Received: 1e6}
	with := func(change func(*watch.Seen)) watch.Seen {
		s := quiet
		change(&s)
		return s
	}
	for _, c := range []struct {
		name       string
		seen       watch.Seen
		lost       int
		resolution time.Duration
		grade      string
		broken     []string
	}{
		{"a quiet kernel", quiet, 0, 10 * time.Millisecond, metrics.FidelityPass, nil},
		{"20 ms stood still, an outage of ms", with(func(s *watch.Seen) { s.Stall = 20 * time.Millisecond }), 0, time.Millisecond, metrics.FidelityVoid, []string{"stall"}},
		{"20 ms stood still, a reconvergence", with(func(s *watch.Seen) { s.Stall = 20 * time.Millisecond }), 0, 10 * time.Millisecond, metrics.FidelityWarn, []string{"stall"}},
		{"20 ms stood still, a migration", with(func(s *watch.Seen) { s.Stall = 20 * time.Millisecond }), 0, 50 * time.Millisecond, metrics.FidelityPass, nil},
		{"340 ms stood still, a reconvergence", with(func(s *watch.Seen) { s.Stall, s.StallAt = 340*time.Millisecond, 4100*time.Millisecond }), 0, 10 * time.Millisecond, metrics.FidelityVoid, []string{"stall"}},
		{"half of the time somebody else had the processor", with(func(s *watch.Seen) { s.Late = 0.51 }), 0, time.Second, metrics.FidelityVoid, []string{"late-share"}},
		{"the same, and nothing is timed", with(func(s *watch.Seen) { s.Late = 0.51 }), 0, counting, metrics.FidelityWarn, []string{"late-share"}},
		{"one stall of a short time is not one wake-up in a hundred", with(func(s *watch.Seen) { s.Beats, s.P99, s.Stall = 46, 29*time.Millisecond, 29*time.Millisecond }), 0, 10 * time.Millisecond, metrics.FidelityWarn, []string{"stall"}},
		{"late for a moment is not late half of the time", with(func(s *watch.Seen) { s.Beats, s.Late = 12, 0.8 }), 0, 50 * time.Millisecond, metrics.FidelityPass, nil},
		{"it wakes late", with(func(s *watch.Seen) { s.P99 = 21 * time.Millisecond }), 0, 10 * time.Millisecond, metrics.FidelityVoid, []string{"timer-lateness"}},
		{"the clock went back", with(func(s *watch.Seen) { s.Jump = -60 * time.Millisecond }), 0, 50 * time.Millisecond, metrics.FidelityVoid, []string{"clock-jump"}},
		{"somebody set the date by a second", with(func(s *watch.Seen) { s.Stepped = time.Second }), 0, 50 * time.Millisecond, metrics.FidelityVoid, []string{"clock-jump"}},
		{"a processor that is always busy", with(func(s *watch.Seen) { s.Busy = 1 }), 0, 10 * time.Millisecond, metrics.FidelityWarn, []string{"cpu-busy"}},
		{"one packet without room", with(func(s *watch.Seen) { s.Dropped = 1 }), 0, 10 * time.Millisecond, metrics.FidelityWarn, []string{"backlog-drops"}},
		{"one in a thousand", with(func(s *watch.Seen) { s.Dropped = 1000 }), 0, 10 * time.Millisecond, metrics.FidelityVoid, []string{"backlog-drops"}},
		{"a process was killed for memory", with(func(s *watch.Seen) { s.Killed = 1 }), 0, 10 * time.Second, metrics.FidelityVoid, []string{"out-of-memory"}},
		{"an event was lost", quiet, 1, 10 * time.Second, metrics.FidelityVoid, []string{"lost-events"}},
		{"the counters cannot be read, and time is kept", watch.Seen{Beats: 10, Busy: 1, Uncounted: errors.New("gone")}, 0, 10 * time.Millisecond, metrics.FidelityPass, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := metrics.GradeChecks(checksOf(c.seen, kind{resolution: c.resolution}, losses{events: c.lost}))
			var broken []string
			for _, b := range f.Breaches {
				broken = append(broken, b.Invariant)
			}
			require.Equal(t, c.grade, f.Grade, f.Text())
			require.Equal(t, c.broken, broken)
			for _, check := range f.Checks {
				require.LessOrEqual(t, check.Warn, check.Void, check.Invariant)
				require.False(t, math.IsInf(check.Void, 0), "JSON has no infinity")
			}
		})
	}
}

func TestWhoComputesMayBeBusy(t *testing.T) {
	busy := watch.Seen{Busy: 1}
	require.Equal(t, metrics.FidelityWarn, metrics.GradeChecks(checksOf(busy, kind{resolution: time.Second}, losses{})).Grade)
	require.Equal(t, metrics.FidelityPass, metrics.GradeChecks(checksOf(busy, labKind, losses{})).Grade)
}

func TestAProbeThatWasNotReadIsNoLossOfTheNetwork(t *testing.T) {
	f := metrics.GradeChecks(checksOf(watch.Seen{}, kind{resolution: time.Second}, losses{probes: 1}))
	require.Equal(t, "void: lost-probes 1 > 0", f.Text())
}

// voiding is a run in whose trials the kernel is seen to stand still, as often as
// a test says.
func voiding(t *testing.T, retries int, stall func(attempt int) time.Duration) (*runner, *scripted) {
	t.Helper()
	s := &scripted{}
	r, _ := scriptedRun(t, t.TempDir(), s)
	r.cfg.VoidRetries = retries
	attempt := 0
	r.grade = func() *metrics.Fidelity {
		attempt++
		return metrics.GradeChecks(checksOf(watch.Seen{Stall: stall(attempt)}, kind{resolution: 10 * time.Millisecond}, losses{}))
	}
	return r, s
}

func TestAVoidTrialIsMadeAgain(t *testing.T) {
	r, s := voiding(t, 2, func(attempt int) time.Duration {
		if attempt == 4 || attempt == 5 { // warm-ups are graded too, and count for nothing
			return 340 * time.Millisecond
		}
		return time.Millisecond
	})
	var said []Progress
	r.cfg.Progress = func(p Progress) { said = append(said, p) }
	v, err := r.do(t.Context())
	require.NoError(t, err)
	require.Len(t, s.trials, 15+2)
	require.Equal(t, metrics.VerdictPass, v.Status)
	require.Zero(t, v.Void)
	require.Equal(t, 12+1, v.Trials)
	require.Contains(t, v.Fidelity, "2 void attempts made again; worst: stall 340 ms > 50 ms")
	again := 0
	for _, p := range said {
		if p.Again {
			again++
			require.Contains(t, p.Void, "void: stall 340 ms > 50 ms")
			require.Less(t, p.Done, p.Total)
		}
	}
	require.Equal(t, 2, again)
}

func TestATrialThatStaysVoidIsLeftOutAloud(t *testing.T) {
	r, s := voiding(t, 1, func(attempt int) time.Duration {
		if attempt == 4 || attempt == 5 {
			return 340 * time.Millisecond
		}
		return time.Millisecond
	})
	v, err := r.do(t.Context())
	require.NoError(t, err)
	require.Len(t, s.trials, 15+1)
	text := strings.Join(v.Lines, "\n")
	require.Equal(t, metrics.VerdictPass, v.Status, text)
	require.Equal(t, 1, v.Void)
	require.Contains(t, text, "VOID vpc-setup: 1 of 12 trials void (stall 340 ms > 50 ms) and left out")
	require.Contains(t, text, "PASS vpc-setup: setup.leaks (every sample) 0 == 0, n=4, worst of 3 points: machines=1 sites=2 tenants=1; 1 of 12 trials void and left out")
}

func TestAPointWithoutAValidTrialFailsTheRun(t *testing.T) {
	r, _ := voiding(t, 0, func(int) time.Duration { return 340 * time.Millisecond })
	r.cfg.Scenario.Experiments[0].Expect = nil
	v, err := r.do(t.Context())
	require.NoError(t, err)
	require.Equal(t, metrics.VerdictFail, v.Status)
	require.Contains(t, strings.Join(v.Lines, "\n"), "FAIL vpc-setup: no valid trial: machines=1 sites=2 tenants=1: 4 void (stall 340 ms > 50 ms)")
}

// What fails while nothing is to be believed is tried again as well.
func TestAFailureInAVoidTrialIsNotBelieved(t *testing.T) {
	r, s := voiding(t, 2, func(attempt int) time.Duration {
		if attempt == 4 {
			return 340 * time.Millisecond
		}
		return time.Millisecond
	})
	s.do = func(string) error {
		if len(s.trials) == 4 {
			return errors.New("waited 1s for the site to join")
		}
		return nil
	}
	v, err := r.do(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, s.recovered)
	require.Zero(t, v.Failed)
	require.Equal(t, metrics.VerdictPass, v.Status)
}

// This test's own kernel is looked at, whatever it does.
func TestTrialsAreWatched(t *testing.T) {
	r, _ := scriptedRun(t, t.TempDir(), &scripted{})
	r.grade = nil
	v, err := r.do(t.Context())
	require.NoError(t, err)
	trials, err := r.cfg.Store.Trials()
	require.NoError(t, err)
	for _, tr := range trials {
		require.NotNil(t, tr.Fidelity, "%s %v", tr.Experiment, tr.Point)
	}
	require.NotContains(t, v.Fidelity, metrics.FidelityUnknown)
}
