package codec

import (
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// clock measures the CPU of a batch's stages, one after the other.
//
// On a plain kernel it is the thread's own CPU time, so that what others do at
// the same time on a machine's only CPU is not counted. User Mode Linux counts
// that in ticks of 10 ms, and a look at any clock is a system call of 70 µs: there
// it is the time that passes, of one batch in eight, taken for all.
type clock struct {
	last          time.Duration
	on            bool
	batches       int
	pages, looked int64 // in all, and in the batches that were looked at
}

// oneIn of so many batches is looked at where clocks are coarse.
const oneIn = 8

// coarse says that a thread's CPU time comes in ticks, a millisecond's work is
// none at all, or ten: the mark of User Mode Linux.
var coarse = sync.OnceValue(func() bool {
	const work, tick = time.Millisecond, 4 * time.Millisecond
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var page [PageSize]byte
	cpu, began := threadCPU(), time.Now()
	for time.Since(began) < work {
		for range 1000 {
			if !allZero(page[:]) {
				return false
			}
		}
	}
	cpu = threadCPU() - cpu
	return cpu == 0 || cpu >= tick
})

// start begins a batch; the goroutine stays on its thread until stop.
func (c *clock) start(pages int) {
	c.on = !coarse() || c.batches%oneIn == 0
	c.batches++
	c.pages += int64(pages)
	if c.on {
		c.looked += int64(pages)
		runtime.LockOSThread()
		c.last = cpuNow()
	}
}

// lap gives the CPU since the last lap, or since start, to use.
func (c *clock) lap(use *Use) {
	if c.on {
		now := cpuNow()
		use.CPU += now - c.last
		c.last = now
	}
}

func (c *clock) stop() {
	if c.on {
		runtime.UnlockOSThread()
	}
}

// all makes CPU that was measured in some batches that of all.
func (c *clock) all(uses []Use) []Use {
	if c.looked > 0 && c.looked < c.pages {
		for i := range uses {
			uses[i].CPU = time.Duration(float64(uses[i].CPU) * float64(c.pages) / float64(c.looked))
		}
	}
	return uses
}

func cpuNow() time.Duration {
	if coarse() {
		return clockNow(unix.CLOCK_MONOTONIC)
	}
	return threadCPU()
}

func threadCPU() time.Duration { return clockNow(unix.CLOCK_THREAD_CPUTIME_ID) }

func clockNow(id int32) time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(id, &t) != nil {
		return 0 // no such clock: all CPU is reported as none
	}
	return time.Duration(t.Nano())
}
