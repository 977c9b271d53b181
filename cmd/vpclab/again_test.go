package main

import (
	"slices"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/metrics"
)

// running is a verb with its flags, as the tree has it.
func running(t *testing.T, verb func() *cobra.Command, args ...string) *cobra.Command {
	t.Helper()
	saved := global
	t.Cleanup(func() { global = saved })
	root := &cobra.Command{}
	addGlobals(root)
	cmd := verb()
	root.AddCommand(cmd)
	require.NoError(t, cmd.ParseFlags(args))
	return cmd
}

func TestFlagsOutliveARun(t *testing.T) {
	was := recordFlags(running(t, newRun, "--trials", "7", "--experiment", "a,b", "--experiment", "c", "--name", "other", "--results", "/elsewhere", "--no-plots", "--format", "json"))
	require.Equal(t, []string{"7"}, was["trials"])
	require.Equal(t, []string{"a", "b", "c"}, was["experiment"])
	require.Equal(t, []string{"other"}, was["name"])
	require.Equal(t, []string{"auto"}, was["kernel"], "defaults too: they may change")
	for _, place := range placeFlags {
		require.NotContains(t, was, place)
	}

	again := running(t, newRun, "--trials", "2")
	info := metrics.RunInfo{Flags: was, Kernel: metrics.KernelInfo{Substrate: "uml"}}
	require.NoError(t, applyFlags(again, flagsOf(info)))
	now := recordFlags(again)
	require.Equal(t, []string{"2"}, now["trials"], "what is given now wins")
	require.Equal(t, was["experiment"], now["experiment"])
	require.Equal(t, []string{"uml"}, now["kernel"], "on the kernel that it was on")
	require.Equal(t, []string{`--trials: "7", now "2"`}, differentFlags(was, now))
}

// A run of a version that kept its command line only is understood by that.
func TestFlagsOfAnOldCommandLine(t *testing.T) {
	saved := global
	flags := flagsOf(metrics.RunInfo{Args: []string{"run", "tiny.vpclab.yml", "--kernel", "auto", "--trials", "3", "--results", "x"}, Kernel: metrics.KernelInfo{Substrate: "uml"}})
	require.Equal(t, saved, global, "nothing of this program's own flags has changed")
	require.Equal(t, []string{"3"}, flags["trials"])
	require.Equal(t, []string{"uml"}, flags["kernel"])
	require.NotContains(t, flags, "results")
	require.Equal(t, map[string][]string{"kernel": {"uml"}}, flagsOf(metrics.RunInfo{Args: []string{"run", "--a-flag-of-old"}, Kernel: metrics.KernelInfo{Substrate: "uml"}}))
}

// A flag that is said to be about places has to be one of a verb that runs, or
// somebody would look for it in vain.
func TestPlaceFlagsExist(t *testing.T) {
	var known []string
	for _, verb := range []func() *cobra.Command{newRun, newReproduce} {
		running(t, verb).Flags().VisitAll(func(f *pflag.Flag) { known = append(known, f.Name) })
	}
	for _, name := range placeFlags {
		if name != "help" && name != "version" { // cobra's own
			require.True(t, slices.Contains(known, name), name)
		}
	}
}

func TestFlagOfALaterVersionIsNamed(t *testing.T) {
	err := applyFlags(running(t, newRun), map[string][]string{"warp": {"9"}})
	require.ErrorContains(t, err, "--warp=9, which vpclab run does not know")
}

// boxedRun is a finished run on the virtual clock with one sample.
func boxedRun(t *testing.T, value float64, change func(*metrics.RunInfo)) *metrics.Store {
	t.Helper()
	info := metrics.RunInfo{
		Scenario: "unit", Source: "name: unit", Flags: map[string][]string{"trials": {"1"}},
		Kernel: metrics.KernelInfo{Substrate: "qemu", Clock: "virtual", Virtual: &metrics.VirtualInfo{Program: "p", Image: "i", WallS: value}},
	}
	change(&info)
	s, err := metrics.Create(t.TempDir(), info)
	require.NoError(t, err)
	tr, err := s.Begin("e", nil, 1)
	require.NoError(t, err)
	tr.Add("x", "s", value, nil)
	require.NoError(t, tr.Commit(metrics.StatusOK, nil))
	require.NoError(t, s.Finish(metrics.VerdictPass, nil))
	return s
}

func TestRepetitionOnVirtualTimeHasToBeTheSame(t *testing.T) {
	same := func(*metrics.RunInfo) {}
	for name, tc := range map[string]struct {
		value  float64
		change func(*metrics.RunInfo)
		want   string // same, different, or nobody promised
	}{
		"bit by bit":          {1, same, "same"},
		"one bit off":         {1.0000000000000002, same, "different"},
		"another program":     {2, func(i *metrics.RunInfo) { i.Kernel.Virtual.Program = "q" }, "nobody promised"},
		"other flags":         {2, func(i *metrics.RunInfo) { i.Flags["trials"] = []string{"2"} }, "nobody promised"},
		"another seed":        {2, func(i *metrics.RunInfo) { i.Seed = 2 }, "nobody promised"},
		"not on virtual time": {2, func(i *metrics.RunInfo) { i.Kernel.Virtual = nil }, "nobody promised"},
	} {
		t.Run(name, func(t *testing.T) {
			origin := boxedRun(t, 1, same)
			was := origin.Info()
			digest, err := origin.SamplesDigest()
			require.NoError(t, err)
			o := runOptions{was: &was, origin: &metrics.Origin{ID: was.ID, Dir: origin.Dir(), Samples: digest}}
			now := boxedRun(t, tc.value, func(i *metrics.RunInfo) { i.Origin = o.origin; tc.change(i) })

			code, err := o.compareWithOrigin(now.Dir())
			require.NoError(t, err)
			again, err := metrics.Open(now.Dir())
			require.NoError(t, err)
			identical := again.Info().Origin.Identical
			switch tc.want {
			case "same":
				require.NoError(t, code)
				require.True(t, *identical)
			case "different":
				require.Equal(t, exitCode(exitRegression), code)
				require.False(t, *identical)
				require.Equal(t, `line 2 was "e,1,x,s,1" and is "e,1,x,s,1.0000000000000002"`, firstDifference(origin.Dir(), now.Dir()))
			default:
				require.NoError(t, code)
				require.Nil(t, identical)
			}
		})
	}
}

func TestResumedRunsPromiseNothing(t *testing.T) {
	a := boxedRun(t, 1, func(*metrics.RunInfo) {})
	b := boxedRun(t, 1, func(*metrics.RunInfo) {})
	require.True(t, promised(a.Info(), b.Info()))
	require.NoError(t, b.Resume(metrics.RunInfo{}))
	require.NoError(t, b.Finish(metrics.VerdictPass, nil))
	require.False(t, promised(a.Info(), b.Info()), "what was done in two boxes is not what is done in one")
}
