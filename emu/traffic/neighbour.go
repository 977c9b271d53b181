package traffic

import (
	"encoding/binary"
	"net/netip"

	"github.com/vpclab/vpclab/topo"
)

const (
	etherLen  = 14
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherIPv6 = 0x86dd

	arpRequest, arpReply = 1, 2
	arpLen               = 28 // of Ethernet and IPv4

	icmp6            = 58 // next header
	ipv6Len          = 40
	neighbourHops    = 255 // hop limit: anything less has been routed (RFC 4861, section 7.1)
	neighbourAsk     = 135 // ICMPv6 types of RFC 4861
	neighbourAnswer  = 136
	neighbourLen     = 24 // solicitation or advertisement before its options
	optionSourceLink = 1
	optionTargetLink = 2
	linkOptionLen    = 8 // of an Ethernet address
)

// LinkLocal is the IPv6 address that an interface gives itself (RFC 4291,
// appendix A).
func LinkLocal(m topo.MAC) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5]})
}

// groupMAC is the Ethernet address of an IP multicast group (RFC 1112, section
// 6.4; RFC 2464, section 7).
func groupMAC(group netip.Addr) topo.MAC {
	if group.Is4() {
		g := group.As4()
		return topo.MAC{0x01, 0x00, 0x5e, g[1] & 0x7f, g[2], g[3]}
	}
	g := group.As16()
	return topo.MAC{0x33, 0x33, g[12], g[13], g[14], g[15]}
}

// appendARP adds an ARP request (RFC 826) of a machine for an address, with
// its Ethernet header.
func appendARP(b []byte, mac topo.MAC, addr, ask netip.Addr) []byte {
	b = AppendEthernet(b, broadcastMAC, mac, etherARP)
	b = append(b, 0, 1, 8, 0, 6, 4, 0, arpRequest) // Ethernet, IPv4, the lengths of their addresses
	s, t := addr.As4(), ask.As4()
	b = append(append(b, mac[:]...), s[:]...)
	b = append(b, 0, 0, 0, 0, 0, 0)
	return append(b, t[:]...)
}

// appendSolicitation adds a neighbour solicitation (RFC 4861, section 4.3) of
// a machine for an address, with the headers below it.
func appendSolicitation(b []byte, mac topo.MAC, ask netip.Addr) []byte {
	const payload = neighbourLen + linkOptionLen
	t := ask.As16()
	group := netip.AddrFrom16([16]byte{0: 0xff, 1: 2, 11: 1, 12: 0xff, 13: t[13], 14: t[14], 15: t[15]}) // solicited-node (RFC 4291, section 2.7.1)
	src, dst := LinkLocal(mac).As16(), group.As16()
	b = AppendEthernet(b, groupMAC(group), mac, etherIPv6)
	b = append(b, 0x60, 0, 0, 0, 0, payload, icmp6, neighbourHops)
	b = append(append(b, src[:]...), dst[:]...)
	at := len(b)
	b = append(b, neighbourAsk, 0, 0, 0, 0, 0, 0, 0)
	b = append(b, t[:]...)
	b = append(append(b, optionSourceLink, 1), mac[:]...)
	binary.BigEndian.PutUint16(b[at+2:], icmp6Sum(src, dst, b[at:]))
	return b
}

// icmp6Sum is the checksum of an ICMPv6 message whose own is zero (RFC 8200,
// section 8.1).
func icmp6Sum(src, dst [16]byte, message []byte) uint16 {
	sum := uint32(len(message)) + icmp6
	for _, part := range [][]byte{src[:], dst[:], message} {
		for i := 0; i+1 < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// answer reads an ARP reply or a neighbour advertisement: whose address it
// says is at which MAC, and whom it tells.
func answer(b []byte) (addr netip.Addr, mac, told topo.MAC, ok bool) {
	if len(b) < etherLen {
		return addr, mac, told, false
	}
	told = topo.MAC(b[:6])
	body := b[etherLen:]
	switch binary.BigEndian.Uint16(b[12:]) {
	case etherARP:
		if len(body) >= arpLen && binary.BigEndian.Uint16(body[6:]) == arpReply {
			return netip.AddrFrom4([4]byte(body[14:])), topo.MAC(body[8:]), told, true
		}
	case etherIPv6:
		const options = ipv6Len + neighbourLen
		if len(body) < options+linkOptionLen || body[6] != icmp6 || body[ipv6Len] != neighbourAnswer {
			break
		}
		if o := body[options:]; o[0] == optionTargetLink && o[1] == 1 {
			return netip.AddrFrom16([16]byte(body[ipv6Len+8:])), topo.MAC(o[2:]), told, true
		}
	}
	return addr, mac, told, false
}
