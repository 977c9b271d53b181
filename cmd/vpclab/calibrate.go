package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vpclab/vpclab/emu/fidelity"
	"github.com/vpclab/vpclab/emu/kernel"
	"github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/plots"
	"github.com/vpclab/vpclab/topo"
)

// calibrateOptions are the flags of calibrate.
type calibrateOptions struct {
	fidelity.Request
	from, upTo string
	out, show  string
	markdown   bool
	box        boxFlags
}

// calibrateMemory is for the largest graph of routers, and for what waits in
// queues.
const calibrateMemory = 2 << 30

func newCalibrate() *cobra.Command {
	var o calibrateOptions
	cmd := &cobra.Command{
		Use:   "calibrate",
		Short: "measure whether links, queues, timers and labels are what a scenario asks for, on this machine",
		Long: `Boot the kernel, build small labs in it, and measure whether they are what was asked for:

` + fidelity.Describe() + `
Every measurement is held against a bar: PASS within it, WARN within twice of it, VOID beyond. What is VOID, experiments on this kernel cannot be trusted
with. The bars and the method are explained in docs/fidelity.md.

Exit code 0: nothing is void. 1: something is.`,
		Example: "  vpclab calibrate --quick\n  vpclab calibrate --kernel uml --only F1,F2 --up-to 500mbit --out calibration\n  vpclab calibrate --clock virtual --up-to 10gbit",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.show != "" {
				c, err := metrics.ReadCalibration(o.show)
				if err != nil {
					return usageError{err}
				}
				return printCalibration(cmd, c, o.markdown)
			}
			var err error
			if o.UpTo, err = topo.ParseRate(o.upTo); err != nil {
				return usageError{fmt.Errorf("--up-to: %w", err)}
			}
			if o.From, err = topo.ParseRate(o.from); err != nil {
				return usageError{fmt.Errorf("--from: %w", err)}
			}
			for i, name := range o.Only {
				o.Only[i] = strings.ToUpper(name)
			}
			if err := o.Check(); err != nil {
				return usageError{err}
			}
			return calibrate(cmd, o)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.Quick, "quick", false, "short runs, in about a minute")
	f.StringSliceVar(&o.Only, "only", nil, "only these tests: "+strings.Join(fidelity.Tests(), ", "))
	f.StringVar(&o.from, "from", "1kbit", "slowest rate to measure")
	f.StringVar(&o.upTo, "up-to", "1gbit", "fastest rate to measure")
	f.StringVar(&o.Peer, "peer", "", "measure the links of this one beside: mininet")
	o.box.addTo(cmd)
	f.StringVar(&o.show, "show", "", "print the calibration in this folder, and measure nothing")
	f.BoolVar(&o.markdown, "markdown", false, "print tables in Markdown")
	f.StringVar(&o.out, "out", "", "folder for "+metrics.CalibrationFile+" and figures (default: none is written)")
	complete(cmd, "only", func(string) []string { return fidelity.Tests() })
	complete(cmd, "peer", func(string) []string { return []string{"mininet"} })
	return cmd
}

// calibrate boots the kernel, measures, prints and judges.
func calibrate(cmd *cobra.Command, o calibrateOptions) error {
	ctx, cancel := limited(cmd)
	defer cancel()
	p := newProgress(os.Stderr)
	defer p.end()
	virtual, err := o.box.virtual(global.kernel)
	if err != nil {
		return err
	}
	once := func(req fidelity.Request, boot uint64) (*metrics.Calibration, error) {
		if virtual { // another seed, or the second box would do the same to the bit
			return calibrateBoxed(ctx, o, req, o.box.seed+boot, p)
		}
		return calibrateOnce(ctx, req, p)
	}
	c, err := once(o.Request, 0)
	if c == nil {
		return err
	}
	if err == nil && fidelity.WantsTwice(o.Request) {
		err = calibrateTwice(c, func() (*metrics.Calibration, error) { return once(fidelity.Again(o.Request), 1) })
	}
	p.end()
	c.Host.LoadEnd = loadAverage()
	if e := showCalibration(cmd, c, o); e != nil && err == nil {
		return e
	}
	if err == nil && !fidelity.Pass(c) {
		return exitCode(exitFailed)
	}
	return err
}

// calibrateOnce measures in one boot of the kernel.
func calibrateOnce(ctx context.Context, req fidelity.Request, p *progress) (c *metrics.Calibration, err error) {
	s, err := substrate()
	if err != nil {
		return nil, err
	}
	p.show("kernel", "choosing a kernel", 0)
	if s, err = kernel.Choose(ctx, s); err != nil {
		return nil, err
	}
	home, err := lab.DefaultHome()
	if err != nil {
		return nil, err
	}
	p.show("boot", "starting kernel "+string(s), 0)
	h, err := lab.Hold(ctx, lab.HoldConfig{
		Home: home, Lab: instanceName(home, fidelity.Name, s), Verb: "calibrate", Version: version,
		Kernel: kernelFor(fidelity.Name, s, calibrateMemory), Log: slog.Default(),
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if e := h.Close(); e != nil && err == nil {
			err = e
		}
	}()
	client := h.Client()
	status, err := client.Status(ctx)
	if err != nil {
		return nil, err
	}
	host := hostInfo()
	c, err = fidelity.Post(ctx, client.HTTP(), client.URL(fidelity.Path), req, func(text string) { p.show(text, text, 0) })
	if c != nil {
		c.Version, c.Args, c.Host = version, os.Args[1:], host
		c.Kernel = metrics.KernelInfo{Substrate: status.Substrate, Release: status.Kernel, Clock: "monotonic", CPUs: status.CPUs, MemoryMiB: status.MemoryMiB}
	}
	return c, err
}

// calibrateTwice boots the kernel once more and holds what is then measured
// against the first time.
func calibrateTwice(c *metrics.Calibration, once func() (*metrics.Calibration, error)) error {
	if c.Kernel.Substrate == string(kernel.Host) {
		c.Results = append(c.Results, fidelity.NotTwice("this machine's own kernel cannot be booted twice"))
		return nil
	}
	again, err := once()
	if err != nil {
		return fmt.Errorf("the second boot: %w", err)
	}
	c.Results = append(c.Results, fidelity.Twice(c, again)...)
	c.TookS += again.TookS
	return nil
}

// showCalibration leaves what was measured in a folder, if there is one, and
// prints it.
func showCalibration(cmd *cobra.Command, c *metrics.Calibration, o calibrateOptions) error {
	if o.out == "" {
		return printCalibration(cmd, c, o.markdown)
	}
	if err := metrics.WriteCalibration(o.out, c); err != nil {
		return err
	}
	figures, err := plots.DrawCalibration(o.out)
	if err != nil {
		return err
	}
	if err := printCalibration(cmd, c, o.markdown); err != nil || jsonOutput() {
		return err
	}
	showFigures(cmd.OutOrStdout(), o.out, figures)
	fmt.Fprintf(cmd.OutOrStdout(), "written: %s\n", filepath.Join(o.out, metrics.CalibrationFile))
	return nil
}

// printCalibration prints the tables, and what they were measured on.
func printCalibration(cmd *cobra.Command, c *metrics.Calibration, markdown bool) error {
	if jsonOutput() {
		return printJSON(cmd, c)
	}
	w := cmd.OutOrStdout()
	if markdown {
		fidelity.Markdown(w, c)
	} else {
		fidelity.Text(w, c)
	}
	fmt.Fprintf(w, "kernel %s %s, clock %s, %d CPU, load %.1f to %.1f, %v, %s\n", c.Kernel.Substrate, c.Kernel.Release, c.Kernel.Clock, c.Kernel.CPUs,
		c.Host.LoadMin, c.Host.LoadEnd, time.Duration(c.TookS*float64(time.Second)).Round(100*time.Millisecond), c.Started.Format(time.DateOnly))
	return nil
}

// newLoad makes the hidden verb that calibrate starts in nodes.
func newLoad() *cobra.Command {
	return &cobra.Command{
		Use:    fidelity.LoadVerb,
		Short:  "compute for a while and say what one got of the CPU (started by calibrate)",
		Hidden: true,
		Args:   noArgs,
		RunE:   func(*cobra.Command, []string) error { return fidelity.Load(os.Stdin, os.Stdout) },
	}
}
