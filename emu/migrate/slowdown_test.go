//go:build slowdown

package migrate

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	workloads "github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/metrics/compare"
)

// The gate on the engine's speed, seen to close and to stay open: engine,
// workloads and encoders are the real ones, the clock and the link are those of
// virtual_test.go. `go test -tags slowdown ./emu/migrate` runs it.

// slowedAlgorithms are moved by the published rules and by our own.
var slowedAlgorithms = []string{CloudNet, Own}

// moves is a run of some trials, each with the seed of its number.
func moves(t *testing.T, share float64, seeds []uint64) compare.Side {
	t.Helper()
	defer func(had float64) { slowdownShare = had }(slowdownShare)
	slowdownShare = share
	b := compare.Book{}
	for _, seed := range seeds {
		for _, a := range slowedAlgorithms {
			o := simulate(t, a, workloads.TPCW, 310, 1.0/64, seed)
			point := map[string]string{"algorithm": a}
			sample := func(metric, unit string, v float64) metrics.Sample {
				return metrics.Sample{Experiment: "migration", Trial: int(seed), Metric: metric, Unit: unit, Value: v, Labels: point}
			}
			b.Records = append(b.Records, metrics.TrialRecord{Experiment: "migration", Point: point, Trial: int(seed), Status: metrics.StatusOK, Started: time.Unix(int64(seed), 0)})
			b.Samples = append(b.Samples, []metrics.Sample{
				sample("migration.total", "s", o.total.Seconds()), sample("migration.payload", "bytes", float64(o.data)),
				sample("migration.rounds", "count", float64(len(o.rounds))),
			})
		}
	}
	return compare.Side{Name: "model", Runs: []metrics.RunInfo{{Scenario: "model"}}, Books: []compare.Book{b}}
}

func seedsFrom(first uint64, n int) (seeds []uint64) {
	for i := range uint64(n) {
		seeds = append(seeds, first+i)
	}
	return seeds
}

// only is a side with some of its trials.
func only(s compare.Side, seeds []uint64) compare.Side {
	b := compare.Book{}
	for i, r := range s.Books[0].Records {
		for _, seed := range seeds {
			if r.Trial == int(seed) {
				b.Records, b.Samples = append(b.Records, r), append(b.Samples, s.Books[0].Samples[i])
			}
		}
	}
	s.Books = []compare.Book{b}
	return s
}

// TestSlowdownIsCaught: 3 % more time a batch is found by six trials, whatever
// their seeds, and nothing is in 50 comparisons of the engine with itself.
func TestSlowdownIsCaught(t *testing.T) {
	gate := compare.Options{Metrics: []string{"migration.total", "migration.payload"}}
	verdict := func(old, new compare.Side) string {
		r, err := compare.Compare(old, new, gate)
		require.NoError(t, err)
		return r.Verdict
	}
	pool := moves(t, 0, seedsFrom(1, 24))
	for _, seeds := range [][]uint64{seedsFrom(1, 6), seedsFrom(25, 6)} {
		slow := moves(t, 0.03, seeds)
		r, err := compare.Compare(only(pool, seedsFrom(1, 6)), slow, gate)
		require.NoError(t, err)
		require.Equal(t, compare.Regression, r.Verdict)
		for _, c := range r.Cells {
			if c.Metric != "migration.total" {
				require.NotEqual(t, compare.Regression, c.Verdict, c.Name())
				continue
			}
			t.Logf("seeds from %d: %s: %+.2f %% [%+.2f, %+.2f], p %.4f, %s", seeds[0], c.Name(), 100**c.Shift, 100**c.Lo, 100**c.Hi, *c.Holm, c.Verdict)
			require.InDelta(t, 0.03, *c.Shift, 0.015, c.Name())
		}
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for draw := range 50 {
		seeds := seedsFrom(1, 24)
		rng.Shuffle(len(seeds), func(i, j int) { seeds[i], seeds[j] = seeds[j], seeds[i] })
		require.NotEqual(t, compare.Regression, verdict(only(pool, seeds[:6]), only(pool, seeds[6:12])), "comparison %d", draw)
	}
	require.NotEqual(t, compare.Regression, verdict(only(pool, seedsFrom(1, 6)), moves(t, 0.002, seedsFrom(1, 6))), "0.2 %% is less than the threshold")
	require.Equal(t, compare.NoneFound, verdict(only(pool, seedsFrom(1, 6)), moves(t, 0, seedsFrom(1, 6))), "the same engine on the same seeds")
}
