package hypervisor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sockets count what connections of other processes have carried: QEMU's own to
// one address, all that are opened while it is there. The kernel tells of each
// socket that it is done with (sock_diag(7), SKNLGRP_INET_TCP_DESTROY), with the
// counters that TCP_INFO has, and of those that are open when it is asked.
type sockets struct {
	*moving
	to     netip.AddrPort
	fd     int
	buffer []byte
	seen   map[uint64]unix.TCPInfo // the kernel's last word on each, by cookie
	told   map[uint64]bool         // since count was called
}

// destroyedBuffer has room for what the kernel tells of a thousand sockets.
const destroyedBuffer = 1 << 20

// countTo begins to count connections to an address; nil: the kernel cannot, which
// the time line is told, as what the host's interface has carried stays known.
func (m *moving) countTo(where string) *sockets {
	s, err := listenDestroyed(where)
	if err != nil {
		m.agent.tell(m.VM, "migration.uncounted", map[string]string{"error": err.Error()})
		return nil
	}
	s.moving = m
	return s
}

func listenDestroyed(where string) (*sockets, error) {
	to, err := netip.ParseAddrPort(where)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("ask the kernel for its sockets: %w", err)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, destroyedBuffer) // what it has by itself is enough for a few
	group := uint32(1) << (unix.SKNLGRP_INET_TCP_DESTROY - 1)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: group}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("hear of sockets that end: %w", err)
	}
	return &sockets{to: to, fd: fd, buffer: make([]byte, 64<<10), seen: map[uint64]unix.TCPInfo{}, told: map[uint64]bool{}}, nil
}

// close adds them to the migration's bytes, and gives what was handed to TCP of
// that.
func (s *sockets) close() (sent, received int64) {
	out, back := s.count()
	unix.Close(s.fd)
	for _, i := range s.seen {
		sent, received = sent+int64(i.Bytes_sent-i.Bytes_retrans), received+int64(i.Bytes_received)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wireOut += out
	s.wireBack += back
	return sent, received
}

// look notes which are open now: the kernel tells some time after it that one has
// ended, and count waits for those.
func (s *sockets) look() {
	if s.ask() == nil {
		s.read()
	}
}

// endedIn bounds how long count waits for the kernel to tell of one that has ended.
const endedIn = time.Second

// count is what those that have ended and those that are open have carried.
func (s *sockets) count() (out, back int64) {
	before := slices.Collect(maps.Keys(s.seen))
	clear(s.told)
	s.look() // those that are open are told of again
	for until := time.Now().Add(endedIn); slices.ContainsFunc(before, func(c uint64) bool { return !s.told[c] }); {
		left := time.Until(until)
		if left <= 0 {
			break
		}
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		s.read()
	}
	for _, i := range s.seen {
		out += int64(i.Bytes_sent) + segmentHeader*int64(i.Segs_out)
		back += int64(i.Bytes_received) + segmentHeader*int64(i.Segs_in)
	}
	return out, back
}

// read takes what the kernel has told.
func (s *sockets) read() {
	for {
		n, _, err := unix.Recvfrom(s.fd, s.buffer, 0)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOBUFS) { // some were lost
			continue
		}
		if err != nil {
			return
		}
		for cookie, info := range parseSockets(s.buffer[:n], s.to) {
			if info.Bytes_sent >= s.seen[cookie].Bytes_sent {
				s.seen[cookie] = info
			}
			s.told[cookie] = true
		}
	}
}

// Forms of messages: struct inet_diag_req_v2 and struct inet_diag_msg of
// linux/inet_diag.h.
const (
	diagRequest  = 56
	diagMessage  = 72
	diagInfo     = 2 // INET_DIAG_INFO
	netlinkAlign = 4
)

// ask has the kernel tell of the sockets that are open. The answer has been
// queued when this returns.
func (s *sockets) ask() error {
	b := make([]byte, unix.NLMSG_HDRLEN+diagRequest)
	ne := binary.NativeEndian
	ne.PutUint32(b, uint32(len(b)))
	ne.PutUint16(b[4:], unix.SOCK_DIAG_BY_FAMILY)
	ne.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	r := b[unix.NLMSG_HDRLEN:]
	r[0], r[1], r[2] = unix.AF_INET, unix.IPPROTO_TCP, 1<<(diagInfo-1)
	ne.PutUint32(r[4:], ^uint32(0)) // in all states
	return unix.Sendto(s.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

// parseSockets gives the connections to an address that messages of the kernel are
// about, by their cookies.
func parseSockets(b []byte, to netip.AddrPort) map[uint64]unix.TCPInfo {
	all := map[uint64]unix.TCPInfo{}
	ne := binary.NativeEndian
	for len(b) >= unix.NLMSG_HDRLEN {
		size, kind := int(ne.Uint32(b)), ne.Uint16(b[4:])
		if size < unix.NLMSG_HDRLEN || size > len(b) {
			break
		}
		if m := b[unix.NLMSG_HDRLEN:size]; kind == unix.SOCK_DIAG_BY_FAMILY && len(m) >= diagMessage && m[0] == unix.AF_INET {
			at := netip.AddrPortFrom(netip.AddrFrom4([4]byte(m[24:28])), binary.BigEndian.Uint16(m[6:]))
			if info, ok := infoOf(m[diagMessage:]); ok && at == to {
				all[ne.Uint64(m[44:])] = info
			}
		}
		b = b[min(len(b), (size+netlinkAlign-1)&^(netlinkAlign-1)):]
	}
	return all
}

// infoOf is the TCP_INFO among attributes.
func infoOf(b []byte) (info unix.TCPInfo, ok bool) {
	ne := binary.NativeEndian
	for len(b) >= unix.SizeofRtAttr {
		size, kind := int(ne.Uint16(b)), ne.Uint16(b[2:])
		if size < unix.SizeofRtAttr || size > len(b) {
			return info, false
		}
		if kind == diagInfo {
			copy(unsafe.Slice((*byte)(unsafe.Pointer(&info)), unsafe.Sizeof(info)), b[unix.SizeofRtAttr:size])
			return info, true
		}
		b = b[min(len(b), (size+netlinkAlign-1)&^(netlinkAlign-1)):]
	}
	return info, false
}
