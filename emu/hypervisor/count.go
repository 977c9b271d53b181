package hypervisor

import (
	"context"
	"net"
	"sync"

	"golang.org/x/sys/unix"
)

// counted is a connection of a migration whose bytes on the wire are added up
// when it is closed. It is what tells migrations apart that share a link.
type counted struct {
	*net.TCPConn
	m    *moving
	once sync.Once
}

// segmentHeader is what a segment has on the wire beside its bytes: Ethernet,
// IP, and TCP with its time stamps.
const segmentHeader = 14 + 20 + 32

// counting makes a way to dial of which the migration counts the connections.
func (m *moving) counting(dial func(context.Context) (net.Conn, error)) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		conn, err := dial(ctx)
		if tcp, ok := conn.(*net.TCPConn); ok && err == nil {
			return &counted{TCPConn: tcp, m: m}, nil
		}
		return conn, err
	}
}

// Close implements net.Conn.
func (c *counted) Close() error {
	c.once.Do(c.count)
	return c.TCPConn.Close()
}

// count asks the kernel what the connection has carried, what it sent again
// included.
func (c *counted) count() {
	raw, err := c.SyscallConn()
	if err != nil {
		return // it is closed already
	}
	var info *unix.TCPInfo
	if raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }) != nil || err != nil {
		return
	}
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	c.m.wireOut += int64(info.Bytes_sent) + segmentHeader*int64(info.Segs_out)
	c.m.wireBack += int64(info.Bytes_received) + segmentHeader*int64(info.Segs_in)
}
