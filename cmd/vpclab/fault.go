package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/topo"
)

// breaking is a verb that has one kind of fault happen; fill makes it from the
// arguments.
func breaking(use, short, example string, args cobra.PositionalArgs, fill func(f *topo.Fault, args []string) error, flags ...func(*cobra.Command, *topo.Fault)) *cobra.Command {
	kind, _, _ := strings.Cut(use, " ")
	f := topo.Fault{Kind: kind}
	hold := false
	cmd := &cobra.Command{
		Use: use, Short: short, Args: args, Example: example,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := fill(&f, args); err != nil {
				return err
			}
			return inject(cmd, f, hold)
		},
	}
	for _, flag := range flags {
		flag(cmd, &f)
	}
	what := "how long it lasts, as 3s (default: until it is undone)"
	if kind == topo.FaultFlap {
		what = "how long the link is down each time (default: half of --every)"
	}
	cmd.Flags().TextVar(&f.For, "for", topo.Duration(0), what)
	cmd.Flags().BoolVar(&hold, "hold", false, "stay, and have the lab undo it when this command ends")
	return cmd
}

// inject has the lab break something and says when that was.
func inject(cmd *cobra.Command, f topo.Fault, hold bool) error {
	c, err := theClient()
	if err != nil {
		return err
	}
	say := func(v lab.FaultView) {
		if jsonOutput() {
			_ = printJSON(cmd, v) // to the user's terminal
			return
		}
		fmt.Fprintf(cmd.OutOrStdout(), "fault %d: %v at %.6f s%s\n", v.ID, v.Fault, float64(v.At)/float64(time.Second), lasting(v.Fault))
	}
	if hold {
		return c.HoldFault(cmd.Context(), f, say)
	}
	ctx, cancel := limited(cmd)
	defer cancel()
	v, err := c.Inject(ctx, f)
	if err != nil {
		return err
	}
	say(*v)
	return nil
}

// lasting says how long a fault lasts, where that is said.
func lasting(f topo.Fault) string {
	if f.For == 0 || f.Kind == topo.FaultFlap {
		return ""
	}
	return " for " + f.For.String()
}

func newFault() *cobra.Command {
	pair := func(f *topo.Fault, a []string) error { f.Link = a; return nil }
	ofLink := func(kind, short, example string, flags ...func(*cobra.Command, *topo.Fault)) *cobra.Command {
		return breaking(kind+" NODE NODE", short, "  vpclab fault "+kind+" "+example, exactArgs(2), pair, flags...)
	}
	worse := func(cmd *cobra.Command, f *topo.Fault) {
		cmd.Flags().TextVar(&f.Rate, "rate", topo.Rate(0), "the most bits a second, as 10mbit")
		cmd.Flags().TextVar(&f.Delay, "delay", topo.Duration(0), "the least delay, one way, as 50ms")
		cmd.Flags().TextVar(&f.Loss, "loss", topo.Percent(0), "the least share of packets lost, as 2%")
	}
	again := func(cmd *cobra.Command, f *topo.Fault) {
		cmd.Flags().TextVar(&f.Every, "every", topo.Duration(0), "from one time that it goes down to the next, as 500ms")
		cmd.Flags().IntVar(&f.Times, "times", 0, "how often (default: until it is undone)")
	}
	carrier := func(cmd *cobra.Command, f *topo.Fault) {
		cmd.Flags().BoolVar(&f.Carrier, "carrier", false, "have the links between the sets lose carrier, too")
	}
	random := func(cmd *cobra.Command, f *topo.Fault) {
		cmd.Flags().TextVar(&f.MTBF, "mtbf", topo.Duration(0), "mean time from when a component is whole to its next failure, as 60s")
		cmd.Flags().TextVar(&f.MTTR, "mttr", topo.Duration(0), "mean time until it is mended, as 3s")
		cmd.Flags().StringSliceVar(&f.Of, "of", nil, "kinds of faults (default: link-down,node-crash)")
		cmd.Flags().StringSliceVar(&f.Among, "among", nil, "routers, hosts and sites that may fail (default: all)")
		complete(cmd, "of", func(string) []string {
			return []string{topo.FaultLinkDown, topo.FaultLinkSilent, topo.FaultNodeCrash, topo.FaultHostCrash, topo.FaultSiteDown}
		})
	}
	return family("fault", "break things in a running lab, behind its controller's back",
		ofLink(topo.FaultLinkDown, "cut a link: both ends lose carrier", "pe1 p1 --for 3s"),
		ofLink(topo.FaultLinkOneWay, "lose what the first node sends to the second, and have neither see it", "pe1 p1 --for 3s"),
		ofLink(topo.FaultLinkSilent, "lose what either node sends to the other, and have neither see it", "pe1 p1 --for 3s"),
		ofLink(topo.FaultDegrade, "make a link no better than that, each way", "pe1 p1 --loss 2% --delay 50ms", worse),
		ofLink(topo.FaultFlap, "take a link down again and again", "pe1 p1 --every 500ms --times 5", again),
		breaking("node-crash ROUTER", "crash a router; it boots when the fault is over", "  vpclab fault node-crash p1 --for 3s", exactArgs(1),
			func(f *topo.Fault, a []string) error { f.Node = a[0]; return nil }),
		breaking("host-crash SITE/NUMBER", "crash a hypervisor host with its VMs; disks stay", "  vpclab fault host-crash texas/1", exactArgs(1),
			func(f *topo.Fault, a []string) error { f.Host = a[0]; return nil }),
		breaking("site-down SITE", "crash all hosts and customer edges of a site", "  vpclab fault site-down texas", exactArgs(1),
			func(f *topo.Fault, a []string) error { f.Site = a[0]; return nil }),
		breaking("partition SET SET…", "cut sites and routers into sets that do not reach each other", "  vpclab fault partition texas illinois,oregon --for 5s",
			minArgs(2, "fault partition: want two sets or more, each of sites and routers with commas between"),
			func(f *topo.Fault, a []string) error {
				for _, set := range a {
					f.Apart = append(f.Apart, strings.Split(set, ","))
				}
				return nil
			}, carrier),
		breaking("churn", "have components fail at random, and be mended", "  vpclab fault churn --mtbf 60s --mttr 3s --of link-down", noArgs,
			func(*topo.Fault, []string) error { return nil }, random),
		newKill(),
		breaking("bgp-reset ROUTER", "cut off a router's BGP sessions", "  vpclab fault bgp-reset pe1", exactArgs(1),
			func(f *topo.Fault, a []string) error { f.Node = a[0]; return nil }),
		newFaultList(), newFaultUndo(),
	)
}

func newKill() *cobra.Command {
	return breaking("kill PROCESS WHERE", "kill a process: speaker, repair or a daemon of FRR (of a router), agent or witness (of a host), guest (of a VM)",
		"  vpclab fault kill speaker pe1\n  vpclab fault kill guest shop --for 5s", exactArgs(2),
		func(f *topo.Fault, a []string) error {
			f.Process = a[0]
			switch a[0] {
			case "agent", "witness":
				f.Host = a[1]
			case "guest":
				f.VM = a[1]
			default:
				f.Node = a[1]
			}
			return nil
		})
}

func newFaultList() *cobra.Command {
	return &cobra.Command{Use: "list", Short: "list the faults that are in force", Args: noArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		c, err := theClient()
		if err != nil {
			return err
		}
		ctx, cancel := limited(cmd)
		defer cancel()
		all, err := c.Faults(ctx)
		if err != nil {
			return err
		}
		if jsonOutput() {
			return printJSON(cmd, all)
		}
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "ID\tFAULT\tSINCE\tFOR")
		for _, v := range all {
			fmt.Fprintf(w, "%d\t%v\t%v\t%s\n", v.ID, v.Fault, v.Since.Round(10*time.Millisecond), strings.TrimPrefix(lasting(v.Fault), " for "))
		}
		return w.Flush()
	}}
}

func newFaultUndo() *cobra.Command {
	return &cobra.Command{Use: "undo [ID…]", Short: "undo faults by their numbers; without any: all", Example: "  vpclab fault undo", Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := theClient()
			if err != nil {
				return err
			}
			ctx, cancel := limited(cmd)
			defer cancel()
			return c.UndoFaults(ctx, args...)
		}}
}
