package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/unixsock"
	"github.com/vpclab/vpclab/emu/warm"
)

// absence is a guest's side of a memory whose pages are not all there: touching
// a hole stops the thread that does until somebody places the page by way of the
// userfaultfd descriptor, which the hypervisor's agent is given.
//
// The guest keeps the descriptor too. When the last one is closed the kernel
// lets everybody go on with pages of zeros, so an agent that dies must not have
// held the last.
type absence struct {
	fd    uffd
	at    uffdRange
	maybe Bitmap // pages that this guest has not yet seen to be there

	mu   sync.Mutex
	conn *net.UnixConn // to the agent that serves faults
	over bool          // all pages are there; fd is closed
}

// The guest sends the descriptor with one message: faultsMagic, the address and
// the size of the pages in its address space. The agent sends one byte, all
// there, when no page is missing any more; it ends its side without that when
// it is not the last to serve this memory.
const (
	faultsMagic    = "vpcl-uf1"
	faultsHello    = 24
	faultsAllThere = 'D'
)

// awaitMissing prepares m for holes: what is there is mapped, and touching the
// rest waits for the agent that listens at path. It is for a mapping that nobody
// uses yet.
func (m *Memory) awaitMissing(path string) error {
	missing := make([]uint64, words(m.Pages()))
	if _, err := m.Absent(missing); err != nil {
		return err
	}
	there := make([]uint64, len(missing))
	for i := range missing {
		there[i] = ^missing[i]
	}
	if err := warm.Range(m.mapped[:len(m.mapped)-len(m.pages)]); err != nil {
		return fmt.Errorf("populate the bitmaps of %s: %w", m.file.Name(), err)
	}
	err := setBits(there, m.Pages(), func(first, count int) error {
		return warm.Range(m.pages[first*PageSize : (first+count)*PageSize])
	})
	if err != nil {
		return fmt.Errorf("populate %s: %w", m.file.Name(), err)
	}
	fd, err := newUFFD(0)
	if err != nil {
		return err
	}
	a := &absence{fd: fd, at: rangeOf(m.pages), maybe: make(Bitmap, len(missing))}
	for i := range missing {
		a.maybe[i].Store(missing[i])
	}
	if err := fd.register(a.at, uffdMissing); err != nil {
		fd.close()
		return fmt.Errorf("memory %s: %w", m.file.Name(), err)
	}
	if err := a.serve(path); err != nil {
		fd.close()
		return err
	}
	m.absent = a
	return nil
}

// serve gives the descriptor to the agent that listens at path, in place of an
// earlier one.
func (a *absence) serve(path string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over {
		return nil
	}
	conn, err := unixsock.Dial(path)
	if err != nil {
		return fmt.Errorf("reach the server of missing pages: %w", err)
	}
	hello := append([]byte(faultsMagic), make([]byte, 16)...)
	binary.LittleEndian.PutUint64(hello[8:], a.at.start)
	binary.LittleEndian.PutUint64(hello[16:], a.at.size)
	if _, _, err := conn.WriteMsgUnix(hello, unix.UnixRights(int(a.fd)), nil); err != nil {
		conn.Close()
		return fmt.Errorf("hand over the descriptor of missing pages: %w", err)
	}
	if a.conn != nil {
		a.conn.Close()
	}
	a.conn = conn
	go a.listen(conn)
	return nil
}

// listen waits for the agent's word that all pages are there.
func (a *absence) listen(conn *net.UnixConn) {
	b := make([]byte, 1)
	n, _ := conn.Read(b)
	conn.Close()
	if n != 1 || b[0] != faultsAllThere {
		return // another agent will come
	}
	a.end()
}

// end has all pages be there: touching one waits for nobody any more.
func (a *absence) end() {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over {
		return
	}
	a.over = true
	_ = a.fd.unregister(a.at) // fails only for a mapping that is gone
	a.fd.close()
}

// look notes, before the guest begins, which pages of m are missing by now.
func (a *absence) look(m *Memory) error {
	if a == nil {
		return nil
	}
	there := make([]byte, m.Pages())
	if err := mincore(m.pages, there); err != nil {
		return fmt.Errorf("look which pages of %s are there: %w", m.file.Name(), err)
	}
	a.maybe.Clear()
	for i, t := range there {
		if t&1 == 0 {
			a.maybe.Set(i)
		}
	}
	return nil
}

// wait returns when the page is there. It asks by a system call: Go's scheduler
// knows that a thread in one may take long, and gives its processor to others;
// a thread that stands at a page fault would keep it, and would keep the garbage
// collector from stopping the world besides.
func (a *absence) wait(page int) {
	if a == nil || !a.maybe.Has(page) {
		return
	}
	for {
		errno := populatePage(uintptr(a.at.start) + uintptr(page)*PageSize)
		// What else there may be shows when the page is touched.
		if !errors.Is(errno, unix.EINTR) && !errors.Is(errno, unix.EAGAIN) {
			break
		}
	}
	a.maybe[page/64].And(^(uint64(1) << (page % 64)))
}

// close ends a mapping's absence with the mapping.
func (a *absence) close() error {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.conn != nil {
		a.conn.Close()
	}
	if a.over {
		return nil
	}
	a.over = true
	return a.fd.close()
}

func populatePage(at uintptr) error {
	if _, _, errno := unix.Syscall(unix.SYS_MADVISE, at, PageSize, unix.MADV_POPULATE_WRITE); errno != 0 {
		return errno
	}
	return nil
}

// mincore is mincore(2): a byte a page, whose lowest bit says that it is there.
func mincore(b, there []byte) error {
	r := rangeOf(b)
	if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(r.start), uintptr(r.size), uintptr(rangeOf(there).start)); errno != 0 {
		return errno
	}
	return nil
}
