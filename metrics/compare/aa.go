package compare

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
)

// AA says how often a difference is called where there is none: the trials of
// one side are divided at random into an old half and a new one, again and
// again, and the halves are compared as two versions would be.
type AA struct {
	Name   string `json:"name"`
	Trials int    `json:"trials"` // of each half, in the fullest cell
	Draws  int    `json:"draws"`
	Seed   uint64 `json:"seed"`
	// Alarms are the draws with a regression, Found those with a regression or
	// an improvement.
	Alarms int     `json:"alarms"`
	Found  int     `json:"found"`
	Rate   float64 `json:"rate"` // of alarms
	// Lo and Hi are the exact 95 % interval about Rate (Clopper and Pearson,
	// 1934), over the draws: it says nothing about other trials than these.
	Lo     float64 `json:"lo"`
	Hi     float64 `json:"hi"`
	Family Family  `json:"family"`
	// InOrder is the verdict where the earlier half is the old one: a machine
	// that changes meanwhile shows here, and never in a random division.
	InOrder string `json:"in_order"`
	// By says which cells raised alarms, and how often.
	By map[string]int `json:"by,omitempty"`
}

// Resample divides the trials of a side at random. Trials with the same number
// go to the same half at all points. Counters are judged as statistics, because
// the halves have different seeds.
func Resample(s Side, draws int, seed uint64, o Options) (AA, error) {
	o = o.withDefaults()
	a := AA{Name: s.Name, Draws: draws, Seed: seed, By: map[string]int{}}
	f, err := o.familyOf(s)
	if err != nil {
		return a, err
	}
	whole := s.tabulate()
	ids := whole.ids()
	a.Trials = len(ids) / 2
	if a.Trials < o.Trials {
		return a, fmt.Errorf("%s has %d trials a point: halves of %d need %d", s.Name, len(ids), o.Trials, 2*o.Trials)
	}
	if draws < 1 {
		return a, errors.New("at least one draw is needed")
	}
	in := s.inOrder(ids)
	cells, fam := o.judge(whole.half(in[:len(in)/2]), whole.half(in[len(in)/2:]), f, false)
	a.Family, a.InOrder = fam, NoneFound
	if slices.ContainsFunc(cells, func(c Cell) bool { return c.Verdict == Regression || c.Verdict == Improvement }) {
		a.InOrder = "differs"
	}
	rng := rand.New(rand.NewPCG(seed, 0xaa))
	for range draws {
		rng.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
		cells, _ := o.judge(whole.half(ids[:len(ids)/2]), whole.half(ids[len(ids)/2:]), f, false)
		alarm, found := false, false
		for _, c := range cells {
			alarm = alarm || c.Verdict == Regression
			found = found || c.Verdict == Regression || c.Verdict == Improvement
			if c.Verdict == Regression {
				a.By[c.Name()]++
			}
		}
		a.Alarms += count(alarm)
		a.Found += count(found)
	}
	a.Rate = float64(a.Alarms) / float64(draws)
	a.Lo, a.Hi = clopperPearson(a.Alarms, draws, 0.95)
	return a, nil
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

// ids are the trials of a table, in a fixed order.
func (t table) ids() []trialID {
	seen := map[trialID]bool{}
	for _, values := range t.values {
		for _, v := range values {
			seen[v.id] = true
		}
	}
	return slices.SortedFunc(maps.Keys(seen), func(a, b trialID) int {
		if a.seed != b.seed {
			return int(math.Copysign(1, float64(a.seed)-float64(b.seed)))
		}
		return a.trial - b.trial
	})
}

// inOrder sorts trials by when they began.
func (s Side) inOrder(ids []trialID) []trialID {
	began := map[trialID]int64{}
	for _, b := range s.Books {
		for _, r := range b.Records {
			id := trialID{b.Seed, r.Trial}
			if at, ok := began[id]; !ok || r.Started.UnixNano() < at {
				began[id] = r.Started.UnixNano()
			}
		}
	}
	sorted := slices.Clone(ids)
	slices.SortStableFunc(sorted, func(a, b trialID) int {
		switch {
		case began[a] < began[b]:
			return -1
		case began[a] > began[b]:
			return 1
		}
		return 0
	})
	return sorted
}

// half is the table of some trials.
func (t table) half(ids []trialID) table {
	of := map[trialID]bool{}
	for _, id := range ids {
		of[id] = true
	}
	h := table{values: map[cellKey][]value{}, labels: t.labels}
	for k, values := range t.values {
		for _, v := range values {
			if of[v.id] {
				h.values[k] = append(h.values[k], v)
			}
		}
	}
	return h
}

// clopperPearson is the exact interval about a proportion of k in n.
func clopperPearson(k, n int, level float64) (lo, hi float64) {
	tail := (1 - level) / 2
	hi = 1
	if k > 0 {
		lo = root(func(p float64) float64 { return 1 - binomial(k-1, n, p) - tail })
	}
	if k < n {
		hi = root(func(p float64) float64 { return tail - binomial(k, n, p) })
	}
	return lo, hi
}

// root is where an increasing function of a probability is zero.
func root(f func(float64) float64) float64 {
	lo, hi := 0.0, 1.0
	for range 60 {
		if mid := (lo + hi) / 2; f(mid) < 0 {
			lo = mid
		} else {
			hi = mid
		}
	}
	return (lo + hi) / 2
}

// binomial is the probability of at most k successes in n.
func binomial(k, n int, p float64) float64 {
	if p <= 0 {
		return 1
	}
	if p >= 1 {
		return float64(count(k >= n))
	}
	sum := 0.0
	for i := 0; i <= k; i++ {
		sum += math.Exp(lchoose(n, i) + float64(i)*math.Log(p) + float64(n-i)*math.Log1p(-p))
	}
	return min(sum, 1)
}

func lchoose(n, k int) float64 {
	a, _ := math.Lgamma(float64(n + 1))
	b, _ := math.Lgamma(float64(k + 1))
	c, _ := math.Lgamma(float64(n - k + 1))
	return a - b - c
}
