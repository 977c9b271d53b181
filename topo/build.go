package topo

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// builder makes or changes one plan, which nobody else may hold meanwhile:
// Expand builds with it what a file says, Do what an operation says, so that a
// VPC comes out the same by either way. What is there keeps its number and its
// name; what comes gets the lowest free one.
type builder struct {
	plan   *Plan
	labels labels
	nodes  []*Node // of the plan, until finish puts them back in order
	index  map[string]*Node
	last   map[NodeKind]int // highest Index of a kind
	ifs    map[string]ifnames
	given  map[string]*given // by VPC
}

// given is what the machines of one VPC have by now. MACs and addresses are
// unique within a VPC and nowhere else: that two VPCs may have the same ones
// is the point of them.
type given struct {
	addrs   map[netip.Addr]bool
	macs    map[MAC]bool // of machines
	numbers map[[2]int]bool
	lowest  map[int]int // by site (0: the whole VPC): no number below is free
}

func newGiven() *given {
	return &given{map[netip.Addr]bool{}, map[MAC]bool{}, map[[2]int]bool{}, map[int]int{}}
}

// build begins a change of p, which it takes over.
func build(p *Plan) *builder {
	b := &builder{
		plan: p, labels: p.labels(), index: map[string]*Node{}, last: map[NodeKind]int{},
		ifs: map[string]ifnames{}, given: map[string]*given{},
	}
	for _, n := range p.Nodes {
		b.keep(&n)
	}
	for _, l := range p.Links {
		b.ifs[l.A.Node][l.A.Ifname], b.ifs[l.B.Node][l.B.Ifname] = true, true
	}
	for _, v := range p.VPCs {
		b.given[v.Name] = newGiven()
		for _, a := range v.Attachments {
			for _, k := range a.Circuits() {
				b.ifs[k.PE][k.PEIf] = true // an attachment that left comes back under its name
			}
		}
	}
	for _, l := range p.Links {
		n := b.index[l.A.Node]
		if g := b.given[n.VPC]; (n.Kind == KindMachine || n.Kind == KindStandby) && g != nil {
			g.take(b.site(n.Site).Index, n.Number, n.Addr, l.A.MAC)
		}
	}
	return b
}

// keep enters a node with the names that its own devices have.
func (b *builder) keep(n *Node) {
	b.nodes = append(b.nodes, n)
	b.index[n.Name] = n
	b.last[n.Kind] = max(b.last[n.Kind], n.Index)
	b.ifs[n.Name] = ifnames{}
	for _, bridge := range n.Bridges {
		b.ifs[n.Name][bridge.Name] = true
	}
	if n.Kind == KindCE {
		b.ifs[n.Name][wan(0)] = true // of the circuit, whether it is there or not
		if b.site(n.Site).BackupPE != "" {
			b.ifs[n.Name][wan(1)] = true
		}
	}
}

// add makes a node of the plan.
func (b *builder) add(n Node) *Node {
	if n.Index == 0 {
		n.Index = b.last[n.Kind] + 1
	}
	b.keep(&n)
	return &n
}

// link adds l with its queues sized. An end without a name is named after the
// node that it leads to.
func (b *builder) link(l Link) {
	for _, e := range [][2]*Endpoint{{&l.A, &l.B}, {&l.B, &l.A}} {
		if e[0].Ifname == "" {
			e[0].Ifname = b.ifs[e[0].Node].take(e[1].Node)
		}
		b.ifs[e[0].Node][e[0].Ifname] = true
	}
	l.AtoB, l.BtoA = l.AtoB.queued(), l.BtoA.queued()
	b.plan.Links = append(b.plan.Links, l)
}

// queued gives a rate a queue: the bandwidth-delay product of a path of two
// such links, there and back, in packets of 1500 bytes, and 100. One link's own
// product starves a single TCP flow.
func (i Impairment) queued() Impairment {
	if i.Rate > 0 && i.Queue == 0 {
		i.Queue = 100 + int(4*i.Delay.Std().Seconds()*float64(i.Rate)/(8*1500))
	}
	return i
}

// site returns the site of that name; its Index is 0 where there is none.
func (b *builder) site(name string) SitePlan {
	s, _ := b.plan.Site(name)
	return s
}

// vpc adds a VPC without sites, with the lowest free number if it has none.
func (b *builder) vpc(v VPCPlan) *VPCPlan {
	at := 0
	if v.Index == 0 {
		for v.Index = 1; at < len(b.plan.VPCs) && b.plan.VPCs[at].Index == v.Index; at++ {
			v.Index++
		}
	} else {
		for ; at < len(b.plan.VPCs) && b.plan.VPCs[at].Index < v.Index; at++ {
		}
	}
	if v.Service == ServiceVPLS && !v.Subnet.IsValid() {
		v.Subnet = defaultSubnet(v.Index)
	}
	b.plan.VPCs = slices.Insert(b.plan.VPCs, at, v)
	b.given[v.Name] = newGiven()
	return &b.plan.VPCs[at]
}

// attach brings the VPC to a site: a CE and a LAN, with a segment on each
// host. Nothing of it is known at the PE yet.
func (b *builder) attach(v *VPCPlan, s SitePlan, subnet netip.Prefix) *Attachment {
	lan := Bridge{Name: "lan", MAC: lanMAC(v.Index, s.Index, 0), Ageing: v.Ageing}
	if v.Service == ServiceL3VPN {
		lan.Addr = block{subnet, subnet}.gateway()
	}
	ce := b.add(Node{
		Name: ceName(v.Name, s.Name), Kind: KindCE, VPC: v.Name, Site: s.Name,
		Forward: v.Service == ServiceL3VPN, Bridges: []Bridge{lan},
	})
	for h, host := range s.Hosts {
		b.segment(v, s, h+1, host)
	}
	a := Attachment{
		VPC: v.Name, Site: s.Name, Index: s.Index, PE: s.PE, CE: ce.Name,
		PEIf: b.port(v, s, s.PE), Subnet: subnet,
		ExportRT: exportRT(b.plan.ASN, v.Index, s.Index), ImportRT: importRT(b.plan.ASN, v.Index),
	}
	if s.BackupPE != "" {
		a.Backup = &Circuit{PE: s.BackupPE, PEIf: b.port(v, s, s.BackupPE)}
	}
	v.Attachments = append(v.Attachments, a)
	return &v.Attachments[len(v.Attachments)-1]
}

// segment puts the VPC's LAN on host h: a bridge with an uplink to the CE.
func (b *builder) segment(v *VPCPlan, s SitePlan, h int, host string) {
	node, bridge := b.index[host], hostBridge(v.Name)
	node.Bridges = append(node.Bridges, Bridge{Name: bridge, MAC: lanMAC(v.Index, s.Index, macHost|h), Ageing: v.Ageing})
	b.ifs[host][bridge] = true
	b.link(Link{
		A:   Endpoint{Node: host, Ifname: b.ifs[host].take("up-" + v.Name), MAC: lanMAC(v.Index, s.Index, macUplink|h), Bridge: bridge},
		B:   Endpoint{Node: ceName(v.Name, s.Name), MAC: lanMAC(v.Index, s.Index, macUplinkTo|h), Bridge: "lan"},
		MTU: v.MTU, VPC: v.Name, Site: s.Name,
	})
}

var everywhere = netip.PrefixFrom(netip.IPv4Unspecified(), 0)

// vrf makes sure that the VPC has its routing table at a PE.
func (b *builder) vrf(v *VPCPlan, pe string) {
	if _, there := v.VRF(pe); there {
		return
	}
	e := b.index[pe].Index
	at := slices.IndexFunc(v.VRFs, func(f VRF) bool { return b.index[f.PE].Index > e })
	if at < 0 {
		at = len(v.VRFs)
	}
	v.VRFs = slices.Insert(v.VRFs, at, VRF{
		PE: pe, Name: vrfName(v.Name), Table: tableBase + v.Index,
		RD: rd(b.plan.ASN, v.Index, e), Label: b.labels.vpn(v.Index, e),
	})
}

// vsi makes sure that the VPC has its switch instance at a PE, with its
// bridge.
func (b *builder) vsi(v *VPCPlan, pe string) {
	if _, there := v.VSI(pe); there {
		return
	}
	node := b.index[pe]
	at := slices.IndexFunc(v.VSIs, func(s VSI) bool { return b.index[s.PE].Index > node.Index })
	if at < 0 {
		at = len(v.VSIs)
	}
	s := VSI{
		PE: pe, Name: vsiName(v.Name), MAC: vsiMAC(v.Index, node.Index), RD: rd(b.plan.ASN, v.Index, node.Index),
		VEID: node.Index, BlockOffset: 1, BlockSize: b.labels.pes, LabelBase: b.labels.vpn(v.Index, 1),
	}
	v.VSIs = slices.Insert(v.VSIs, at, s)
	node.Bridges = append(node.Bridges, Bridge{Name: s.Name, MAC: s.MAC, Ageing: v.Ageing})
	b.ifs[pe][s.Name] = true
}

// populate adds the machines that each VPC has at a site, VMs spread over the
// hosts.
func (b *builder) populate(v *VPCPlan, a *Attachment, s SitePlan) error {
	for m := range s.Machines {
		w := newcomer{name: machineName(v.Name, s.Name, m+1), number: m + 1}
		if len(s.Hosts) > 0 {
			w.host = s.Hosts[m%len(s.Hosts)]
		}
		if err := b.machine(v, a, w); err != nil {
			return err
		}
	}
	return nil
}

// newcomer is a machine that is to be made; what is zero is chosen.
type newcomer struct {
	name, host string // host: node name, "" for a machine of an enterprise
	number     int
	addr       netip.Addr
	mac        MAC
	index      int // of the node
	guest      *Guest
}

// machine adds a machine to a LAN, plugged into its host's bridge or, where it
// has no host, into the CE's.
func (b *builder) machine(v *VPCPlan, a *Attachment, w newcomer) error {
	g := b.given[v.Name]
	space := v.block(a)
	if w.number == 0 {
		w.number = g.number(v, a, w)
	}
	if w.number == 0 {
		return fmt.Errorf("%s has no address left for a machine more", space.Subnet)
	}
	if !w.addr.IsValid() {
		w.addr = space.machine(w.number)
		if v.throughout() {
			w.addr = g.address(space)
		}
	}
	if !w.addr.IsValid() {
		return fmt.Errorf("%s has no address left for a machine more", space.Subnet)
	}
	if w.mac == (MAC{}) {
		w.mac = lanMAC(v.Index, a.Index, w.number)
	}
	g.take(a.Index, w.number, w.addr, w.mac)
	n := Node{Name: w.name, Kind: KindMachine, Index: w.index, VPC: v.Name, Site: a.Site, Host: w.host, Addr: w.addr, Number: w.number, IPv6: v.IPv6, Guest: w.guest}
	if v.Service == ServiceL3VPN {
		n.Routes = []Route{{Dst: everywhere, Via: space.gateway().Addr(), Dev: "eth0"}}
	}
	b.add(n)
	at, bridge := a.CE, "lan"
	if w.host != "" {
		at, bridge = w.host, hostBridge(v.Name)
	}
	b.link(Link{
		A:   Endpoint{Node: w.name, Ifname: "eth0", MAC: w.mac, Addr: netip.PrefixFrom(w.addr, space.Subnet.Bits())},
		B:   Endpoint{Node: at, MAC: lanMAC(v.Index, a.Index, macPort|w.number), Bridge: bridge},
		MTU: v.MTU, VPC: v.Name, Site: a.Site,
	})
	a.Machines = append(a.Machines, w.name)
	return nil
}

// take notes what a machine has.
func (g *given) take(site, number int, addr netip.Addr, mac MAC) {
	g.addrs[addr], g.macs[mac], g.numbers[[2]int{site, number}] = true, true, true
}

// give is the opposite of take.
func (g *given) give(site, number int, addr netip.Addr, mac MAC) {
	delete(g.addrs, addr)
	delete(g.macs, mac)
	delete(g.numbers, [2]int{site, number})
	clear(g.lowest)
}

// unlessTaken is a number at a site, or 0 where a machine has it.
func (g *given) unlessTaken(site, number int) int {
	if g.numbers[[2]int{site, number}] {
		return 0
	}
	return number
}

// number is the lowest free number of a LAN whose address (where addresses
// follow from numbers) and MAC are free in the VPC too; 0 where the LAN is
// full.
func (g *given) number(v *VPCPlan, a *Attachment, w newcomer) int {
	space := v.block(a)
	follows := !v.throughout() && !w.addr.IsValid()
	most := maxMachines
	if follows {
		most = space.room()
	}
	for m := max(g.lowest[a.Index], 1); m <= most; m++ {
		if g.numbers[[2]int{a.Index, m}] || g.macs[lanMAC(v.Index, a.Index, m)] {
			continue
		}
		if follows && g.addrs[space.machine(m)] {
			continue
		}
		g.lowest[a.Index] = m
		return m
	}
	return 0
}

// address is the lowest free one of a subnet that is numbered throughout;
// zero where it is full.
func (g *given) address(space block) netip.Addr {
	for k := max(g.lowest[0], 1); k <= space.room(); k++ {
		if a := space.machine(k); !g.addrs[a] {
			g.lowest[0] = k
			return a
		}
	}
	return netip.Addr{}
}

// finish puts everything in order: routers, then site by site its hosts and
// what each VPC has there, then bare nodes; links likewise, VPC by VPC. The
// order follows from what there is, not from how it came.
func (b *builder) finish() *Plan {
	p := b.plan
	sites, vpcs := map[string]int{"": -1}, map[string]int{}
	for i, s := range p.Sites {
		sites[s.Name] = i
	}
	place := map[member]int{}
	for _, v := range p.VPCs {
		vpcs[v.Name] = v.Index
		for i, a := range v.Attachments {
			place[member{v.Name, a.Site}] = i
		}
	}
	rank := func(n *Node) [4]int {
		switch n.Kind {
		case KindPlain:
			return [4]int{len(p.Sites)}
		case KindCE:
			return [4]int{sites[n.Site], 1, vpcs[n.VPC], 0}
		case KindMachine:
			return [4]int{sites[n.Site], 1, vpcs[n.VPC], 1}
		case KindStandby:
			return [4]int{sites[n.Site], 1, vpcs[n.VPC], 2}
		}
		return [4]int{sites[n.Site]}
	}
	slices.SortStableFunc(b.nodes, func(x, y *Node) int { r, s := rank(x), rank(y); return slices.Compare(r[:], s[:]) })
	p.Nodes = make([]Node, len(b.nodes))
	for i, n := range b.nodes {
		p.Nodes[i] = *n
	}
	kind := func(l Link) [4]int {
		switch {
		case l.Core:
			return [4]int{0}
		case l.VPC == "":
			return [4]int{2}
		case l.AC:
			return [4]int{1, vpcs[l.VPC], place[member{l.VPC, l.Site}], 0}
		case b.index[l.A.Node].Kind == KindHost:
			return [4]int{1, vpcs[l.VPC], place[member{l.VPC, l.Site}], 1}
		}
		return [4]int{1, vpcs[l.VPC], place[member{l.VPC, l.Site}], 2}
	}
	slices.SortStableFunc(p.Links, func(x, y Link) int { r, s := kind(x), kind(y); return slices.Compare(r[:], s[:]) })
	for i := range p.Nodes {
		if n := &p.Nodes[i]; n.Kind == KindPE || n.Kind == KindHost {
			slices.SortStableFunc(n.Bridges, func(x, y Bridge) int { return cmp.Compare(vpcOf(x, vpcs), vpcOf(y, vpcs)) })
		}
	}
	return p
}

// vpcOf is the number of the VPC that a PE's or host's bridge belongs to.
func vpcOf(b Bridge, vpcs map[string]int) int {
	_, vpc, _ := strings.Cut(b.Name, "-")
	return vpcs[vpc]
}
