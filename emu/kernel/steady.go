package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// QEMU moves the clock of a closed box over idle time in its main thread, when it
// sees that the processor halts. It may see that a moment before the thread of the
// processor has added up the instructions up to there (accel/tcg/icount-common.c
// reads the flag without the lock): the clock then jumps too far, by as many
// instructions as are missing, some fifty ns in one of a hundred thousand jumps.
// So the two share one CPU of the host, and the main thread is of the class that
// runs only when nobody else on that CPU wants to, which is when the processor's
// thread sleeps, and has added up.

// processorThread ends the name of the thread of all processors, if QEMU is
// asked to name its threads.
const processorThread = "/TCG"

// steadyLimit bounds how long QEMU may take to start that thread.
const steadyLimit = 30 * time.Second

// steady arranges the threads of the QEMU that is process pid, of which pidfd is a
// file descriptor. It is called before they are started: they inherit the CPU.
func steady(pid, pidfd int) error {
	if err := shareOneCPU(pid); err != nil {
		return err
	}
	threads, err := threadNames(pidfd)
	if err != nil {
		return err
	}
	for end := time.Now().Add(steadyLimit); ; time.Sleep(time.Millisecond) { // nothing tells of a new thread
		names, err := filepath.Glob(threads)
		if err != nil || len(names) == 0 {
			return errors.New("threads of QEMU: it has ended")
		}
		for _, name := range names {
			comm, err := os.ReadFile(name)
			if err == nil && strings.HasSuffix(strings.TrimSpace(string(comm)), processorThread) {
				return unix.SchedSetAttr(pid, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}, 0)
			}
		}
		if time.Now().After(end) {
			return fmt.Errorf("threads of QEMU: it has not started %q in %v", processorThread, steadyLimit)
		}
	}
}

// threadNames is a pattern for the files with the names of a process's threads.
// The warden may be in a PID namespace of its own, of which /proc knows nothing.
func threadNames(pidfd int) (string, error) {
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", pidfd))
	if err != nil {
		return "", fmt.Errorf("process of QEMU: %w", err)
	}
	for line := range strings.Lines(string(info)) {
		if pid, ok := strings.CutPrefix(line, "Pid:"); ok {
			return fmt.Sprintf("/proc/%s/task/*/comm", strings.TrimSpace(pid)), nil
		}
	}
	return "", errors.New("process of QEMU: this kernel does not tell its number")
}

// shareOneCPU keeps a process to one CPU, if possible to one that no other box of
// this user has.
func shareOneCPU(pid int) error {
	var allowed, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return fmt.Errorf("CPUs of this process: %w", err)
	}
	chosen := -1
	for cpu := range len(allowed) * 64 {
		if !allowed.IsSet(cpu) {
			continue
		}
		if chosen < 0 {
			chosen = cpu
		}
		if claimCPU(cpu) {
			chosen = cpu
			break
		}
	}
	one.Set(chosen)
	if err := unix.SchedSetaffinity(pid, &one); err != nil {
		return fmt.Errorf("keep QEMU to CPU %d: %w", chosen, err)
	}
	return nil
}

// claimCPU says to other boxes that the CPU is taken, by a name that is free again
// when this process ends.
func claimCPU(cpu int) bool {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	if unix.Bind(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("@vpclab-box-%d-cpu%d", os.Getuid(), cpu)}) != nil {
		unix.Close(fd)
		return false
	}
	return true
}
