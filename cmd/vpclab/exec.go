package main

import (
	"bytes"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/vpclab/vpclab/emu/lab"
)

func newExec() *cobra.Command {
	var chassis bool
	cmd := &cobra.Command{
		Use:   "exec NODE [--] COMMAND [ARG…]",
		Short: "run a command in a node and give its exit code",
		Long: `Run a command in a node's network namespace, with these streams, and exit with its code.

The files are this machine's; on a booted kernel they are read-only. A VM in QEMU has a kernel of its own, in which nothing
can be run from here: with --chassis the command runs in the namespace that holds the VM's network card.`,
		Example: "  vpclab exec -t quickstart red-paris-1 -- ping -c 3 10.0.2.11",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 2 || len(args) == 2 && args[1] == "--" {
				return usageError{fmt.Errorf("exec wants a node and a command")}
			}
			return nil
		},
		ValidArgsFunction: completeNodes,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := theClient()
			if err != nil {
				return err
			}
			req := lab.ExecRequest{Node: args[0], Cmd: args[1:], Chassis: chassis}
			if req.Cmd[0] == "--" {
				req.Cmd = req.Cmd[1:]
			}
			req.Dir, _ = os.Getwd()
			ctx, cancel := limited(cmd)
			defer cancel()
			var out, errs bytes.Buffer
			streams := lab.ExecStreams{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
			if jsonOutput() {
				streams.Stdout, streams.Stderr = &out, &errs
			}
			code, err := c.Exec(ctx, req, streams)
			if err != nil {
				return err
			}
			if jsonOutput() {
				if err := printJSON(cmd, lab.ExecResult{Code: code, Stdout: out.String(), Stderr: errs.String()}); err != nil {
					return err
				}
			}
			return codeOf(code)
		},
	}
	chassisFlag(cmd, &chassis)
	cmd.Flags().SetInterspersed(false)
	return cmd
}

// chassisFlag gives a verb that runs something in a node its flag.
func chassisFlag(cmd *cobra.Command, chassis *bool) {
	cmd.Flags().BoolVar(chassis, "chassis", false, "of a VM in QEMU: in the namespace of its network card")
}

// codeOf makes this process exit as another did.
func codeOf(code int) error {
	if code == 0 {
		return nil
	}
	return exitCode(code)
}
