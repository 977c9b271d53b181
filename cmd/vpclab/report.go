package main

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/vpclab/vpclab/plots"
)

func newReport() *cobra.Command {
	return &cobra.Command{
		Use:   "report [RUN-FOLDER]",
		Short: "write the report of a run again: one HTML file that opens anywhere",
		Long:  "Write the report of a run again, figures included, from what it stored: one HTML file that opens anywhere. The default is the newest run in results/.",
		Args:  maxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := resultsFolder(args)
			if err != nil {
				return err
			}
			if _, err := plots.Draw(dir, nil); err != nil {
				return err
			}
			if err := plots.Report(dir); err != nil {
				return err
			}
			path := filepath.Join(dir, "report.html")
			if jsonOutput() {
				return printJSON(cmd, map[string]string{"report": path})
			}
			fmt.Fprintln(cmd.OutOrStdout(), path)
			showFidelity(cmd, dir)
			return nil
		},
	}
}
