package compare

import (
	"cmp"
	"slices"
)

// testable chooses, of tests with these least possible p-values, those whose
// outcome can matter at level alpha, by Tarone's rule (1990): the smallest k
// for which at most k tests can reach alpha/k. Least possible p-values depend
// on the pooled values only, not on which side they came from, so the choice
// knows nothing of the outcome, and Holm's correction over the chosen ones
// keeps the level. Where values are equal on both sides no test is spent.
func testable(least []float64, alpha float64) []bool {
	can := make([]bool, len(least))
	for k := 1; k <= len(least); k++ {
		n := 0
		for i, p := range least {
			can[i] = p <= alpha/float64(k)
			if can[i] {
				n++
			}
		}
		if n <= k {
			break
		}
	}
	return can
}

// holm are p-values adjusted for all being tested at once (Holm, 1979): the
// probability of any false alarm among them is at most alpha where only those
// with an adjusted p below alpha are called.
func holm(p []float64) []float64 {
	order := make([]int, len(p))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(p[a], p[b]) })
	adjusted := make([]float64, len(p))
	worst := 0.0
	for nth, i := range order {
		worst = max(worst, min(1, float64(len(p)-nth)*p[i]))
		adjusted[i] = worst
	}
	return adjusted
}

// trialsFor is how many trials a side a family of so many tests needs to be
// able to find anything.
func trialsFor(tests int, alpha float64, least int) int {
	n := least
	for n < 64 && leastP(n) > alpha/float64(max(tests, 1)) {
		n++
	}
	return n
}
