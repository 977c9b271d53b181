package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/vpclab/vpclab/emu/lab"
)

func newShell() *cobra.Command {
	var chassis bool
	cmd := &cobra.Command{
		Use:               "shell NODE [--] [COMMAND [ARG…]]",
		Aliases:           []string{"connect"},
		Short:             "open a shell in a node, on a terminal",
		Args:              minArgs(1, "shell wants a node"),
		ValidArgsFunction: completeNodes,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := theClient()
			if err != nil {
				return err
			}
			req := lab.ExecRequest{Node: args[0], Cmd: args[1:], TTY: true, Chassis: chassis}
			if len(req.Cmd) > 0 && req.Cmd[0] == "--" {
				req.Cmd = req.Cmd[1:]
			}
			req.Env = []string{"TERM=" + os.Getenv("TERM"), "PS1=" + args[0] + ":\\w# "}
			req.Dir, _ = os.Getwd()
			return onTerminal(cmd.Context(), c, req)
		},
	}
	chassisFlag(cmd, &chassis)
	cmd.Flags().SetInterspersed(false)
	return cmd
}

// onTerminal hands this terminal over to a process in a node.
func onTerminal(ctx context.Context, c *lab.Client, req lab.ExecRequest) error {
	in := int(os.Stdin.Fd())
	if !term.IsTerminal(in) {
		return usageError{fmt.Errorf("shell needs a terminal: use exec in scripts")}
	}
	size := func() lab.Size {
		cols, rows, err := term.GetSize(in)
		if err != nil {
			return lab.Size{}
		}
		return lab.Size{Rows: uint16(rows), Cols: uint16(cols)}
	}
	s := size()
	req.Rows, req.Cols = s.Rows, s.Cols
	old, err := term.MakeRaw(in)
	if err != nil {
		return fmt.Errorf("shell: set the terminal raw: %w", err)
	}
	defer term.Restore(in, old) //nolint:errcheck // nothing is left to do about it

	winch := make(chan os.Signal, 1)
	signal.Notify(winch, syscall.SIGWINCH)
	defer signal.Stop(winch)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sizes := make(chan lab.Size)
	go func() { // ends with ctx
		for {
			select {
			case <-winch:
			case <-ctx.Done():
				return
			}
			select {
			case sizes <- size():
			case <-ctx.Done():
				return
			}
		}
	}()
	code, err := c.Exec(ctx, req, lab.ExecStreams{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Resize: sizes})
	if err != nil {
		return err
	}
	return codeOf(code)
}
