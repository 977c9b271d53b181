// Command vpclab builds virtual private clouds on an emulated MPLS backbone
// and measures them. One file holds one verb; the work is done in emu/lab,
// scenarios, metrics and plots.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/vpclab/vpclab/emu/kernel"
)

// version is set by run.sh from git.
var version = "devel"

// Exit codes, the same for all verbs.
const (
	exitOK          = 0
	exitFailed      = 1   // an expectation failed, or an error of no other kind
	exitUsage       = 2   // the file or the usage is wrong
	exitUnusable    = 3   // this environment cannot run it
	exitInterrupted = 130 // interrupted: lab cleaned, results kept
)

// verbs make the subcommands of the root, in the order of the help text.
var verbs = []func() *cobra.Command{
	newDoctor,
	newKernel,
	newSpeaker,
}

func main() {
	if kernel.IsInit() {
		kernel.Init(serveInside)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := newRoot().ExecuteContext(ctx)
	interrupted := ctx.Err() != nil
	stop()
	os.Exit(report(err, interrupted))
}

// newRoot makes the command tree.
func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "vpclab",
		Short:         "virtual private clouds on an emulated MPLS backbone, measured",
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	for _, verb := range verbs {
		root.AddCommand(verb())
	}
	return root
}

// serveInside answers the control channel of a booted kernel.
func serveInside(ctx context.Context, ln net.Listener, args []string) error {
	return fmt.Errorf("nothing is served inside for %q", args)
}

// usageError marks a wrong flag or argument.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// exitCode carries the exit code of a command that ran elsewhere; it has been
// reported already.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// report prints err and gives the exit code that its kind calls for.
func report(err error, interrupted bool) int {
	var code exitCode
	if err == nil {
		return exitOK
	}
	if errors.As(err, &code) {
		return int(code)
	}
	fmt.Fprintln(os.Stderr, "vpclab:", err)
	var usage usageError
	switch {
	case interrupted:
		return exitInterrupted
	case kernel.IsUnusable(err):
		return exitUnusable
	case errors.As(err, &usage):
		return exitUsage
	}
	return exitFailed
}
