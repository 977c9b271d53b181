package wire

import (
	"context"
	"fmt"
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

// DialTCP makes a Config's Dial: TCP to an address, set up for a session. It is
// called in the namespace that the process is in.
func DialTCP(to netip.AddrPort) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		d := net.Dialer{KeepAlive: -1, Control: setSocket} // a session has pulses of its own
		d.SetMultipathTCP(false)
		return d.DialContext(ctx, "tcp", to.String())
	}
}

// ListenTCP makes a listener whose connections are set up for sessions. Port 0
// is one that the kernel chooses.
func ListenTCP(ctx context.Context, at netip.AddrPort) (net.Listener, error) {
	lc := net.ListenConfig{KeepAlive: -1, Control: setSocket} // accepted sockets inherit it
	lc.SetMultipathTCP(false)
	return lc.Listen(ctx, "tcp", at.String())
}

// setSocket readies a TCP socket. Send and receive buffers are left to the
// kernel's own tuning; Go has switched Nagle's delay off.
func setSocket(_, _ string, rc syscall.RawConn) error {
	var err error
	cerr := rc.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSent)
	})
	if cerr != nil {
		return cerr
	}
	if err != nil {
		return fmt.Errorf("socket unsent low-water mark: %w", err)
	}
	return nil
}
