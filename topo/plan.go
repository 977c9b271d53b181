package topo

import (
	"fmt"
	"net"
	"net/netip"
)

// Plan is a lab with nothing left to decide: every node, link, address, MAC,
// label, RD and RT. The same Scenario and seed give the same Plan. Plans are
// values: Restrict and Detach return changed copies.
type Plan struct {
	Lab        string
	Seed       uint64
	ASN        uint32
	CoreMTU    int
	Nodes      []Node // routers first, then sites, in order of the file
	Links      []Link
	VPCs       []VPCPlan
	LSPs       []LSP
	CoreRoutes []CoreRoute // plain IP routes of the backbone's own addresses
	TopLabel   uint32      // highest label any router was given; 0: none
}

// NodeKind says what a node is in the field's words.
type NodeKind string

const (
	KindPE      NodeKind = "pe"      // provider edge router
	KindP       NodeKind = "p"       // provider core router: labels only
	KindRR      NodeKind = "rr"      // route reflector: the VPN controller
	KindCE      NodeKind = "ce"      // customer edge router, one a VPC and site
	KindHost    NodeKind = "host"    // hypervisor host of a cloud
	KindMachine NodeKind = "machine" // enterprise machine or VM
	KindPlain   NodeKind = "node"    // bare node
)

// Node becomes one network namespace, vpclab-<lab>-<name>.
type Node struct {
	Name     string
	Kind     NodeKind
	Index    int        // from 1 within its kind (routers: within pe+p+rr, as in labels)
	Loopback netip.Addr // routers only
	VPC      string     // ce, machine
	Site     string     // ce, machine, host
	Host     string     // machine: hypervisor host it runs on, if any
	Forward  bool       // ip_forward
	// Bridges the node has; ports name their bridge in Endpoint.Bridge.
	Bridges []Bridge
	// Routes are the static routes of this node's main table (default routes
	// of machines and CEs; routes of plain nodes).
	Routes []Route
	// Addr is the address that others reach this node by, for machines.
	Addr netip.Addr
}

// Bridge is a LAN segment inside a node (a CE's LAN, a host's VPC segment).
type Bridge struct {
	Name string
	Addr netip.Prefix // gateway address with prefix length, or zero
	MAC  MAC
}

// Route is a static IP route.
type Route struct {
	Dst netip.Prefix // 0.0.0.0/0 is the default route
	Via netip.Addr   // zero: on link
	Dev string       // zero: resolved from Via
}

// Link is a pair of veth ends.
type Link struct {
	A, B Endpoint
	// AtoB and BtoA hold what each direction does; see Impairment.
	AtoB, BtoA Impairment
	MTU        int
	Core       bool   // backbone link: MPLS is on at both ends
	Cost       int    // for shortest paths; core links only
	VPC, Site  string // set for links that belong to an attachment's LAN or circuit
	AC         bool   // attachment circuit: A is the PE, B the CE
}

// Name is "a:ifname--b:ifname", the name capture and inspect use.
func (l Link) Name() string { return l.A.Node + ":" + l.A.Ifname + "--" + l.B.Node + ":" + l.B.Ifname }

// Endpoint is one end of a Link.
type Endpoint struct {
	Node   string
	Ifname string // at most 15 bytes
	MAC    MAC
	Addr   netip.Prefix // host address with prefix length; zero: none
	Bridge string       // enslaved to this bridge of the node
	VRF    string       // enslaved to this VRF of the node (PE side of an attachment circuit)
}

// MAC is a 6-byte Ethernet address; always 02:… so that the kernel's MPLS
// multipath hash cannot mistake a pseudowire payload for IP.
type MAC [6]byte

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// MarshalText and UnmarshalText are the form with colons, in JSON too.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

func (m *MAC) UnmarshalText(b []byte) error {
	hw, err := net.ParseMAC(string(b))
	if err != nil || len(hw) != len(m) {
		return fmt.Errorf("%q is not a 6-byte MAC address", b)
	}
	copy(m[:], hw)
	return nil
}

// VPCPlan is one VPN with everything numbered.
type VPCPlan struct {
	Name        string
	Index       int // from 1
	Service     string
	VRFs        []VRF // one a PE that has a site of this VPC
	Attachments []Attachment
}

// VRF is a VPC's routing table at one PE.
type VRF struct {
	PE    string
	Name  string // device name vrf-<vpc>
	Table int    // kernel table 1000+VPC index
	RD    string // "<asn>:<1000*vpc+pe>": type 0 (RFC 4364, section 4.2)
	Label uint32 // VPN label of this PE for this VPC: pop and look up in the VRF
}

// Attachment is a site's membership in a VPC: CE, LAN, circuit and PE.
type Attachment struct {
	VPC, Site string
	Index     int    // site's index from 1, used in numbers
	PE, CE    string // node names
	VRF       string
	PEIf      string       // interface at the PE
	PEAddr    netip.Prefix // 169.254.x.y/31, PE end
	CEAddr    netip.Addr   // CE end: next hop of the LAN
	Subnet    netip.Prefix // the LAN
	Machines  []string     // node names
	// ExportRT is put on the site's routes by its PE; ImportRT is what its
	// VRF imports. Which ExportRT becomes which ImportRTs is decided at the
	// route reflector alone: that is the central policy.
	ExportRT, ImportRT string
	// Joined false: the LAN is there but nothing is provisioned at the PE.
	Joined bool
}

// LSP is the label-switched tree towards one egress PE, by shortest paths.
type LSP struct {
	Egress string // PE node
	FEC    netip.Prefix
	Hops   []LSPHop // one a router other than the egress
}

// LSPHop is what one router does for a FEC.
type LSPHop struct {
	Node    string
	InLabel uint32 // label this router gave to upstream; 0 at a router nobody sends labelled packets through
	// OutLabel is the next router's label, or 0 where this router is the
	// penultimate hop and pops (PHP).
	OutLabel uint32
	Next     string // the next router
	Via      netip.Addr
	Dev      string
}

// CoreRoute is a plain IP route to a router's loopback (what an IGP gives).
type CoreRoute struct {
	Node string
	Dst  netip.Prefix
	Via  netip.Addr
	Dev  string
	Src  netip.Addr // the node's own loopback
}
