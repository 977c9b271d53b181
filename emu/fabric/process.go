package fabric

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// killDeadline is how long a killed process may take to be gone; one that
// waits for a disk takes its time.
const killDeadline = 10 * time.Second

// killInside kills the processes whose network namespace is one of inodes, and
// waits until they are gone: a namespace lives as long as anybody is in it.
// Only namespaces of ours are asked about, so the processes are the lab's,
// whoever started them there.
func killInside(inodes map[uint64]bool) error {
	if len(inodes) == 0 {
		return nil
	}
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return fmt.Errorf("list processes: %w", err)
	}
	var dying []unix.PollFd
	var errs []error
	for _, p := range procs {
		pid, err := strconv.Atoi(p.Name())
		if err != nil || pid == os.Getpid() || !isInside(p.Name(), inodes) {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.ESRCH) {
			continue
		}
		if err == nil {
			dying = append(dying, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
			// The number may belong to another process by now.
			if isInside(p.Name(), inodes) {
				err = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
			}
		}
		if err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("kill process %d: %w", pid, err))
		}
	}
	errs = append(errs, waitAll(dying))
	for _, p := range dying {
		unix.Close(int(p.Fd))
	}
	return errors.Join(errs...)
}

func isInside(pid string, inodes map[uint64]bool) bool {
	var st unix.Stat_t
	// Fails for kernel threads and for processes that ended meanwhile.
	return unix.Stat(filepath.Join("/proc", pid, "ns/net"), &st) == nil && inodes[st.Ino]
}

// waitAll waits until each of the process descriptors says that its process
// ended.
func waitAll(fds []unix.PollFd) error {
	deadline := time.Now().Add(killDeadline)
	for i := range fds {
		for {
			left := time.Until(deadline)
			if left <= 0 {
				return fmt.Errorf("%d killed processes are not gone after %v", len(fds)-i, killDeadline)
			}
			n, err := unix.Poll(fds[i:i+1], int(left.Milliseconds())+1)
			if err != nil && !errors.Is(err, unix.EINTR) {
				return fmt.Errorf("wait for killed processes: %w", err)
			}
			if n == 1 {
				break
			}
		}
	}
	return nil
}
