package compare

import (
	"math"
	"slices"
	"sync"
)

// shift says how much larger one sample is than another.
type shift struct {
	by     float64 // Hodges and Lehmann's estimate, in the unit of the values
	lo, hi float64 // interval about it; ±Inf where there are too few values
	level  float64 // confidence of the interval, at least what was asked for
	a12    float64 // Vargha and Delaney's A: a new value is the larger one so often
}

// shiftOf estimates by how much new is shifted against old: the median of all
// differences of a new value and an old one (Hodges and Lehmann, 1963). The
// interval ends at differences, counted from the ends by the exact distribution
// of U (Hollander and Wolfe, section 4.3); with ties it covers more than level.
func shiftOf(old, new []float64, u, level float64) shift {
	diffs := make([]float64, 0, len(old)*len(new))
	for _, a := range new {
		for _, b := range old {
			diffs = append(diffs, a-b)
		}
	}
	slices.Sort(diffs)
	n := len(diffs)
	s := shift{by: (diffs[(n-1)/2] + diffs[n/2]) / 2, lo: math.Inf(-1), hi: math.Inf(1), a12: u / float64(n)}
	c, got := cut(len(new), len(old), (1-level)/2)
	if c >= 0 {
		s.lo, s.hi, s.level = diffs[c], diffs[n-1-c], got
	}
	return s
}

var knownCuts sync.Map // [3]float64{m, n, tail} -> cutAt

type cutAt struct {
	c     int
	level float64
}

// cut is the largest c with P(U <= c) <= tail without ties, and the level of
// the interval that it gives; c is -1 where even U = 0 is likelier than that.
func cut(m, n int, tail float64) (c int, level float64) {
	key := [3]float64{float64(m), float64(n), tail}
	if v, ok := knownCuts.Load(key); ok {
		return v.(cutAt).c, v.(cutAt).level
	}
	c, level = findCut(m, n, tail)
	knownCuts.Store(key, cutAt{c, level})
	return c, level
}

func findCut(m, n int, tail float64) (c int, level float64) {
	if m+n > exactMost {
		mean := float64(m) * float64(n) / 2
		sigma := math.Sqrt(float64(m) * float64(n) * float64(m+n+1) / 12)
		c = int(math.Floor(mean - 0.5 - sigma*math.Sqrt2*math.Erfinv(1-2*tail)))
		return max(c, -1), 1 - 2*tail
	}
	ranks := make([]int, m+n)
	for i := range ranks {
		ranks[i] = 2 * (i + 1)
	}
	d := divisionsOf(ranks, m)
	below := 0.0
	for c = -1; ; c++ {
		next := d.share[m*(m+1)+2*(c+1)] // U = c+1 as a sum of doubled ranks
		if below+next > tail {
			return c, 1 - 2*below
		}
		below += next
	}
}

func median(values []float64) float64 {
	s := slices.Sorted(slices.Values(values))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// relative is a difference in parts of what was before; a change of nothing
// into something is infinite.
func relative(diff, before float64) float64 {
	switch {
	case diff == 0:
		return 0
	case before == 0:
		return math.Copysign(math.Inf(1), diff)
	}
	return diff / math.Abs(before)
}
