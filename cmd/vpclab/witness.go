package main

import (
	"github.com/spf13/cobra"

	"github.com/vpclab/vpclab/emu/lease"
)

// newWitness makes the verb that a lab runs in the namespace of a host that is
// the witness of VMs with a standby. It is hidden: it talks over file
// descriptor 3, which only a lab provides.
func newWitness() *cobra.Command {
	return &cobra.Command{
		Use:    lease.Verb + " HOST ADDRESS:PORT DIR",
		Short:  "be the witness of VMs with a standby (started by a lab)",
		Hidden: true,
		Args:   cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			conn, err := lease.ControlConn()
			if err != nil {
				return usageError{err}
			}
			return lease.Run(cmd.Context(), conn, args[0], args[1], args[2])
		},
	}
}
