package rtnl

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Link is what all new interfaces have in common. Zero fields are left to the
// kernel. A caller that chooses Index can refer to the interface in the same
// batch in which it is made.
type Link struct {
	Name  string
	Index int
	MTU   int
	MAC   [6]byte
	Group uint32
	Up    bool
}

func (l Link) String() string { return l.Name }

// newLink opens RTM_NEWLINK for l; the caller closes it.
func (b *Batch) newLink(kind string, l Link, opts []Option) {
	b.begin("add "+kind, l.Name, unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, opts)
	b.linkBody(l)
}

func (b *Batch) linkBody(l Link) {
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(l.Index)
	if l.Up {
		msg.Flags, msg.Change = unix.IFF_UP, unix.IFF_UP
	}
	b.body(msg.Serialize())
	b.str(unix.IFLA_IFNAME, l.Name)
	if l.MTU != 0 {
		b.u32(unix.IFLA_MTU, uint32(l.MTU))
	}
	if l.MAC != ([6]byte{}) {
		b.attr(unix.IFLA_ADDRESS, l.MAC[:])
	}
	if l.Group != 0 {
		b.u32(unix.IFLA_GROUP, l.Group)
	}
}

// oneQueue asks for a single queue each way: every further one costs memory
// and time and a lab's interface needs none.
func (b *Batch) oneQueue() {
	b.u32(unix.IFLA_NUM_TX_QUEUES, 1)
	b.u32(unix.IFLA_NUM_RX_QUEUES, 1)
}

// linkInfo writes the kind and, by data, its own attributes.
func (b *Batch) linkInfo(kind string, data func()) {
	info := b.nest(unix.IFLA_LINKINFO)
	b.str(nl.IFLA_INFO_KIND, kind)
	if data != nil {
		at := b.nest(nl.IFLA_INFO_DATA)
		data()
		b.endNest(at)
	}
	b.endNest(info)
}

// Veth is a pair of Ethernet interfaces. The peer is made where it is to
// live: moving it there afterwards waits 17 ms for the kernel's RCU.
type Veth struct {
	Link
	Peer   Link
	PeerNS int // descriptor of the peer's namespace; 0: the same namespace
}

// Veth adds a veth pair. Peer.Index counts only where Index is set too.
func (b *Batch) Veth(v Veth, opts ...Option) {
	b.newLink("veth", v.Link, opts)
	b.oneQueue()
	b.linkInfo("veth", func() {
		peer := b.nest(nl.VETH_INFO_PEER)
		b.linkBody(v.Peer)
		b.oneQueue()
		if v.PeerNS != 0 {
			b.u32(unix.IFLA_NET_NS_FD, uint32(v.PeerNS))
		}
		b.endNest(peer)
	})
	b.end()
}

// VRF is a routing domain: an interface bound to a routing table.
type VRF struct {
	Link
	Table int
}

// VRF adds a VRF device.
func (b *Batch) VRF(v VRF, opts ...Option) {
	b.newLink("vrf", v.Link, opts)
	b.linkInfo("vrf", func() { b.u32(nl.IFLA_VRF_TABLE, uint32(v.Table)) })
	b.end()
}

// Dummy adds an interface that swallows what is sent to it.
func (b *Batch) Dummy(l Link, opts ...Option) {
	b.newLink("dummy", l, opts)
	b.linkInfo("dummy", nil)
	b.end()
}

// LinkChange changes an interface, found by Index or, where that is 0, by
// Name. Nil and zero fields stay as they are.
type LinkChange struct {
	Index  int
	Name   string
	Up     *bool
	Master *int // index of the bridge or VRF; 0: none
	MTU    int
	MAC    *[6]byte
	Alias  *string
	Group  *uint32
	Rename string // only while the interface is down
	// NoIPv6Address keeps the kernel from giving the interface a link-local
	// address, and from probing for its uniqueness, when it comes up.
	NoIPv6Address bool
}

func (c LinkChange) String() string {
	if c.Name != "" {
		return c.Name
	}
	return fmt.Sprintf("interface %d", c.Index)
}

// of is the interface as the end of a phrase.
func (c LinkChange) of() string {
	if c.Name != "" {
		return " " + c.Name
	}
	return fmt.Sprintf(" %d", c.Index)
}

// LinkSet changes an interface. The kernel applies the master before up or
// down, but NoIPv6Address after it: send that ahead in a message of its own.
func (b *Batch) LinkSet(c LinkChange, opts ...Option) {
	b.begin("set", c, unix.RTM_SETLINK, 0, opts)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(c.Index)
	if c.Up != nil {
		msg.Change = unix.IFF_UP
		if *c.Up {
			msg.Flags = unix.IFF_UP
		}
	}
	b.body(msg.Serialize())
	name := c.Rename
	if c.Index == 0 {
		name = c.Name
	}
	if name != "" {
		b.str(unix.IFLA_IFNAME, name)
	}
	if c.MTU != 0 {
		b.u32(unix.IFLA_MTU, uint32(c.MTU))
	}
	if c.MAC != nil {
		b.attr(unix.IFLA_ADDRESS, c.MAC[:])
	}
	if c.Alias != nil {
		b.attr(unix.IFLA_IFALIAS, []byte(*c.Alias))
	}
	if c.Group != nil {
		b.u32(unix.IFLA_GROUP, *c.Group)
	}
	if c.Master != nil {
		b.u32(unix.IFLA_MASTER, uint32(*c.Master))
	}
	if c.NoIPv6Address {
		spec := b.nest(unix.IFLA_AF_SPEC)
		inet6 := b.nest(unix.AF_INET6)
		b.u8(inet6AddrGenMode, 1) // IN6_ADDR_GEN_MODE_NONE
		b.endNest(inet6)
		b.endNest(spec)
	}
	b.end()
}

// LinkMove takes an interface to another namespace and makes it a port there,
// up, in one message. Its number there is chosen by the caller.
type LinkMove struct {
	Index  int // where it is
	Name   string
	ToNS   int // descriptor of the namespace
	To     Link
	Master int // index of a bridge there; 0: none
	Alias  string
}

func (m LinkMove) String() string { return m.Name }

// LinkMove moves an interface. The kernel takes it down, forgets its addresses,
// disciplines and master, and brings it up when the rest of the message has
// been done, all without giving the lock of its network configuration away.
func (b *Batch) LinkMove(m LinkMove, opts ...Option) {
	b.begin("move", m, unix.RTM_SETLINK, 0, opts)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(m.Index)
	msg.Flags, msg.Change = unix.IFF_UP, unix.IFF_UP
	b.body(msg.Serialize())
	b.u32(unix.IFLA_NET_NS_FD, uint32(m.ToNS))
	b.u32(iflaNewIfindex, uint32(m.To.Index))
	b.str(unix.IFLA_IFNAME, m.To.Name)
	b.attr(unix.IFLA_ADDRESS, m.To.MAC[:])
	b.attr(unix.IFLA_IFALIAS, []byte(m.Alias))
	if m.Master != 0 {
		b.u32(unix.IFLA_MASTER, uint32(m.Master))
	}
	b.end()
}

// iflaNewIfindex is IFLA_NEW_IFINDEX, which package unix lacks.
const iflaNewIfindex = 49

// LinkDel removes an interface by index, or by name where index is 0. The
// other end of a veth goes with it.
func (b *Batch) LinkDel(index int, name string, opts ...Option) {
	b.begin("delete", LinkChange{Index: index, Name: name}, unix.RTM_DELLINK, 0, opts)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	b.body(msg.Serialize())
	if index == 0 {
		b.str(unix.IFLA_IFNAME, name)
	}
	b.end()
}

// GroupDel removes all interfaces of a group. One wait for the kernel's RCU
// then serves all of them, where single deletes wait once each (18.7 ms).
func (b *Batch) GroupDel(group uint32, opts ...Option) {
	b.begin("delete", fmt.Sprintf("interfaces of group %d", group), unix.RTM_DELLINK, 0, opts)
	b.body(nl.NewIfInfomsg(unix.AF_UNSPEC).Serialize())
	b.u32(unix.IFLA_GROUP, group)
	b.end()
}

// Address is an address on an interface.
type Address struct {
	Index  int // interface
	Prefix netip.Prefix
	Dev    string // its name, for messages
}

func (a Address) String() string { return fmt.Sprintf("address %v on %s", a.Prefix, a.Dev) }

// Addr adds an address; adding it twice is refused (EEXIST).
func (b *Batch) Addr(a Address, opts ...Option) {
	b.address("add", unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, a, opts)
}

// AddrDel removes an address.
func (b *Batch) AddrDel(a Address, opts ...Option) {
	b.address("delete", unix.RTM_DELADDR, 0, a, opts)
}

func (b *Batch) address(verb string, typ, flags int, a Address, opts []Option) {
	b.begin(verb, a, typ, flags, opts)
	family := familyOf(a.Prefix.Addr())
	msg := nl.NewIfAddrmsg(int(family))
	msg.Prefixlen = uint8(a.Prefix.Bits())
	msg.Index = uint32(a.Index)
	b.body(msg.Serialize())
	b.addr(unix.IFA_LOCAL, a.Prefix.Addr())
	b.addr(unix.IFA_ADDRESS, a.Prefix.Addr())
	b.end()
}

func familyOf(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// inet6AddrGenMode is IFLA_INET6_ADDR_GEN_MODE, which package nl lacks.
const inet6AddrGenMode = 8
