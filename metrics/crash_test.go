//go:build linux

package metrics

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const writerEnv = "VPCLAB_TEST_WRITER"

// TestMain turns the test binary into an endless writer of trials where the
// kill test asks for it.
func TestMain(m *testing.M) {
	if dir := os.Getenv(writerEnv); dir != "" {
		writeForever(dir)
	}
	if root := os.Getenv(scriptEnv); root != "" {
		writeScript(root)
		os.Exit(0)
	}
	// Every file is flushed, which a busy disk makes slow; a killed process,
	// unlike a power cut, is the same to memory and disk.
	if _, err := os.Stat("/dev/shm"); err == nil {
		_ = os.Setenv("TMPDIR", "/dev/shm")
	}
	os.Exit(m.Run())
}

// writeForever commits trials and prints the number of each when Commit has
// returned. Every third attempt fails first, so that the replacement of a
// failed trial is under fire too.
func writeForever(dir string) {
	s, err := Open(dir)
	if err != nil {
		panic(err)
	}
	for n := 1; ; n++ {
		if s.Done("e", nil, n) {
			continue
		}
		statuses := []string{StatusOK}
		if n%3 == 0 {
			statuses = []string{StatusFailed, StatusOK}
		}
		for _, status := range statuses {
			t, err := s.Begin("e", nil, n)
			if err != nil {
				panic(err)
			}
			for i := range 20 {
				t.Add("x", "count", float64(n), map[string]string{"i": fmt.Sprint(i)})
				t.Event(map[string]int{"i": i})
			}
			if err := t.WriteFile("evidence.bin", bytes.Repeat([]byte{byte(n)}, 10_000)); err != nil {
				panic(err)
			}
			if err := t.Commit(status, nil); err != nil {
				panic(err)
			}
		}
		fmt.Println(n)
	}
}

// TestKillAtAnyMoment kills a writer at random moments, again and again, and
// looks at what is left: every trial whose Commit returned is there, and
// everything under trials/ is whole.
func TestKillAtAnyMoment(t *testing.T) {
	s := newStore(t)
	self, err := os.Executable()
	require.NoError(t, err)
	finished := map[string]bool{}
	for range 12 {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), writerEnv+"="+s.Dir())
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		var kill *time.Timer
		for in := bufio.NewScanner(out); in.Scan(); {
			finished[in.Text()] = true
			if kill == nil { // it has started: from here any moment will do
				kill = time.AfterFunc(time.Duration(rand.IntN(60_000))*time.Microsecond, func() { _ = cmd.Process.Kill() })
			}
		}
		require.Error(t, cmd.Wait(), "the writer ends only by being killed")
		require.NotNil(t, kill, "the writer wrote nothing")
		kill.Stop()
		checkWhole(t, s.Dir(), finished)
	}
	require.Greater(t, len(finished), 10, "the writer came to nothing: the test says nothing")
	s = reopen(t, s)
	require.NoError(t, s.Finish(VerdictInterrupted, nil))
}

func checkWhole(t *testing.T, dir string, finished map[string]bool) {
	t.Helper()
	s, err := Open(dir)
	require.NoError(t, err)
	found, err := filepath.Glob(filepath.Join(dir, "trials", "*", "*", "*"))
	require.NoError(t, err)
	for _, trial := range found {
		data, err := os.ReadFile(filepath.Join(trial, trialName))
		require.NoError(t, err)
		var r TrialRecord
		require.NoError(t, json.Unmarshal(data, &r))
		require.Equal(t, filepath.Base(trial), fmt.Sprint(r.Trial))
		samples, err := readCSVFile(filepath.Join(trial, samplesName))
		require.NoError(t, err)
		require.Len(t, samples, 20)
		events, err := os.ReadFile(filepath.Join(trial, eventsName))
		require.NoError(t, err)
		require.Equal(t, 20, bytes.Count(events, []byte("\n")))
		evidence, err := os.ReadFile(filepath.Join(trial, "evidence.bin"))
		require.NoError(t, err)
		require.Equal(t, bytes.Repeat([]byte{byte(r.Trial)}, 10_000), evidence)
	}
	for n := range finished {
		var trial int
		_, err := fmt.Sscan(n, &trial)
		require.NoError(t, err)
		require.True(t, s.Done("e", nil, trial), "trial %s was finished and is gone", n)
	}
}

// TestFullDevice sends one file of an attempt to /dev/full, where every write
// fails as on a full disk.
func TestFullDevice(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("needs /dev/full")
	}
	s := newStore(t)
	addTrial(t, s, "e", nil, 1, 1)
	for _, name := range []string{samplesName, trialName, "x.bin"} {
		tr, err := s.Begin("e", nil, 2)
		require.NoError(t, err)
		require.NoError(t, os.Symlink("/dev/full", filepath.Join(tr.Dir(), name)))
		tr.Add("x", "s", 1, nil)
		err = tr.WriteFile("x.bin", []byte("data"))
		if name == "x.bin" {
			requireFull(t, s, err)
		}
		requireFull(t, s, tr.Commit(StatusOK, nil))
	}
	requireFinished(t, s)
}

func requireFull(t *testing.T, s *Store, err error) {
	t.Helper()
	var full *FullError
	require.ErrorAs(t, err, &full)
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.Equal(t, s.Dir(), full.Dir)
	require.Contains(t, err.Error(), s.Dir())
	require.Contains(t, err.Error(), fmt.Sprintf("the %d finished trials in it are kept", full.Kept))
	require.Equal(t, 1, strings.Count(err.Error(), "disk is full"), "said once: %s", err)
}

func requireFinished(t *testing.T, s *Store) {
	t.Helper()
	require.True(t, reopen(t, s).Done("e", nil, 1))
	samples, err := s.Samples()
	require.NoError(t, err)
	require.NotEmpty(t, samples)
}

// TestFullDisk fills a real, small file system until nothing more fits.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=512k"); err != nil {
		t.Skipf("needs to mount a small tmpfs: %v", err)
	}
	defer func() { require.NoError(t, syscall.Unmount(dir, syscall.MNT_DETACH)) }()
	s, err := Create(dir, RunInfo{Scenario: "small"})
	require.NoError(t, err)
	addTrial(t, s, "e", nil, 1, 1)
	kept := 1
	for n := 2; ; n++ {
		require.Less(t, n, 100, "the disk does not fill")
		tr, err := s.Begin("e", nil, n)
		if err == nil {
			tr.Add("x", "s", 1, nil)
			_ = tr.WriteFile("big.bin", make([]byte, 60_000)) // Commit reports it
			err = tr.Commit(StatusOK, nil)
		}
		if err != nil {
			requireFull(t, s, err)
			break
		}
		kept++
	}
	for n := range kept {
		require.True(t, reopen(t, s).Done("e", nil, n+1))
	}
	require.Error(t, fill(filepath.Join(dir, "rest")))
	requireFull(t, s, s.Finish(VerdictPass, nil))
	require.Equal(t, VerdictRunning, reopen(t, s).Info().Verdict, "run.json is whole, the old one")
}

// fill writes until the disk is full.
func fill(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		if _, err := f.Write(make([]byte, 512)); err != nil {
			return err
		}
	}
}
