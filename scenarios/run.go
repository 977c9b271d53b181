package scenarios

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/vpclab/vpclab/emu/watch"
	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/topo"
)

const (
	restoreDeadline = 60 * time.Second
	labExperiment   = "lab" // under which the times of building and removing the lab are stored
)

// opening is what an experiment gets to prepare itself.
type opening struct {
	ctx        context.Context
	lab        Lab
	plan       *topo.Plan
	experiment topo.Experiment
	points     []point
	seed       uint64
	// built notes how long it took to build the LANs of the experiment.
	built func(plan *topo.Plan, took time.Duration)
}

// session is an experiment whose lab is prepared.
type session interface {
	// trial does trial number (0: a warm-up) at pt and writes into t. rng is
	// the trial's own.
	trial(ctx context.Context, pt point, number int, t *metrics.Trial, rng *rand.Rand) error
	// recover makes the lab fit for the next trial after one has failed.
	recover(ctx context.Context) error
	// close releases what open took; the lab stays as it is.
	close()
}

// step is one trial on the schedule.
type step struct {
	pt     point
	number int // from 1; 0 is a warm-up
	nth    int // of all warm-ups of its point, from 1
}

// Run runs the experiments of a scenario and judges their expectations. Trials
// of all points of an experiment are interleaved at random under the seed;
// finished ones of an earlier attempt are left out. A trial that fails is
// recorded and the run goes on. The error is for what stopped the run: an
// expectation that does not hold is in the Verdict.
func Run(ctx context.Context, cfg RunConfig) (Verdict, error) {
	r := &runner{cfg: cfg, kinds: kinds(), began: time.Now()}
	return r.do(ctx)
}

func (r *runner) do(ctx context.Context) (Verdict, error) {
	if r.cfg.Progress == nil {
		r.cfg.Progress = func(Progress) {}
	}
	err := r.run(ctx)
	v, ferr := r.finish(ctx, err)
	if err != nil {
		return v, err
	}
	return v, ferr
}

type runner struct {
	cfg   RunConfig
	kinds map[string]kind
	began time.Time

	experiments []topo.Experiment // those to run
	schedules   [][]step
	done, total int           // steps
	spent       time.Duration // in steps that were run
	ran, failed int
	book        []labTime

	watch *watch.Watch             // nil: nothing is seen
	grade func() *metrics.Fidelity // of a trial, in tests; nil: of what the watch sees
	lab   *metrics.Fidelity        // the worst that was seen while the lab was built and removed
}

func (r *runner) run(ctx context.Context) error {
	if err := r.plan(); err != nil {
		return err
	}
	if r.nothingLeft() {
		r.done = r.total
		r.say(Progress{Phase: "skip", Message: "all trials are finished already"})
		return nil
	}
	err := r.recallBook()
	if err != nil {
		return err
	}
	if r.watch, err = watch.New(); err != nil { // a kernel that hides its counters; the grades are then unknown
		r.say(Progress{Phase: "build", Message: fmt.Sprintf("nothing watches the lab's kernel: %v", err)})
	}
	had := r.cfg.Lab.Plan()
	if had == nil {
		err = r.deploy(ctx)
	}
	if err == nil {
		err = r.all(ctx)
	}
	err = errors.Join(err, r.restore(ctx, had))
	if r.watch != nil {
		err = errors.Join(err, r.watch.Close())
	}
	return err
}

// nothingLeft tells a run that was done by earlier sessions.
func (r *runner) nothingLeft() bool {
	for i, e := range r.experiments {
		for _, s := range r.schedules[i] {
			if s.number > 0 && !r.cfg.Store.Done(e.Name, s.pt, s.number) {
				return false
			}
		}
	}
	return r.cfg.Store.Has(labExperiment, nil, 1)
}

// deploy builds the backbone by itself, so that its time and that of the LANs
// are told apart.
func (r *runner) deploy(ctx context.Context) error {
	r.say(Progress{Phase: "build", Message: "building the backbone"})
	bare := r.cfg.Plan.Restrict(func(topo.Attachment) bool { return false })
	defer r.gradeLab(r.beginWatch(ctx, labKind, nil))
	tl, err := r.cfg.Lab.Apply(ctx, bare)
	if err != nil {
		return err
	}
	r.built("backbone", bare, tl.Total())
	return nil
}

func (r *runner) built(part string, plan *topo.Plan, took time.Duration) {
	r.note(labTime{"lab.deploy", part, len(plan.Nodes), took.Seconds()})
	r.say(Progress{Phase: "build", Message: fmt.Sprintf("%s: %d nodes and %d links after %v", part, len(plan.Nodes), len(plan.Links), took.Round(time.Millisecond))})
}

// restore leaves the lab as the run found it: as it was deployed, or not there.
func (r *runner) restore(ctx context.Context, had *topo.Plan) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), restoreDeadline) // an interrupted run cleans up too
	defer cancel()
	r.say(Progress{Phase: "clean", Message: "cleaning up"})
	if had != nil {
		_, err := r.cfg.Lab.Apply(ctx, had)
		return err
	}
	nodes := 0
	if p := r.cfg.Lab.Plan(); p != nil {
		nodes = len(p.Nodes)
	}
	defer r.gradeLab(r.beginWatch(ctx, labKind, nil))
	began := time.Now()
	err := r.cfg.Lab.Destroy(ctx)
	r.note(labTime{"lab.destroy", "all", nodes, time.Since(began).Seconds()})
	return err
}

func (r *runner) all(ctx context.Context) error {
	for i, e := range r.experiments {
		if err := r.experiment(ctx, e, r.schedules[i]); err != nil {
			return fmt.Errorf("experiment %s: %w", e.Name, err)
		}
	}
	return nil
}

// plan chooses the experiments and draws the order of their trials.
func (r *runner) plan() error {
	for _, name := range r.cfg.Only {
		if !slices.ContainsFunc(r.cfg.Scenario.Experiments, func(e topo.Experiment) bool { return e.Name == name }) {
			return fmt.Errorf("scenario %s has no experiment %q", r.cfg.Scenario.Name, name)
		}
	}
	for i, e := range r.cfg.Scenario.Experiments {
		if len(r.cfg.Only) > 0 && !slices.Contains(r.cfg.Only, e.Name) {
			continue
		}
		if r.cfg.Trials > 0 {
			e.Trials = r.cfg.Trials
		}
		steps := schedule(points(r.cfg.Plan, r.kinds[e.Kind], e), e.Warmup, e.Trials, rand.New(rand.NewPCG(r.cfg.Scenario.Seed, uint64(i))))
		r.experiments = append(r.experiments, e)
		r.schedules = append(r.schedules, steps)
		r.total += len(steps)
	}
	if r.total == 0 {
		return fmt.Errorf("scenario %s has no experiments: deploy it instead of running it", r.cfg.Scenario.Name)
	}
	return nil
}

// schedule is the order of trials: the warm-ups, then as many rounds as there
// are trials, each round with every point once in an order of its own. So what
// changes slowly (the computer's load, a cache that fills) falls on all points
// alike.
func schedule(pts []point, warmups, trials int, rng *rand.Rand) (steps []step) {
	round := func(number, nth int) {
		for _, i := range rng.Perm(len(pts)) {
			steps = append(steps, step{pts[i], number, nth})
		}
	}
	for n := 1; n <= warmups; n++ {
		round(0, n)
	}
	for n := 1; n <= trials; n++ {
		round(n, n)
	}
	return steps
}

func (r *runner) experiment(ctx context.Context, e topo.Experiment, steps []step) error {
	todo := 0
	for _, s := range steps {
		if s.number > 0 && !r.cfg.Store.Done(e.Name, s.pt, s.number) {
			todo++
		}
	}
	if todo == 0 {
		r.done += len(steps)
		r.say(Progress{Phase: "skip", Experiment: e.Name, Message: "all trials are finished already"})
		return nil
	}
	r.say(Progress{Phase: "build", Experiment: e.Name, Message: "building the lab"})
	plan := r.cfg.Plan
	if !r.kinds[e.Kind].guests {
		plan = plan.WithoutGuests()
	}
	_, grade := r.beginWatch(ctx, labKind, nil)
	s, err := r.kinds[e.Kind].open(opening{
		ctx: ctx, lab: r.cfg.Lab, plan: plan, experiment: e,
		points: points(r.cfg.Plan, r.kinds[e.Kind], e), seed: r.cfg.Scenario.Seed,
		built: func(plan *topo.Plan, took time.Duration) { r.built(e.Name, plan, took) },
	})
	r.gradeLab(ctx, grade)
	if err != nil {
		return err
	}
	defer s.close()
	for _, st := range steps {
		if err := r.step(ctx, e, s, st); err != nil {
			return err
		}
	}
	return nil
}

// step runs one trial, and once more where it is void, as often as that may be:
// what spoilt it is seldom there the next time.
func (r *runner) step(ctx context.Context, e topo.Experiment, s session, st step) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if st.number > 0 && r.cfg.Store.Done(e.Name, st.pt, st.number) {
		r.done++
		return nil
	}
	for left := r.cfg.VoidRetries; ; left-- {
		again, err := r.attempt(ctx, e, s, st, left)
		if err != nil || !again {
			return err
		}
	}
}

// attempt runs one trial once. Its own failure is recorded and is no error.
func (r *runner) attempt(ctx context.Context, e topo.Experiment, s session, st step, left int) (again bool, _ error) {
	p := Progress{Phase: "trial", Experiment: e.Name, Point: st.pt, Trial: st.number}
	if st.number == 0 {
		p.Phase, p.Trial = "warm-up", st.nth
	}
	began := time.Now()
	t, err := r.cfg.Store.Begin(e.Name, st.pt, st.number)
	if err != nil {
		return false, err
	}
	defer func() { _ = t.Abandon() }() // after Commit it does nothing
	rng := rand.New(rand.NewPCG(r.cfg.Scenario.Seed, uint64(st.number)<<32|hash(metrics.PointText(st.pt))))
	watched, grade := r.beginWatch(ctx, r.kinds[e.Kind], s)
	err = s.trial(watched, st.pt, st.number, t, rng)
	fidelity := grade()
	if r.grade != nil {
		fidelity = r.grade()
	}
	if err != nil && context.Cause(ctx) != nil {
		return false, fmt.Errorf("trial %d at %s: %w", st.number, metrics.PointText(st.pt), err)
	}
	status := metrics.StatusOK
	if err != nil {
		status, p.Error = metrics.StatusFailed, err.Error()
	}
	if metrics.GradeOf(fidelity) == metrics.FidelityVoid && st.number > 0 {
		again = left > 0
		p.Void, p.Again = fidelity.Text(), again
	}
	t.SetFidelity(fidelity)
	if cerr := t.Commit(status, err); cerr != nil {
		return false, cerr
	}
	r.spent += time.Since(began)
	if !again {
		r.done++
		r.ran++
	}
	p.Message = time.Since(began).Round(time.Millisecond).String()
	r.say(p)
	if err == nil {
		return again, nil
	}
	if !again { // a failure is not believed either where nothing is
		r.failed++
	}
	if rerr := s.recover(ctx); rerr != nil {
		return false, fmt.Errorf("the lab does not come back after a trial that failed: %w", rerr)
	}
	return again, nil
}

func hash(s string) uint64 {
	h := uint64(14695981039346656037) // FNV-1a
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h & 0xffffffff
}

// say reports progress with the time spent and the estimate.
func (r *runner) say(p Progress) {
	p.Time = time.Now()
	p.Done, p.Total = r.done, r.total
	p.ElapsedS = time.Since(r.began).Seconds()
	if r.ran > 0 {
		p.RemainingS = (r.spent / time.Duration(r.ran) * time.Duration(r.total-r.done)).Seconds()
	}
	r.cfg.Progress(p)
}

// finish judges the expectations and the claims and closes the books.
func (r *runner) finish(ctx context.Context, cause error) (Verdict, error) {
	v := Verdict{Dir: r.cfg.Store.Dir(), Failed: r.failed, Status: metrics.VerdictPass}
	switch {
	case cause != nil && context.Cause(ctx) != nil:
		v.Status = metrics.VerdictInterrupted
	case cause != nil:
		v.Status = metrics.VerdictError
	}
	for _, e := range r.experiments {
		outcomes, err := r.cfg.Store.Judge(e.Name, e.Expect)
		if err != nil {
			return r.end(v, errors.Join(cause, err))
		}
		for _, o := range outcomes {
			mark := "PASS"
			if !o.Pass {
				mark = "FAIL"
				if v.Status == metrics.VerdictPass {
					v.Status = metrics.VerdictFail
				}
			}
			v.Lines = append(v.Lines, fmt.Sprintf("%s %s: %s", mark, e.Name, o.Text))
		}
		r.judgeFidelity(e.Name, &v)
	}
	if err := r.judgeClaims(&v); err != nil {
		return r.end(v, errors.Join(cause, err))
	}
	if v.Status == metrics.VerdictPass && r.failed > 0 {
		v.Status = metrics.VerdictFail
		v.Lines = append(v.Lines, fmt.Sprintf("FAIL %d of %d trials ended in an error", r.failed, r.ran))
	}
	if cause == nil {
		if err := r.bookTimes(); err != nil {
			v.Status = metrics.VerdictError
			v, ferr := r.end(v, err)
			return v, errors.Join(err, ferr)
		}
	}
	if text := r.cfg.Store.VoidText(labExperiment); text != "" {
		v.Lines = append(v.Lines, fmt.Sprintf("VOID %s: %s", labExperiment, text))
	}
	return r.end(v, cause)
}

// judgeClaims judges what the scenario claims, from all that is stored. A
// claim that does not hold fails the run as an expectation does.
func (r *runner) judgeClaims(v *Verdict) error {
	var leftOut []string
	for _, e := range r.cfg.Scenario.Experiments {
		if len(r.cfg.Only) > 0 && !slices.Contains(r.cfg.Only, e.Name) {
			leftOut = append(leftOut, e.Name)
		}
	}
	outcomes, err := r.cfg.Store.JudgeClaims(claimsOf(r.cfg.Scenario), leftOut)
	if err != nil {
		return err
	}
	v.Claims = outcomes
	for _, o := range outcomes {
		if o.Status == metrics.ClaimFail && v.Status == metrics.VerdictPass {
			v.Status = metrics.VerdictFail
		}
		v.Lines = append(v.Lines, o.Lines()...)
	}
	return nil
}

// claimsOf are a scenario's claims as they are judged.
func claimsOf(sc *topo.Scenario) (claims []metrics.Claim) {
	for _, c := range sc.Claims {
		claim := metrics.Claim{ID: c.ID, Says: c.Says}
		for _, h := range c.Holds {
			claim.Holds = append(claim.Holds, metrics.Support{Experiment: h.Name, Expect: h.Value})
		}
		for _, n := range c.Numbers {
			claim.Numbers = append(claim.Numbers, metrics.Number(n))
		}
		claims = append(claims, claim)
	}
	return claims
}

func (r *runner) end(v Verdict, cause error) (Verdict, error) {
	trials, err := r.cfg.Store.Trials()
	v.Trials = len(trials)
	v.Pass = v.Status == metrics.VerdictPass
	if rep, ferr := r.cfg.Store.Fidelity(); ferr == nil {
		v.Fidelity, v.Void = rep.Line(), rep.Trials[metrics.FidelityVoid]
	}
	if err == nil {
		err = r.cfg.Store.Finish(v.Status, cause)
	}
	if err != nil {
		v.Status, v.Pass = metrics.VerdictError, false
	}
	return v, err
}
