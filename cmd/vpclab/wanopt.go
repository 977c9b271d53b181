package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/emu/migrate/codec"
	"github.com/vpclab/vpclab/emu/migrate/wire"
	"github.com/vpclab/vpclab/emu/qmp"
	"github.com/vpclab/vpclab/emu/wanopt"
	"github.com/vpclab/vpclab/topo"
)

// newWanopt is the parent of the two ends of the pair.
func newWanopt() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "wanopt",
		Short: "move VMs of stock QEMUs over a WAN in fewer bytes",
		Long: `Carry a live migration between two stock QEMUs over a WAN: each connects to the end on its own host, by a Unix socket. Between the ends go
differences, copies and compressed pages; what comes out is what went in, byte for byte, which both ends prove by a hash. With --qmp the end at the source
also decides when the VM stops, so that it stands for as short as it can. No lab is needed, and no privilege but the sockets'.

Nothing is encrypted: the way between the ends is to be a private one.`,
		Example: `On the host that the VM comes to:

  vpclab wanopt destination --listen :4440 --connect unix:/run/vm-in.sock &
  qemu-system-x86_64 …the same as at the source… -incoming unix:/run/vm-in.sock

On the host that it leaves, where it runs as
qemu-system-x86_64 … -qmp unix:/run/vm.qmp,server=on,wait=off -qmp unix:/run/vm2.qmp,server=on,wait=off:

  vpclab wanopt source --listen unix:/run/vm-out.sock --connect far-host:4440 --qmp /run/vm2.qmp &

and then to the first monitor (/run/vm.qmp):

  {"execute": "qmp_capabilities"}
  {"execute": "migrate-set-capabilities", "arguments": {"capabilities": [{"capability": "return-path", "state": true}]}}
  {"execute": "migrate", "arguments": {"uri": "unix:/run/vm-out.sock"}}`,
	}
	cmd.AddCommand(newWanoptSource(), newWanoptDestination())
	return cmd
}

// wanoptFlags are those of both ends.
type wanoptFlags struct {
	listen, connect string
	pair            string
	stats           string
	memory          string
	patience        time.Duration
}

func (w *wanoptFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&w.pair, "pair", "", "name of this migration, the same at both ends, where there are several")
	f.StringVar(&w.stats, "stats", "", "file for what was measured, as JSON (-: standard output)")
	f.StringVar(&w.memory, "memory", "", "largest memory of a guest, as 16GiB: each end holds a copy of it (default: any)")
	f.DurationVar(&w.patience, "patience", 10*time.Second, "how long a broken connection between the ends may take to come back")
}

// addresses reads both, and the memory.
func (w *wanoptFlags) read() (listen, connect wanopt.Address, memory int64, err error) {
	if listen, err = wanopt.ParseAddress(w.listen); err != nil {
		return listen, connect, 0, usageError{fmt.Errorf("--listen: %w", err)}
	}
	if connect, err = wanopt.ParseAddress(w.connect); err != nil {
		return listen, connect, 0, usageError{fmt.Errorf("--connect: %w", err)}
	}
	if w.memory != "" {
		size, err := topo.ParseSize(w.memory)
		if err != nil {
			return listen, connect, 0, usageError{fmt.Errorf("--memory: %w", err)}
		}
		memory = int64(size)
	}
	return listen, connect, memory, nil
}

func (w *wanoptFlags) wire(dial func(context.Context) (net.Conn, error)) wire.Config {
	return wire.Config{ID: wanopt.ID(w.pair), Dial: dial, Patience: w.patience}
}

func warnWanopt(what string) { slog.Warn("wanopt: " + what) }

func newWanoptSource() *cobra.Command {
	var (
		w    wanoptFlags
		near wanopt.Near
		size string
		path string
		rule wanopt.Rule
	)
	cmd := &cobra.Command{
		Use:   "source --listen unix:PATH --connect HOST:PORT",
		Short: "be the pair's end at the host that a VM leaves",
		Long: `Wait for a QEMU that migrates to --listen, and carry its stream to the end at --connect. It ends with that one migration. When it is interrupted, or the other
end is lost, QEMU is hung up on: its migration fails, and the VM goes on here.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			listen, connect, memory, err := w.read()
			if err != nil {
				return err
			}
			if size != "" {
				n, err := topo.ParseSize(size)
				if err != nil {
					return usageError{fmt.Errorf("--cache: %w", err)}
				}
				near.Cache = int64(n)
			}
			if _, err := codec.Parse(codec.Config{Pages: 1, Block: near.Block, Cache: near.Cache}, near.Encoders); err != nil {
				return usageError{fmt.Errorf("--encoders: %w", err)}
			}
			ctx, cancel := limited(cmd)
			defer cancel()
			near.MostMemory, near.Warn = memory, warnWanopt
			near.Open = func(ctx context.Context, channel uint8) (wire.Session, error) {
				cfg := w.wire(connect.Dial)
				cfg.Channel = channel
				return wire.Open(ctx, cfg)
			}
			l, err := listen.Listen(ctx)
			if err != nil {
				return err
			}
			defer l.Close()
			if path == "" {
				st, err := near.Serve(ctx, l)
				return w.show(cmd, st, err)
			}
			m, err := qmp.Dial(ctx, path)
			if err != nil {
				return err
			}
			defer m.Close()
			st, err := near.ServeSmart(ctx, l, m, rule)
			return w.show(cmd, st, err)
		},
	}
	f := cmd.Flags()
	f.StringVar(&w.listen, "listen", "", "where QEMU migrates to: unix:PATH or HOST:PORT")
	f.StringVar(&w.connect, "connect", "", "where the end at the destination listens: HOST:PORT")
	f.StringSliceVar(&near.Encoders, "encoders", nil, "encoders, as vpclab, or zero,cbr,delta,zstd-1, or raw (default vpclab)")
	f.IntVar(&near.Block, "block", 0, "bytes of a block of cbr (default 1024)")
	f.StringVar(&size, "cache", "", "size of cbr's cache, as 25MiB (default: a tenth of the memory)")
	f.StringVar(&path, "qmp", "", "a monitor of QEMU's that nobody else uses: the VM is stopped when that is best")
	f.DurationVar(&rule.Goal, "goal", 20*time.Millisecond, "pause that is short enough")
	f.IntVar(&rule.Window, "window", 3, "rounds that Smart Stop looks back")
	f.IntVar(&rule.Rounds, "rounds", 10, "rounds after which the VM is stopped at the best moment so far")
	w.add(cmd)
	return cmd
}

func newWanoptDestination() *cobra.Command {
	var w wanoptFlags
	cmd := &cobra.Command{
		Use:   "destination --listen HOST:PORT --connect unix:PATH",
		Short: "be the pair's end at the host that a VM comes to",
		Long: `Wait for the end at the source, and give its stream to the QEMU that waits at --connect (-incoming). It ends with that one migration. When it is interrupted, or the
other end is lost, QEMU is hung up on, and its VM does not start.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			listen, connect, memory, err := w.read()
			if err != nil {
				return err
			}
			ctx, cancel := limited(cmd)
			defer cancel()
			l, err := listen.Listen(ctx)
			if err != nil {
				return err
			}
			sessions := wire.Listen(l, w.wire(nil))
			defer sessions.Close()
			st, err := wanopt.Far{Accept: sessions.Accept, Dial: connect.Dial, MostMemory: memory, Warn: warnWanopt}.Serve(ctx)
			return w.show(cmd, st, err)
		},
	}
	f := cmd.Flags()
	f.StringVar(&w.listen, "listen", "", "where the end at the source connects to: HOST:PORT, or :PORT")
	f.StringVar(&w.connect, "connect", "", "where QEMU waits for the VM: unix:PATH or HOST:PORT")
	w.add(cmd)
	return cmd
}

// show prints what was measured, whether or not it went well.
func (w *wanoptFlags) show(cmd *cobra.Command, st *wanopt.Stats, err error) error {
	if st == nil {
		return err
	}
	if w.stats != "" {
		err = errors.Join(err, writeStats(cmd, w.stats, st))
	}
	switch {
	case jsonOutput() && w.stats != "-":
		err = errors.Join(err, printJSON(cmd, st))
	case w.stats != "-":
		showWanopt(cmd.OutOrStdout(), st)
	}
	return err
}

func writeStats(cmd *cobra.Command, file string, st *wanopt.Stats) error {
	if file == "-" {
		return printJSON(cmd, st)
	}
	f, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("--stats: %w", err)
	}
	return errors.Join(encodeJSON(f, st), f.Close())
}

func showWanopt(out io.Writer, st *wanopt.Stats) {
	if len(st.Encoders) > 0 {
		t := lab.Table("Encoders", "encoder", "units", "kB in", "kB out", "CPU")
		for _, e := range st.Encoders {
			t.AppendRow(table.Row{e.Name, e.Units, kilo(e.In), kilo(e.Out), e.CPU.Round(10 * time.Microsecond)})
		}
		fmt.Fprintln(out, t.Render())
	}
	if st.Stop != nil {
		fmt.Fprintln(out, "smart stop:", st.Stop)
	}
	proof := "not proven equal"
	if st.Equal {
		proof = "proven equal (" + st.SHA256[:16] + "…)"
	}
	pages := ""
	if st.Pages > 0 { // only the end at the source knows
		pages = fmt.Sprintf(" (%d pages, %d of zeros)", st.Pages, st.Zeros)
	}
	fmt.Fprintf(out, "%.2f MB of QEMU's stream%s in %v: %.2f MB to the other end and %.2f MB from it, CPU %v, %s\n",
		float64(st.Bytes)/1e6, pages, st.Took.Round(time.Millisecond), float64(st.WANOut)/1e6, float64(st.WANIn)/1e6,
		st.CPU.Round(time.Millisecond), proof)
}
