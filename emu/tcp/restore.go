package tcp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/event"
)

// Restored is a connection that a kernel has been told of. It rests until
// Resend: what arrives is received and acknowledged, but the program can neither
// read nor write.
type Restored struct {
	FD     int // non-blocking; the caller's to close
	Origin *Origin
	Stream *Stream

	speak  [][]byte // what is written at Resend
	next   uint32   // sequence number that the peer goes on with
	ownWay bool     // it was made by a route that has been taken away
}

// Kinds of TCP options (RFC 9293, RFC 7323, RFC 2018).
const (
	optionMSS       = 2
	optionScale     = 3
	optionSACK      = 4
	optionTimestamp = 8
)

// Restorer makes connections in the namespace of the thread that it was opened
// in. It is for one goroutine, and for that thread.
type Restorer struct{ ways *ways }

// OpenRestorer opens a Restorer in the namespace that the calling thread is in,
// which must have the connections' address, or get it, and ways to their peers,
// be they without a carrier.
func OpenRestorer() (*Restorer, error) {
	w, err := openWays()
	if err != nil {
		return nil, err
	}
	return &Restorer{w}, nil
}

// Close ends it; what it restored stays.
func (r *Restorer) Close() error { return r.ways.close() }

// Restore makes a connection. sendBuffer is how many bytes the program will want
// to write without waiting; 0: the kernel's default.
//
// All that was sent before is taken for sent: the peer may acknowledge any of it.
// But the end of it is written anew by Resend: it arrives at a peer that has it
// already, or lacks what is before it and says so, and nobody has to wait for a
// time-out.
func (r *Restorer) Restore(c *Connection, sendBuffer int) (*Restored, error) {
	own, err := r.ways.prepare(c)
	if err != nil {
		return nil, fmt.Errorf("restore the connection of %v: the way there: %w", c.Remote, err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("restore the connection of %v: %w", c.Remote, err)
	}
	one, before := &Restored{FD: fd, ownWay: own, next: c.Read + uint32(len(c.Unread))}, event.Now()
	if err := one.restore(c, sendBuffer); err != nil {
		// In repair mode a socket is closed without a word.
		return nil, errors.Join(fmt.Errorf("restore the connection of %v: %w", c.Remote, err), unix.Close(fd))
	}
	o := c.Origin
	o.Sent, o.Received, o.Clock = c.Acked, c.Read, c.Timestamp-milliseconds(before)
	one.Origin = &o
	one.Stream = &Stream{}
	one.Stream.Wrote(c.Unacked)
	return one, nil
}

func (r *Restored) restore(c *Connection, sendBuffer int) error {
	quietly := r.divide(c)
	tcp := func(option int, value int32) func() error {
		return func() error { return setInt(r.FD, unix.IPPROTO_TCP, option, value) }
	}
	seq := func(n uint32) func() error { return tcp(unix.TCP_QUEUE_SEQ, int32(n)) }
	return inOrder(
		step{"repair mode", tcp(unix.TCP_REPAIR, repairOn)},
		step{"bind to an address that may not be there yet", func() error { return setInt(r.FD, unix.IPPROTO_IP, unix.IP_FREEBIND, 1) }},
		step{"room to send", func() error { return r.room(unix.SO_SNDBUFFORCE, max(sendBuffer, 2*len(c.Unacked)+leastRoom)) }},
		step{"room to receive", func() error { return r.room(unix.SO_RCVBUFFORCE, 2*len(c.Unread)+leastRoom) }},
		step{"let the kernel decide on more", func() error {
			if sendBuffer > 0 {
				return setInt(r.FD, unix.SOL_SOCKET, unix.SO_BUF_LOCK, sendLocked)
			}
			return setInt(r.FD, unix.SOL_SOCKET, unix.SO_BUF_LOCK, 0)
		}},
		step{"send at once", tcp(unix.TCP_NODELAY, 1)},
		step{"bind", func() error { return unix.Bind(r.FD, sockaddr(c.Local)) }},
		step{"receive queue", tcp(unix.TCP_REPAIR_QUEUE, recvQueue)},
		step{"its number", seq(c.Read)},
		step{"send queue", tcp(unix.TCP_REPAIR_QUEUE, sendQueue)},
		step{"its number", seq(c.Acked)},
		step{"connect", func() error { return unix.Connect(r.FD, sockaddr(c.Remote)) }},
		step{"options", func() error { return set(r.FD, unix.IPPROTO_TCP, unix.TCP_REPAIR_OPTIONS, c.options()) }},
		// The kernel works the size of segments out when it connects, before it is
		// told what the peer wants, and again when IP options change.
		step{"segment size", func() error { return set(r.FD, unix.IPPROTO_IP, unix.IP_OPTIONS, nil) }},
		step{"timestamp", func() error {
			if !c.Timestamps {
				return nil
			}
			return setInt(r.FD, unix.IPPROTO_TCP, unix.TCP_TIMESTAMP, int32(c.Timestamp))
		}},
		step{"fill the send queue", func() error { return write(r.FD, quietly) }},
		step{"fill the receive queue", func() error { return r.fill(c.Unread) }},
		step{"windows", func() error { return set(r.FD, unix.IPPROTO_TCP, unix.TCP_REPAIR_WINDOW, c.windows()) }},
	)
}

// lastWords is how much of what was sent is written anew. It has to leave in one
// segment, whatever the way takes, and at once: the peer may have acknowledged
// it, and a kernel takes no acknowledgement of what it has not sent, nor what
// comes with one.
const lastWords = 256

// divide says what is taken for sent, and what Resend writes.
func (r *Restored) divide(c *Connection) (quietly []byte) {
	sent := c.Unacked[:len(c.Unacked)-c.NotSent]
	if rest := c.Unacked[len(sent):]; len(rest) > 0 {
		r.speak = [][]byte{rest}
	} else {
		last := sent[max(0, len(sent)-lastWords):]
		sent = sent[:len(sent)-len(last)]
		pieces := 1
		if !c.SACK {
			// Without SACK it takes three segments behind a hole to make it known
			// (RFC 5681, section 3.2), and the answer to the first is taken for news
			// of the window.
			pieces = 5
		}
		for size := (len(last) + pieces - 1) / pieces; len(last) > 0; {
			n := min(size, len(last))
			r.speak, last = append(r.speak, last[:n]), last[n:]
		}
	}
	return sent
}

// leastRoom is for what the kernel counts besides bytes.
const leastRoom = 64 << 10

// sendLocked is SOCK_SNDBUF_LOCK (linux/socket.h): the room to send stays.
const sendLocked = 1

func (r *Restored) room(option, bytes int) error {
	return setInt(r.FD, unix.SOL_SOCKET, option, int32(bytes))
}

// fill puts bytes into the receive queue, as if they had just arrived.
func (r *Restored) fill(unread []byte) error {
	if len(unread) == 0 {
		return nil
	}
	if err := setInt(r.FD, unix.IPPROTO_TCP, unix.TCP_REPAIR_QUEUE, recvQueue); err != nil {
		return err
	}
	return write(r.FD, unread)
}

// options are a list of struct tcp_repair_opt.
func (c *Connection) options() (b []byte) {
	add := func(kind, value uint32) {
		b = binary.NativeEndian.AppendUint32(b, kind)
		b = binary.NativeEndian.AppendUint32(b, value)
	}
	send, recv := uint32(c.SendScale), uint32(c.RecvScale)
	if c.SendScale == NoScale {
		send, recv = 0, 0 // by itself the kernel would scale what it says
	}
	add(optionMSS, uint32(c.MSS))
	add(optionScale, send|recv<<16)
	if c.SACK {
		add(optionSACK, 0)
	}
	if c.Timestamps {
		add(optionTimestamp, 0)
	}
	return b
}

// windows is struct tcp_repair_window: the last that the peer said is as old as
// can be, so that whatever it says next counts.
func (c *Connection) windows() (b []byte) {
	next := c.Read + uint32(len(c.Unread))
	for _, v := range []uint32{
		next - 1,                   // snd_wl1
		c.SendWindow, c.SendWindow, // snd_wnd, max_window
		max(c.RecvWindow, leastWindow), // rcv_wnd
		next,                           // rcv_wup
	} {
		b = binary.NativeEndian.AppendUint32(b, v)
	}
	return b
}

// leastWindow is what a peer has been told at least that we have room for.
const leastWindow = 1460

// Resend has the connection speak, now that the peer can be reached: what it has
// not acknowledged is on its way again, or is about to be, and a peer of which
// nothing is expected hears that we are there.
func (r *Restored) Resend() error {
	err := r.leaveWay()
	end := int32(repairQuietly)
	if len(r.speak) == 0 {
		end = repairOff
	}
	if err == nil {
		err = setInt(r.FD, unix.IPPROTO_TCP, unix.TCP_REPAIR, end)
	}
	for _, part := range r.speak {
		if err == nil {
			err = write(r.FD, part)
		}
	}
	if err == nil {
		err = setInt(r.FD, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	if err != nil {
		return fmt.Errorf("have the connection of %v speak: %w", r.Origin.Remote, err)
	}
	r.speak = nil
	return nil
}

// leaveWay has the kernel look for the way anew. It would do so when it sends,
// but before that it asks the route that is gone how large a segment may be, and
// hears 68 bytes.
func (r *Restored) leaveWay() error {
	if !r.ownWay {
		return nil
	}
	r.ownWay = false
	for _, mark := range []int32{1, 0} { // each change makes it forget the way
		if err := setInt(r.FD, unix.SOL_SOCKET, unix.SO_MARK, mark); err != nil {
			return err
		}
	}
	return nil
}

func sockaddr(a netip.AddrPort) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
}

// Forget ends a connection without a word, as if its kernel had never known it.
// A process that just ends leaves its connections to the kernel, which tries for
// minutes to tell the peer.
func Forget(fd int) error {
	if err := setInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, repairOn); err != nil {
		return errors.Join(fmt.Errorf("forget a connection: %w", err), unix.Close(fd))
	}
	return unix.Close(fd)
}
