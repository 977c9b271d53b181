package topo

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Modes of a standby; see docs/failover.md.
const (
	ModeAsync      = "async"
	ModeCheckpoint = "checkpoint"
	ModePipelined  = "pipelined"
	ModeSync       = "sync"
)

const (
	// standbySuffix makes the name of a VM's second seat.
	standbySuffix = "-standby"
	maxPairs      = 250 // they have ports of their own at their hosts

	// Below these an epoch is nothing but overhead, and silence is what any
	// stall of the machine brings about.
	minEpoch          = Duration(5 * time.Millisecond)
	minPipelinedEpoch = Duration(time.Millisecond)
	minSilence        = Duration(50 * time.Millisecond)
	silentEpochs      = 3
)

// Pair is a VM with two seats in two clouds, of which one is active. Each seat
// is a node of its own: the VM's, and that of its standby.
type Pair struct {
	VM      string // the VM, and the node of the seat that it begins at
	Standby string // node of the seat that takes over
	Index   int    // from 1, used in port numbers
	Mode    string // async, checkpoint, pipelined, sync
	Epoch   time.Duration
	Silence time.Duration // both: 0 is the mode's own
	// Hosts are the nodes of the seats' hypervisor hosts, the VM's first, and
	// Witness is that of a host in a third cloud.
	Hosts   [2]string
	Witness string
}

// Seats are the nodes of both seats, the VM's first.
func (p Pair) Seats() [2]string { return [2]string{p.VM, p.Standby} }

// Other is the seat that is not this one.
func (p Pair) Other(seat string) string {
	if seat == p.VM {
		return p.Standby
	}
	return p.VM
}

// HostOf is the host of a seat.
func (p Pair) HostOf(seat string) string {
	if seat == p.VM {
		return p.Hosts[0]
	}
	return p.Hosts[1]
}

// Pairs lists the VMs that a standby would take over, in order of their nodes.
func (p *Plan) Pairs() []Pair {
	var pairs []Pair
	for _, n := range p.Nodes {
		if n.Pair != nil {
			pairs = append(pairs, *n.Pair)
		}
	}
	return pairs
}

// PairOf is the pair that a node is a seat of.
func (p *Plan) PairOf(node string) (Pair, bool) {
	for _, pair := range p.Pairs() {
		if pair.VM == node || pair.Standby == node {
			return pair, true
		}
	}
	return Pair{}, false
}

// Port is the link by which a seat is plugged into its host's segment: A is the
// VM's end.
func (p *Plan) Port(seat string) (Link, bool) {
	i := slices.IndexFunc(p.Links, func(l Link) bool { return l.A.Node == seat && l.VPC != "" })
	if i < 0 {
		return Link{}, false
	}
	return p.Links[i], true
}

// hasSeat tells whether an attachment is one of those that a pair's seats are in.
func (p *Plan) hasSeat(pair Pair, a Attachment) bool {
	for _, seat := range pair.Seats() {
		if n, ok := p.Node(seat); ok && n.VPC == a.VPC && n.Site == a.Site {
			return true
		}
	}
	return false
}

// standbys adds the seats that take over to the VMs of the file, when all
// machines have their numbers.
func (b *builder) standbys(f fullScenario) error {
	for _, e := range f.VMs {
		s := e.Value.Standby
		if s == nil {
			continue
		}
		n := b.index[e.Name]
		site, h, _ := splitHost(s.Host) // check has seen it
		ws, wh, _ := splitHost(f.witness(e.Value))
		pair := Pair{
			VM: e.Name, Mode: s.Mode, Epoch: s.Epoch.Std(), Silence: s.Silence.Std(),
			Hosts: [2]string{n.Host, hostName(site, h)}, Witness: hostName(ws, wh),
		}
		if err := b.standby(n, site, pair); err != nil {
			return fmt.Errorf("VM %s: standby: %w", e.Name, err)
		}
	}
	return nil
}

// standby adds a VM's second seat: the same address and MAC, plugged into the
// segment of its host by a port that is down.
func (b *builder) standby(n *Node, site string, pair Pair) error {
	v, _ := b.plan.VPC(n.VPC)
	i := slices.IndexFunc(v.Attachments, func(a Attachment) bool { return a.Site == site })
	if i < 0 {
		return fmt.Errorf("VPC %s is not at site %s", n.VPC, site)
	}
	a := &v.Attachments[i]
	k := slices.IndexFunc(b.plan.Links, func(l Link) bool { return l.A.Node == n.Name })
	port := &b.plan.Links[k]
	port.Seat = SeatUp

	g, w := b.given[v.Name], newcomer{addr: n.Addr, mac: port.A.MAC}
	number := g.number(v, a, w)
	if number == 0 {
		return fmt.Errorf("%s has no number left for a machine more", v.block(a).Subnet)
	}
	g.numbers[[2]int{a.Index, number}] = true
	second := *n
	second.Name, second.Kind, second.Index = n.Name+standbySuffix, KindStandby, b.freeIndex(KindStandby)
	second.Site, second.Host, second.Number = site, pair.Hosts[1], number
	second.Routes = slices.Clone(n.Routes)
	b.add(second)
	pair.Standby, pair.Index = second.Name, second.Index
	n.Pair = &pair
	l := *port
	l.A.Node, l.Site, l.Seat = second.Name, site, SeatDark
	l.B = Endpoint{Node: second.Host, MAC: lanMAC(v.Index, a.Index, macPort|number), Bridge: hostBridge(v.Name)}
	b.link(l)
	if v.Service == ServiceL3VPN {
		for _, s := range []string{n.Site, site} {
			b.index[ceName(v.Name, s)].bridge("lan").Proxy = true
		}
	}
	return nil
}

// freeIndex is the lowest that no node of the kind has.
func (b *builder) freeIndex(kind NodeKind) int {
	for i := 1; ; i++ {
		if !slices.ContainsFunc(b.nodes, func(n *Node) bool { return n.Kind == kind && n.Index == i }) {
			return i
		}
	}
}

// unprotect takes a VM's second seat out of the plan.
func (b *builder) unprotect(n *Node) {
	if n.Pair == nil {
		return
	}
	second := b.index[n.Pair.Standby]
	b.nodes = slices.DeleteFunc(b.nodes, func(o *Node) bool { return o == second })
	delete(b.index, second.Name)
	b.plan.Links = slices.DeleteFunc(b.plan.Links, func(l Link) bool {
		if l.A.Node != second.Name {
			return false
		}
		delete(b.ifs[l.B.Node], l.B.Ifname)
		return true
	})
	for i := range b.plan.Links {
		if l := &b.plan.Links[i]; l.A.Node == n.Name {
			l.Seat = NoSeat
		}
	}
	g := b.given[second.VPC]
	delete(g.numbers, [2]int{b.site(second.Site).Index, second.Number})
	clear(g.lowest)
	n.Pair = nil
	for _, site := range []string{n.Site, second.Site} {
		if ce := b.index[ceName(n.VPC, site)]; len(b.seatsAt(n.VPC, site)) == 0 {
			ce.bridge("lan").Proxy = false
		}
	}
}

// isProtected refuses what cannot be done to a VM that has a standby.
func isProtected(n *Node, done, instead string) *refusal {
	if n.Pair == nil {
		return nil
	}
	return refuse("vm", fmt.Sprintf("%s is protected by a standby at %s, and is not %s", n.Name, n.Pair.Hosts[1], done), instead)
}

// seatsAt names the VMs of a VPC that have a seat at a site and the other
// elsewhere.
func (b *builder) seatsAt(vpc, site string) (vms []string) {
	for _, n := range b.nodes {
		if n.Pair != nil && n.VPC == vpc && (n.Site == site || b.index[n.Pair.Standby].Site == site) {
			vms = append(vms, n.Name)
		}
	}
	return vms
}

// Seated is the plan with the VMs of pairs where they are active: at names the
// seat, "" being the VM's own. In a vpls nothing changes but who announces the
// VM. In an l3vpn the VM keeps its address although it is at another site: that
// site announces the address alone, the longer prefix, and the CEs of both
// sites lead there.
func (p *Plan) Seated(at func(vm string) string) *Plan {
	var away []Pair
	for _, pair := range p.Pairs() {
		if n, _ := p.Node(pair.VM); at(pair.VM) == pair.Standby && p.routed(n.VPC) {
			away = append(away, pair)
		}
	}
	if len(away) == 0 {
		return p
	}
	q := p.clone()
	for _, pair := range away {
		q.lead(pair)
	}
	return q
}

// routed tells whether a VPC is an l3vpn.
func (p *Plan) routed(vpc string) bool {
	v, ok := p.VPC(vpc)
	return ok && v.Service == ServiceL3VPN
}

// lead has an l3vpn lead to the standby's site.
func (p *Plan) lead(pair Pair) {
	n, _ := p.Node(pair.VM)
	second, _ := p.Node(pair.Standby)
	v, _ := p.VPC(n.VPC)
	alone := host(n.Addr)
	for i := range v.Attachments {
		a := &v.Attachments[i]
		ce, _ := p.Node(a.CE)
		switch {
		case a.Site == second.Site:
			ce.Routes = append(ce.Routes, Route{Dst: alone, Dev: "lan"})
			if a.Joined {
				a.Seats = append(a.Seats, alone)
			}
		case a.Site == n.Site && a.Joined:
			ce.Routes = append(ce.Routes, a.out(alone)...)
		}
	}
}

// withoutStandbys is the plan with the pairs that drop chooses taken apart: the
// first seat is an ordinary VM, and the second is gone.
func (p *Plan) withoutStandbys(drop func(Pair) bool) *Plan {
	if !slices.ContainsFunc(p.Pairs(), drop) {
		return p
	}
	b := build(p.clone())
	for _, n := range slices.Clone(b.nodes) {
		if n.Pair != nil && drop(*n.Pair) {
			b.unprotect(n)
		}
	}
	return b.finish()
}

// fillByStandby fills in the defaults of a standby.
func (v *VM) fillByStandby() {
	if v.Standby != nil && v.Standby.Mode == "" {
		v.Standby.Mode = ModeCheckpoint
	}
}

// witness is the host of a VM's witness: the file's, or the first of the first
// cloud that has neither seat. "": there is none.
func (f fullScenario) witness(v VM) string {
	if v.Standby.Witness != "" {
		return v.Standby.Witness
	}
	first, _, _ := splitHost(v.Host)
	second, _, _ := splitHost(v.Standby.Host)
	for _, e := range f.Topology.Sites {
		if e.Name != first && e.Name != second && e.Value.Hosts > 0 && f.hosting(e.Value) {
			return e.Name + "/1"
		}
	}
	return ""
}

// standby checks a VM's.
func (c *checker) standby(f fullScenario, name string, v VM) {
	s := v.Standby
	if s == nil {
		return
	}
	at := func(key ...any) []string { return path(append([]any{"vms", name, "standby"}, key...)...) }
	if v.Guest == "" {
		if !c.touched("vms", name) {
			c.faultKey(at(), "only a VM with a guest has a standby, and in this one nothing runs; expected memory or scale beside it", "add for example `memory: 256MiB`")
		}
		return
	}
	if v.Disk == 0 && (s.Mode == ModePipelined || s.Mode == ModeSync) && !c.touched(at("mode")...) && !c.lost("vms", name, "disk") {
		c.fault(at("mode"), fmt.Sprintf("a standby of mode %s boots from its disk, and the VM has none; expected disk", s.Mode), "add for example `disk: 64MiB` to the VM")
	}
	c.standbyTimes(s, at)
	home, _, err := splitHost(v.Host)
	if err != nil || c.touched("topology", "sites") || c.touched("generate") || c.touched("vpcs") || c.lost("vms", name, "vpc") {
		return
	}
	site := c.hostOf(f, s.Host, at("host"))
	vpc, _ := f.VPCs.Get(v.VPC)
	switch {
	case site == "":
	case site == home:
		c.fault(at("host"), fmt.Sprintf("%s is in the cloud of the VM itself, and is lost with it; expected a host of another cloud", s.Host), "")
	case !slices.Contains(slices.Concat(vpc.Sites, vpc.Subnets.Names()), site):
		c.fault(at("host"), fmt.Sprintf("VPC %s does not come to site %s; expected a host at one of its sites: %s", v.VPC, site, strings.Join(slices.Concat(vpc.Sites, vpc.Subnets.Names()), ", ")),
			fmt.Sprintf("or add %s to the sites of %s", site, v.VPC))
	default:
		c.standbyWitness(f, v, home, site, at)
	}
	if home := v.Host; !c.touched("vms", name) && !f.hostingAt(home) {
		c.fault(path("vms", name, "host"), "the PE of its site runs FRR, which has no VPLS: the host is not in the network of hosts that a standby is kept by", "choose another site")
	}
}

// standbyTimes checks epoch and silence.
func (c *checker) standbyTimes(s *Standby, at func(...any) []string) {
	least := minEpoch
	if s.Mode == ModePipelined {
		least = minPipelinedEpoch
	}
	switch {
	case s.Epoch == 0 || c.lost(at("epoch")...):
	case s.Mode == ModeSync:
		c.faultKey(at("epoch"), "in mode sync each write goes by itself, and there are no epochs", "")
	case s.Epoch < least:
		c.fault(at("epoch"), fmt.Sprintf("%s is too short for mode %s; expected at least %s", s.Epoch, s.Mode, least), "")
	}
	if s.Silence == 0 || c.lost(at("silence")...) {
		return
	}
	if least := max(minSilence, silentEpochs*s.Epoch); s.Silence < least {
		c.fault(at("silence"), fmt.Sprintf("%s is too short to tell a lost cloud from a stall; expected at least %s, which is %d epochs or more", s.Silence, least, silentEpochs), "")
	}
}

// hostOf checks a host that is to be there and to reach the others; "" where it
// is not.
func (c *checker) hostOf(f fullScenario, name string, at []string) string {
	site, number, err := splitHost(name)
	if err != nil || c.lost(at...) {
		return ""
	}
	hosts := f.hosts()
	s, ok := f.Topology.Sites.Get(site)
	switch {
	case !ok || number > s.Hosts:
		c.fault(at, fmt.Sprintf("there is no host %s; expected %s", name, oneOf(hosts)), suggest(name, hosts))
	case !f.hosting(s):
		c.fault(at, fmt.Sprintf("the PE of site %s runs FRR, which has no VPLS: %s is not in the network of hosts that a standby is kept by", site, name), "choose another site")
	default:
		return site
	}
	return ""
}

// hostingAt tells whether a host is in the network of hosts.
func (f fullScenario) hostingAt(name string) bool {
	site, _, _ := splitHost(name)
	s, ok := f.Topology.Sites.Get(site)
	return !ok || f.hosting(s)
}

// standbyWitness checks who decides when the seats do not see each other.
func (c *checker) standbyWitness(f fullScenario, v VM, home, away string, at func(...any) []string) {
	if v.Standby.Witness == "" && !c.lost(at("witness")...) {
		if f.witness(v) == "" {
			c.fault(at(), "no third cloud has a host for the witness, without which nobody could tell a lost cloud from a cut line", "add a site of kind cloud to topology.sites; a host is all that it needs")
		}
		return
	}
	site := c.hostOf(f, v.Standby.Witness, at("witness"))
	if site == home || site == away {
		c.fault(at("witness"), fmt.Sprintf("%s is in a cloud of one of the seats, and is lost with it; expected a host of a third cloud", v.Standby.Witness), "")
	}
}
