package repair

import (
	"os"
	"slices"
	"strconv"
	"unsafe"

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

// ranks puts the process before all others: a neighbour that is not answered in
// time takes us for dead. What the runtime does beside, in the thread that it
// starts first, waits until nobody else wants to run. Where that is not allowed
// all stays as it is.
//
// The loop is not tied to a thread, which would cost it two changes of threads
// whenever the runtime wants to see whether others wait. It changes threads only
// in system calls that the scheduler hears of, so that assert is called after those.
type ranks struct{ thread int }

func (r *ranks) begin() {
	monitor := firstThread()
	r.assert()
	if monitor > 0 && monitor != r.thread {
		setPolicy(monitor, unix.SchedAttr{Policy: schedIdle})
	}
}

// assert sees to it that the thread that runs now has its rank.
func (r *ranks) assert() {
	if id, _, _ := unix.RawSyscall(unix.SYS_GETTID, 0, 0, 0); int(id) != r.thread {
		r.thread = int(id)
		setPolicy(0, unix.SchedAttr{Policy: schedFIFO, Priority: priority})
	}
}

func setPolicy(thread int, attr unix.SchedAttr) {
	attr.Size = unix.SizeofSchedAttr
	_, _, _ = unix.RawSyscall(unix.SYS_SCHED_SETATTR, uintptr(thread), uintptr(unsafe.Pointer(&attr)), 0)
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
