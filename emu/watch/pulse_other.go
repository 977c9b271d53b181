//go:build !amd64

package watch

import (
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/clock"
)

// pulse is a goroutine on a thread of its own: what it sees is also how late Go's
// scheduler is, which it has to ask for its turn after each wake-up.
type pulse struct {
	stop  atomic.Bool
	next  atomic.Int64
	count atomic.Uint64
	notes [ring]note
	ended chan struct{}
}

func startPulse() (*pulse, error) {
	p := &pulse{ended: make(chan struct{})}
	p.next.Store(clock.Mono() + int64(Period))
	go p.loop()
	return p, nil
}

func (p *pulse) loop() {
	defer close(p.ended)
	runtime.LockOSThread() // for good: its policy is no other's
	_ = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 50}, 0)
	for !p.stop.Load() {
		due := p.next.Load()
		ts := unix.NsecToTimespec(due)
		const monotonic, absolute = 1, 1
		_, _, _ = unix.Syscall6(unix.SYS_CLOCK_NANOSLEEP, monotonic, absolute, uintptr(unsafe.Pointer(&ts)), 0, 0, 0) // interrupted, it is a wake-up too early and goes on
		now := clock.Mono()
		p.notes[p.count.Load()&ringMask] = note{due: due, woke: now}
		p.count.Add(1)
		p.next.Store(due + int64(Period)*(1+max(0, now-due)/int64(Period)))
	}
}

func (p *pulse) head() uint64       { return p.count.Load() }
func (p *pulse) note(i uint64) note { return p.notes[i&ringMask] }
func (p *pulse) due() int64         { return p.next.Load() }

func (p *pulse) end() error {
	p.stop.Store(true)
	select {
	case <-p.ended:
		return nil
	case <-time.After(endWait):
		return errStuck()
	}
}
