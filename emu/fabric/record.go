package fabric

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"

	"golang.org/x/sys/unix"
)

// recordDir holds one folder a lab: what a successor needs to clean up after
// a lab whose owner was killed. It is on a tmpfs: kernel objects do not
// survive a boot either.
const recordDir = "/run/vpclab"

// record says which namespaces a lab has or is about to have: it is written
// before the first of them is made. Everything else of ours lives inside.
type record struct {
	Lab   string   `json:"lab"`
	PID   int      `json:"pid"`
	Nodes []string `json:"nodes"`
}

func recordPath(lab string) string { return filepath.Join(recordDir, lab, "record.json") }
func lockPath(lab string) string   { return filepath.Join(recordDir, lab, "lock") }

// HeldError says that another process runs the lab.
type HeldError struct {
	Lab string
	PID int // 0: not known
}

func (e *HeldError) Error() string {
	return fmt.Sprintf("lab %s is held by process %d: destroy it first, or deploy through it", e.Lab, e.PID)
}

// acquire locks a lab for this process; the kernel frees it when we die.
func acquire(lab string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(lockPath(lab)), 0o755); err != nil {
		return nil, fmt.Errorf("lab %s: %w", lab, err)
	}
	f, err := os.OpenFile(lockPath(lab), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lab %s: %w", lab, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			r, _ := readRecord(lab) // who holds it is a courtesy
			return nil, &HeldError{Lab: lab, PID: r.PID}
		}
		return nil, fmt.Errorf("lock lab %s: %w", lab, err)
	}
	return f, nil
}

func readRecord(lab string) (record, error) {
	var r record
	data, err := os.ReadFile(recordPath(lab))
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("read %s: %w", recordPath(lab), err)
	}
	return r, nil
}

// write publishes the record atomically.
func (r record) write() error {
	sort.Strings(r.Nodes)
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("record lab %s: %w", r.Lab, err)
	}
	tmp := recordPath(r.Lab) + ".new"
	if err := os.WriteFile(tmp, data, 0o644); err != nil {
		return fmt.Errorf("record lab %s: %w", r.Lab, err)
	}
	if err := os.Rename(tmp, recordPath(r.Lab)); err != nil {
		return fmt.Errorf("record lab %s: %w", r.Lab, err)
	}
	return nil
}
