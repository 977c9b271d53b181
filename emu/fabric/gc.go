package fabric

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// LabInfo is a lab found on this kernel.
type LabInfo struct {
	Lab   string `json:"lab"`
	Nodes int    `json:"nodes"`
	PID   int    `json:"pid"` // process that holds it; 0: nobody
}

// List finds the labs of this kernel, running or left behind.
func List() ([]LabInfo, error) {
	entries, err := os.ReadDir(recordDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list labs: %w", err)
	}
	var out []LabInfo
	for _, e := range entries {
		r, err := readRecord(e.Name())
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return out, err
		}
		info := LabInfo{Lab: r.Lab, Nodes: len(r.Nodes)}
		if held(r.Lab) {
			info.PID = r.PID
		}
		out = append(out, info)
	}
	return out, nil
}

// held says whether a living process holds the lab.
func held(lab string) bool {
	f, err := acquire(lab)
	if err != nil {
		var h *HeldError
		return errors.As(err, &h)
	}
	f.Close()
	return false
}

// GC removes what labs without a living owner left behind: processes in their
// namespaces, the namespaces and the record. alive may save further labs (nil:
// none). Nothing that a record does not name is touched.
func GC(ctx context.Context, alive func(lab string) bool) (removed []string, err error) {
	labs, err := List()
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, l := range labs {
		if ctx.Err() != nil {
			return removed, errors.Join(append(errs, ctx.Err())...)
		}
		if alive != nil && alive(l.Lab) {
			continue
		}
		lock, err := acquire(l.Lab)
		var h *HeldError
		if errors.As(err, &h) {
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		err = sweep(l.Lab)
		lock.Close()
		if err != nil {
			errs = append(errs, fmt.Errorf("collect lab %s: %w", l.Lab, err))
			continue
		}
		removed = append(removed, l.Lab)
	}
	return removed, errors.Join(errs...)
}

// sweep removes all that the record of a lab names. The caller holds its lock.
func sweep(lab string) error {
	r, err := readRecord(lab)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	inodes := map[uint64]bool{}
	for _, n := range r.Nodes {
		var st unix.Stat_t
		if err := unix.Stat(nsPath(lab, n), &st); err == nil && isNetns(nsPath(lab, n)) {
			inodes[st.Ino] = true
		}
	}
	errs = append(errs, killInside(inodes))
	for _, n := range r.Nodes {
		errs = append(errs, removeNS(nsPath(lab, n)))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Dir(recordPath(lab)))
}

// isNetns says that path is a mounted namespace, not the empty file that is
// left when its creator was killed before the mount.
func isNetns(path string) bool {
	const nsfsMagic = 0x6e736673
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == nsfsMagic
}

// killInside kills the processes whose network namespace is one of inodes.
func killInside(inodes map[uint64]bool) error {
	if len(inodes) == 0 {
		return nil
	}
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return fmt.Errorf("list processes: %w", err)
	}
	var errs []error
	for _, p := range procs {
		pid, err := strconv.Atoi(p.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		var st unix.Stat_t
		if unix.Stat(filepath.Join("/proc", p.Name(), "ns/net"), &st) != nil || !inodes[st.Ino] {
			continue // ended meanwhile, a kernel thread, or not ours
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("kill process %d: %w", pid, err))
		}
	}
	return errors.Join(errs...)
}
