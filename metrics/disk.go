package metrics

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
)

// FullError says that the disk under a run's folder is full. It is one error
// for every write that can meet a full disk, so that a caller can stop the
// run with one message.
type FullError struct {
	Dir  string // the run's folder
	Kept int    // finished trials in it
	Err  error  // what the kernel said
}

func (e *FullError) Error() string {
	said := e.Err
	if errno := syscall.Errno(0); errors.As(e.Err, &errno) {
		said = errno
	}
	return fmt.Sprintf("results folder %s: the disk is full (%v); the %d finished trials in it are kept: free some space and resume the run", e.Dir, said, e.Kept)
}

func (e *FullError) Unwrap() error { return e.Err }

// isFull tells a full disk or an exhausted quota from other errors.
func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// writeDurable writes a new file and returns when its bytes are on the disk.
func writeDurable(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		f.Close()
		return err
	}
	return closeDurable(f)
}

// closeDurable flushes f to the disk and closes it. A file system may report
// a full disk only here.
func closeDurable(f *os.File) error {
	if err := f.Sync(); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// replaceFile puts data under path so that a reader, and a crash at any
// moment, sees either the old bytes or the new ones.
func replaceFile(path string, data []byte) error {
	dir, base := filepath.Split(path)
	f, err := os.CreateTemp(dir, "."+base+".*")
	if err != nil {
		return err
	}
	tmp := f.Name()
	defer os.Remove(tmp) // gone already when the rename worked
	if _, err := f.Write(data); err != nil {
		f.Close()
		return err
	}
	if err := f.Chmod(0o644); err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, fs.ErrPermission) {
		f.Close()
		return err
	}
	if err := closeDurable(f); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncDir(filepath.Clean(dir))
}

// syncDir flushes a folder's entries: a rename is durable only after it.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" { // folders cannot be flushed there
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	// Some file systems (hostfs of User Mode Linux, some FUSE) cannot flush
	// a folder; their renames are as durable as they get.
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return nil
}

// mkdirDurable makes dir and its missing parents below base, flushing each
// parent whose entries changed.
func mkdirDurable(base, dir string) error {
	if dir == base {
		return nil
	}
	switch err := os.Mkdir(dir, 0o755); {
	case errors.Is(err, fs.ErrExist):
		return nil
	case errors.Is(err, fs.ErrNotExist):
		if err := mkdirDurable(base, filepath.Dir(dir)); err != nil {
			return err
		}
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	case err != nil:
		return err
	}
	return syncDir(filepath.Dir(dir))
}
