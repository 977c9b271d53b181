package main

import (
	"github.com/spf13/cobra"

	"github.com/vpclab/vpclab/emu/bgp"
)

// newSpeaker makes the verb that a lab runs in each router's namespace. It is
// hidden: it talks over file descriptor 3, which only a lab provides.
func newSpeaker() *cobra.Command {
	return &cobra.Command{
		Use:    "speaker",
		Short:  "be a router's BGP speaker (started by a lab)",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			conn, err := bgp.ControlConn()
			if err != nil {
				return usageError{err}
			}
			return bgp.RunSpeaker(cmd.Context(), conn)
		},
	}
}
