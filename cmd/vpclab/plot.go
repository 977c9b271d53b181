package main

import (
	"github.com/spf13/cobra"

	"github.com/vpclab/vpclab/plots"
)

func newPlot() *cobra.Command {
	var names []string
	cmd := &cobra.Command{
		Use:   "plot [RUN-FOLDER]",
		Short: "draw the figures of a run again, from what it stored",
		Long:  "Draw the figures of a run again, from what it stored; nothing is measured. The default is the newest run in results/.",
		Args:  maxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := resultsFolder(args)
			if err != nil {
				return err
			}
			figures, err := plots.Draw(dir, names)
			if err != nil {
				return err
			}
			if jsonOutput() {
				return printJSON(cmd, figures)
			}
			showFigures(cmd.OutOrStdout(), dir, figures)
			showFidelity(cmd, dir)
			return nil
		},
	}
	cmd.Flags().StringSliceVar(&names, "figure", nil, "only these figures")
	complete(cmd, "figure", func(string) []string { return plots.Names() })
	return cmd
}
