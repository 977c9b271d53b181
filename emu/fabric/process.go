package fabric

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/fabric/direct"
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
	procs, err := direct.Names("/proc")
	if err != nil {
		return fmt.Errorf("list processes: %w", err)
	}
	var dying []unix.PollFd
	var errs []error
	self, threads := os.Getpid(), kernelThreads()
	for _, p := range procs {
		pid, err := strconv.Atoi(p)
		if err != nil || pid == self || threads[p] || !isInside(p, inodes) {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.ESRCH) {
			continue
		}
		if err == nil {
			dying = append(dying, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
			// The number may belong to another process by now.
			if isInside(p, inodes) {
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
	inode, err := direct.InodeOf("/proc/" + pid + "/ns/net")
	return err == nil && inodes[inode] // else it ended meanwhile
}

// kernelThreads are the children of process 2, where that is the kernel's and
// says so: most processes of a small machine, and none of them is inside.
func kernelThreads() map[string]bool {
	// What has no program is no process of anybody's.
	if _, err := os.Readlink("/proc/2/exe"); !errors.Is(err, unix.ENOENT) {
		return nil
	}
	list, err := direct.ReadFile("/proc/2/task/2/children")
	if err != nil {
		return nil // a kernel that does not tell
	}
	threads := map[string]bool{"2": true}
	for pid := range strings.FieldsSeq(string(list)) {
		threads[pid] = true
	}
	return threads
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

// Processes are those that run in the namespaces of nodes, by node; nodes that
// are not there have none.
func (f *Fabric) Processes(nodes ...string) (map[string][]int, error) {
	names := map[uint64]string{}
	f.mu.Lock()
	for _, name := range nodes {
		if n := f.nodes[name]; n != nil {
			names[n.inode] = name
		}
	}
	f.mu.Unlock()
	procs, err := direct.Names("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	self, threads := os.Getpid(), kernelThreads()
	in := map[string][]int{}
	for _, p := range procs {
		pid, err := strconv.Atoi(p)
		if err != nil || pid == self || threads[p] {
			continue
		}
		inode, err := direct.InodeOf("/proc/" + p + "/ns/net")
		if name, ok := names[inode]; ok && err == nil { // else it ended meanwhile
			in[name] = append(in[name], pid)
		}
	}
	return in, nil
}
