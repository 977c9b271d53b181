package rtnl

import (
	"encoding/binary"
	"fmt"
	"math"
	"net"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Bridge is an Ethernet switch without multicast snooping and spanning tree.
type Bridge struct {
	Link
	Ageing time.Duration // of learned addresses; 0: the kernel's 300 s
}

// Bridge adds a bridge.
func (b *Batch) Bridge(br Bridge, opts ...Option) {
	b.newLink("bridge", br.Link, opts)
	b.linkInfo("bridge", func() {
		b.u32(nl.IFLA_BR_STP_STATE, 0)
		b.u8(nl.IFLA_BR_MCAST_SNOOPING, 0)
		// Without a default VLAN nothing of theirs is kept a port and a MAC.
		b.attr(nl.IFLA_BR_VLAN_DEFAULT_PVID, []byte{0, 0})
		if br.Ageing != 0 {
			b.u32(nl.IFLA_BR_AGEING_TIME, userTicks(br.Ageing))
		}
	})
	b.end()
}

// userTick is the unit of a bridge's times, whatever the kernel's own HZ
// (USER_HZ is 100 on all machines of ours).
const userTick = 10 * time.Millisecond

func userTicks(d time.Duration) uint32 {
	ticks := d / userTick
	if d%userTick != 0 {
		ticks++
	}
	return uint32(min(ticks, math.MaxInt32))
}

// BridgeChange changes a bridge, found by Index or, where that is 0, by Name.
type BridgeChange struct {
	Index  int
	Name   string
	Ageing time.Duration // of learned addresses; 0: stays as it is
	Flush  bool          // forget the learned addresses of all ports
}

func (c BridgeChange) String() string {
	return "bridge" + LinkChange{Index: c.Index, Name: c.Name}.of()
}

// BridgeSet changes a bridge.
func (b *Batch) BridgeSet(c BridgeChange, opts ...Option) {
	b.linkAgain(c, c.Index, c.Name, opts)
	b.linkInfo("bridge", func() {
		if c.Ageing != 0 {
			b.u32(nl.IFLA_BR_AGEING_TIME, userTicks(c.Ageing))
		}
		if c.Flush {
			b.attr(nl.IFLA_BR_FDB_FLUSH, nil)
		}
	})
	b.end()
}

// PortChange changes what an interface is to its bridge. It has to be a port
// already: the kernel does not take both in one message.
type PortChange struct {
	Index int
	Name  string
	// Isolated ports exchange nothing with each other: the split horizon of
	// pseudowires (RFC 4762, 4.4). Nil: stays as it is.
	Isolated *bool
	// Closed ports take nothing and are sent nothing, at once and whether there
	// is a carrier or not (the state of a port can only be set where there is
	// one): they learn nothing, nothing is flooded to them, and what comes in
	// has to be from an address known there. Together with Flush it holds for
	// addresses that were known before. Nil: stays as it is.
	Closed *bool
	Flush  bool // forget the addresses learned at this port
}

func (c PortChange) String() string {
	return "bridge port" + LinkChange{Index: c.Index, Name: c.Name}.of()
}

// PortSet changes a bridge port.
func (b *Batch) PortSet(c PortChange, opts ...Option) {
	b.linkAgain(c, c.Index, c.Name, opts)
	info := b.nest(unix.IFLA_LINKINFO)
	b.str(nl.IFLA_INFO_SLAVE_KIND, "bridge")
	data := b.nest(nl.IFLA_INFO_SLAVE_DATA)
	if c.Isolated != nil {
		b.u8(nl.IFLA_BRPORT_ISOLATED, bit(*c.Isolated))
	}
	if c.Closed != nil {
		for _, open := range []int{nl.IFLA_BRPORT_LEARNING, nl.IFLA_BRPORT_UNICAST_FLOOD, nl.IFLA_BRPORT_MCAST_FLOOD, nl.IFLA_BRPORT_BCAST_FLOOD} {
			b.u8(open, bit(!*c.Closed))
		}
		b.u8(nl.IFLA_BRPORT_LOCKED, bit(*c.Closed))
	}
	if c.Flush {
		b.attr(nl.IFLA_BRPORT_FLUSH, nil)
	}
	b.endNest(data)
	b.endNest(info)
	b.end()
}

// bit is a flag of an attribute.
func bit(on bool) uint8 {
	if on {
		return 1
	}
	return 0
}

// linkAgain opens RTM_NEWLINK for an interface that is there: the form in
// which the kernel takes changes of what is special to a kind.
func (b *Batch) linkAgain(what any, index int, name string, opts []Option) {
	b.begin("set", what, unix.RTM_NEWLINK, 0, opts)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	b.body(msg.Serialize())
	if index == 0 {
		b.str(unix.IFLA_IFNAME, name)
	}
}

// PortState is what a bridge port does (IEEE 802.1D).
type PortState uint8

// PortForwarding is the state of a port that takes part; without spanning tree
// a port has it from the moment it is up and has a carrier.
const PortForwarding PortState = 3

func (s PortState) String() string {
	names := [...]string{"disabled", "listening", "learning", "forwarding", "blocking"}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprint(uint8(s))
}

// FDBEntry is a MAC that a bridge learned or has as its own.
type FDBEntry struct {
	MAC    [6]byte
	Port   int // index of the port behind which it is
	Bridge int // index
	// Local: the bridge's or a port's own address; never ages.
	Local bool
}

// Learn puts e.MAC behind e.Port as if a frame had come from there: it ages,
// and moves when the machine speaks elsewhere.
func (b *Batch) Learn(e FDBEntry, opts ...Option) {
	b.begin("learn", e, unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, opts)
	msg := make([]byte, unix.SizeofNdMsg)
	msg[0] = unix.AF_BRIDGE
	binary.NativeEndian.PutUint32(msg[4:], uint32(e.Port))
	binary.NativeEndian.PutUint16(msg[8:], unix.NUD_REACHABLE)
	msg[10] = unix.NTF_MASTER
	b.body(msg)
	b.attr(unix.NDA_LLADDR, e.MAC[:])
	b.end()
}

func (e FDBEntry) String() string {
	return fmt.Sprintf("%v at port %d", net.HardwareAddr(e.MAC[:]), e.Port)
}

// FDB reads the forwarding tables of the namespace's bridges.
func (c *Conn) FDB() (out []FDBEntry, err error) {
	body := nl.NewIfInfomsg(unix.AF_BRIDGE).Serialize()
	err = c.dump("forwarding tables", unix.RTM_GETNEIGH, body, func() { out = out[:0] }, func(p []byte) {
		if e, ok := parseFDB(p); ok {
			out = append(out, e)
		}
	})
	return out, err
}

// parseFDB leaves out what is not a bridge's: the multicast addresses that
// each interface listens to.
func parseFDB(p []byte) (e FDBEntry, ok bool) {
	if len(p) < unix.SizeofNdMsg || p[0] != unix.AF_BRIDGE {
		return e, false
	}
	e.Port = number(p[4:8])
	e.Local = number(p[8:10])&unix.NUD_PERMANENT != 0
	attrs(p, unix.SizeofNdMsg, func(typ uint16, v []byte) {
		switch typ {
		case unix.NDA_LLADDR:
			copy(e.MAC[:], v)
		case unix.NDA_MASTER:
			e.Bridge = number(v)
		}
	})
	return e, e.Bridge != 0
}
