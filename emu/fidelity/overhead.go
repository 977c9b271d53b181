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

// The two ways of F11: from a machine of red at a to one at b, over CE, PE, P,
// P, PE and CE; and over as many plain routers. The VPN's way has the bridges
// of the two LANs besides.
const (
	plainFrom, plainTo = "q0", "q7"
	vpnFrom, vpnTo     = "red-a-1", "red-b-1"
)

// overhead is F11: what labels cost in time and in throughput. It has no bar.
func (r *run) overhead(ctx context.Context) error {
	plan, err := labelPlan()
	if err != nil {
		return fmt.Errorf("F11: %w", err)
	}
	if _, err := r.lab.Apply(ctx, plan); err != nil {
		return fmt.Errorf("F11: %w", err)
	}
	ways, err := waysOf(plan)
	if err != nil {
		return fmt.Errorf("F11: %w", err)
	}
	r.say("F11", nil, "round trips")
	out, err := r.roundTrips(ctx, ways)
	if err != nil {
		return fmt.Errorf("F11: %w", err)
	}
	r.add(out)
	r.say("F11", nil, "throughput")
	out, err = r.throughput(ctx, ways)
	if err != nil {
		return fmt.Errorf("F11: %w", err)
	}
	r.add(out)
	return nil
}

// way is one from end to end.
type way struct {
	from, to traffic.Endpoint
	ifname   string // of from
}

// waysOf are the plain way and the VPN's.
func waysOf(plan *topo.Plan) (ways [2]way, err error) {
	for i, ends := range [2][2]string{{plainFrom, plainTo}, {vpnFrom, vpnTo}} {
		var eps [2]traffic.Endpoint
		for k, name := range ends {
			eps[k].Name = name
			for _, l := range plan.Links {
				for _, e := range []topo.Endpoint{l.A, l.B} {
					if e.Node == name {
						eps[k].Addr = e.Addr.Addr()
					}
				}
			}
			if !eps[k].Addr.IsValid() {
				return ways, fmt.Errorf("%s has no address", name)
			}
		}
		ways[i] = way{eps[0], eps[1], ifOf(plan, eps[0].Name)}
	}
	return ways, nil
}

// roundTrips pings over both ways in turns.
func (r *run) roundTrips(ctx context.Context, ways [2]way) (out metrics.Calibrated, err error) {
	n := 1000
	if r.Quick {
		n = 200
	}
	p := &pings{}
	defer p.close()
	for i, w := range ways {
		if err := p.from(r.lab.Fabric().Do, w.from.Name, w.ifname); err != nil {
			return out, err
		}
		p.pair(i, w.to.Addr)
	}
	if err := p.greet(ctx); err != nil {
		return out, err
	}
	ms, err := p.rounds(ctx, n, pingPace/2)
	if err != nil {
		return out, err
	}
	var more []float64 // us, of the VPN's in the same round
	for i := range min(len(ms[0]), len(ms[1])) {
		more = append(more, 1e3*(ms[1][i]-ms[0][i]))
	}
	lo, hi := medianInterval(more)
	out = metrics.Calibrated{
		Test: "F11", System: systemVPCLab, What: "round trip over labels", Set: "6 routers, no delays", N: len(more), Unit: "us",
		Measured: fmt.Sprintf("%.1f us by IP, %.1f us by MPLS: %+.1f us (median, 95%% interval %+.1f to %+.1f)", 1e3*median(ms[0]), 1e3*median(ms[1]), median(more), lo, hi),
		Grade:    metrics.FidelityReport,
		Values:   map[string]float64{"ip_us": 1e3 * median(ms[0]), "mpls_us": 1e3 * median(ms[1]), "more_us": median(more), "more_low_us": lo, "more_high_us": hi},
	}
	return out, nil
}

// throughput sends TCP over both ways in turns, each for a while.
func (r *run) throughput(ctx context.Context, ways [2]way) (out metrics.Calibrated, err error) {
	turns, long := 10, 250*time.Millisecond
	if r.Quick {
		turns, long = 6, 150*time.Millisecond
	}
	p, err := traffic.Open(r.lab.Fabric().Do, []traffic.Endpoint{ways[0].from, ways[0].to, ways[1].from, ways[1].to})
	if err != nil {
		return out, err
	}
	defer p.Close()
	// Read so often that the receivers' buffers are not what bounds the rate:
	// 8 MiB each 2 ms.
	cfg := traffic.BulkConfig{Interval: 2 * time.Millisecond}
	for _, w := range ways {
		cfg.Streams = append(cfg.Streams, traffic.Stream{Flow: traffic.Flow{From: w.from.Name, To: w.to.Name}})
	}
	flows, err := p.OpenBulk(ctx, cfg)
	if err != nil {
		return out, err
	}
	type spell struct{ from, to event.Mono }
	var spells [2][]spell
	for turn := 0; turn < 2*turns && err == nil; turn++ {
		flows.Start(turn % 2)
		from := event.Now()
		err = pass(ctx, long)
		flows.Pause(turn % 2)
		spells[turn%2] = append(spells[turn%2], spell{from, event.Now()})
	}
	res, e := flows.Close()
	if err = errors.Join(err, e); err != nil {
		return out, err
	}
	var rates [2][]float64
	for i := range spells {
		for _, s := range spells[i] {
			rates[i] = append(rates[i], res.Flows[i].Goodput(s.from, s.to))
		}
	}
	var less []float64
	for i := range rates[0] {
		less = append(less, 100*(rates[1][i]/rates[0][i]-1))
	}
	lo, hi := medianInterval(less)
	return metrics.Calibrated{
		Test: "F11", System: systemVPCLab, What: "TCP over labels", Set: "6 routers, no rates", N: len(less), Unit: "%",
		Measured: fmt.Sprintf("%s by IP, %s by MPLS: %+.1f%% (median, 95%% interval %+.1f to %+.1f)", bits(median(rates[0])), bits(median(rates[1])), median(less), lo, hi),
		Grade:    metrics.FidelityReport,
		Values:   map[string]float64{"ip_bps": median(rates[0]), "mpls_bps": median(rates[1]), "less_percent": median(less), "less_low_percent": lo, "less_high_percent": hi},
	}, nil
}
