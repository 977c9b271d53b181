package main

import (
	"github.com/spf13/cobra"

	"github.com/vpclab/vpclab/emu/repair"
)

// newRepair makes the verb that a lab runs in the namespace of each router that
// is to notice failures by itself. It is hidden: it talks over file descriptor 3,
// which only a lab provides.
func newRepair() *cobra.Command {
	return &cobra.Command{
		Use:    repair.Verb,
		Short:  "be a router's reflexes (started by a lab)",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE:   func(cmd *cobra.Command, _ []string) error { return repair.Run(cmd.Context()) },
	}
}
