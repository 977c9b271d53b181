package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/vpclab/vpclab/emu/lab"
)

func newCapture() *cobra.Command {
	var req lab.CaptureRequest
	var file string
	cmd := &cobra.Command{
		Use:   "capture [LINK…]",
		Short: "catch frames off links, as pcapng",
		Long: `Catch frames off links, as pcapng: one interface for each end, named node:interface.

A link is named as inspect does (a:eth1--b:eth1), by its two nodes (a--b), or by one end (a:eth1). Without a name all links are watched.`,
		Example: "  vpclab capture -t quickstart pe1--p1 | wireshark -k -i -\n  vpclab capture -t quickstart --node p1 --duration 10s -w p1.pcapng",
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Links = append(req.Links, args...)
			c, err := theClient()
			if err != nil {
				return err
			}
			ctx, cancel := limited(cmd)
			defer cancel()
			return captureTo(ctx, c, req, file)
		},
	}
	f := cmd.Flags()
	f.StringSliceVarP(&req.Links, "link", "i", nil, "link or interface to watch, or all")
	f.StringSliceVar(&req.Nodes, "node", nil, "only the ends in these nodes")
	f.StringVarP(&file, "write", "w", "-", "file to write (-: standard output)")
	f.IntVarP(&req.Count, "count", "c", 0, "end after this many frames")
	f.DurationVarP(&req.Duration, "duration", "d", 0, "end after this time")
	f.IntVarP(&req.SnapLen, "snaplen", "s", 0, "keep only so many bytes of each frame")
	complete(cmd, "node", func(string) []string { return nodeNames(cmd) })
	return cmd
}

// captureTo writes a capture to a file, or to standard output.
func captureTo(ctx context.Context, c *lab.Client, req lab.CaptureRequest, file string) (err error) {
	var w io.Writer = os.Stdout
	if file == "-" {
		if term.IsTerminal(int(os.Stdout.Fd())) {
			return usageError{fmt.Errorf("capture: standard output is a terminal: give -w FILE, or pipe it to a reader")}
		}
	} else {
		f, ferr := os.Create(file)
		if ferr != nil {
			return usageError{fmt.Errorf("capture: %w", ferr)}
		}
		defer func() {
			if cerr := f.Close(); err == nil {
				err = cerr
			}
		}()
		w = f
	}
	began := time.Now()
	n := &counted{w: w}
	err = c.Capture(ctx, req, n, func() { fmt.Fprintln(os.Stderr, "vpclab: capturing; interrupt to end") })
	if err == nil {
		fmt.Fprintf(os.Stderr, "vpclab: %d bytes in %v\n", n.n, time.Since(began).Round(time.Millisecond))
	}
	return err
}

type counted struct {
	w io.Writer
	n int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
