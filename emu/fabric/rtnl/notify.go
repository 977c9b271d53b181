package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/fabric/direct"
)

// LinkEvent is one notification about an interface.
type LinkEvent struct {
	LinkInfo
	Gone bool // removed; only Index and Name count then
}

// LinkWatch is a stream of notifications about the interfaces of a namespace,
// for a process that lives with them. (Conn.Await waits for one.)
type LinkWatch struct {
	file *os.File
	buf  []byte
}

// ErrLost says that the kernel had no room for some notifications: anything
// may have happened.
var ErrLost = errors.New("notifications were lost")

// watchBuffer holds the notifications of a large batch; the default has room
// for some hundred.
const watchBuffer = 4 << 20

// WatchLinks subscribes to the interfaces of this thread's namespace. Of those
// that speakers make (FirstSpeakerIndex) it tells only when they are
// operational, or gone: there are some ten notifications to each that comes,
// and their maker knows.
func WatchLinks() (*LinkWatch, error) {
	file, err := subscribe(unix.RTMGRP_LINK, "link-watch", withoutEcho)
	if err != nil {
		return nil, fmt.Errorf("watch interfaces: %w", err)
	}
	return &LinkWatch{file: file, buf: make([]byte, 32<<10)}, nil
}

// subscribe opens a socket for notifications of some groups. ready, which may
// be nil, prepares it before the first can come.
func subscribe(groups uint32, name string, ready func(fd int) error) (*os.File, error) {
	fd, err := open(groups, ready)
	if err != nil {
		return nil, err
	}
	// A non-blocking file waits in Go's poller, and Close ends the wait.
	return os.NewFile(uintptr(fd), name), nil
}

// open is subscribe without a file around the socket, which does not block.
func open(groups uint32, ready func(fd int) error) (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return -1, fmt.Errorf("open a netlink socket: %w", err)
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, watchBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, watchBuffer) // as much as the kernel allows
	}
	if ready != nil {
		err = ready(fd)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups})
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// withoutEcho has the kernel drop what nobody asks for before it is queued:
// news of bridge ports as such, and of speakers' interfaces what is not said
// above. The filter looks at bytes of nlmsghdr and ifinfomsg, which are in the
// machine's own order; where that is not little-endian, all comes.
func withoutEcho(fd int) error {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		return nil
	}
	const (
		typeAt, familyAt, indexAt = 4, 16, 20
		attrsAt                   = unix.SizeofNlMsghdr + unix.SizeofIfInfomsg
		findAttr                  = 1<<32 - 0x1000 + 12 // SKF_AD_OFF + SKF_AD_NLATTR: A = where from A on an attribute X is
		operational               = 6                   // IF_OPER_UP

		load, value, find = unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, unix.BPF_LD | unix.BPF_IMM, unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		loadX, setX, toX  = unix.BPF_LD | unix.BPF_B | unix.BPF_IND, unix.BPF_LDX | unix.BPF_IMM, unix.BPF_MISC | unix.BPF_TAX
		equal, atLeast    = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
		ret               = unix.BPF_RET | unix.BPF_K
		all, nothing      = 1<<32 - 1, 0
	)
	program := []unix.SockFilter{
		{Code: load, K: familyAt},
		{Code: equal, K: unix.AF_UNSPEC, Jf: 14}, // else nothing
		{Code: load, K: typeAt},
		{Code: equal, K: unix.RTM_DELLINK, Jt: 11}, // then all
		{Code: load, K: indexAt + 3},
		{Code: equal, K: 0, Jf: 2}, // else a speaker's
		{Code: load, K: indexAt + 2},
		{Code: atLeast, K: FirstSpeakerIndex >> 16, Jf: 7}, // else all
		{Code: setX, K: unix.IFLA_OPERSTATE},
		{Code: value, K: attrsAt},
		{Code: find, K: findAttr},
		{Code: equal, K: 0, Jt: 4}, // then nothing
		{Code: toX},
		{Code: loadX, K: unix.SizeofRtAttr},
		{Code: equal, K: operational, Jf: 1}, // else nothing
		{Code: ret, K: all},
		{Code: ret, K: nothing},
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
}

// Next waits for notifications. It returns ErrLost when some were lost, and
// os.ErrClosed after Close.
func (w *LinkWatch) Next() ([]LinkEvent, error) {
	n, err := w.file.Read(w.buf)
	switch {
	case errors.Is(err, unix.ENOBUFS):
		return nil, ErrLost
	case err != nil:
		return nil, fmt.Errorf("watch interfaces: %w", err)
	}
	return linkEvents(w.buf[:n])
}

func linkEvents(b []byte) (out []LinkEvent, err error) {
	err = messages(b, func(_ uint32, typ, _ uint16, payload []byte) {
		if typ != unix.RTM_NEWLINK && typ != unix.RTM_DELLINK {
			return
		}
		if l, ok := parseLink(payload); ok {
			out = append(out, LinkEvent{LinkInfo: l, Gone: typ == unix.RTM_DELLINK})
		}
	})
	return out, err
}

// LinkPoll is a LinkWatch for a program that waits for many things at once by
// system calls of its own.
type LinkPoll struct {
	fd  int
	buf []byte
}

// PollLinks subscribes as WatchLinks does.
func PollLinks() (*LinkPoll, error) {
	fd, err := open(unix.RTMGRP_LINK, withoutEcho)
	if err != nil {
		return nil, fmt.Errorf("watch interfaces: %w", err)
	}
	return &LinkPoll{fd: fd, buf: make([]byte, 32<<10)}, nil
}

// File is readable when there is a notification.
func (w *LinkPoll) File() int { return w.fd }

// Take returns the notifications of one read, without waiting; none when there
// are none. ErrLost says that some were lost.
func (w *LinkPoll) Take() ([]LinkEvent, error) {
	n, err := direct.Receive(w.fd, w.buf)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return nil, nil
	case errors.Is(err, unix.ENOBUFS):
		return nil, ErrLost
	case err != nil:
		return nil, fmt.Errorf("watch interfaces: %w", err)
	}
	return linkEvents(w.buf[:n])
}

// Close ends the subscription.
func (w *LinkPoll) Close() error { return unix.Close(w.fd) }

// Close ends the stream and a Next that waits.
func (w *LinkWatch) Close() error { return w.file.Close() }
