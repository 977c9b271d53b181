package rtnl

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// FirstSpeakerNexthop is where speakers begin to number their next hops. The
// kernel numbers those that come without a number from 1.
const FirstSpeakerNexthop = 1 << 20

// Nexthop is a next hop that is an object of its own (`ip nexthop`): routes
// refer to it by its number, and one message moves all of them. The kernel
// removes it, and the routes that refer to it, when its device goes down or
// loses its carrier, without a word to anybody.
type Nexthop struct {
	ID       uint32
	Via      netip.Addr
	DevIndex int
	Dev      string   // the device's name, for messages
	Labels   []uint32 // to push, outermost first
	Protocol uint8    // 0: ProtocolFabric
}

func (n Nexthop) String() string {
	s := fmt.Sprintf("next hop %d", n.ID)
	if len(n.Labels) > 0 {
		s += fmt.Sprintf(" as %v", n.Labels)
	}
	if n.Via.IsValid() {
		s += fmt.Sprintf(" via %v", n.Via)
	}
	return s + device(n.Dev, n.DevIndex)
}

// Layout and attributes of linux/nexthop.h.
const (
	sizeofNhMsg  = 8 // family, scope, protocol, resvd u8; flags u32
	nhaID        = 1 // NHA_ID
	nhaOIF       = 5 // NHA_OIF
	nhaGateway   = 6 // NHA_GATEWAY
	nhaEncapType = 7 // NHA_ENCAP_TYPE
	nhaEncap     = 8 // NHA_ENCAP
)

// NexthopAdd adds a next hop, or puts it in the place of the one with its
// number.
func (b *Batch) NexthopAdd(n Nexthop, opts ...Option) {
	b.nexthop("set", n, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, opts)
}

// NexthopMove changes a next hop that is there: ENOENT where it is not, since
// then the routes that referred to it are gone as well.
func (b *Batch) NexthopMove(n Nexthop, opts ...Option) {
	b.nexthop("move", n, unix.NLM_F_REPLACE, opts)
}

func (b *Batch) nexthop(verb string, n Nexthop, flags int, opts []Option) {
	b.begin(verb, n, unix.RTM_NEWNEXTHOP, flags, opts)
	family := uint8(unix.AF_INET)
	if n.Via.Is6() {
		family = unix.AF_INET6
	}
	protocol := n.Protocol
	if protocol == 0 {
		protocol = ProtocolFabric
	}
	b.body([]byte{family, unix.RT_SCOPE_UNIVERSE, protocol, 0, 0, 0, 0, 0})
	b.u32(nhaID, n.ID)
	if n.Via.IsValid() {
		b.addr(nhaGateway, n.Via)
	}
	b.u32(nhaOIF, uint32(n.DevIndex))
	if len(n.Labels) > 0 {
		encap := b.nest(nhaEncap | unix.NLA_F_NESTED)
		b.attr(nl.MPLS_IPTUNNEL_DST, Stack(n.Labels))
		b.endNest(encap)
		b.attr(nhaEncapType, binary.NativeEndian.AppendUint16(nil, nl.LWTUNNEL_ENCAP_MPLS))
	}
	b.end()
}

// NexthopDel removes a next hop, and with it the routes that refer to it.
func (b *Batch) NexthopDel(id uint32, opts ...Option) {
	b.begin("delete", Nexthop{ID: id}, unix.RTM_DELNEXTHOP, 0, opts)
	b.body(make([]byte, sizeofNhMsg))
	b.u32(nhaID, id)
	b.end()
}

// Nexthops reads the next hops that carry protocol; 0: all.
func (c *Conn) Nexthops(protocol uint8) (out []Nexthop, err error) {
	err = c.dump("next hops", unix.RTM_GETNEXTHOP, make([]byte, sizeofNhMsg), func() { out = out[:0] }, func(p []byte) {
		if len(p) < sizeofNhMsg || (protocol != 0 && p[2] != protocol) {
			return
		}
		n := Nexthop{Protocol: p[2]}
		attrs(p, sizeofNhMsg, func(typ uint16, v []byte) { n.set(typ, v) })
		out = append(out, n)
	})
	return out, err
}

func (n *Nexthop) set(typ uint16, v []byte) {
	switch typ {
	case nhaID:
		n.ID = uint32(number(v))
	case nhaOIF:
		n.DevIndex = number(v)
	case nhaGateway:
		n.Via, _ = netip.AddrFromSlice(v)
	case nhaEncap:
		attrs(v, 0, func(typ uint16, v []byte) {
			if typ == nl.MPLS_IPTUNNEL_DST {
				n.Labels = labels(v)
			}
		})
	}
}
