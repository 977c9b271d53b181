package clock

import (
	"math"
	"unsafe"

	"golang.org/x/sys/unix"
)

// vdsoClockgettimeSym is what Go's runtime calls to read a clock, by the
// conventions of C; 0: it makes system calls.
//
//go:linkname vdsoClockgettimeSym runtime.vdsoClockgettimeSym
var vdsoClockgettimeSym uintptr

// state is the line, and what it is made of. seq is odd while it is being
// changed; who finds it so makes a system call.
//
//lint:ignore U1000 the assembly uses its fields
type state struct {
	seq uint64
	// At tsc it was mono (ns); since then mult × 2^-32 ns a tick. That holds for
	// limit ticks; then somebody looks at the kernel's clock again.
	tsc, mono, mult, limit uint64
	// The system call that the rate is reckoned from: the TSC before it, what it
	// said, and the ticks that it took.
	baseTSC, baseMono, bracket uint64
	// CLOCK_REALTIME is mono + real; that is looked up again 2^32 ticks after realTSC.
	real, realTSC uint64
	// The TSC before the system call that is being made.
	before uint64
}

var line state

// In assembly.
//
//lint:ignore U1000 the assembly gives its address
func gettime()       // C: int clock_gettime(clockid_t, struct timespec *)
func entry() uintptr // address of gettime
func counter() uint64
func cpuid(leaf uint32) (a, d uint32)

// dearTicks is what a reading costs at least where this package is worth it, 1 to 3 µs.
const dearTicks = 5000

func init() {
	if dear() && invariant() {
		install()
	}
}

func install() { vdsoClockgettimeSym = entry() }

// dear tells whether a reading takes longer than a vDSO's, or a native system call.
func dear() bool {
	least := uint64(math.MaxUint64)
	for range 3 {
		began := counter()
		nanotime()
		least = min(least, counter()-began)
	}
	return least > dearTicks
}

// invariant tells whether the TSC runs at one rate, whatever the processor does.
func invariant() bool {
	const extended, power, invariantTSC = 0x80000000, 0x80000007, 1 << 8
	if most, _ := cpuid(extended); most < power {
		return false
	}
	_, d := cpuid(power)
	return d&invariantTSC != 0
}

// asked is the kernel's own answer, by a system call.
func asked(clock uintptr) int64 {
	var ts unix.Timespec
	_, _, _ = unix.RawSyscall(unix.SYS_CLOCK_GETTIME, clock, uintptr(unsafe.Pointer(&ts)), 0) // cannot fail for these clocks
	return ts.Nano()
}
