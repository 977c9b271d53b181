package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vpclab/vpclab/metrics"
)

func newRerun() *cobra.Command {
	o := runOptions{verb: "run", show: showVerdict}
	cmd := &cobra.Command{
		Use:   "rerun [RUN-FOLDER]",
		Short: "do a run again, as its run.json tells, into a folder of its own",
		Long: `Do a run again from its run.json alone: the same text of the scenario, seed, experiments, trials and kernel, into a new folder, whose run.json names the run that it repeats. Flags that are given here change that. The default is the newest run in results/.

What is not as it was (version, kernel, machine, flags) is said and kept. Where both runs were on the virtual clock, in the same machine with the same program and flags, samples.csv must come out the same bit by bit; exit code 4 says that it did not. Runs on other clocks are held against each other by vpclab compare.`,
		Example: "  vpclab rerun results/vpc-setup/20260101T120000.000Z-1a2b\n  vpclab rerun --trials 12 --kernel host results/vpc-setup/20260101T120000.000Z-1a2b",
		Args:    maxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := resultsFolder(args)
			if err != nil {
				return err
			}
			if err := o.repeat(cmd, dir); err != nil {
				return err
			}
			sc, plan, err := scenarioOf(*o.was)
			if err != nil {
				return err
			}
			if err := need(cmd.Context(), plan, sc.Experiments...); err != nil {
				return err
			}
			return run(cmd, sc, plan, o)
		},
	}
	o.addTo(cmd)
	return cmd
}

// repeat reads the run that is to be done again, and takes over its flags.
func (o *runOptions) repeat(cmd *cobra.Command, dir string) error {
	store, err := metrics.Open(dir)
	if err != nil {
		return usageError{err}
	}
	info := store.Info()
	o.was, o.origin = &info, &metrics.Origin{ID: info.ID, Dir: absolute(dir)}
	if o.origin.Samples, err = store.SamplesDigest(); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if info.Verb != "" {
		o.verb = info.Verb
	}
	if strings.HasPrefix(o.verb, "reproduce ") {
		o.show = showReproduction
	}
	if err := applyFlags(cmd, flagsOf(info)); err != nil {
		return usageError{fmt.Errorf("do %s again: %w", dir, err)}
	}
	return nil
}

// compareWithOrigin holds the samples of a repetition against those of the run
// that it repeats, where they must be the same, and keeps the outcome. The first
// error is for samples that are not.
func (o runOptions) compareWithOrigin(dir string) (different, err error) {
	store, err := metrics.Open(dir)
	if err != nil {
		return nil, err
	}
	if !promised(*o.was, store.Info()) || o.origin.Samples == "" {
		fmt.Fprintf(os.Stderr, "vpclab: compare with the run that this one repeats: vpclab compare %s %s\n", o.origin.Dir, dir)
		return nil, nil
	}
	digest, err := store.SamplesDigest()
	if err != nil {
		return nil, err
	}
	same := digest == o.origin.Samples
	if err := store.Update(func(i *metrics.RunInfo) { i.Origin.Identical = &same }); err != nil {
		return nil, err
	}
	if same {
		fmt.Fprintf(os.Stderr, "vpclab: samples.csv is bit by bit that of run %s\n", o.origin.ID)
		return nil, nil
	}
	fmt.Fprintf(os.Stderr, "vpclab: samples.csv is not that of run %s, though machine, program, seed and flags are: %s\n", o.origin.ID, firstDifference(o.origin.Dir, dir))
	return exitCode(exitRegression), nil
}

// promised tells whether two runs must have the same samples: both whole and of
// one piece, on the virtual clock of machines of the same make, by the same
// program told the same.
func promised(was, now metrics.RunInfo) bool {
	a, b := was.Kernel.Virtual, now.Kernel.Virtual
	if a == nil || b == nil || was.Finished.IsZero() || now.Finished.IsZero() || len(was.Sessions) > 1 || len(now.Sessions) > 1 {
		return false
	}
	made := func(v metrics.VirtualInfo) metrics.VirtualInfo {
		v.VirtualS, v.WallS, v.Digest = 0, 0, "" // what came of it; all else is what it is made of
		return v
	}
	return made(*a) == made(*b) && was.Source == now.Source && was.Seed == now.Seed && reflect.DeepEqual(flagsOf(was), flagsOf(now))
}

// firstDifference is the first line in which the samples of two runs differ.
func firstDifference(was, now string) string {
	a, errA := os.Open(filepath.Join(was, "samples.csv"))
	if errA != nil {
		return errA.Error()
	}
	defer a.Close()
	b, errB := os.Open(filepath.Join(now, "samples.csv"))
	if errB != nil {
		return errB.Error()
	}
	defer b.Close()
	for old, fresh, n := bufio.NewScanner(a), bufio.NewScanner(b), 1; ; n++ {
		moreA, moreB := old.Scan(), fresh.Scan()
		if !moreA && !moreB {
			return "the lines are the same, and their ends are not"
		}
		if moreA != moreB || old.Text() != fresh.Text() {
			return fmt.Sprintf("line %d was %q and is %q", n, old.Text(), fresh.Text())
		}
	}
}
