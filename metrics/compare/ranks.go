package compare

import (
	"encoding/binary"
	"math"
	"slices"
	"sync"
)

// exactMost is how many values of both sides together are tested by the exact
// distribution. Above it the normal approximation is used, corrected for ties and
// for continuity; there its p differs from the exact one by less than 0.005.
const exactMost = 50

// test is the outcome of a Mann–Whitney test of two samples.
type test struct {
	u     float64 // pairs in which the new value is larger; ties count half
	p     float64 // two-sided
	least float64 // the smallest p that the pooled values could have given
	exact bool
}

// mannWhitney tests whether two samples come from one distribution (Mann and
// Whitney, 1947). p is the share of all ways to divide the pooled values into
// samples of these sizes in which U is at least as far from its mean as here.
// Ties have mid-ranks, and the division is of the values with their ties, so p
// is exact with ties too.
func mannWhitney(old, new []float64) test {
	m, n := len(new), len(old)
	if m == 0 || n == 0 {
		return test{p: 1, least: 1}
	}
	pooled := append(slices.Clone(new), old...)
	ranks := doubledRanks(pooled)
	sum := 0
	for _, r := range ranks[:m] {
		sum += r
	}
	t := test{u: float64(sum-m*(m+1)) / 2, exact: m+n <= exactMost}
	if !t.exact {
		t.p, t.least = normalP(ranks, m, t.u)
		return t
	}
	d := divisionsOf(ranks, m)
	t.p, t.least = d.p(sum), d.least()
	return t
}

// doubledRanks are twice the mid-ranks of values, which are whole numbers.
func doubledRanks(values []float64) []int {
	order := make([]int, len(values))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		switch {
		case values[a] < values[b]:
			return -1
		case values[a] > values[b]:
			return 1
		}
		return 0
	})
	ranks := make([]int, len(values))
	for i := 0; i < len(order); {
		j := i
		for j < len(order) && values[order[j]] == values[order[i]] {
			j++
		}
		for _, k := range order[i:j] {
			ranks[k] = i + 1 + j // the mean of ranks i+1 to j, twice
		}
		i = j
	}
	return ranks
}

// divisions is the distribution of the sum of doubled ranks of m values drawn
// from all, each choice of m being as likely as any other.
type divisions struct {
	share []float64 // by sum
	mean  int       // m(N+1)
}

// known keeps distributions: those without ties depend on the two sizes alone,
// and are asked for again and again.
var known = struct {
	sync.Mutex
	by map[string]divisions
}{by: map[string]divisions{}}

// knownMost bounds the memory that known takes.
const knownMost = 512

func divisionsOf(ranks []int, m int) divisions {
	sorted := slices.Sorted(slices.Values(ranks))
	key := binary.AppendUvarint(nil, uint64(m))
	for _, r := range sorted {
		key = binary.AppendUvarint(key, uint64(r))
	}
	known.Lock()
	d, ok := known.by[string(key)]
	known.Unlock()
	if ok {
		return d
	}
	d = countDivisions(sorted, m)
	known.Lock()
	defer known.Unlock()
	if len(known.by) >= knownMost {
		clear(known.by)
	}
	known.by[string(key)] = d
	return d
}

// countDivisions counts, rank by rank, the choices of k ranks that come to each
// sum. There are less than 2^53 of them for exactMost values, so the counts are
// exact.
func countDivisions(sorted []int, m int) divisions {
	most := 0
	for _, r := range sorted[len(sorted)-m:] {
		most += r
	}
	ways := make([][]float64, m+1)
	for k := range ways {
		ways[k] = make([]float64, most+1)
	}
	ways[0][0] = 1
	for i, r := range sorted {
		for k := min(i+1, m); k >= 1; k-- {
			for s := most; s >= r; s-- {
				ways[k][s] += ways[k-1][s-r]
			}
		}
	}
	all := 0.0
	for _, w := range ways[m] {
		all += w
	}
	for s := range ways[m] {
		ways[m][s] /= all
	}
	return divisions{share: ways[m], mean: m * (len(sorted) + 1)}
}

// p is the share of sums at least as far from the mean as this one.
func (d divisions) p(sum int) float64 {
	far := abs(sum - d.mean)
	p := 0.0
	for s, share := range d.share {
		if abs(s-d.mean) >= far {
			p += share
		}
	}
	return min(p, 1)
}

// least is the p of the sum that is farthest from the mean.
func (d divisions) least() float64 {
	far := 0
	for s, share := range d.share {
		if share > 0 {
			far = max(far, abs(s-d.mean))
		}
	}
	return d.p(d.mean + far)
}

func abs(v int) int { return max(v, -v) }

// normalP is the approximation for many values (Hollander and Wolfe,
// "Nonparametric Statistical Methods", section 4.1).
func normalP(ranks []int, m int, u float64) (p, least float64) {
	all := float64(len(ranks))
	n := all - float64(m)
	ties := 0.0
	for _, t := range counts(ranks) {
		ties += float64(t)*float64(t)*float64(t) - float64(t)
	}
	mean := float64(m) * n / 2
	sigma := math.Sqrt(float64(m) * n / 12 * (all + 1 - ties/(all*(all-1))))
	if sigma == 0 {
		return 1, 1
	}
	of := func(far float64) float64 { return math.Erfc(max(far-0.5, 0) / sigma / math.Sqrt2) }
	return of(math.Abs(u - mean)), of(mean)
}

func counts(ranks []int) map[int]int {
	c := map[int]int{}
	for _, r := range ranks {
		c[r]++
	}
	return c
}

// leastP is the smallest p that n values a side can give: one division of all
// C(2n,n) and its mirror image.
func leastP(n int) float64 {
	ways := 1.0
	for i := 1; i <= n; i++ {
		ways *= float64(n+i) / float64(i)
	}
	return min(1, 2/ways)
}
