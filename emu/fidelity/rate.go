package fidelity

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/traffic"
	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/topo"
)

// Payload of TCP in a full frame: IP, TCP and the time stamp option take 52.
const tcpLoad = fullFrame - etherLen - 52

// rateBar in percent: of slow lines, where a few packets are all there is, it
// is wider.
func rateBar(rate topo.Rate) float64 {
	if rate < 1e6 {
		return 5
	}
	return 1
}

func (r *run) rates() []topo.Rate {
	all := []topo.Rate{128e3, 1e6, 10e6, 100e6, 500e6, 1e9, 2e9, 4e9, 10e9}
	if r.Quick {
		all = []topo.Rate{128e3, 10e6, 100e6, 1e9, 10e9}
	}
	return r.within(all)
}

// goodputs is F2: what UDP and TCP get of a rate.
func (r *run) goodputs(ctx context.Context, b *bench) error {
	for _, rate := range r.rates() {
		r.say("F2", b, rate.String())
		l, err := b.lay(ctx, []topo.Impairment{lineOf(rate)}, 12000, false)
		if err != nil {
			return err
		}
		err = r.udp(ctx, l, rate)
		l.close()
		if err == nil {
			err = r.tcp(ctx, b, rate)
		}
		if err != nil {
			return fmt.Errorf("F2 at %v: %w", rate, err)
		}
	}
	return nil
}

func (r *run) udp(ctx context.Context, l *lane, rate topo.Rate) error {
	long := 5 * time.Second
	if r.Quick {
		long = 1500 * time.Millisecond
	}
	v, err := l.blast(ctx, frames(rate, fullFrame, long, 24, 10000), false)
	if err != nil {
		return err
	}
	got, lost := v.goodput()
	out := rateResult("UDP", l.system, rate, got, float64(rate)*fullLoad/fullFrame)
	out.N = len(v.at) - lost
	if lost > 0 {
		out.Note = fmt.Sprintf("%d of %d frames were lost", lost, len(v.at))
	}
	r.add(out)
	return nil
}

func rateResult(protocol, system string, rate topo.Rate, got, want float64) metrics.Calibrated {
	off := 100 * (got/want - 1)
	return metrics.Calibrated{
		Test: "F2", System: system, What: protocol + " goodput", Set: rate.String(),
		Measured: fmt.Sprintf("%s of %s (%+.2f%%)", bits(got), bits(want), off),
		Error:    max(off, -off), Bar: rateBar(rate), Unit: "%",
		Values: map[string]float64{"rate_bps": float64(rate), "goodput_bps": got, "want_bps": want, "error_percent": off},
	}.Judge()
}

func bits(bps float64) string {
	switch {
	case bps >= 1e9:
		return fmt.Sprintf("%.4g Gb/s", bps/1e9)
	case bps >= 1e6:
		return fmt.Sprintf("%.4g Mb/s", bps/1e6)
	}
	return fmt.Sprintf("%.4g kb/s", bps/1e3)
}

// tcp measures one greedy connection from near to far. The first part of what
// it does, in which it finds its window, is left out.
func (r *run) tcp(ctx context.Context, b *bench, rate topo.Rate) error {
	long := 4 * time.Second
	if r.Quick {
		long = time.Second
	}
	if rate < 10e6 {
		long *= 3
	}
	// In a queue that is never full nothing is lost: what comes in order then
	// tells what the line carries at any moment, and not when a gap was closed.
	if err := b.set(ctx, []topo.Impairment{lineOf(rate)}); err != nil {
		return err
	}
	p, err := traffic.Open(b.enter, []traffic.Endpoint{
		{Name: nearNode, Addr: nearAddr(0)}, {Name: farNode(0), Addr: farAddr(0)}})
	if err != nil {
		return err
	}
	defer p.Close()
	flow, err := p.OpenBulk(ctx, traffic.BulkConfig{Interval: 5 * time.Millisecond, Streams: []traffic.Stream{{Flow: traffic.Flow{From: nearNode, To: farNode(0)}}}})
	if err != nil {
		return err
	}
	flow.Start(0)
	settled := long / 4
	if err := pass(ctx, settled); err != nil {
		_, e := flow.Close()
		return errors.Join(err, e)
	}
	from := event.Now()
	if err := pass(ctx, long); err != nil {
		_, e := flow.Close()
		return errors.Join(err, e)
	}
	to := event.Now()
	res, err := flow.Close()
	if err != nil {
		return err
	}
	got, n := steady(res.Flows[0].Readings, from, to)
	out := rateResult("TCP", b.system, rate, got, float64(rate)*tcpLoad/fullFrame)
	out.N = n
	out.Values["resent"] = float64(res.Flows[0].Resent)
	r.add(out)
	return nil
}

// steady is the goodput between two moments, and how many readings have a part
// in it. A line lets go of a packet and then takes the time that it needs
// before it lets go of the next: so the time between two readings at which
// something had come is that of what came at the first of them, which may be
// 64 KiB at once, and not of what came at the last.
func steady(readings []traffic.Reading, from, to event.Mono) (bps float64, n int) {
	var began, ended event.Mono
	var before, last int64
	for i, r := range readings {
		if i == 0 || r.At < from || r.At > to || r.Bytes == readings[i-1].Bytes {
			continue
		}
		if n++; n == 1 {
			began, before = r.At, readings[i-1].Bytes
		}
		ended, last = r.At, readings[i-1].Bytes
	}
	if n < 2 {
		return 0, n
	}
	return float64(last-before) * 8 / ended.Sub(began).Seconds(), n
}

// pass lets a measurement take its time.
func pass(ctx context.Context, long time.Duration) error {
	timer := time.NewTimer(long)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
