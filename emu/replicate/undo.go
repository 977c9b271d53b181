package replicate

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/warm"
)

// undoFile is in the standby's folder.
const undoFile = "replica.undo"

// undo is what takes a half epoch back: what pages held before it, in a file that
// is mapped, so that it is there when this process is not.
//
// Pages are placed as they come, and not kept until the epoch is whole:
// encoders refer to the memory as the batch before left it; the epoch is whole as
// soon as its last batch is; and a standby that takes over has nothing left to
// place. What that costs is a copy of each page, as a log for redoing it would.
//
// The file is a header of a page (magic, number of pages, epoch that it brings
// back, count), a table of page numbers, and their bytes. It is as large as the
// memory and a little more, and takes room as far as it has been used.
type undo struct {
	mapped []byte
	pages  int
	slots  int // where they begin
	has    bitmap
	warmed int // slots
}

const (
	undoMagic = "vpcl-un1"
	undoPages = 8 // offsets in the header
	undoBase  = 16
	undoCount = 24
	tableAt   = pageSize
)

func openUndo(folder string, pages int) (*undo, error) {
	f, err := os.OpenFile(filepath.Join(folder, undoFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	slots := tableAt + (4*pages+pageSize-1)/pageSize*pageSize
	size := slots + pages*pageSize
	var head [16]byte
	_, err = f.ReadAt(head[:], 0)
	if err != nil || string(head[:8]) != undoMagic || binary.LittleEndian.Uint64(head[undoPages:]) != uint64(pages) {
		// New, or of another VM: whatever it would bring back is not here.
		if err := f.Truncate(0); err != nil {
			return nil, err
		}
	}
	if err := f.Truncate(int64(size)); err != nil {
		return nil, err
	}
	m, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", f.Name(), err)
	}
	copy(m, undoMagic)
	binary.LittleEndian.PutUint64(m[undoPages:], uint64(pages))
	return &undo{mapped: m, pages: pages, slots: slots, has: newBitmap(pages)}, nil
}

// number is one of the header's, which a successor must find written in order.
func (u *undo) number(at int) *atomic.Uint64 {
	return (*atomic.Uint64)(unsafe.Pointer(&u.mapped[at]))
}

func (u *undo) base() uint64 { return u.number(undoBase).Load() }
func (u *undo) count() int   { return int(u.number(undoCount).Load()) }

func (u *undo) slot(i int) []byte {
	at := u.slots + i*pageSize
	return u.mapped[at : at+pageSize]
}

// begin forgets what there is: from now on it brings back that epoch.
func (u *undo) begin(epoch uint64) {
	u.number(undoCount).Store(0)
	u.number(undoBase).Store(epoch)
	clear(u.has)
}

// save keeps what pages hold, unless it has them.
func (u *undo) save(pages []uint32, memory []byte) {
	n := u.count()
	u.ready(n + len(pages))
	for _, p := range pages {
		if u.has.has(int(p)) {
			continue
		}
		u.has.set(int(p))
		copy(u.slot(n), memory[int(p)*pageSize:int(p+1)*pageSize])
		binary.LittleEndian.PutUint32(u.mapped[tableAt+4*n:], p)
		n++
	}
	u.number(undoCount).Store(uint64(n))
}

// ready makes so many slots present.
func (u *undo) ready(slots int) {
	for slots = min(slots, u.pages); u.warmed < slots; {
		n := min(warmPiece/pageSize, u.pages-u.warmed)
		at := u.slots + u.warmed*pageSize
		_ = warm.Range(u.mapped[at : at+n*pageSize]) // a kernel that cannot lets them come one by one
		u.warmed += n
	}
}

// back puts into memory what pages held, and tells which.
func (u *undo) back(memory []byte) (pages []uint32) {
	n := min(u.count(), u.pages)
	for i := range n {
		p := binary.LittleEndian.Uint32(u.mapped[tableAt+4*i:])
		if int(p) < u.pages {
			copy(memory[int(p)*pageSize:int(p+1)*pageSize], u.slot(i))
			pages = append(pages, p)
		}
	}
	u.number(undoCount).Store(0) // doing it again would do no harm
	clear(u.has)
	return pages
}

func (u *undo) close() error { return unix.Munmap(u.mapped) }
