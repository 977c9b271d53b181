// Command vpclab builds virtual private clouds on an emulated MPLS backbone
// and measures them. One file holds one verb; the work is done in emu/lab,
// scenarios, metrics and plots.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/vpclab/vpclab/emu/frr"
	"github.com/vpclab/vpclab/emu/kernel"
	"github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/emu/stock"
	_ "github.com/vpclab/vpclab/emu/warm" // starts faster in User Mode Linux
	"github.com/vpclab/vpclab/topo"
)

// version is set by run.sh from git.
var version = "devel"

// Exit codes, the same for all verbs.
const (
	exitOK          = 0
	exitFailed      = 1   // an expectation failed, or an error of no other kind
	exitUsage       = 2   // the file or the usage is wrong
	exitUnusable    = 3   // this environment cannot run it
	exitRegression  = 4   // new results are worse than old ones
	exitSkip        = 125 // --bisect: it cannot be told
	exitAbort       = 128 // --bisect: nothing can be told by going on
	exitInterrupted = 130 // interrupted: lab cleaned, results kept
)

// groups order the help text.
var groups = []struct {
	title string
	verbs []func() *cobra.Command
}{
	{"Experiments:", []func() *cobra.Command{newRun, newRerun, newReproduce, newPlot, newReport, newTable, newPredict, newResults, newCompare, newBaseline, newAB}},
	{"Labs:", []func() *cobra.Command{newDeploy, newDestroy, newInspect, newExec, newShell, newConsole, newCapture, newEvents, newAudit}},
	{"Changing a running lab:", []func() *cobra.Command{newVPC, newVM, newMigrate, newSwitchOver, newReservation, newLink, newFault}},
	{"Real VMs, without a lab:", []func() *cobra.Command{newWanopt, newGuestQEMU}},
	{"Scenarios:", []func() *cobra.Command{newValidate, newRender, newGraph, newSchema}},
	{"This machine:", []func() *cobra.Command{newDoctor, newCalibrate, newGC, newVersion}},
	{"", []func() *cobra.Command{newKernel, newBoxed, newKeeper, newSpeaker, newFRR, newHypervisor, newWitness, newRepair, newGuest, newLoad}}, // hidden
}

func main() {
	if kernel.IsInit() {
		kernel.Init(serveInside)
	}
	os.Exit(runMain())
}

// runMain runs the verb that the command line names and gives the exit code. A
// second interrupt ends the program at once.
func runMain() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	context.AfterFunc(ctx, stop)
	err := newRoot().ExecuteContext(ctx)
	return report(err, ctx.Err() != nil)
}

// newRoot makes the command tree.
func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "vpclab",
		Short: "virtual private clouds on an emulated MPLS backbone, measured",
		Long: `vpclab builds enterprise clouds from one scenario file: MPLS backbone, BGP/MPLS VPNs, sites and machines, as network
namespaces on a real Linux kernel; does experiments on them in repeated trials; and leaves figures with intervals and a verdict.

Every flag can also be given in the environment: --log-level as VPCLAB_LOG_LEVEL.
Exit codes: 0 ok, 1 failed, 2 wrong file or usage, 3 this machine cannot run it (vpclab doctor), 4 a regression, 130 interrupted.`,
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	addGlobals(root)
	for _, g := range groups {
		if g.title != "" {
			root.AddGroup(&cobra.Group{ID: g.title, Title: g.title})
		}
		for _, verb := range g.verbs {
			cmd := verb()
			cmd.GroupID = g.title
			root.AddCommand(cmd)
		}
	}
	root.SetHelpCommandGroupID("This machine:")
	root.SetCompletionCommandGroupID("This machine:")
	return root
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
	var faults topo.Diagnostics
	switch {
	case interrupted && errors.Is(err, context.Canceled):
		fmt.Fprintln(os.Stderr, "vpclab: interrupted")
	case errors.As(err, &faults):
		fmt.Fprintln(os.Stderr, err) // begins with file:line:col, which editors look for
	default:
		fmt.Fprintln(os.Stderr, "vpclab:", err)
	}
	switch {
	case interrupted:
		return exitInterrupted
	case kernel.IsUnusable(err), frr.IsMissing(err), stock.IsMissing(err):
		return exitUnusable
	case isUsage(err), errors.As(err, &faults):
		return exitUsage
	}
	return exitFailed
}

// isUsage tells errors of the caller's making from those of the world: a wrong
// flag, or a name that is not there.
func isUsage(err error) bool {
	var usage usageError
	var remote *lab.RemoteError
	switch {
	case errors.As(err, &usage), errors.Is(err, lab.ErrNoLab):
		return true
	case errors.As(err, &remote):
		return remote.Kind == "not-found" || remote.Kind == "invalid"
	}
	return strings.HasPrefix(err.Error(), "unknown command ") // cobra's own, which has no type
}
