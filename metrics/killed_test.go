//go:build linux

package metrics

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
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
)

// The kill test runs this binary as a writer of one small run, and ends it by
// SIGKILL at the n-th change of the file system that it makes: for each n there
// is. Files are written in two halves, so it dies inside of them too.

const (
	scriptEnv = "VPCLAB_TEST_SCRIPT"  // root of the results
	killEnv   = "VPCLAB_TEST_KILL_AT" // the step to die at; empty: none
)

// scriptedPoints and trials are what a whole run has; one trial fails at first.
var scriptedPoints = []map[string]string{{"sites": "2"}, {"sites": "10"}}

const scriptedTrials = 2

// writeScript begins the run in root, or goes on with it, to its end. It prints
// a line for each trial whose Commit has returned, and the number of steps.
func writeScript(root string) {
	steps, last := 0, 0
	if text := os.Getenv(killEnv); text != "" {
		last, _ = strconv.Atoi(text)
	}
	step = func(what, path string) {
		if steps++; steps == last {
			fmt.Printf("killed before: %s %s\n", what, path)
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // until it arrives
		}
	}
	parts = func(data []byte) [][]byte { return [][]byte{data[:len(data)/2], data[len(data)/2:]} }
	s, hold := beginOrResume(root)
	for n := 1; n <= scriptedTrials; n++ {
		for _, point := range scriptedPoints {
			for !s.Done("e", point, n) {
				must(scriptedTrial(s, point, n))
				fmt.Println("finished", PointText(point), n)
			}
		}
	}
	_, err := s.Judge("e", []string{"x >= 0"})
	must(err)
	must(s.Finish(VerdictPass, nil))
	must(hold.Release())
	fmt.Println("steps", steps)
}

func beginOrResume(root string) (*Store, *Hold) {
	info := RunInfo{Scenario: "small", ID: "run", Started: time.Now(), Version: "v", PID: os.Getpid()}
	runs, err := Runs(root)
	must(err)
	if len(runs) == 0 {
		hold, err := HoldNew(root, info.Scenario, info.ID)
		must(err)
		s, err := Create(root, info)
		must(err)
		return s, hold
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	hold, err := HoldRun(ctx, runs[0])
	must(err)
	s, err := Open(runs[0])
	must(err)
	must(s.Resume(info))
	return s, hold
}

// scriptedTrial does one trial; number 2 at sites=10 fails the first time.
func scriptedTrial(s *Store, point map[string]string, n int) error {
	t, err := s.Begin("e", point, n)
	if err != nil {
		return err
	}
	for i := range 3 {
		t.Add("x", "count", float64(n), map[string]string{"i": strconv.Itoa(i)})
		t.Event(map[string]int{"i": i})
	}
	if err := t.WriteJSON("deep/evidence.json", point); err != nil {
		return err
	}
	if n == 2 && point["sites"] == "10" && t.record.Attempt == 1 {
		return t.Commit(StatusFailed, errors.New("at first it does not work"))
	}
	return t.Commit(StatusOK, nil)
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// script runs the writer; it returns what it printed and whether it was killed.
func script(t *testing.T, root string, killAt int) (out string, killed bool) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), scriptEnv+"="+root)
	if killAt > 0 {
		cmd.Env = append(cmd.Env, killEnv+"="+strconv.Itoa(killAt))
	}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	text, err := cmd.Output()
	if err == nil {
		return string(text), false
	}
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	require.True(t, ok && status.Signaled() && status.Signal() == syscall.SIGKILL, "the writer failed: %v: %s", err, errs.String())
	return string(text), true
}

func TestKilledAtEveryStep(t *testing.T) {
	whole := t.TempDir()
	out, killed := script(t, whole, 0)
	require.False(t, killed)
	want := shape(t, filepath.Join(whole, "small", "run"))
	_, after, _ := strings.Cut(out, "steps ")
	steps, err := strconv.Atoi(strings.TrimSpace(after))
	require.NoError(t, err)
	require.Greater(t, steps, 50, "the writer comes to nothing: the test says nothing")
	for n := 1; n <= steps; n++ {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			out, killed := script(t, root, n)
			require.True(t, killed)
			checkFinished(t, root, out)
			if n%4 == 0 { // and again while it is gone on with
				again, _ := script(t, root, 1+n*7%steps)
				checkFinished(t, root, out+again)
				out += again
			}
			_, killed = script(t, root, 0)
			require.False(t, killed)
			checkFinished(t, root, out)
			require.Equal(t, want, shape(t, filepath.Join(root, "small", "run")), out)
		})
	}
}

// checkFinished finds every trial that was finished by what the writer printed,
// and reads everything that has a name for readers.
func checkFinished(t *testing.T, root, out string) {
	t.Helper()
	runs, err := Runs(root)
	require.NoError(t, err)
	if len(runs) == 0 {
		require.NotContains(t, out, "finished", "a trial was finished and there is no run")
		return
	}
	s, err := Open(runs[0])
	require.NoError(t, err, out)
	for _, n := range []int{1, 2} {
		for _, point := range scriptedPoints {
			line := fmt.Sprintf("finished %s %d\n", PointText(point), n)
			times := strings.Count(out, line)
			if n == 2 && point["sites"] == "10" {
				times-- // that it failed is no result
			}
			if times > 0 {
				require.True(t, s.Done("e", point, n), "trial %d at %v was finished and is gone\n%s", n, point, out)
			}
		}
	}
	_, err = s.Samples()
	require.NoError(t, err, out)
	readAll(t, runs[0])
}

// readAll parses every file with a name for readers.
func readAll(t *testing.T, dir string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case path != dir && strings.HasPrefix(e.Name(), "."):
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		case strings.HasSuffix(path, ".csv"):
			_, err = readCSVFile(path)
		case strings.HasSuffix(path, ".json"):
			var data []byte
			if data, err = os.ReadFile(path); err == nil && !json.Valid(data) {
				err = fmt.Errorf("%s: %q is no JSON", path, data)
			}
		case strings.HasSuffix(path, ".jsonl"):
			err = eachLine(path, func(line []byte) error {
				if !json.Valid(line) {
					return fmt.Errorf("%s: %q is no JSON", path, line)
				}
				return nil
			})
		}
		return err
	}))
}

// shape is what a finished run has, without what differs each time: times,
// attempts and sessions. Attempts that were killed are no part of it.
func shape(t *testing.T, dir string) []string {
	t.Helper()
	s, err := Open(dir)
	require.NoError(t, err)
	require.Equal(t, VerdictPass, s.Info().Verdict)
	_, faults, err := s.Verify()
	require.NoError(t, err)
	require.Empty(t, faults)
	var all []string
	trials, err := s.Trials()
	require.NoError(t, err)
	sessions := map[int]int{}
	for _, r := range trials {
		all = append(all, fmt.Sprintf("%s %s %d %s", r.Experiment, PointText(r.Point), r.Trial, r.Status))
		sessions[r.Session]++
	}
	for i, one := range s.Info().Sessions {
		require.Equal(t, sessions[i+1], one.Trials, "session %d", i+1)
	}
	samples, err := readCSVFile(filepath.Join(dir, samplesName))
	require.NoError(t, err)
	for _, x := range samples {
		all = append(all, fmt.Sprint(x))
	}
	require.NoError(t, filepath.WalkDir(filepath.Dir(dir), func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Name() == attempts {
			return fs.SkipDir
		}
		name, _ := filepath.Rel(filepath.Dir(dir), path)
		all = append(all, name)
		return err
	}))
	slices.Sort(all)
	return all
}
