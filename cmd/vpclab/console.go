package main

import (
	"github.com/spf13/cobra"
)

func newConsole() *cobra.Command {
	return &cobra.Command{
		Use:   "console VM",
		Short: "print what a VM in QEMU has written on its console",
		Long: `Print what a VM in QEMU has written on its serial line since it came to its host: its kernel's messages, and its program's last words.

Why a VM does not boot, or has ended, is said there.`,
		Example:           "  vpclab console -t real-vm-migration shop | tail",
		Args:              exactArgs(1),
		ValidArgsFunction: completeNodes,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := theClient()
			if err != nil {
				return err
			}
			ctx, cancel := limited(cmd)
			defer cancel()
			return c.Console(ctx, args[0], cmd.OutOrStdout())
		},
	}
}
