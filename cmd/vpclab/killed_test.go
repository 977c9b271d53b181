package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/metrics"
)

// verbEnv makes this test binary a vpclab; see TestMain.
const verbEnv = "VPCLAB_TEST_VERB"

const killedScenario = `name: killed
kernel: {memory: 512MiB}
topology:
  backbone:
    pe: [pe1, pe2]
    p: [p1]
    links: [{between: [pe1, p1]}, {between: [p1, pe2]}]
  sites:
    a: {kind: enterprise, pe: pe1}
    b: {kind: enterprise, pe: pe2}
vpcs:
  x: {service: l3vpn, sites: [a, b]}
experiments:
  - {kind: vpc-setup, trials: 3, warmup: 0, baseline: none, expect: ["setup.leaks == 0"]}
`

// How often and for how long the test kills: enough to hit each part of a run
// now and then; many times more where VPCLAB_LONG=1 asks for it.
const (
	kills     = 8
	killsLong = 80
	killTime  = 40 * time.Second // after which there are no more, but for VPCLAB_LONG
	killSeed  = 20261126
)

// TestRunKilledAtAnyMoment kills a run again and again, with SIGKILL, at a random
// moment and in a random part: the command, the warden, the kernel, a process in
// the kernel. Each time it is gone on with at once. No finished trial may be lost
// or done again, and in the end all is as if nothing had happened, with nothing
// left over.
func TestRunKilledAtAnyMoment(t *testing.T) {
	if !umlWorks() {
		t.Skip("needs User Mode Linux: vpclab doctor says what is missing")
	}
	k := newKiller(t)
	began := time.Now()
	whole := k.run(k.start("run", k.file, "--kernel", "uml", "--void-retries", "9", "--results", filepath.Join(k.dir, "whole")))
	whole.mustPass(t)
	want := runShape(t, filepath.Join(k.dir, "whole"))

	n, long := kills, os.Getenv("VPCLAB_LONG") != ""
	if long {
		n = killsLong
	}
	for round := 0; len(k.log) < n && (long || time.Since(began) < killTime); round++ {
		k.results, k.kept = filepath.Join(k.dir, fmt.Sprint("killed", round)), map[string][sha256.Size]byte{}
		left := true
		for left && len(k.log) < n && (long || time.Since(began) < killTime) {
			left = k.kill(whole.took)
		}
		last := k.run(k.start(k.args()...))
		last.mustPass(t)
		k.checkKept()
		require.Equal(t, want, runShape(t, k.results))
	}
	k.checkClean()
	t.Logf("killed in %v: %s", time.Since(began).Round(time.Second), strings.Join(k.log, ", "))
}

// Two cannot go on with one run at the same time.
func TestSecondResumeIsRefused(t *testing.T) {
	if !umlWorks() {
		t.Skip("needs User Mode Linux: vpclab doctor says what is missing")
	}
	k := newKiller(t)
	first := k.start(append(k.args(), "--trials", "40")...)
	defer func() { _ = first.cmd.Process.Kill(); <-first.ended }()
	k.await("the run's folder", func() bool { return len(k.runs()) == 1 })
	second := k.run(k.start("run", "--kernel", "uml", "--resume", k.runs()[0]))
	require.Equal(t, exitFailed, second.code, second.err.String())
	require.Contains(t, second.err.String(), fmt.Sprintf("another vpclab (pid %d, since ", first.cmd.Process.Pid))
	require.NoError(t, first.cmd.Process.Signal(os.Interrupt))
	<-first.ended
	require.Equal(t, exitInterrupted, first.cmd.ProcessState.ExitCode(), first.err.String())
}

// killer is a run that is killed, and what was finished of it.
type killer struct {
	t       *testing.T
	dir     string
	file    string // scenario
	results string
	rng     *rand.Rand
	kept    map[string][sha256.Size]byte // content of trial.json of finished trials
	log     []string
}

func newKiller(t *testing.T) *killer {
	dir := t.TempDir()
	k := &killer{
		t: t, dir: dir, file: filepath.Join(dir, "killed.vpclab.yml"), results: filepath.Join(dir, "results"),
		rng: rand.New(rand.NewPCG(killSeed, 0)), kept: map[string][sha256.Size]byte{},
	}
	require.NoError(t, os.WriteFile(k.file, []byte(killedScenario), 0o600))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "tmp"), 0o700))
	t.Cleanup(func() { killLeftOvers(dir) })
	return k
}

// command is a vpclab that runs.
type command struct {
	cmd      *exec.Cmd
	out, err bytes.Buffer
	began    time.Time
	ended    chan struct{}
	took     time.Duration
	code     int
}

func (k *killer) start(args ...string) *command {
	k.t.Helper()
	self, err := os.Executable()
	require.NoError(k.t, err)
	c := &command{cmd: exec.Command(self, args...), ended: make(chan struct{}), began: time.Now()}
	c.cmd.Dir = k.dir
	c.cmd.Env = append(os.Environ(), verbEnv+"=1", "VPCLAB_HOME="+filepath.Join(k.dir, "state"), "TMPDIR="+filepath.Join(k.dir, "tmp"))
	c.cmd.Stdout, c.cmd.Stderr = &c.out, &c.err
	require.NoError(k.t, c.cmd.Start())
	go func() { // ends with the command, which every caller waits for or kills
		_ = c.cmd.Wait()
		c.took, c.code = time.Since(c.began), c.cmd.ProcessState.ExitCode()
		close(c.ended)
	}()
	return c
}

// args begin the run, or go on with it once there is one.
func (k *killer) args() []string {
	if runs := k.runs(); len(runs) > 0 {
		return []string{"run", "--kernel", "uml", "--resume", runs[0]}
	}
	return []string{"run", k.file, "--kernel", "uml", "--void-retries", "9", "--results", k.results}
}

func (k *killer) runs() []string {
	runs, err := metrics.Runs(k.results)
	require.NoError(k.t, err)
	require.LessOrEqual(k.t, len(runs), 1)
	return runs
}

// run waits for the end of a command.
func (k *killer) run(c *command) *command {
	k.t.Helper()
	select {
	case <-c.ended:
	case <-time.After(patience):
		_ = c.cmd.Process.Kill()
		<-c.ended
		k.t.Fatalf("vpclab %s did not end in %v:\n%s%s", strings.Join(c.cmd.Args[1:], " "), patience, c.out.String(), c.err.String())
	}
	return c
}

func (c *command) mustPass(t *testing.T) {
	t.Helper()
	require.Equal(t, exitOK, c.code, "%s%s", c.out.String(), c.err.String())
}

// await polls for something that sends no event.
func (k *killer) await(what string, ok func() bool) {
	k.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			k.t.Fatalf("waited %v for %s", patience, what)
		}
	}
}

// kill begins the run or goes on with it, and kills a part of it at a moment of
// the time that a whole run takes. It reports whether anything was killed: a run
// of which little was left may have come to its end before.
func (k *killer) kill(whole time.Duration) bool {
	k.t.Helper()
	c := k.start(k.args()...)
	at := time.Duration(k.rng.Int64N(int64(whole)))
	part := []string{"command", "command", "warden", "kernel", "guest"}[k.rng.IntN(5)]
	killed := false
	select {
	case <-c.ended:
		c.mustPass(k.t)
	case <-time.After(at):
		killed = true
		victim := k.find(c.cmd.Process.Pid, part)
		if victim == 0 {
			part, victim = "command", c.cmd.Process.Pid
		}
		_ = syscall.Kill(victim, syscall.SIGKILL)
		k.log = append(k.log, fmt.Sprintf("%s at %v", part, at.Round(time.Millisecond)))
	}
	k.run(c)
	if part != "command" && c.code == -1 {
		k.t.Fatalf("the command did not survive the end of its %s: %s\n%s", part, c.cmd.ProcessState, c.err.String())
	}
	k.checkKept()
	return killed
}

// find is a process of a run: a child of the command is the warden, its child
// the kernel, whose children are the processes inside. 0: there is none now.
func (k *killer) find(command int, part string) int {
	pid := command
	for _, is := range []string{"warden", "kernel", "guest"} {
		all := children(pid)
		if len(all) == 0 {
			return 0
		}
		pid = all[0]
		if is == part {
			return all[k.rng.IntN(len(all))]
		}
	}
	return 0
}

func children(parent int) (pids []int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(text), ") ")
		fields := strings.Fields(rest) // state, parent …
		if len(fields) > 1 && fields[0] != "Z" && fields[1] == strconv.Itoa(parent) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}

// checkKept finds every trial that was finished before, as it was, and notes
// those that are new.
func (k *killer) checkKept() {
	k.t.Helper()
	runs := k.runs()
	if len(runs) == 0 {
		require.Empty(k.t, k.kept)
		return
	}
	store, err := metrics.Open(runs[0])
	require.NoError(k.t, err)
	now := map[string][sha256.Size]byte{}
	dirs, _ := store.TrialDirs("")
	for _, dir := range dirs {
		data, err := os.ReadFile(filepath.Join(dir, "trial.json"))
		require.NoError(k.t, err)
		now[dir] = sha256.Sum256(data)
	}
	for dir, had := range k.kept {
		got, ok := now[dir]
		require.True(k.t, ok, "%s was finished and is gone", dir)
		require.Equal(k.t, had, got, "%s was finished and was done again", dir)
	}
	k.kept = now
}

// checkClean finds nothing but the results.
func (k *killer) checkClean() {
	k.t.Helper()
	k.await("the end of all processes of this test", func() bool { return len(processesOf(k.dir)) == 0 })
	for _, dir := range []string{filepath.Join(k.dir, "tmp"), filepath.Join(k.dir, "state", "labs")} {
		entries, err := os.ReadDir(dir)
		if !errors.Is(err, fs.ErrNotExist) {
			require.NoError(k.t, err)
		}
		for _, e := range entries {
			require.Equal(k.t, ".lock", e.Name(), "left in %s", dir)
		}
	}
}

// runShape is what the only run below root holds: its trials, what was measured
// in them, and its files; without values, and without attempts that were killed.
func runShape(t *testing.T, root string) []string {
	t.Helper()
	runs, err := metrics.Runs(root)
	require.NoError(t, err)
	require.Len(t, runs, 1)
	store, err := metrics.Open(runs[0])
	require.NoError(t, err)
	require.Equal(t, metrics.VerdictPass, store.Info().Verdict)
	_, faults, err := store.Verify()
	require.NoError(t, err)
	require.Empty(t, faults)
	samples, err := store.Samples()
	require.NoError(t, err)
	void, err := store.VoidSamples() // a busy machine's: as many trials, though not to be believed
	require.NoError(t, err)
	var all []string
	for _, s := range slices.Concat(samples, void) {
		if s.Metric == "lab.destroy" {
			// Who goes on with a run whose trials are all there builds the backbone
			// only, and destroys no more.
			delete(s.Labels, "nodes")
		}
		all = append(all, fmt.Sprintf("%s %d %s %s", s.Experiment, s.Trial, s.Metric, metrics.PointText(s.Labels)))
	}
	slices.Sort(all)
	all = slices.Compact(all)
	require.NoError(t, filepath.WalkDir(filepath.Join(root, "killed"), func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Name() == ".attempts" {
			return fs.SkipDir
		}
		if e.Name() == "void.csv" {
			return nil
		}
		name, _ := filepath.Rel(root, path)
		all = append(all, strings.ReplaceAll(name, filepath.Base(runs[0]), "RUN"))
		return err
	}))
	return all
}
