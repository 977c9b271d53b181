package metrics

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Hold is the right to write into a run's folder. It is a lock of the kernel's
// on two folders, so it falls with its holders however they end:
//
//   - the run's folder, held by the command that runs it: a second one is
//     refused;
//   - .attempts in it, held by that command and by the lab kernel that it
//     boots. A kernel may outlive a command that was killed by a second or two:
//     who goes on with the run waits for it.
//
// A run that has not begun yet has the folder .new-<id>; it gets its name by
// a rename once run.json is in it (see [Create]). Where a file system knows no
// locks, nothing is held.
type Hold struct {
	dir        string
	run, tries *os.File // nil where locks are not known
}

const (
	newPrefix = ".new-" // folder of a run that has not begun
	attempts  = ".attempts"
)

// BusyError says that another process writes into a run's folder.
type BusyError struct {
	Dir   string
	PID   int       // of the command that runs it; 0: not known
	Since time.Time // when its session began; zero: not known
}

func (e *BusyError) Error() string {
	who := "another vpclab"
	if e.PID != 0 {
		who += fmt.Sprintf(" (pid %d, since %s)", e.PID, e.Since.Local().Format("15:04:05"))
	}
	return fmt.Sprintf("results folder %s: %s is at work in it: wait for its end, or interrupt it", e.Dir, who)
}

// HoldNew makes the folder of a run that is about to begin and holds it. What
// runs that never began have left beside it is removed.
func HoldNew(root, scenario, id string) (*Hold, error) {
	parent := filepath.Join(root, escapeName(scenario))
	dir := filepath.Join(parent, newPrefix+escapeName(id))
	for {
		if err := os.MkdirAll(parent, 0o755); err != nil {
			return nil, fmt.Errorf("create results: %w", err)
		}
		sweepNew(parent)
		step("make folder", dir)
		if err := os.MkdirAll(filepath.Join(dir, attempts), 0o755); err != nil {
			if errors.Is(err, os.ErrNotExist) {
				continue // another command's end took the scenario's folder away
			}
			return nil, fmt.Errorf("create results: %w", err)
		}
		h, err := take(dir)
		if err == nil && h.in(dir) {
			return h, nil
		}
		h.close() // somebody took it for left over before it was held
		if err != nil && !errors.Is(err, errLocked) && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("create results: %w", err)
		}
	}
}

// sweepNew removes the folders of runs that never began and that nobody holds.
func sweepNew(parent string) {
	found, _ := filepath.Glob(filepath.Join(globEscape(parent), newPrefix+"*")) // the pattern is well formed
	for _, dir := range found {
		if f, err := lockFolder(dir); err == nil && f != nil {
			_ = os.RemoveAll(dir)
			f.Close()
		}
	}
}

// HoldRun holds the folder of an earlier run, to go on with it. It waits until
// ctx ends for the kernel of a session that was killed; a command that lives is
// a *BusyError.
func HoldRun(ctx context.Context, dir string) (*Hold, error) {
	if err := os.MkdirAll(filepath.Join(dir, attempts), 0o755); err != nil {
		return nil, fmt.Errorf("results folder %s: %w", dir, err)
	}
	run, err := lockFolder(dir)
	if errors.Is(err, errLocked) {
		return nil, busy(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("results folder %s: lock it: %w", dir, err)
	}
	h := &Hold{dir: dir, run: run}
	if h.tries, err = awaitLock(ctx, filepath.Join(dir, attempts)); err != nil {
		h.close()
		return nil, fmt.Errorf("results folder %s: wait for the end of the kernel that its last session left: %w", dir, err)
	}
	return h, nil
}

// busy says who is at work, as far as run.json tells.
func busy(dir string) error {
	e := &BusyError{Dir: dir}
	if s, err := Open(dir); err == nil {
		if n := len(s.info.Sessions); n > 0 {
			e.PID, e.Since = s.info.Sessions[n-1].PID, s.info.Sessions[n-1].Started
		}
	}
	return e
}

// take locks both folders of a run that is new.
func take(dir string) (h *Hold, err error) {
	h = &Hold{dir: dir}
	if h.run, err = lockFolder(dir); err == nil {
		h.tries, err = lockFolder(filepath.Join(dir, attempts))
	}
	return h, err
}

// in reports whether what is held are the folders at dir.
func (h *Hold) in(dir string) bool {
	for path, f := range map[string]*os.File{dir: h.run, filepath.Join(dir, attempts): h.tries} {
		at, err := os.Stat(path)
		if err != nil {
			return false
		}
		if f == nil {
			continue // locks are not known here
		}
		if held, err := f.Stat(); err != nil || !os.SameFile(at, held) {
			return false
		}
	}
	return true
}

// Files are what the processes of the run's kernel are to inherit: while any
// of them has one open, nobody else goes on with the run.
func (h *Hold) Files() []*os.File {
	if h.tries == nil {
		return nil
	}
	return []*os.File{h.tries}
}

// Release lets go of the folder. That of a run which never began is removed,
// and the scenario's with it where it is the only one.
func (h *Hold) Release() error {
	defer h.close()
	if !strings.HasPrefix(filepath.Base(h.dir), newPrefix) || !h.in(h.dir) {
		return nil // it has begun: the folder has its name
	}
	if err := os.RemoveAll(h.dir); err != nil {
		return fmt.Errorf("remove the folder of a run that did not begin: %w", err)
	}
	_ = os.Remove(filepath.Dir(h.dir)) // fails while it holds other runs
	return nil
}

func (h *Hold) close() {
	for _, f := range []*os.File{h.run, h.tries} {
		if f != nil {
			f.Close()
		}
	}
}
