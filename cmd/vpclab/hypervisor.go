package main

import (
	"github.com/spf13/cobra"

	"github.com/vpclab/vpclab/emu/hypervisor"
)

// newHypervisor makes the verb that a lab runs in the namespace of each
// hypervisor host with guests. It is hidden: it talks over file descriptor 3,
// which only a lab provides.
func newHypervisor() *cobra.Command {
	return &cobra.Command{
		Use:    hypervisor.Verb + " HOST ADDRESS DIR NETNS",
		Short:  "be a hypervisor host's agent (started by a lab)",
		Hidden: true,
		Args:   cobra.ExactArgs(4),
		RunE: func(cmd *cobra.Command, args []string) error {
			conn, err := hypervisor.ControlConn()
			if err != nil {
				return usageError{err}
			}
			return hypervisor.Run(cmd.Context(), conn, args[0], args[1], args[2], args[3])
		},
	}
}
