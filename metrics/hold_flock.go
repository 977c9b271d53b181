//go:build linux || darwin || freebsd || netbsd || openbsd

package metrics

import (
	"context"
	"errors"
	"os"
	"syscall"
)

// errLocked says that another process holds a folder.
var errLocked = errors.New("another process holds it")

// lockFolder holds a folder. The file is nil where the file system knows no
// locks.
func lockFolder(dir string) (*os.File, error) {
	return lock(dir, syscall.LOCK_EX|syscall.LOCK_NB)
}

func lock(dir string, how int) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(f.Fd()), how)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err == nil {
		return f, nil
	}
	f.Close()
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK):
		return nil, errLocked
	case errors.Is(err, syscall.ENOLCK), errors.Is(err, syscall.ENOTSUP), errors.Is(err, syscall.ENOSYS), errors.Is(err, syscall.EBADF), errors.Is(err, syscall.EINVAL):
		return nil, nil // NFS and some FUSE
	}
	return nil, err
}

// awaitLock is lockFolder that waits for the present holder until ctx ends.
func awaitLock(ctx context.Context, dir string) (*os.File, error) {
	if f, err := lockFolder(dir); !errors.Is(err, errLocked) {
		return f, err
	}
	type result struct {
		f   *os.File
		err error
	}
	got := make(chan result, 1)
	go func() { // cannot be interrupted; ends with the holder, or with us
		f, err := lock(dir, syscall.LOCK_EX)
		got <- result{f, err}
	}()
	select {
	case r := <-got:
		return r.f, r.err
	case <-ctx.Done():
		go func() { // what still comes is nobody's
			if r := <-got; r.f != nil {
				r.f.Close()
			}
		}()
		return nil, context.Cause(ctx)
	}
}
