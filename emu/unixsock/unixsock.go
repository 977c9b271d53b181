// Package unixsock reaches Unix sockets by paths of any length.
package unixsock

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
)

// A socket's address holds 107 bytes of path, and a host's folder lies deep.
// So paths that are too long are reached by way of a descriptor of the folder.
const maxPath = 107

// withShort calls do with a path to the same place that fits an address.
func withShort(path string, do func(string) error) error {
	if len(path) <= maxPath {
		return do(path)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return do(fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)))
}

// Dial connects to the stream socket at path, however long that is.
func Dial(path string) (conn *net.UnixConn, err error) {
	err = withShort(path, func(short string) error {
		conn, err = net.DialUnix("unix", nil, &net.UnixAddr{Name: short, Net: "unix"})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	return conn, nil
}

// Listen listens at path, in place of whatever was left there. The path is
// not removed when the listener closes: by then it may be a successor's.
func Listen(path string) (l *net.UnixListener, err error) {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	err = withShort(path, func(short string) error {
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	return l, nil
}
