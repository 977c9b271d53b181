package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/vpclab/vpclab/topo"
)

func newValidate() *cobra.Command {
	return &cobra.Command{
		Use:               "validate [SCENARIO]",
		Aliases:           []string{"val"},
		Short:             "check a scenario and say what it makes; nothing is built",
		Args:              maxArgs(1),
		ValidArgsFunction: completeScenarios,
		RunE: func(cmd *cobra.Command, args []string) error {
			sc, plan, err := scenario(args)
			if err != nil {
				return err
			}
			s := summaryOf(sc, plan)
			if jsonOutput() {
				return printJSON(cmd, s)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: valid: lab %s, %d PE, %d P, %d sites, %d VPCs, %d machines, %d nodes, %d links, %d experiments\n",
				s.File, s.Lab, s.PEs, s.Ps, s.Sites, s.VPCs, s.Machines, s.Nodes, s.Links, s.Experiments)
			return nil
		},
	}
}

// summary is a scenario in numbers.
type summary struct {
	File        string `json:"file"`
	Lab         string `json:"lab"`
	PEs         int    `json:"pe"`
	Ps          int    `json:"p"`
	Sites       int    `json:"sites"`
	VPCs        int    `json:"vpcs"`
	Machines    int    `json:"machines"`
	Nodes       int    `json:"nodes"`
	Links       int    `json:"links"`
	Experiments int    `json:"experiments"`
}

func summaryOf(sc *topo.Scenario, plan *topo.Plan) summary {
	s := summary{File: sc.File, Lab: plan.Lab, VPCs: len(plan.VPCs), Nodes: len(plan.Nodes), Links: len(plan.Links), Experiments: len(sc.Experiments)}
	sites := map[string]bool{}
	for _, n := range plan.Nodes {
		switch n.Kind {
		case topo.KindPE:
			s.PEs++
		case topo.KindP:
			s.Ps++
		case topo.KindMachine:
			s.Machines++
		}
		if n.Site != "" {
			sites[n.Site] = true
		}
	}
	s.Sites = len(sites)
	return s
}
