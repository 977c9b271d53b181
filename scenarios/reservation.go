package scenarios

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/emu/traffic"
	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/topo"
)

// The experiment reservation.
//
// A point is a number of greedy TCP flows. They and one flow that belongs to a
// reservation share a core link, the contested one. A trial does the same
// with the scenario's reservations and without them, in an order drawn for
// the trial:
//
//	the others alone   do they get the line while the reserved flow is silent?
//	steady             the reserved flow begins; does it get its rate, and how
//	                   long are small packets under way, inside the
//	                   reservation and outside?
//	failed             a link of the flow's path goes down while all send; how
//	                   long is the outage, and what is the rate after it?
//	restored           the link comes back
//
// The reserved flow offers offeredShare of the reserved rate as payload. With
// all headers, which a reservation counts too, that leaves a seventh of it to
// make up for what a busy machine was late with, so that no packet need wait
// long for its own flow.

// Parts of a trial. The windows that are measured lie at the end of each part,
// when TCP has settled.
const (
	aloneFor     = 900 * time.Millisecond
	aloneWindow  = 500 * time.Millisecond
	steadyFor    = 1800 * time.Millisecond
	steadyWindow = 1300 * time.Millisecond
	failedFor    = 1400 * time.Millisecond // after the repair
	failedWindow = 600 * time.Millisecond
	restoredFor  = 500 * time.Millisecond

	offeredShare  = 0.8
	flowBin       = 50 * time.Millisecond  // of the stored series
	rateBin       = 100 * time.Millisecond // of which a window's rate is the median
	delayInterval = 5 * time.Millisecond   // between the probes of a class
	delayDuty     = 0.25                   // of the CPU, for them
	underWay      = 100 * time.Millisecond // a probe may wait in queues so long
)

// Systems of the experiment: the same lab with its reservations and without.
const (
	systemWith    = "with"
	systemWithout = "without"
)

// Classes of traffic.
const (
	classReserved = "reserved"
	classOther    = "other"
)

// quantiles of the delays that are stored.
var quantiles = []int{50, 95, 99}

func reservationKind() kind {
	both := bySystem(systemWith, systemWithout)
	var classes, delays []labels
	for _, s := range []string{systemWith, systemWithout} {
		for _, c := range []string{classReserved, classOther} {
			classes = append(classes, labels{"system": s, "class": c})
			for _, q := range quantiles {
				delays = append(delays, labels{"system": s, "class": c, "quantile": fmt.Sprintf("p%d", q)})
			}
		}
	}
	return kind{
		resolution: 50 * time.Millisecond,
		params: []param{number("flows", "a number of greedy flows",
			func(*topo.Plan) (int, int) { return 1, 64 },
			func(*topo.Plan) int { return 4 })},
		metrics: []metric{
			{"reservation.rate", "bit/s", "goodput of the reserved flow while the others send: median over the window", both},
			{"reservation.share", "ratio", "that goodput over the reserved rate; the flow offers 0.8 of it", both},
			{"reservation.others", "bit/s", "goodput of the other flows together in the same window", both},
			{"reservation.used", "ratio", "goodput of all flows over the rate of the contested link", both},
			{"reservation.spare", "ratio", "goodput of the other flows over the rate of the contested link, while the reserved flow is silent", both},
			{"reservation.resent", "count", "segments that the senders sent again, over the whole trial", classes},
			{"reservation.latency", "s", "one way, of small probes in the steady window", delays},
			{"reservation.lost", "count", "of these probes, those lost", classes},
			{"reservation.probe_interval", "s", "median time between two probes of a class", both},
			{"reservation.pause", "s", "longest time between two readings of the receivers in the steady window: what a stalled machine hides", both},
			{"reservation.outage", "s", "longest gap in the probes when the link failed; 0: none was lost", classes},
			{"reservation.stall", "s", "longest time without payload of the reserved flow when the link failed", both},
			{"reservation.repaired", "s", "from the order to fail the link until the last router has acknowledged another way", both},
			{"reservation.rate_after", "bit/s", "goodput of the reserved flow after the repair", both},
			{"reservation.share_after", "ratio", "that goodput over the reserved rate", both},
			{"reservation.rerouted", "count", "1: the reservation has another way while the link is down; 0: no way has room", nil},
			{"reservation.refused", "count", "1: a request that no way has room for is refused; the text, which names the full link, is in the events", nil},
			{"reservation.short", "bit/s", "by how much that request was too much for the full link", nil},
		},
		check: func(plan *topo.Plan, e topo.Experiment) (msg, hint string) {
			c, msg, hint := newContest(plan, e.Reservation)
			if msg == "" {
				_, msg, hint = c.failure(plan, c.path(plan))
			}
			return msg, hint
		},
		open: func(o opening) (session, error) { return openReservation(o) },
	}
}

// path is the way of the reserved traffic in a plan: by its reservation, or
// where it has none the LSP's.
func (c contest) path(plan *topo.Plan) []string {
	if path := pathOf(plan, c.reservation.Name); path != nil {
		return path
	}
	path, _ := plan.Path(peOf(plan, c.flow.From), peOf(plan, c.flow.To)) // the lab is connected: there is one
	return path
}

// failure is the link whose failure is measured: the first of a path without
// which the flow and its rivals still reach their ends and the reservation of
// the plan, if it has it, finds another way; where the reservation finds none,
// the first without which they reach their ends.
func (c contest) failure(plan *topo.Plan, path []string) (link []string, msg, hint string) {
	reserved := pathOf(plan, c.reservation.Name) != nil
	var refusals []string
	for i := range len(path) - 1 {
		candidate := path[i : i+2]
		after, err := plan.Do(topo.Operation{Do: "fail", Link: candidate})
		if err == nil {
			err = c.reach(after)
		}
		if err != nil {
			refusals = append(refusals, err.Error())
			continue
		}
		if !reserved || pathOf(after, c.reservation.Name) != nil {
			return candidate, "", ""
		}
		if link == nil {
			link = candidate
		}
	}
	if link == nil {
		return nil, fmt.Sprintf("no link of the path %s can fail: %s", strings.Join(path, " "), strings.Join(refusals, "; ")),
			"give the backbone a second way between the ends of reservation " + c.reservation.Name
	}
	return link, "", ""
}

// reach says which flow does not reach its end in a plan.
func (c contest) reach(plan *topo.Plan) error {
	for _, f := range append([]traffic.Flow{c.flow}, c.rivals...) {
		if _, err := plan.Path(peOf(plan, f.From), peOf(plan, f.To)); err != nil {
			return err
		}
	}
	return nil
}

// pathOf is the way of a reservation's first direction, nil where it has none.
func pathOf(plan *topo.Plan, name string) []string {
	for _, r := range plan.Reservations {
		if r.Name == name && len(r.Directions) > 0 {
			return r.Directions[0].Path
		}
	}
	return nil
}

// reserving is a session of the experiment.
type reserving struct {
	contest
	lab    Lab
	plans  map[string]*topo.Plan // by system
	links  map[string][]string   // that fails, by system
	prober *traffic.Prober
}

// openReservation builds the lab with its reservations and puts a socket into
// every machine that takes part.
func openReservation(o opening) (*reserving, error) {
	c, msg, _ := newContest(o.plan, o.experiment.Reservation)
	if msg != "" {
		return nil, errors.New(msg)
	}
	without, err := withoutReservations(o.plan)
	if err != nil {
		return nil, err
	}
	s := &reserving{contest: c, lab: o.lab, links: map[string][]string{}}
	s.plans = map[string]*topo.Plan{systemWith: o.plan, systemWithout: without}
	for system, plan := range s.plans {
		if s.links[system], msg, _ = c.failure(plan, c.path(plan)); msg != "" {
			return nil, errors.New(msg)
		}
	}
	tl, err := s.lab.Apply(o.ctx, o.plan)
	if err != nil {
		return nil, err
	}
	o.built(o.plan, tl.Total())
	s.prober, err = traffic.Open(s.lab.Fabric().Do, s.endpoints(o.plan))
	return s, err
}

// withoutReservations releases all reservations of a plan.
func withoutReservations(plan *topo.Plan) (*topo.Plan, error) {
	bare := plan
	for _, r := range plan.Reservations {
		var err error
		if bare, err = bare.Do(topo.Operation{Do: "release", Name: r.Name}); err != nil {
			return nil, err
		}
	}
	return bare, nil
}

// endpoints are the machines of all flows.
func (s *reserving) endpoints(plan *topo.Plan) (eps []traffic.Endpoint) {
	in := map[string]bool{s.flow.From: true, s.flow.To: true}
	for _, f := range s.rivals {
		in[f.From], in[f.To] = true, true
	}
	for _, n := range plan.Machines() {
		if in[n.Name] {
			eps = append(eps, traffic.Endpoint{Name: n.Name, VPC: n.VPC, Site: n.Site, Addr: n.Addr})
		}
	}
	return eps
}

// close releases the sockets; the lab stays.
func (s *reserving) close() { s.prober.Close() }

func (s *reserving) missed() int { return s.prober.Missed() }

// recover brings the lab back to its reservations and whole links.
func (s *reserving) recover(ctx context.Context) error {
	_, err := s.lab.Apply(ctx, s.plans[systemWith])
	return err
}

// trial is one trial of both systems, and of the admission control.
func (s *reserving) trial(ctx context.Context, pt point, _ int, t *metrics.Trial, rng *rand.Rand) error {
	if err := s.admission(t); err != nil {
		return err
	}
	sub := s.lab.Subscribe()
	defer sub.Close()
	systems := []string{systemWith, systemWithout}
	rng.Shuffle(len(systems), func(i, j int) { systems[i], systems[j] = systems[j], systems[i] })
	for _, system := range systems {
		err := s.compete(ctx, t, system, pt.number("flows"))
		if err != nil {
			err = fmt.Errorf("%s reservations: %w", system, err)
		}
		if err = errors.Join(err, keep(t, sub)); err != nil { // what happened in the lab may tell why
			return err
		}
	}
	return nil
}

// admission lets the first of the others ask for what no way has room for,
// the rate of the widest link, and records the answer.
func (s *reserving) admission(t *metrics.Trial) error {
	plan, rival := s.plans[systemWith], s.rivals[0]
	from, _ := plan.Node(rival.From)
	ask := topo.Operation{Do: "reserve", Name: "too-much", VPC: from.VPC, Between: []string{rival.From, rival.To}, Rate: widest(plan)}
	_, err := plan.Do(ask)
	if err == nil {
		t.Add("reservation.refused", "count", 0, nil)
		return nil
	}
	var full *topo.NoRoomError
	if !errors.As(err, &full) {
		return fmt.Errorf("ask for a reservation that no way has room for: %w", err)
	}
	t.Event(event.New("", "reservation.refused", map[string]string{"rate": ask.Rate.String(), "link": full.Link, "error": err.Error()}))
	t.Add("reservation.refused", "count", 1, nil)
	t.Add("reservation.short", "bit/s", float64(full.Asked-full.Room()), nil)
	return nil
}

// race is a trial of one system under way.
type race struct {
	*reserving
	t      *metrics.Trial
	system string
	bulk   *traffic.Bulk
	train  *traffic.Train

	began, reserved, steadied event.Mono // the others begin; the reserved flow; the end of the steady part
	failed, repaired          event.Mono // the link was ordered down; another way was acknowledged
	recovered                 event.Mono // the end of the failed part
	restored, ended           event.Mono
}

// compete runs the flows through the parts of a trial.
func (s *reserving) compete(ctx context.Context, t *metrics.Trial, system string, flows int) (err error) {
	plan := s.plans[system]
	if _, err := s.apply(ctx, plan); err != nil {
		return err
	}
	streams := []traffic.Stream{{Flow: s.flow, Rate: s.offered()}}
	var others []int
	for i := range flows {
		others = append(others, len(streams))
		streams = append(streams, traffic.Stream{Flow: s.rivals[i%len(s.rivals)]})
	}
	r := &race{reserving: s, t: t, system: system}
	if r.bulk, err = s.prober.OpenBulk(ctx, traffic.BulkConfig{Streams: streams}); err != nil {
		return err
	}
	defer func() { _, _ = r.bulk.Close() }() // one that was closed stays so
	r.train, err = s.prober.StartTrain(traffic.TrainConfig{
		Flows: []traffic.Flow{s.flow, s.rivals[0]}, Interval: delayInterval, Duty: delayDuty, Log: true,
	})
	if err != nil {
		return err
	}
	defer func() { _, _ = r.train.Stop(ctx) }()
	if err := waitFirst(ctx, r.train); err != nil {
		return err
	}
	r.began = event.Now()
	r.bulk.Start(others...)
	if err := wait(ctx, aloneFor); err != nil {
		return err
	}
	r.reserved = event.Now()
	r.bulk.Start(0)
	if err := wait(ctx, steadyFor); err != nil {
		return err
	}
	r.steadied = event.Now()
	if err := r.breakLink(ctx, plan); err != nil {
		return err
	}
	return r.end(ctx)
}

func (s *reserving) offered() topo.Rate {
	return topo.Rate(offeredShare * float64(s.reservation.Rate))
}

func (s *reserving) apply(ctx context.Context, plan *topo.Plan) (*lab.Timeline, error) {
	return s.lab.ApplyWith(ctx, plan, lab.ApplyOptions{Trust: true})
}

// breakLink lets the link fail under the flows and come back.
func (r *race) breakLink(ctx context.Context, plan *topo.Plan) error {
	link := r.links[r.system]
	down, err := plan.Do(topo.Operation{Do: "fail", Link: link})
	if err != nil {
		return err
	}
	r.way("before the failure", plan)
	tl, err := r.apply(ctx, down)
	if err != nil {
		return fmt.Errorf("fail the link %s: %w", strings.Join(link, "--"), err)
	}
	r.failed, r.repaired = tl.Request, tl.Programmed
	r.way("after the failure", down)
	if err := wait(ctx, failedFor); err != nil {
		return err
	}
	r.recovered = event.Now()
	whole, err := down.Do(topo.Operation{Do: "restore", Link: link})
	if err != nil {
		return err
	}
	tl, err = r.apply(ctx, whole)
	if err != nil {
		return fmt.Errorf("restore the link %s: %w", strings.Join(link, "--"), err)
	}
	r.restored = tl.Programmed
	r.way("after the repair", whole)
	if r.system == systemWith {
		rerouted := 0.0
		if pathOf(down, r.reservation.Name) != nil {
			rerouted = 1
		}
		r.t.Add("reservation.rerouted", "count", rerouted, nil)
	}
	return wait(ctx, restoredFor)
}

// way records by which routers the reserved traffic goes.
func (r *race) way(when string, plan *topo.Plan) {
	by := "reservation"
	if pathOf(plan, r.reservation.Name) == nil {
		by = "shortest path"
	}
	r.t.Event(event.New("", "reservation.way", map[string]string{"system": r.system, "when": when, "by": by, "path": strings.Join(r.path(plan), " ")}))
}

// end stops the flows and writes what they saw.
func (r *race) end(ctx context.Context) error {
	r.ended = event.Now()
	flows, err := r.bulk.Close()
	if err != nil {
		return err
	}
	probes, err := r.train.Stop(ctx)
	if err != nil {
		return err
	}
	for _, f := range probes.Flows {
		if f.Elsewhere > 0 {
			return fmt.Errorf("%d probes from %s to %s arrived at another machine", f.Elsewhere, f.From, f.To)
		}
	}
	r.rates(flows)
	r.delays(probes)
	r.outages(flows, probes)
	return r.t.WriteJSON("flows-"+r.system+".json", r.evidence(flows, probes))
}

func (r *race) add(name, unit string, v float64, more labels) {
	set := labels{"system": r.system}
	for k, v := range more {
		set[k] = v
	}
	r.t.Add(name, unit, v, set)
}

// rates writes the goodputs of the parts.
func (r *race) rates(flows *traffic.BulkResult) {
	own, others := flows.Flows[:1], flows.Flows[1:]
	reserved, line := float64(r.reservation.Rate), float64(r.line)
	steady := r.steadied - event.Mono(steadyWindow)
	rate := medianRate(own, steady, r.steadied)
	rest := medianRate(others, steady, r.steadied)
	after := medianRate(own, r.recovered-event.Mono(failedWindow), r.recovered)
	r.add("reservation.rate", "bit/s", rate, nil)
	r.add("reservation.share", "ratio", rate/reserved, nil)
	r.add("reservation.others", "bit/s", rest, nil)
	r.add("reservation.used", "ratio", medianRate(flows.Flows, steady, r.steadied)/line, nil)
	r.add("reservation.spare", "ratio", medianRate(others, r.reserved-event.Mono(aloneWindow), r.reserved)/line, nil)
	r.add("reservation.pause", "s", pause(own[0].Readings, steady, r.steadied).Seconds(), nil)
	r.add("reservation.rate_after", "bit/s", after, nil)
	r.add("reservation.share_after", "ratio", after/reserved, nil)
	resent := 0
	for _, f := range others {
		resent += f.Resent
	}
	r.add("reservation.resent", "count", float64(own[0].Resent), labels{"class": classReserved})
	r.add("reservation.resent", "count", float64(resent), labels{"class": classOther})
}

// medianRate is the goodput of flows together between two moments: the median
// over bins, which a stall of the machine does not move.
func medianRate(flows []traffic.BulkFlow, from, to event.Mono) float64 {
	n := int(to.Sub(from) / rateBin)
	sum := make([]float64, n)
	for _, f := range flows {
		for i, v := range f.Series(from, rateBin, n) {
			sum[i] += v
		}
	}
	return metrics.Summarize(sum).Median
}

// pause is the longest time between two readings in a window.
func pause(readings []traffic.Reading, from, to event.Mono) (longest time.Duration) {
	for i := 1; i < len(readings); i++ {
		if a, b := readings[i-1].At, readings[i].At; b > from && a < to {
			longest = max(longest, b.Sub(a))
		}
	}
	return longest
}

// delays writes how long the probes of the steady window were under way.
func (r *race) delays(probes *traffic.TrainResult) {
	from := r.steadied - event.Mono(steadyWindow)
	for i, class := range []string{classReserved, classOther} {
		var seconds []float64
		for _, a := range probes.Flows[i].Arrivals {
			if a.Sent >= from && a.Sent < r.steadied {
				seconds = append(seconds, a.Delay().Seconds())
			}
		}
		lost := 0
		probes.Each(i, func(_ uint64, sent event.Mono, ok bool) {
			if sent >= from && sent < r.steadied && !ok {
				lost++
			}
		})
		r.add("reservation.lost", "count", float64(lost), labels{"class": class})
		slices.Sort(seconds)
		for _, q := range quantiles {
			if len(seconds) > 0 { // nearest rank: always a measured value
				r.add("reservation.latency", "s", seconds[(q*len(seconds)+99)/100-1], labels{"class": class, "quantile": fmt.Sprintf("p%d", q)})
			}
		}
	}
	r.add("reservation.probe_interval", "s", probes.Interval.Seconds(), nil)
}

// outages writes what the failure cost.
func (r *race) outages(flows *traffic.BulkResult, probes *traffic.TrainResult) {
	for i, class := range []string{classReserved, classOther} {
		g := r.outage(probes.Flows[i])
		r.add("reservation.outage", "s", g.Length().Seconds(), labels{"class": class})
	}
	from, to := r.stall(&flows.Flows[0])
	r.add("reservation.stall", "s", to.Sub(from).Seconds(), nil)
	r.add("reservation.repaired", "s", r.repaired.Sub(r.failed).Seconds(), nil)
}

// outage is the longest run of lost probes that the failure can have caused:
// sent before the repair, and not so long before the failure that they were
// through.
func (r *race) outage(f traffic.FlowResult) (longest traffic.Gap) {
	for _, g := range f.Gaps {
		if g.From < r.repaired && g.To > r.failed-event.Mono(underWay) && g.Length() > longest.Length() {
			longest = g
		}
	}
	return longest
}

// stall is the longest time in the failed part in which nothing of a flow
// arrived.
func (r *race) stall(f *traffic.BulkFlow) (from, to event.Mono) {
	last, bytes := r.failed, int64(-1)
	for _, read := range f.Readings {
		switch {
		case read.At < r.failed:
			last, bytes = read.At, read.Bytes
			continue
		case read.At > r.recovered:
			continue
		case read.Bytes == bytes:
			continue
		}
		if read.At-last > to-from {
			from, to = last, read.At
		}
		last, bytes = read.At, read.Bytes
	}
	if r.recovered-last > to-from {
		from, to = last, r.recovered
	}
	return from, to
}

// evidence is the trial in the form that is stored.
func (r *race) evidence(flows *traffic.BulkResult, probes *traffic.TrainResult) metrics.Flows {
	out := metrics.Flows{Reserved: float64(r.reservation.Rate), Line: float64(r.line), BinS: flowBin.Seconds()}
	bins := int(r.ended.Sub(r.began) / flowBin)
	for i, f := range flows.Flows {
		series := metrics.FlowSeries{
			From: f.From, To: f.To, Class: classOther, Offered: float64(f.Rate),
			Goodput: f.Series(r.began, flowBin, bins), Resent: f.Resent, Congestion: f.Congestion,
		}
		if i == 0 {
			series.Class = classReserved
		}
		out.Flows = append(out.Flows, series)
	}
	for i, class := range []string{classReserved, classOther} {
		out.Delays = append(out.Delays, r.probes(probes, i, class))
	}
	gap := r.outage(probes.Flows[0])
	marks := []mark{
		{"others begin", r.began}, {"reserved flow begins", r.reserved}, {"link failed", r.failed},
		{"repaired", r.repaired}, {"link restored", r.recovered}, {"restored", r.restored},
	}
	if gap.Lost > 0 {
		marks = append(marks, mark{"outage begins", gap.From}, mark{"outage ends", gap.To})
	}
	slices.SortStableFunc(marks, func(a, b mark) int { return int(a.at - b.at) })
	for _, m := range marks {
		out.Marks = append(out.Marks, metrics.TrainMark{T: r.since(m.at), Name: m.name})
	}
	return out
}

func (r *race) since(at event.Mono) float64 { return at.Sub(r.began).Seconds() }

// probes are all probes of one class from the beginning of the flows on.
func (r *race) probes(train *traffic.TrainResult, i int, class string) metrics.FlowDelays {
	f := train.Flows[i]
	out := metrics.FlowDelays{From: f.From, To: f.To, Class: class}
	delay := map[uint64]time.Duration{}
	for _, a := range f.Arrivals {
		delay[a.Seq] = a.Delay()
	}
	train.Each(i, func(seq uint64, sent event.Mono, _ bool) {
		if sent >= r.began {
			out.Probes = append(out.Probes, metrics.DelayProbe{T: r.since(sent), Delay: delay[seq].Seconds()})
		}
	})
	return out
}

// widest is the highest rate that a core link of the plan has.
func widest(plan *topo.Plan) (rate topo.Rate) {
	for _, l := range plan.Links {
		if l.Core {
			rate = max(rate, l.AtoB.Rate, l.BtoA.Rate)
		}
	}
	return rate
}
