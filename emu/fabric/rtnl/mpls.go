package rtnl

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// MPLSRoute is an entry of the incoming label map: what happens to packets
// that arrive with label In on top.
type MPLSRoute struct {
	In  uint32
	Out []uint32 // labels that take its place, outermost first; none: pop
	// Via is the next hop. Without it the packet goes to the interface as an
	// IP packet: to a VRF device it is looked up there.
	Via      netip.Addr
	DevIndex int
	Dev      string // the device's name, for messages
	// NoTTLPropagate: do not copy the label's TTL into what is below it when
	// it is popped (pipe model, RFC 3443).
	NoTTLPropagate bool
	Protocol       uint8 // 0: ProtocolFabric
}

func (r MPLSRoute) String() string {
	s := fmt.Sprintf("label %d", r.In)
	if len(r.Out) > 0 {
		s += fmt.Sprintf(" as %v", r.Out)
	}
	if r.Via.IsValid() {
		s += fmt.Sprintf(" via %v", r.Via)
	}
	return s + device(r.Dev, r.DevIndex)
}

// Stack is the wire form of a label stack (RFC 3032): 20 bits of label, the
// bottom-of-stack bit on the last one, traffic class and TTL zero.
func Stack(labels []uint32) []byte {
	ints := make([]int, len(labels))
	for i, l := range labels {
		ints[i] = int(l)
	}
	return nl.EncodeMPLSStack(ints...)
}

// Attributes of MPLS routes that package nl does not name.
const rtaTTLPropagate = 26 // RTA_TTL_PROPAGATE

// MPLSReplace adds or replaces a label's entry. The label must be below
// net.mpls.platform_labels.
func (b *Batch) MPLSReplace(r MPLSRoute, opts ...Option) {
	b.begin("set", r, unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, opts)
	b.mplsBody(r)
	if len(r.Out) > 0 {
		b.attr(unix.RTA_NEWDST, Stack(r.Out))
	}
	if r.Via.IsValid() {
		via := binary.NativeEndian.AppendUint16(nil, uint16(familyOf(r.Via)))
		b.attr(unix.RTA_VIA, append(via, r.Via.AsSlice()...))
	}
	if r.DevIndex != 0 {
		b.u32(unix.RTA_OIF, uint32(r.DevIndex))
	}
	if r.NoTTLPropagate {
		b.u8(rtaTTLPropagate, 0)
	}
	b.end()
}

// MPLSDel removes a label's entry, whatever it says.
func (b *Batch) MPLSDel(in uint32, opts ...Option) {
	r := MPLSRoute{In: in}
	b.begin("delete", r, unix.RTM_DELROUTE, 0, opts)
	b.mplsBody(r)
	b.end()
}

func (b *Batch) mplsBody(r MPLSRoute) {
	msg := nl.NewRtMsg()
	msg.Family = unix.AF_MPLS
	msg.Dst_len = 20
	msg.Protocol = r.Protocol
	if r.Protocol == 0 {
		msg.Protocol = ProtocolFabric
	}
	b.body(msg.Serialize())
	b.attr(unix.RTA_DST, Stack([]uint32{r.In}))
}
