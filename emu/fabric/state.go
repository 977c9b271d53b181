package fabric

import (
	"net/netip"

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
	Name string
	MAC  topo.MAC
	Addr netip.Prefix // zero: none
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
}

// End is one end of a Link with all that hangs on it.
type End struct {
	Node, Ifname string
	MAC          topo.MAC
	Addr         netip.Prefix
	Master       string          // bridge or VRF of the node, or ""
	MPLSInput    bool            // net.mpls.conf.<if>.input
	Egress       topo.Impairment // what happens to packets that leave by this end
}

// Route is an IP route, optionally with an MPLS label stack (outermost
// first).
type Route struct {
	Table  int // 0: main
	Dst    netip.Prefix
	Via    netip.Addr
	Dev    string
	Src    netip.Addr
	Labels [4]uint32 // 0 ends the stack; an array so that Route is comparable
	Metric int
	// Unreachable makes it a reject route; Via and Dev are then empty.
	Unreachable bool
}

// MPLSRoute is an entry of the incoming label map.
type MPLSRoute struct {
	In             uint32
	Out            [4]uint32  // swap to this stack (outermost first); all 0: pop
	Via            netip.Addr // next hop; zero with Dev alone: pop and look up there (a VRF device)
	Dev            string
	NoTTLPropagate bool // egress: do not copy the label TTL into the IP header (pipe model)
}

// Rule is an `ip rule`; Del removes one that the kernel makes by itself.
type Rule struct {
	Pref  int
	Table int
	Del   bool
}
