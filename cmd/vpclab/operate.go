package main

import (
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/topo"
)

// The verbs that change a running lab by one operation: vpc, vm, reservation
// and link. What they change is the running lab alone; a deploy of its file
// makes it what the file says.

// change is a verb that carries out one operation; fill makes it from the
// arguments.
func change(use, short, example string, args cobra.PositionalArgs, fill func(op *topo.Operation, args []string), flags ...func(*cobra.Command, *topo.Operation)) *cobra.Command {
	var op topo.Operation
	var dryRun bool
	cmd := &cobra.Command{
		Use: use, Short: short, Args: args, Example: example,
		RunE: func(cmd *cobra.Command, args []string) error {
			fill(&op, args)
			return operate(cmd, op, dryRun)
		},
	}
	for _, flag := range flags {
		flag(cmd, &op)
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "print what would be changed, and change nothing")
	return cmd
}

// operate has the lab do op and prints its time line. As with deploy, --timeout
// bounds the lab's wait for VPN routes: its error says which ones are missing.
func operate(cmd *cobra.Command, op topo.Operation, dryRun bool) error {
	c, err := theClient()
	if err != nil {
		return err
	}
	p := newProgress(os.Stderr)
	done, err := c.Operate(cmd.Context(), lab.OperateRequest{Operation: op, DryRun: dryRun, Deadline: global.timeout},
		func(ph lab.Phase) { p.step(ph.Name, ph.Done, ph.Total) })
	p.end()
	if err != nil {
		return err
	}
	if jsonOutput() {
		return printJSON(cmd, done)
	}
	w := cmd.OutOrStdout()
	if done.Preview != nil {
		fmt.Fprint(w, done.Preview.String())
		return nil
	}
	showStages(w, done.Done)
	fmt.Fprintf(w, "%s done in %v: %s\n", op.Do, done.Done.Total().Round(10*time.Microsecond), changesOf(done.Done))
	return nil
}

// family is a verb that has verbs.
func family(use, short string, verbs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: noArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(verbs...)
	return cmd
}

// listing is a verb that prints a part of what the lab holds.
func listing(short string, section lab.Section) *cobra.Command {
	return &cobra.Command{Use: "list", Short: short, Args: noArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		c, err := theClient()
		if err != nil {
			return err
		}
		ctx, cancel := limited(cmd)
		defer cancel()
		rep, err := c.Inspect(ctx, lab.InspectRequest{Sections: []lab.Section{section}})
		if err != nil {
			return err
		}
		if jsonOutput() {
			return printJSON(cmd, rep)
		}
		rep.Text(cmd.OutOrStdout())
		return nil
	}}
}

func newVPC() *cobra.Command {
	service := func(cmd *cobra.Command, op *topo.Operation) {
		cmd.Flags().StringVar(&op.Service, "service", "vpls", "how the sites are joined: l3vpn or vpls")
		complete(cmd, "service", func(string) []string { return []string{"l3vpn", "vpls"} })
		cmd.Flags().Func("subnet", "the one subnet of a vpls (default: 10.<vpc>.0.0/16)", func(text string) error {
			op.Subnet = &topo.Prefix{}
			return op.Subnet.UnmarshalText([]byte(text))
		})
	}
	member := func(op *topo.Operation, a []string) { op.VPC, op.Site = a[0], a[1] }
	return family("vpc", "create, delete, join and leave VPCs of a running lab",
		change("create VPC [SITE…]", "make a VPC, at the sites named", "  vpclab vpc create globex texas hq --service l3vpn", minArgs(1, "vpc create: want the name of the VPC, and its sites"),
			func(op *topo.Operation, a []string) { op.Do, op.VPC, op.Sites = "create", a[0], a[1:] }, service),
		change("delete VPC", "remove a VPC with everything in it", "  vpclab vpc delete globex", exactArgs(1),
			func(op *topo.Operation, a []string) { op.Do, op.VPC = "delete", a[0] }),
		change("join VPC SITE", "join a site to a VPC", "  vpclab vpc join acme illinois", exactArgs(2),
			func(op *topo.Operation, a []string) { op.Do = "join"; member(op, a) }),
		change("leave VPC SITE", "take a site out of a VPC; its LAN and machines stay", "  vpclab vpc leave acme illinois", exactArgs(2),
			func(op *topo.Operation, a []string) { op.Do = "leave"; member(op, a) }),
		newFlush(),
		listing("list the VPCs, their sites and where they are joined", lab.VPCs),
	)
}

func newFlush() *cobra.Command {
	return &cobra.Command{Use: "flush VPC", Short: "make all bridges of a vpls forget the MACs they have learned", Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := theClient()
			if err != nil {
				return err
			}
			ctx, cancel := limited(cmd)
			defer cancel()
			return c.FlushMACs(ctx, args[0])
		}}
}

func newVM() *cobra.Command {
	onto := func(cmd *cobra.Command, op *topo.Operation) {
		cmd.Flags().StringVar(&op.Host, "host", "", "hypervisor host, as site/number")
	}
	into := func(cmd *cobra.Command, op *topo.Operation) {
		cmd.Flags().StringVar(&op.Site, "site", "", "enterprise, in place of a host")
	}
	named := func(cmd *cobra.Command, op *topo.Operation) {
		cmd.Flags().StringVar(&op.Name, "name", "", "name of the new VM (default: <vm>-r1, -r2 …)")
	}
	return family("vm", "add, remove, replicate and move VMs of a running lab",
		change("add VPC [VM]", "start a VM on a host, or a machine at an enterprise; its site joins the VPC if it has to", "  vpclab vm add acme --host texas/1", rangeArgs(1, 2),
			func(op *topo.Operation, a []string) {
				op.Do, op.VPC = "add", a[0]
				if len(a) > 1 {
					op.VM = a[1]
				}
			}, onto, into),
		change("remove VM", "end a VM", "  vpclab vm remove shop", exactArgs(1),
			func(op *topo.Operation, a []string) { op.Do, op.VM = "remove", a[0] }),
		change("replicate VM", "start a VM like another one: it is in the VPC at once", "  vpclab vm replicate shop --host illinois/1", exactArgs(1),
			func(op *topo.Operation, a []string) { op.Do, op.VM = "replicate", a[0] }, onto, named),
		change("move VM", "move a VM cold to another host or site; in a vpls it keeps its addresses", "  vpclab vm move shop --host illinois/1", exactArgs(1),
			func(op *topo.Operation, a []string) { op.Do, op.VM = "move", a[0] }, onto, into),
		listing("list the machines and VMs", lab.Machines),
	)
}

func newReservation() *cobra.Command {
	what := func(cmd *cobra.Command, op *topo.Operation) {
		f := cmd.Flags()
		f.StringVar(&op.VPC, "vpc", "", "the VPC that both ends are in (default: that of a machine among them)")
		f.TextVar(&op.Rate, "rate", topo.Rate(0), "bits a second, each way, as 50mbit")
		f.StringSliceVar(&op.Path, "path", nil, "routers to go by, PE to PE (default: the cheapest path with room)")
		_ = cmd.MarkFlagRequired("rate") // the flag exists
	}
	return family("reservation", "set bandwidth aside between two machines or sites of a VPC",
		change("add NAME END END", "set bandwidth aside; an end is a machine or a site", "  vpclab reservation add video shop hq --rate 50mbit", exactArgs(3),
			func(op *topo.Operation, a []string) { op.Do, op.Name, op.Between = "reserve", a[0], a[1:] }, what),
		change("remove NAME", "give it back", "  vpclab reservation remove video", exactArgs(1),
			func(op *topo.Operation, a []string) { op.Do, op.Name = "release", a[0] }),
		listing("list the reservations with their paths", lab.Reservations),
	)
}

func newLink() *cobra.Command {
	pair := func(do string) func(op *topo.Operation, a []string) {
		return func(op *topo.Operation, a []string) { op.Do, op.Link = do, a }
	}
	return family("link", "fail and restore backbone links of a running lab",
		change("fail ROUTER ROUTER", "take a link down; the controller leads everything around it that it can", "  vpclab link fail p1 p2", exactArgs(2), pair("fail")),
		change("restore ROUTER ROUTER", "bring it back", "  vpclab link restore p1 p2", exactArgs(2), pair("restore")),
		listing("list all links", lab.Links),
	)
}

// changesOf counts what a change did, in words.
func changesOf(t *lab.Timeline) string {
	parts := []string{fmt.Sprintf("%d kernel changes", t.Changes)}
	if t.Added > 0 || t.Removed > 0 {
		parts = append(parts, fmt.Sprintf("%d VPN routes and pseudowires programmed", t.Added), fmt.Sprintf("%d removed", t.Removed))
	}
	return strings.Join(parts, ", ")
}

// showStages prints the stages of a change, one a line.
func showStages(w interface{ Write([]byte) (int, error) }, t *lab.Timeline) {
	tw := tabwriter.NewWriter(w, 0, 0, 1, ' ', tabwriter.AlignRight)
	for _, s := range t.Stages() {
		fmt.Fprintf(tw, "%s\t%v\t\n", s.Name, s.Took.Round(10*time.Microsecond))
	}
	_ = tw.Flush() // to the user's terminal
}
