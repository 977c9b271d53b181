package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/vmm"
)

// newGuest makes the verb that a hypervisor's agent runs in a VM's namespace. It
// is hidden: its argument is only for programs.
func newGuest() *cobra.Command {
	return &cobra.Command{
		Use:    guest.Verb + " CONFIG",
		Short:  "be a VM's processor (started by a hypervisor)",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := guest.ParseConfig(args[0])
			if err != nil {
				return usageError{err}
			}
			if c.Spec.Kind == guest.KindQEMU {
				return vmm.Run(cmd.Context(), c, os.Stdout)
			}
			return guest.Run(cmd.Context(), c, os.Stdout)
		},
	}
}
