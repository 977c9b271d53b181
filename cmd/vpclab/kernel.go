package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/vpclab/vpclab/emu/kernel"
	"github.com/vpclab/vpclab/topo"
)

// newKernel makes the verbs that work on the kernel itself. They are for the
// tests and for those who work on vpclab.
func newKernel() *cobra.Command {
	cmd := &cobra.Command{
		Use:    "kernel",
		Short:  "boot the kernel that carries labs, without a lab",
		Hidden: true,
	}
	cmd.AddCommand(newKernelExec(), newKernelProbe())
	return cmd
}

// newKernelProbe answers run.sh, which wants to know whether anything need be
// installed.
func newKernelProbe() *cobra.Command {
	return &cobra.Command{
		Use:   "probe",
		Short: "exit 0 if this machine's own kernel can carry a lab, else 3",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := kernel.Choose(cmd.Context(), kernel.Host)
			return err
		},
	}
}

// newKernelExec runs one command in a kernel of its own. It is the launcher of
//
//	go test -exec 'bin/vpclab kernel exec --' ./emu/...
func newKernelExec() *cobra.Command {
	var (
		substrate, memory string
		writable          []string
		dir               string
		verbose           bool
		box               boxFlags
	)
	cmd := &cobra.Command{
		Use:   "exec [flags] -- COMMAND [ARG…]",
		Short: "run one command in a lab kernel of its own and give its exit code",
		Long: `Run one command in a lab kernel of its own, in this folder, with these streams and this environment, and exit with its code.

Inside, the command is root; the host's files are there, read-only but for the --writable folders; /tmp and /run start empty.

With --clock virtual the kernel is a closed box on virtual time: the command, its libraries, the folder testdata of this one and what --file names are
packed into it, with the usual tools for networks; it reads an empty standard input, and nothing outside changes but by what it prints.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{fmt.Errorf("kernel exec: no command given")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			word, err := kernel.ParseSubstrate(substrate)
			if err != nil {
				return usageError{err}
			}
			size, err := topo.ParseSize(memory)
			if err != nil {
				return usageError{err}
			}
			cfg := kernel.Config{Substrate: word, Lab: "exec", Dir: dir, Memory: int64(size), Writable: writable}
			if verbose {
				cfg.Log = os.Stderr
			}
			if virtual, err := box.virtual(substrate); err != nil {
				return err
			} else if virtual {
				return box.exec(cmd.Context(), cfg, args, verbose)
			}
			began := time.Now()
			// The signals that end ctx are forwarded to the command instead.
			code, err := kernel.Exec(context.WithoutCancel(cmd.Context()), cfg, args, os.Environ(), os.Stdin, os.Stdout, os.Stderr)
			if err != nil {
				return err
			}
			if verbose {
				fmt.Fprintf(os.Stderr, "vpclab: exit code %d after %v\n", code, time.Since(began).Round(time.Millisecond))
			}
			if code != 0 {
				return exitCode(code)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&substrate, "kernel", "auto", "auto, host, uml or qemu")
	cmd.Flags().StringVar(&memory, "memory", "1GiB", "memory of the kernel")
	cmd.Flags().StringArrayVar(&writable, "writable", nil, "host folder that the command may write (may be repeated)")
	cmd.Flags().StringVar(&dir, "dir", "", "folder for the kernel's console log (default: a temporary one)")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "show the kernel's console on standard error")
	box.addTo(cmd)
	cmd.Flags().StringArrayVar(&box.files, "file", nil, "with --clock virtual: pack this file or folder too, under its own path (may be repeated)")
	cmd.Flags().SetInterspersed(false)
	return cmd
}
