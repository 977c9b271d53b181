package rtnl

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Route is an IP route, optionally with an MPLS label stack to push.
type Route struct {
	Table       int // 0: main
	Dst         netip.Prefix
	Via         netip.Addr
	DevIndex    int
	Dev         string // the device's name, for messages
	Src         netip.Addr
	Metric      int
	Labels      []uint32 // to push, outermost first
	TTL         uint8    // of the pushed labels; 0: as the kernel propagates
	Unreachable bool
	Local       bool   // the node answers for all of Dst itself
	Nexthop     uint32 // a Nexthop's ID in place of Via, DevIndex and Labels
	Protocol    uint8  // 0: ProtocolFabric
}

func (r Route) String() string {
	s := fmt.Sprintf("route %v", r.Dst)
	if r.Table != 0 {
		s += fmt.Sprintf(" table %d", r.Table)
	}
	if r.Via.IsValid() {
		s += fmt.Sprintf(" via %v", r.Via)
	}
	if r.Nexthop != 0 {
		s += fmt.Sprintf(" by next hop %d", r.Nexthop)
	}
	return s + device(r.Dev, r.DevIndex)
}

func device(name string, index int) string {
	if name == "" && index != 0 {
		name = fmt.Sprint(index)
	}
	if name == "" {
		return ""
	}
	return " dev " + name
}

// RouteReplace adds a route, or puts it in the place of the one with the same
// table, destination and metric.
func (b *Batch) RouteReplace(r Route, opts ...Option) {
	b.begin("set", r, unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, opts)
	b.route(r, nl.NewRtMsg())
	if len(r.Labels) > 0 {
		encap := b.nest(unix.RTA_ENCAP)
		b.attr(nl.MPLS_IPTUNNEL_DST, Stack(r.Labels))
		if r.TTL != 0 {
			b.u8(mplsIPTunnelTTL, r.TTL)
		}
		b.endNest(encap)
		b.attr(unix.RTA_ENCAP_TYPE, binary.NativeEndian.AppendUint16(nil, nl.LWTUNNEL_ENCAP_MPLS))
	}
	b.end()
}

// Attributes that package nl does not name.
const (
	mplsIPTunnelTTL = 2  // MPLS_IPTUNNEL_TTL
	rtaNexthop      = 30 // RTA_NH_ID
)

// RouteDel removes a route. Fields that are zero are not compared, Table and
// Dst excepted.
func (b *Batch) RouteDel(r Route, opts ...Option) {
	b.begin("delete", r, unix.RTM_DELROUTE, 0, opts)
	b.route(r, nl.NewRtDelMsg())
	b.end()
}

func (b *Batch) route(r Route, msg *nl.RtMsg) {
	msg.Family = familyOf(r.Dst.Addr())
	msg.Dst_len = uint8(r.Dst.Bits())
	msg.Protocol = r.Protocol
	if r.Protocol == 0 {
		msg.Protocol = ProtocolFabric
	}
	table := r.Table
	if table == 0 {
		table = unix.RT_TABLE_MAIN
	}
	msg.Table = unix.RT_TABLE_UNSPEC
	if table < 256 {
		msg.Table = uint8(table)
	}
	switch {
	case r.Unreachable:
		msg.Type = unix.RTN_UNREACHABLE
	case r.Local && msg.Scope == unix.RT_SCOPE_UNIVERSE: // not a deletion, which compares no type
		msg.Type, msg.Scope = unix.RTN_LOCAL, unix.RT_SCOPE_HOST
	case r.Nexthop != 0: // of universe scope, as it has a gateway
	case msg.Scope == unix.RT_SCOPE_UNIVERSE && !r.Via.IsValid():
		msg.Scope = unix.RT_SCOPE_LINK
	}
	b.body(msg.Serialize())
	b.u32(unix.RTA_TABLE, uint32(table))
	if r.Dst.Bits() > 0 {
		b.addr(unix.RTA_DST, r.Dst.Masked().Addr())
	}
	if r.Via.IsValid() {
		b.addr(unix.RTA_GATEWAY, r.Via)
	}
	if r.DevIndex != 0 {
		b.u32(unix.RTA_OIF, uint32(r.DevIndex))
	}
	if r.Src.IsValid() {
		b.addr(unix.RTA_PREFSRC, r.Src)
	}
	if r.Metric != 0 {
		b.u32(unix.RTA_PRIORITY, uint32(r.Metric))
	}
	if r.Nexthop != 0 {
		b.u32(rtaNexthop, r.Nexthop)
	}
}
