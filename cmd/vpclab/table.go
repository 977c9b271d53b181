package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vpclab/vpclab/metrics"
)

func newTable() *cobra.Command {
	var rows, names []string
	var column, experiment string
	var where map[string]string
	cmd := &cobra.Command{
		Use:   "table [FOLDER]",
		Short: "print medians of a run as tables in Markdown",
		Long: `Print medians of a run as tables in Markdown, one a metric: a row for each combination of the values of some labels, a column for each value of another. Without a folder: the newest run below results/.

Every cell is a median with the smallest and largest value; n stands above each table. Void trials are in none of them, and a line below says how many there are.`,
		Example: "  vpclab table --rows workload,rate --column algorithm --metric migration.total,migration.pause results/migration-sweep/…",
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
			samples, err := store.Samples()
			if err != nil {
				return err
			}
			if experiment != "" {
				var of []metrics.Sample
				for _, s := range samples {
					if s.Experiment == experiment {
						of = append(of, s)
					}
				}
				samples = of
			}
			for i, name := range names {
				if i > 0 {
					fmt.Fprintln(cmd.OutOrStdout())
				}
				p := metrics.Pivot{Metric: name, Where: where, Rows: rows, Column: column}
				if err := p.WriteMarkdown(cmd.OutOrStdout(), samples); err != nil {
					return usageError{fmt.Errorf("%s: %w", strings.TrimSuffix(dir, "/"), err)}
				}
			}
			if text := store.VoidText(experiment); text != "" {
				fmt.Fprintf(cmd.OutOrStdout(), "\n%s.\n", text)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&names, "metric", nil, "metrics, a table each")
	f.StringSliceVar(&rows, "rows", nil, "labels whose values make the rows")
	f.StringVar(&column, "column", "", "label whose values are the columns")
	f.StringVar(&experiment, "experiment", "", "only this experiment")
	f.StringToStringVar(&where, "where", nil, "only samples with these labels, as direction=out")
	for _, name := range []string{"metric", "rows", "column"} {
		_ = cmd.MarkFlagRequired(name) // the flags exist
	}
	return cmd
}
