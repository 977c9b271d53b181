package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/vpclab/vpclab/emu/lab"
)

func newGC() *cobra.Command {
	return &cobra.Command{
		Use:   "gc",
		Short: "remove what killed labs have left; living ones are not touched",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			home, err := lab.DefaultHome()
			if err != nil {
				return err
			}
			removed, err := home.GC(cmd.Context())
			if jsonOutput() {
				if removed == nil {
					removed = []string{}
				}
				if e := printJSON(cmd, removed); e != nil {
					return e
				}
				return err
			}
			for _, line := range removed {
				fmt.Fprintln(cmd.OutOrStdout(), "removed", line)
			}
			if len(removed) == 0 && err == nil {
				fmt.Fprintln(cmd.OutOrStdout(), "nothing to remove")
			}
			return err
		},
	}
}
