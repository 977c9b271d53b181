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

// step is called before each change of the file system, with what is about to
// be done to which path; parts are the pieces in which a file is written. Tests
// end the process in the one and write in several by the other, to see what any
// moment leaves.
var (
	step  = func(what, path string) {}
	parts = func(data []byte) [][]byte { return [][]byte{data} }
)

// write writes all of data.
func write(f *os.File, data []byte) error {
	for _, part := range parts(data) {
		step("write", f.Name())
		if _, err := f.Write(part); err != nil {
			return err
		}
	}
	return nil
}

// stepped is a file whose writes are steps.
type stepped struct{ *os.File }

func (f stepped) Write(data []byte) (int, error) {
	if err := write(f.File, data); err != nil {
		return 0, err
	}
	return len(data), nil
}

func mkdir(path string) error {
	step("make folder", path)
	return os.Mkdir(path, 0o755)
}

func rename(from, to string) error {
	step("rename to "+to, from)
	return os.Rename(from, to)
}

// writeDurable writes a new file and returns when its bytes are on the disk.
func writeDurable(path string, data []byte) error {
	step("make", path)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	if err := write(f, data); err != nil {
		f.Close()
		return err
	}
	return closeDurable(f)
}

// closeDurable flushes f to the disk and closes it. A file system may report
// a full disk only here.
func closeDurable(f *os.File) error {
	step("flush", f.Name())
	if err := f.Sync(); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// tempPrefix begins the names of files that are not whole yet. Who goes on
// with a killed run removes them.
const tempPrefix = ".tmp-"

// ReplaceFile puts data under path so that a reader, and a crash at any
// moment, sees either the old bytes or the new ones.
func ReplaceFile(path string, data []byte) error {
	for again := 0; ; again++ {
		err := replaceFile(path, data)
		// A run that is gone on with removes what looks left over, and may
		// take ours along.
		if !errors.Is(err, errSwept) || again == 3 {
			return err
		}
	}
}

var errSwept = errors.New("the temporary file was removed")

func replaceFile(path string, data []byte) error {
	dir, base := filepath.Split(path)
	step("make", path)
	f, err := os.CreateTemp(dir, tempPrefix+base+"-*")
	if err != nil {
		return err
	}
	tmp := f.Name()
	defer os.Remove(tmp) // gone already when the rename worked
	if err := write(f, data); err != nil {
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
	if err := rename(tmp, path); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", errSwept, err)
	} else if err != nil {
		return err
	}
	return syncDir(filepath.Clean(dir))
}

// syncDir flushes a folder's entries: a rename is durable only after it.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" { // folders cannot be flushed there
		return nil
	}
	step("flush", dir)
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
	switch err := mkdir(dir); {
	case errors.Is(err, fs.ErrExist):
		return nil
	case errors.Is(err, fs.ErrNotExist):
		if err := mkdirDurable(base, filepath.Dir(dir)); err != nil {
			return err
		}
		if err := mkdir(dir); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	case err != nil:
		return err
	}
	return syncDir(filepath.Dir(dir))
}
