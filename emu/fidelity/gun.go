package fidelity

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/traffic"
)

const (
	gunBatch  = 64 // packets a sendmmsg: a system call costs 70 us in User Mode Linux
	fullFrame = 1514
	overhead  = 42              // Ethernet, IP and UDP headers
	fullLoad  = fullFrame - 42  // bytes of UDP in a full frame
	port      = 7078            // of what is measured
	magic     = 0x7670_6669     // "vpfi": the first word of a payload
	markLen   = 8               // magic and number
	sendLimit = 2 * time.Minute // for room in a socket
)

// gun is a socket in a node that sends numbered packets.
type gun struct {
	where string
	fd    int
	icmp  bool
	data  [][]byte
	to    []unix.RawSockaddrInet4
	iovs  []unix.Iovec
	msgs  []mmsghdr
	n     int // packets loaded
}

// mmsghdr is struct mmsghdr of sendmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
	_   [4]byte
}

// openGun opens a socket for payloads of up to size bytes. room is how many
// bytes of packets may wait in the kernel, its own overhead included, before a
// shot waits; 0: the kernel's default.
func openGun(enter traffic.Enter, node string, size, room int) (*gun, error) {
	g := &gun{where: node}
	return g, g.open(enter, unix.IPPROTO_UDP, size, room)
}

// openPinger opens a socket for echo requests, which the kernel of the other
// side answers by itself.
func openPinger(enter traffic.Enter, node string) (*gun, error) {
	g := &gun{where: node, icmp: true}
	return g, g.open(enter, unix.IPPROTO_ICMP, 8+markLen, 0)
}

func (g *gun) open(enter traffic.Enter, protocol, size, room int) error {
	kind := unix.SOCK_DGRAM
	if g.icmp {
		kind = unix.SOCK_RAW
	}
	err := enter(g.where, func() (err error) {
		if g.fd, err = unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, protocol); err != nil {
			return os.NewSyscallError("socket", err)
		}
		return nil
	})
	if err == nil {
		err = g.set(room)
	}
	if err != nil {
		return fmt.Errorf("open socket at %s: %w", g.where, err)
	}
	g.data, g.to = make([][]byte, gunBatch), make([]unix.RawSockaddrInet4, gunBatch)
	g.iovs, g.msgs = make([]unix.Iovec, gunBatch), make([]mmsghdr, gunBatch)
	for i := range g.msgs {
		g.data[i] = make([]byte, size)
		g.iovs[i].Base = &g.data[i][0]
		h := &g.msgs[i].hdr
		h.Name = (*byte)(unsafe.Pointer(&g.to[i]))
		h.Namelen = unix.SizeofSockaddrInet4
		h.Iov = &g.iovs[i]
		h.SetIovlen(1)
	}
	return nil
}

func (g *gun) set(room int) error {
	// What comes back is seen by taps; the socket need not keep it.
	if err := unix.SetsockoptInt(g.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1); err != nil {
		return os.NewSyscallError("setsockopt SO_RCVBUF", err)
	}
	wait := unix.NsecToTimeval(int64(sendLimit))
	if err := unix.SetsockoptTimeval(g.fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait); err != nil {
		return os.NewSyscallError("setsockopt SO_SNDTIMEO", err)
	}
	if room == 0 {
		return nil
	}
	return os.NewSyscallError("setsockopt SO_SNDBUFFORCE", unix.SetsockoptInt(g.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, room/2)) // which it doubles
}

// segments has the kernel cut what is sent into datagrams of size bytes as
// late as it can (UDP_SEGMENT, udp(7)): a super frame on a link.
func (g *gun) segments(size int) error {
	return os.NewSyscallError("setsockopt UDP_SEGMENT", unix.SetsockoptInt(g.fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, size))
}

func (g *gun) close() {
	if g.fd > 0 {
		_ = unix.Close(g.fd) // nothing is buffered in the process
		g.fd = 0
	}
}

// load puts a packet with a number into the batch; full says that it must be
// fired.
func (g *gun) load(to netip.Addr, number uint32, size int) (full bool) {
	i := g.n
	a := &g.to[i]
	a.Family, a.Addr = unix.AF_INET, to.As4()
	b := g.data[i][:size]
	if g.icmp {
		echoRequest(b, number)
	} else {
		*(*[2]byte)(unsafe.Pointer(&a.Port)) = [2]byte{port >> 8, port & 0xff} // in network order
		binary.BigEndian.PutUint32(b, magic)
		binary.BigEndian.PutUint32(b[4:], number)
	}
	g.iovs[i].SetLen(size)
	g.n++
	return g.n == len(g.msgs)
}

// fire sends the batch, waiting for room.
func (g *gun) fire() error {
	at := 0
	for at < g.n {
		r, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(g.fd), uintptr(unsafe.Pointer(&g.msgs[at])), uintptr(g.n-at), 0, 0, 0)
		switch errno {
		case 0:
			at += int(r)
		case unix.EINTR:
		case unix.EAGAIN:
			return fmt.Errorf("send from %s: no room in %v", g.where, sendLimit)
		default:
			return fmt.Errorf("send from %s to %v: %w", g.where, netip.AddrFrom4(g.to[at].Addr), os.NewSyscallError("sendmmsg", errno))
		}
	}
	runtime.KeepAlive(g)
	g.n = 0
	return nil
}

// openSink opens a socket that takes what is fired at a node and keeps none
// of it, so that nobody answers that the port is closed.
func openSink(enter traffic.Enter, node string) (fd int, err error) {
	err = enter(node, func() error {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return os.NewSyscallError("socket", err)
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1); err != nil {
			return os.NewSyscallError("setsockopt SO_RCVBUF", err)
		}
		// A socket that does not take super frames has the kernel cut each into
		// its segments before it throws them away.
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1); err != nil {
			return os.NewSyscallError("setsockopt UDP_GRO", err)
		}
		return os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrInet4{Port: port}))
	})
	if err != nil {
		return -1, fmt.Errorf("open sink at %s: %w", node, err)
	}
	return fd, nil
}

func closeSinks(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd) // nothing was read from it
	}
}
