package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/metrics/compare"
	"github.com/vpclab/vpclab/plots"
)

// baselines is where `vpclab baseline` keeps results.
const baselines = compare.Baselines("results/baselines")

// compareFlags are the flags of all verbs that compare.
type compareFlags struct {
	options   compare.Options
	threshold string
	tolerance string
	all       bool
	strict    bool
	bisect    bool
	out       string
	figure    string
	junit     string
	markdown  string
}

// compareFormats are what --format knows in these verbs.
const compareFormats = "table json markdown junit"

func (c *compareFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringSliceVar(&c.options.Metrics, "metric", nil, "metrics that decide, as migration.total or migration.* (default: headlines and what the scenario's expectations compare)")
	f.StringVar(&c.threshold, "threshold", "3%", "change of a time or rate that must not slip through")
	f.StringVar(&c.tolerance, "counter-tolerance", "", "judge counters alone by how much worse they are, as 0 or 1% (default: 0 for those that were the same in every trial on the virtual clock; others are statistics)")
	f.Float64Var(&c.options.Alpha, "alpha", 0.05, "probability of a false alarm over all that decides")
	f.BoolVar(&c.options.Estimate, "estimate", false, "a change must be estimated as large as the threshold; else its interval must reach it")
	f.StringSliceVar(&c.options.Lower, "lower", nil, "metrics of which less is better")
	f.StringSliceVar(&c.options.Higher, "higher", nil, "metrics of which more is better")
	f.StringSliceVar(&c.options.Neither, "neither", nil, "metrics of which neither is")
	f.BoolVar(&c.options.Force, "force", false, "compare what is not comparable: other scenarios, kernels or clocks")
	f.BoolVar(&c.all, "all", false, "show also what is the same")
	f.BoolVar(&c.strict, "strict", false, "exit with 1 where nothing is worse but something that decides could not be judged")
	f.BoolVar(&c.bisect, "bisect", false, "exit codes for git bisect run: 0 good, 4 bad, 125 cannot tell, 128 wrong usage")
	f.StringVar(&c.out, "out", "", "write to this file instead of standard output")
	f.StringVar(&c.figure, "figure", "", "draw the changes with their intervals, as SVG or PNG by the name's end")
	f.StringVar(&c.junit, "junit", "", "write JUnit XML to this file as well")
	f.StringVar(&c.markdown, "markdown", "", "write Markdown to this file as well")
	allowFormats(cmd, compareFormats)
}

// parsed are the options with what was given as text.
func (c *compareFlags) parsed() (compare.Options, error) {
	o := c.options
	var err error
	if o.Threshold, err = share("threshold", c.threshold); err != nil {
		return o, err
	}
	if o.Threshold == 0 {
		return o, usageError{errors.New("--threshold 0: every significant change, however small, would be a regression: write a share, as 0.1%")}
	}
	if o.Alpha <= 0 || o.Alpha >= 1 {
		return o, usageError{fmt.Errorf("--alpha %g: want a probability between 0 and 1", o.Alpha)}
	}
	if c.tolerance != "" {
		v, err := share("counter-tolerance", c.tolerance)
		if err != nil {
			return o, err
		}
		o.Tolerance = &v
	}
	if ext := strings.ToLower(filepath.Ext(c.figure)); c.figure != "" && ext != ".svg" && ext != ".png" {
		return o, usageError{fmt.Errorf("--figure %s: want a name that ends in .svg or .png", c.figure)}
	}
	return o, nil
}

// share reads a share as people write it: 3%, 0.03.
func share(flag, text string) (float64, error) {
	v, err := metrics.ParseShare(text)
	if err != nil || v < 0 {
		return 0, usageError{fmt.Errorf("--%s %q: want a share, as 3%% or 0.03", flag, text)}
	}
	return v, nil
}

// show writes what came of a comparison where it is wanted, and gives the exit
// code as an error.
func (c *compareFlags) show(cmd *cobra.Command, r compare.Report) error {
	if err := c.write(cmd, func(w io.Writer) error {
		switch global.format {
		case "json":
			return encodeJSON(w, r)
		case "markdown":
			return r.WriteMarkdown(w, c.all)
		case "junit":
			return r.WriteJUnit(w)
		}
		return r.WriteText(w, c.all)
	}); err != nil {
		return err
	}
	for path, write := range map[string]func(io.Writer) error{
		c.junit:    r.WriteJUnit,
		c.markdown: func(w io.Writer) error { return r.WriteMarkdown(w, c.all) },
	} {
		if path != "" {
			if err := toFile(path, write); err != nil {
				return err
			}
		}
	}
	if c.figure != "" {
		if err := plots.Shifts(r, c.figure); err != nil {
			return err
		}
	}
	switch {
	case r.Verdict == compare.Regression:
		return exitCode(exitRegression)
	case r.Verdict == compare.Undecided && c.bisect:
		return exitCode(exitSkip)
	case r.Verdict == compare.Undecided && c.strict:
		return exitCode(exitFailed)
	}
	return nil
}

// write writes to --out or standard output.
func (c *compareFlags) write(cmd *cobra.Command, fn func(io.Writer) error) error {
	if c.out == "" {
		return fn(cmd.OutOrStdout())
	}
	return toFile(c.out, fn)
}

func toFile(path string, fn func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(fn(f), f.Close())
}

// forBisect turns exit codes into those that git bisect run understands: from 1
// to 127 is bad, but for 125, and anything above ends the search.
func (c *compareFlags) forBisect(err error) error {
	var code exitCode
	switch {
	case !c.bisect || err == nil || errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &code) && (code == exitRegression || code == exitSkip):
		return err
	}
	fmt.Fprintln(os.Stderr, "vpclab:", err)
	if isUsage(err) {
		return exitCode(exitAbort)
	}
	return exitCode(exitSkip)
}

func newCompare() *cobra.Command {
	var c compareFlags
	var resample string
	draws, seed := 1000, uint64(1)
	cmd := &cobra.Command{
		Use:   "compare OLD NEW",
		Short: "tell whether new results are worse than old ones; exit code 4 where they are",
		Long: `Compare the results of two versions: counters that owe nothing to chance first, then times, rates and what else varies by exact tests, with Holm's correction over the metrics that decide. A regression is a change for the worse that is significant and as large as the threshold, as far as its interval tells; then the exit code is 4.

OLD and NEW are each the folder of a run, a folder with runs of one scenario, or the name of a baseline (vpclab baseline save). What cannot be decided is said, with the number of trials that it takes, and --strict makes it an exit code. Void trials are left out.

With --aa RUN nothing is compared but one run with itself, in random halves: how often is a difference found where there is none?`,
		Example: "  vpclab compare main results/wan-migration/20260101T120000.000Z-1a2b\n  vpclab compare --format markdown --figure shifts.svg results/old results/new\n  vpclab compare --aa results/wan-migration",
		Args: func(cmd *cobra.Command, args []string) error {
			if resample != "" {
				return noArgs(cmd, args)
			}
			return exactArgs(2)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.forBisect(func() error {
				if resample != "" {
					return c.resample(cmd, resample, draws, seed)
				}
				return c.compare(cmd, args[0], args[1])
			}())
		},
	}
	c.add(cmd)
	f := cmd.Flags()
	f.StringVar(&resample, "aa", "", "compare random halves of one run's trials, and count false alarms")
	f.IntVar(&draws, "draws", draws, "of --aa: how many halves are drawn")
	f.Uint64Var(&seed, "seed", seed, "of --aa: of the draws")
	return cmd
}

func (c *compareFlags) compare(cmd *cobra.Command, oldWord, newWord string) error {
	o, err := c.parsed()
	if err != nil {
		return err
	}
	before, err := baselines.Find(oldWord)
	if err != nil {
		return usageError{err}
	}
	after, err := baselines.Find(newWord)
	if err != nil {
		return usageError{err}
	}
	r, err := compare.Compare(before, after, o)
	if err != nil {
		var not *compare.NotComparableError
		if errors.As(err, &not) {
			err = fmt.Errorf("%w; --force compares all the same", err)
		}
		return usageError{err}
	}
	return c.show(cmd, r)
}

func (c *compareFlags) resample(cmd *cobra.Command, word string, draws int, seed uint64) error {
	o, err := c.parsed()
	if err != nil {
		return err
	}
	side, err := baselines.Find(word)
	if err != nil {
		return usageError{err}
	}
	a, err := compare.Resample(side, draws, seed, o)
	if err != nil {
		return usageError{err}
	}
	return c.write(cmd, func(w io.Writer) error {
		switch global.format {
		case "json":
			return encodeJSON(w, a)
		case "junit":
			return usageError{errors.New("--aa has no test cases: --format table, json or markdown")}
		}
		return a.WriteText(w)
	})
}
