package vpntest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// EchoPort is where machines answer.
const EchoPort = 7007

// Patience is how long an answer may take on a loaded machine; Silence is how
// long no answer counts as none. A forbidden packet that got through would
// arrive as fast as an allowed one: in far less than Silence.
const (
	Patience = 3 * time.Second
	Silence  = 400 * time.Millisecond
)

// Answer makes every machine answer each UDP packet with its own name and as
// many bytes as it got.
func (l *Lab) Answer() {
	l.t.Helper()
	for _, m := range l.Plan.Machines() {
		var conn net.PacketConn
		l.In(m.Name, func() (err error) {
			conn, err = net.ListenPacket("udp4", fmt.Sprintf(":%d", EchoPort))
			return err
		})
		done := make(chan struct{})
		go func() {
			defer close(done)
			buf := make([]byte, 2048)
			for {
				n, from, err := conn.ReadFrom(buf)
				if err != nil {
					return
				}
				copy(buf, m.Name+" ")
				conn.WriteTo(buf[:max(n, len(m.Name)+1)], from)
			}
		}()
		l.t.Cleanup(func() { conn.Close(); <-done })
	}
}

// Question is one UDP packet and how to send it.
type Question struct {
	From string     // node
	To   netip.Addr // destination
	Size int        // of the IP packet; default 64
	TTL  int        // default 64
	DF   bool       // do not fragment
	Wait time.Duration
}

// Reply is what came back: the name of the machine that answered, or the
// ICMP error and who sent it, or neither.
type Reply struct {
	Name  string
	Size  int // of the answer's IP packet
	ICMP  string
	By    netip.Addr
	MTU   int
	Error error // of the socket: message too long and the like
}

// Ask sends q and waits for what it brings.
func (l *Lab) Ask(q Question) Reply {
	l.t.Helper()
	if q.Size == 0 {
		q.Size = 64
	}
	if q.TTL == 0 {
		q.TTL = 64
	}
	if q.Wait == 0 {
		q.Wait = Patience
	}
	fd := -1
	l.In(q.From, func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		return err
	})
	defer unix.Close(fd)
	pmtu := unix.IP_PMTUDISC_DONT
	if q.DF {
		pmtu = unix.IP_PMTUDISC_DO
	}
	for _, o := range [][3]int{{unix.IPPROTO_IP, unix.IP_TTL, q.TTL}, {unix.IPPROTO_IP, unix.IP_RECVERR, 1}, {unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, pmtu}} {
		require.NoError(l.t, unix.SetsockoptInt(fd, o[0], o[1], o[2]))
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: EchoPort, Addr: q.To.As4()}); err != nil {
		return Reply{Error: err}
	}
	if err := unix.Send(fd, make([]byte, q.Size-28), 0); err != nil {
		return Reply{Error: err}
	}
	deadline := time.Now().Add(q.Wait)
	buf, oob := make([]byte, 2048), make([]byte, 512)
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return Reply{}
		}
		pfd := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(pfd, int(left.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			return Reply{Error: err}
		}
		if n, oobn, _, _, err := unix.Recvmsg(fd, buf, oob, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT); err == nil {
			_ = n
			return icmpReply(oob[:oobn])
		}
		if n, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT); err == nil {
			name, _, _ := strings.Cut(string(buf[:n]), " ")
			return Reply{Name: name, Size: n + 28}
		}
	}
}

// icmpReply reads the extended error (RFC 792 message and sender) that
// IP_RECVERR delivers.
func icmpReply(oob []byte) Reply {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return Reply{Error: err}
	}
	for _, m := range msgs {
		if m.Header.Level != unix.IPPROTO_IP || m.Header.Type != unix.IP_RECVERR || len(m.Data) < 16 {
			continue
		}
		// struct sock_extended_err, then the sender's sockaddr_in.
		r := Reply{Error: unix.Errno(binary.NativeEndian.Uint32(m.Data)), MTU: int(binary.NativeEndian.Uint32(m.Data[8:]))}
		r.ICMP = fmt.Sprintf("type %d code %d", m.Data[5], m.Data[6])
		if len(m.Data) >= 24 {
			r.By, _ = netip.AddrFromSlice(m.Data[20:24])
		}
		return r
	}
	return Reply{}
}

// Ping sends one ICMP echo request and says whether an answer came.
func (l *Lab) Ping(from string, to netip.Addr, wait time.Duration) bool {
	l.t.Helper()
	fd := -1
	l.In(from, func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
		return err
	})
	defer unix.Close(fd)
	id := uint16(os.Getpid())
	pkt := []byte{8, 0, 0, 0, byte(id >> 8), byte(id), 0, 1, 'v', 'p', 'c', 'l', 'a', 'b', '!', '!'}
	binary.BigEndian.PutUint16(pkt[2:], checksum(pkt))
	if err := unix.Sendto(fd, pkt, 0, &unix.SockaddrInet4{Addr: to.As4()}); err != nil {
		return false
	}
	deadline := time.Now().Add(wait)
	buf := make([]byte, 2048)
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return false
		}
		unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		n, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
		if err != nil || n < 28 {
			continue
		}
		src, _ := netip.AddrFromSlice(buf[12:16])
		if src == to && buf[20] == 0 && binary.BigEndian.Uint16(buf[24:]) == id {
			return true
		}
	}
}

// checksum is the Internet checksum (RFC 1071).
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// Machine is the name and address of the first machine of a site.
func (l *Lab) Machine(t testing.TB, vpc, site string) (string, netip.Addr) {
	t.Helper()
	for _, m := range l.Plan.Machines() {
		if m.VPC == vpc && m.Site == site {
			return m.Name, m.Addr
		}
	}
	t.Fatalf("no machine of %s at %s", vpc, site)
	return "", netip.Addr{}
}
