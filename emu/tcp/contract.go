// Package tcp takes TCP connections out of one kernel's hands and puts them into
// another's (TCP_REPAIR): sequence numbers, windows, options, and what is in the
// queues. A VM that fails over goes on with its clients' connections only if
// they are part of its checkpoint; in a lab the VM's kernel is a network
// namespace, so this is how they become that.
//
// A checkpoint is taken many times a second, so it must not cost six calls a
// connection. What never changes in a connection's life is asked for once
// ([Learn]). How far both streams have come is then in what the kernel counts,
// which one request tells of all connections of a port ([Diag]); and the bytes
// that were written and not acknowledged are the last that the program wrote,
// which it keeps ([Stream]).
//
// What a caller has to see to: that its program neither reads nor writes between
// the request and the reading of what is unread; and that what is sent after
// that is not let go before the checkpoint is safe (package plug). The kernel
// goes on receiving all the while. What a peer sends, and what it acknowledges,
// after the request is simply not known to the checkpoint: the peer has not been
// told that it arrived, and will hear its acknowledgement asked for again.
//
// Connections are IPv4, established, and have not been closed by the peer. The
// rest is not carried over: the kernel that takes over answers it with a reset.
package tcp

import (
	"fmt"
	"net/netip"

	"github.com/vpclab/vpclab/emu/event"
)

// Origin is what does not change in the life of a connection.
type Origin struct {
	Local, Remote netip.AddrPort
	// Sent and Received are the sequence numbers that the kernel's counters
	// Info.Acked and Info.Received count from.
	Sent, Received uint32
	MSS            uint16 // the most that the peer wants in a segment
	SendScale      uint8  // window scales (RFC 7323); NoScale: not negotiated
	RecvScale      uint8
	SACK           bool
	Timestamps     bool
	// Clock is what the timestamp option would have said when this kernel's clock
	// began: it counts milliseconds.
	Clock uint32
}

// NoScale is a window scale that was not negotiated.
const NoScale = 255

// Info is what one request tells of a connection.
type Info struct {
	Local, Remote netip.AddrPort
	State         uint8
	// Acked and Received count the bytes that the peer has acknowledged, and
	// that arrived in order, since the kernel has known the connection.
	Acked, Received uint64
	NotSent         uint32 // bytes written and never sent
	SendWindow      uint32 // bytes that the peer has room for
	RecvWindow      uint32 // bytes that it may be told we have room for
	Congestion      uint32 // segments that may be under way (snd_cwnd)
}

// Stream is how far a connection's program is: what it sees to itself.
type Stream struct {
	Read, Written uint64 // bytes, in the kernel's counts
	tail          []byte // the last that were written; those before are acknowledged
}

// Connection is all that a kernel has to know of one established connection.
type Connection struct {
	// Origin but for Sent, Received and Clock, which are a kernel's own.
	Origin
	Read    uint32 // sequence number of the next byte that the program will read
	Unread  []byte // received and not read yet
	Acked   uint32 // sequence number of the first byte of Unacked
	Unacked []byte // written and not acknowledged yet
	NotSent int    // of Unacked, how many at the end were never sent
	// Timestamp is what the timestamp option says now: at least what it said in
	// anything that was sent before.
	Timestamp  uint32
	SendWindow uint32
	RecvWindow uint32
	Congestion uint32
}

// Wrote notes what the program has written.
func (s *Stream) Wrote(b []byte) {
	s.Written += uint64(len(b))
	s.tail = append(s.tail, b...)
}

// Kept is how many bytes the Stream keeps: those that may be unacknowledged.
func (s *Stream) Kept() int { return len(s.tail) }

// Keep forgets all but the last bytes: those before were acknowledged.
func (s *Stream) Keep(last int) {
	if n := len(s.tail) - last; n > 0 {
		s.tail = s.tail[:copy(s.tail, s.tail[n:])]
	}
}

// At is the connection at a moment, as i tells; Unread is left to the caller, see
// Unread. It is valid until the Stream changes.
func (o *Origin) At(i *Info, s *Stream, at event.Mono) (*Connection, error) {
	unacked := s.Written - i.Acked
	if i.Acked > s.Written || unacked > uint64(len(s.tail)) || uint64(i.NotSent) > unacked || i.Received < s.Read {
		return nil, fmt.Errorf("connection of %v: the kernel says that %d bytes were acknowledged, and %d not sent, of the %d that were written and of which %d are known; %d received and %d read",
			o.Remote, i.Acked, i.NotSent, s.Written, len(s.tail), i.Received, s.Read)
	}
	s.Keep(int(unacked))
	return &Connection{
		Origin: *o, Read: o.Received + uint32(s.Read), Acked: o.Sent + uint32(i.Acked), Unacked: s.tail, NotSent: int(i.NotSent),
		Timestamp: o.Clock + milliseconds(at) + 1, SendWindow: i.SendWindow, RecvWindow: i.RecvWindow,
		Congestion: i.Congestion,
	}, nil
}

// Unread is how many bytes wait to be read.
func (s *Stream) Unread(i *Info) int { return int(i.Received - s.Read) }

// milliseconds of a clock, as the timestamp option counts them.
func milliseconds(t event.Mono) uint32 { return uint32(int64(t) / 1e6) }
