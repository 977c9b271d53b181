package guest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/unixsock"
)

// Faults is an agent's side of a memory whose pages are not all there: which
// page the guest stands at, and putting pages in place. It is what
// migrate.Faults asks for. Next is for one goroutine at a time; Place may be
// called from several.
type Faults struct {
	memory *Memory
	fd     uffd
	file   *os.File // the same descriptor, for reading
	at     uffdRange
	conn   *net.UnixConn
	gone   chan struct{} // closed when the guest's end of conn is

	events []byte // read and not yet told by Next

	closing sync.Once
	err     error
}

// FaultListener waits for the guests that Prepare sends to its path.
type FaultListener struct{ l *net.UnixListener }

// ListenFaults listens at path, which goes into AdoptOptions.Missing.
func ListenFaults(path string) (*FaultListener, error) {
	l, err := unixsock.Listen(path)
	if err != nil {
		return nil, err
	}
	return &FaultListener{l}, nil
}

// Close ends listening. Faults that were accepted go on.
func (l *FaultListener) Close() error { return l.l.Close() }

// Accept waits for a guest's descriptor. m is the memory that it is of, as the
// agent has it mapped. Whoever waits for a page already, because an earlier
// agent was told and died, is told again.
func (l *FaultListener) Accept(ctx context.Context, m *Memory) (*Faults, error) {
	stop := context.AfterFunc(ctx, func() { l.l.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	conn, err := l.l.AcceptUnix()
	if err != nil {
		return nil, waitError(ctx, "wait for a guest's missing pages", err)
	}
	f, err := newFaults(ctx, conn, m)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("take over the missing pages of %s: %w", m.Folder(), err)
	}
	return f, nil
}

// waitError names what was waited for when ctx ended it.
func waitError(ctx context.Context, what string, err error) error {
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		err = cause
	}
	return fmt.Errorf("%s: %w", what, err)
}

func newFaults(ctx context.Context, conn *net.UnixConn, m *Memory) (*Faults, error) {
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	hello, rights := make([]byte, faultsHello), make([]byte, unix.CmsgSpace(4))
	n, rn, _, _, err := conn.ReadMsgUnix(hello, rights)
	if err != nil {
		return nil, waitError(ctx, "read the descriptor", err)
	}
	fd, err := receivedFD(rights[:rn])
	if err != nil {
		return nil, err
	}
	f := &Faults{memory: m, fd: uffd(fd), conn: conn, gone: make(chan struct{})}
	f.at, err = parseHello(hello[:n], m)
	if err == nil {
		err = unix.SetNonblock(fd, true) // so that it can be polled
	}
	if err == nil {
		err = f.fd.wake(f.at)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	f.file = os.NewFile(uintptr(fd), "userfaultfd")
	go f.watch()
	return f, nil
}

// receivedFD is the one descriptor of a message's rights.
func receivedFD(rights []byte) (int, error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(messages) != 1 {
		return -1, fmt.Errorf("message without a descriptor (%d parts, %v)", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, fmt.Errorf("message with %d descriptors: want 1 (%v)", len(fds), err)
	}
	unix.CloseOnExec(fds[0])
	return fds[0], nil
}

func parseHello(b []byte, m *Memory) (uffdRange, error) {
	if len(b) != faultsHello || string(b[:8]) != faultsMagic {
		return uffdRange{}, fmt.Errorf("message of %d bytes is not a guest's", len(b))
	}
	r := uffdRange{binary.LittleEndian.Uint64(b[8:]), binary.LittleEndian.Uint64(b[16:])}
	if r.size != uint64(len(m.Bytes())) {
		return uffdRange{}, fmt.Errorf("guest's memory has %d bytes, this one %d", r.size, len(m.Bytes()))
	}
	return r, nil
}

// watch notices the guest's end.
func (f *Faults) watch() {
	_, _ = f.conn.Read(make([]byte, 1)) // a guest sends nothing more
	close(f.gone)
	f.file.SetReadDeadline(time.Unix(1, 0))
}

// Next waits for the next page that the guest stands at. A page may be reported
// more than once.
func (f *Faults) Next(ctx context.Context) (page int, err error) {
	stop := context.AfterFunc(ctx, func() { f.file.SetReadDeadline(time.Unix(1, 0)) })
	defer func() {
		if !stop() && ctx.Err() != nil {
			f.file.SetReadDeadline(time.Time{}) // the next caller's context is another
		}
	}()
	for {
		for len(f.events) >= uffdMsgSize {
			e := f.events[:uffdMsgSize]
			f.events = f.events[uffdMsgSize:]
			address := binary.LittleEndian.Uint64(e[16:])
			if e[0] == uffdEventFault && address-f.at.start < f.at.size {
				return int((address - f.at.start) / PageSize), nil
			}
		}
		if isClosed(f.gone) {
			return 0, f.goneError()
		}
		b := make([]byte, 64*uffdMsgSize)
		n, err := f.file.Read(b)
		switch {
		case err == nil:
			f.events = b[:n]
		case isClosed(f.gone):
			return 0, f.goneError()
		default:
			return 0, waitError(ctx, "wait for a missing page of "+f.memory.Folder(), err)
		}
	}
}

func (f *Faults) goneError() error {
	return fmt.Errorf("wait for a missing page of %s: the guest is gone: %w", f.memory.Folder(), io.ErrUnexpectedEOF)
}

// Place puts a whole page in, in one step, and lets whoever waits for it go on.
// A page that is there is left alone: placed is false.
func (f *Faults) Place(page int, data []byte) (placed bool, err error) {
	if len(data) != PageSize || page < 0 || page >= f.memory.Pages() {
		return false, fmt.Errorf("place %d bytes as page %d of %s: want %d, and it has %d pages",
			len(data), page, f.memory.Folder(), PageSize, f.memory.Pages())
	}
	at := f.at.start + uint64(page)*PageSize
	if isZero(data) {
		placed, err = f.fd.zero(at)
	} else {
		placed, err = f.fd.copy(at, data)
	}
	if err != nil {
		return false, fmt.Errorf("place page %d of %s: %w", page, f.memory.Folder(), err)
	}
	return placed, nil
}

// Close ends serving. When no page is missing any more the guest is told and
// takes its memory back; else it waits for another agent, which Prepare sends it
// to.
func (f *Faults) Close() error {
	f.closing.Do(func() {
		missing, err := f.memory.Absent(make([]uint64, words(f.memory.Pages())))
		if err == nil && missing == 0 {
			_, err = f.conn.Write([]byte{faultsAllThere})
			if isClosed(f.gone) {
				err = nil
			}
		}
		f.err = errors.Join(err, f.file.Close(), f.conn.Close())
	})
	return f.err
}

func isZero(b []byte) bool {
	for len(b) >= 8 {
		if binary.LittleEndian.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	return true
}
