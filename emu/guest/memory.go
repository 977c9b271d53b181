package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/warm"
)

// MemoryFile is the name of a memory in its host's folder.
const MemoryFile = "memory"

// Memory is a VM's memory: a file of pages, shared by the guest that works in it
// and the hypervisor's agent that copies it. The file holds, each part from a
// page boundary on:
//
//	header   magic, version, size of the memory
//	dirty    a bit a page: written since the hypervisor last looked
//	written  a bit a page: written, or about to be, since the guest took the memory over
//	pages
//
// A guest sets a page's dirty bit after it has changed the page, and its written
// bit before. So who takes the dirty bit and then reads the page has either all
// of a change or finds the bit set again; and who reads a page and then finds
// its written bit clear has read what was there before the guest came.
type Memory struct {
	folder  string
	file    *os.File
	mapped  []byte
	pages   []byte
	dirty   Bitmap
	written Bitmap
	absent  *absence     // pages that may not be there yet; nil: all are
	trace   *traceWriter // where writes are recorded, if anywhere
}

const (
	memoryMagic   = "vpcl-mem"
	memoryVersion = 1
	maxMemory     = 1 << 40
)

// layout is where the parts of a memory file are.
type layout struct{ dirty, written, pages, end int64 }

func layoutOf(size int64) layout {
	bitmap := (size/PageSize/8 + PageSize) &^ (PageSize - 1) // room for a last, partial word
	return layout{PageSize, PageSize + bitmap, PageSize + 2*bitmap, PageSize + 2*bitmap + size}
}

// CreateMemory makes a memory of zeros in folder, replacing one that is there.
// With populate its pages are allocated and mapped, so that no first touch of
// them costs time later; without, they are holes, which cost nothing and can be
// told from pages that were placed (see Absent).
func CreateMemory(folder string, size int64, populate bool) (*Memory, error) {
	if size <= 0 || size%PageSize != 0 || size > maxMemory {
		return nil, fmt.Errorf("memory in %s: size %d: want a multiple of %d up to 1 TiB", folder, size, PageSize)
	}
	path := filepath.Join(folder, MemoryFile)
	// A new file, not a truncated one: somebody may still have the old mapped.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	header := make([]byte, 24)
	copy(header, memoryMagic)
	binary.LittleEndian.PutUint64(header[8:], memoryVersion)
	binary.LittleEndian.PutUint64(header[16:], uint64(size))
	err = roomFor(f, layoutOf(size).end)
	if err == nil {
		err = f.Truncate(layoutOf(size).end)
	}
	if err == nil {
		_, err = f.WriteAt(header, 0)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(path))
		f.Close()
		return nil, fmt.Errorf("make memory %s: %w", path, err)
	}
	m, err := mapMemory(folder, f, size)
	if err != nil {
		return nil, err
	}
	if populate {
		err = m.Populate()
	}
	if err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// roomFor fails where f's file system has not so many bytes left. Of a page that
// finds no room when it is touched, whoever touches it learns by a signal: a
// guest whose pages come late would end by it.
func roomFor(f *os.File, size int64) error {
	var s unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &s); err != nil {
		return fmt.Errorf("ask for the room in its file system: %w", err)
	}
	if free := s.Bavail * uint64(s.Bsize); free < uint64(size) {
		return fmt.Errorf("it takes %d bytes and there is room for %d: %w", size, free, unix.ENOSPC)
	}
	return nil
}

// OpenMemory maps the memory in folder.
func OpenMemory(folder string) (*Memory, error) {
	path := filepath.Join(folder, MemoryFile)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	size, err := memorySize(f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("memory %s: %w", path, err)
	}
	return mapMemory(folder, f, size)
}

// memorySize reads and checks the header of a memory file.
func memorySize(f *os.File) (int64, error) {
	header := make([]byte, 24)
	if _, err := f.ReadAt(header, 0); err != nil {
		return 0, fmt.Errorf("read header: %w", err)
	}
	if string(header[:8]) != memoryMagic {
		return 0, errors.New("not a guest's memory")
	}
	if v := binary.LittleEndian.Uint64(header[8:]); v != memoryVersion {
		return 0, fmt.Errorf("version %d: want %d", v, memoryVersion)
	}
	size := binary.LittleEndian.Uint64(header[16:])
	if size == 0 || size%PageSize != 0 || size > maxMemory {
		return 0, fmt.Errorf("header says %d bytes", size)
	}
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if want := layoutOf(int64(size)).end; info.Size() != want {
		return 0, fmt.Errorf("%d bytes long: want %d for a memory of %d", info.Size(), want, size)
	}
	return int64(size), nil
}

// MemoryAt tells where in the memory file in folder the pages begin, and how many
// bytes they are: for whoever maps them without our help.
func MemoryAt(folder string) (offset, size int64, err error) {
	path := filepath.Join(folder, MemoryFile)
	f, err := os.Open(path)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	if size, err = memorySize(f); err != nil {
		return 0, 0, fmt.Errorf("memory %s: %w", path, err)
	}
	return layoutOf(size).pages, size, nil
}

// mapMemory maps f, which becomes the Memory's, or is closed.
func mapMemory(folder string, f *os.File, size int64) (*Memory, error) {
	at := layoutOf(size)
	from, err := unix.MmapPtr(int(f.Fd()), 0, nil, uintptr(at.end), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("map memory %s: %w", f.Name(), err)
	}
	b := unsafe.Slice((*byte)(from), at.end)
	n := int(size / PageSize)
	return &Memory{
		folder: folder, file: f, mapped: b, pages: b[at.pages:],
		dirty: bitmapIn(b[at.dirty:], n), written: bitmapIn(b[at.written:], n),
	}, nil
}

// anonymousMemory is a memory without a file, which nobody else sees: that of a
// guest whose kernel is its own. Who moves it moves its kernel's memory, so nobody
// takes its bits, and setting them costs as little as a look.
func anonymousMemory(size int64) (*Memory, error) {
	from, err := unix.MmapPtr(-1, 0, nil, uintptr(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("map a memory of %d bytes: %w", size, err)
	}
	b := unsafe.Slice((*byte)(from), size)
	n := words(int(size / PageSize))
	return &Memory{mapped: b, pages: b, dirty: make(Bitmap, n), written: make(Bitmap, n)}, nil
}

// Folder is where the memory's file is.
func (m *Memory) Folder() string { return m.folder }

// Bytes are the memory's pages, byte for byte.
func (m *Memory) Bytes() []byte { return m.pages }

// Pages is their number.
func (m *Memory) Pages() int { return len(m.pages) / PageSize }

// Collect moves the bits of pages written since the last Collect into into and
// tells how many there are; see migrate.Source.
func (m *Memory) Collect(into []uint64) int { return m.dirty.Take(into) }

// Dirty tells without taking it whether a page's bit is set.
func (m *Memory) Dirty(page int) bool { return m.dirty.Has(page) }

// Written copies into into the bits of pages that the guest has written, or has
// begun to write, since it took this memory over, and tells how many there are;
// see migrate.Target. The bits stay.
func (m *Memory) Written(into []uint64) int { return m.written.Read(into) }

// WrittenPage tells whether a page's bit among those is set.
func (m *Memory) WrittenPage(page int) bool { return m.written.Has(page) }

// Populate allocates and maps all pages, so that touching them costs no fault.
// Pages that are holes become pages of zeros. Nobody may use the mapping
// meanwhile.
func (m *Memory) Populate() error {
	err := warm.Range(m.mapped)
	if errors.Is(err, unix.EFAULT) { // others were faster; see roomFor
		err = fmt.Errorf("%w (%w)", unix.ENOSPC, err)
	}
	if err != nil {
		return fmt.Errorf("populate memory %s: %w", m.file.Name(), err)
	}
	return nil
}

// Absent sets in into (one bit a page) which pages the file has no bytes for,
// and tells how many there are: after a crash, those that were never placed.
func (m *Memory) Absent(into []uint64) (int, error) {
	clear(into)
	missing, fd := 0, int(m.file.Fd())
	base := int64(len(m.mapped) - len(m.pages))
	for at := base; at < int64(len(m.mapped)); {
		hole, err := unix.Seek(fd, at, unix.SEEK_HOLE)
		if err != nil {
			return 0, fmt.Errorf("look for holes in %s: %w", m.file.Name(), err)
		}
		data, err := unix.Seek(fd, hole, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // none any more
			data, err = int64(len(m.mapped)), nil
		}
		if err != nil {
			return 0, fmt.Errorf("look for data in %s: %w", m.file.Name(), err)
		}
		for p := (hole - base) / PageSize; p < (data-base)/PageSize; p++ {
			into[p/64] |= 1 << (p % 64)
			missing++
		}
		at = data
	}
	return missing, nil
}

// Discard makes holes of the pages set in pages, for whoever has the file
// mapped: their bytes are gone, and a guest that was given a Missing socket
// waits where it touches one.
func (m *Memory) Discard(pages []uint64) error {
	base := int64(len(m.mapped) - len(m.pages))
	return setBits(pages, m.Pages(), func(first, count int) error {
		err := unix.Fallocate(int(m.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE,
			base+int64(first)*PageSize, int64(count)*PageSize)
		if err != nil {
			return fmt.Errorf("discard pages %d to %d of %s: %w", first, first+count-1, m.file.Name(), err)
		}
		return nil
	})
}

// Close unmaps the memory. The file stays.
func (m *Memory) Close() error {
	if m.mapped == nil {
		return nil
	}
	err := errors.Join(unmap(m.mapped), m.file.Close(), m.absent.close())
	m.mapped, m.pages, m.dirty, m.written = nil, nil, nil, nil
	return err
}

// unmap unmaps piece by piece: in User Mode Linux a page takes 1 µs, and who else
// has work in this process would wait for all of them.
func unmap(b []byte) error {
	const piece = 256 * PageSize
	for at := 0; at < len(b); at += piece {
		r := rangeOf(b[at:min(at+piece, len(b))])
		if _, _, errno := unix.Syscall(unix.SYS_MUNMAP, uintptr(r.start), uintptr(r.size), 0); errno != 0 {
			return errno
		}
	}
	return nil
}

// page is where a guest reads a page. It waits where the page is not there yet.
func (m *Memory) page(i int) []byte {
	m.absent.wait(i)
	return m.pages[i*PageSize : (i+1)*PageSize : (i+1)*PageSize]
}

// change is where a guest writes a page; it says changed when it has.
func (m *Memory) change(i int) []byte {
	b := m.page(i)
	m.written.Set(i)
	return b
}

func (m *Memory) changed(i int) {
	m.dirty.Set(i)
	if m.trace != nil {
		m.trace.note(i)
	}
}

// takeOver begins a new generation of written pages: a guest begins here.
func (m *Memory) takeOver() { m.written.Clear() }
