package wire

import (
	"context"
	"net"
	"time"
)

// Version of the protocol. Ends of different versions refuse each other before
// a byte of a VM has moved.
const Version = 1

// Type of a message; its meaning is the business of whoever sends it.
type Type uint8

// Message is one unit of delivery.
type Message struct {
	Type    Type
	Payload []byte // valid until the next Receive
}

// Config of one end of a session.
type Config struct {
	// ID is the migration's, chosen at random by the source: 128 bits that keep
	// strangers and stale connections out.
	ID [16]byte
	// Channel tells the sessions of one migration apart: 0 bulk, 1 urgent, 2 disk.
	Channel uint8
	// Dial opens a connection again after one broke; nil at the end that listens.
	Dial func(ctx context.Context) (net.Conn, error)
	// Window is how many bytes may be sent that the other end has not confirmed;
	// default 8 MiB.
	Window int
	// MaxFrame bounds a message; default 4 MiB. Window and MaxFrame hold for both
	// directions: the ends use the lesser of what each of them has, and a window
	// has room for two of the largest messages.
	MaxFrame int
	// Backlog is how many bytes may wait in this process for TCP to take them;
	// default 256 KiB. More waits in the kernel, see Unsent: what is sent now gets to
	// the link behind both.
	Backlog int
	// Unsent is how many bytes the kernel takes that TCP may not send yet; default
	// 128 KiB. More of them make a sender of much wake up less often, and what is
	// sent now get later to a link that is slower than the sender.
	Unsent int
	// Patience is how long a session looks for a new connection, and how long a
	// connection may be silent; default 15 s.
	Patience time.Duration
}

// Session is one end. Send and Receive may each be used by one goroutine at a
// time, and both at the same time.
type Session interface {
	// Send queues a message; it waits while the window or the Backlog is full.
	// The payload is the caller's again when it returns.
	Send(ctx context.Context, t Type, payload []byte) error
	// Flush waits until the other end's Receive has given out all that was sent
	// before. It may be called beside Send.
	Flush(ctx context.Context) error
	// Receive waits for the next message. After the other end has closed the
	// session, and all that came before was received, it returns io.EOF.
	Receive(ctx context.Context) (Message, error)
	// Waiting is the time that Send has spent waiting for the link since the
	// session began: the measure of whether link or sender is the bottleneck.
	Waiting() time.Duration
	// Stats are bytes on TCP, both ways, and how often it had to reconnect.
	Stats() Stats
	// Close ends the session at both ends.
	Close() error
}

// Stats of a session.
type Stats struct {
	Out, In    int64 // bytes written to and read from connections
	Resent     int64 // of Out, what was sent again after a reconnection
	Reconnects int
}
