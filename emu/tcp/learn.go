package tcp

import (
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/event"
)

// Values of TCP_REPAIR and TCP_REPAIR_QUEUE (linux/tcp.h).
const (
	repairOn      = 1
	repairOff     = 0  // and a window probe is sent
	repairQuietly = -1 // off, and nothing is sent

	noQueue   = 0
	recvQueue = 1
	sendQueue = 2
)

// learnTries bounds how often the kernel's counters may move while they are
// read.
const learnTries = 8

// Learn finds out of a connection what will not change, and how far its program
// is, which neither reads nor writes meanwhile. It is best called when the
// connection is new: the kernel takes a segment that it could send while it is
// asked for sent, and it is late by a time-out.
func Learn(fd int) (*Origin, *Stream, error) {
	o, s := &Origin{}, &Stream{}
	if err := repair(fd, func() error { return o.learn(fd, s) }); err != nil {
		return nil, nil, fmt.Errorf("learn about a connection: %w", err)
	}
	return o, s, nil
}

// repair does something to a socket in repair mode. A server that is started
// anew must be able to listen again beside a socket that was in it.
func repair(fd int, do func() error) error {
	if err := setInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, repairOn); err != nil {
		return fmt.Errorf("repair mode: %w", err)
	}
	err := do()
	if off := setInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, repairQuietly); err == nil && off != nil {
		err = fmt.Errorf("end repair mode: %w", off)
	}
	if err == nil {
		err = setInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	return err
}

func (o *Origin) learn(fd int, s *Stream) (err error) {
	if o.Local, o.Remote, err = ends(fd); err != nil {
		return err
	}
	i, err := o.base(fd, s)
	if err != nil {
		return err
	}
	mss, err := getInt(fd, unix.IPPROTO_TCP, unix.TCP_MAXSEG) // in repair mode: what the peer asked for
	if err != nil {
		return fmt.Errorf("segment size: %w", err)
	}
	before := event.Now() // not after: the clock must not seem to be behind what it says
	clock, err := getInt(fd, unix.IPPROTO_TCP, unix.TCP_TIMESTAMP)
	if err != nil {
		return fmt.Errorf("timestamp: %w", err)
	}
	o.MSS = uint16(mss)
	o.Clock = clock - milliseconds(before)
	o.SACK, o.Timestamps = i.options&infoSACK != 0, i.options&infoTimestamps != 0
	o.SendScale, o.RecvScale = NoScale, NoScale
	if i.options&infoScale != 0 {
		o.SendScale, o.RecvScale = i.send, i.recv
	}
	return nil
}

// base finds the numbers that counters count from, and where the program is. The
// kernel does not tell all at once, so they are read until the counters stand
// still meanwhile.
func (o *Origin) base(fd int, s *Stream) (info, error) {
	before, err := ask(fd)
	for range learnTries {
		if err != nil {
			return before, fmt.Errorf("counters: %w", err)
		}
		var received, written uint32
		var unread, unacked int
		err = inOrder(
			step{"what is unread", func() (err error) { unread, err = pending(fd, unix.SIOCINQ); return }},
			step{"what is unacknowledged", func() (err error) { unacked, err = pending(fd, unix.SIOCOUTQ); return }},
			step{"receive queue", func() (err error) { received, err = numberOf(fd, recvQueue); return }},
			step{"send queue", func() (err error) { written, err = numberOf(fd, sendQueue); return }},
			step{"bytes of the send queue", func() (err error) { s.tail, err = sent(fd, unacked); return }},
			step{"leave the queues", func() error { return setInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR_QUEUE, noQueue) }},
		)
		if err != nil {
			return before, err
		}
		var after info
		if after, err = ask(fd); err == nil && after.Acked == before.Acked && after.Received == before.Received {
			o.Received = received - uint32(after.Received)
			o.Sent = written - uint32(unacked) - uint32(after.Acked)
			s.Read = after.Received - uint64(unread)
			s.Written = after.Acked + uint64(unacked)
			return after, nil
		}
		before = after
	}
	return before, fmt.Errorf("counters: they moved each of %d times", learnTries)
}

// sent reads what was written and is not acknowledged, from the send queue. A
// segment of which a part is acknowledged is there whole.
func sent(fd, unacked int) ([]byte, error) {
	if unacked == 0 {
		return nil, nil
	}
	b := make([]byte, unacked+mostSegment)
	n, err := call(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0)
	if err != nil {
		return nil, err
	}
	if n < unacked {
		return nil, fmt.Errorf("%d of %d bytes: %w", n, unacked, unix.EIO)
	}
	return b[n-unacked : n], nil
}

// mostSegment is what a segment has at most, before a network card divides it.
const mostSegment = 64 << 10

// numberOf is the sequence number of the end of a queue.
func numberOf(fd int, queue int32) (uint32, error) {
	err := setInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR_QUEUE, queue)
	if err != nil {
		return 0, fmt.Errorf("turn to queue %d: %w", queue, err)
	}
	n, err := getInt(fd, unix.IPPROTO_TCP, unix.TCP_QUEUE_SEQ)
	if err != nil {
		return 0, fmt.Errorf("sequence number of queue %d: %w", queue, err)
	}
	return n, nil
}

// ends are the addresses of a socket.
func ends(fd int) (local, remote netip.AddrPort, err error) {
	a, err := unix.Getsockname(fd)
	if err != nil {
		return local, remote, fmt.Errorf("own address: %w", err)
	}
	b, err := unix.Getpeername(fd)
	if err != nil {
		return local, remote, fmt.Errorf("peer's address: %w", err)
	}
	x, ok := a.(*unix.SockaddrInet4)
	y, also := b.(*unix.SockaddrInet4)
	if !ok || !also {
		return local, remote, fmt.Errorf("a connection that is not IPv4: %w", unix.EAFNOSUPPORT)
	}
	return netip.AddrPortFrom(netip.AddrFrom4(x.Addr), uint16(x.Port)), netip.AddrPortFrom(netip.AddrFrom4(y.Addr), uint16(y.Port)), nil
}
