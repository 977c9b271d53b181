package rtnl

import (
	"encoding/binary"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Hooks of a clsact discipline: where the filters of an interface hang.
const (
	Ingress Handle = 0xFFFFFFF2 // what comes in, before anybody sees it
	Egress  Handle = 0xFFFFFFF3 // what leaves, before the queueing discipline
)

const (
	clsactParent Handle = 0xFFFFFFF1 // TC_H_CLSACT
	clsactHandle Handle = 0xFFFF0000
)

// EtherTypes that filters ask for.
const (
	EtherAll  uint16 = unix.ETH_P_ALL
	EtherMPLS uint16 = unix.ETH_P_MPLS_UC
	EtherTEB  uint16 = unix.ETH_P_TEB // an Ethernet frame, under a label
)

// Clsact gives an interface the hooks Ingress and Egress; having them already
// is refused (EEXIST). With a block, Ingress is what the shared block says,
// and filters can be put into the block only.
func (b *Batch) Clsact(devIndex int, dev string, block uint32, opts ...Option) {
	b.tc("add", "clsact", unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_EXCL, clsactOf(devIndex, dev), opts)
	if block != 0 {
		b.u32(nl.TCA_INGRESS_BLOCK, block)
	}
	b.end()
}

// ClsactDel takes the hooks away, and their filters; a block goes with its
// last interface.
func (b *Batch) ClsactDel(devIndex int, dev string, opts ...Option) {
	b.tc("delete", "clsact", unix.RTM_DELQDISC, 0, clsactOf(devIndex, dev), opts)
	b.end()
}

func clsactOf(devIndex int, dev string) Qdisc {
	return Qdisc{DevIndex: devIndex, Dev: dev, Parent: clsactParent, Handle: clsactHandle}
}

// Filter looks at packets and does something to those that match. It hangs in
// a shared block, or on an interface at a hook or at a discipline with classes.
type Filter struct {
	Block    uint32 // 0: on the interface
	DevIndex int
	Dev      string // the interface's name, for messages
	Parent   Handle // Ingress, Egress or a discipline; of no account in a block
	Prio     uint16 // lower ones are asked first; all filters of one have one protocol and kind
	Handle   uint32 // which one of its priority; 0: the kernel numbers it
	Protocol uint16 // EtherType; 0: EtherAll
	// Flower is what packets must have; nil: all match (kind matchall).
	Flower *Flower
	// Actions are carried out in order.
	Actions []Action
	// Class is where the packet queues, at a discipline with classes.
	Class Handle
}

// Flower is what a filter of that kind compares. Zero fields match anything.
type Flower struct {
	Label  uint32 // MPLS label
	Depth  int    // of the label: 1 is the top of the stack, and so is 0
	Bottom bool   // the label is the last of the stack
	Dst    [6]byte
	Src    [6]byte
}

func (f Filter) String() string {
	s := "filter"
	if f.Handle != 0 {
		s += fmt.Sprintf(" %d", f.Handle)
	}
	s += fmt.Sprintf(" prio %d", f.Prio)
	if f.Flower != nil && f.Flower.Label != 0 {
		s += fmt.Sprintf(" label %d", f.Flower.Label)
	}
	if f.Block != 0 {
		return s + fmt.Sprintf(" of block %d", f.Block)
	}
	return s + fmt.Sprintf(" at %v of%s", f.Parent, device(f.Dev, f.DevIndex)[len(" dev"):])
}

// Filter adds a filter. With a Handle it takes the place of the one that has
// it, except that the kernel refuses to replace a matchall (EEXIST): delete it
// first. Hook, discipline or block must be there.
func (b *Batch) Filter(f Filter, opts ...Option) {
	b.filter("set", unix.RTM_NEWTFILTER, unix.NLM_F_CREATE, f, opts)
	at := b.nest(nl.TCA_OPTIONS | unix.NLA_F_NESTED)
	if f.Flower == nil {
		b.classAndActions(nl.TCA_MATCHALL_CLASSID, nl.TCA_MATCHALL_ACT, f)
	} else {
		b.classAndActions(nl.TCA_FLOWER_CLASSID, nl.TCA_FLOWER_ACT, f)
		b.flower(f.Flower, f.Protocol)
	}
	b.endNest(at)
	b.end()
}

// FilterDel removes the filter with that Handle; without a Handle all of the
// priority, and without a priority all of the hook. It is refused (EINVAL),
// and IgnoreMissing does not help, if the hook or block is not there.
func (b *Batch) FilterDel(f Filter, opts ...Option) {
	b.filter("delete", unix.RTM_DELTFILTER, 0, f, opts)
	b.end()
}

func (b *Batch) filter(verb string, typ, flags int, f Filter, opts []Option) {
	b.begin(verb, f, typ, flags, opts)
	b.body(f.tcmsg())
	switch {
	case verb == "delete" && f.Handle == 0: // whatever kind they are
	case f.Flower == nil:
		b.str(nl.TCA_KIND, "matchall")
	default:
		b.str(nl.TCA_KIND, "flower")
	}
}

// blockIndex in the place of an interface says that the parent is the number
// of a shared block (TCM_IFINDEX_MAGIC_BLOCK).
const blockIndex = -1

func (f Filter) tcmsg() []byte {
	msg := nl.TcMsg{Family: unix.AF_UNSPEC, Ifindex: int32(f.DevIndex), Handle: f.Handle, Parent: uint32(f.Parent)}
	if f.Block != 0 {
		msg.Ifindex, msg.Parent = blockIndex, f.Block
	}
	if f.Prio != 0 {
		msg.Info = uint32(f.Prio)<<16 | uint32(nl.Swap16(f.protocol()))
	}
	return msg.Serialize()
}

func (f Filter) protocol() uint16 {
	if f.Protocol == 0 {
		return EtherAll
	}
	return f.Protocol
}

func (b *Batch) classAndActions(class, actions int, f Filter) {
	if f.Class != 0 {
		b.u32(class, uint32(f.Class))
	}
	if len(f.Actions) == 0 {
		return
	}
	at := b.nest(actions | unix.NLA_F_NESTED)
	for i, a := range f.Actions {
		one := b.nest((i + 1) | unix.NLA_F_NESTED)
		b.str(nl.TCA_ACT_KIND, a.kind())
		options := b.nest(nl.TCA_ACT_OPTIONS | unix.NLA_F_NESTED)
		a.put(b)
		b.endNest(options)
		b.endNest(one)
	}
	b.endNest(at)
}

// Attributes of flower that package nl lacks (linux/pkt_cls.h).
const (
	flowerMPLSOpts = 99 // TCA_FLOWER_KEY_MPLS_OPTS: holds
	mplsLSE        = 1  // TCA_FLOWER_KEY_MPLS_OPTS_LSE: holds
	lseDepth       = 1
	lseBottom      = 3
	lseLabel       = 5
)

func (b *Batch) flower(m *Flower, protocol uint16) {
	if protocol != 0 && protocol != EtherAll {
		b.attr(nl.TCA_FLOWER_KEY_ETH_TYPE, binary.BigEndian.AppendUint16(nil, protocol))
	}
	exact := []byte{0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}
	if m.Dst != ([6]byte{}) {
		b.attr(nl.TCA_FLOWER_KEY_ETH_DST, m.Dst[:])
		b.attr(nl.TCA_FLOWER_KEY_ETH_DST_MASK, exact)
	}
	if m.Src != ([6]byte{}) {
		b.attr(nl.TCA_FLOWER_KEY_ETH_SRC, m.Src[:])
		b.attr(nl.TCA_FLOWER_KEY_ETH_SRC_MASK, exact)
	}
	if m.Label == 0 {
		return
	}
	opts := b.nest(flowerMPLSOpts | unix.NLA_F_NESTED)
	lse := b.nest(mplsLSE | unix.NLA_F_NESTED)
	b.u8(lseDepth, uint8(max(m.Depth, 1)))
	b.u32(lseLabel, m.Label)
	if m.Bottom {
		b.u8(lseBottom, 1)
	}
	b.endNest(lse)
	b.endNest(opts)
}

// Filters reads the filters of an interface at a hook or discipline or, where
// block is not 0, of a block. Actions of kinds that this package does not make
// are left out. A hook or block that is not there has none.
func (c *Conn) Filters(block uint32, devIndex int, parent Handle) (out []Filter, err error) {
	at := Filter{Block: block, DevIndex: devIndex, Parent: parent}
	err = c.dump("filters", unix.RTM_GETTFILTER, at.tcmsg(), func() { out = out[:0] }, func(p []byte) {
		if f, ok := parseFilter(p); ok {
			f.Block, f.DevIndex, f.Parent = block, devIndex, parent
			out = append(out, f)
		}
	})
	return out, err
}

// parseFilter takes an answer apart. The kernel sends one more for each
// priority, without a handle and without options.
func parseFilter(p []byte) (f Filter, ok bool) {
	if len(p) < nl.SizeofTcMsg {
		return f, false
	}
	msg := nl.DeserializeTcMsg(p)
	f = Filter{Handle: msg.Handle, Prio: uint16(msg.Info >> 16), Protocol: nl.Swap16(uint16(msg.Info))}
	kind := ""
	attrs(p, nl.SizeofTcMsg, func(typ uint16, v []byte) {
		switch {
		case typ == nl.TCA_KIND:
			kind = cstring(v)
		case typ == nl.TCA_OPTIONS && kind == "flower":
			ok = true
			f.Flower = &Flower{}
			attrs(v, 0, f.setFlower)
		case typ == nl.TCA_OPTIONS && kind == "matchall":
			ok = true
			attrs(v, 0, func(typ uint16, v []byte) {
				switch typ {
				case nl.TCA_MATCHALL_CLASSID:
					f.Class = Handle(number(v))
				case nl.TCA_MATCHALL_ACT:
					f.Actions = parseActions(v)
				}
			})
		}
	})
	return f, ok && f.Handle != 0
}

func (f *Filter) setFlower(typ uint16, v []byte) {
	m := f.Flower
	switch typ {
	case nl.TCA_FLOWER_CLASSID:
		f.Class = Handle(number(v))
	case nl.TCA_FLOWER_ACT:
		f.Actions = parseActions(v)
	case nl.TCA_FLOWER_KEY_ETH_DST:
		copy(m.Dst[:], v)
	case nl.TCA_FLOWER_KEY_ETH_SRC:
		copy(m.Src[:], v)
	case nl.TCA_FLOWER_KEY_MPLS_LABEL: // the older form, for the top of the stack
		m.Label, m.Depth = uint32(number(v)), 1
	case nl.TCA_FLOWER_KEY_MPLS_BOS:
		m.Bottom = number(v) == 1
	case flowerMPLSOpts:
		attrs(v, 0, func(typ uint16, v []byte) {
			if typ == mplsLSE {
				attrs(v, 0, m.setLSE)
			}
		})
	}
}

func (m *Flower) setLSE(typ uint16, v []byte) {
	switch typ {
	case lseDepth:
		m.Depth = number(v)
	case lseLabel:
		m.Label = uint32(number(v))
	case lseBottom:
		m.Bottom = number(v) == 1
	}
}
