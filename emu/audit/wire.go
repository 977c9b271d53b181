package audit

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/traffic"
)

const (
	etherLen   = 14 // an Ethernet header
	minFrame   = 60 // the shortest Ethernet frame without its check sequence
	longestLen = etherLen + 2*4 + 20 + traffic.MarkLen
)

// frame adds the bytes of a probe with its number to b.
func (p *probe) frame(e *traffic.Ether, b []byte, number uint32) []byte {
	at := len(b)
	switch {
	case p.labels > 0:
		b = traffic.AppendEthernet(b, p.dst, p.src, unix.ETH_P_MPLS_UC)
		b = traffic.AppendLabels(b, p.stack[:p.labels]...)
		if !p.ip {
			b = traffic.AppendEthernet(b, p.innerDst, p.inner, traffic.EtherType)
		}
	case p.ip:
		b = traffic.AppendEthernet(b, p.dst, p.src, unix.ETH_P_IP)
	default:
		b = traffic.AppendEthernet(b, p.dst, p.src, traffic.EtherType)
	}
	if p.ip {
		b = traffic.AppendIPv4(b, traffic.Protocol, p.ipSrc, p.ipDst, traffic.MarkLen)
	}
	b = e.AppendMark(b, number)
	for len(b)-at < minFrame {
		b = append(b, 0)
	}
	return b
}

// outerLabels is the label stack that a frame begins with; nil where it has
// none.
func outerLabels(frame []byte) []uint32 {
	if len(frame) < etherLen || binary.BigEndian.Uint16(frame[12:]) != unix.ETH_P_MPLS_UC {
		return nil
	}
	labels, _, _ := traffic.Labels(frame[etherLen:])
	return labels
}

// destination of an IP packet.
func destination(packet []byte) (netip.Addr, bool) {
	if len(packet) < 20 {
		return netip.Addr{}, false
	}
	return netip.AddrFrom4([4]byte(packet[16:20])), true
}
