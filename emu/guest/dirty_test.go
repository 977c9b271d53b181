package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What it costs to know which pages were written, by each way that a kernel
// offers and by the bitmap that a guest keeps itself. A tracker is made for
// memory that is populated.
type tracker interface {
	// clean forgets all: a write after it counts.
	clean() error
	// write writes a word to a page.
	write(page int)
	// dirty tells how many pages were written since clean.
	dirty() (int, error)
	close() error
}

// errNotHere says that this kernel has not the means.
var errNotHere = errors.New("not in this kernel")

var trackers = []struct {
	name string
	make func(m *Memory) (tracker, error)
}{
	{"none", func(m *Memory) (tracker, error) { return &untracked{m.pages, 0}, nil }},
	{"bitmap", newBitmapTracker},
	{"soft-dirty", newSoftDirty},
	{"uffd-wp", newWPTracker},
	{"uffd-wp-async+scan", newScanTracker},
	{"mprotect", newProtectTracker},
}

const dirtyPages = 1024 // written between two looks, of 16384

// BenchmarkDirty reports for each way what a page's first write after a look
// costs, what a further one costs, and what a look costs.
func BenchmarkDirty(b *testing.B) {
	for _, kind := range trackers {
		b.Run(kind.name, func(b *testing.B) {
			m, err := CreateMemory(host(b), 64<<20, true)
			if err != nil {
				b.Fatal(err)
			}
			defer m.Close()
			tr, err := kind.make(m)
			if errors.Is(err, errNotHere) {
				b.Skip(err)
			}
			if err != nil {
				b.Fatal(err)
			}
			defer tr.close()
			benchmarkTracker(b, tr, m.Pages())
		})
	}
}

func benchmarkTracker(b *testing.B, tr tracker, pages int) {
	const again = 16
	var first, further, look time.Duration
	b.ResetTimer()
	for n := -1; n < b.N; n++ { // the first round finds everything in its place
		t0 := time.Now()
		if err := tr.clean(); err != nil {
			b.Fatal(err)
		}
		t1 := time.Now()
		sweep := func() {
			for k := range dirtyPages {
				tr.write((k*16 + n + 1) % pages) // different ones, all over
			}
		}
		sweep()
		t2 := time.Now()
		for range again {
			sweep()
		}
		t3 := time.Now()
		got, err := tr.dirty()
		if err != nil {
			b.Fatal(err)
		}
		if _, nothing := tr.(*untracked); got != dirtyPages && !nothing {
			b.Fatalf("found %d pages dirty: want %d", got, dirtyPages)
		}
		if n < 0 {
			continue
		}
		first, further, look = first+t2.Sub(t1), further+t3.Sub(t2), look+t1.Sub(t0)+time.Since(t3)
	}
	per := func(d time.Duration, n int) float64 { return float64(d.Nanoseconds()) / float64(n*b.N) }
	b.ReportMetric(per(first, dirtyPages), "ns/first-write")
	b.ReportMetric(per(further, again*dirtyPages), "ns/write")
	b.ReportMetric(per(look, 1)/1e3, "µs/look")
	b.ReportMetric(0, "ns/op")
}

// untracked writes and knows nothing.
type untracked struct {
	pages []byte
	n     uint64
}

func (u *untracked) clean() error { return nil }
func (u *untracked) write(page int) {
	u.n++
	binary.LittleEndian.PutUint64(u.pages[page*PageSize:], u.n)
}
func (u *untracked) dirty() (int, error) { return 0, nil }
func (u *untracked) close() error        { return nil }

// bitmapTracker is what a guest does.
type bitmapTracker struct {
	untracked
	m     *Memory
	words []uint64
}

func newBitmapTracker(m *Memory) (tracker, error) {
	return &bitmapTracker{untracked{m.pages, 0}, m, make([]uint64, words(m.Pages()))}, nil
}

func (t *bitmapTracker) clean() error { return nil } // dirty has taken all
func (t *bitmapTracker) write(page int) {
	b := t.m.change(page)
	t.n++
	binary.LittleEndian.PutUint64(b, t.n)
	t.m.changed(page)
}
func (t *bitmapTracker) dirty() (int, error) { return t.m.Collect(t.words), nil }

// softDirty is the kernel's soft-dirty bit (Documentation/admin-guide/mm/
// soft-dirty.rst).
type softDirty struct {
	untracked
	pagemap, clear *os.File
	entries        []byte
}

func newSoftDirty(m *Memory) (tracker, error) {
	pagemap, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return nil, fmt.Errorf("%w: %v", errNotHere, err)
	}
	clear, err := os.OpenFile("/proc/self/clear_refs", os.O_WRONLY, 0)
	if err != nil {
		pagemap.Close()
		return nil, fmt.Errorf("%w: %v", errNotHere, err)
	}
	t := &softDirty{untracked{m.pages, 0}, pagemap, clear, make([]byte, 8*m.Pages())}
	if err := t.clean(); err != nil {
		t.close()
		return nil, fmt.Errorf("%w: %v", errNotHere, err)
	}
	t.write(1)
	if n, err := t.dirty(); err != nil || n != 1 {
		t.close()
		return nil, fmt.Errorf("%w: one write made %d pages soft-dirty (%v)", errNotHere, n, err)
	}
	return t, nil
}

func (t *softDirty) clean() error { _, err := t.clear.WriteString("4"); return err }

func (t *softDirty) dirty() (n int, err error) {
	if _, err := t.pagemap.ReadAt(t.entries, int64(rangeOf(t.pages).start/PageSize*8)); err != nil {
		return 0, err
	}
	for at := 0; at < len(t.entries); at += 8 {
		n += int(binary.LittleEndian.Uint64(t.entries[at:]) >> 55 & 1)
	}
	return n, nil
}

func (t *softDirty) close() error { return errors.Join(t.pagemap.Close(), t.clear.Close()) }

// Features of userfaultfd (linux/userfaultfd.h).
const (
	uffdFaultFlagWP    = 1 << 0
	uffdWPShmem        = 1 << 12
	uffdWPUnpopulated  = 1 << 13
	uffdWPAsync        = 1 << 15
	uffdProtectModeWP  = 1 << 0
	pagemapScan        = 3<<30 | 96<<16 | 'f'<<8 | 16 // _IOWR('f', 16, struct pm_scan_arg)
	pagemapWPMatching  = 1 << 0
	pagemapCheckAsync  = 1 << 1
	pagemapPageWritten = 1 << 1
)

func newWP(m *Memory, features uint64) (uffd, error) {
	fd, err := newUFFD(features)
	if err == nil {
		if err = fd.register(rangeOf(m.pages), uffdWP); err == nil {
			return fd, nil
		}
		fd.close()
	}
	return -1, fmt.Errorf("%w: %v", errNotHere, err)
}

func (u uffd) protect(r uffdRange, mode uint64) error {
	arg := uffdProtect{uffdRange: r, mode: mode}
	return u.ioctl(uffdioProtect, unsafe.Pointer(&arg))
}

// wpTracker has each first write reported to a thread, which allows it.
type wpTracker struct {
	untracked
	fd    uffd
	seen  Bitmap
	words []uint64
	procs int
	stop  [2]int // a pipe
	done  chan error
}

func newWPTracker(m *Memory) (tracker, error) {
	fd, err := newWP(m, uffdFaultFlagWP|uffdWPShmem)
	if err != nil {
		return nil, err
	}
	t := &wpTracker{untracked: untracked{m.pages, 0}, fd: fd, seen: make(Bitmap, words(m.Pages())),
		words: make([]uint64, words(m.Pages())), done: make(chan error, 1)}
	// A thread that stands at a fault keeps its processor.
	t.procs = runtime.GOMAXPROCS(max(2, runtime.NumCPU()))
	if err := unix.Pipe(t.stop[:]); err != nil {
		return nil, err
	}
	go t.serve()
	return t, nil
}

func (t *wpTracker) serve() {
	runtime.LockOSThread()
	at := rangeOf(t.pages)
	var b [16 * uffdMsgSize]byte
	for {
		fds := []unix.PollFd{{Fd: int32(t.fd), Events: unix.POLLIN}, {Fd: int32(t.stop[0]), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			t.done <- err
			return
		}
		if fds[1].Revents != 0 {
			t.done <- nil
			return
		}
		n, err := unix.Read(int(t.fd), b[:])
		if err != nil {
			continue
		}
		for e := b[:n]; len(e) >= uffdMsgSize; e = e[uffdMsgSize:] {
			page := (binary.LittleEndian.Uint64(e[16:]) - at.start) / PageSize
			t.seen.Set(int(page))
			if err := t.fd.protect(uffdRange{at.start + page*PageSize, PageSize}, 0); err != nil {
				t.done <- err
				return
			}
		}
	}
}

func (t *wpTracker) clean() error {
	t.seen.Clear()
	return t.fd.protect(rangeOf(t.pages), uffdProtectModeWP)
}
func (t *wpTracker) dirty() (int, error) { return t.seen.Read(t.words), nil }
func (t *wpTracker) close() error {
	_, err := unix.Write(t.stop[1], []byte{0})
	err = errors.Join(err, <-t.done, t.fd.unregister(rangeOf(t.pages)), t.fd.close())
	unix.Close(t.stop[0])
	unix.Close(t.stop[1])
	runtime.GOMAXPROCS(t.procs)
	return err
}

// scanTracker has the kernel allow first writes itself, and asks it which they
// were (ioctl_pagemap_scan in Documentation/admin-guide/mm/pagemap.rst).
type scanTracker struct {
	untracked
	fd      uffd
	pagemap *os.File
	regions [][3]uint64
}

func newScanTracker(m *Memory) (tracker, error) {
	fd, err := newWP(m, uffdFaultFlagWP|uffdWPShmem|uffdWPUnpopulated|uffdWPAsync)
	if err != nil {
		return nil, err
	}
	pagemap, err := os.Open("/proc/self/pagemap")
	if err != nil {
		fd.close()
		return nil, fmt.Errorf("%w: %v", errNotHere, err)
	}
	t := &scanTracker{untracked{m.pages, 0}, fd, pagemap, make([][3]uint64, m.Pages())}
	if err := fd.protect(rangeOf(m.pages), uffdProtectModeWP); err != nil {
		t.close()
		return nil, fmt.Errorf("%w: %v", errNotHere, err)
	}
	if _, err := t.dirty(); err != nil {
		t.close()
		return nil, fmt.Errorf("%w: %v", errNotHere, err)
	}
	return t, nil
}

func (t *scanTracker) clean() error { return nil } // dirty has protected all again

func (t *scanTracker) dirty() (n int, err error) {
	r := rangeOf(t.pages)
	arg := struct {
		size, flags, start, end, walkEnd, vec, vecLen, maxPages, inverted, mask, anyOf, returned uint64
	}{
		size: 96, flags: pagemapWPMatching | pagemapCheckAsync, start: r.start, end: r.start + r.size,
		vec: uint64(uintptr(unsafe.Pointer(&t.regions[0]))), vecLen: uint64(len(t.regions)),
		mask: pagemapPageWritten, returned: pagemapPageWritten,
	}
	got, _, errno := unix.Syscall(unix.SYS_IOCTL, t.pagemap.Fd(), pagemapScan, uintptr(unsafe.Pointer(&arg)))
	if errno != 0 {
		return 0, errno
	}
	for _, region := range t.regions[:got] {
		n += int(region[1]-region[0]) / PageSize
	}
	return n, nil
}

func (t *scanTracker) close() error {
	return errors.Join(t.fd.unregister(rangeOf(t.pages)), t.fd.close(), t.pagemap.Close())
}

// protectTracker write-protects pages and takes the signal. Go makes a panic of
// it, which is dearer than a handler in C.
type protectTracker struct {
	untracked
	seen  Bitmap
	words []uint64
}

func newProtectTracker(m *Memory) (tracker, error) {
	debug.SetPanicOnFault(true)
	return &protectTracker{untracked{m.pages, 0}, make(Bitmap, words(m.Pages())), make([]uint64, words(m.Pages()))}, nil
}

func (t *protectTracker) clean() error {
	t.seen.Clear()
	return unix.Mprotect(t.pages, unix.PROT_READ)
}

func (t *protectTracker) write(page int) {
	if !t.try(page) {
		t.seen.Set(page)
		if err := unix.Mprotect(t.pages[page*PageSize:][:PageSize], unix.PROT_READ|unix.PROT_WRITE); err != nil {
			panic(err)
		}
		t.try(page)
	}
}

func (t *protectTracker) try(page int) (ok bool) {
	defer func() {
		if !ok {
			_ = recover()
		}
	}()
	t.untracked.write(page)
	return true
}

func (t *protectTracker) dirty() (int, error) { return t.seen.Read(t.words), nil }

func (t *protectTracker) close() error {
	debug.SetPanicOnFault(false)
	return unix.Mprotect(t.pages, unix.PROT_READ|unix.PROT_WRITE)
}
