package metrics

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// Prune removes from a run's folder what no figure and no verdict rests on:
// attempts that were killed, or that failed and were tried again, and files that
// were left half written. Void attempts stay: fidelity.json counts them. It returns how many bytes that was. A
// folder that somebody is at work in is a *BusyError, and left alone.
func Prune(dir string) (freed int64, err error) {
	s, err := Open(dir)
	if err != nil {
		return 0, err
	}
	before, err := size(dir)
	if err != nil {
		return 0, fmt.Errorf("prune %s: %w", dir, err)
	}
	// An interrupted run may go on with times that its attempts keep.
	if s.reduced || s.info.Verdict == VerdictRunning || s.info.Verdict == VerdictInterrupted || s.info.Verdict == VerdictError {
		return 0, nil
	}
	now, cancel := context.WithCancelCause(context.Background())
	cancel(errors.New("its kernel has not ended yet"))
	h, err := HoldRun(now, dir)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, h.Release()) }()
	sweep(dir)
	sweep(filepath.Join(dir, "figures"))
	if err := s.pruneBad(); err != nil {
		return 0, fmt.Errorf("prune %s: %w", dir, err)
	}
	after, err := size(dir)
	return before - after, err
}

// pruneBad removes the attempts that are not void, and what is empty then.
func (s *Store) pruneBad() error {
	void, err := s.voidAttempts()
	if err != nil {
		return err
	}
	keep := map[string]bool{}
	for path, all := range void {
		for _, r := range all {
			keep[path+"."+strconv.Itoa(r.Attempt)] = true
		}
	}
	root := filepath.Join(s.dir, attempts)
	found, err := filepath.Glob(filepath.Join(globEscape(root), "*", "*", "*"))
	if err != nil {
		return err
	}
	for _, dir := range found {
		name, err := filepath.Rel(root, dir)
		if err == nil && !keep[name] {
			err = os.RemoveAll(dir)
		}
		if err != nil {
			return err
		}
	}
	s.pruneAttempts()
	return nil
}

// Size is how many bytes a run's folder holds.
func (s *Store) Size() (int64, error) { return size(s.dir) }

func size(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) { // a temporary file of somebody at work
			return nil
		}
		if err == nil {
			n += info.Size()
		}
		return err
	})
	return n, err
}

// Newest is the run below root that was started last; "" where there is none.
func Newest(root string) (string, error) {
	runs, err := Runs(root)
	if err != nil {
		return "", err
	}
	var newest string
	var started RunInfo
	for _, dir := range runs {
		info, err := readInfo(dir)
		if err == nil && (newest == "" || info.Started.After(started.Started)) {
			newest, started = dir, info
		}
	}
	return newest, nil
}
