package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/plots"
	"github.com/vpclab/vpclab/scenarios"
)

func newReproduce() *cobra.Command {
	var o runOptions
	var quick, full, text bool
	cmd := &cobra.Command{
		Use:   "reproduce PAPER",
		Short: "do the experiments of a paper again, and hold the results against what it prints",
		Long: `Do the experiments of a paper again, and hold each value that it prints against the one that is measured here: PASS within the tolerance, OUTSIDE with the reason where it is known. Papers: ` + strings.Join(scenarios.Papers(), ", ") + `.

Exit code 1 says that something failed that does not depend on hardware: a memory that was not the same at both ends, a connection that broke, an acknowledged transaction that was lost, an order that the paper's argument rests on. A value outside of its tolerance does not fail.

A reproduction is a scenario that is written for a size; --print shows it, and vpclab run takes it too.`,
		Example:   "  vpclab reproduce cloudnet --quick\n  vpclab reproduce cloudnet --print > cloudnet.vpclab.yml\n  vpclab reproduce cloudnet --resume results/cloudnet-quick/20260101T120000.000Z-1a2b",
		Args:      exactArgs(1),
		ValidArgs: scenarios.Papers(),
		RunE: func(cmd *cobra.Command, args []string) error {
			effort := scenarios.Normal
			switch {
			case quick && full:
				return usageError{fmt.Errorf("--quick and --full: choose one")}
			case quick:
				effort = scenarios.Quick
			case full:
				effort = scenarios.Full
			}
			if err := o.recall(cmd); err != nil {
				return err
			}
			sc, plan, err := scenarios.Reproduction(args[0], effort)
			if err == nil && o.resume != "" {
				sc, plan, err = o.scenario(nil) // of the size that it was begun with
			}
			if err != nil {
				return usageError{err}
			}
			if text {
				_, err := cmd.OutOrStdout().Write(sc.Source)
				return err
			}
			o.verb, o.show = "reproduce "+args[0], showReproduction
			return run(cmd, sc, plan, o)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&quick, "quick", false, "the main claims at a sixteenth of the size, in five minutes")
	f.BoolVar(&full, "full", false, "table I at full size and the rest at a quarter, in some hours")
	f.BoolVar(&text, "print", false, "print the scenario instead of running it")
	o.addTo(cmd)
	f.StringVar(&o.resume, "resume", "", "folder of an interrupted reproduction to go on with; of a finished one, to print its table again")
	return cmd
}

// showReproduction prints the table of a paper's claims.
func showReproduction(cmd *cobra.Command, v scenarios.Verdict, dir string, figures []plots.Figure) error {
	if jsonOutput() {
		return showVerdict(cmd, v, dir, figures)
	}
	w := cmd.OutOrStdout()
	for _, line := range v.Lines {
		if strings.HasPrefix(line, "FAIL ") && isExpectation(v, line) {
			fmt.Fprintln(w, line)
		}
	}
	if err := metrics.WriteNumbers(w, v.Claims); err != nil {
		return err
	}
	counts := map[string]int{}
	for _, c := range v.Claims {
		counts[c.Status]++
	}
	fmt.Fprintf(w, "\n%s: %d trials", v.Status, v.Trials)
	if v.Failed > 0 {
		fmt.Fprintf(w, ", %d failed", v.Failed)
	}
	fmt.Fprintf(w, "; of %d claims %d pass, %d are outside, %d fail, %d are open\n", len(v.Claims),
		counts[metrics.ClaimPass], counts[metrics.ClaimOutside], counts[metrics.ClaimFail], counts[metrics.ClaimOpen])
	showFigures(w, dir, figures)
	fmt.Fprintf(w, "results: %s\n", dir)
	return verdictCode(v)
}

// isExpectation tells the line of an expectation from those of claims.
func isExpectation(v scenarios.Verdict, line string) bool {
	for _, c := range v.Claims {
		if strings.HasPrefix(line, "FAIL "+c.ID+": ") {
			return false
		}
	}
	return true
}
