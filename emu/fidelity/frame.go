package fidelity

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

const (
	etherLen   = 14
	echoReply  = 0
	echoAsk    = 8
	icmpHeader = 8
)

// seen is what a frame says of a packet that was fired.
type seen struct {
	labels []label // outermost first
	dst    netip.Addr
	ttl    uint8 // of IP
	echo   uint8 // ICMP type, of those; else of no meaning
	icmp   bool
	number uint32
}

// label is an entry of a label stack (RFC 3032, section 2.1).
type label struct {
	Value uint32
	EXP   uint8
	Last  bool
	TTL   uint8
}

// parse reads a frame; ok says that it is one of ours.
func parse(data []byte) (s seen, ok bool) {
	if len(data) < etherLen {
		return s, false
	}
	kind, b := binary.BigEndian.Uint16(data[12:]), data[etherLen:]
	if kind == unix.ETH_P_MPLS_UC {
		for {
			if len(b) < 4 {
				return s, false
			}
			e := binary.BigEndian.Uint32(b)
			l := label{Value: e >> 12, EXP: uint8(e >> 9 & 7), Last: e>>8&1 == 1, TTL: uint8(e)}
			s.labels = append(s.labels, l)
			b = b[4:]
			if l.Last {
				break
			}
		}
		if len(b) >= etherLen && b[0]>>4 != 4 { // a pseudowire's frame: MACs of labs begin with 02
			kind, b = binary.BigEndian.Uint16(b[12:]), b[etherLen:]
		} else {
			kind = unix.ETH_P_IP
		}
	}
	if kind != unix.ETH_P_IP {
		return s, false
	}
	if len(b) < 20 || b[0]>>4 != 4 {
		return s, false
	}
	s.dst, s.ttl = netip.AddrFrom4([4]byte(b[16:20])), b[8]
	protocol := b[9]
	b = b[min(int(b[0]&15)*4, len(b)):]
	switch {
	case protocol == unix.IPPROTO_UDP && len(b) >= 8+markLen && binary.BigEndian.Uint16(b[2:]) == port:
		b = b[8:]
	case protocol == unix.IPPROTO_ICMP && len(b) >= icmpHeader+markLen && (b[0] == echoAsk || b[0] == echoReply):
		s.icmp, s.echo = true, b[0]
		b = b[icmpHeader:]
	default:
		return s, false
	}
	if binary.BigEndian.Uint32(b) != magic {
		return s, false
	}
	s.number = binary.BigEndian.Uint32(b[4:])
	return s, true
}

// echoRequest fills b with an ICMP echo request that carries a number.
func echoRequest(b []byte, number uint32) {
	clear(b)
	b[0] = echoAsk
	binary.BigEndian.PutUint32(b[4:], number) // identifier and sequence
	binary.BigEndian.PutUint32(b[icmpHeader:], magic)
	binary.BigEndian.PutUint32(b[icmpHeader+4:], number)
	binary.BigEndian.PutUint16(b[2:], checksum(b))
}

// checksum of the Internet (RFC 1071).
func checksum(b []byte) uint16 {
	sum := uint32(0)
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
