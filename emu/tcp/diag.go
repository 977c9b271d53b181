package tcp

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Diag asks the kernel about all connections of a port at once (sock_diag(7)).
// It is for one goroutine.
type Diag struct {
	fd       int
	sequence uint32
	buf      []byte
}

// diagRoom is what one answer takes at most: the kernel fills up to 32 kB where
// it is given that, with about 80 connections.
const diagRoom = 32 << 10

// OpenDiag opens a Diag in the namespace that the calling thread is in.
func OpenDiag() (*Diag, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("open a socket diagnostics socket: %w", err)
	}
	return &Diag{fd: fd, buf: make([]byte, diagRoom)}, nil
}

// Close closes it.
func (d *Diag) Close() error { return unix.Close(d.fd) }

// Layouts of linux/inet_diag.h and linux/sock_diag.h.
const (
	diagByFamily  = 20 // SOCK_DIAG_BY_FAMILY
	diagInfo      = 2  // INET_DIAG_INFO
	requestSize   = unix.SizeofNlMsghdr + 8 + 48
	requestAt     = unix.SizeofNlMsghdr
	answerSize    = 72 // inet_diag_msg
	answerPorts   = 4  // idiag_sport, idiag_dport: big endian
	answerSource  = 8
	answerDest    = 24
	answerState   = 1
	allStates     = 0xFFF
	listenState   = 10
	newSynRecv    = 12
	timeWaitState = 6
)

// Each calls each with every connection whose local port is port and which is
// established, or was and is being closed.
func (d *Diag) Each(port uint16, each func(*Info)) error {
	if err := d.each(port, each); err != nil {
		return fmt.Errorf("ask the kernel about connections of port %d: %w", port, err)
	}
	return nil
}

func (d *Diag) each(port uint16, each func(*Info)) error {
	d.sequence++
	var q [requestSize]byte
	binary.NativeEndian.PutUint32(q[0:], requestSize)
	binary.NativeEndian.PutUint16(q[4:], diagByFamily)
	binary.NativeEndian.PutUint16(q[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	binary.NativeEndian.PutUint32(q[8:], d.sequence)
	r := q[requestAt:]
	r[0], r[1], r[2] = unix.AF_INET, unix.IPPROTO_TCP, 1<<(diagInfo-1)
	binary.NativeEndian.PutUint32(r[4:], allStates&^(1<<listenState|1<<timeWaitState|1<<newSynRecv))
	binary.BigEndian.PutUint16(r[8:], port)
	if err := write(d.fd, q[:]); err != nil {
		return err
	}
	for {
		n, err := receive(d.fd, d.buf)
		if err != nil {
			return err
		}
		done, err := d.answers(d.buf[:n], each)
		if done || err != nil {
			return err
		}
	}
}

// answers hands out the connections of a datagram; done: it was the last.
func (d *Diag) answers(p []byte, each func(*Info)) (done bool, err error) {
	for len(p) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(p))
		if size < unix.SizeofNlMsghdr || size > len(p) {
			return false, fmt.Errorf("message of %d bytes in %d: %w", size, len(p), unix.EPROTO)
		}
		typ, sequence := binary.NativeEndian.Uint16(p[4:]), binary.NativeEndian.Uint32(p[8:])
		body := p[unix.SizeofNlMsghdr:size]
		p = p[min((size+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1), len(p)):]
		switch {
		case sequence != d.sequence: // of a request that was given up
		case typ == unix.NLMSG_DONE:
			return true, nil
		case typ == unix.NLMSG_ERROR && len(body) >= 4:
			return true, unix.Errno(-int32(binary.NativeEndian.Uint32(body)))
		case typ == diagByFamily:
			if i, ok := parseAnswer(body); ok {
				each(&i)
			}
		}
	}
	return false, nil
}

// parseAnswer reads one connection.
func parseAnswer(b []byte) (Info, bool) {
	if len(b) < answerSize || b[0] != unix.AF_INET {
		return Info{}, false
	}
	local, remote := endOf(b, answerSource, answerPorts), endOf(b, answerDest, answerPorts+2)
	state := b[answerState]
	for a := b[answerSize:]; len(a) >= unix.SizeofRtAttr; {
		n := int(binary.NativeEndian.Uint16(a))
		if n < unix.SizeofRtAttr || n > len(a) {
			break
		}
		if binary.NativeEndian.Uint16(a[2:]) == diagInfo {
			i, ok := parseInfo(a[unix.SizeofRtAttr:n])
			i.Local, i.Remote, i.State = local, remote, state
			return i.Info, ok
		}
		a = a[min((n+3)&^3, len(a)):]
	}
	return Info{}, false
}

func endOf(b []byte, addr, port int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[addr:addr+4])), binary.BigEndian.Uint16(b[port:]))
}
