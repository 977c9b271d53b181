package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/metrics"
)

func newResults() *cobra.Command {
	var root string
	cmd := &cobra.Command{
		Use:   "results",
		Short: "list, verify and prune the runs that are kept in results/",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usageError{errors.New("results: list, verify or prune?")}
		},
	}
	cmd.PersistentFlags().StringVar(&root, "results", "results", "folder that the runs are in")
	cmd.AddCommand(
		&cobra.Command{
			Use:   "list",
			Short: "list runs with verdict, trials, kernel and clock",
			Args:  noArgs,
			RunE:  func(cmd *cobra.Command, _ []string) error { return listRuns(cmd, root) },
		},
		&cobra.Command{
			Use:   "verify [RUN-FOLDER…]",
			Short: "hold what was measured against the digests that each run ended with",
			Long:  "Hold what was measured against the digests that each run ended with; exit code 1 where something is not as it was. In a run's folder, sha256sum -c SHA256SUMS does the same. The default is all runs.",
			RunE:  func(cmd *cobra.Command, args []string) error { return eachRun(cmd, root, args, verifyRun) },
		},
		&cobra.Command{
			Use:   "prune [RUN-FOLDER…]",
			Short: "remove attempts that were killed or gave way, of runs that are finished",
			Long:  "Remove attempts that were killed or gave way to better ones, and files left half written, of runs that are finished: nothing that a figure or a verdict rests on. The default is all runs.",
			RunE:  func(cmd *cobra.Command, args []string) error { return eachRun(cmd, root, args, pruneRun) },
		},
	)
	return cmd
}

// listedRun is a line of `vpclab results list`.
type listedRun struct {
	Dir     string    `json:"dir"`
	Started time.Time `json:"started"`
	Verdict string    `json:"verdict"`
	Good    int       `json:"good"` // trials
	Void    int       `json:"void"`
	Failed  int       `json:"failed"`
	Kernel  string    `json:"kernel"`
	Clock   string    `json:"clock"`
	Version string    `json:"version"`
	Pieces  int       `json:"sessions"`
	Mixed   []string  `json:"mixed,omitempty"` // what is not the same in all sessions
	Bytes   int64     `json:"bytes"`
	Error   string    `json:"error,omitempty"` // it cannot be read
}

func listRuns(cmd *cobra.Command, root string) error {
	dirs, err := metrics.Runs(root)
	if err != nil {
		return err
	}
	all := make([]listedRun, 0, len(dirs))
	for _, dir := range dirs {
		r, err := describeRun(dir)
		if err != nil {
			r = listedRun{Dir: dir, Error: err.Error()}
		}
		all = append(all, r)
	}
	if jsonOutput() {
		return printJSON(cmd, all)
	}
	if len(all) == 0 {
		fmt.Fprintf(cmd.OutOrStdout(), "no runs in %s\n", root)
		return nil
	}
	t := lab.Table("Runs", "run", "verdict", "trials", "kernel", "clock", "version", "MB")
	for _, r := range all {
		if r.Error != "" {
			t.AppendRow([]any{r.Dir, "cannot be read: " + r.Error})
			continue
		}
		t.AppendRow([]any{r.Dir, r.Verdict, r.trials(), r.Kernel, r.Clock, r.version(), fmt.Sprintf("%.1f", float64(r.Bytes)/1e6)})
	}
	fmt.Fprintln(cmd.OutOrStdout(), t.Render())
	return nil
}

func (r listedRun) trials() string {
	text := fmt.Sprint(r.Good)
	if r.Void > 0 {
		text += fmt.Sprintf(", %d void", r.Void)
	}
	if r.Failed > 0 {
		text += fmt.Sprintf(", %d failed", r.Failed)
	}
	return text
}

func (r listedRun) version() string {
	if len(r.Mixed) == 0 {
		return r.Version
	}
	return r.Version + " and others: " + strings.Join(r.Mixed, "; ")
}

func describeRun(dir string) (listedRun, error) {
	store, err := metrics.Open(dir)
	if err != nil {
		return listedRun{}, err
	}
	info := store.Info()
	r := listedRun{
		Dir: dir, Started: info.Started, Verdict: info.Verdict, Kernel: info.Kernel.Substrate, Clock: info.Kernel.Clock,
		Version: info.Version, Pieces: max(1, len(info.Sessions)), Mixed: info.Mixture(),
	}
	trials, err := store.Trials()
	if err != nil {
		return r, err
	}
	for _, t := range trials {
		switch {
		case t.Good():
			r.Good++
		case t.Status == metrics.StatusFailed:
			r.Failed++
		default:
			r.Void++
		}
	}
	r.Bytes, err = store.Size()
	return r, err
}

// eachRun does something to the runs that are named, or to all below root.
// What it did not like of one is printed by it, and exit code 1.
func eachRun(cmd *cobra.Command, root string, dirs []string, do func(*cobra.Command, string) (bool, error)) error {
	if len(dirs) == 0 {
		var err error
		if dirs, err = metrics.Runs(root); err != nil {
			return err
		}
	}
	good := true
	for _, dir := range dirs {
		ok, err := do(cmd, dir)
		if err != nil {
			return err
		}
		good = good && ok
	}
	if !good {
		return exitCode(exitFailed)
	}
	return nil
}

func verifyRun(cmd *cobra.Command, dir string) (bool, error) {
	store, err := metrics.Open(dir)
	if err != nil {
		return false, usageError{err}
	}
	w := cmd.OutOrStdout()
	n, faults, err := store.Verify()
	switch {
	case errors.Is(err, metrics.ErrNoSums):
		fmt.Fprintf(w, "%s: cannot tell: it has no digests (format %d, verdict %s)\n", dir, store.Info().Schema, store.Info().Verdict)
		return true, nil
	case err != nil:
		return false, err
	case len(faults) == 0:
		fmt.Fprintf(w, "%s: %d files are as the run left them\n", dir, n)
		return true, nil
	}
	for _, f := range faults {
		fmt.Fprintf(w, "%s: %s\n", dir, f)
	}
	return false, nil
}

func pruneRun(cmd *cobra.Command, dir string) (bool, error) {
	freed, err := metrics.Prune(dir)
	var busy *metrics.BusyError
	switch {
	case errors.As(err, &busy):
		fmt.Fprintln(cmd.OutOrStdout(), err)
		return true, nil
	case err != nil:
		return false, err
	case freed > 0:
		fmt.Fprintf(cmd.OutOrStdout(), "%s: removed %.1f MB\n", dir, float64(freed)/1e6)
	}
	return true, nil
}
