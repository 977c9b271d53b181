package watch

import (
	"fmt"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/clock"
)

// pulse is a thread that Go's scheduler knows nothing of: it waits for the
// kernel alone, so that what it sees is the kernel's lateness, and not that of a
// process with much to do; and a wake-up is one system call where a goroutine's
// takes five. It runs a loop in assembly, with all signals blocked, on a stack of
// its own, and touches nothing but its area.
type pulse struct {
	area *area
	mem  []byte // that the area lies in; the stack is behind it
}

// area is what the thread and the others share.
//
//lint:ignore U1000 the assembly uses its fields
type area struct {
	tid     uint32 // of the thread; the kernel clears it, and wakes who waits for that, when it has ended
	stop    uint32 // 1: end at the next wake-up
	next    int64  // when it is due next, ns
	period  int64
	count   uint64  // notes written so far
	gettime uintptr // C: int clock_gettime(clockid_t, struct timespec *); 0: by system call
	ts      [2]int64
	full    uint64 // a mask of all signals
	mask    uint64 // of the thread that starts it
	notes   [ring]note
}

const stackSize = 16 << 10

// vdsoClockgettimeSym is what Go's runtime reads clocks by; package clock may have
// put its own function there.
//
//go:linkname vdsoClockgettimeSym runtime.vdsoClockgettimeSym
var vdsoClockgettimeSym uintptr

// In assembly. begin starts the thread, whose stack ends at top, and returns what
// clone(2) does.
//
//go:noescape
func begin(a *area, top uintptr, flags uintptr) int

// startPulse starts the thread and puts it before all others, where that is
// allowed.
func startPulse() (*pulse, error) {
	size := (int(unsafe.Sizeof(area{})) + 4095) &^ 4095
	// All pages at once: the thread is not to wait for one.
	mem, err := unix.Mmap(-1, 0, size+stackSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("start the pulse: %w", os.NewSyscallError("mmap", err))
	}
	p := &pulse{area: (*area)(unsafe.Pointer(&mem[0])), mem: mem}
	p.area.period, p.area.full, p.area.gettime = int64(Period), ^uint64(0), vdsoClockgettimeSym
	p.area.next = clock.Mono() + int64(Period)
	const flags = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_THREAD | unix.CLONE_SYSVSEM |
		unix.CLONE_PARENT_SETTID | unix.CLONE_CHILD_CLEARTID
	tid := begin(p.area, uintptr(unsafe.Pointer(&mem[0]))+uintptr(len(mem)), flags)
	if tid < 0 {
		_ = unix.Munmap(mem)
		return nil, fmt.Errorf("start the pulse: %w", os.NewSyscallError("clone", unix.Errno(-tid)))
	}
	// As an ordinary user it waits for its turn like all others, and sees more.
	_ = unix.SchedSetAttr(tid, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 50}, 0)
	return p, nil
}

func (p *pulse) head() uint64       { return atomic.LoadUint64(&p.area.count) }
func (p *pulse) note(i uint64) note { return p.area.notes[i&ringMask] }

// due is when the next wake-up should be, or should have been.
func (p *pulse) due() int64 { return atomic.LoadInt64(&p.area.next) }

// end ends the thread and waits until it has.
func (p *pulse) end() error {
	atomic.StoreUint32(&p.area.stop, 1)
	deadline := clock.Mono() + int64(endWait)
	for {
		tid := atomic.LoadUint32(&p.area.tid)
		left := deadline - clock.Mono()
		switch {
		case tid == 0:
			return os.NewSyscallError("munmap", unix.Munmap(p.mem))
		case left <= 0:
			return errStuck() // and its memory stays: it may still write there
		}
		ts := unix.NsecToTimespec(min(left, int64(time.Second)))
		const futexWait = 0
		_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&p.area.tid)), futexWait, uintptr(tid), uintptr(unsafe.Pointer(&ts)), 0, 0) // whatever it says, tid is looked at again
	}
}
