package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/vpclab/vpclab/emu/lab"
)

func newDeploy() *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use:     "deploy [SCENARIO]",
		Aliases: []string{"dep", "apply"},
		Short:   "build the lab of a scenario and leave it running",
		Long: `Build the lab of a scenario and leave it running; or, when it runs already, change it to what the scenario says now.

Deploying the same file twice changes nothing. A new lab that cannot be built leaves nothing; a change that fails leaves the lab running.
--timeout bounds the wait for VPN routes (30s if it is not given), and the error says which ones are missing where.`,
		Example:           "  vpclab deploy quickstart\n  vpclab deploy -t mylab.vpclab.yml --dry-run",
		Args:              maxArgs(1),
		ValidArgsFunction: completeScenarios,
		RunE: func(cmd *cobra.Command, args []string) error {
			sc, plan, err := scenario(args)
			if err == nil && !dryRun {
				err = need(cmd.Context(), plan)
			}
			if err != nil {
				return err
			}
			s, err := substrate()
			if err != nil {
				return err
			}
			home, err := lab.DefaultHome()
			if err != nil {
				return err
			}
			keeper, err := keeperCommand(sc, s)
			if err != nil {
				return err
			}
			p := newProgress(os.Stderr)
			d, err := lab.Deploy(cmd.Context(), lab.Deployment{
				Home: home, Plan: plan, File: sc.File, Source: sc.Source, Kernel: s, DryRun: dryRun, Deadline: global.timeout,
				Keeper: keeper, Progress: func(ph lab.Phase) { p.step(ph.Name, ph.Done, ph.Total) },
			})
			p.end()
			if err != nil {
				return err
			}
			return showDeployed(cmd, sc.Name, d)
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "print what would be changed, and change nothing")
	return cmd
}

// showDeployed prints the outcome of a deployment.
func showDeployed(cmd *cobra.Command, name string, d *lab.Deployed) error {
	if jsonOutput() {
		return printJSON(cmd, d)
	}
	w := cmd.OutOrStdout()
	if d.Preview != nil {
		fmt.Fprint(w, d.Preview.String())
		return nil
	}
	t := d.Done
	if !d.New && t.Changes == 0 && t.Added == 0 && t.Removed == 0 {
		fmt.Fprintf(w, "lab %s: nothing to change (looked in %v)\n", name, t.Total().Round(time.Millisecond))
		return nil
	}
	verb := "changed"
	if d.New {
		verb = "deployed on " + d.Substrate
		fmt.Fprintf(w, "%-12s %8v\n", "kernel", d.Boot.Round(time.Millisecond))
	}
	showStages(w, t)
	fmt.Fprintf(w, "lab %s %s: %s\n", name, verb, changesOf(t))
	return nil
}
