package rtnl

import (
	"encoding/binary"

	"github.com/vishvananda/netlink/nl"
)

// Action is one step of what a filter does to a packet; the next one gets the
// packet as this one left it.
type Action interface {
	kind() string
	put(b *Batch)
}

type (
	// PushLabel puts a label before the whole frame, Ethernet header included,
	// as the payload of a pseudowire (RFC 4448 without control word).
	PushLabel struct {
		Label uint32
		TTL   uint8 // 0: 255
	}
	// PopLabel takes the top label away; what is below has the EtherType Protocol.
	PopLabel struct{ Protocol uint16 }
	// PushEth puts an Ethernet header before the packet.
	PushEth struct{ Dst, Src [6]byte }
	// PopEth takes the Ethernet header away.
	PopEth struct{}
	// ToHost marks the packet as addressed to this machine: the kernel's MPLS
	// takes no other.
	ToHost struct{}
	// Redirect ends the filter: the packet leaves by another interface or, with
	// Ingress, comes in by it.
	Redirect struct {
		DevIndex int
		Ingress  bool
	}
)

// What comes after an action (linux/pkt_cls.h).
const (
	actPipe   = 3 // TC_ACT_PIPE: the next action
	actStolen = 4 // TC_ACT_STOLEN: nothing, the packet is somewhere else
)

// Attributes and values of linux/tc_act/*.h that package nl lacks.
const (
	mplsParms    = 2 // TCA_MPLS_PARMS
	mplsProto    = 4 // TCA_MPLS_PROTO
	mplsLabel    = 5 // TCA_MPLS_LABEL
	mplsTTL      = 7 // TCA_MPLS_TTL
	mplsPop      = 1 // TCA_MPLS_ACT_POP
	mplsMACPush  = 5 // TCA_MPLS_ACT_MAC_PUSH
	vlanPopEth   = 4 // TCA_VLAN_ACT_POP_ETH
	vlanPushEth  = 5 // TCA_VLAN_ACT_PUSH_ETH
	egressRedir  = 1 // TCA_EGRESS_REDIR
	ingressRedir = 3 // TCA_INGRESS_REDIR
	defaultTTL   = 255
)

// sizeofGen is the head that all actions' parameters have (tc_gen): index,
// capabilities, verdict, two reference counts.
const sizeofGen = 20

// parms is that head, and numbers of the action's own behind it.
func parms(verdict uint32, own ...uint32) []byte {
	p := make([]byte, sizeofGen, sizeofGen+8)
	binary.NativeEndian.PutUint32(p[8:], verdict)
	for _, n := range own {
		p = binary.NativeEndian.AppendUint32(p, n)
	}
	return p
}

// own is number i behind the head; 0 if it is not there.
func own(p []byte, i int) uint32 {
	at := sizeofGen + 4*i
	if len(p) < at+4 {
		return 0
	}
	return binary.NativeEndian.Uint32(p[at:])
}

func (PushLabel) kind() string { return "mpls" }
func (PopLabel) kind() string  { return "mpls" }
func (PushEth) kind() string   { return "vlan" }
func (PopEth) kind() string    { return "vlan" }
func (ToHost) kind() string    { return "skbedit" }
func (Redirect) kind() string  { return "mirred" }

func (a PushLabel) put(b *Batch) {
	ttl := a.TTL
	if ttl == 0 {
		ttl = defaultTTL
	}
	b.attr(mplsParms, parms(actPipe, mplsMACPush))
	b.u32(mplsLabel, a.Label)
	b.u8(mplsTTL, ttl)
}

func (a PopLabel) put(b *Batch) {
	b.attr(mplsParms, parms(actPipe, mplsPop))
	b.attr(mplsProto, binary.BigEndian.AppendUint16(nil, a.Protocol))
}

func (a PushEth) put(b *Batch) {
	b.attr(nl.TCA_VLAN_PARMS, parms(actPipe, vlanPushEth))
	b.attr(nl.TCA_VLAN_PUSH_ETH_DST, a.Dst[:])
	b.attr(nl.TCA_VLAN_PUSH_ETH_SRC, a.Src[:])
}

func (PopEth) put(b *Batch) { b.attr(nl.TCA_VLAN_PARMS, parms(actPipe, vlanPopEth)) }

func (ToHost) put(b *Batch) {
	b.attr(nl.TCA_SKBEDIT_PARMS, parms(actPipe))
	b.attr(nl.TCA_SKBEDIT_PTYPE, []byte{0, 0}) // PACKET_HOST
}

func (a Redirect) put(b *Batch) {
	way := uint32(egressRedir)
	if a.Ingress {
		way = ingressRedir
	}
	b.attr(nl.TCA_MIRRED_PARMS, parms(actStolen, way, uint32(a.DevIndex)))
}

// parseActions reads the actions of a filter.
func parseActions(p []byte) (out []Action) {
	attrs(p, 0, func(_ uint16, v []byte) {
		kind := ""
		attrs(v, 0, func(typ uint16, v []byte) {
			switch typ {
			case nl.TCA_ACT_KIND:
				kind = cstring(v)
			case nl.TCA_ACT_OPTIONS:
				if a := parseAction(kind, v); a != nil {
					out = append(out, a)
				}
			}
		})
	})
	return out
}

func parseAction(kind string, options []byte) Action {
	by := map[uint16][]byte{}
	attrs(options, 0, func(typ uint16, v []byte) { by[typ] = v })
	switch kind {
	case "mpls":
		switch own(by[mplsParms], 0) {
		case mplsMACPush:
			return PushLabel{Label: uint32(number(by[mplsLabel])), TTL: uint8(number(by[mplsTTL]))}
		case mplsPop:
			if v := by[mplsProto]; len(v) == 2 {
				return PopLabel{Protocol: binary.BigEndian.Uint16(v)}
			}
		}
	case "vlan":
		switch own(by[nl.TCA_VLAN_PARMS], 0) {
		case vlanPushEth:
			var a PushEth
			copy(a.Dst[:], by[nl.TCA_VLAN_PUSH_ETH_DST])
			copy(a.Src[:], by[nl.TCA_VLAN_PUSH_ETH_SRC])
			return a
		case vlanPopEth:
			return PopEth{}
		}
	case "skbedit":
		if v, ok := by[nl.TCA_SKBEDIT_PTYPE]; ok && number(v) == 0 {
			return ToHost{}
		}
	case "mirred":
		p := by[nl.TCA_MIRRED_PARMS]
		if way := own(p, 0); way == egressRedir || way == ingressRedir {
			return Redirect{DevIndex: int(own(p, 1)), Ingress: way == ingressRedir}
		}
	}
	return nil
}
