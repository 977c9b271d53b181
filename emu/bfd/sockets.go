package bfd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/event"
)

// Ports (RFC 5881 section 4, RFC 5883 section 5). Packets come from a port of
// the range that begins at firstSource.
const (
	portSingle  = 3784
	portMulti   = 4784
	firstSource = 49152
)

// classCS6 is the class of network control traffic (RFC 4594).
const classCS6 = 0xc0

// Open makes a Group with sockets in the network namespace of this thread.
func Open() (*Group, error) {
	s, err := openSockets()
	if err != nil {
		return nil, err
	}
	return newGroup(s), nil
}

// Files are the sockets that packets arrive at: to be waited for while the
// Group is in a Hurry.
func (g *Group) Files() []int {
	if s, ok := g.wire.(*sockets); ok {
		return []int{s.in[0].fd, s.in[1].fd}
	}
	return nil
}

// Close closes the sockets. No peer is told.
func (g *Group) Close() error {
	if s, ok := g.wire.(*sockets); ok {
		return s.close()
	}
	return nil
}

// sockets are three: one that sends everything, and one for each port. They
// are used by direct system calls, which never wait: the goroutine keeps its
// processor (package fabric/direct says why).
type sockets struct {
	out    sender
	in     [2]receiver // neighbours', multihop
	clocks clocks
}

func openSockets() (*sockets, error) {
	s := &sockets{out: sender{fd: -1}, in: [2]receiver{{fd: -1}, {fd: -1}}}
	err := s.out.open()
	for i, port := range [2]int{portSingle, portMulti} {
		if err == nil {
			err = s.in[i].open(port)
		}
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *sockets) close() error {
	var errs []error
	for _, fd := range [3]int{s.out.fd, s.in[0].fd, s.in[1].fd} {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	return errors.Join(errs...)
}

func udp(options map[[2]int]int) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	for o, value := range options {
		if err := unix.SetsockoptInt(fd, o[0], o[1], value); err != nil {
			unix.Close(fd)
			return -1, os.NewSyscallError("setsockopt", err)
		}
	}
	return fd, nil
}

// message is struct mmsghdr.
type message struct {
	hdr unix.Msghdr
	n   uint32
	_   uint32
}

// atOnce is how many packets one system call takes. A router has fewer
// sessions, and each of them sends one packet a turn.
const atOnce = 64

// control is room for one message's control data; as words, to be aligned.
type control [16]uint64

// receiver reads what arrives at one port.
type receiver struct {
	fd       int
	emptied  event.Mono // when nothing was left to be read
	messages [atOnce]message
	vectors  [atOnce]unix.Iovec
	names    [atOnce]unix.RawSockaddrInet4
	controls [atOnce]control
	data     [atOnce][64]byte // a packet with the longest authentication is 52 bytes
}

func (r *receiver) open(port int) (err error) {
	r.fd, err = udp(map[[2]int]int{
		{unix.IPPROTO_IP, unix.IP_PKTINFO}: 1, {unix.IPPROTO_IP, unix.IP_RECVTTL}: 1, {unix.SOL_SOCKET, unix.SO_TIMESTAMPNS}: 1,
	})
	if err == nil {
		err = unix.Bind(r.fd, &unix.SockaddrInet4{Port: port})
	}
	if err != nil {
		return fmt.Errorf("open BFD's UDP port %d: %w", port, err)
	}
	for i := range r.messages {
		r.vectors[i] = unix.Iovec{Base: &r.data[i][0], Len: uint64(len(r.data[i]))}
		r.messages[i].hdr = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&r.names[i])), Iov: &r.vectors[i], Iovlen: 1, Control: (*byte)(unsafe.Pointer(&r.controls[i]))}
	}
	return nil
}

func (s *sockets) receive(multihop bool, now event.Mono, each func(incoming)) error {
	r := &s.in[0]
	if multihop {
		r = &s.in[1]
	}
	for {
		n, err := r.read()
		if err != nil {
			return fmt.Errorf("receive BFD packets: %w", err)
		}
		ahead := s.clocks.ahead()
		for i := range n {
			m := &r.messages[i]
			in := incoming{at: now, from: netip.AddrFrom4(r.names[i].Addr), data: r.data[i][:m.n]}
			in.control(unsafe.Slice((*byte)(unsafe.Pointer(&r.controls[i])), int(m.hdr.Controllen)), ahead)
			in.at = min(max(in.at, r.emptied), now) // it was not there when the queue was last empty
			each(in)
		}
		if n < atOnce {
			r.emptied = now
			return nil
		}
	}
}

// clocks relates the clock of packets' stamps, that of the time of day, to the
// time line's. A reading may be wrong, but in one direction only: the time of day
// is looked up in the kernel now and then, and what holds the program up just
// then makes it seem later, and all packets older (package clock). So the best
// reading is kept, as far as the clock can have been slowed since.
type clocks struct{ best, at event.Mono }

// slew is how much faster or slower than the other the clock may run, one in so
// many (adjtimex(2)).
const slew = 2000

// ahead is what the time line shows more than the time of day.
func (c *clocks) ahead() event.Mono {
	now := event.Now()
	read := now - event.Mono(time.Now().UnixNano())
	if known := c.best - (now-c.at)/slew; c.at != 0 && known > read && known-read < event.Mono(time.Second) {
		read = known // more than a second: the clock was set
	}
	c.best, c.at = read, now
	return read
}

// read fills messages; none is no error.
func (r *receiver) read() (int, error) {
	for i := range r.messages {
		r.messages[i].hdr.Namelen = unix.SizeofSockaddrInet4
		r.messages[i].hdr.Controllen = uint64(unsafe.Sizeof(control{}))
	}
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(r.fd), uintptr(unsafe.Pointer(&r.messages)), atOnce, unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EAGAIN:
			return 0, nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// control takes what the kernel says of a packet beside its bytes. ahead is what
// clocks says.
func (in *incoming) control(b []byte, ahead event.Mono) {
	for len(b) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
		if h.Len < unix.SizeofCmsghdr || h.Len > uint64(len(b)) {
			return
		}
		v := b[unix.SizeofCmsghdr:h.Len]
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_TTL && len(v) >= 4:
			in.ttl = int(binary.NativeEndian.Uint32(v))
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(v) >= unix.SizeofInet4Pktinfo:
			info := (*unix.Inet4Pktinfo)(unsafe.Pointer(&v[0]))
			in.index, in.to = int(info.Ifindex), netip.AddrFrom4(info.Addr)
		case h.Level == unix.SOL_SOCKET && h.Type == unix.SO_TIMESTAMPNS && len(v) >= 16:
			in.at = ahead + event.Mono(binary.NativeEndian.Uint64(v))*1e9 + event.Mono(binary.NativeEndian.Uint64(v[8:]))
		}
		b = b[min(unix.CmsgSpace(int(h.Len)-unix.SizeofCmsghdr), len(b)):]
	}
}

// sender sends all packets of a router.
type sender struct {
	fd       int
	messages [atOnce]message
	vectors  [atOnce]unix.Iovec
	names    [atOnce]unix.RawSockaddrInet4
	controls [atOnce]pktinfo
}

// pktinfo is the control message that says by which link and from which address
// a packet goes.
type pktinfo struct {
	hdr  unix.Cmsghdr
	info unix.Inet4Pktinfo
	_    [4]byte
}

func (s *sender) open() (err error) {
	s.fd, err = udp(map[[2]int]int{{unix.IPPROTO_IP, unix.IP_TTL}: gtsm, {unix.IPPROTO_IP, unix.IP_TOS}: classCS6})
	if err != nil {
		return fmt.Errorf("open a socket for BFD: %w", err)
	}
	// Where that port is taken, the next one serves as well.
	for port := firstSource; ; port++ {
		err = unix.Bind(s.fd, &unix.SockaddrInet4{Port: port})
		if !errors.Is(err, unix.EADDRINUSE) || port == 1<<16-1 {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("bind BFD's socket to a port from %d up: %w", firstSource, err)
	}
	for i := range s.messages {
		s.vectors[i].Len = packetSize
		s.controls[i].hdr = unix.Cmsghdr{Len: unix.SizeofCmsghdr + unix.SizeofInet4Pktinfo, Level: unix.IPPROTO_IP, Type: unix.IP_PKTINFO}
		s.messages[i].hdr = unix.Msghdr{
			Name: (*byte)(unsafe.Pointer(&s.names[i])), Namelen: unix.SizeofSockaddrInet4, Iov: &s.vectors[i], Iovlen: 1,
			Control: (*byte)(unsafe.Pointer(&s.controls[i])), Controllen: uint64(unsafe.Sizeof(pktinfo{})),
		}
	}
	return nil
}

func (s *sockets) send(out []outgoing) error {
	for len(out) > 0 {
		n := min(len(out), atOnce)
		if err := s.out.write(out[:n]); err != nil {
			return fmt.Errorf("send BFD packets: %w", err)
		}
		out = out[n:]
	}
	return nil
}

// write sends at most atOnce packets. The kernel stops at one that it cannot
// send, because its link is down or there is no way to its peer; the others go
// on without it.
func (s *sender) write(out []outgoing) error {
	for i := range out {
		p := out[i].peer
		port := uint16(portSingle)
		if p.Multihop() {
			port = portMulti
		}
		s.vectors[i].Base = &out[i].data[0]
		s.names[i] = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: p.Remote.As4()}
		binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&s.names[i].Port))[:], port)
		s.controls[i].info = unix.Inet4Pktinfo{Ifindex: int32(p.Index), Spec_dst: p.Local.As4()}
	}
	for from := 0; from < len(out); {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&s.messages[from])), uintptr(len(out)-from), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		switch errno {
		case 0:
			from += int(n)
		case unix.EINTR:
		case unix.EBADF, unix.ENOTSOCK, unix.EFAULT:
			return errno
		default:
			from++
		}
	}
	return nil
}
