// Package audit proves from the outside that the VPCs of a running lab are
// apart: it asks machines, not configurations.
//
// Division of labour:
//
//   - ground.go: what the plan says: who may reach whom, whose a label, an
//     interface or an address is, how long the longest way takes;
//   - audit.go: [Run], the three questions in turn: every pair by IP, every
//     pair below IP, hostile customers, and every pair by IP once more;
//   - source.go, probe.go: who attacks, and with what; wire.go: the bytes;
//   - assault.go: attacks sent in waves, and where each of them was seen;
//   - trace.go: each leak done again with taps on every interface, and where
//     it crossed from one VPC to another;
//   - report.go, text.go: what was found; handler.go: the same over HTTP.
//
// What is a leak: a packet or frame that was sent in one VPC and is seen at a
// machine or CE of another VPC, at the PE's end of another VPC's circuit, at a
// router that it was delivered to, or on a backbone link without the label of
// its own VPC. It is known by a mark that it carries, in whatever wrapping,
// quoted in an error message too.
//
// What is none: whatever stays in the sender's own VPC. On a LAN, and in a
// VPLS, which is one, anybody can send with a neighbour's address, and what
// customers do to themselves is their own affair; an l3vpn routes by
// destination and asks nobody for the source. So a spoofed packet that
// arrives in the sender's VPC is counted and is no leak. The same goes for the
// PE's address on the VPC's own circuit, which is the VPC's gateway, and for
// MPLS frames inside a VPLS, which carries every EtherType.
//
// An answer that nothing arrived proves something only if the question got
// that far: allowed pairs are asked first, the frames of an attack are counted
// as they enter the PE, and those that a link has lost are sent again.
package audit
