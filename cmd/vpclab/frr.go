package main

import (
	"github.com/spf13/cobra"

	"github.com/vpclab/vpclab/emu/bgp"
	"github.com/vpclab/vpclab/emu/frr"
)

// newFRR makes the verb that a lab runs in the namespace of each router with
// `routing: frr`. It is hidden: it talks over file descriptor 3, which only a
// lab provides.
func newFRR() *cobra.Command {
	return &cobra.Command{
		Use:    frr.Verb + " ROOT DIR",
		Short:  "be the parent of a router's FRR daemons (started by a lab)",
		Hidden: true,
		Args:   cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			conn, err := bgp.ControlConn()
			if err != nil {
				return usageError{err}
			}
			return frr.RunRouter(cmd.Context(), conn, args[0], args[1])
		},
	}
}
