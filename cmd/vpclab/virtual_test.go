package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/kernel"
	"github.com/vpclab/vpclab/metrics"
)

// needVirtual skips where virtual time cannot be had, and builds vpclab.
func needVirtual(t *testing.T) (program string) {
	t.Helper()
	if testing.Short() {
		t.Skip("boots QEMU: left out by -short")
	}
	if os.Getenv(kernel.EnvKernel) != "" {
		t.Skip("boots QEMU: not inside a lab kernel")
	}
	if _, err := kernel.LookIntoBox(t.Context(), kernel.BoxConfig{Argv: []string{kernel.BoxProgram}}); err != nil {
		t.Skip(err)
	}
	program = filepath.Join(t.TempDir(), "vpclab")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return program
}

// virtualRun runs vpclab with these arguments and gives its exit code and what it
// said.
func virtualRun(t *testing.T, program string, args ...string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "VPCLAB_HOME="+filepath.Join(t.TempDir(), "state"))
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("vpclab %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// busy keeps both processors of a small machine at work until stop is called.
func busy() (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					sha256.Sum256(make([]byte, 1<<16))
				}
			}
		})
	}
	return func() { close(done); wg.Wait() }
}

// TestVirtualTimeIsTheSameOnABusyMachine runs a scenario three times on virtual
// time, once beside a load on all processors: what was measured must be the same,
// bit by bit.
func TestVirtualTimeIsTheSameOnABusyMachine(t *testing.T) {
	program := needVirtual(t)
	results := t.TempDir()
	var samples, digests []string
	for i := range 3 {
		stop := func() {}
		if i == 1 {
			stop = busy()
		}
		code, out := virtualRun(t, program, "run", "quickstart", "--clock", "virtual", "--trials", "2", "--no-plots", "--results", results)
		stop()
		require.Zero(t, code, out)
		require.Contains(t, out, "s of virtual time in")
	}
	runs, err := metrics.Runs(results)
	require.NoError(t, err)
	require.Len(t, runs, 3)
	for _, dir := range runs {
		data, err := os.ReadFile(filepath.Join(dir, "samples.csv"))
		require.NoError(t, err)
		samples = append(samples, string(data))
		store, err := metrics.Open(dir)
		require.NoError(t, err)
		k := store.Info().Kernel
		require.Equal(t, "qemu", k.Substrate)
		require.Equal(t, "virtual", k.Clock)
		require.NotNil(t, k.Virtual)
		digests = append(digests, k.Virtual.Digest)
		t.Logf("%.3f s of virtual time in %.1f s", k.Virtual.VirtualS, k.Virtual.WallS)
	}
	require.Contains(t, samples[0], "setup.first_packet")
	require.Equal(t, samples[0], samples[1], "on a busy machine")
	require.Equal(t, samples[0], samples[2], "again")
	require.Len(t, digests[0], 64)
	require.Equal(t, digests[0], digests[1])
}

// TestInterruptedVirtualRunGoesOn interrupts a run when its first trial is
// published: it is kept, and the run goes on from there.
func TestInterruptedVirtualRunGoesOn(t *testing.T) {
	program := needVirtual(t)
	results := t.TempDir()
	args := []string{"run", "quickstart", "--clock", "virtual", "--cpu-speed", "1", "--no-plots", "--results", results}
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), "VPCLAB_HOME="+filepath.Join(t.TempDir(), "state"))
	require.NoError(t, cmd.Start())
	published := filepath.Join(results, "quickstart", "*", "trials", "vpc-setup", "*", "*")
	deadline := time.Now().Add(3 * time.Minute)
	for found := []string(nil); len(found) == 0; found, _ = filepath.Glob(published) {
		require.True(t, time.Now().Before(deadline), "waited 3 min for the first trial")
		time.Sleep(50 * time.Millisecond) // a poll of the folder, bounded above
	}
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	_ = cmd.Wait()
	require.Equal(t, exitInterrupted, cmd.ProcessState.ExitCode())
	runs, err := metrics.Runs(results)
	require.NoError(t, err)
	require.Len(t, runs, 1)
	store, err := metrics.Open(runs[0])
	require.NoError(t, err)
	require.Equal(t, metrics.VerdictInterrupted, store.Info().Verdict)

	code, out := virtualRun(t, program, "run", "--clock", "virtual", "--cpu-speed", "1", "--no-plots", "--resume", runs[0])
	require.Zero(t, code, out)
	store, err = metrics.Open(runs[0])
	require.NoError(t, err)
	records, err := store.Trials()
	require.NoError(t, err)
	sessions := map[int]int{}
	for _, r := range records {
		if r.Experiment == "vpc-setup" {
			sessions[r.Session]++
		}
	}
	require.Equal(t, 3, sessions[1]+sessions[2])
	require.NotZero(t, sessions[1], "the trial of the first session was done again")
}

func TestVirtualTimeWithAnotherKernelIsRefused(t *testing.T) {
	for _, args := range [][]string{
		{"run", "quickstart", "--clock", "virtual", "--kernel", "uml"},
		{"run", "quickstart", "--clock", "wall"},
		{"kernel", "exec", "--clock", "virtual", "--kernel", "host", "--", "true"},
	} {
		root := newRoot()
		root.SetArgs(args)
		err := root.ExecuteContext(t.Context())
		require.True(t, err != nil && isUsage(err), "%v: %v", args, err)
	}
}
