package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/metrics/compare"
	"github.com/vpclab/vpclab/scenarios"
)

// abOptions are the flags of ab besides those of comparing.
type abOptions struct {
	compareFlags
	old, new string
	trials   int
	seed     uint64
	results  string
}

func newAB() *cobra.Command {
	var o abOptions
	cmd := &cobra.Command{
		Use:   "ab --old REV --new REV [SCENARIO] [-- RUN-FLAG…]",
		Short: "run two revisions of vpclab in turn, and compare them",
		Long: `Build two git revisions of vpclab in worktrees of their own, run a scenario with both, and compare. Trials alternate as A B B A A B …, a pair a seed, so that a machine that becomes slower meanwhile does so for both. A revision of . is the working tree as it is.

Both run the same text of the scenario. What stands behind -- goes to vpclab run, as --clock virtual. The worktrees are removed at the end; those of a process that was killed are removed by the next.

With --bisect the exit code is one for git bisect run: 0 good, 4 bad, 125 where a revision cannot be built or run or nothing can be told, 128 and above to end the search.`,
		Example: "  vpclab ab --old main --new . wan-migration --trials 6\n  git bisect start HEAD v1.2 && git bisect run vpclab ab --bisect --old v1.2 --new . migration-gate -- --clock virtual",
		Args: func(cmd *cobra.Command, args []string) error {
			if at := cmd.ArgsLenAtDash(); at >= 0 {
				args = args[:at]
			}
			return maxArgs(1)(cmd, args)
		},
		ValidArgsFunction: completeScenarios,
		RunE: func(cmd *cobra.Command, args []string) error {
			var extra []string
			if at := cmd.ArgsLenAtDash(); at >= 0 {
				args, extra = args[:at], args[at:]
			}
			err := o.run(cmd, args, extra)
			var failed *commandError
			if !o.bisect && errors.As(err, &failed) && failed.code == exitUnusable {
				fmt.Fprintln(os.Stderr, "vpclab:", err)
				return exitCode(exitUnusable)
			}
			return o.forBisect(err)
		},
	}
	o.add(cmd)
	f := cmd.Flags()
	f.StringVar(&o.old, "old", "", "git revision that was good")
	f.StringVar(&o.new, "new", ".", "git revision to be judged; . is the working tree")
	f.IntVar(&o.trials, "trials", 6, "trials of each point, a side")
	f.Uint64Var(&o.seed, "seed", 1, "seed of the first pair; each pair has the next one")
	f.StringVar(&o.results, "results", "results", "folder for results: the runs of both sides go into ab/<id>/old and ab/<id>/new there")
	return cmd
}

// run builds, runs in turn, and compares.
func (o *abOptions) run(cmd *cobra.Command, args, extra []string) error {
	options, err := o.parsed()
	if err != nil {
		return err
	}
	if o.old == "" {
		return usageError{errors.New("--old is missing: the revision to compare with")}
	}
	if o.trials < 1 {
		return usageError{fmt.Errorf("--trials %d: at least one is needed", o.trials)}
	}
	sc, _, err := scenario(args)
	if err != nil {
		return err
	}
	ctx, cancel := limited(cmd)
	defer cancel()
	p := newProgress(os.Stderr)
	defer p.end()
	shop, err := openWorkshop(ctx)
	if err != nil {
		return err
	}
	defer shop.close()
	var sides [2]*abSide
	for i, rev := range []string{o.old, o.new} {
		p.show("build", "building "+rev, 0)
		if sides[i], err = shop.build(ctx, []string{"old", "new"}[i], rev); err != nil {
			return err
		}
	}
	dir, err := filepath.Abs(filepath.Join(o.results, "ab", metrics.NewRunID(time.Now())))
	if err != nil {
		return err
	}
	for nth, turn := range turns(o.trials) {
		side, seed := sides[turn.side], o.seed+uint64(turn.pair)
		text := fmt.Sprintf("%d/%d: %s (%s) with seed %d", nth+1, 2*o.trials, side.name, side.version, seed)
		p.show(text, text, 0)
		file := filepath.Join(shop.dir, fmt.Sprintf("seed-%d", seed), filepath.Base(sc.Name)+scenarioSuffix)
		if err := writeSeeded(file, sc.Source, seed); err != nil {
			return err
		}
		if err := side.trial(ctx, file, filepath.Join(dir, side.name), extra); err != nil {
			return fmt.Errorf("%s %s, seed %d: %w", side.name, side.version, seed, err)
		}
	}
	p.end()
	return o.judge(cmd, dir, sides, options)
}

// judge compares what both sides have left.
func (o *abOptions) judge(cmd *cobra.Command, dir string, sides [2]*abSide, options compare.Options) error {
	var loaded [2]compare.Side
	for i, side := range sides {
		found, err := baselines.Find(filepath.Join(dir, side.name))
		if err != nil {
			return err
		}
		found.Name = side.name + " " + side.rev
		loaded[i] = found
	}
	r, err := compare.Compare(loaded[0], loaded[1], options)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "vpclab: results of both sides: %s\n", dir)
	return o.show(cmd, r)
}

// turn is one run of one side.
type turn struct{ side, pair int }

// turns are n pairs in the order A B B A A B B A: whatever grows or shrinks
// steadily meanwhile falls on both sides alike.
func turns(n int) (all []turn) {
	for pair := range n {
		first := pair % 2
		all = append(all, turn{first, pair}, turn{1 - first, pair})
	}
	return all
}

// seedLine is a scenario's own seed.
var seedLine = regexp.MustCompile(`(?m)^seed:.*$`)

// writeSeeded writes a scenario's text with another seed. Every version of
// vpclab reads that, while not every one has a flag for it.
func writeSeeded(path string, source []byte, seed uint64) error {
	line := []byte("seed: " + strconv.FormatUint(seed, 10))
	text := append([]byte{}, source...)
	if seedLine.Match(text) {
		text = seedLine.ReplaceAll(text, line)
	} else {
		text = append(append(append(text, '\n'), line...), '\n')
	}
	if _, _, err := scenarios.Parse(path, text); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o644)
}

// trial runs one trial of each point. A run that fails an expectation has been
// measured all the same.
func (s *abSide) trial(ctx context.Context, file, results string, extra []string) error {
	args := append([]string{"run", file, "--trials", "1", "--results", results, "--no-plots"}, extra...)
	if global.kernel != "auto" {
		args = append(args, "--kernel", global.kernel)
	}
	err := s.shop.do(ctx, "", nil, s.program, args...)
	var failed *commandError
	if errors.As(err, &failed) && failed.code == exitFailed {
		if runs, _ := metrics.Runs(results); len(runs) > s.runs {
			err = nil
		}
	}
	if err != nil {
		return err
	}
	s.runs++
	return nil
}
