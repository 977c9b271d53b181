package fidelity

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestQuantilesLieBetweenRanks(t *testing.T) {
	x := []float64{1, 2, 3, 4}
	for q, want := range map[float64]float64{0: 1, 0.5: 2.5, 1: 4, 0.25: 1.75} {
		require.InDelta(t, want, quantile(x, q), 1e-12, "%v", q)
	}
	require.True(t, math.IsNaN(quantile(nil, 0.5)))
	require.InDelta(t, 7, quantile([]float64{7}, 0.99), 0)
}

// Intervals as tables have them (and R's binom.test).
func TestExactIntervals(t *testing.T) {
	for _, c := range []struct {
		k, n   int
		lo, hi float64
	}{
		{0, 10, 0, 0.3084971},
		{10, 10, 0.6915029, 1},
		{1, 20, 0.001265089, 0.2487328},
		{20, 2000, 0.006119, 0.015402},
	} {
		lo, hi := clopperPearson(c.k, c.n, 0.05)
		require.InDelta(t, c.lo, lo, 2e-5, "%d of %d", c.k, c.n)
		require.InDelta(t, c.hi, hi, 2e-5, "%d of %d", c.k, c.n)
	}
}

// An exact interval misses the truth at most as often as it says.
func TestExactIntervalsCoverTheTruth(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	const p, n, runs = 0.01, 2000, 1000
	missed := 0
	for range runs {
		k := 0
		for range n {
			if rnd.Float64() < p {
				k++
			}
		}
		if lo, hi := clopperPearson(k, n, 0.05); p < lo || p > hi {
			missed++
		}
	}
	require.LessOrEqual(t, missed, runs*5/100+15)
}

func TestTheDistanceTellsNormalFromUniform(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	var normal, uniform []float64
	for range 1000 {
		normal = append(normal, 10+2*rnd.NormFloat64())
		uniform = append(uniform, 10+2*math.Sqrt(3)*(2*rnd.Float64()-1)) // same mean and deviation
	}
	_, p := kolmogorov(sorted(normal), normalCDF(10, 2))
	require.Greater(t, p, 0.01)
	_, p = kolmogorov(sorted(uniform), normalCDF(10, 2))
	require.Less(t, p, 0.01)
}

// Values of the limit distribution: K(1.36) = 0.951, K(1.63) = 0.990.
func TestTheLimitDistributionIsKolmogorovs(t *testing.T) {
	const n = 1_000_000 // so many that the correction is nothing
	for x, want := range map[float64]float64{1.36: 0.0494, 1.63: 0.0098} {
		d := x / math.Sqrt(n)
		var s []float64
		for i := range n {
			s = append(s, (float64(i)+0.5)/n)
		}
		_, p := kolmogorov(s, func(v float64) float64 { return min(v+d, 1) })
		require.InDelta(t, want, p, 0.0006, "%v", x)
	}
}

func TestExceedingIsTheShareAbove(t *testing.T) {
	var s []float64
	for i := range 1000 {
		s = append(s, float64(i))
	}
	values, shares := exceeding(s, 40)
	require.Equal(t, 0.0, values[0])
	require.Equal(t, 1.0, shares[0])
	require.Equal(t, 999.0, values[len(values)-1])
	require.InDelta(t, 0.001, shares[len(shares)-1], 1e-9)
	for i := range values {
		require.InDelta(t, 1-values[i]/1000, shares[i], 1e-9)
	}
}

func TestMediansOfFewValuesHaveWideIntervals(t *testing.T) {
	lo, hi := medianInterval([]float64{5, 1, 4, 2, 3, 6})
	require.Equal(t, []float64{1, 6}, []float64{lo, hi})
}
