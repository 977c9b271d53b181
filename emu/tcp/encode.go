package tcp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// On the wire a connection is, numbers being uvarints: addresses of 4 bytes and
// ports, MSS, scales, flags, Read, Acked, Timestamp, SendWindow, RecvWindow,
// Congestion, NotSent, and Unread and Unacked, each with its length before it.
const (
	flagSACK       = 1
	flagTimestamps = 2
	mostQueue      = 64 << 20
)

// Append puts the connection behind b.
func (c *Connection) Append(b []byte) []byte {
	for _, a := range []netip.AddrPort{c.Local, c.Remote} {
		addr := a.Addr().As4()
		b = append(b, addr[:]...)
		b = binary.BigEndian.AppendUint16(b, a.Port())
	}
	flags := byte(0)
	if c.SACK {
		flags |= flagSACK
	}
	if c.Timestamps {
		flags |= flagTimestamps
	}
	b = append(b, flags, c.SendScale, c.RecvScale)
	for _, n := range []uint32{uint32(c.MSS), c.Read, c.Acked, c.Timestamp, c.SendWindow, c.RecvWindow, c.Congestion, uint32(c.NotSent)} {
		b = binary.AppendUvarint(b, uint64(n))
	}
	for _, queue := range [][]byte{c.Unread, c.Unacked} {
		b = binary.AppendUvarint(b, uint64(len(queue)))
		b = append(b, queue...)
	}
	return b
}

// errShort says that bytes end within a connection.
var errShort = errors.New("it ends too early")

// Parse reads a connection off the front of b, and gives the rest. The queues
// are parts of b.
func Parse(b []byte) (c *Connection, rest []byte, err error) {
	c = &Connection{}
	const head = 2*6 + 3
	if len(b) < head {
		return nil, nil, fmt.Errorf("connection: %w", errShort)
	}
	for i, a := range []*netip.AddrPort{&c.Local, &c.Remote} {
		*a = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[6*i:])), binary.BigEndian.Uint16(b[6*i+4:]))
	}
	flags := b[12]
	c.SACK, c.Timestamps = flags&flagSACK != 0, flags&flagTimestamps != 0
	c.SendScale, c.RecvScale = b[13], b[14]
	r := reader{b: b[head:]}
	mss, notSent := uint32(0), uint32(0)
	for _, n := range []*uint32{&mss, &c.Read, &c.Acked, &c.Timestamp, &c.SendWindow, &c.RecvWindow, &c.Congestion, &notSent} {
		*n = r.number()
	}
	c.Unread, c.Unacked = r.queue(), r.queue()
	c.MSS, c.NotSent = uint16(mss), int(notSent)
	switch {
	case r.err == nil && (flags > flagSACK|flagTimestamps || mss > 1<<16-1 || c.NotSent > len(c.Unacked)):
		r.err = fmt.Errorf("flags %x, segments of %d bytes, %d of %d bytes not sent", flags, mss, c.NotSent, len(c.Unacked))
	case r.err == nil && (badScale(c.SendScale) || badScale(c.RecvScale)):
		r.err = fmt.Errorf("window scales %d and %d", c.SendScale, c.RecvScale)
	}
	if r.err != nil {
		return nil, nil, fmt.Errorf("connection of %v: %w", c.Remote, r.err)
	}
	return c, r.b, nil
}

// badScale tells whether no connection has a window scale (RFC 7323, section
// 2.3).
func badScale(s uint8) bool { return s > 14 && s != NoScale }

// reader takes numbers and queues off the front of b until one is not there.
type reader struct {
	b   []byte
	err error
}

func (r *reader) number() uint32 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > 1<<32-1 {
		r.err, r.b = errShort, nil
		return 0
	}
	r.b = r.b[n:]
	return uint32(v)
}

func (r *reader) queue() []byte {
	n := int(r.number())
	if n > mostQueue || n > len(r.b) {
		r.err, r.b = errShort, nil
		return nil
	}
	q := r.b[:n:n]
	r.b = r.b[n:]
	return q
}
