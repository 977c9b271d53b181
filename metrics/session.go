package metrics

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Session is one stretch of a run: from its start, or from where it was gone
// on with, to its end. A trial names the session that it belongs to, so a run
// that was gone on with by another version or on another kernel says of each
// number where it is from.
type Session struct {
	Started  time.Time  `json:"started"`
	Finished time.Time  `json:"finished,omitzero"` // zero: it goes on, or was killed
	PID      int        `json:"pid,omitempty"`     // of the launcher, on its host
	Args     []string   `json:"args"`
	Version  string     `json:"version"`           // vpclab's
	Program  string     `json:"program,omitempty"` // SHA-256 of its binary
	Kernel   KernelInfo `json:"kernel"`
	Host     HostInfo   `json:"host"`
	Trials   int        `json:"trials"`  // finished in it, good and failed
	Verdict  string     `json:"verdict"` // of the run when it ended, as in RunInfo
}

// Origin is the run that another one repeats.
type Origin struct {
	ID      string `json:"id"`
	Dir     string `json:"dir"`     // where it was found
	Samples string `json:"samples"` // SHA-256 of its samples.csv
	// Different says what was not as it was there: version, kernel, host, flags.
	Different []string `json:"different,omitempty"`
	// Identical tells whether samples.csv came out the same, bit by bit. It is
	// nil where nobody promised that: on a clock that is not virtual, or with
	// another program.
	Identical *bool `json:"identical,omitempty"`
}

// Text says what came of holding the samples against those of the origin; "":
// nobody did.
func (o Origin) Text() string {
	switch {
	case o.Identical == nil:
		return ""
	case *o.Identical:
		return "samples.csv is the same, bit by bit"
	}
	return "samples.csv is not the same, though it had to be"
}

// session is what a run's facts say of the session that they were taken in.
func (r RunInfo) session() Session {
	return Session{
		Started: r.Started, PID: r.PID, Args: r.Args, Version: r.Version, Program: r.Program,
		Kernel: r.Kernel, Host: r.Host, Verdict: VerdictRunning,
	}
}

// Resume begins another session of the run: by the version, on the kernel and
// on the host that now tells of. The run is running again; what the session
// before left in the middle is put in order: a trial that was on the disk
// whole and only not published yet is, and files that were being written are
// removed. The caller holds the folder (see [HoldRun]).
func (s *Store) Resume(now RunInfo) error {
	if s.reduced {
		return fmt.Errorf("resume %s: the folder has samples and no trials: it is what was kept of a run, and cannot be gone on with", s.dir)
	}
	if now.Started.IsZero() {
		now.Started = time.Now()
	}
	if err := s.mend(); err != nil {
		return s.fault("resume", err)
	}
	return s.Update(func(info *RunInfo) {
		sessions := slices.Clone(info.Sessions)
		if len(sessions) == 0 { // of a version that kept no sessions
			first := info.session()
			first.Finished, first.Verdict, first.Trials = info.Finished, info.Verdict, len(s.status)
			sessions = []Session{first}
		}
		info.Sessions = append(sessions, now.session())
		if now.Flags != nil {
			info.Flags = now.Flags // by which it will have been done in the end
		}
		info.Verdict, info.Error, info.Finished = VerdictRunning, "", time.Time{}
	})
}

// NoteLoad keeps the host's load average at the end of the newest session.
func (s *Store) NoteLoad(load float64) error {
	return s.Update(func(info *RunInfo) {
		info.Sessions = slices.Clone(info.Sessions)
		if n := len(info.Sessions); n > 0 {
			info.Sessions[n-1].Host.LoadEnd = load
		}
		if len(info.Sessions) <= 1 {
			info.Host.LoadEnd = load
		}
	})
}

// mend puts in order what a killed session has left.
func (s *Store) mend() error {
	sweep(s.dir)
	sweep(filepath.Join(s.dir, "figures"))
	found, err := filepath.Glob(filepath.Join(globEscape(s.dir), ".attempts", "*", "*", "*", trialName))
	if err != nil {
		return err
	}
	for _, name := range found {
		dir := filepath.Dir(name)
		r, err := readTrial(name)
		if err != nil || !r.Good() || s.Done(r.Experiment, r.Point, r.Trial) {
			continue // half a trial, or one that gave way: it stays as evidence
		}
		if _, err := readCSVFile(filepath.Join(dir, samplesName)); err != nil {
			continue
		}
		t := &Trial{store: s, dir: dir, path: trialPath(r.Experiment, r.Point, r.Trial), record: r}
		if err := t.publish(); err != nil {
			return fmt.Errorf("publish %s, which was finished: %w", t.path, err)
		}
	}
	return nil
}

// sweep removes the files that killed writers left half written in dir.
func sweep(dir string) {
	found, _ := filepath.Glob(filepath.Join(globEscape(dir), tempPrefix+"*")) // the pattern is well formed
	for _, name := range found {
		_ = os.Remove(name) // one that cannot be removed harms nobody
	}
}

// endSession notes how the newest session ended and how many trials belong to
// each. The caller holds mu.
func (s *Store) endSession(info *RunInfo, verdict string) {
	count := map[int]int{}
	for _, r := range s.status {
		count[r.Session]++
	}
	info.Sessions = slices.Clone(info.Sessions)
	for i := range info.Sessions {
		if n, known := count[i+1]; known || info.Sessions[i].Trials == 0 {
			info.Sessions[i].Trials = n
		}
	}
	if n := len(info.Sessions); n > 0 {
		info.Sessions[n-1].Finished, info.Sessions[n-1].Verdict = time.Now(), verdict
	}
}

// Mixture says in what the sessions differ that trials of this run are from.
// It is empty for a run of one piece.
func (r RunInfo) Mixture() []string {
	var first *Session
	var all []string
	for i := range r.Sessions {
		s := &r.Sessions[i]
		if s.Trials == 0 {
			continue
		}
		if first == nil {
			first = s
			continue
		}
		for _, d := range Differences(*first, *s) {
			if line := fmt.Sprintf("session %d: %s", i+1, d); !slices.Contains(all, line) {
				all = append(all, line)
			}
		}
	}
	return all
}

// Differences says what is not the same in two sessions of all that numbers
// may depend on, one line a thing: "kernel release: 6.1.176, now 6.1.180". What
// one of them does not know is no difference.
func Differences(was, now Session) []string {
	var all []string
	for _, f := range []struct {
		what     string
		was, now any
	}{
		{"vpclab's version", was.Version, now.Version},
		{"vpclab's program", short(was.Program), short(now.Program)},
		{"kernel", was.Kernel.Substrate, now.Kernel.Substrate},
		{"kernel release", was.Kernel.Release, now.Kernel.Release},
		{"kernel image", short(was.Kernel.Image), short(now.Kernel.Image)},
		{"clock", was.Kernel.Clock, now.Kernel.Clock},
		{"kernel's processors", was.Kernel.CPUs, now.Kernel.CPUs},
		{"host's processor", was.Host.CPU, now.Host.CPU},
		{"host's processors", was.Host.CPUs, now.Host.CPUs},
		{"host's kernel", was.Host.Kernel, now.Host.Kernel},
		{"host's system", was.Host.OS, now.Host.OS},
	} {
		if f.was == f.now || f.was == "" || f.now == "" || f.was == 0 || f.now == 0 {
			continue
		}
		all = append(all, fmt.Sprintf("%s: %v, now %v", f.what, f.was, f.now))
	}
	return all
}

// short is the beginning of a digest, which is enough for people.
func short(digest string) string { return digest[:min(12, len(digest))] }
