package traffic

import (
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Missed counts the probes and answers that arrived at machines since the Prober
// was opened and were lost there, because nobody had read those before them in
// time: they look as if the network had lost them. A system call a machine.
func (p *Prober) Missed() int {
	p.mu.Lock()
	points := append([]*point(nil), p.points...)
	n := p.missed
	p.mu.Unlock()
	for _, pt := range points {
		if pt != nil {
			n += missedAt(pt.conn)
		}
	}
	return n
}

// missedAt is how many packets a socket had no room for. One that is closed has
// told already: 0.
func missedAt(conn net.PacketConn) (n int) {
	udp, ok := conn.(*net.UDPConn)
	if !ok {
		return 0
	}
	raw, err := udp.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) {
		// SO_MEMINFO: nine numbers, the last one the socket's drops (sock_diag(7)).
		var info [9]uint32
		size := uint32(unsafe.Sizeof(info))
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO, uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
		if errno == 0 {
			n = int(info[8])
		}
	})
	return n
}
