// Package rtnl speaks route netlink in batches: many messages in one sendmsg,
// one acknowledgement for all of them, and errors that name the object.
//
// Division of labour: batch.go encodes messages one behind the other; link.go,
// bridge.go, route.go, nexthop.go, mpls.go, rule.go, qdisc.go, plug.go, filter.go and
// action.go say what each kind of message holds; conn.go sends a Batch and matches the
// answers, errors.go is what a refusal looks like, dump.go reads tables back
// as they are in the kernel; watch.go waits for one change of an interface,
// notify.go tells of all.
//
// It is for those who set many things at once: emu/fabric and the BGP
// speakers. For reading at leisure vishvananda/netlink, on whose message types
// this package rests, is the better tool.
package rtnl

// Protocol numbers (rtnetlink(7), rtm_protocol and FRA_PROTOCOL) say who made
// a route or a rule. They are the owner tags of objects that have no name.
const (
	// ProtocolFabric marks what emu/fabric made. The number is in nobody's
	// list (iproute2 rt_protos).
	ProtocolFabric = 76
	// ProtocolBGP marks VPN routes that a BGP speaker learned: the number that
	// the field uses for BGP daemons (RTPROT_BGP), shown as `proto bgp`.
	ProtocolBGP = 186
)

// Link groups (`ip link show group N`) say who made an interface.
const (
	// GroupFabric marks those of emu/fabric: "vpl".
	GroupFabric = 0x76706c
	// GroupDoomed gathers interfaces that are to be deleted together.
	GroupDoomed = GroupFabric + 1
	// GroupSpeaker marks pseudowires, which belong to a router's BGP speaker.
	GroupSpeaker = GroupFabric + 2
	// GroupPlug marks the interfaces that hold what a VM sends (package plug).
	GroupPlug = GroupFabric + 3
)

// FirstSpeakerIndex is where speakers begin to number their interfaces, so
// that they never take an index that emu/fabric chooses.
const FirstSpeakerIndex = 1 << 20

// FirstPlugIndex is where those of package plug begin: that of a VM's interface
// with index i is FirstPlugIndex + i.
const FirstPlugIndex = 1 << 21
