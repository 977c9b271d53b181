package fidelity

import (
	"context"
	"fmt"
	"time"

	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/topo"
)

const (
	probeSize  = 64 // bytes of UDP
	probePace  = 2 * time.Millisecond
	sigmaBar   = 10.0 // percent that jitter may be off
	unlikely   = 0.01 // of a distribution to be as asked, below which it is not
	delayShare = 0.01 // that a mean delay may be off …
	delayFloor = 0.1  // … and ms that it may in any case
)

// testedDelays of F3; the jitters are each on a delay of ten times as much, of
// which nothing is cut off at zero.
var (
	testedDelays  = []topo.Duration{100e3, 1e6, 5e6, 20e6, 50e6, 200e6}
	testedJitters = []topo.Duration{1e6, 5e6}
)

// delaysAndJitter is F3. All links are measured at the same time, beside one
// without a delay: what it takes is the bench's own.
func (r *run) delaysAndJitter(ctx context.Context, b *bench) error {
	links := []topo.Impairment{{}}
	for _, d := range testedDelays {
		links = append(links, topo.Impairment{Delay: d})
	}
	for _, j := range testedJitters {
		links = append(links, topo.Impairment{Delay: 10 * j, Jitter: j})
	}
	n := 1000
	if r.Quick {
		n = 400
	}
	if b.limit == 1 { // one after the other
		for _, link := range links {
			if err := r.delaysOf(ctx, b, []topo.Impairment{link}, n); err != nil {
				return err
			}
		}
		return nil
	}
	return r.delaysOf(ctx, b, links, n)
}

func (r *run) delaysOf(ctx context.Context, b *bench, links []topo.Impairment, n int) error {
	r.say("F3", b, fmt.Sprintf("%d links", len(links)))
	l, err := b.lay(ctx, links, n+100, true)
	if err != nil {
		return fmt.Errorf("F3: %w", err)
	}
	defer l.close()
	ways, err := l.salvo(ctx, n, probePace, probeSize)
	if err != nil {
		return fmt.Errorf("F3: %w", err)
	}
	for i, link := range links {
		ms, lost := delays(ways[i])
		r.add(judgeDelay(b.system, link, ms, lost))
		if link.Jitter > 0 {
			r.add(judgeJitter(b.system, link, ms))
		}
	}
	return nil
}

// judgeDelay holds the mean against what was set. A link without a delay has
// no bar: it tells what the bench itself takes.
func judgeDelay(system string, link topo.Impairment, ms []float64, lost int) metrics.Calibrated {
	out := metrics.Calibrated{Test: "F3", System: system, What: "one-way delay", Set: link.Delay.String(), N: len(ms), Unit: "ms, mean"}
	if link.Jitter > 0 {
		out.Set += ", jitter " + link.Jitter.String()
	}
	if len(ms) == 0 {
		out.Grade, out.Note = metrics.FidelityVoid, "nothing came through"
		return out
	}
	s, want := sorted(ms), millis(link.Delay)
	m := mean(ms)
	out.Values = map[string]float64{"set_ms": want, "mean_ms": m, "median_ms": quantile(s, 0.5), "p99_ms": quantile(s, 0.99), "max_ms": s[len(s)-1], "min_ms": s[0], "lost": float64(lost)}
	out.Measured = fmt.Sprintf("mean %.4f ms (%+.4f), median %+.4f, p99 %+.4f, max %+.3f", m, m-want, quantile(s, 0.5)-want, quantile(s, 0.99)-want, s[len(s)-1]-want)
	if lost > 0 {
		out.Note = fmt.Sprintf("%d were lost", lost)
	}
	if link.Delay == 0 {
		out.Grade = metrics.FidelityReport
		return out
	}
	out.Error, out.Bar = max(m-want, want-m), max(delayFloor, delayShare*want)
	if link.Jitter > 0 { // the mean of a sample is as far off as that by chance
		out.Bar += 3 * millis(link.Jitter) / sqrt(len(ms))
	}
	return out.Judge()
}

// judgeJitter holds the spread and the form of delays against the normal
// distribution that was set. The form is that around the sample's own mean:
// that the mean is right is judged apart.
func judgeJitter(system string, link topo.Impairment, ms []float64) metrics.Calibrated {
	want := millis(link.Jitter)
	out := metrics.Calibrated{Test: "F3", System: system, What: "jitter", Set: fmt.Sprintf("%v, jitter %v", link.Delay, link.Jitter), N: len(ms), Bar: sigmaBar, Unit: "% of sigma"}
	if len(ms) < 20 {
		out.Grade, out.Note = metrics.FidelityVoid, "nothing came through"
		return out
	}
	got := deviation(ms)
	d, p := kolmogorov(sorted(ms), normalCDF(mean(ms), want))
	off := 100 * (got/want - 1)
	out.Error = max(off, -off)
	out.Values = map[string]float64{"set_sigma_ms": want, "sigma_ms": got, "bias_percent": off, "ks_d": d, "ks_p": p}
	out.Measured = fmt.Sprintf("sigma %.4f ms (%+.1f%%), distance from normal %.3f (p = %.2g)", got, off, d, p)
	out = out.Judge()
	if p < unlikely && out.Grade == metrics.FidelityPass {
		out.Grade, out.Note = metrics.FidelityWarn, "the delays are not normally distributed"
	}
	return out
}
