package fabric

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/fabric/direct"
)

// recordDir holds one folder a lab: what a successor needs to clean up, or to
// go on, after a lab's owner was killed. It is on a tmpfs: kernel objects do
// not survive a boot either.
const recordDir = "/run/vpclab"

// record says which namespaces a lab has, or is about to have: the latter is
// written before the first of them is made. Everything else of ours lives
// inside.
type record struct {
	Lab string `json:"lab"`
	PID int    `json:"pid"`
	// Nodes gives the inode of each namespace, which tells it from one that
	// somebody else made under the same name; 0: not made yet when the record
	// was written, and nothing had the name then.
	Nodes map[string]uint64 `json:"nodes"`
	// State is what the last Apply reached; see settled.
	State State `json:"state"`

	settled bool // no Apply or Destroy was under way
}

// A record is two files. "state" is written when an Apply has reached what it
// was for. "intent" is there from before the first change until then, and holds
// the nodes that "state" does not know of.

func labDir(lab string) string     { return filepath.Join(recordDir, lab) }
func recordPath(lab string) string { return filepath.Join(labDir(lab), "state") }
func intentPath(lab string) string { return filepath.Join(labDir(lab), "intent") }
func lockPath(lab string) string   { return filepath.Join(labDir(lab), "lock") }

// Recorded tells whether this kernel has anything of a lab, whoever owns it.
func Recorded(lab string) bool {
	_, err := os.Stat(labDir(lab))
	return err == nil
}

// HeldError says that another process runs the lab.
type HeldError struct {
	Lab string
	PID int // 0: not known
}

func (e *HeldError) Error() string {
	who := "another process"
	if e.PID != 0 {
		who = fmt.Sprintf("process %d", e.PID)
	}
	return fmt.Sprintf("lab %s is held by %s: destroy it first, or deploy through it", e.Lab, who)
}

// acquire locks a lab for this process, or says who holds it; the kernel frees
// the lock when we die.
func acquire(lab string) (*os.File, error) {
	var waiting <-chan time.Time
	for {
		f, err := tryLock(lab)
		var held *HeldError
		switch {
		case f != nil:
			return f, nil
		case errors.As(err, &held) && held.PID != 0 && unix.Kill(held.PID, 0) == unix.ESRCH:
			// The kernel closes the files of a killed process some time after
			// its end.
			if waiting == nil {
				waiting = time.After(deadHolderDeadline)
			}
			select {
			case <-waiting:
				return nil, fmt.Errorf("%w; that process has ended, but its lock was not freed within %v", err, deadHolderDeadline)
			case <-time.After(deadHolderTick):
			}
		case err != nil:
			return nil, err
		}
	}
}

// How long the lock of a process that has ended is waited for, and how often
// it is looked at: there is no event to wait on.
const (
	deadHolderDeadline = 5 * time.Second
	deadHolderTick     = 10 * time.Millisecond
)

// tryLock returns neither lock nor error if the folder was removed by its last
// owner just when we opened the lock in it.
func tryLock(lab string) (*os.File, error) {
	if err := os.MkdirAll(labDir(lab), 0o755); err != nil {
		return nil, fmt.Errorf("lab %s: %w", lab, err)
	}
	f, err := os.OpenFile(lockPath(lab), os.O_CREATE|os.O_RDWR, 0o644)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("lab %s: %w", lab, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, &HeldError{Lab: lab, PID: holder(f)}
		}
		return nil, fmt.Errorf("lock lab %s: %w", lab, err)
	}
	ours, err := f.Stat()
	if err == nil {
		var named os.FileInfo
		if named, err = os.Stat(lockPath(lab)); err == nil && !os.SameFile(ours, named) {
			err = os.ErrNotExist
		}
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = fmt.Fprintf(f, "%d\n", os.Getpid())
	}
	if err != nil {
		f.Close()
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil
		}
		return nil, fmt.Errorf("lock lab %s: %w", lab, err)
	}
	return f, nil
}

// holder reads the process id that the owner of a lock wrote into it.
func holder(f *os.File) (pid int) {
	buf := make([]byte, 16)
	n, _ := f.ReadAt(buf, 0)
	_, _ = fmt.Sscan(string(buf[:n]), &pid) // a courtesy: 0 if it is not there yet
	return pid
}

// readRecord reads a lab's record; os.ErrNotExist: there is none.
func readRecord(lab string) (record, error) {
	r, intent := record{settled: true}, record{}
	err := readJSON(recordPath(lab), &r)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return r, err
	}
	switch also := readJSON(intentPath(lab), &intent); {
	case errors.Is(also, os.ErrNotExist):
		return r, err
	case also != nil:
		return r, also
	}
	r.Lab, r.PID, r.settled = intent.Lab, intent.PID, false
	if r.Nodes == nil {
		r.Nodes = intent.Nodes
	}
	maps.Copy(r.Nodes, intent.Nodes)
	return r, nil
}

func readJSON(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// settle publishes what was reached.
func (r record) settle() error {
	if err := r.write(recordPath(r.Lab)); err != nil {
		return err
	}
	if err := direct.Unlink(intentPath(r.Lab)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("record lab %s: %w", r.Lab, err)
	}
	return nil
}

// intend publishes that a change is under way, which may have made these nodes
// when it is interrupted, besides those that were there when the last one
// settled.
func (r record) intend() error { return r.write(intentPath(r.Lab)) }

// write puts a file in its place atomically.
func (r record) write(path string) error {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("record lab %s: %w", r.Lab, err)
	}
	if err := direct.WriteFile(path+".new", data, 0o644); err != nil {
		return fmt.Errorf("record lab %s: %w", r.Lab, err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("record lab %s: %w", r.Lab, err)
	}
	return nil
}

// forget removes a lab's folder; the lock goes last, and unlocked after.
func forget(lab string, lock *os.File) error {
	for _, path := range []string{recordPath(lab), intentPath(lab), recordPath(lab) + ".new", intentPath(lab) + ".new", lockPath(lab)} {
		if err := direct.Unlink(path); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("forget lab %s: remove %s: %w", lab, path, err)
		}
	}
	if err := direct.Rmdir(labDir(lab)); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTEMPTY) {
		return fmt.Errorf("forget lab %s: remove %s: %w", lab, labDir(lab), err)
	}
	_ = direct.Rmdir(recordDir) // if this was the last lab
	return lock.Close()
}

// flocked says whether somebody holds the lock.
func flocked(f *os.File) bool {
	if unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) != nil {
		return true
	}
	_ = unix.Flock(int(f.Fd()), unix.LOCK_UN)
	return false
}
