package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vpclab/vpclab/emu/kernel"
	"github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/plots"
	"github.com/vpclab/vpclab/scenarios"
	"github.com/vpclab/vpclab/topo"
)

// runOptions are the flags of run.
type runOptions struct {
	results string
	resume  string
	trials  int
	voids   int // attempts more at a void trial
	only    []string
	noPlots bool
	box     boxFlags
	verb    string           // and its argument, which this is a run of
	was     *metrics.RunInfo // the run that is gone on with, or repeated; nil: none
	origin  *metrics.Origin  // of the run that is repeated; nil: none
	// show prints how the run ended; showVerdict does.
	show func(cmd *cobra.Command, v scenarios.Verdict, dir string, figures []plots.Figure) error
}

func newRun() *cobra.Command {
	o := runOptions{verb: "run", show: showVerdict}
	cmd := &cobra.Command{
		Use:   "run [SCENARIO]",
		Short: "build the lab of a scenario, do its experiments, draw the figures, judge, clean up",
		Long: `Build the lab of a scenario, do its experiments in repeated trials, store what was measured, draw the figures and judge the expectations. The lab is removed at the end.

A scenario is a file, or one of the library: ` + strings.Join(scenarioNames(), ", ") + `.

Interrupted, it keeps the finished trials and draws what they give; --resume goes on from there, with the scenario as it was unless another is named.`,
		Example:           "  vpclab run vpc-setup\n  vpclab run mylab.vpclab.yml --trials 12\n  vpclab run --resume results/mylab/20260101T120000.000Z-1a2b",
		Args:              maxArgs(1),
		ValidArgsFunction: completeScenarios,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.recall(cmd); err != nil {
				return err
			}
			sc, plan, err := o.scenario(args)
			if err != nil {
				return err
			}
			if len(sc.Experiments) == 0 {
				return usageError{fmt.Errorf("%s has no experiments: vpclab deploy builds its lab", sc.File)}
			}
			if err := need(cmd.Context(), plan, sc.Experiments...); err != nil {
				return err
			}
			return run(cmd, sc, plan, o)
		},
	}
	o.addTo(cmd)
	cmd.Flags().StringVar(&o.resume, "resume", "", "folder of an interrupted run to go on with")
	return cmd
}

// addTo gives a verb that runs experiments its flags. What is set by them is
// kept in run.json, so that the run can be gone on with and repeated: see
// recordFlags.
func (o *runOptions) addTo(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.results, "results", "results", "folder for results: a run writes into <scenario>/<run-id>/ there")
	f.IntVar(&o.trials, "trials", 0, "trials of each point, instead of what the scenario says")
	f.IntVar(&o.voids, "void-retries", 2, "attempts more at a trial during which the emulation did not keep its promises")
	f.StringSliceVar(&o.only, "experiment", nil, "only these experiments; claims on others are open")
	f.BoolVar(&o.noPlots, "no-plots", false, "draw no figures and no report")
	o.box.addTo(cmd)
}

// scenario is what the user named, or what the run to go on with was given.
func (o runOptions) scenario(args []string) (*topo.Scenario, *topo.Plan, error) {
	if o.was == nil || len(args) > 0 || global.topo != "" {
		return scenario(args)
	}
	return scenarioOf(*o.was)
}

// goOn is the command that does what an interrupted run has left.
func (o runOptions) goOn(dir string) string {
	cmd := "vpclab " + o.verb + " --resume " + dir
	if o.trials > 0 {
		cmd += fmt.Sprintf(" --trials %d", o.trials)
	}
	for _, e := range o.only {
		cmd += " --experiment " + e
	}
	return cmd
}

// run is the main job: boot, measure, end the kernel, draw, judge.
func run(cmd *cobra.Command, sc *topo.Scenario, plan *topo.Plan, o runOptions) error {
	if _, err := o.box.virtual(global.kernel); err != nil {
		return err
	}
	ctx, cancel := limited(cmd)
	defer cancel()
	p := newProgress(os.Stderr)
	defer p.end()
	req, dir, err := runRequest(cmd, sc, o)
	if err != nil {
		return err
	}
	hold, err := holdFolder(ctx, sc, req, p)
	if err != nil {
		return err
	}
	defer func() {
		if e := hold.Release(); e != nil {
			slog.Warn("let go of the results folder", "error", e)
		}
	}()
	verdict, err := measure(ctx, sc, plan, o, req, hold, p)
	if err = settle(ctx, dir, err); err != nil && ctx.Err() == nil {
		if _, open := metrics.Open(dir); open == nil {
			err = fmt.Errorf("%w\nwhat was measured is in %s", err, dir)
		}
		return err
	}
	p.show("figures", "figures", 0)
	figures, drawErr := drawRun(dir, sc.Figures, o.noPlots)
	p.end()
	if ctx.Err() != nil {
		fmt.Fprintf(os.Stderr, "vpclab: interrupted; finished trials are kept in %s\n  go on: %s\n", dir, o.goOn(dir))
		return errors.Join(context.Cause(ctx), drawErr)
	}
	if drawErr != nil {
		return drawErr
	}
	if o.origin == nil {
		return o.show(cmd, verdict, dir, figures)
	}
	same, err := o.compareWithOrigin(dir)
	return errors.Join(same, err, o.show(cmd, verdict, dir, figures))
}

// kernelEnd is how long the kernel of a command that was killed may take to end.
const kernelEnd = 30 * time.Second

// holdFolder takes the run's folder for this process and the kernel that it
// will boot.
func holdFolder(ctx context.Context, sc *topo.Scenario, req scenarios.Request, p *progress) (*metrics.Hold, error) {
	if req.Resume == "" {
		return metrics.HoldNew(req.Results, sc.Name, req.Info.ID)
	}
	p.show("hold", "waiting for the folder of the run", 0)
	ctx, cancel := context.WithTimeoutCause(ctx, kernelEnd, fmt.Errorf("it has not ended in %v", kernelEnd))
	defer cancel()
	return metrics.HoldRun(ctx, req.Resume)
}

// runRequest is what the lab daemon is asked for, and the run's folder.
func runRequest(cmd *cobra.Command, sc *topo.Scenario, o runOptions) (req scenarios.Request, dir string, err error) {
	if req.Results, err = filepath.Abs(o.results); err != nil {
		return req, "", usageError{err}
	}
	if err := os.MkdirAll(req.Results, 0o755); err != nil {
		return req, "", fmt.Errorf("results folder: %w", err)
	}
	req.File, req.Source, req.Name, req.Seed, req.Only, req.Trials = sc.File, sc.Source, sc.Name, &sc.Seed, o.only, o.trials
	req.VoidRetries = o.voids
	req.Info = metrics.RunInfo{
		ID: metrics.NewRunID(time.Now()), Started: time.Now(), Args: os.Args[1:], PID: os.Getpid(),
		Version: version, Versions: versions(), Host: hostInfo(),
		Verb: o.verb, Flags: recordFlags(cmd), Origin: o.origin,
	}
	if o.resume == "" {
		return req, filepath.Join(req.Results, sc.Name, req.Info.ID), nil
	}
	if req.Resume, err = filepath.Abs(o.resume); err != nil {
		return req, "", usageError{err}
	}
	if _, err := metrics.Open(req.Resume); err != nil {
		return req, "", usageError{err}
	}
	return req, req.Resume, nil
}

// measure boots the kernel, has the experiments done inside, and ends the
// kernel, whatever happens.
func measure(ctx context.Context, sc *topo.Scenario, plan *topo.Plan, o runOptions, req scenarios.Request, hold *metrics.Hold, p *progress) (v scenarios.Verdict, err error) {
	if virtual, err := o.box.virtual(global.kernel); err != nil {
		return v, err
	} else if virtual {
		return measureBoxed(ctx, sc, plan, o, req, p)
	}
	s, err := substrate()
	if err != nil {
		return v, err
	}
	p.show("kernel", "choosing a kernel", 0)
	if s, err = kernel.Choose(ctx, s); err != nil {
		return v, err
	}
	home, err := lab.DefaultHome()
	if err != nil {
		return v, err
	}
	writable := []string{req.Results}
	if req.Resume != "" {
		writable = append(writable, req.Resume)
	}
	p.show("boot", "starting kernel "+string(s), 0)
	program := programDigest()
	kcfg := kernelFor(plan.Lab, s, int64(sc.Kernel.Memory), writable...)
	kcfg.Held = hold.Files()
	h, err := lab.Hold(ctx, lab.HoldConfig{
		Home: home, Lab: instanceName(home, plan.Lab, s), Verb: "run", File: sc.File, Version: version,
		Kernel: kcfg, Log: slog.Default(),
	})
	if err != nil {
		return v, err
	}
	defer func() {
		if e := h.Close(); e != nil && err == nil {
			err = e
		}
	}()
	client := h.Client()
	status, err := client.Status(ctx)
	if err != nil {
		return v, err
	}
	req.Info.Kernel = metrics.KernelInfo{Substrate: status.Substrate, Release: status.Kernel, Clock: "monotonic", CPUs: status.CPUs, MemoryMiB: status.MemoryMiB}
	if req.Info.Kernel.Image, err = imageDigest(h.Machine.Image); err != nil {
		return v, err
	}
	if req.Info.Program, err = program(); err != nil {
		return v, err
	}
	o.notice(req.Info, p)
	return scenarios.Post(ctx, client.HTTP(), client.URL(runPath), req, func(pr scenarios.Progress) { showProgress(p, pr) })
}

// instanceName is the name under which a run is known to other verbs. On the
// host's kernel it must be the lab's, because its objects carry that; a booted
// kernel is a world of its own, and the same lab may run twice.
func instanceName(home *lab.Home, name string, s kernel.Substrate) string {
	if s != kernel.Host && home.Alive(name) {
		return fmt.Sprintf("%s-%d", name, os.Getpid())
	}
	return name
}

// showProgress puts a step of the experiments on the line.
func showProgress(p *progress, pr scenarios.Progress) {
	words := []string{pr.Phase}
	if pr.Experiment != "" {
		words = append(words, pr.Experiment)
	}
	if len(pr.Point) > 0 {
		words = append(words, metrics.PointText(pr.Point))
	}
	if pr.Total > 0 {
		words = append(words, fmt.Sprintf("%d/%d", pr.Done, pr.Total))
	}
	if pr.Message != "" {
		words = append(words, pr.Message)
	}
	text := strings.Join(words, " ")
	if pr.Void != "" {
		what := "it is left out of all numbers"
		if pr.Again {
			what = "it is made again"
		}
		p.note(fmt.Sprintf("vpclab: %s: %s; %s", text, pr.Void, what))
	}
	if pr.Error != "" {
		p.note(fmt.Sprintf("vpclab: %s: %s", text, pr.Error))
		return
	}
	p.show(text, text, time.Duration(pr.RemainingS*float64(time.Second)))
}

// settle closes the books of a run that did not come to its end by itself.
func settle(ctx context.Context, dir string, cause error) error {
	store, err := metrics.Open(dir)
	if err != nil { // it never began
		return errors.Join(cause)
	}
	if e := store.NoteLoad(loadAverage()); e != nil && cause == nil {
		return e
	}
	if store.Info().Verdict != metrics.VerdictRunning {
		return cause
	}
	verdict := metrics.VerdictError
	if ctx.Err() != nil {
		verdict, cause = metrics.VerdictInterrupted, context.Cause(ctx)
	}
	if e := store.Finish(verdict, cause); e != nil {
		return errors.Join(cause, e)
	}
	return cause
}

// drawRun draws the figures and the report from what is stored.
func drawRun(dir string, names []string, skip bool) ([]plots.Figure, error) {
	if skip {
		return nil, nil
	}
	store, err := metrics.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // interrupted before there was anything
	}
	if err != nil {
		return nil, err
	}
	if trials, err := store.Trials(); err != nil || len(trials) == 0 {
		return nil, err // nothing to draw
	}
	figures, err := plots.Draw(dir, names)
	if err != nil {
		return nil, err
	}
	return figures, plots.Report(dir)
}

// showVerdict prints how the run ended; a failed expectation is exit code 1.
func showVerdict(cmd *cobra.Command, v scenarios.Verdict, dir string, figures []plots.Figure) error {
	if jsonOutput() {
		if err := printJSON(cmd, map[string]any{"verdict": v, "dir": dir, "figures": figures}); err != nil {
			return err
		}
		return verdictCode(v)
	}
	w := cmd.OutOrStdout()
	for _, line := range v.Lines {
		fmt.Fprintln(w, line)
	}
	fmt.Fprintf(w, "%s: %d trials", v.Status, v.Trials)
	if v.Failed > 0 {
		fmt.Fprintf(w, ", %d failed", v.Failed)
	}
	if v.Void > 0 {
		fmt.Fprintf(w, ", %d void and left out", v.Void)
	}
	if len(v.Claims) > 0 {
		hold := 0
		for _, c := range v.Claims {
			if c.Status == metrics.ClaimPass {
				hold++
			}
		}
		fmt.Fprintf(w, ", %d of %d claims hold", hold, len(v.Claims))
	}
	fmt.Fprintln(w)
	if v.Fidelity != "" {
		fmt.Fprintln(w, v.Fidelity)
	}
	showFigures(w, dir, figures)
	fmt.Fprintf(w, "results: %s\n", dir)
	return verdictCode(v)
}

func verdictCode(v scenarios.Verdict) error {
	if v.Pass {
		return nil
	}
	return exitCode(exitFailed)
}
