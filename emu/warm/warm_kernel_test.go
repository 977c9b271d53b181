package warm

import (
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
)

// faults are the page faults of this process so far.
func faults(t *testing.T) int64 {
	t.Helper()
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		t.Fatal(err)
	}
	return r.Minflt + r.Majflt
}

var sink [][]byte

// TestPresent touches code and heap that were made present: hardly a page may
// fault.
func TestPresent(t *testing.T) {
	kerneltest.Need(t)
	if !dear {
		t.Skip("page faults are cheap in this kernel")
	}
	const few = 40 // of other threads, stacks and the test itself
	before, pages := faults(t), 0
	var sum byte
	for _, s := range segments() {
		if s.flags&flagExec == 0 {
			continue
		}
		code := unsafe.Slice((*byte)(unsafe.Add(nil, uintptr(s.address))), s.memory)
		for i := 0; i < len(code); i += pageSize {
			sum += code[i]
			pages++
		}
	}
	runtime.KeepAlive(sum)
	if n := faults(t) - before; n > few {
		t.Errorf("%d faults in %d pages of code", n, pages)
	}

	const size = 16 << 20
	done := Heap(size)
	before = faults(t)
	for range size / 2 / 1024 {
		b := make([]byte, 1024)
		b[0] = 1
		sink = append(sink, b)
	}
	n := faults(t) - before
	done()
	sink = nil
	if n > size/2/pageSize/5 {
		t.Errorf("%d faults in %d pages of heap", n, size/2/pageSize)
	}
}
