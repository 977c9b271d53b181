package fidelity

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vpclab/vpclab/emu/traffic"
	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/topo"
)

const (
	watchedRate  = 20e6
	besideRate   = 10e6
	besidePairs  = 4
	blockFrames  = 120
	effectBar    = 2.0 // percent, of a packet time or of the rate
	alike        = 0.01
	besideSettle = 200 * time.Millisecond
)

// isolation is F7: a link whose neighbours are idle and busy in turns.
func (r *run) isolation(ctx context.Context) error {
	blocks := 12
	if r.Quick {
		blocks = 6
	}
	var beside []topo.Impairment
	for range besidePairs {
		beside = append(beside, topo.Impairment{Rate: besideRate})
	}
	b := labBench(r.lab, beside...)
	r.say("F7", b, fmt.Sprintf("%d pairs beside", besidePairs))
	l, err := b.lay(ctx, []topo.Impairment{lineOf(watchedRate)}, blockFrames+100, false)
	if err != nil {
		return fmt.Errorf("F7: %w", err)
	}
	defer l.close()
	p, flows, err := besideFlows(ctx, b)
	if err != nil {
		return fmt.Errorf("F7: %w", err)
	}
	defer p.Close()
	var seen [2]watched // alone, busy
	for i := range 2 * blocks {
		busy := i % 2
		if busy == 1 {
			flows.Start(pairNumbers()...)
			if err = pass(ctx, besideSettle); err != nil {
				break
			}
		}
		var v *volley
		if v, err = l.blast(ctx, blockFrames, false); err != nil {
			break
		}
		seen[busy].take(v)
		flows.Pause(pairNumbers()...)
		if err = pass(ctx, besideSettle); err != nil { // what they had under way
			break
		}
	}
	_, e := flows.Close()
	if err = errors.Join(err, e); err != nil {
		return fmt.Errorf("F7: %w", err)
	}
	r.add(judgeIsolation(seen[0], seen[1])...)
	return nil
}

func pairNumbers() (all []int) {
	for i := range besidePairs {
		all = append(all, i)
	}
	return all
}

// besideFlows are TCP flows over the links beside, none of which sends yet.
func besideFlows(ctx context.Context, b *bench) (*traffic.Prober, *traffic.Bulk, error) {
	var eps []traffic.Endpoint
	cfg := traffic.BulkConfig{Interval: 50 * time.Millisecond}
	for i := range besidePairs {
		eps = append(eps, traffic.Endpoint{Name: busyNode(i), Addr: nearAddr(128 + i)}, traffic.Endpoint{Name: idleNode(i), Addr: farAddr(128 + i)})
		cfg.Streams = append(cfg.Streams, traffic.Stream{Flow: traffic.Flow{From: busyNode(i), To: idleNode(i)}})
	}
	p, err := traffic.Open(b.enter, eps)
	if err != nil {
		return nil, nil, err
	}
	flows, err := p.OpenBulk(ctx, cfg)
	if err != nil {
		p.Close()
		return nil, nil, err
	}
	return p, flows, nil
}

// watched are blocks of frames over the watched link.
type watched struct{ gap, rate []float64 }

func (w *watched) take(v *volley) {
	dev, _ := v.deviations()
	w.gap = append(w.gap, median(dev))
	bps, _ := v.goodput()
	w.rate = append(w.rate, 100*bps/(float64(v.rate)*fullLoad/fullFrame))
}

// judgeIsolation compares blocks: what is no more likely than one in a hundred
// by chance counts if it is of a size that matters.
func judgeIsolation(alone, busy watched) []metrics.Calibrated {
	one := func(what, unit string, a, b []float64) metrics.Calibrated {
		p, effect := sameP(a, b), median(b)-median(a)
		out := metrics.Calibrated{
			Test: "F7", System: systemVPCLab, What: what, Set: fmt.Sprintf("%d busy pairs beside", besidePairs), N: len(a) + len(b),
			Measured: fmt.Sprintf("%.4g%% alone, %.4g%% beside them (p = %.2g)", median(a), median(b), p),
			Error:    max(effect, -effect), Bar: effectBar, Unit: unit,
			Values: map[string]float64{"alone_percent": median(a), "busy_percent": median(b), "p": p, "effect_percent": effect},
		}.Judge()
		if p > alike && out.Grade != metrics.FidelityPass {
			out.Grade, out.Note = metrics.FidelityPass, "not told from chance"
		}
		return out
	}
	return []metrics.Calibrated{
		one("gap of a link with neighbours", "% of a packet time", alone.gap, busy.gap),
		one("rate of a link with neighbours", "% of the rate", alone.rate, busy.rate),
	}
}
