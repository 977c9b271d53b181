package codec

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/warm"
)

// arena is memory outside of the heap, all zeros at first. It is as large as the
// VM's and mostly written once: the garbage collector need not know of it, what
// is never written takes no memory, and pages come many at a time, which in User
// Mode Linux is a hundred times cheaper than one at a time.
type arena struct {
	bytes   []byte
	present []bool // one a piece
}

// arenaPiece is how much comes at a time. Huge pages are not asked for: the kernel
// may stop to make room for one for longer than all of its small pages take.
const arenaPiece = 1 << 20

func newArena(size int) (arena, error) {
	size = (size + PageSize - 1) &^ (PageSize - 1)
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return arena{}, fmt.Errorf("map %d bytes: %w", size, err)
	}
	return arena{bytes: b, present: make([]bool, (size+arenaPiece-1)/arenaPiece)}, nil
}

// touch is called before bytes at offset, inside one page, are written.
func (a *arena) touch(offset int) {
	if piece := offset / arenaPiece; !a.present[piece] {
		a.present[piece] = true
		// A kernel that cannot lets pages come one by one.
		_ = warm.Range(a.bytes[piece*arenaPiece : min((piece+1)*arenaPiece, len(a.bytes))])
	}
}

// fill makes all of it present.
func (a *arena) fill() {
	for offset := 0; offset < len(a.bytes); offset += arenaPiece {
		a.touch(offset)
	}
}

// ready makes all of it present that will surely be written, or, where page
// faults are dear, may be: the memory of a VM that moves is not the place to
// wait for pages.
func (a *arena) ready(surely bool) {
	if surely || coarse() {
		a.fill()
	}
}

// held is how much of it takes memory.
func (a *arena) held() int64 {
	var n int64
	for _, p := range a.present {
		if p {
			n += arenaPiece
		}
	}
	return min(n, int64(len(a.bytes)))
}

func (a *arena) close() {
	if a.bytes != nil {
		_ = unix.Munmap(a.bytes) // it can fail only for what is not mapped
	}
	*a = arena{}
}

// present is an empty slice with room for so many bytes whose pages are there.
func present(room int) []byte {
	b := make([]byte, room)
	for i := 0; i < room; i += PageSize {
		b[i] = 1
	}
	return b[:0]
}
