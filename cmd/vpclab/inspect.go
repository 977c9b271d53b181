package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vpclab/vpclab/emu/lab"
)

func newInspect() *cobra.Command {
	var all bool
	var nodes []string
	cmd := &cobra.Command{
		Use:     "inspect [SECTION…]",
		Aliases: []string{"ins", "i"},
		Short:   "show a lab as its kernel holds it: nodes, links, VRFs, routes, labels, BGP",
		Long: "Show a lab as its kernel and its BGP speakers hold it, all sections but rib unless some are named:\n  " +
			sectionWords() + "\nWith --all, list the labs of this user.",
		ValidArgs: strings.Split(sectionWords(), " "),
		RunE: func(cmd *cobra.Command, args []string) error {
			if all {
				return listLabs(cmd)
			}
			c, err := theClient()
			if err != nil {
				return err
			}
			req := lab.InspectRequest{Nodes: nodes}
			for _, a := range args {
				req.Sections = append(req.Sections, lab.Section(a))
			}
			ctx, cancel := limited(cmd)
			defer cancel()
			rep, err := c.Inspect(ctx, req)
			if err != nil {
				return err
			}
			if jsonOutput() {
				return printJSON(cmd, rep)
			}
			rep.Text(cmd.OutOrStdout())
			return nil
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "list all labs")
	cmd.Flags().StringSliceVar(&nodes, "node", nil, "only these nodes")
	complete(cmd, "node", func(string) []string { return nodeNames(cmd) })
	return cmd
}

func sectionWords() string {
	var words []string
	for _, s := range lab.Sections {
		words = append(words, string(s))
	}
	return strings.Join(words, " ")
}

// listLabs prints the labs of this user, dead ones too.
func listLabs(cmd *cobra.Command) error {
	home, err := lab.DefaultHome()
	if err != nil {
		return err
	}
	all, err := home.List()
	if err != nil {
		return err
	}
	if jsonOutput() {
		if all == nil {
			all = []lab.Info{}
		}
		return printJSON(cmd, all)
	}
	t := lab.Table("Labs", "lab", "state", "kernel", "kept by", "pid", "since", "scenario")
	for _, i := range all {
		state := "dead: vpclab gc removes it"
		if i.Alive {
			state = "starting"
			if i.State.Up {
				state = "up"
			}
		}
		t.AppendRow([]any{i.Name, state, i.State.Substrate, i.State.Verb, i.State.PID, i.State.Started.Format(time.DateTime), i.State.File})
	}
	if len(all) == 0 {
		fmt.Fprintln(cmd.OutOrStdout(), "no labs")
		return nil
	}
	fmt.Fprintln(cmd.OutOrStdout(), t.Render())
	return nil
}
