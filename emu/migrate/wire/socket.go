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
	// notSent is how much the kernel takes that it has not sent yet; it asks for
	// more when half of it is gone. Without a limit it takes megabytes: then
	// what is urgent waits behind them, and a sender cannot tell by waiting
	// that the link is slower than itself.
	notSent = 128 << 10
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
func tune(conn net.Conn) {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return
	}
	rc, err := c.SyscallConn()
	if err != nil {
		return // it is closed: its first use says so
	}
	_ = rc.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSent)
	})
}
