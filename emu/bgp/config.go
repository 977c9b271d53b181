package bgp

import (
	"net/netip"

	"github.com/vpclab/vpclab/topo"
)

// Config is what one speaker process is told; it is sent whole each time and
// the speaker converges to it (adds, changes and withdraws the difference).
// A speaker runs in its router's network namespace, as a process of its own.
type Config struct {
	Node string `json:"node"`
	// Routing says what the process is: GoBGP, or FRR's daemons (package frr).
	Routing  topo.Routing `json:"routing,omitempty"`
	ASN      uint32       `json:"asn"`
	RouterID netip.Addr   `json:"router_id"` // loopback; also the source of sessions
	// Reflector makes this speaker the route reflector. Clients are then the
	// PEs' loopbacks; PEs name the reflector as their only Neighbor.
	Reflector bool         `json:"reflector,omitempty"`
	Neighbors []netip.Addr `json:"neighbors"`
	VRFs      []VRF        `json:"vrfs,omitempty"`    // PE only
	VSIs      []VSI        `json:"vsis,omitempty"`    // PE only
	Tunnels   []Tunnel     `json:"tunnels,omitempty"` // PE only: what BGP next hops resolve to
	// Core is for FRR where nobody else gives out labels; nil: the controller
	// does, and Tunnels say which. A P has nothing but its Core.
	Core   *Core    `json:"core,omitempty"`
	Policy []RTRule `json:"policy,omitempty"` // reflector only
	// Port is the TCP port of all sessions; 0: 179.
	Port uint16 `json:"port,omitempty"`
	// Keepalive and Hold are the session timers in seconds; 0: 3 and 9.
	Keepalive int `json:"keepalive,omitempty"`
	Hold      int `json:"hold,omitempty"`
	// Liveness has a PE listen to its router's repair process (package
	// liveness), and act at once on what is down.
	Liveness bool `json:"liveness,omitempty"`
	// PIC has VPN routes share next hops, each with a second one prepared, so
	// that what is down costs one message and not one a prefix (BGP prefix
	// independent convergence, draft-ietf-rtgwg-bgp-pic).
	PIC bool `json:"pic,omitempty"`
}

// Identity is what a control plane cannot change while it runs. Where two
// configurations differ in it, another process has to take the place of the
// one that runs.
type Identity struct {
	Node                  string
	Routing               topo.Routing
	ASN                   uint32
	RouterID              netip.Addr
	Reflector             bool
	Labels                bool // it gives them out: Core is set
	Port, Keepalive, Hold int
}

// Identity is that of the process that can be told c.
func (c *Config) Identity() Identity {
	return Identity{c.Node, c.Routing, c.ASN, c.RouterID, c.Reflector, c.Core != nil, c.port(), c.keepalive(), c.hold()}
}

// VRF is one VPN routing table of a PE as BGP sees it.
type VRF struct {
	Name  string `json:"name"` // VRF device
	Table int    `json:"table"`
	RD    string `json:"rd"`
	Label uint32 `json:"label"`
	// Circuits are the sites attached here; each exports its prefix with its
	// own route target and imports by its own (their union is the VRF's).
	Circuits []Circuit `json:"circuits"`
}

// VSI is one VPLS instance of a PE as BGP sees it (RFC 4761): it announces one
// VPLS NLRI, and makes a pseudowire to each PE whose NLRI it imports.
type VSI struct {
	Name        string   `json:"name"` // bridge device
	RD          string   `json:"rd"`
	VEID        int      `json:"ve_id"`
	BlockOffset int      `json:"block_offset"`
	BlockSize   int      `json:"block_size"`
	LabelBase   uint32   `json:"label_base"`
	MTU         int      `json:"mtu"`        // of the LAN; a peer that says another gets no pseudowire
	ExportRTs   []string `json:"export_rts"` // of the sites joined here
	ImportRTs   []string `json:"import_rts"`
	Flows       []Flow   `json:"flows,omitempty"`
	// Homed are the circuits here of sites that have one at another PE too.
	Homed []Homed `json:"homed,omitempty"`
}

// Homed is a circuit of a site that is attached to a VSI at two PEs. One of
// them, the designated forwarder, sends and takes frames by it: of those that
// can be reached the one with the higher preference, and of equals the one with
// the lower loopback (draft-ietf-bess-vpls-multihoming; RFC 4761 section 3.5).
// At the other the port is closed, as the fabric makes it: with both open the
// site's bridge would close a loop.
type Homed struct {
	Site string `json:"site"`
	// ID is the site's number, the same at both PEs (the draft's MH-ID).
	ID         int    `json:"id"`
	Preference int    `json:"preference"`
	Port       string `json:"port"` // the circuit's device, a port of the bridge
}

// Flow is reserved traffic of a VSI. Frames from Src to Dst that leave by the
// pseudowire to Egress carry Labels instead of the pseudowire's stack; frames
// that come in with the label In are that pseudowire's as well.
type Flow struct {
	Name   string     `json:"name"`
	Egress netip.Addr `json:"egress"`
	Src    topo.MAC   `json:"src"` // zero: any
	Dst    topo.MAC   `json:"dst"`
	Labels []uint32   `json:"labels"` // the whole stack, outermost first; the last is the reservation's
	Via    netip.Addr `json:"via"`
	Dev    string     `json:"dev"`
	In     uint32     `json:"in"` // label of the opposite direction
	// Backup takes the place of Labels, Via and Dev while Dev is down; nil:
	// nothing does. Its last label is the reservation's.
	Backup *Backup `json:"backup,omitempty"`
}

// Circuit is a site attached to a VRF.
type Circuit struct {
	Site     string       `json:"site"`
	Prefix   netip.Prefix `json:"prefix"`
	ExportRT string       `json:"export_rt"`
	ImportRT string       `json:"import_rt"`
	// Preference becomes the LOCAL_PREF of the site's routes: the higher one is
	// taken where two PEs announce the site. 0: 100.
	Preference int `json:"preference,omitempty"`
	// More are prefixes behind the site besides its own.
	More topo.Run `json:"more,omitzero"`
}

// Tunnel is the LSP to a remote PE: the label to push (0: penultimate hop,
// none) and the core next hop.
type Tunnel struct {
	Egress netip.Addr `json:"egress"` // remote PE's loopback = BGP next hop
	Label  uint32     `json:"label"`
	Via    netip.Addr `json:"via"`
	Dev    string     `json:"dev"`
	// Backup takes the place of Label, Via and Dev while Dev is down; nil:
	// nothing does.
	Backup *Backup `json:"backup,omitempty"`
	// Lost says that the controller has been told that no way leads to the egress
	// any more. A route that can go to another egress goes there; one that cannot
	// stays as it is, as the controller may be wrong.
	Lost bool `json:"lost,omitempty"`
}

// Backup is a way that is prepared for the time when the usual one is down:
// around a link of the backbone, or the router behind it, to a router from
// which the usual way goes on (facility backup, RFC 4090 section 3.2). Labels,
// outermost first, are pushed above that of the service; there may be none, and
// at most 7 with the service's own beside them.
type Backup struct {
	Labels []uint32   `json:"labels,omitempty"`
	Via    netip.Addr `json:"via"`
	Dev    string     `json:"dev"`
}

// Core is the backbone as a router must know it that finds its ways by OSPF
// and gives out labels by LDP (RFC 2328, RFC 5036).
type Core struct {
	Links []CoreLink `json:"links"`
	// Silent are the loopbacks of neighbours that speak neither (the route
	// reflector); this router tells the others the way to them.
	Silent []netip.Prefix `json:"silent,omitempty"`
}

// CoreLink is a link to another router that speaks OSPF and LDP.
type CoreLink struct {
	Dev  string       `json:"dev"`
	Addr netip.Prefix `json:"addr"` // of this end
	Cost int          `json:"cost"`
}

// RTRule is one line of the central policy at the route reflector: routes
// that carry any of From leave it with exactly the route targets To. A route
// that no rule matches is not reflected: a site that nobody admitted is
// nowhere.
type RTRule struct {
	Name string   `json:"name"` // the VPC
	From []string `json:"from"` // export RTs of the joined sites
	To   []string `json:"to"`   // what the VPC's VRFs and VSIs import
	// VPLS rules are for VPLS routes, which leave with To beside what they
	// came with; see policy.go.
	VPLS bool `json:"vpls,omitempty"`
}
