package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/vpclab/vpclab/emu/audit"
)

func newAudit() *cobra.Command {
	var req audit.Request
	cmd := &cobra.Command{
		Use:   "audit [LAB]",
		Short: "prove from the outside that the VPCs of a lab are apart",
		Long: `Ask the machines of a running lab who reaches whom, and let hostile customers try to get out of their VPCs:

  by IP     every ordered pair of machines: those of one VPC must reach each other, all others must not
  frames    broadcast and unicast Ethernet frames between every ordered pair: those of one LAN, or one VPLS, and no others; each once
  attacks   from every CE and one machine of each LAN segment: spoofed IP and MAC addresses; packets to PEs, Ps, the reflector,
            backbone links and other VPCs' circuits; frames with every label of the backbone, alone and two deep

What is of one VPC and is seen at another's machines, CEs or circuits, at a router itself, or on the backbone without its VPC's label, is a
leak; it is sent again with taps on all interfaces, and the hop where it crossed is named. What stays in the sender's own VPC is none.

Exit code 0: all is as it should be. 1: something leaks, or a pair does not reach that should, or frames come twice.`,
		Example: "  vpclab deploy overlapping-tenants && vpclab audit",
		Args:    maxArgs(1),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return labNames(), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				global.name = args[0]
			}
			c, err := theClient()
			if err != nil {
				return err
			}
			ctx, cancel := limited(cmd)
			defer cancel()
			rep, err := audit.Post(ctx, c.HTTP(), c.URL(audit.Path), req)
			if err != nil {
				return err
			}
			if jsonOutput() {
				err = printJSON(cmd, rep)
			} else {
				rep.Text(cmd.OutOrStdout())
			}
			if err == nil && !rep.Clean() {
				err = exitCode(exitFailed)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.DurationVar(&req.Deadline, "deadline", 5*time.Second, "how long pairs that should reach each other are asked again")
	f.IntVar(&req.Budget, "attacks", 0, "about how many attacks to try at most (default 200,000)")
	f.Uint64Var(&req.Seed, "seed", 0, "order of the questions")
	return cmd
}
