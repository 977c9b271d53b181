package scenarios

import (
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/clock"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/metrics"
)

// hog takes the one processor of the lab's kernel for a while, before all others:
// for everybody else the kernel stands still, as it does when the machine under it
// has something better to do.
func hog(t *testing.T, d time.Duration) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := unix.SchedAttr{Size: unix.SizeofSchedAttr}
	first := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 99}
	require.NoError(t, unix.SchedSetAttr(0, &first, 0))
	for end := clock.Mono() + int64(d); clock.Mono() < end; {
	}
	require.NoError(t, unix.SchedSetAttr(0, &before, 0))
}

// A kernel that stood still for 300 ms voids the trial, the trial is made again, and
// what it measured is in no number.
func TestAStallVoidsATrial(t *testing.T) {
	kerneltest.Need(t)
	const stall = 300 * time.Millisecond
	s := &scripted{}
	s.do = func(string) error {
		time.Sleep(100 * time.Millisecond)
		if len(s.trials) == 4 { // the first after the warm-ups
			hog(t, stall)
		}
		time.Sleep(100 * time.Millisecond)
		return nil
	}
	r, _ := scriptedRun(t, t.TempDir(), s)
	r.grade = nil
	r.cfg.VoidRetries = 9 // the machine may have stalls of its own
	k := r.kinds["vpc-setup"]
	k.resolution = 50 * time.Millisecond
	r.kinds["vpc-setup"] = k
	var voids []string
	r.cfg.Progress = func(p Progress) {
		if p.Void != "" {
			voids = append(voids, p.Void)
		}
	}
	v, err := r.do(t.Context())
	require.NoError(t, err)
	require.Equal(t, metrics.VerdictPass, v.Status, strings.Join(v.Lines, "\n"))
	require.NotEmpty(t, voids, "the stall was not seen")
	require.Contains(t, voids[0], "void: ")
	require.Contains(t, voids[0], "stall 2", "it is seen up to a period of the pulse too short")
	require.Len(t, s.trials, 15+len(voids), "each void one was made again")
	require.Zero(t, v.Void)

	rep, err := r.cfg.Store.Fidelity()
	require.NoError(t, err)
	require.Equal(t, len(voids), rep.Repeated)
	seen := 0.0
	for _, w := range rep.Worst {
		if w.Invariant == "stall" {
			seen = w.Value
		}
	}
	require.GreaterOrEqual(t, seen, (stall - 30*time.Millisecond).Seconds())
	samples, err := r.cfg.Store.Samples()
	require.NoError(t, err)
	n := 0
	for _, x := range samples {
		if x.Experiment == "vpc-setup" {
			n++
		}
	}
	require.Equal(t, 12, n)
	t.Log(v.Fidelity)
}
