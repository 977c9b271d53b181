package scenarios

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/bgp"
	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/guest"
	emulab "github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/topo"
)

// noLab is a lab that holds nothing and notes what is done to it.
type noLab struct {
	plan     *topo.Plan
	done     []string
	occupied atomic.Bool
}

func (l *noLab) Occupy() (leave func(), err error) {
	if !l.occupied.CompareAndSwap(false, true) {
		return nil, emulab.ErrBusy
	}
	return func() { l.occupied.Store(false) }, nil
}

func (l *noLab) Apply(_ context.Context, p *topo.Plan) (*emulab.Timeline, error) {
	l.plan = p
	l.done = append(l.done, fmt.Sprintf("apply %d attachments", len(p.Attachments())))
	return &emulab.Timeline{}, nil
}
func (l *noLab) ApplyWith(ctx context.Context, p *topo.Plan, _ emulab.ApplyOptions) (*emulab.Timeline, error) {
	return l.Apply(ctx, p)
}
func (l *noLab) Operate(ctx context.Context, op topo.Operation, _ emulab.ApplyOptions) (*emulab.Timeline, error) {
	plan, err := l.plan.Do(op)
	if err != nil {
		return nil, err
	}
	return l.Apply(ctx, plan)
}
func (l *noLab) Migrate(context.Context, emulab.MigrateRequest) (*emulab.Migration, error) {
	return nil, errors.New("nothing moves here")
}
func (l *noLab) GuestStatus(context.Context, string) (guest.Status, error) {
	return guest.Status{}, errors.New("nothing runs here")
}
func (l *noLab) Destroy(context.Context) error {
	l.plan = nil
	l.done = append(l.done, "destroy")
	return nil
}
func (l *noLab) Inject(_ context.Context, f topo.Fault) (*emulab.Injected, error) {
	l.done = append(l.done, "inject "+f.Kind)
	return nil, errors.New("there is nothing to break")
}
func (l *noLab) Awake(context.Context) error      { return nil }
func (l *noLab) UndoFaults(context.Context) error { return nil }
func (l *noLab) Whole(context.Context) error      { return nil }
func (l *noLab) SwitchOver(_ context.Context, vm string) (*emulab.SwitchedOver, error) {
	return nil, fmt.Errorf("%s has no standby", vm)
}
func (l *noLab) PairStatus(_ context.Context, vm string) (*emulab.PairStatus, error) {
	return nil, fmt.Errorf("%s has no standby", vm)
}
func (l *noLab) Plan() *topo.Plan                { return l.plan }
func (l *noLab) Fabric() *fabric.Fabric          { return nil }
func (l *noLab) Configs() map[string]bgp.Config  { return nil }
func (l *noLab) Subscribe() *emulab.Subscription { return nil }
func (l *noLab) LostEvents() int                 { return 0 }

// scripted is a session whose trials do what a test says.
type scripted struct {
	trials     []string // as they came: "sites=2/1"
	do         func(at string) error
	recovered  int
	failRepair bool
}

func (s *scripted) trial(_ context.Context, pt point, _ int, t *metrics.Trial, _ *rand.Rand) error {
	at := fmt.Sprintf("%s/%d", pt["sites"], len(s.trials))
	s.trials = append(s.trials, at)
	t.Add("setup.leaks", "count", 0, nil)
	if s.do != nil {
		return s.do(at)
	}
	return nil
}
func (s *scripted) recover(context.Context) error {
	s.recovered++
	if s.failRepair {
		return errors.New("still broken")
	}
	return nil
}
func (s *scripted) close() {}

// believed is the grade of trials whose test is not about the machine it runs on.
func believed() *metrics.Fidelity { return &metrics.Fidelity{Grade: metrics.FidelityPass} }

// scriptedRun prepares a run of three points, four trials each and one
// warm-up, in dir.
func scriptedRun(t *testing.T, dir string, s *scripted) (*runner, *noLab) {
	t.Helper()
	sc, plan, err := Parse("demo.vpclab.yml", []byte(`name: demo
generate: {backbone: star, pe: 3, sites: 4, tenants: 1}
experiments:
  - {kind: vpc-setup, vary: {sites: [2, 3, 4]}, trials: 4, warmup: 1, expect: [setup.leaks == 0]}
`))
	require.NoError(t, err)
	store, err := metrics.Open(filepath.Join(dir, "demo", "run"))
	if err != nil {
		store, err = metrics.Create(dir, metrics.RunInfo{Scenario: "demo", ID: "run", Source: string(sc.Source), Seed: sc.Seed})
	}
	require.NoError(t, err)
	l := &noLab{}
	k := vpcSetup()
	k.open = func(opening) (session, error) { return s, nil }
	return &runner{cfg: RunConfig{Lab: l, Scenario: sc, Plan: plan, Store: store, Progress: func(Progress) {}}, kinds: map[string]kind{"vpc-setup": k}, grade: believed}, l
}

func TestScheduleInterleavesUnderTheSeed(t *testing.T) {
	pts := []point{{"sites": "2"}, {"sites": "3"}, {"sites": "4"}, {"sites": "5"}}
	order := func(seed uint64) (out []string) {
		for _, s := range schedule(pts, 1, 3, rand.New(rand.NewPCG(seed, 0))) {
			out = append(out, fmt.Sprintf("%s/%d", s.pt["sites"], s.number))
		}
		return out
	}
	got := order(1)
	require.Equal(t, got, order(1), "the same seed gives the same order")
	require.NotEqual(t, got, order(2))
	require.Len(t, got, 16)
	for round := range 4 {
		for i := range 4 {
			want := fmt.Sprintf("/%d", round) // warm-ups are number 0 and come first
			require.True(t, strings.HasSuffix(got[round*4+i], want), "step %d is %s, want one of trial %d", round*4+i, got[round*4+i], round)
		}
		sorted := slices.Sorted(slices.Values(got[round*4 : round*4+4]))
		require.Len(t, slices.Compact(sorted), 4, "each round has each point once")
	}
}

func TestRunRecordsAFailureAndGoesOn(t *testing.T) {
	s := &scripted{do: func(at string) error {
		if strings.HasSuffix(at, "/5") {
			return errors.New("the fifth fails")
		}
		return nil
	}}
	r, l := scriptedRun(t, t.TempDir(), s)
	v, err := r.do(t.Context())
	require.NoError(t, err)
	require.Len(t, s.trials, 15, "3 points, 4 trials and a warm-up each")
	require.Equal(t, 1, s.recovered)
	require.Equal(t, metrics.VerdictFail, v.Status)
	require.Equal(t, 1, v.Failed)
	require.Contains(t, strings.Join(v.Lines, "\n"), "1 of 15 trials ended in an error")
	require.Equal(t, []string{"apply 0 attachments", "destroy"}, l.done, "the backbone was built and the lab removed")
	require.Equal(t, metrics.VerdictFail, r.cfg.Store.Info().Verdict)
}

func TestClaimsDecideARun(t *testing.T) {
	r, _ := scriptedRun(t, t.TempDir(), &scripted{})
	holds := func(texts ...string) topo.Map[[]string] {
		return topo.Map[[]string]{{Name: "vpc-setup", Value: texts}}
	}
	r.cfg.Scenario.Claims = []topo.Claim{
		{ID: "C1", Says: "Nothing leaks.", Holds: holds("setup.leaks == 0", "setup.leaks.n >= 4")},
		{ID: "C2", Says: "Something leaks.", Holds: holds("setup.leaks > 0")},
	}
	v, err := r.do(t.Context())
	require.NoError(t, err)
	require.Equal(t, metrics.VerdictFail, v.Status)
	text := strings.Join(v.Lines, "\n")
	require.Contains(t, text, "PASS C1: Nothing leaks.\n  PASS vpc-setup: setup.leaks (every sample) 0 == 0, n=4, worst of 3 points: machines=1 sites=2")
	require.Contains(t, text, "FAIL C2: Something leaks.\n  FAIL vpc-setup: setup.leaks (every sample, the worst) 0 is not > 0")
	require.Len(t, r.cfg.Store.Info().Claims, 2, "the report has them")
}

func TestResumeLeavesOutWhatIsDone(t *testing.T) {
	dir := t.TempDir()
	ctx, stop := context.WithCancelCause(t.Context())
	first := &scripted{}
	first.do = func(string) error {
		if len(first.trials) == 8 { // 3 warm-ups, 4 trials, and this one
			stop(errors.New("interrupted by the user"))
			return context.Cause(ctx)
		}
		return nil
	}
	r, l := scriptedRun(t, dir, first)
	v, err := r.do(ctx)
	require.ErrorContains(t, err, "interrupted by the user")
	require.Equal(t, metrics.VerdictInterrupted, v.Status)
	require.Contains(t, l.done, "destroy", "an interrupted run removes its lab")
	require.Equal(t, metrics.VerdictInterrupted, r.cfg.Store.Info().Verdict)

	require.False(t, r.cfg.Store.Done(labExperiment, nil, 1), "the lab's times are of a whole run")
	r.note(labTime{Metric: "lab.deploy", Part: "an experiment that is done", Nodes: 3, Took: 1})

	second := &scripted{}
	r, _ = scriptedRun(t, dir, second)
	v, err = r.do(t.Context())
	require.NoError(t, err)
	require.Len(t, second.trials, 3+12-4, "warm-ups again, and the trials that were missing")
	require.Equal(t, metrics.VerdictPass, v.Status)
	samples, err := r.cfg.Store.Samples()
	require.NoError(t, err)
	parts := map[string]int{}
	for _, s := range samples {
		if s.Experiment == labExperiment {
			parts[s.Metric+" "+s.Labels["part"]]++
		}
	}
	require.Equal(t, map[string]int{"lab.deploy backbone": 1, "lab.deploy an experiment that is done": 1, "lab.destroy all": 1}, parts)
	require.NoFileExists(t, filepath.Join(r.cfg.Store.Dir(), labBook))

	third := &scripted{}
	r, l = scriptedRun(t, dir, third)
	_, err = r.do(t.Context())
	require.NoError(t, err)
	require.Empty(t, l.done, "no lab is built for nothing")
	require.Empty(t, third.trials, "nothing is left to do")
}

func TestRunGivesUpWhenTheLabStaysBroken(t *testing.T) {
	s := &scripted{do: func(string) error { return errors.New("no") }, failRepair: true}
	r, _ := scriptedRun(t, t.TempDir(), s)
	v, err := r.do(t.Context())
	require.ErrorContains(t, err, "still broken")
	require.Len(t, s.trials, 1)
	require.Equal(t, metrics.VerdictError, v.Status)
}

func TestRunPutsBackADeployedLab(t *testing.T) {
	r, l := scriptedRun(t, t.TempDir(), &scripted{})
	l.plan = r.cfg.Plan
	_, err := r.do(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"apply 4 attachments"}, l.done)
}
