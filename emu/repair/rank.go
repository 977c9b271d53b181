package repair

import (
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// Scheduling policies (sched(7)).
const (
	schedFIFO = 1
	schedIdle = 5
)

// priority is before all that is not in real time, and behind what the kernel
// itself runs so (50).
const priority = 10

// environment fits the Go runtime to a process that sleeps in system calls of its
// own, a hundred times a second: one thread of Go code; no collector, which has
// nothing to do, unless memory grows beyond all reason; no signals from the
// runtime's monitor, which would wake it from its sleep.
var environment = []string{"GOMAXPROCS=1", "GOGC=off", "GOMEMLIMIT=128MiB", "GODEBUG=asyncpreemptoff=1"}

// rank puts this process before all others: a neighbour that is not answered in
// time takes us for dead. What the runtime does beside, in the thread that it
// starts first, waits until nobody else wants to run. Where that is not allowed
// all stays as it is.
func rank() {
	self := unix.Gettid()
	_ = unix.SchedSetAttr(0, &unix.SchedAttr{Policy: schedFIFO, Priority: priority}, 0)
	if monitor := firstThread(); monitor > 0 && monitor != self {
		_ = unix.SchedSetAttr(monitor, &unix.SchedAttr{Policy: schedIdle}, 0)
	}
}

// firstThread is the first that this process started: the runtime's monitor.
func firstThread() int {
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return 0
	}
	var ids []int
	for _, e := range entries {
		if id, err := strconv.Atoi(e.Name()); err == nil && id != os.Getpid() {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return 0
	}
	return slices.Min(ids)
}
