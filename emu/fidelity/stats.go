package fidelity

import (
	"math"
	"slices"

	"github.com/aclements/go-moremath/mathx"
	"github.com/aclements/go-moremath/stats"
)

// quantile of sorted values, between the two nearest ranks (type 7 of Hyndman
// and Fan 1996, as R and NumPy have it).
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	at := q * float64(len(sorted)-1)
	i := int(at)
	if i+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[i] + (at-float64(i))*(sorted[i+1]-sorted[i])
}

func sorted(x []float64) []float64 { return slices.Sorted(slices.Values(x)) }

func median(x []float64) float64 { return quantile(sorted(x), 0.5) }

func mean(x []float64) float64 {
	sum := 0.0
	for _, v := range x {
		sum += v
	}
	return sum / float64(len(x))
}

// deviation is the standard deviation of a sample.
func deviation(x []float64) float64 {
	m, sum := mean(x), 0.0
	for _, v := range x {
		sum += (v - m) * (v - m)
	}
	return math.Sqrt(sum / float64(len(x)-1))
}

// meanSquare of errors.
func meanSquare(x []float64) float64 {
	sum := 0.0
	for _, v := range x {
		sum += v * v
	}
	return sum / float64(len(x))
}

// exceeding is the complementary distribution of sorted values: at each of at
// most n ranks, evenly spread over the logarithm of the share, the value that
// this share of all is above.
func exceeding(sorted []float64, n int) (values, shares []float64) {
	if len(sorted) == 0 {
		return nil, nil
	}
	least := 1 / float64(len(sorted))
	last := -1
	for i := range n {
		share := math.Pow(least, float64(i)/float64(n-1))
		rank := len(sorted) - int(math.Round(share*float64(len(sorted)))) // so many are not above
		rank = min(max(rank, 0), len(sorted)-1)
		if rank == last {
			continue
		}
		last = rank
		values = append(values, sorted[rank])
		shares = append(shares, float64(len(sorted)-rank)/float64(len(sorted)))
	}
	return values, shares
}

// clopperPearson is the exact interval for the probability of something seen k
// times in n (Clopper and Pearson 1934): it misses the truth with probability
// alpha at most.
func clopperPearson(k, n int, alpha float64) (lo, hi float64) {
	hi = 1
	if k > 0 {
		lo = betaQuantile(alpha/2, float64(k), float64(n-k+1))
	}
	if k < n {
		hi = betaQuantile(1-alpha/2, float64(k+1), float64(n-k))
	}
	return lo, hi
}

// betaQuantile inverts the regularised incomplete beta function by bisection.
func betaQuantile(p, a, b float64) float64 {
	lo, hi := 0.0, 1.0
	for range 100 {
		mid := (lo + hi) / 2
		if mathx.BetaInc(mid, a, b) < p {
			lo = mid
		} else {
			hi = mid
		}
	}
	return (lo + hi) / 2
}

// kolmogorov is the largest distance between the sample's distribution and
// cdf, and how likely as large a one is if the sample is of cdf (the limit
// distribution of Kolmogorov 1933 with Stephens' correction for small n).
func kolmogorov(sorted []float64, cdf func(float64) float64) (d, p float64) {
	n := float64(len(sorted))
	for i, x := range sorted {
		f := cdf(x)
		d = max(d, f-float64(i)/n, float64(i+1)/n-f)
	}
	t := d * (math.Sqrt(n) + 0.12 + 0.11/math.Sqrt(n))
	if t < 0.2 { // the series below converges slowly there, to 1
		return d, 1
	}
	for k := 1.0; k <= 100; k++ {
		p += 2 * math.Pow(-1, k-1) * math.Exp(-2*k*k*t*t)
	}
	return d, min(max(p, 0), 1)
}

// normalCDF is the distribution of jitter, see topo.Impairment.
func normalCDF(mean, sigma float64) func(float64) float64 {
	return func(x float64) float64 { return 0.5 * math.Erfc((mean-x)/(sigma*math.Sqrt2)) }
}

// sameP is how likely two samples as different are if they are of one
// distribution (Mann and Whitney 1947, exact where there are no ties and few
// values). Samples that are all one value cannot be told apart: 1.
func sameP(a, b []float64) float64 {
	r, err := stats.MannWhitneyUTest(a, b, stats.LocationDiffers)
	if err != nil {
		return 1
	}
	return r.P
}

// medianInterval are the order statistics that hold the median of what x is a
// sample of, with confidence of 95 % where x has six values or more.
func medianInterval(x []float64) (lo, hi float64) {
	s := sorted(x)
	ci := stats.QuantileCI(len(s), 0.5, 0.95)
	if len(s) == 0 {
		return math.NaN(), math.NaN()
	}
	at := func(i int) float64 { return s[min(max(i, 0), len(s)-1)] }
	return at(ci.LoOrder - 1), at(ci.HiOrder - 1)
}

func sqrt(n int) float64 { return math.Sqrt(float64(n)) }
