package scenarios

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/emu/replicate"
	"github.com/vpclab/vpclab/emu/traffic"
	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/topo"
)

// enduring is a session of the experiment availability.
type enduring struct{ *failingOver }

func openAvailability(o opening) (*enduring, error) {
	s, err := openFailover(o)
	if err != nil {
		return nil, err
	}
	return &enduring{s}, nil
}

func (s *enduring) trial(ctx context.Context, pt point, number int, t *metrics.Trial, rng *rand.Rand) error {
	vm := s.experiment.VM
	plan := s.base.WithoutStandby(vm)
	if pt[paramMode] != modeAlone {
		plan = s.planAt(pt)
	}
	alone := plan.WithoutStandby(vm)
	for _, p := range []*topo.Plan{alone.WithGuest(vm, nil), alone} {
		if _, err := s.lab.ApplyWith(ctx, p, lab.ApplyOptions{Announce: true}); err != nil {
			return err
		}
	}
	sub := s.lab.Subscribe()
	defer sub.Close()
	f := &failoverTrial{failingOver: s.failingOver, pt: pt, plan: plan, t: t, seed: s.seed + uint64(number), log: &eventLog{sub: sub}}
	r := &endurance{failoverTrial: f, rng: rng, broken: map[string]int{}, came: map[string]int{}}
	return errors.Join(r.run(ctx), f.log.keep(t))
}

// endurance is one trial.
type endurance struct {
	*failoverTrial
	rng    *rand.Rand
	began  event.Mono // of the faults
	came   map[string]int
	broken map[string]int // violations by invariant
}

func (r *endurance) run(ctx context.Context) error {
	defer r.dismiss()
	if r.pt[paramMode] != modeAlone {
		if err := r.protect(ctx); err != nil {
			return err
		}
	}
	if err := r.invite(ctx); err != nil {
		return err
	}
	r.began = event.Now()
	lasts := cmpDuration(r.experiment.Lasts.Std(), usualLasts)
	for event.Now().Sub(r.began) < lasts {
		if err := r.fault(ctx); err != nil {
			return err
		}
	}
	ended := event.Now()
	seen, err := r.ask(ctx)
	if err != nil {
		return err
	}
	if err := r.sound(ctx); err != nil {
		r.broken[invariantSound]++
	}
	return r.storeEndurance(seen, ended)
}

// cmpDuration is d, or what is usual where it is zero.
func cmpDuration(d, usual time.Duration) time.Duration {
	if d == 0 {
		return usual
	}
	return d
}

// drawn is an exponentially distributed time, within a tenth of its mean and
// four times it.
func (r *endurance) drawn(mean time.Duration) time.Duration {
	return min(4*mean, max(mean/10, time.Duration(r.rng.ExpFloat64()*float64(mean))))
}

// fault waits for the next fault, does it, undoes it, and waits until all is
// well.
func (r *endurance) fault(ctx context.Context) error {
	if err := wait(ctx, r.drawn(cmpDuration(r.experiment.MTBF.Std(), usualMTBF))); err != nil {
		return err
	}
	i := r.rng.IntN(len(r.experiment.Events))
	name, ev := faultName(r.experiment.Events, i), r.experiment.Events[i]
	last := r.drawn(cmpDuration(ev.Fault.For.Std(), usualMTTR))
	ev.Fault.For = 0 // it is undone here
	injected, err := r.lab.Inject(ctx, ev.Fault)
	if err != nil {
		return err
	}
	r.came[name]++
	err = wait(ctx, last)
	undone := event.Now()
	if err = errors.Join(err, injected.Undo(ctx)); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := r.well(ctx, injected.At, undone); err != nil {
		return fmt.Errorf("after %s for %v: %w", name, last.Round(time.Millisecond), err)
	}
	return nil
}

// well waits until the lab is whole, the VM protected and each user answered.
// A lab that does not become whole breaks an invariant, and ends the trial.
func (r *endurance) well(ctx context.Context, at, undone event.Mono) error {
	wholly, cancel := context.WithTimeoutCause(ctx, syncDeadline, fmt.Errorf("waited %v for the lab to be whole again", syncDeadline))
	defer cancel()
	if err := r.lab.Whole(wholly); err != nil {
		if ctx.Err() == nil {
			r.broken[invariantWhole]++
		}
		return err
	}
	acted := func(e event.Event) bool {
		return e.T >= at && (e.Kind == "pair.activated" || e.Kind == "pair.degraded")
	}
	if r.pt[paramMode] != modeAlone && r.log.has(acted) {
		if _, err := r.awaitSync(ctx, at); err != nil {
			return err
		}
	}
	return r.await(ctx, undone, answerDeadline, "after a fault was undone")
}

// outageOf is the shortest silence of all users that counts as one.
const outageOf = 500 * time.Millisecond

// storeEndurance writes what a trial measured.
func (r *endurance) storeEndurance(seen *traffic.UsersResult, ended event.Mono) error {
	usual := traffic.UsualSilence(seen.Answers)
	var outages []time.Duration
	down := time.Duration(0)
	last := r.began
	for _, a := range seen.Answers {
		if a.Answered > r.began && a.Answered > last {
			if gap := a.Answered.Sub(last); gap >= max(outageOf, 10*usual) {
				outages = append(outages, gap-usual)
				down += gap - usual
			}
			last = a.Answered
		}
	}
	whole := ended.Sub(r.began)
	r.t.Add("availability.ratio", "ratio", 1-down.Seconds()/whole.Seconds(), nil)
	r.t.Add("availability.down", "s", down.Seconds(), nil)
	r.t.Add("availability.lasted", "s", whole.Seconds(), nil)
	r.t.Add("availability.outages", "count", float64(len(outages)), nil)
	for _, q := range quantiles {
		if len(outages) > 0 {
			r.t.Add("availability.mttr", "s", nearestRank(outages, q).Seconds(), labels{"quantile": fmt.Sprintf("p%d", q)})
		}
	}
	for _, name := range faultNames(r.experiment) {
		r.t.Add("availability.faults", "count", float64(r.came[name]), labels{"fault": name})
	}
	takeovers := 0
	for _, e := range r.log.drain() {
		if e.Kind == "pair.activated" && e.T >= r.began {
			takeovers++
		}
	}
	if r.pt[paramMode] == modeAlone {
		takeovers = 0
	}
	r.t.Add("availability.takeovers", "count", float64(takeovers), nil)
	r.addLedger("availability", seen)
	r.t.Add("availability.resets", "count", float64(brokenConnections(seen)), nil)
	if slices.Contains([]string{replicate.Checkpoint, replicate.Pipelined, replicate.Sync}, r.pt[paramMode]) {
		r.broken[invariantKept] += seen.Account.Lost
	}
	if n := mostActive(r.log.drain(), r.experiment.VM); n > 1 {
		r.broken[invariantActive] += n - 1
	}
	all := 0
	for _, name := range invariants {
		r.t.Add("availability.violations", "count", float64(r.broken[name]), labels{"invariant": name})
		all += r.broken[name]
	}
	r.t.Add("availability.violations", "count", float64(all), nil)
	return r.t.WriteFile("responses.csv", responsesCSV(seen, r.began))
}
