package mpls

import (
	"maps"
	"net/netip"
	"strconv"

	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/topo"
)

// Preference of the rule that looks up the local table after it was moved
// behind the l3mdev rule (1000), which chooses a VRF's table.
const localRulePref = 32765

// tableLocal is RT_TABLE_LOCAL.
const tableLocal = 255

// Compile adds to st what the backbone of plan needs besides nodes and links:
// sysctls, core routes, LSPs, for each joined site its VRF, VPN label and the
// route to its LAN, the ground for pseudowires, and reservations. st is what
// fabric.Compile made of the same plan. What FRR's daemons see to at a router
// that runs them is left out: its VPN labels and its tunnels to other PEs, and
// where all routers do, every LSP.
func Compile(plan *topo.Plan, st *fabric.State) {
	c := compiler{plan: plan, st: st, frr: newFRRParts(plan), nodes: map[string]*fabric.Node{}, kinds: make(map[string]topo.NodeKind, len(plan.Nodes))}
	for _, n := range plan.Nodes {
		c.kinds[n.Name] = n.Kind
	}
	c.routers()
	c.coreRoutes()
	c.lsps()
	c.vpns()
	c.circuits()
	c.ends()
	c.vsis()
	c.reservations()
	for name, n := range c.nodes {
		st.Nodes[name] = *n
	}
}

// compiler holds working copies of the nodes it touches: slices and maps of
// st's nodes are not shared with an older state.
type compiler struct {
	plan  *topo.Plan
	st    *fabric.State
	frr   frrParts
	nodes map[string]*fabric.Node
	kinds map[string]topo.NodeKind
}

// node is the working copy of st's node, or nil where the plan's node is not
// in st (a partial state in a test).
func (c *compiler) node(name string) *fabric.Node {
	if n, ok := c.nodes[name]; ok {
		return n
	}
	have, ok := c.st.Nodes[name]
	if !ok {
		return nil
	}
	n := have
	n.Sysctls = maps.Clone(have.Sysctls)
	if n.Sysctls == nil {
		n.Sysctls = map[string]string{}
	}
	n.VRFs = append([]fabric.VRF(nil), have.VRFs...)
	n.Routes = append([]fabric.Route(nil), have.Routes...)
	n.MPLS = append([]fabric.MPLSRoute(nil), have.MPLS...)
	n.Rules = append([]fabric.Rule(nil), have.Rules...)
	c.nodes[name] = &n
	return &n
}

// routers sets what each router's namespace needs before any link is up.
func (c *compiler) routers() {
	// A label that is not below platform_labels cannot be entered; each costs
	// 8 bytes a namespace, so the table ends right after the last one in use.
	labels := strconv.FormatUint(uint64(c.plan.MaxLabel())+1, 10)
	for _, pn := range c.plan.Nodes {
		n := c.node(pn.Name)
		if n == nil {
			continue
		}
		switch pn.Kind {
		case topo.KindPE, topo.KindP:
			n.Sysctls["net.ipv4.ip_forward"] = "1"
			n.Sysctls["net.mpls.platform_labels"] = labels
			ownARP(n)
			looseReversePath(n)
			if c.frr.routers[pn.Name] {
				// What LDP says last on a session whose link has failed does
				// not arrive; the kernel would try for a minute, and the
				// namespace live so long.
				n.Sysctls["net.ipv4.tcp_orphan_retries"] = "1"
			}
			if pn.Kind == topo.KindPE {
				guard(n)
				if !c.frr.routers[pn.Name] {
					quietNexthops(n)
				}
			}
		case topo.KindCE:
			n.Sysctls["net.ipv4.ip_forward"] = "1"
		case topo.KindRR:
			// The reflector ends sessions and forwards nothing.
			looseReversePath(n)
		}
	}
}

// ownARP has a router ask for its next hops in its own name. By default the
// kernel takes the source address of the packet that waits, if that is one of
// the node's own, and does not look whether the packet is IP: with two labels
// before it, the identification of an IP packet stands there, and one in 256
// looks like an address of 127.0.0.0/8. To such a question nobody answers, and
// as long as that packet is sent again the next hop is not found.
func ownARP(n *fabric.Node) {
	n.Sysctls["net.ipv4.conf.all.arp_announce"] = "2"
}

// quietNexthops keeps the kernel from telling of each route that refers to a
// shared next hop when that is moved: it would do so whether anybody listens or
// not, and moving thousands of prefixes at once is what the next hop is for.
// (FRR's PEs are read by what the kernel tells.)
func quietNexthops(n *fabric.Node) {
	n.Sysctls["net.ipv4.nexthop_compat_mode"] = "0"
}

// looseReversePath turns the reverse path check off where the way back may
// use another link than the way there: BGP sessions between loopbacks over
// equal-cost paths. The setting of the machine must not decide (a namespace
// may inherit it).
func looseReversePath(n *fabric.Node) {
	n.Sysctls["net.ipv4.conf.all.rp_filter"] = "0"
	n.Sysctls["net.ipv4.conf.default.rp_filter"] = "0"
}

// guard keeps a PE's tenants away from its own addresses, from before the
// first of them comes. By default the kernel looks up the local table (rule 0)
// before a VRF's table (rule 1000), so a tenant could reach every address of
// the PE, the loopback that BGP listens on included. Strict mode makes sure
// that a table belongs to one VRF only, which the pop into a VRF device relies
// on.
func guard(n *fabric.Node) {
	n.Sysctls["net.vrf.strict_mode"] = "1"
	n.Rules = append(n.Rules,
		fabric.Rule{Pref: localRulePref, Table: tableLocal},
		fabric.Rule{Pref: 0, Table: tableLocal, Del: true})
}

// coreRoutes adds the plain IP routes between loopbacks. They carry the
// loopback as source address: P routers do not know the addresses of far
// links.
func (c *compiler) coreRoutes() {
	for _, r := range c.plan.CoreRoutes {
		if n := c.node(r.Node); n != nil && !c.frr.route(r) {
			n.Routes = append(n.Routes, fabric.Route{Dst: r.Dst, Via: r.Via, Dev: r.Dev, Src: r.Src})
		}
	}
}

// lsps adds the incoming label map of every hop: swap, or pop at the
// penultimate one.
func (c *compiler) lsps() {
	if c.frr.all {
		return // LDP gives out the labels
	}
	for _, lsp := range c.plan.LSPs {
		for _, h := range lsp.Hops {
			n := c.node(h.Node)
			if n == nil || h.InLabel == 0 {
				continue
			}
			r := fabric.MPLSRoute{In: h.InLabel, Via: h.Via, Dev: h.Dev}
			r.Out[0] = h.OutLabel // 0: penultimate hop, pop
			n.MPLS = append(n.MPLS, r)
		}
		if c.frr.neighbours[lsp.Egress] {
			c.ownLabel(lsp)
		}
	}
}

// ownLabel lets an egress take its own label off: below it is the VPN's, which
// is looked up on the way through lo.
func (c *compiler) ownLabel(lsp topo.LSP) {
	if n := c.node(lsp.Egress); n != nil {
		n.Sysctls["net.mpls.conf.lo.input"] = "1"
		n.MPLS = append(n.MPLS, fabric.MPLSRoute{In: lsp.Label, Dev: "lo"})
	}
}

// vpns adds VRFs, their labels and the routes to the sites attached here.
func (c *compiler) vpns() {
	for _, v := range c.plan.VPCs {
		tables := map[string]int{} // PE -> table of this VPC
		for _, vrf := range v.VRFs {
			n := c.node(vrf.PE)
			if n == nil {
				continue
			}
			tables[vrf.PE] = vrf.Table
			n.VRFs = append(n.VRFs, fabric.VRF{Name: vrf.Name, Table: vrf.Table})
			if !c.frr.routers[vrf.PE] {
				n.MPLS = append(n.MPLS, fabric.MPLSRoute{In: vrf.Label, Dev: vrf.Name})
			}
		}
		for _, a := range v.Attachments {
			for _, k := range a.Circuits() {
				n := c.node(k.PE)
				table, ok := tables[k.PE]
				if n == nil || !ok || !a.Joined {
					continue
				}
				for _, dst := range append([]netip.Prefix{a.Subnet}, a.Seats...) {
					n.Routes = append(n.Routes, fabric.Route{Table: table, Dst: dst, Via: k.CEAddr, Dev: k.PEIf})
				}
				if a.More.Count > 0 {
					n.Routes = append(n.Routes, fabric.Route{Table: table, Dst: a.More.Whole(), Via: k.CEAddr, Dev: k.PEIf})
				}
			}
			c.homes(v, a, tables)
			c.more(a)
		}
	}
}

// more has the first machine of a site answer for what is behind the site
// besides its LAN, and the CE send it there. As a part of the local table the
// machine may send from these addresses as well.
func (c *compiler) more(a topo.Attachment) {
	if a.More.Count == 0 || len(a.Machines) == 0 {
		return
	}
	first, ok := c.plan.Node(a.Machines[0])
	if !ok {
		return
	}
	if ce := c.node(a.CE); ce != nil {
		ce.Routes = append(ce.Routes, fabric.Route{Dst: a.More.Whole(), Via: first.Addr})
	}
	if n := c.node(first.Name); n != nil {
		n.Routes = append(n.Routes, fabric.Route{Table: tableLocal, Dst: a.More.Whole(), Dev: "lo", Local: true})
	}
}

// arpRetry is how long, in milliseconds, either end of an attachment circuit
// waits before it repeats a neighbour (ARP) request.
const arpRetry = "50"

// circuits lets both ends of a new circuit ask for each other's address again
// soon. A request that meets an end which is coming up in the same
// milliseconds is lost, and Linux would repeat it after a second: that would
// be most of a VPN's set-up time and say nothing of VPNs.
func (c *compiler) circuits() {
	for _, l := range c.plan.Links {
		if !l.AC || !l.A.Addr.IsValid() {
			continue // a vpls circuit has no addresses to ask for
		}
		for _, e := range []topo.Endpoint{l.A, l.B} {
			if n := c.node(e.Node); n != nil {
				n.Sysctls["net.ipv4.neigh."+e.Ifname+".retrans_time_ms"] = arpRetry
			}
		}
	}
}

// ends opens the core ends of links for labelled packets, and only those. On
// an attachment circuit it stays closed: there a tenant could send a frame
// with another tenant's VPN label.
func (c *compiler) ends() {
	for _, pl := range c.plan.Links {
		name := pl.Name()
		l, ok := c.st.Links[name]
		if !ok {
			continue
		}
		l.A.MPLSInput = c.core(pl)
		l.B.MPLSInput = l.A.MPLSInput
		if pl.A.VRF != "" {
			l.A.Master = pl.A.VRF
		}
		if pl.B.VRF != "" {
			l.B.Master = pl.B.VRF
		}
		c.st.Links[name] = l
	}
}
