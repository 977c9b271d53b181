package fidelity

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/traffic"
	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/topo"
)

// drained is a volley of n frames that a perfect line lets go of, all of which
// waited.
func drained(rate topo.Rate, n int) *volley {
	v := newVolley(rate, n, false)
	for i := range v.at {
		v.handed[i] = 1
		v.at[i] = 1000 + int64(math.Round(float64(i)*v.gap()))
	}
	return v
}

func TestAPerfectLineIsOffByNothing(t *testing.T) {
	r, curve := judgeGaps(drained(1e8, 1000), systemVPCLab, false)
	require.Equal(t, metrics.FidelityPass, r.Grade)
	require.Less(t, r.Error, 0.01) // ns are whole
	require.Equal(t, 999, r.N)
	require.Equal(t, 121120.0, curve.IdealNs)
}

// A gap in which the line had nothing to send is no error of the line's.
func TestIdleTimeIsNotCounted(t *testing.T) {
	v := drained(1e8, 1000)
	for i := 500; i < 1000; i++ {
		v.at[i] += 1e9
		v.handed[i] = v.at[499] + 1
	}
	dev, gaps := v.deviations()
	require.Equal(t, 999, gaps)
	require.Len(t, dev, 998)
	r, _ := judgeGaps(v, systemVPCLab, false)
	require.Equal(t, metrics.FidelityPass, r.Grade)
}

func TestASlowSenderSaysNothingOfTheLine(t *testing.T) {
	v := drained(1e8, 1000)
	for i := range v.handed {
		v.handed[i] = v.at[i]
	}
	r, curve := judgeGaps(v, systemVPCLab, false)
	require.Equal(t, metrics.FidelityVoid, r.Grade)
	require.Nil(t, curve)
	require.Contains(t, r.Note, "busy for 0 of 999")
}

func TestLateTimersAreFound(t *testing.T) {
	v := drained(1e9, 2000) // 12 us; a timer that is late by 60 us now and then
	late := int64(0)
	for i := range v.at {
		if i%50 == 0 {
			late = 60000
		}
		ideal := v.at[i]
		v.at[i] = max(ideal, ideal/1*1+late)
		late = max(0, late-int64(v.gap()))
	}
	r, _ := judgeGaps(v, systemVPCLab, false)
	require.NotEqual(t, metrics.FidelityPass, r.Grade)
}

func TestGoodputIsThatOfWhatCame(t *testing.T) {
	v := drained(1e8, 1000)
	got, lost := v.goodput()
	require.InDelta(t, 1e8*1472/1514, got, 10)
	require.Zero(t, lost)
	v.at[3] = 0
	_, lost = v.goodput()
	require.Equal(t, 1, lost)
}

// A line lets go of a packet and then takes its time: what counts between two
// arrivals is the earlier one.
func TestSteadyCountsTheTimeOfWhatCameFirst(t *testing.T) {
	at := func(ms int) event.Mono { return event.Mono(ms) * event.Mono(time.Millisecond) }
	readings := []traffic.Reading{{At: at(0)}, {At: at(100), Bytes: 1000}, {At: at(150), Bytes: 1000}, {At: at(200), Bytes: 5000}, {At: at(600), Bytes: 5500}}
	bps, n := steady(readings, at(50), at(1000))
	require.Equal(t, 3, n)
	require.InDelta(t, 5000*8/0.5, bps, 1e-6)
}

func TestLossIsHeldAgainstItsInterval(t *testing.T) {
	lossy := func(p float64, n int) []passage {
		rnd := rand.New(rand.NewPCG(7, 8))
		way := make([]passage, n)
		for i := range way {
			way[i] = passage{1, 2}
			if rnd.Float64() < p {
				way[i].out = 0
			}
		}
		return way
	}
	require.Equal(t, metrics.FidelityPass, judgeLoss("", 1, lossy(0.01, 4000)).Grade)
	require.Equal(t, metrics.FidelityVoid, judgeLoss("", 1, lossy(0.03, 4000)).Grade)
	require.Equal(t, metrics.FidelityVoid, judgeLoss("", 10, lossy(0.01, 4000)).Grade)
}

func TestAQueueIsReplayed(t *testing.T) {
	line := topo.Impairment{Rate: 10e6, Queue: 50}
	filled := func(holds int) []passage {
		const gap = 1211200
		way := make([]passage, 120)
		for i := range way {
			way[i].in = 1 + int64(i)
			if i <= holds { // the first leaves at once
				way[i].out = 2 + int64(i)*gap
			}
		}
		return way
	}
	for holds, want := range map[int]string{50: metrics.FidelityPass, 51: metrics.FidelityPass, 54: metrics.FidelityVoid, 40: metrics.FidelityVoid} {
		require.Equal(t, want, judgeQueue("", line, filled(holds))[0].Grade, "a queue of %d", holds)
	}
}

func TestAQueueThatWasNeverFullProvesNothing(t *testing.T) {
	way := make([]passage, 100)
	for i := range way {
		way[i] = passage{int64(i) * 2e6, int64(i)*2e6 + 1}
	}
	for _, r := range judgeQueue("", topo.Impairment{Rate: 10e6, Queue: 50}, way) {
		require.Equal(t, metrics.FidelityVoid, r.Grade)
		require.Contains(t, r.Note, "never full")
	}
}

func TestIsolationNeedsChanceAndSize(t *testing.T) {
	w := func(gap, rate float64) watched {
		var out watched
		for i := range 8 {
			out.gap = append(out.gap, gap+float64(i)/100)
			out.rate = append(out.rate, rate+float64(i)/1000)
		}
		return out
	}
	for _, r := range judgeIsolation(w(1, 100), w(1.5, 99.5)) {
		require.Equal(t, metrics.FidelityPass, r.Grade, "it is small")
	}
	for _, r := range judgeIsolation(w(1, 100), w(30, 80)) {
		require.Equal(t, metrics.FidelityVoid, r.Grade)
	}
}

func TestJitterOfAnotherFormIsFound(t *testing.T) {
	rnd := rand.New(rand.NewPCG(9, 9))
	link := topo.Impairment{Delay: 10e6, Jitter: 1e6}
	var normal, uniform []float64
	for range 2000 {
		normal = append(normal, 10+rnd.NormFloat64())
		uniform = append(uniform, 10+math.Sqrt(3)*(2*rnd.Float64()-1))
	}
	require.Equal(t, metrics.FidelityPass, judgeJitter("", link, normal).Grade)
	require.Equal(t, metrics.FidelityWarn, judgeJitter("", link, uniform).Grade)
}

// The sum of a graph's links is what Dijkstra says, and both ways are as long.
func TestWaysThroughAGraph(t *testing.T) {
	g := &graph{routers: 4, links: []hop{{0, 1, 5}, {1, 2, 5}, {0, 2, 20}, {2, 3, 1}}}
	by, took := g.towards(0)
	require.Equal(t, []time.Duration{0, 5, 10, 11}, took)
	require.Equal(t, []int{-1, 0, 1, 3}, by)
	big := randomGraph(200, pathHosts, graphSeed)
	for a := range big.hosts {
		_, there := big.towards(big.hosts[a])
		for b := range big.hosts {
			_, back := big.towards(big.hosts[b])
			require.Equal(t, there[big.hosts[b]], back[big.hosts[a]])
		}
	}
	plan, err := big.plan(true)
	require.NoError(t, err)
	require.Len(t, plan.Links, len(big.links)+pathHosts)
}

func TestTwoBootsAreHeldAgainstEachOther(t *testing.T) {
	with := func(off float64) *metrics.Calibration {
		return &metrics.Calibration{Results: []metrics.Calibrated{rateResult("UDP", systemVPCLab, 1e8, 1e8*(1+off/100), 1e8)}}
	}
	out := Twice(with(0.2), with(-0.3))
	require.Len(t, out, 2)
	require.Equal(t, metrics.FidelityPass, out[0].Grade)
	require.InDelta(t, 0.5, out[0].Error, 1e-9)
	require.Equal(t, metrics.FidelityNone, out[1].Grade, "F3 was not measured")
	require.Equal(t, metrics.FidelityVoid, Twice(with(0), with(5))[0].Grade)
}

func TestRequestsAreChecked(t *testing.T) {
	require.NoError(t, Request{Only: []string{"F1", "F12"}}.Check())
	require.ErrorContains(t, Request{Only: []string{"F9"}}.Check(), "F9")
	require.ErrorContains(t, Request{Peer: "gns3"}.Check(), "gns3")
	require.Equal(t, []string{"F2", "F3"}, Again(Request{}).Once())
}
