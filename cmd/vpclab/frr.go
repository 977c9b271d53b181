package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/vpclab/vpclab/emu/bgp"
	"github.com/vpclab/vpclab/emu/frr"
	"github.com/vpclab/vpclab/emu/kernel"
	"github.com/vpclab/vpclab/topo"
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

// needFRR says why a plan cannot be built here for FRR's sake, before anything
// is. experiments are those that will be done on it.
func needFRR(plan *topo.Plan, experiments ...topo.Experiment) error {
	err := frr.Check(plan)
	if err != nil && !frr.IsMissing(err) {
		return usageError{err}
	}
	if err == nil && slices.ContainsFunc(experiments, func(e topo.Experiment) bool { return e.Kind == "routing-peer" }) {
		_, err = frr.Find()
	}
	return err
}

// checkFRR is doctor's line about FRR.
func checkFRR(ctx context.Context) kernel.Check {
	c := kernel.Check{Substrate: "machine", Name: "frr", Optional: true}
	in, err := frr.Find()
	version := ""
	if err == nil {
		version, err = in.Version(ctx)
	}
	if err != nil {
		c.Detail, c.Fix = fmt.Sprintf("%v; it is for routers with `routing: frr`", frr.Why(err)), frr.Fix
		return c
	}
	c.OK, c.Detail = true, fmt.Sprintf("FRR %s in %s", version, in.Daemons)
	return c
}
