package wire

import (
	"context"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	defaultBacklog = 256 << 10
	// defaultUnsent bounds what the kernel takes that it has not sent yet; it asks
	// for more when half of it is gone. Without a limit it takes megabytes: then
	// what is urgent waits behind them, and a sender cannot tell by waiting
	// that the link is slower than itself.
	defaultUnsent = 128 << 10
)

// DialTCP makes a Config's Dial: plain TCP to an address, from the namespace that
// the process is in.
func DialTCP(to netip.AddrPort) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		d := net.Dialer{KeepAlive: -1} // a session has pulses of its own
		d.SetMultipathTCP(false)
		return d.DialContext(ctx, "tcp", to.String())
	}
}

// ListenTCP makes a listener for Listen. Port 0 is one that the kernel chooses.
func ListenTCP(ctx context.Context, at netip.AddrPort) (net.Listener, error) {
	lc := net.ListenConfig{KeepAlive: -1}
	lc.SetMultipathTCP(false)
	return lc.Listen(ctx, "tcp", at.String())
}

// tune readies a connection, if it is one of TCP. Send and receive buffers are
// left to the kernel's own tuning; Go has switched Nagle's delay off. What the
// kernel does not take is done without.
func tune(conn net.Conn, unsent int) lowWater {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return lowWater{}
	}
	rc, err := c.SyscallConn()
	if err != nil {
		return lowWater{} // it is closed: its first use says so
	}
	_ = rc.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsent)
	})
	return lowWater{conn: rc, at: 1}
}

// worthAwaiting is how many bytes a frame must lack at least before the reader
// sleeps until they are there.
const worthAwaiting = 64 << 10

// lowWater is the mark below which a connection does not wake its reader
// (SO_RCVLOWAT). To be woken costs as much as to read: a long frame is
// waited for as a whole, and not from segment to segment.
type lowWater struct {
	conn syscall.RawConn // nil: there is none
	at   int
}

// await has the next wait be one for so many bytes. A connection that ends ends
// the wait, too; and what the kernel's buffer has no room for is not waited for.
func (w *lowWater) await(bytes int) {
	if bytes < worthAwaiting {
		bytes = 1
	}
	if w.conn == nil || bytes == w.at {
		return
	}
	_ = w.conn.Control(func(fd uintptr) { // a connection that is closed tells the reader
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVLOWAT, bytes) == nil {
			w.at = bytes
		}
	})
}
