package fidelity

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/topo"
)

// curvePoints of a distribution are kept for the figure.
const curvePoints = 60

// gapBar is one packet time: results of a link that deviates by more are not
// to be trusted (Mininet-HiFi).
const gapBar = 100.0

// gapRates are the rates of F1.
func (r *run) gapRates() []topo.Rate {
	all := []topo.Rate{10e6, 100e6, 500e6, 1e9, 2e9, 4e9, 10e9}
	if r.Quick {
		all = []topo.Rate{10e6, 100e6, 1e9, 10e9}
	}
	return r.within(all)
}

// frames that fill a line for a while, within bounds that memory and patience
// set.
func frames(rate topo.Rate, size int, long time.Duration, least, most int) int {
	return min(max(int(float64(rate)*long.Seconds()/8/float64(size)), least), most)
}

// lineOf is a link with a rate and a queue that no volley fills.
func lineOf(rate topo.Rate) topo.Impairment { return topo.Impairment{Rate: rate, Queue: 40000} }

// gaps is F1: the time between frames on lines that are kept busy.
func (r *run) gaps(ctx context.Context, b *bench) error {
	long, most := 3*time.Second, 10000
	if r.Quick {
		long, most = time.Second, 4000
	}
	for _, rate := range r.gapRates() {
		r.say("F1", b, rate.String())
		if err := r.gap(ctx, b, rate, frames(rate, fullFrame, long, 200, most), false); err != nil {
			return err
		}
	}
	if b.system != systemVPCLab {
		return nil
	}
	// What TCP sends are super frames of 64 KiB, that nothing in the kernel
	// cuts: for fast lines these are the packets.
	for _, rate := range r.gapRates() {
		if rate < 1e9 || r.Quick && rate < r.UpTo {
			continue
		}
		r.say("F1", b, rate.String()+", super frames")
		if err := r.gap(ctx, b, rate, frames(rate, superSegments*fullFrame, long, 200, 800), true); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) gap(ctx context.Context, b *bench, rate topo.Rate, n int, super bool) error {
	l, err := b.lay(ctx, []topo.Impairment{lineOf(rate)}, n+1000, false)
	if err != nil {
		return err
	}
	defer l.close()
	v, err := l.blast(ctx, n, super)
	if err != nil {
		return fmt.Errorf("F1 at %v: %w", rate, err)
	}
	result, curve := judgeGaps(v, b.system, super)
	if curve == nil && b.live {
		bps, _ := v.goodput()
		if v, err = l.release(ctx, n, super); err != nil {
			return fmt.Errorf("F1 at %v, queue filled before: %w", rate, err)
		}
		result, curve = judgeGaps(v, b.system, super)
		result.Note = strings.TrimSuffix(fmt.Sprintf("queue filled before, as a sender alone brings %s; %s", bits(bps), result.Note), "; ")
	}
	r.add(result)
	if curve != nil {
		r.out.Curves = append(r.out.Curves, *curve)
	}
	return nil
}

// judgeGaps holds a volley against the bar of F1.
func judgeGaps(v *volley, system string, super bool) (metrics.Calibrated, *metrics.GapCurve) {
	set := fmt.Sprintf("%v, frames of %d B", v.rate, v.frame)
	if super {
		set = fmt.Sprintf("%v, super frames of %d x %d B", v.rate, superSegments, fullFrame)
	}
	out := metrics.Calibrated{Test: "F1", System: system, What: "inter-packet gap", Set: set, Bar: gapBar, Unit: "% of a packet time, p99"}
	dev, gaps := v.deviations()
	out.N = len(dev)
	if len(dev) < 100 || len(dev) < gaps/10 {
		out.Grade = metrics.FidelityVoid
		out.Note = fmt.Sprintf("the sender kept the line busy for %d of %d gaps only", len(dev), gaps)
		return out, nil
	}
	s := sorted(dev)
	out.Error = quantile(s, 0.99)
	out.Values = map[string]float64{
		"ideal_us": v.gap() / 1e3, "median_percent": quantile(s, 0.5), "p90_percent": quantile(s, 0.9),
		"p99_percent": quantile(s, 0.99), "p999_percent": quantile(s, 0.999), "max_percent": s[len(s)-1],
		"gaps": float64(gaps), "backlogged": float64(len(dev)),
	}
	out.Measured = fmt.Sprintf("ideal %.4g us; off by %s median, %s p90, %s p99, %s p99.9, %s max", v.gap()/1e3,
		percent(quantile(s, 0.5)), percent(quantile(s, 0.9)), percent(quantile(s, 0.99)), percent(quantile(s, 0.999)), percent(s[len(s)-1]))
	out = out.Judge()
	values, shares := exceeding(s, curvePoints)
	return out, &metrics.GapCurve{System: system, RateBps: float64(v.rate), IdealNs: v.gap(), Frame: v.frame, N: len(dev), Deviation: values, Share: shares}
}

func percent(v float64) string { return fmt.Sprintf("%.3g%%", v) }
