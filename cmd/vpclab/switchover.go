package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

// newSwitchOver makes the verb that has a protected VM go on at its standby.
func newSwitchOver() *cobra.Command {
	return &cobra.Command{
		Use:   "switchover VM",
		Short: "have a protected VM go on at its standby, with nothing lost",
		Long: `Have a VM that is protected by a standby (vms.NAME.standby in the file) go on there, with nothing lost: it stands for a last checkpoint, and its
lease is handed over. Where it was becomes the standby, so that a second switch-over brings it back. What happens by itself when a host or cloud is
lost needs no command; vpclab inspect pairs shows how things are.`,
		Example: "  vpclab switchover shop\n  vpclab inspect pairs",
		Args:    exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := theClient()
			if err != nil {
				return err
			}
			ctx, cancel := limited(cmd)
			defer cancel()
			out, err := c.SwitchOver(ctx, args[0])
			if err != nil {
				return err
			}
			if jsonOutput() {
				return printJSON(cmd, out)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s went from %s to %s in %v\n", out.VM, out.From, out.To, out.Activated.Sub(out.Asked).Round(100*time.Microsecond))
			return nil
		},
	}
}
