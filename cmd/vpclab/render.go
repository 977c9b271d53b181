package main

import "github.com/spf13/cobra"

func newRender() *cobra.Command {
	return &cobra.Command{
		Use:   "render [SCENARIO]",
		Short: "print a scenario written out: defaults, generated parts and chosen numbers",
		Long: `Print a scenario written out as YAML: defaults filled in, generated parts spelled.

With --format json, print the plan instead: every node, link, address, MAC, label, RD and RT.`,
		Args:              maxArgs(1),
		ValidArgsFunction: completeScenarios,
		RunE: func(cmd *cobra.Command, args []string) error {
			sc, plan, err := scenario(args)
			if err != nil {
				return err
			}
			if jsonOutput() {
				return printJSON(cmd, plan)
			}
			text, err := sc.Render()
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
	}
}
