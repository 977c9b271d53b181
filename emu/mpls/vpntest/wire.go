package vpntest

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Wire reads every frame of one interface by AF_PACKET.
type Wire struct {
	l      *Lab
	fd     int
	node   string
	ifname string
}

// Tap listens on an interface of a node.
func (l *Lab) Tap(node, ifname string) *Wire {
	l.t.Helper()
	w := &Wire{l: l, fd: -1, node: node, ifname: ifname}
	l.In(node, func() error {
		ifi, err := net.InterfaceByName(ifname)
		if err != nil {
			return err
		}
		w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL)))
		if err != nil {
			return err
		}
		return unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: ifi.Index})
	})
	l.t.Cleanup(func() { unix.Close(w.fd) })
	return w
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// LSE is one entry of a label stack (RFC 3032).
type LSE struct {
	Label  uint32
	TC     uint8
	Bottom bool
	TTL    uint8
}

// Frame is a frame as far as the tests look: the label stack, the Ethernet
// frame of a pseudowire, then IPv4.
type Frame struct {
	Out      bool // sent by this end
	Stack    []LSE
	Inner    bool    // below the labels is an Ethernet frame,
	From, To [6]byte // with these addresses
	Text     string  // of a Marked one, wherever it is
	Src, Dst netip.Addr
	TTL      uint8
	Proto    uint8
	Length   int // IP total length
}

func (f Frame) String() string {
	var b strings.Builder
	for _, e := range f.Stack {
		fmt.Fprintf(&b, "(%d ttl %d)", e.Label, e.TTL)
	}
	return fmt.Sprintf("%s IP %s > %s proto %d ttl %d len %d", b.String(), f.Src, f.Dst, f.Proto, f.TTL, f.Length)
}

// Next returns the first frame within wait that matches.
func (w *Wire) Next(wait time.Duration, match func(Frame) bool) (Frame, bool) {
	w.l.t.Helper()
	deadline := time.Now().Add(wait)
	buf := make([]byte, 65536)
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return Frame{}, false
		}
		unix.Poll([]unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		n, from, err := unix.Recvfrom(w.fd, buf, unix.MSG_DONTWAIT)
		if err != nil {
			continue
		}
		f, ok := decode(buf[:n])
		if sll, is := from.(*unix.SockaddrLinklayer); is {
			f.Out = sll.Pkttype == unix.PACKET_OUTGOING
		}
		if ok && match(f) {
			return f, true
		}
	}
}

// decode reads an Ethernet frame with IPv4, MPLS over IPv4, MPLS over an
// Ethernet frame, or a mark.
func decode(b []byte) (f Frame, ok bool) {
	if len(b) < 14 {
		return f, false
	}
	typ := binary.BigEndian.Uint16(b[12:])
	b = b[14:]
	for typ == unix.ETH_P_MPLS_UC {
		if len(b) < 4 {
			return f, false
		}
		v := binary.BigEndian.Uint32(b)
		e := LSE{Label: v >> 12, TC: uint8(v>>9) & 7, Bottom: v>>8&1 == 1, TTL: uint8(v)}
		f.Stack = append(f.Stack, e)
		b = b[4:]
		if e.Bottom {
			typ = unix.ETH_P_IP
		}
	}
	// A label does not say what is below it. Our MACs begin with 02, as do
	// groups with an odd byte: never with IPv4's 4.
	if len(f.Stack) > 0 && len(b) >= 14 && b[0]>>4 != 4 {
		f.Inner = true
		copy(f.To[:], b)
		copy(f.From[:], b[6:])
		typ = binary.BigEndian.Uint16(b[12:])
		b = b[14:]
	}
	if typ == unix.ETH_P_802_EX1 {
		f.Text, _, _ = strings.Cut(string(b), "\x00")
		return f, true
	}
	if typ != unix.ETH_P_IP || len(b) < 20 || b[0]>>4 != 4 {
		return f, f.Inner
	}
	f.Length, f.TTL, f.Proto = int(binary.BigEndian.Uint16(b[2:])), b[8], b[9]
	f.Src, _ = netip.AddrFromSlice(b[12:16])
	f.Dst, _ = netip.AddrFromSlice(b[16:20])
	return f, true
}

// Send puts a frame on the wire as the node would, labels and all: a UDP
// packet to the echo port under the stack.
func (w *Wire) Send(dst [6]byte, stack []uint32, src, to netip.Addr) {
	w.l.t.Helper()
	frame := append([]byte(nil), dst[:]...)
	frame = append(frame, 0x02, 0xbd, 0, 0, 0, 1)
	typ := uint16(unix.ETH_P_MPLS_UC)
	if len(stack) == 0 {
		typ = unix.ETH_P_IP
	}
	frame = binary.BigEndian.AppendUint16(frame, typ)
	for i, label := range stack {
		v := label<<12 | 64
		if i == len(stack)-1 {
			v |= 1 << 8
		}
		frame = binary.BigEndian.AppendUint32(frame, v)
	}
	w.Put(append(frame, udp(src, to, []byte("forged"))...))
}

// Put puts a frame on the wire as the node would.
func (w *Wire) Put(frame []byte) {
	w.l.t.Helper()
	ifi := 0
	w.l.In(w.node, func() error {
		i, err := net.InterfaceByName(w.ifname)
		if err == nil {
			ifi = i.Index
		}
		return err
	})
	require.NoError(w.l.t, unix.Sendto(w.fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: ifi, Halen: 6}))
}

// udp is an IPv4 packet with a UDP datagram (checksum 0: none).
func udp(src, dst netip.Addr, payload []byte) []byte {
	p := make([]byte, 28, 28+len(payload))
	p[0], p[8], p[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(p[2:], uint16(28+len(payload)))
	copy(p[12:], src.AsSlice())
	copy(p[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(p[10:], checksum(p[:20]))
	binary.BigEndian.PutUint16(p[20:], 40000)
	binary.BigEndian.PutUint16(p[22:], EchoPort)
	binary.BigEndian.PutUint16(p[24:], uint16(8+len(payload)))
	return append(p, payload...)
}
