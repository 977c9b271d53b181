package audit

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vpclab/vpclab/emu/traffic"
	"github.com/vpclab/vpclab/topo"
)

// ground is what the plan says of who and whose.
type ground struct {
	plan     *topo.Plan
	lans     map[member]*lan
	machines []machine
	kinds    map[string]topo.NodeKind
	labels   map[uint32]labelOwner
	sorted   []uint32 // labels, in order
	guessed  []uint32 // labels that a foreign control plane may have given out
	ways     []way
	services map[string][]service // by PE
	ends     map[string]end       // by node:interface
	peers    map[string]string    // the other end of its link

	ofVPC     map[string][]*lan
	firsts    map[string][]*machine // of a VPC: the first machine of each LAN
	loopbacks map[string]netip.Addr // of routers
	provider  []netip.Addr          // no customer's: loopbacks, ends of backbone links and of circuits, hosts
	hosts     []topo.Node           // hypervisor hosts that have an address
}

// member names a VPC at a site.
type member struct{ vpc, site string }

// lan is a VPC at a site.
type lan struct {
	topo.Attachment
	service  string
	provider bool     // the network of the hypervisor hosts: no customer is in it
	edges    []edge   // its circuits: none where it has not joined, two where it has a second PE
	gateway  topo.MAC // l3vpn: the CE in the LAN
	queue    int      // shortest queue of a rated link at this site; 0: no link has a rate
	machines []int
}

// edge is a circuit of a lan.
type edge struct {
	topo.Circuit
	ends [2]topo.Endpoint // the PE's first
	vsi  topo.MAC         // vpls: the bridge at the PE
}

// machine is a machine with its wire.
type machine struct {
	topo.Node
	lan    *lan
	ifname string
	mac    topo.MAC
	// segment is the bridge that it is plugged into.
	segment string
	// neighbour is another machine of the VPC, one on the same LAN if there is
	// one; or the machine itself, where it is alone. An index.
	neighbour int
}

// labelOwner is what a label stands for.
type labelOwner struct {
	vpc  string // "": transport, no VPC's
	what string
}

// way is a label of transport and the PE that it leads to.
type way struct {
	label uint32
	to    string
}

// service is a label that leads into a VPC at a PE.
type service struct {
	label uint32
	vpc   string
	ip    bool // what is below it is a packet, not a frame
}

// end is an interface of the plan.
type end struct {
	node, ifname string
	vpc          string // "": the backbone's
	what         string
	core         bool
}

func newGround(plan *topo.Plan) *ground {
	g := &ground{
		plan: plan, lans: map[member]*lan{}, kinds: map[string]topo.NodeKind{}, labels: map[uint32]labelOwner{}, ends: map[string]end{}, peers: map[string]string{},
		ofVPC: map[string][]*lan{}, firsts: map[string][]*machine{}, loopbacks: map[string]netip.Addr{}, services: map[string][]service{},
	}
	for _, n := range plan.Nodes {
		g.kinds[n.Name] = n.Kind
	}
	g.attachments()
	g.links()
	g.plugged()
	g.neighbours()
	g.labelsOf()
	g.addresses()
	return g
}

func (g *ground) attachments() {
	for _, v := range g.plan.VPCs {
		for _, a := range v.Attachments {
			l := &lan{Attachment: a, service: v.Service, provider: v.Provider}
			if ce, ok := g.plan.Node(a.CE); ok && len(ce.Bridges) > 0 {
				l.gateway = ce.Bridges[0].MAC
			}
			if a.Joined {
				l.edges = edgesOf(v, a)
			}
			g.lans[member{a.VPC, a.Site}] = l
			g.ofVPC[a.VPC] = append(g.ofVPC[a.VPC], l)
		}
	}
}

func edgesOf(v topo.VPCPlan, a topo.Attachment) (edges []edge) {
	for _, k := range a.Circuits() {
		vsi, _ := v.VSI(k.PE)
		edges = append(edges, edge{Circuit: k, vsi: vsi.MAC})
	}
	return edges
}

// ends notes those of a circuit.
func (l *lan) ends(a, b topo.Endpoint) {
	for i := range l.edges {
		if k := &l.edges[i]; k.PE == a.Node {
			k.ends = [2]topo.Endpoint{a, b}
		}
	}
}

// at is the lan's circuit at a PE.
func (l *lan) at(pe string) (edge, bool) {
	for _, k := range l.edges {
		if k.PE == pe {
			return k, true
		}
	}
	return edge{}, false
}

// links finds the owners of interfaces, the ends of circuits, and the shortest
// queue on the way from each LAN to its PE.
func (g *ground) links() {
	for _, l := range g.plan.Links {
		at := g.lans[member{l.VPC, l.Site}]
		if at != nil && l.AC {
			at.ends(l.A, l.B)
		}
		if at != nil && l.BtoA.Rate > 0 && (at.queue == 0 || l.BtoA.Queue < at.queue) {
			at.queue = l.BtoA.Queue
		}
		a, b := l.A.Node+":"+l.A.Ifname, l.B.Node+":"+l.B.Ifname
		g.peers[a], g.peers[b] = b, a
		for _, e := range []topo.Endpoint{l.A, l.B} {
			g.ends[e.Node+":"+e.Ifname] = end{node: e.Node, ifname: e.Ifname, vpc: l.VPC, core: l.Core, what: g.endText(l, e)}
		}
	}
}

// endText is an interface in words.
func (g *ground) endText(l topo.Link, e topo.Endpoint) string {
	switch kind := g.kinds[e.Node]; {
	case l.Core:
		return "backbone"
	case l.AC:
		return fmt.Sprintf("circuit of %s at %s", l.VPC, l.Site)
	case kind == topo.KindHost || kind == topo.KindCE:
		return fmt.Sprintf("port of %s's LAN at %s", l.VPC, l.Site)
	case kind == topo.KindMachine:
		return "machine of " + l.VPC
	case kind == topo.KindStandby:
		return "standby of a machine of " + l.VPC
	}
	return "link of a bare node"
}

// plugged finds the machines and what they are plugged in by.
func (g *ground) plugged() {
	wires, segments := map[string]topo.Endpoint{}, map[string]string{}
	for _, l := range g.plan.Links {
		for _, e := range [][2]topo.Endpoint{{l.A, l.B}, {l.B, l.A}} {
			if g.kinds[e[0].Node] == topo.KindMachine {
				wires[e[0].Node], segments[e[0].Node] = e[0], e[1].Bridge
			}
		}
	}
	for _, n := range g.plan.Machines() {
		at, w := g.lans[member{n.VPC, n.Site}], wires[n.Name]
		if at == nil || w.Ifname == "" {
			continue // not plugged in anywhere
		}
		at.machines = append(at.machines, len(g.machines))
		g.machines = append(g.machines, machine{Node: n, lan: at, ifname: w.Ifname, mac: w.MAC, segment: segments[n.Name]})
	}
}

func (g *ground) neighbours() {
	for i := range g.machines {
		m := &g.machines[i]
		m.neighbour = i
		at := slices.Index(m.lan.machines, i)
		if n := len(m.lan.machines); n > 1 {
			m.neighbour = m.lan.machines[(at+1)%n]
		}
	}
	for _, v := range g.plan.VPCs {
		for _, l := range g.ofVPC[v.Name] {
			if len(l.machines) > 0 {
				g.firsts[v.Name] = append(g.firsts[v.Name], &g.machines[l.machines[0]])
			}
		}
	}
	for i := range g.machines {
		m := &g.machines[i]
		for _, other := range g.firsts[m.VPC] {
			if m.neighbour == i && other != m {
				m.neighbour = other.lan.machines[0]
			}
		}
	}
}

func (g *ground) neighbour(m *machine) *machine { return &g.machines[m.neighbour] }

// addresses lists those of the provider: of its routers, and of the hypervisor
// hosts that have one.
func (g *ground) addresses() {
	for _, n := range g.plan.Routers() {
		g.loopbacks[n.Name] = n.Loopback
		g.provider = append(g.provider, n.Loopback)
	}
	for _, l := range g.plan.Links {
		if l.Core || l.AC && l.A.Addr.IsValid() {
			g.provider = append(g.provider, l.A.Addr.Addr(), l.B.Addr.Addr())
		}
	}
	for _, n := range g.plan.OfKind(topo.KindHost) {
		if a, err := g.plan.HostAddr(n.Name); err == nil {
			g.provider, g.hosts = append(g.provider, a), append(g.hosts, n)
		}
	}
	slices.SortFunc(g.provider, netip.Addr.Compare)
	g.provider = slices.Compact(g.provider)
}

// has tells that an address is one of the VPC: of a circuit, or in a LAN.
func (g *ground) has(vpc string, a netip.Addr) bool {
	for _, l := range g.ofVPC[vpc] {
		if l.Subnet.Contains(a) {
			return true
		}
		for _, k := range l.Circuits() {
			if k.PEAddr.Addr() == a || k.CEAddr == a {
				return true
			}
		}
	}
	return false
}

// labelsOf notes what each label of the plan is for.
func (g *ground) labelsOf() {
	for _, l := range g.plan.LSPs {
		for _, h := range l.Hops {
			if h.InLabel != 0 {
				g.labels[h.InLabel] = labelOwner{what: fmt.Sprintf("LSP to %s at %s", l.Egress, h.Node)}
				g.ways = append(g.ways, way{h.InLabel, l.Egress})
			}
		}
	}
	for _, a := range g.plan.Adjacencies {
		g.labels[a.Label] = labelOwner{what: fmt.Sprintf("on from %s to %s", a.Node, a.Next)}
		g.ways = append(g.ways, way{a.Label, a.Next})
	}
	serve := func(pe string, s service, what string) {
		g.services[pe] = append(g.services[pe], s)
		g.labels[s.label] = labelOwner{s.vpc, what}
	}
	for _, v := range g.plan.VPCs {
		for _, f := range v.VRFs {
			serve(f.PE, service{f.Label, v.Name, true}, fmt.Sprintf("%s at %s", v.Name, f.PE))
		}
		for _, s := range v.VSIs {
			for k := range s.BlockSize {
				serve(s.PE, service{s.LabelBase + uint32(k), v.Name, false}, "pseudowire of "+v.Name)
			}
		}
	}
	for _, r := range g.plan.Reservations {
		v, _ := g.plan.VPC(r.VPC)
		for _, d := range r.Directions {
			serve(d.To, service{d.Label, r.VPC, v != nil && v.Service == topo.ServiceL3VPN}, fmt.Sprintf("reservation %s of %s", r.Name, r.VPC))
		}
	}
	for l := range g.labels {
		g.sorted = append(g.sorted, l)
	}
	slices.Sort(g.sorted)
	if slices.ContainsFunc(g.plan.Routers(), func(n topo.Node) bool { return n.Routing == topo.RoutingFRR }) {
		for l := uint32(firstFree); l < firstFree+guesses; l++ {
			if _, known := g.labels[l]; !known {
				g.guessed = append(g.guessed, l)
			}
		}
	}
}

// FRR's daemons give out their own labels, from the first that is not special
// (RFC 3032, section 2.1) on. Whose is whose only they know, so that many are
// tried.
const (
	firstFree = 16
	guesses   = 112
)

// joined tells that both ends are in the VPC, not merely meant to be.
func (g *ground) joined(vpc, site string) bool {
	l := g.lans[member{vpc, site}]
	return l != nil && l.Joined
}

// reach says which ordered pairs must reach each other by IP: those of one VPC
// whose sites have joined it, and those on one LAN in any case.
func (g *ground) reach(from, to traffic.Endpoint) bool {
	return from.VPC == to.VPC && (from.Site == to.Site || g.joined(from.VPC, from.Site) && g.joined(to.VPC, to.Site))
}

// oneLAN says which ordered pairs are on one LAN: those at one site, and in a
// VPLS those of all joined sites.
func (g *ground) oneLAN(from, to traffic.Endpoint) bool {
	if from.VPC == to.VPC && from.Site != to.Site {
		l := g.lans[member{from.VPC, from.Site}]
		return l != nil && l.service == topo.ServiceVPLS && g.reach(from, to)
	}
	return from.VPC == to.VPC
}

// own tells that the address is that of the VPC's own gateway: the PE's end of
// one of its circuits, at that PE.
func (g *ground) own(vpc, pe string, addr netip.Addr) bool {
	for _, l := range g.ofVPC[vpc] {
		if k, here := l.at(pe); here && k.PEAddr.Addr() == addr {
			return true
		}
	}
	return false
}

// sites counts the sites that VPCs are at.
func (g *ground) sites() int {
	var names []string
	for at := range g.lans {
		if !slices.Contains(names, at.site) {
			names = append(names, at.site)
		}
	}
	return len(names)
}

// minTransit is what the longest way takes at least: the computers' own time.
const minTransit = 40 * time.Millisecond

// transit is how long the longest way between two machines takes, one way,
// jitter included: two access links and the longest way through the backbone.
func (g *ground) transit() time.Duration {
	out := map[string]time.Duration{} // node:interface -> delay of what leaves there
	access := time.Duration(0)
	for _, l := range g.plan.Links {
		there, back := delay(l.AtoB), delay(l.BtoA)
		out[l.A.Node+":"+l.A.Ifname], out[l.B.Node+":"+l.B.Ifname] = there, back
		if l.VPC != "" {
			access = max(access, there, back)
		}
	}
	core := time.Duration(0)
	for _, lsp := range g.plan.LSPs {
		core = max(core, g.along(lsp, out))
	}
	for _, r := range g.plan.Reservations {
		for _, d := range r.Directions {
			sum := time.Duration(0)
			for _, h := range d.Hops {
				sum += out[h.Node+":"+h.Ifname]
			}
			core = max(core, sum)
		}
	}
	return minTransit + core + 2*access
}

// jitterWidth is how many standard deviations a delay is taken to stay within.
const jitterWidth = 4

func delay(i topo.Impairment) time.Duration { return i.Delay.Std() + jitterWidth*i.Jitter.Std() }

// along is the longest of the ways to the LSP's egress.
func (g *ground) along(lsp topo.LSP, out map[string]time.Duration) (longest time.Duration) {
	hops := map[string]topo.LSPHop{}
	for _, h := range lsp.Hops {
		hops[h.Node] = h
	}
	for _, h := range lsp.Hops {
		sum, at := time.Duration(0), h
		for range lsp.Hops {
			sum += out[at.Node+":"+at.Dev]
			next, on := hops[at.Next]
			if !on {
				break
			}
			at = next
		}
		longest = max(longest, sum)
	}
	return longest
}
