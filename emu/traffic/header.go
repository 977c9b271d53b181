package traffic

import (
	"encoding/binary"
	"net/netip"

	"github.com/vpclab/vpclab/topo"
)

// AppendEthernet adds an Ethernet header to a frame.
func AppendEthernet(b []byte, dst, src topo.MAC, etherType uint16) []byte {
	b = append(append(b, dst[:]...), src[:]...)
	return binary.BigEndian.AppendUint16(b, etherType)
}

// probeTTL is the time to live of packets and labels: more than any path is
// long, and as a machine would send it.
const probeTTL = 64

// AppendLabels adds a label stack (RFC 3032, section 2.1), outermost first.
func AppendLabels(b []byte, labels ...uint32) []byte {
	for i, l := range labels {
		entry := l<<12 | probeTTL
		if i == len(labels)-1 {
			entry |= 1 << 8 // bottom of stack
		}
		b = binary.BigEndian.AppendUint32(b, entry)
	}
	return b
}

// Labels reads the label stack that begins b, and what is below it. ok is
// false where b ends before the stack does.
func Labels(b []byte) (labels []uint32, rest []byte, ok bool) {
	for len(b) >= 4 {
		entry := binary.BigEndian.Uint32(b)
		labels, b = append(labels, entry>>12), b[4:]
		if entry&(1<<8) != 0 {
			return labels, b, true
		}
	}
	return labels, b, false
}

// ipv4Len is the length of an IPv4 header without options.
const ipv4Len = 20

// AppendIPv4 adds an IPv4 header (RFC 791) in front of so many bytes of
// payload.
func AppendIPv4(b []byte, protocol byte, src, dst netip.Addr, payload int) []byte {
	at := len(b)
	b = append(b, 0x45, 0) // version 4, five words; no special service
	b = binary.BigEndian.AppendUint16(b, uint16(ipv4Len+payload))
	b = append(b, 0, 0, 0, 0, probeTTL, protocol, 0, 0) // identification, offset; time to live; checksum
	s, d := src.As4(), dst.As4()
	b = append(append(b, s[:]...), d[:]...)
	sum := uint32(0)
	for i := at; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(b[at+10:], ^uint16(sum))
	return b
}
