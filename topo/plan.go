package topo

import (
	"fmt"
	"net"
	"net/netip"
	"time"
)

// Plan is a lab with nothing left to decide: every node, link, address, MAC,
// label, RD and RT. The same Scenario and seed give the same Plan. Plans are
// values: Restrict and Detach return changed copies.
type Plan struct {
	Lab     string
	Seed    uint64
	ASN     uint32
	CoreMTU int
	Nodes   []Node // routers first, then sites, in order of the file
	Links   []Link
	Sites   []SitePlan
	VPCs    []VPCPlan
	LSPs    []LSP
	// Adjacencies are the labels of explicit paths; only those that some
	// reservation or bypass uses.
	Adjacencies []Adjacency
	// Bypasses are the prepared ways around failures, where Recovery has any;
	// Unprotected are the links that none leads around.
	Bypasses     []Bypass
	Unprotected  []Unprotected
	Reservations []ReservationPlan
	CoreRoutes   []CoreRoute // plain IP routes of the backbone's own addresses
	TopLabel     uint32      // highest label any router was given; 0: none
	// Recovery is what the backbone does by itself when something fails; nil:
	// nothing. Plans share it, and nobody changes it.
	Recovery *Recovery
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
	KindStandby NodeKind = "standby" // second seat of a VM: the same machine once more, of which one is active
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
	// Number of a machine in its LAN, from 1; see number.go.
	Number int
	// Routing says who distributes labels and VPN routes at a PE or P.
	Routing Routing
	// IPv6 gives a machine an IPv6 link-local address.
	IPv6 bool
	// Guest is what runs in a VM beside its namespace; nil: nothing. Plans share
	// it, and nobody changes it.
	Guest *Guest
	// Pair is set at a VM that has a second seat. Plans share it, likewise.
	Pair *Pair
}

// Guest is what a VM is: real bytes of memory and disk, and work on them.
type Guest struct {
	Kind         string // GuestProcess or GuestQEMU
	Image        string // a QEMU guest's disk image of the user's; "": none
	Kernel       string // and kernel
	Memory, Disk Size   // multiples of 4096; Disk 0: none
	Work         Size   // what the workload has of the memory
	Workload     string
	// Scale is by what the published workload of 1 GiB is made smaller, 1: not.
	Scale float64
	Seed  uint64 // of what it writes: its own, made of the lab's and its name
	Port  int    // where clients are served, TCP
	Trace string // workload trace: the file
}

// Routing is the control plane of a router.
type Routing string

const (
	// RoutingController: labels come from the testbed's controller, VPN
	// routes from a GoBGP speaker.
	RoutingController Routing = "" // "controller" in files
	// RoutingFRR: FRR's daemons. Where all PEs and Ps run them, labels come
	// from OSPF and LDP; in a mixed backbone they come from the controller.
	RoutingFRR Routing = "frr"
)

// SitePlan is a site as far as VPCs that come to it later need it.
type SitePlan struct {
	Name     string
	Index    int    // from 1, used in numbers
	Kind     string // cloud | enterprise
	PE       string
	BackupPE string   // the second PE that the site is homed to, or ""
	Hosts    []string // node names of a cloud's hypervisor hosts
	Machines int      // of each VPC that comes to the site by itself
	Access   Impairment
}

// Bridge is a LAN segment inside a node (a CE's LAN, a host's VPC segment).
type Bridge struct {
	Name string
	Addr netip.Prefix // gateway address with prefix length, or zero
	MAC  MAC
	// Ageing is how long a silent MAC is remembered; 0: the kernel's 300 s.
	Ageing time.Duration
	// Proxy has the node answer ARP requests for whatever it has a route to
	// elsewhere: a VM of an l3vpn that goes on at another site keeps its address,
	// takes its old neighbours for neighbours, and they it.
	Proxy bool
}

// Route is a static IP route.
type Route struct {
	Dst netip.Prefix // 0.0.0.0/0 is the default route
	Via netip.Addr   // zero: on link
	Dev string       // zero: resolved from Via
	// Metric is the kernel's: of routes to one destination the one with the
	// lowest is taken that can be.
	Metric int
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
	Closed     bool   // A is made so that its bridge has no use of it: a circuit to a second PE in a vpls
	// Failed takes both ends down: the link is there and carries nothing.
	// LSPs and reservations avoid it.
	Failed bool
	// Lost says that the controller has been told that the link does not carry:
	// paths avoid it like one that has failed, but it is left as it is, so that
	// it can be seen to carry again.
	Lost bool
	// Seat marks the port of a seat of a protected VM. Whoever makes the link
	// makes B, the host's end, up or down as it says, and never touches that
	// again: it is for the host's agent, which takes the port up where the VM is
	// active.
	Seat Seat
}

// Seat says how a seat's port is made.
type Seat uint8

const (
	NoSeat   Seat = iota // an ordinary port, up
	SeatUp               // the VM begins at this seat
	SeatDark             // the VM's other seat: nobody hears of it
)

// Name is "a:ifname--b:ifname", the name capture and inspect use.
func (l Link) Name() string { return l.A.Node + ":" + l.A.Ifname + "--" + l.B.Node + ":" + l.B.Ifname }

// Endpoint is one end of a Link.
type Endpoint struct {
	Node   string
	Ifname string // at most 15 bytes
	MAC    MAC
	Addr   netip.Prefix // host address with prefix length; zero: none
	Bridge string       // enslaved to this bridge of the node (a VSI at the PE side of a VPLS circuit)
	VRF    string       // enslaved to this VRF of the node (PE side of an attachment circuit)
}

// MAC is a 6-byte Ethernet address; always 02:… so that the kernel's MPLS
// multipath hash cannot mistake a pseudowire payload for IP.
type MAC [6]byte

// IsZero reports the MAC that stands for none.
func (m MAC) IsZero() bool { return m == MAC{} }

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

// Services of a VPC.
const (
	ServiceL3VPN = "l3vpn" // BGP/MPLS IP VPN (RFC 4364)
	ServiceVPLS  = "vpls"  // virtual private LAN service (RFC 4761)
)

// VPCPlan is one VPN with everything numbered.
type VPCPlan struct {
	Name        string
	Index       int          // from 1
	Service     string       // ServiceL3VPN | ServiceVPLS
	VRFs        []VRF        // l3vpn: one a PE that has a joined site of this VPC
	VSIs        []VSI        // vpls: likewise
	Subnet      netip.Prefix // vpls: the one subnet of all sites
	MTU         int          // of the VPC's LANs
	Ageing      time.Duration
	IPv6        bool
	Attachments []Attachment
	// Provider marks the network of the hypervisor hosts, see Infra: no customer
	// is in it, and it has no machines.
	Provider bool
}

// VSI is a VPLS's virtual switch instance at one PE (RFC 4761): a bridge with
// a port for each attached site and one for each pseudowire. PE j reaches PE i
// with the label LabelBase+(VEID of j)-BlockOffset that PE i gave out.
type VSI struct {
	PE          string
	Name        string // device name vsi-<vpc>
	MAC         MAC
	RD          string
	VEID        int // VPLS edge identifier: the PE's number
	BlockOffset int // VE block offset: 1
	BlockSize   int // VE block size: the number of PEs
	LabelBase   uint32
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
	Index     int          // site's index from 1, used in numbers
	PE, CE    string       // node names
	VRF       string       // l3vpn: VRF of the PE
	VSI       string       // vpls: VSI of the PE; the CE is then a bridge, and the circuit has no addresses
	PEIf      string       // interface at the PE
	PEAddr    netip.Prefix // l3vpn: 169.254.x.y/31, PE end
	CEAddr    netip.Addr   // l3vpn: CE end, next hop of the LAN
	Subnet    netip.Prefix // the LAN; vpls: that of the VPC
	Machines  []string     // node names
	// Backup is the circuit to the site's second PE, or nil. Plans share it, and
	// nobody changes it.
	Backup *Circuit
	// ExportRT is put on the site's routes by its PE; ImportRT is what the
	// VPC's VRFs and VSIs import. Which ExportRTs become ImportRT is decided at
	// the route reflector alone: that is the central policy. ImportRT is the
	// same at all sites of a VPC, so that a site that joins or leaves changes
	// no other site's routes: each PE hears of it once.
	ExportRT, ImportRT string
	// Seats are addresses of VMs of other sites that are active at this one;
	// l3vpn only. See Plan.Seated.
	Seats []netip.Prefix
	// More are prefixes behind the site besides Subnet, which its first machine
	// answers for; l3vpn only.
	More Run
	// Joined false: the LAN is there but nothing is provisioned at the PE.
	Joined bool
}

// LSP is the label-switched tree towards one egress PE, by shortest paths.
type LSP struct {
	Egress string // PE node
	FEC    netip.Prefix
	// Label is the egress's own, for a neighbour that must push one (FRR):
	// others are their own penultimate hop and push none.
	Label uint32
	Hops  []LSPHop // one a router other than the egress
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

// Adjacency is a label that forwards to one neighbour whatever is below it:
// a router's part of explicit paths, as a segment of RFC 8402 section 3.4.
type Adjacency struct {
	Node  string // the router that pops Label
	Label uint32
	Next  string
	Via   netip.Addr
	Dev   string
}

// ReservationPlan is bandwidth set aside between two ends of one VPC, both
// ways, on every core link between their PEs.
type ReservationPlan struct {
	Name  string
	Index int // from 1, used in labels
	VPC   string
	Rate  Rate // each way
	// Between are the two ends as the file names them: a machine, or a site.
	Between [2]string
	// Asked is the path that the file asks for, PE to PE; nil: the cheapest
	// with room.
	Asked []string
	// Directions are from the first end to the second and back; none where
	// both ends are at one PE, an end has not joined, or there is no room.
	Directions []ReservedPath
	// Unmet says why there is no room for it any more, after a failure or a
	// move. A reservation for which there is none from the beginning is
	// refused.
	Unmet string
}

// ReservedPath is one direction of a reservation.
type ReservedPath struct {
	From, To string   // PEs
	Path     []string // routers, From and To included
	// What traffic is meant, at PE From. l3vpn: Src and Dst (a machine's /32
	// or a site's subnet), arriving by one of In. vpls: SrcMAC and DstMAC, a
	// zero one standing for any.
	Src, Dst       netip.Prefix
	SrcMAC, DstMAC MAC
	In             []string // interfaces of From
	Table          int      // l3vpn: kernel table of its one route at From
	// Label is what PE To gave out for this traffic instead of its VPN or
	// pseudowire label; no other traffic of the backbone has it.
	Label uint32
	// Stack is pushed above Label by From: the LSP's label, or the
	// adjacencies of an explicit path. It is empty where To is the neighbour.
	Stack []uint32
	Via   netip.Addr
	Dev   string
	Hops  []ReservedHop // the core links crossed, in order
}

// ReservedHop is one core link of a reserved path.
type ReservedHop struct {
	Node, Ifname string // sending end
	Depth        int    // of Label in the label stack there; 1 is the top
}
