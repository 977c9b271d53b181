// Package warm puts memory in its place before it is used, in kernels where
// that is dear.
//
// In User Mode Linux a page that a program touches for the first time costs 50
// to 200 µs, twenty times what it costs elsewhere: the program is stopped by a
// signal, and the page is mapped into its process by one system call of the
// host. A Go program touches thousands before its main function runs. The
// kernel can fill page tables by the thousand (madvise(2), MADV_POPULATE_READ
// and _WRITE), but User Mode Linux notes only which pages its process lacks
// and goes on mapping each when it is touched. A change of protection makes it
// bring the whole range up to date at once: about 1 µs a page. So a range is
// populated, its protection widened and put back; at no moment is less allowed
// than the program needs.
//
// A program that is to start fast imports this package: its init does the
// program's own pages and some heap. Heap does more of it ahead of much work.
// Everywhere else than in User Mode Linux both do nothing.
package warm

import (
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

const pageSize = 4096 // of User Mode Linux, which is x86 only

// startHeap is what a program allocates until its main function is at work.
const startHeap = 8 << 20

// mostBSS is how much of zeroed data is worth it: the garbage collector reads
// what has pointers, the first few MB, and the rest is seldom touched.
const mostBSS = 6 << 20

// Dear says that this is a kernel where page faults are.
func Dear() bool { return dear }

// dear says that this is a kernel where page faults are.
var dear = func() bool {
	// Process 1 comes before /proc does; in a container's it does no harm. In a VM
	// of package vmm it would take memory that is its workload's.
	return unix.Getpid() == 1 && os.Getenv("VPCLAB_GUEST") == "" || unix.Access("/proc/exitcode", unix.F_OK) == nil
}()

func init() {
	if dear {
		program()
		Heap(startHeap)()
	}
}

// Heap makes the next size bytes of this program's heap ready to be allocated,
// and keeps the garbage collector from running, and from giving them back,
// until done is called. It is for work that is about to allocate about that
// much; done is called when it is over.
func Heap(size int) (done func()) {
	if !dear || size < pageSize {
		return func() {}
	}
	heap.Lock()
	defer heap.Unlock()
	if heap.users++; heap.users == 1 {
		heap.percent = debug.SetGCPercent(-1)
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		// An estimate that was too low by far must not eat the machine.
		heap.limit = debug.SetMemoryLimit(int64(m.Sys) + 4*int64(size))
	}
	makeRoom(size)
	return sync.OnceFunc(func() {
		heap.Lock()
		defer heap.Unlock()
		if heap.users--; heap.users == 0 {
			debug.SetMemoryLimit(heap.limit)
			debug.SetGCPercent(heap.percent)
		}
	})
}

// heap is what Heap changed of the garbage collector, for all users together.
var heap struct {
	sync.Mutex
	users   int
	percent int
	limit   int64
}

// makeRoom allocates size bytes, makes them present and leaves them to the
// allocator.
func makeRoom(size int) {
	var room strings.Builder // does not clear what it grows by, and so touches nothing
	room.Grow(size)
	room.WriteByte(0)
	at := uintptr(unsafe.Pointer(unsafe.StringData(room.String())))
	from := (at + pageSize - 1) &^ (pageSize - 1)
	present(from, (at+uintptr(size)-from)&^(pageSize-1), unix.MADV_POPULATE_WRITE, unix.PROT_READ|unix.PROT_WRITE, unix.PROT_EXEC)
	runtime.KeepAlive(&room)
	room.Reset()
	runtime.GC()
}

// present makes the pages of a range present and mapped. prot is their
// protection, more is what is added to it for a moment.
func present(from, size uintptr, advice, prot, more int) {
	// What fails leaves the pages to be mapped one by one, as always.
	for _, call := range [][4]uintptr{
		{unix.SYS_MADVISE, from, size, uintptr(advice)},
		{unix.SYS_MPROTECT, from, size, uintptr(prot | more)},
		{unix.SYS_MPROTECT, from, size, uintptr(prot)},
	} {
		if _, _, errno := unix.RawSyscall(call[0], call[1], call[2], call[3]); errno != 0 {
			return
		}
	}
}

// program makes the pages of the program's own segments present: code, and
// data as far as it is in the file or read by the garbage collector. Data is
// read only: what is never written stays shared.
func program() {
	for _, s := range segments() {
		size := s.memory
		if most := s.file + mostBSS; size > most {
			size = most
		}
		prot, more := unix.PROT_READ, unix.PROT_EXEC
		switch {
		case s.flags&flagExec != 0:
			prot, more = unix.PROT_READ|unix.PROT_EXEC, unix.PROT_WRITE
		case s.flags&flagWrite != 0:
			prot = unix.PROT_READ | unix.PROT_WRITE
		}
		from := uintptr(s.address) &^ (pageSize - 1)
		to := (uintptr(s.address+size) + pageSize - 1) &^ (pageSize - 1)
		present(from, to-from, unix.MADV_POPULATE_READ, prot, more)
	}
}

// segment is an ELF program header (elf(5), Elf64_Phdr).
type segment struct {
	kind, flags                         uint32
	offset, address, _, file, memory, _ uint64
}

const (
	loaded    = 1 // PT_LOAD
	itself    = 6 // PT_PHDR: the headers
	flagExec  = 1
	flagWrite = 2
)

// segments are those of this program that are in memory, by the auxiliary
// vector (getauxval(3)): it is there before /proc is.
func segments() (out []segment) {
	const headers, number = 3, 5 // AT_PHDR, AT_PHNUM
	vector, err := unix.Auxv()
	if err != nil {
		return nil
	}
	var at, n uintptr
	for _, entry := range vector {
		switch entry[0] {
		case headers:
			at = entry[1]
		case number:
			n = entry[1]
		}
	}
	if at == 0 {
		return nil
	}
	var moved uint64 // a position-independent program is not where it says
	for _, s := range unsafe.Slice((*segment)(unsafe.Add(nil, at)), n) {
		switch s.kind {
		case itself:
			moved = uint64(at) - s.address
		case loaded:
			out = append(out, s)
		}
	}
	for i := range out {
		out[i].address += moved
	}
	return out
}

// Range makes memory that the caller has mapped readable and writable present
// and mapped, so that none of it faults when it is first touched: 1.5 µs a page,
// 5 µs in User Mode Linux. Nobody may use the range meanwhile: its protection
// changes for a moment there. Unlike the rest of the package it does its work in
// every kernel.
func Range(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if err := unix.Madvise(b, unix.MADV_POPULATE_WRITE); err != nil {
		return err
	}
	if !dear {
		return nil
	}
	// Not wider, as for the program's own pages: a file system may be noexec.
	if err := unix.Mprotect(b, unix.PROT_READ); err != nil {
		return err
	}
	return unix.Mprotect(b, unix.PROT_READ|unix.PROT_WRITE)
}
