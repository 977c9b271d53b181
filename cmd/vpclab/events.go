package main

import (
	"encoding/json"
	"fmt"
	"sort"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vpclab/vpclab/emu/event"
)

func newEvents() *cobra.Command {
	var follow bool
	var last int
	cmd := &cobra.Command{
		Use:   "events",
		Short: "print what happened in a lab; --follow goes on with what happens",
		Long:  "Print what happened in a lab, oldest first; with --follow, go on with what happens. With --format json each line is one JSON object.",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := theClient()
			if err != nil {
				return err
			}
			ctx, cancel := limited(cmd)
			defer cancel()
			enc := json.NewEncoder(cmd.OutOrStdout())
			return c.Events(ctx, last, follow, func(e event.Event) error {
				if jsonOutput() {
					return enc.Encode(e)
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s %-12s %-18s %s\n", e.Wall.Format("15:04:05.000000"), e.Node, e.Kind, attributes(e.Attr))
				return err
			})
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until interrupted")
	cmd.Flags().IntVar(&last, "last", 1000, "begin with this many of the past")
	return cmd
}

func attributes(attr map[string]string) string {
	var words []string
	for k, v := range attr {
		words = append(words, k+"="+v)
	}
	sort.Strings(words)
	return strings.Join(words, " ")
}
