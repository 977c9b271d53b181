package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/scenarios"
	"github.com/vpclab/vpclab/topo"
)

// A run is done again, or gone on with, from its run.json alone: the scenario's
// text, the seed, the verb and its flags.

// placeFlags are flags that say where things lie, how they are shown, or which
// text is run, which run.json keeps itself. All others bear on what is measured:
// a new flag is recorded unless it is named here.
var placeFlags = []string{"results", "resume", "no-plots", "topo", "format", "log-level", "timeout", "help", "version", "quick", "full", "print"}

// recordFlags are the flags of a verb that bear on what it measures, with the
// values that hold, whether given or not: what is the default today need not be
// tomorrow. Empty ones are left out.
func recordFlags(cmd *cobra.Command) map[string][]string {
	all := map[string][]string{}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if slices.Contains(placeFlags, f.Name) {
			return
		}
		if list, ok := f.Value.(pflag.SliceValue); ok {
			if values := list.GetSlice(); len(values) > 0 {
				all[f.Name] = values
			}
			return
		}
		if value := f.Value.String(); value != "" {
			all[f.Name] = []string{value}
		}
	})
	return all
}

// flagsOf are the flags by which a run is done as it was: on the kernel that it
// was on, whatever was asked for.
func flagsOf(info metrics.RunInfo) map[string][]string {
	flags := map[string][]string{}
	recorded := info.Flags
	if recorded == nil { // of a version that kept the command line only
		recorded = flagsOfArgs(info.Args)
	}
	for name, values := range recorded {
		flags[name] = values
	}
	if info.Kernel.Substrate != "" {
		flags["kernel"] = []string{info.Kernel.Substrate}
	}
	return flags
}

// flagsOfArgs reads a command line of ours as it would be read now. What is not
// understood any more is not in it.
func flagsOfArgs(args []string) map[string][]string {
	saved := global // a new tree sets it to the defaults
	defer func() { global = saved }()
	root := &cobra.Command{}
	addGlobals(root)
	root.AddCommand(newRun(), newReproduce())
	cmd, rest, err := root.Find(args)
	if err != nil || cmd.ParseFlags(rest) != nil {
		return nil
	}
	return recordFlags(cmd)
}

// applyFlags gives a verb the flags of an earlier run, but for those that the
// user gave himself.
func applyFlags(cmd *cobra.Command, flags map[string][]string) error {
	for name, values := range flags {
		f := cmd.Flags().Lookup(name)
		if f == nil {
			return fmt.Errorf("the run was given --%s=%s, which vpclab %s does not know", name, strings.Join(values, ","), cmd.Name())
		}
		if f.Changed {
			continue
		}
		var err error
		if list, ok := f.Value.(pflag.SliceValue); ok {
			err = list.Replace(values)
		} else if len(values) == 1 {
			err = f.Value.Set(values[0])
		}
		if err != nil {
			return fmt.Errorf("the run was given --%s=%s: %w", name, strings.Join(values, ","), err)
		}
	}
	return nil
}

// recall reads the run that is to be gone on with, and takes over its flags.
func (o *runOptions) recall(cmd *cobra.Command) error {
	if o.resume == "" {
		return nil
	}
	store, err := metrics.Open(o.resume)
	if err != nil {
		return usageError{err}
	}
	info := store.Info()
	o.was = &info
	if err := applyFlags(cmd, flagsOf(info)); err != nil {
		return usageError{fmt.Errorf("go on with %s: %w", o.resume, err)}
	}
	return nil
}

// scenarioOf is the scenario of a run, as that run had it.
func scenarioOf(info metrics.RunInfo) (*topo.Scenario, *topo.Plan, error) {
	sc, plan, err := scenarios.Parse(info.File, []byte(info.Source))
	if err != nil {
		return nil, nil, fmt.Errorf("the scenario that run %s was given: %w", info.ID, err)
	}
	if sc.Seed == info.Seed && sc.Name == info.Scenario {
		return sc, plan, nil
	}
	sc.Seed, sc.Name = info.Seed, info.Scenario
	plan, err = topo.Expand(sc)
	return sc, plan, err
}

// lastSession is the circumstances in which a run was last at work.
func lastSession(info metrics.RunInfo) metrics.Session {
	if n := len(info.Sessions); n > 0 {
		return info.Sessions[n-1]
	}
	return metrics.Session{Version: info.Version, Program: info.Program, Kernel: info.Kernel, Host: info.Host}
}

// notice tells what is not as it was in the run that is gone on with or
// repeated, and notes it in the results of a repetition.
func (o runOptions) notice(now metrics.RunInfo, p *progress) {
	if o.was == nil {
		return
	}
	different := metrics.Differences(lastSession(*o.was), metrics.Session{Version: now.Version, Program: now.Program, Kernel: now.Kernel, Host: now.Host})
	if o.origin != nil {
		different = append(different, differentFlags(flagsOf(*o.was), now.Flags)...)
		o.origin.Different = different
	}
	for _, d := range different {
		p.note("vpclab: not as it was: " + d)
	}
}

// differentFlags are those whose values are not the same, one line each.
func differentFlags(was, now map[string][]string) (lines []string) {
	all := maps.Clone(was)
	maps.Copy(all, now)
	delete(all, "kernel") // the kernel itself is compared
	for name := range all {
		if !slices.Equal(was[name], now[name]) {
			lines = append(lines, fmt.Sprintf("--%s: %q, now %q", name, strings.Join(was[name], ","), strings.Join(now[name], ",")))
		}
	}
	slices.Sort(lines)
	return lines
}

// programDigest begins to compute the SHA-256 of this program, which takes a
// tenth of a second, and returns the way to wait for it.
func programDigest() func() (string, error) {
	digest := sync.OnceValues(func() (string, error) {
		self := "/proc/self/exe" // what runs, though the file may have been replaced
		if _, err := os.Stat(self); err != nil {
			if self, err = os.Executable(); err != nil {
				return "", fmt.Errorf("find this program: %w", err)
			}
		}
		return metrics.FileDigest(self)
	})
	go func() { _, _ = digest() }() // ends by itself
	return digest
}

// imageDigest is the SHA-256 of the file that a kernel was booted from, "" on
// the host's kernel.
func imageDigest(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	sum, err := metrics.FileDigest(path)
	if err != nil {
		return "", fmt.Errorf("digest of the kernel %s: %w", path, err)
	}
	return sum, nil
}

// absolute is a folder's name from the root, for people who stand elsewhere.
func absolute(dir string) string {
	if abs, err := filepath.Abs(dir); err == nil {
		return abs
	}
	return dir
}
