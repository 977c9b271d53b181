package codec

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// clock measures the CPU of a batch's stages, one after the other. A look at a
// clock is a system call of 70 µs in User Mode Linux, so it is done a few times
// a batch and never for a page.
type clock struct{ last time.Duration }

// start begins a batch. The goroutine stays on its thread until stop: the CPU
// measured is the thread's, so that what others do at the same time on a
// machine's only CPU is not counted.
func (c *clock) start() {
	runtime.LockOSThread()
	c.last = threadCPU()
}

// lap gives the CPU since the last lap, or since start, to use.
func (c *clock) lap(use *Use) {
	now := threadCPU()
	use.CPU += now - c.last
	c.last = now
}

func (c *clock) stop() { runtime.UnlockOSThread() }

func threadCPU() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t) != nil {
		return 0 // no such clock: all CPU is reported as none
	}
	return time.Duration(t.Nano())
}
