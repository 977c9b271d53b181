package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/emu/migrate"
	"github.com/vpclab/vpclab/topo"
)

func newMigrate() *cobra.Command {
	var (
		req      lab.MigrateRequest
		cache    string
		qemu     map[string]string
		events   bool
		together bool
	)
	cmd := &cobra.Command{
		Use:   "migrate VM… --to HOST",
		Short: "move VMs with guests to another host while they run",
		Long: `Move VMs with guests to another hypervisor host while they run: the site joins the VPC if it has to, the disk is copied and then mirrored, the
memory is copied, and the VM is handed over. Several VMs move at the same time; with --together they also arrive at the same time. What it took is printed at
the end; with --events what happens is printed while it does.`,
		Example: "  vpclab migrate shop --to illinois/1\n  vpclab migrate shop --to illinois/1 --algorithm cloudnet --format json\n  vpclab migrate web db --to illinois/2 --together\n  vpclab migrate shop --to illinois/1 --algorithm qemu-multifd-zstd --qemu multifd-channels=4",
		Args:    minArgs(1, "migrate: want the names of VMs"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cache != "" {
				size, err := topo.ParseSize(cache)
				if err != nil {
					return usageError{fmt.Errorf("--cache: %w", err)}
				}
				req.Memory.Cache = int64(size)
			}
			if err := knownAlgorithm(req.Memory.Algorithm); err != nil {
				return err
			}
			if err := ofQEMU(&req, qemu); err != nil {
				return err
			}
			group := lab.MigrateGroupRequest{Together: together}
			for _, vm := range args {
				req.VM, req.Verbose = vm, events
				group.Migrations = append(group.Migrations, req)
			}
			return migrateVMs(cmd, group, events)
		},
	}
	f := cmd.Flags()
	f.StringVar(&req.To, "to", "", "hypervisor host, as site/number")
	f.StringVar(&req.Memory.Algorithm, "algorithm", migrate.Own, strings.Join(lab.Algorithms, ", "))
	f.StringSliceVar(&req.Memory.Encoders, "encoders", nil, "encoders in place of the algorithm's, as zero,cbr,delta,zstd-1")
	f.IntVar(&req.Memory.Block, "block", 0, "bytes of a block of the redundancy cache (default: the algorithm's)")
	f.StringVar(&cache, "cache", "", "size of the redundancy cache, as 25MiB (default: a tenth of the memory)")
	f.IntVar(&req.Memory.Window, "window", 0, "rounds that Smart Stop looks back (default: the algorithm's)")
	f.StringVar(&req.Memory.Verify, "verify", "online", "when the memories are compared: online, or pause, while the VM stands")
	f.StringToStringVar(&qemu, "qemu", nil, "parameters of QEMU's own migration (algorithms qemu-…), by its names, as max-bandwidth=1gbit,downtime-limit=100ms")
	f.BoolVar(&req.SharedDisk, "shared-disk", false, "leave the disk where it is: both hosts reach it")
	f.BoolVar(&req.Reuse, "reuse", false, "count what the destination still holds of an earlier stay")
	f.StringVar(&req.FailAt, "fail-at", "", "make an end fail: STEP=ACTION or STEP#N=ACTION; actions are kill, guest, error and hold")
	f.BoolVar(&together, "together", false, "let several VMs wait with their last round for each other")
	f.BoolVar(&events, "events", false, "print what happens on standard error")
	_ = cmd.MarkFlagRequired("to") // the flag exists
	complete(cmd, "algorithm", func(string) []string { return lab.Algorithms })
	complete(cmd, "verify", func(string) []string { return []string{"online", "pause"} })
	return cmd
}

func knownAlgorithm(name string) error {
	if slices.Contains(lab.Algorithms, name) {
		return nil
	}
	hint := ""
	if near := topo.Nearest(name, lab.Algorithms); near != "" {
		hint = fmt.Sprintf("; did you mean %s?", near)
	}
	return usageError{fmt.Errorf("--algorithm: there is no algorithm %q: there are %s%s", name, strings.Join(lab.Algorithms, ", "), hint)}
}

// migrateVMs has the lab do it and prints how it went.
func migrateVMs(cmd *cobra.Command, req lab.MigrateGroupRequest, events bool) error {
	c, err := theClient()
	if err != nil {
		return err
	}
	ctx, cancel := limited(cmd)
	defer cancel()
	p := newProgress(os.Stderr)
	all, err := c.MigrateAll(ctx, req, func(e event.Event) {
		if events {
			p.note(fmt.Sprintf("%s %-12s %-24s %s", e.Wall.Format("15:04:05.000000"), e.Node, e.Kind, attributes(e.Attr)))
		}
		if next, ok := phaseAfter[e.Kind+"/"+e.Attr["phase"]]; ok {
			if len(req.Migrations) > 1 {
				next = e.Node + ": " + next
			}
			p.step(next, 0, 0)
		}
	})
	p.end()
	if jsonOutput() && all != nil {
		return errors.Join(printJSON(cmd, all), err)
	}
	for _, m := range all {
		if m != nil && m.Committed {
			showMigration(cmd.OutOrStdout(), m)
		}
	}
	return err
}

// phaseAfter is what goes on after an event of a migration.
var phaseAfter = map[string]string{
	"migration.begun/": "join", "migration.phase/join": "copy", "migration.phase/disk": "memory", "migration.paused/": "hand over",
	"migration.committed/": "prove", "migration.carried-on/": "carry on",
}

// showMigration prints what a migration was.
func showMigration(w io.Writer, m *lab.Migration) {
	round := func(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }
	tw := tabwriter.NewWriter(w, 0, 0, 1, ' ', tabwriter.AlignRight)
	for _, p := range m.Phases() {
		fmt.Fprintf(tw, "%s\t%v\t\n", p.Name, round(p.Took))
	}
	_ = tw.Flush() // to the user's terminal
	if len(m.Rounds) > 0 {
		t := lab.Table("Rounds", "round", "to send", "sent", "skipped", "dirtied", "final", "kB", "took")
		for i, r := range m.Rounds {
			name := strconv.Itoa(i + 1)
			if r.Paused {
				name += " (paused)"
			}
			t.AppendRow(table.Row{name, r.ToSend, r.Sent, r.Skipped, r.Dirtied, r.Final, kilo(r.Bytes), round(r.Ended.Sub(r.Began))})
		}
		fmt.Fprintln(w, t.Render())
	}
	if len(m.Encoders) > 0 {
		t := lab.Table("Encoders", "encoder", "units", "kB in", "kB out", "CPU")
		for _, e := range m.Encoders {
			t.AppendRow(table.Row{e.Name, e.Units, kilo(e.In), kilo(e.Out), round(e.CPU)})
		}
		fmt.Fprintln(w, t.Render())
	}
	if q := m.QEMU; q != nil {
		fmt.Fprintf(w, "QEMU: downtime %v by its own word, slowed down by %d %% at most, %d pages of zeros", q.Downtime, q.Throttle, q.Zero)
		if q.Postcopy > 0 {
			fmt.Fprintf(w, ", %d pages asked for, stood at missing pages for %v", m.Faults.Demanded, q.Blocktime)
		}
		fmt.Fprintln(w)
	}
	if v := m.Checked; v != nil {
		fmt.Fprintf(w, "%s has compared %d pages and %d blocks with what it wrote: %d are wrong\n", m.VM, v.Pages, v.Blocks, v.Bad)
	}
	if d := m.Disk; d != nil {
		fmt.Fprintf(w, "disk: %d of %d blocks sent in %d rounds, %d mirrored, %s\n", d.Sent, d.Blocks, len(d.Rounds), d.Synced, proof(d.Hash, 0))
	}
	if st := m.Stream; st != nil {
		fmt.Fprintf(w, "stream: %.2f MB of QEMU's, %s", float64(st.Bytes)/1e6, proof(st.SHA256, 0))
		if st.Stop != nil {
			fmt.Fprintf(w, "; smart stop: %v", st.Stop)
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "%s runs on %s: total %v, paused %v, %.2f MB on the wire and %.2f MB back, memory %s\n",
		m.VM, m.To, round(m.Total()), round(m.Pause()), float64(m.WireOut)/1e6, float64(m.WireBack)/1e6, proof(m.Hash, m.Verify.Unproven))
}

// kilo is a number of bytes in thousands, rounded up.
func kilo(bytes int64) int64 { return (bytes + 999) / 1000 }

// proof says whether both ends were proven equal, and how much of them was not:
// pages that the VM had written before a new agent could hash them.
func proof(hash string, unproven int) string {
	switch {
	case hash == "":
		return "not proven equal"
	case unproven > 0:
		return fmt.Sprintf("proven equal but for %d pages (%s…)", unproven, hash[:min(16, len(hash))])
	}
	return "proven equal (" + hash[:min(16, len(hash))] + "…)"
}
