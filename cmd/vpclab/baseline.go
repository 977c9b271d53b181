package main

import (
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/vpclab/vpclab/metrics/compare"
)

func newBaseline() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "baseline",
		Short: "keep results to compare with, in results/baselines",
		Long:  "Keep what a comparison needs of a run (run.json, samples, trials, fidelity) under a name in results/baselines/<name>/: small enough for git, so that a change can be compared with what was before it.",
	}
	cmd.AddCommand(newBaselineSave(), newBaselineList(), newBaselineShow(), newBaselineRemove())
	return cmd
}

func newBaselineSave() *cobra.Command {
	return &cobra.Command{
		Use:     "save NAME [RUN-FOLDER…]",
		Short:   "keep runs of one scenario under a name, in place of what was kept under it",
		Example: "  vpclab baseline save main results/wan-migration/20260101T120000.000Z-1a2b",
		Args:    minArgs(1, "name the baseline, and perhaps the folders of its runs (default: the newest in results/)"),
		RunE: func(cmd *cobra.Command, args []string) error {
			dirs := args[1:]
			if len(dirs) == 0 {
				dir, err := resultsFolder(nil)
				if err != nil {
					return err
				}
				dirs = []string{dir}
			}
			if err := baselines.Save(args[0], dirs); err != nil {
				return usageError{err}
			}
			one, err := baselines.Show(args[0])
			if err != nil {
				return err
			}
			return showBaselines(cmd, []compare.Baseline{one})
		},
	}
}

func newBaselineList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "list baselines",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := baselines.List()
			if err != nil {
				return err
			}
			return showBaselines(cmd, all)
		},
	}
}

func newBaselineShow() *cobra.Command {
	return &cobra.Command{
		Use:               "show NAME",
		Short:             "show one baseline",
		Args:              exactArgs(1),
		ValidArgsFunction: completeBaselines,
		RunE: func(cmd *cobra.Command, args []string) error {
			one, err := baselines.Show(args[0])
			if err != nil {
				return baselineError(err)
			}
			return showBaselines(cmd, []compare.Baseline{one})
		},
	}
}

func newBaselineRemove() *cobra.Command {
	return &cobra.Command{
		Use:               "remove NAME",
		Short:             "forget a baseline",
		Args:              exactArgs(1),
		ValidArgsFunction: completeBaselines,
		RunE: func(_ *cobra.Command, args []string) error {
			return baselineError(baselines.Remove(args[0]))
		},
	}
}

func baselineError(err error) error {
	if errors.Is(err, compare.ErrNoBaseline) {
		return usageError{err}
	}
	return err
}

func showBaselines(cmd *cobra.Command, all []compare.Baseline) error {
	if jsonOutput() {
		return printJSON(cmd, all)
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "name\tscenario\tversion\tkernel\tclock\truns\ttrials\tvoid\tfailed\tstarted")
	for _, b := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%d\t%s\n", b.Name, b.Scenario, b.Version, b.Kernel.Substrate, b.Kernel.Clock,
			b.Runs, b.Trials, b.Void, b.Failed, b.Started.Format("2006-01-02 15:04"))
	}
	return w.Flush()
}

func completeBaselines(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	all, _ := baselines.List() // none are offered where they cannot be read
	var names []string
	for _, b := range all {
		names = append(names, b.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
