package scenarios

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/traffic"
)

// What is taken of each way in a trial, in turns with the others. The spans are
// short: what varies from one moment to the next is for rounds and trials to
// tell.
const (
	pathRounds = 3
	tripSpan   = 70 * time.Millisecond // of probes both ways
	tripLeast  = 20                    // of them; where a stall leaves fewer, there is another span
	tripMost   = 10 * time.Second
	flowStart  = 60 * time.Millisecond  // until a TCP flow has found its rate
	flowSpan   = 120 * time.Millisecond // of its goodput
	flowDrain  = 20 * time.Millisecond  // for what it still has under way
	flowRead   = 10 * time.Millisecond  // between two readings at the receiver
)

// way is the path between two ends in one system.
type way struct {
	system   string
	from, to string // machines
}

// ways are those of a trial.
func (r *lanTrial) ways() []way {
	all := []way{{systemVPLS, r.ends[0].Machines[0], r.ends[1].Machines[0]}, {systemIP, r.plain[0].Name, r.plain[1].Name}}
	if r.routed != nil {
		all = append(all, way{systemL3VPN, r.routedEnds[0].Machines[0], r.routedEnds[1].Machines[0]})
	}
	return all
}

// paths takes round trips and goodput of all ways, each round in another
// order. Of the goodput of its rounds a trial keeps the best: whatever else the
// computer does meanwhile only takes from it.
func (r *lanTrial) paths(ctx context.Context) error {
	ways := r.ways()
	streams := make([]traffic.Stream, len(ways))
	for i, w := range ways {
		streams[i] = traffic.Stream{Flow: traffic.Flow{From: w.from, To: w.to}}
	}
	bulk, err := r.prober.OpenBulk(ctx, traffic.BulkConfig{Streams: streams, Interval: flowRead})
	if err != nil {
		return err
	}
	defer func() { _, _ = bulk.Close() }() // closed before, it returns the same
	trips, spans := make([][]time.Duration, len(ways)), make([][][2]event.Mono, len(ways))
	for range pathRounds {
		for _, i := range r.rng.Perm(len(ways)) {
			more, err := r.trips(ctx, ways[i])
			if err != nil {
				return err
			}
			trips[i] = append(trips[i], more...)
			span, err := flow(ctx, bulk, i)
			if err != nil {
				return err
			}
			spans[i] = append(spans[i], span)
		}
	}
	result, err := bulk.Close()
	if err != nil {
		return err
	}
	goodput := make([]float64, len(ways))
	for i := range ways {
		slices.Sort(trips[i])
		for _, s := range spans[i] {
			goodput[i] = max(goodput[i], result.Flows[i].Goodput(s[0], s[1]))
		}
	}
	r.countPaths(ways, trips, goodput)
	return nil
}

// countPaths adds what was taken of each way, and beside plain IP.
func (r *lanTrial) countPaths(ways []way, trips [][]time.Duration, goodput []float64) {
	plain := slices.IndexFunc(ways, func(w way) bool { return w.system == systemIP })
	for i, w := range ways {
		set, trip := labels{"system": w.system}, nearest(trips[i], 50).Seconds()
		r.t.Add("lan.rtt", "s", trip, set)
		r.t.Add("lan.rtt_p95", "s", nearest(trips[i], 95).Seconds(), set)
		r.t.Add("lan.throughput", "bit/s", goodput[i], set)
		if i != plain {
			r.t.Add("lan.rtt_ratio", "ratio", trip/nearest(trips[plain], 50).Seconds(), set)
			r.t.Add("lan.throughput_ratio", "ratio", goodput[i]/goodput[plain], set)
		}
	}
}

// flow lets one stream send for a while and returns the span that counts.
func flow(ctx context.Context, bulk *traffic.Bulk, stream int) (span [2]event.Mono, err error) {
	bulk.Start(stream)
	if err := wait(ctx, flowStart); err != nil {
		return span, err
	}
	span[0] = event.Now()
	if err := wait(ctx, flowSpan); err != nil {
		return span, err
	}
	span[1] = event.Now()
	bulk.Pause(stream)
	return span, wait(ctx, flowDrain)
}

// trips are round trips of a way: for each number of a probe train the way
// there and the way back. The two probes leave at the same moment, so this is
// what an answer sent at once would have had.
func (r *lanTrial) trips(ctx context.Context, w way) (trips []time.Duration, err error) {
	deadline, cancel := context.WithTimeoutCause(ctx, tripMost, fmt.Errorf("waited %v for round trips between %s and %s", tripMost, w.from, w.to))
	defer cancel()
	for len(trips) < tripLeast {
		more, err := r.someTrips(deadline, w)
		if err != nil {
			return nil, fmt.Errorf("%s: %d of %d probes have come through: %w", w.system, len(trips), tripLeast, err)
		}
		trips = append(trips, more...)
	}
	return trips, nil
}

func (r *lanTrial) someTrips(ctx context.Context, w way) (trips []time.Duration, err error) {
	flows := []traffic.Flow{{From: w.from, To: w.to}, {From: w.to, To: w.from}}
	train, err := r.prober.StartTrain(traffic.TrainConfig{Flows: flows, Interval: trainInterval, Duty: 0.9, Log: true})
	if err != nil {
		return nil, err
	}
	defer func() { _, _ = train.Stop(ctx) }() // a train that was stopped stays so
	if err := wait(ctx, tripSpan); err != nil {
		return nil, err
	}
	result, err := train.Stop(ctx)
	if err != nil {
		return nil, err
	}
	there := map[uint64]time.Duration{}
	for _, a := range result.Flows[0].Arrivals {
		there[a.Seq] = a.Delay()
	}
	for _, a := range result.Flows[1].Arrivals {
		if d, ok := there[a.Seq]; ok {
			trips = append(trips, d+a.Delay())
		}
	}
	return trips, nil
}

// nearest is a percentile by the nearest rank of sorted values.
func nearest(sorted []time.Duration, percent int) time.Duration {
	return sorted[max(0, (len(sorted)*percent+99)/100-1)]
}

// sizes finds which packets cross, in both services.
func (r *lanTrial) sizes(ctx context.Context) error {
	for _, w := range r.ways() {
		if w.system == systemIP {
			continue
		}
		if err := r.sizesOf(ctx, w); err != nil {
			return fmt.Errorf("%s: %w", w.system, err)
		}
	}
	return nil
}

func (r *lanTrial) sizesOf(ctx context.Context, w way) error {
	wire, _ := wireOf(r.base, w.from)
	mtu := wire.MTU
	// Up to the MTU; then one byte more, a VLAN tag more, an Ethernet header
	// more, and what a label stack would hide.
	lengths := []int{64, 128, 576, mtu - 100, mtu - 26, mtu - 22, mtu - 18, mtu - 14, mtu - 8, mtu - 4, mtu - 1, mtu, mtu + 1, mtu + 4, mtu + 14, mtu + 18, mtu + 22, mtu + 100}
	results, err := r.prober.Sizes(ctx, traffic.Flow{From: w.from, To: w.to}, lengths, false)
	if err != nil {
		return err
	}
	whole, err := r.prober.Sizes(ctx, traffic.Flow{From: w.from, To: w.to}, []int{mtu + 1, 2*mtu + 1, 4 * mtu}, true)
	if err != nil {
		return err
	}
	larger, refused, silent := 0, 0, 0
	for _, n := range lengths {
		if n > mtu {
			larger++
		}
	}
	for _, s := range append(slices.Clone(results), whole...) {
		if s.TooLarge() {
			refused++
		}
		if s.Silent() {
			silent++
		}
	}
	set := labels{"system": w.system}
	r.t.Add("lan.mtu", "bytes", float64(traffic.Largest(results)), set)
	r.t.Add("lan.mtu_set", "bytes", float64(mtu), set)
	r.t.Add("lan.mtu_larger", "count", float64(larger), set)
	r.t.Add("lan.mtu_refused", "count", float64(refused), set)
	r.t.Add("lan.mtu_silent", "count", float64(silent), set)
	r.t.Add("lan.fragmented", "bytes", float64(traffic.Largest(whole)), set)
	return nil
}
