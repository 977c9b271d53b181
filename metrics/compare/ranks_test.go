package compare

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// The permeability of two membranes, the example of Hollander and Wolfe
// ("Nonparametric Statistical Methods", 1973, page 69), which R's manual page
// of wilcox.test repeats: W = 35, one-sided p = 0.1272.
var (
	atTerm = []float64{0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46}
	early  = []float64{1.15, 0.88, 0.90, 0.74, 1.21}
)

func TestMannWhitney(t *testing.T) {
	for name, c := range map[string]struct {
		old, new []float64
		u, p     float64
	}{
		"the book's membranes":                {early, atTerm, 35, 0.2544},
		"six above six is 2 in 924":           {[]float64{1, 2, 3, 4, 5, 6}, []float64{7, 8, 9, 10, 11, 12}, 36, 2. / 924},
		"three twos against ones is 2 in 20":  {[]float64{1, 1, 1}, []float64{2, 2, 2}, 9, 0.1},
		"ties in the middle say nothing":      {[]float64{1, 1, 2}, []float64{1, 2, 2}, 6, 1},
		"one of each, and the same":           {[]float64{4}, []float64{4}, 0.5, 1},
		"everything equal":                    {[]float64{0, 0, 0, 0, 0, 0}, []float64{0, 0, 0, 0, 0, 0}, 18, 1},
		"one of six differs is no news":       {[]float64{0, 0, 0, 0, 0, 0}, []float64{0, 0, 0, 0, 0, 1}, 21, 1},
		"nothing to compare":                  {nil, []float64{1}, 0, 1},
		"four of six differ: twice 28 in 924": {[]float64{0, 0, 0, 0, 0, 0}, []float64{0, 0, 1, 1, 1, 1}, 30, 30. / 495},
	} {
		t.Run(name, func(t *testing.T) {
			got := mannWhitney(c.old, c.new)
			require.InDelta(t, c.u, got.u, 1e-12)
			require.InDelta(t, c.p, got.p, 5e-5)
		})
	}
}

// Critical values of the two-sided test at 5 %, as statistical tables print them.
func TestCriticalValues(t *testing.T) {
	for _, c := range []struct{ m, n, u int }{
		{3, 3, -1}, {4, 4, 0}, {5, 5, 2}, {6, 6, 5}, {7, 7, 8}, {8, 8, 13}, {9, 9, 17}, {10, 10, 23}, {12, 12, 37}, {15, 15, 64}, {20, 20, 127},
		{5, 8, 6}, {8, 5, 6}, {6, 10, 11},
	} {
		u, level := cut(c.m, c.n, 0.025)
		require.Equal(t, c.u, u, "%d and %d values", c.m, c.n)
		require.GreaterOrEqual(t, level, 0.95)
	}
}

// TestByCounting compares with every division there is.
func TestByCounting(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 200 {
		old, new := drawn(rng, 1+rng.IntN(5)), drawn(rng, 1+rng.IntN(5))
		require.InDelta(t, counted(old, new), mannWhitney(old, new).p, 1e-9, "%v %v", old, new)
	}
}

// drawn are values with many ties.
func drawn(rng *rand.Rand, n int) []float64 {
	v := make([]float64, n)
	for i := range v {
		v[i] = float64(rng.IntN(4))
	}
	return v
}

// counted is the p of all divisions of the pooled values, one by one.
func counted(old, new []float64) float64 {
	pooled := append(append([]float64{}, new...), old...)
	u := func(in int) (u float64, n int) {
		for i, a := range pooled {
			if in&(1<<i) == 0 {
				continue
			}
			n++
			for j, b := range pooled {
				if in&(1<<j) != 0 {
					continue
				}
				switch {
				case a > b:
					u++
				case a == b:
					u += 0.5
				}
			}
		}
		return u, n
	}
	mean := float64(len(old)*len(new)) / 2
	seen, _ := u(1<<len(new) - 1)
	far, all := 0, 0
	for in := range 1 << len(pooled) {
		got, n := u(in)
		if n != len(new) {
			continue
		}
		all++
		if math.Abs(got-mean) >= math.Abs(seen-mean)-1e-9 {
			far++
		}
	}
	return float64(far) / float64(all)
}

// TestMirrored: to exchange the sides changes signs and nothing else.
func TestMirrored(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 1))
	for range 300 {
		old, new := drawn(rng, 3+rng.IntN(8)), drawn(rng, 3+rng.IntN(8))
		ab, ba := mannWhitney(old, new), mannWhitney(new, old)
		require.InDelta(t, ab.p, ba.p, 1e-12)
		require.InDelta(t, ab.least, ba.least, 1e-12)
		require.InDelta(t, float64(len(old)*len(new)), ab.u+ba.u, 1e-12)
		x, y := shiftOf(old, new, ab.u, 0.95), shiftOf(new, old, ba.u, 0.95)
		require.InDelta(t, x.by, -y.by, 1e-12)
		require.InDelta(t, 1, x.a12+y.a12, 1e-12)
		require.Equal(t, x.lo, -y.hi)
	}
}

// TestUniform: without a difference, p is at most a level as often as the level
// says. With six a side p has steps: the last below 5 % is 38/924.
func TestUniform(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 1))
	const draws = 20000
	at := map[float64]int{2. / 924: 0, 38. / 924: 0, 0.2: 0, 0.5: 0}
	for range draws {
		p := mannWhitney(lognormal(rng, 6, 0.3), lognormal(rng, 6, 0.3)).p
		for level := range at {
			if p <= level+1e-9 {
				at[level]++
			}
		}
	}
	for level, n := range at {
		share := float64(n) / draws
		require.LessOrEqual(t, share, level+4*math.Sqrt(level/draws), "level %g", level)
		require.GreaterOrEqual(t, share, 0.8*level-4*math.Sqrt(level/draws), "level %g", level)
	}
}

func lognormal(rng *rand.Rand, n int, cv float64) []float64 {
	v := make([]float64, n)
	for i := range v {
		v[i] = math.Exp(cv * rng.NormFloat64())
	}
	return v
}

// TestApproximation: where the approximation takes over it is near the exact
// distribution, with ties and without.
func TestApproximation(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 1))
	worst := 0.0
	for i := range 100 {
		old, new := lognormal(rng, 25, 1), lognormal(rng, 25, 1)
		if i%2 == 1 { // some ties
			for _, v := range [][]float64{old, new} {
				for j := range v {
					v[j] = math.Round(v[j] * 20)
				}
			}
		}
		exact := mannWhitney(old, new)
		require.True(t, exact.exact)
		p, _ := normalP(doubledRanks(append(append([]float64{}, new...), old...)), 25, exact.u)
		worst = max(worst, math.Abs(p-exact.p))
	}
	require.Less(t, worst, 0.005)
	require.False(t, mannWhitney(lognormal(rng, 26, 1), lognormal(rng, 25, 1)).exact)
	a, _ := cut(25, 25, 0.025)
	b, _ := findCut(26, 25, 0.025)
	require.InDelta(t, a, b, 15, "the interval of the approximation goes on where the exact one ends")
}

func TestShift(t *testing.T) {
	// Differences: -1 0 1 1 2 3 3 4 5.
	s := shiftOf([]float64{1, 2, 3}, []float64{2, 4, 6}, 7.5, 0.95)
	require.Equal(t, 2.0, s.by)
	require.InDelta(t, 7.5/9, s.a12, 1e-12)
	require.True(t, math.IsInf(s.lo, -1) && math.IsInf(s.hi, 1), "three a side give no interval of 95 %%")
	// Four a side: from the least difference to the largest, with 1 - 2/70.
	s = shiftOf([]float64{1, 2, 3, 4}, []float64{11, 12, 13, 14}, 16, 0.95)
	require.Equal(t, []float64{10, 7, 13}, []float64{s.by, s.lo, s.hi})
	require.InDelta(t, 1-2./70, s.level, 1e-12)
}

// TestIntervalCovers: the interval has the true shift in it as often as it says.
func TestIntervalCovers(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 1))
	const draws = 4000
	for _, n := range []int{6, 10, 30} {
		in := 0
		for range draws {
			old, new := lognormal(rng, n, 0.2), lognormal(rng, n, 0.2)
			for i := range new {
				new[i] += 0.1
			}
			if s := shiftOf(old, new, mannWhitney(old, new).u, 0.95); s.lo <= 0.1 && 0.1 <= s.hi {
				in++
			}
		}
		require.GreaterOrEqual(t, float64(in)/draws, 0.94, "n=%d", n)
	}
}

func TestHolm(t *testing.T) {
	// As R's p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm") gives it.
	require.InDeltaSlice(t, []float64{0.03, 0.06, 0.06, 0.02}, holm([]float64{0.01, 0.04, 0.03, 0.005}), 1e-12)
	require.Empty(t, holm(nil))
	require.Equal(t, []float64{1, 1}, holm([]float64{0.8, 0.6}))
}

// TestTestable: tests that cannot find anything cost the others nothing, and
// what cannot be found with so many tests is not looked for.
func TestTestable(t *testing.T) {
	six := leastP(6)
	require.InDelta(t, 2./924, six, 1e-15)
	many := func(n int) []float64 {
		p := make([]float64, n)
		for i := range p {
			p[i] = six
		}
		return p
	}
	require.NotContains(t, testable(many(23), 0.05), false)
	require.NotContains(t, testable(many(24), 0.05), true, "24 tests need p below 0.0021")
	require.Equal(t, []bool{true, false, true}, testable([]float64{six, 1, six}, 0.05))
	require.Equal(t, 7, trialsFor(24, 0.05, 6))
	require.Equal(t, 6, trialsFor(23, 0.05, 6))
}

func TestProportion(t *testing.T) {
	// The rule of three and its exact form: none of 50 is at most 7.1 %.
	lo, hi := clopperPearson(0, 50, 0.95)
	require.Zero(t, lo)
	require.InDelta(t, 1-math.Pow(0.025, 1./50), hi, 1e-6)
	// 5 of 10: 18.7 % to 81.3 %, as tables of the binomial have it.
	lo, hi = clopperPearson(5, 10, 0.95)
	require.InDelta(t, 0.187, lo, 0.0005)
	require.InDelta(t, 0.813, hi, 0.0005)
}
