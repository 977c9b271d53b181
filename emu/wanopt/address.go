package wanopt

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Address is a place to listen at or to connect to, as QEMU writes them: a Unix
// socket as unix:PATH, or TCP as HOST:PORT or tcp:HOST:PORT.
type Address struct{ network, at string }

// ParseAddress reads one.
func ParseAddress(s string) (Address, error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		if path == "" || len(path) > 107 {
			return Address{}, fmt.Errorf("address %q: the path of a Unix socket has 1 to 107 bytes", s)
		}
		return Address{"unix", path}, nil
	}
	at := strings.TrimPrefix(s, "tcp:")
	if _, port, err := net.SplitHostPort(at); err != nil || port == "" {
		return Address{}, fmt.Errorf("address %q: expected unix:PATH or HOST:PORT", s)
	}
	return Address{"tcp", at}, nil
}

func (a Address) String() string { return a.network + ":" + a.at }

// Listen listens at the address. A Unix socket that nobody listens at any more is
// replaced.
func (a Address) Listen(ctx context.Context) (net.Listener, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(ctx, a.network, a.at)
	if errors.Is(err, unix.EADDRINUSE) && a.network == "unix" {
		if conn, dialed := net.Dial("unix", a.at); dialed == nil {
			_ = conn.Close() // only whether there is somebody
		} else if errors.Is(dialed, unix.ECONNREFUSED) {
			if err := os.Remove(a.at); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("listen at %s: replace the socket that is left there: %w", a, err)
			}
			l, err = lc.Listen(ctx, a.network, a.at)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", a, err)
	}
	return l, nil
}

// Dial connects to the address.
func (a Address) Dial(ctx context.Context) (net.Conn, error) {
	d := net.Dialer{KeepAlive: -1} // the pair's own connections have pulses of their own
	d.SetMultipathTCP(false)
	return d.DialContext(ctx, a.network, a.at)
}

// ID is what both ends of a pair are known to each other by, of a name that both
// were told.
func ID(name string) (id [16]byte) {
	sum := sha256.Sum256([]byte("vpclab wanopt " + name))
	copy(id[:], sum[:])
	return id
}
