package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vpclab/vpclab/metrics"
)

func newPredict() *cobra.Command {
	names := []string{"migration.total", "migration.pause", "migration.payload", "migration.rounds", "migration.gap"}
	label, model, of := "guest", "process", "qemu"
	cmd := &cobra.Command{
		Use:   "predict [FOLDER]",
		Short: "how well process guests foretell real VMs, from a run that had both",
		Long: `How well one kind of trial foretells another, from a run that had both at the same points: by default process guests and QEMU guests, of an experiment with vary: {guest: [process, qemu]}. Without a folder: the newest run below results/.

Each metric has a table: both medians, the model's error, and the error that is left when the model has been calibrated by a factor or an offset on all other points.`,
		Example: "  vpclab predict results/guests-side-by-side/…",
		Args:    maxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := resultsFolder(args)
			if err != nil {
				return err
			}
			store, err := metrics.Open(dir)
			if err != nil {
				return err
			}
			rows, err := store.Summaries()
			if err != nil {
				return err
			}
			points, corrections := metrics.Predict(rows, label, model, of, names)
			if len(points) == 0 {
				return usageError{fmt.Errorf("%s: no point has trials of both %s=%s and %s=%s; a run of vary: {%s: [%s, %s]} has", strings.TrimSuffix(dir, "/"), label, model, label, of, label, model, of)}
			}
			return metrics.WritePredictions(cmd.OutOrStdout(), label, model, of, points, corrections)
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&names, "metric", names, "metrics, a table each")
	f.StringVar(&label, "label", label, "label that tells the model from the real thing")
	f.StringVar(&model, "model", model, "its value at the model")
	f.StringVar(&of, "of", of, "its value at the real thing")
	return cmd
}
