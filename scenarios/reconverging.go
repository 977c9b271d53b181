package scenarios

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/emu/traffic"
	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/topo"
)

const (
	// probeEvery is between two probes there, probeBack between two back, and
	// probeDuty the share of the processor that they may take. The routers run on
	// the same one: what is sent must leave them room, at every hop.
	probeEvery = time.Millisecond
	probeBack  = 4 * time.Millisecond
	probeDuty  = 0.35
	// flowRate is what each TCP flow offers.
	flowRate     = topo.Rate(2e6)
	flowReadings = 10 * time.Millisecond
	// calm is how long traffic flows before a fault, at least, and after it.
	calm = 500 * time.Millisecond
	// usualWatch is how long packets may fail to come through.
	usualWatch = 15 * time.Second
	// afterUndo is how long they may fail once the fault is undone.
	afterUndo = 30 * time.Second
)

// reconverging is a session of the experiment reconvergence.
type reconverging struct {
	lab        Lab
	base       *topo.Plan
	experiment topo.Experiment
	prober     *traffic.Prober
}

func openReconvergence(o opening) (*reconverging, error) {
	s := &reconverging{lab: o.lab, base: o.plan, experiment: o.experiment}
	tl, err := o.lab.Apply(o.ctx, s.base)
	if err != nil {
		return nil, err
	}
	o.built(s.base, tl.Total())
	var eps []traffic.Endpoint
	for _, e := range endpointsOf(s.base) {
		if e.Name == s.experiment.Between[0] || e.Name == s.experiment.Between[1] {
			eps = append(eps, e)
		}
	}
	if s.prober, err = traffic.Open(o.lab.Fabric().Do, eps); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *reconverging) close() { s.prober.Close() }

func (s *reconverging) missed() int { return s.prober.Missed() }

// recover brings the lab back to what the file says.
func (s *reconverging) recover(ctx context.Context) error {
	if err := s.lab.UndoFaults(ctx); err != nil {
		return err
	}
	_, err := s.lab.Apply(ctx, s.base)
	return err
}

func (s *reconverging) trial(ctx context.Context, pt point, _ int, t *metrics.Trial, _ *rand.Rand) error {
	plan := s.planAt(pt)
	if _, err := s.lab.ApplyWith(ctx, plan, lab.ApplyOptions{Trust: true}); err != nil {
		return err
	}
	awake, cancel := context.WithTimeoutCause(ctx, wholeDeadline, fmt.Errorf("waited %v for routers to watch each other", wholeDeadline))
	defer cancel()
	// What the controller remembers of the trial before must be forgotten, too.
	if err := errors.Join(s.lab.Awake(awake), s.lab.Whole(awake)); err != nil {
		return err
	}
	sub := s.lab.Subscribe()
	defer sub.Close()
	r := &reconvergenceTrial{reconverging: s, pt: pt, plan: plan, event: faultAt(s.experiment, pt), t: t, log: &eventLog{sub: sub}}
	return errors.Join(r.run(ctx), r.log.keep(t))
}

// planAt is the lab at a point.
func (s *reconverging) planAt(pt point) *topo.Plan {
	plan := s.base.WithRecovery(recoveryAt(s.base, pt))
	if pt[paramPrefixes] != "" {
		far, _ := plan.Node(s.experiment.Between[1])
		plan = plan.WithPrefixes(far.VPC, far.Site, pt.number(paramPrefixes))
	}
	return plan
}

// reconvergenceTrial is one trial.
type reconvergenceTrial struct {
	*reconverging
	pt    point
	plan  *topo.Plan
	event topo.Event
	t     *metrics.Trial
	log   *eventLog

	train *traffic.Train // there
	back  *traffic.Train
	many  *traffic.Train // to some of the prefixes; nil: there are none
	bulk  *traffic.Bulk
	began event.Mono // of the traffic
	at    event.Mono // of the fault

	recovered bool
	undone    event.Mono // when the fault was being undone
}

func (r *reconvergenceTrial) run(ctx context.Context) error {
	if err := r.talk(ctx); err != nil {
		return err
	}
	defer r.hush()
	if err := wait(ctx, max(calm, r.event.At.Std())); err != nil {
		return err
	}
	injected, err := r.lab.Inject(ctx, r.event.Fault)
	if err != nil {
		return err
	}
	r.at = injected.At
	watched := r.watch(ctx)
	r.undone = event.Now()
	measuring(ctx, r.at, r.undone)
	watched = errors.Join(watched, r.halt(ctx)) // what is mended needs the processor
	err = errors.Join(watched, injected.Undo(ctx))
	if err == nil && !r.recovered {
		err = r.through(ctx, afterUndo)
	}
	if err == nil {
		err = r.store(ctx)
	}
	return errors.Join(err, r.whole(ctx))
}

// flows are both directions.
func (r *reconvergenceTrial) flows() []traffic.Flow {
	a, b := r.experiment.Between[0], r.experiment.Between[1]
	return []traffic.Flow{{From: a, To: b}, {From: b, To: a}}
}

// talk begins probes and TCP flows and waits until they are through.
func (r *reconvergenceTrial) talk(ctx context.Context) (err error) {
	r.began = event.Now()
	every := probeEvery
	if r.pt[paramPrefixes] != "" {
		every = probeBack // their own probes come on top
	}
	there, back := r.flows()[:1], r.flows()[1:]
	if r.train, err = r.prober.StartTrain(traffic.TrainConfig{Flows: there, Interval: every, Duty: probeDuty}); err != nil {
		return err
	}
	if r.back, err = r.prober.StartTrain(traffic.TrainConfig{Flows: back, Interval: probeBack, Duty: probeDuty}); err != nil {
		return err
	}
	if err := errors.Join(waitFirst(ctx, r.train), waitFirst(ctx, r.back)); err != nil {
		return err
	}
	var streams []traffic.Stream
	for _, f := range r.flows() {
		streams = append(streams, traffic.Stream{Flow: f, Rate: flowRate})
	}
	if r.bulk, err = r.prober.OpenBulk(ctx, traffic.BulkConfig{Streams: streams, Interval: flowReadings}); err != nil {
		return err
	}
	r.bulk.Start()
	return r.talkToPrefixes(ctx)
}

// probedPrefixes is how many prefixes are probed, of those that there are: the
// first, the last and some between, as they may be programmed in that order.
const probedPrefixes = 5

// prefixEvery is between two probes of one of them.
const prefixEvery = 20 * time.Millisecond

// talkToPrefixes begins probes to some of the prefixes.
func (r *reconvergenceTrial) talkToPrefixes(ctx context.Context) (err error) {
	if r.pt[paramPrefixes] == "" {
		return nil
	}
	far, _ := r.plan.Node(r.experiment.Between[1])
	a, ok := attachment(r.plan, member{far.VPC, far.Site})
	if !ok || a.More.IsZero() {
		return fmt.Errorf("no prefixes are behind site %s of VPC %s", far.Site, far.VPC)
	}
	cfg := traffic.TrainConfig{Interval: prefixEvery, Duty: probeDuty}
	n := min(probedPrefixes, a.More.Count)
	for i := range n {
		at := 0
		if n > 1 {
			at = i * (a.More.Count - 1) / (n - 1)
		}
		cfg.Flows = append(cfg.Flows, r.flows()[0])
		cfg.Addrs = append(cfg.Addrs, a.More.At(at).Addr())
	}
	if r.many, err = r.prober.StartTrain(cfg); err != nil {
		return err
	}
	return waitFirst(ctx, r.many)
}

// halt ends the traffic.
func (r *reconvergenceTrial) halt(ctx context.Context) error {
	var errs []error
	for _, t := range []*traffic.Train{r.train, r.back, r.many} {
		if t != nil {
			_, err := t.Stop(ctx) // one that was stopped stays so
			errs = append(errs, err)
		}
	}
	if r.bulk != nil {
		_, err := r.bulk.Close()
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// hush ends what a trial that failed has left.
func (r *reconvergenceTrial) hush() {
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	_ = r.halt(gone) // the trial has its error already
}

// watch waits until packets come through again both ways, and the traffic has
// been calm for a while; or until the time is over in which they may.
func (r *reconvergenceTrial) watch(ctx context.Context) error {
	limit := r.experiment.Watch.Std()
	if limit == 0 {
		limit = usualWatch
	}
	if d := r.event.Fault.For.Std(); d > 0 {
		limit = min(limit, d)
	}
	err := r.through(ctx, limit)
	var late *lateError
	if errors.As(err, &late) {
		return nil // it is what the point is to show
	}
	if err != nil {
		return err
	}
	r.recovered = true
	return r.rerouted(ctx, limit)
}

// lateError says that packets did not come through in time.
type lateError struct{ error }

// through waits for the first packet of new flows both ways.
func (r *reconvergenceTrial) through(ctx context.Context, limit time.Duration) error {
	bounded, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("waited %v", limit))
	defer cancel()
	sentinel, err := r.prober.StartTrain(traffic.TrainConfig{Flows: r.flows(), Interval: 5 * probeEvery, UntilFirst: true})
	if err != nil {
		return err
	}
	first := sentinel.WaitFirst(bounded)
	_, err = sentinel.Stop(ctx)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case first != nil && bounded.Err() != nil:
		return &lateError{fmt.Errorf("%s is not through: %w", r.pt[paramFault], first)}
	case first != nil:
		return first
	}
	return err
}

// rerouted waits, where the controller is to find new ways, until they are in
// force, and then until the traffic has been calm.
func (r *reconvergenceTrial) rerouted(ctx context.Context, limit time.Duration) error {
	if recoveryAt(r.base, r.pt).Reroute {
		bounded, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("waited %v for the controller's new ways", limit))
		defer cancel()
		if _, err := r.log.until(bounded, func(e event.Event) bool { return e.Kind == "reroute.applied" && e.T >= r.at }); err != nil && ctx.Err() != nil {
			return err
		}
	}
	return wait(ctx, calm)
}

// whole waits until the lab is what its plan says.
func (r *reconvergenceTrial) whole(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, wholeDeadline, fmt.Errorf("waited %v for the lab to be whole again", wholeDeadline))
	defer cancel()
	return r.lab.Whole(ctx)
}

const wholeDeadline = 60 * time.Second

// store writes what the trial measured.
func (r *reconvergenceTrial) store(ctx context.Context) error {
	probes, err := r.train.Stop(ctx)
	if err != nil {
		return err
	}
	returned, err := r.back.Stop(ctx)
	if err != nil {
		return err
	}
	streams, err := r.bulk.Close()
	if err != nil {
		return err
	}
	back := r.addOutage(probes, returned)
	if err := r.addPrefixes(ctx); err != nil {
		return err
	}
	r.addSplit(back)
	r.addStreams(streams)
	ev := &record{}
	ev.mark("fault", r.at)
	ev.mark("packets flow", back)
	if err := r.t.WriteJSON("train.json", ev.train(probes)); err != nil {
		return err
	}
	if err := r.t.WriteFile("marks.csv", r.marksCSV(back)); err != nil {
		return err
	}
	return r.t.WriteFile("goodput.csv", r.goodputCSV(streams))
}

// addOutage stores what the probes saw, and tells when packets flowed again.
func (r *reconvergenceTrial) addOutage(there, returned *traffic.TrainResult) (back event.Mono) {
	back = r.at
	longest, lost := time.Duration(0), uint64(0)
	for _, f := range slices.Concat(there.Flows, returned.Flows) {
		for _, g := range f.Gaps {
			if g.To <= r.at {
				continue // before the fault
			}
			lost += g.Lost
			back = max(back, g.To)
			longest = max(longest, g.To.Sub(max(g.From, r.at)))
		}
	}
	r.t.Add("reconvergence.outage", "s", longest.Seconds(), nil)
	r.t.Add("reconvergence.lost", "count", float64(lost), nil)
	r.t.Add("reconvergence.interval", "s", there.Interval.Seconds(), nil)
	came := 0.0
	if r.recovered {
		came = 1
	}
	r.t.Add("reconvergence.recovered", "count", came, nil)
	return back
}

// addPrefixes stores the outages of the prefixes that were probed.
func (r *reconvergenceTrial) addPrefixes(ctx context.Context) error {
	if r.many == nil {
		return nil
	}
	probes, err := r.many.Stop(ctx)
	if err != nil {
		return err
	}
	var outages []time.Duration
	for _, f := range probes.Flows {
		longest := time.Duration(0)
		for _, g := range f.Gaps {
			if g.To > r.at {
				longest = max(longest, g.To.Sub(max(g.From, r.at)))
			}
		}
		outages = append(outages, longest)
	}
	r.t.Add("reconvergence.prefix_outage", "s", nearestRank(outages, 50).Seconds(), labels{"quantile": "p50"})
	r.t.Add("reconvergence.prefix_outage", "s", nearestRank(outages, 100).Seconds(), labels{"quantile": "max"})
	return nil
}

// firstWords are events by which somebody says that it has found out.
var firstWords = map[string]bool{"liveness.down": true, "session.down": true, "bgp.down": true}

// found is when the first of them was, after the fault.
func (r *reconvergenceTrial) found() (at event.Mono, ok bool) {
	for kind := range firstWords {
		if t, found := r.log.first(kind, r.at, r.undone); found && (!ok || t < at) {
			at, ok = t, true
		}
	}
	return at, ok
}

// addSplit stores who knew and acted when.
func (r *reconvergenceTrial) addSplit(back event.Mono) {
	if at, ok := r.found(); ok && r.recovered {
		r.t.Add("reconvergence.detect", "s", at.Sub(r.at).Seconds(), nil)
		r.t.Add("reconvergence.switch", "s", max(0, back.Sub(at).Seconds()), nil)
	}
	if at, ok := r.log.first("reroute.applied", r.at, r.undone); ok {
		r.t.Add("reconvergence.reroute", "s", at.Sub(r.at).Seconds(), nil)
	}
}

// addStreams stores what TCP made of it.
func (r *reconvergenceTrial) addStreams(streams *traffic.BulkResult) {
	gap, share := time.Duration(0), 1.0
	for _, f := range streams.Flows {
		gap = max(gap, stall(f.Readings, r.at))
		before := f.Goodput(r.at-event.Mono(calm/2), r.at)
		if before > 0 {
			share = min(share, f.Goodput(r.at, r.at+event.Mono(time.Second))/before)
		}
	}
	r.t.Add("reconvergence.tcp_gap", "s", gap.Seconds(), nil)
	r.t.Add("reconvergence.goodput", "ratio", share, nil)
}

// stall is the longest time in which nothing arrived, of what lies after a
// moment.
func stall(readings []traffic.Reading, after event.Mono) (longest time.Duration) {
	for i := 1; i < len(readings); {
		j := i // the first reading that has more than the one before i
		for j < len(readings) && readings[j].Bytes == readings[i-1].Bytes {
			j++
		}
		if j == len(readings) {
			j--
		}
		if end := readings[j].At; end > after {
			longest = max(longest, end.Sub(max(after, readings[i-1].At)))
		}
		i = j + 1
	}
	return longest
}

// marksCSV are the moments of a trial, in seconds since the fault.
func (r *reconvergenceTrial) marksCSV(back event.Mono) []byte {
	var b bytes.Buffer
	b.WriteString("t_s,mark\n")
	put := func(at event.Mono, name string) { fmt.Fprintf(&b, "%.6f,%s\n", at.Sub(r.at).Seconds(), name) }
	put(r.at, "fault")
	if at, ok := r.found(); ok {
		put(at, "found out")
	}
	put(back, "packets flow")
	for _, e := range r.log.drain() {
		switch {
		case e.T < r.at:
		case e.Kind == "repair.switched", e.Kind == "pic.switched", e.Kind == "reroute.applied":
			put(e.T, e.Kind+" "+e.Node)
		}
	}
	put(r.undone, "undone")
	return b.Bytes()
}

// goodputBin is how finely goodput is stored.
const goodputBin = 20 * time.Millisecond

// goodputCSV is the goodput of both flows, in seconds since the fault.
func (r *reconvergenceTrial) goodputCSV(streams *traffic.BulkResult) []byte {
	var b bytes.Buffer
	b.WriteString("t_s,there_bps,back_bps\n")
	from := r.at - event.Mono(calm)
	last := from
	for _, f := range streams.Flows {
		if n := len(f.Readings); n > 0 {
			last = max(last, f.Readings[n-1].At)
		}
	}
	n := int(last.Sub(from) / goodputBin)
	there, back := streams.Flows[0].Series(from, goodputBin, n), streams.Flows[1].Series(from, goodputBin, n)
	for i := range n {
		at := from + event.Mono(i)*event.Mono(goodputBin)
		fmt.Fprintf(&b, "%.4f,%.0f,%.0f\n", at.Sub(r.at).Seconds(), there[i], back[i])
	}
	return b.Bytes()
}
