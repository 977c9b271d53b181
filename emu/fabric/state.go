package fabric

import (
	"net/netip"
	"time"

	"github.com/vpclab/vpclab/topo"
)

// State is what the kernel should hold for one lab, as plain comparable
// values: two States are compared object by object (Diff) and the difference
// is applied (Fabric.Apply). It says nothing of VPN routes: those belong to
// the BGP speakers, which program their own namespace.
type State struct {
	Nodes map[string]Node // by node name
	Links map[string]Link // by topo.Link.Name()
}

// Node is one network namespace and what is in it, links apart.
type Node struct {
	Name    string
	Kind    topo.NodeKind
	Sysctls map[string]string // "net.ipv4.ip_forward" -> "1"; written once at creation and on change
	Bridges []Bridge
	VRFs    []VRF
	Lo      []netip.Prefix // addresses on lo besides 127.0.0.1
	Routes  []Route
	MPLS    []MPLSRoute
	Rules   []Rule
}

// Bridge is a Linux bridge: multicast snooping and STP off.
type Bridge struct {
	Name   string
	MAC    topo.MAC
	Addr   netip.Prefix  // zero: none
	Ageing time.Duration // of learned MACs; 0: the kernel's 300 s
}

// VRF is a Linux VRF device bound to a routing table, which ends in an
// unreachable default route so that a lookup never falls through to main.
type VRF struct {
	Name  string
	Table int
}

// Link is a veth pair, created with both ends in their namespaces.
type Link struct {
	A, B End
	MTU  int
	Down bool // both ends are there and down
	// Seat says how B is made, up or down, where that is not for the fabric to
	// say afterwards; see topo.Link.
	Seat topo.Seat

	dark downEnds // ends that are down by a wound, see wound.go
	deaf downEnds // likewise those that lose what arrives
}

// End is one end of a Link with all that hangs on it.
type End struct {
	Node, Ifname string
	MAC          topo.MAC
	Addr         netip.Prefix
	Master       string // bridge or VRF of the node, or ""
	// Closed makes the end a port by which its bridge takes and sends nothing.
	// That it is so is for the fabric only to begin with: somebody opens it.
	Closed    bool
	MPLSInput bool            // net.mpls.conf.<if>.input
	Egress    topo.Impairment // what happens to packets that leave by this end
	// Block is the shared filter block of what comes in by this end (a clsact
	// discipline with that ingress block); 0: none. What is in the block is
	// the business of the speaker that programs pseudowires.
	Block uint32
	// Classes are reservations on this end's line; without a rate there is no
	// line and nothing to reserve.
	Classes []Class
}

// Class sets bandwidth aside for packets with a label at a depth of their
// stack (1: the top).
type Class struct {
	Label uint32
	Depth int
	Rate  topo.Rate
}

// Route is an IP route, optionally with an MPLS label stack (outermost
// first).
type Route struct {
	Table  int // 0: main
	Dst    netip.Prefix
	Via    netip.Addr
	Dev    string
	Src    netip.Addr
	Labels Stack
	Metric int
	// Unreachable makes it a reject route; Via and Dev are then empty.
	Unreachable bool
	// Local has the node answer for all of Dst itself, as if each address were
	// its own; Dev is "lo".
	Local bool
}

// MPLSRoute is an entry of the incoming label map.
type MPLSRoute struct {
	In             uint32
	Out            Stack      // swap to this stack; empty: pop
	Via            netip.Addr // next hop; zero with Dev alone: pop and look up there (a VRF device)
	Dev            string
	NoTTLPropagate bool // egress: do not copy the label TTL into the IP header (pipe model)
}

// Stack is a label stack, outermost first; 0 ends it. An array, so that what
// holds it is comparable.
type Stack [8]uint32

// Rule is an `ip rule`; Del removes one that the kernel makes by itself. Zero
// From, To and Iif match everything.
type Rule struct {
	Pref     int
	Table    int
	From, To netip.Prefix
	Iif      string
	Del      bool
}
