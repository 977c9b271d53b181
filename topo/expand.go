package topo

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Expand turns a scenario into a plan: it does what generate asks for, names
// all nodes and interfaces and gives out all numbers. The same scenario gives
// the same plan. The error is a Diagnostics where the scenario is not right.
func Expand(sc *Scenario) (*Plan, error) {
	sc, err := sc.parsed()
	if err != nil {
		return nil, err
	}
	f := sc.full()
	c := &checker{doc: sc.doc, made: f.made}
	c.check(f)
	if err := c.ds.err(); err != nil {
		return nil, err
	}
	b := newBuilder(f)
	b.routers()
	b.coreLinks()
	b.siteNodes()
	b.vpcs()
	b.plain()
	b.nodesInOrder()
	b.plan.route(b.labels)
	return b.plan, nil
}

// parsed returns sc as if it had been read from a file: a scenario that was
// built in Go is written and read back, so that it gets the same checks and
// defaults.
func (sc *Scenario) parsed() (*Scenario, error) {
	if sc.doc != nil {
		return sc, nil
	}
	src, err := yaml.Marshal(sc)
	if err != nil {
		return nil, fmt.Errorf("write scenario %s: %w", sc.Name, err)
	}
	return Parse(cmpOr(sc.File, "<"+sc.Name+">"), src)
}

// builder makes one plan.
type builder struct {
	f      fullScenario
	plan   *Plan
	labels labels
	ifs    map[string]ifnames // by node
	nodes  []*Node
	index  map[string]*Node
	count  map[NodeKind]int
}

func newBuilder(f fullScenario) *builder {
	t := f.Topology.Backbone
	b := &builder{
		f: f,
		plan: &Plan{
			Lab: f.Name, Seed: f.Seed, ASN: t.ASN, CoreMTU: t.MTU,
		},
		ifs: map[string]ifnames{}, index: map[string]*Node{}, count: map[NodeKind]int{},
	}
	if len(t.PE) > 0 {
		b.labels = labels{routers: len(t.PE) + len(t.P) + 1, pes: len(t.PE)}
	}
	return b
}

// add makes a node of the plan; taken are interface names it has beforehand.
func (b *builder) add(n Node, taken ...string) *Node {
	b.count[n.Kind]++
	if n.Index == 0 {
		n.Index = b.count[n.Kind]
	}
	added := &n
	b.nodes = append(b.nodes, added)
	b.index[n.Name] = added
	b.ifs[n.Name] = newIfnames(taken...)
	return added
}

// routers adds PEs, Ps and the reflector. A PE keeps the names of its VRF
// devices from the links.
func (b *builder) routers() {
	t := b.f.Topology.Backbone
	if len(t.PE) == 0 {
		return
	}
	var vrfs []string
	for _, name := range b.f.VPCs.Names() {
		vrfs = append(vrfs, vrfName(name))
	}
	for i, name := range t.PE {
		b.add(Node{Name: name, Kind: KindPE, Loopback: loopback(KindPE, i+1), Forward: true}, vrfs...)
	}
	for i, name := range t.P {
		b.add(Node{Name: name, Kind: KindP, Index: len(t.PE) + i + 1, Loopback: loopback(KindP, i+1), Forward: true})
	}
	b.add(Node{Name: reflector, Kind: KindRR, Index: b.labels.routers, Loopback: loopback(KindRR, 1), Forward: true})
}

// coreLinks adds the links of the backbone, the reflector's last.
func (b *builder) coreLinks() {
	t := b.f.Topology.Backbone
	if len(t.PE) == 0 {
		return
	}
	for i, l := range t.Links {
		forward, backward := l.Impairment, l.Impairment
		if l.Forward != nil {
			forward = *l.Forward
		}
		if l.Backward != nil {
			backward = *l.Backward
		}
		b.coreLink(i+1, l.Between[0], l.Between[1], forward, backward, l.Cost)
	}
	b.coreLink(len(t.Links)+1, t.RR, reflector, Impairment{}, Impairment{}, 10)
}

func (b *builder) coreLink(k int, a, z string, forward, backward Impairment, cost int) {
	addrA, addrZ := coreEnds(k)
	b.link(Link{
		A:    Endpoint{Node: a, Ifname: b.ifs[a].take(z), MAC: coreMAC(k, 1), Addr: addrA},
		B:    Endpoint{Node: z, Ifname: b.ifs[z].take(a), MAC: coreMAC(k, 2), Addr: addrZ},
		AtoB: forward, BtoA: backward, MTU: b.plan.CoreMTU, Core: true, Cost: cost,
	})
}

// link adds l with its queues sized.
func (b *builder) link(l Link) {
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

// siteNodes adds the hypervisor hosts of the clouds.
func (b *builder) siteNodes() {
	for _, e := range b.f.Topology.Sites {
		for h := range e.Value.Hosts {
			b.add(Node{Name: hostName(e.Name, h+1), Kind: KindHost, Site: e.Name})
		}
	}
}

// vpcs adds what each VPC has at each of its sites, and its VRFs.
func (b *builder) vpcs() {
	for i, e := range b.f.VPCs {
		v := i + 1
		vpc := VPCPlan{Name: e.Name, Index: v, Service: e.Value.Service}
		for _, l := range b.f.lans(v) {
			vpc.Attachments = append(vpc.Attachments, b.attachment(v, e.Name, l))
		}
		for p, pe := range b.f.Topology.Backbone.PE {
			if slices.ContainsFunc(vpc.Attachments, func(a Attachment) bool { return a.PE == pe }) {
				vpc.VRFs = append(vpc.VRFs, VRF{
					PE: pe, Name: vrfName(e.Name), Table: tableBase + v,
					RD: rd(b.plan.ASN, v, p+1), Label: b.labels.vpn(v, p+1),
				})
			}
		}
		b.plan.VPCs = append(b.plan.VPCs, vpc)
	}
}

// attachment adds VPC number v at one site: CE, circuit, LAN and machines.
func (b *builder) attachment(v int, vpc string, l lan) Attachment {
	site := b.f.Topology.Sites[l.Number-1].Value
	s := l.Number
	peAddr, ceAddr := circuitEnds(s)
	ce := b.add(Node{
		Name: ceName(vpc, l.Site), Kind: KindCE, VPC: vpc, Site: l.Site, Forward: true,
		Bridges: []Bridge{{Name: "lan", Addr: l.gateway(), MAC: lanMAC(v, s, 0)}},
		Routes:  []Route{{Dst: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Via: peAddr.Addr(), Dev: "wan"}},
	}, "lan", "wan")
	a := Attachment{
		VPC: vpc, Site: l.Site, Index: s, PE: site.PE, CE: ce.Name, VRF: vrfName(vpc),
		PEIf:   b.ifs[site.PE].take(fmt.Sprintf("%s-%d", vpc, s)),
		PEAddr: peAddr, CEAddr: ceAddr.Addr(), Subnet: l.Subnet,
		ExportRT: exportRT(b.plan.ASN, v, s), ImportRT: importRT(b.plan.ASN, v, s), Joined: true,
	}
	b.link(Link{
		A:    Endpoint{Node: a.PE, Ifname: a.PEIf, MAC: lanMAC(v, s, macCircuitPE), Addr: peAddr, VRF: a.VRF},
		B:    Endpoint{Node: a.CE, Ifname: "wan", MAC: lanMAC(v, s, macCircuitCE), Addr: ceAddr},
		AtoB: site.Access, BtoA: site.Access, MTU: defaultLANMTU, VPC: vpc, Site: l.Site, AC: true,
	})
	for h := range site.Hosts {
		b.hostSegment(v, vpc, l, h+1)
	}
	for m := range site.Machines {
		host := ""
		if site.Hosts > 0 {
			host = hostName(l.Site, m%site.Hosts+1)
		}
		a.Machines = append(a.Machines, b.machine(v, vpc, l, m+1, machineName(vpc, l.Site, m+1), host))
	}
	for i, vm := range b.f.placed(vpc, l.Site) {
		_, h, _ := splitHost(vm.Value.Host) // check has seen it
		a.Machines = append(a.Machines, b.machine(v, vpc, l, site.Machines+i+1, vm.Name, hostName(l.Site, h)))
	}
	return a
}

// hostSegment puts the VPC's LAN on host h: a bridge with an uplink to the CE.
func (b *builder) hostSegment(v int, vpc string, l lan, h int) {
	node, ce := b.index[hostName(l.Site, h)], ceName(vpc, l.Site)
	bridge := hostBridge(vpc)
	node.Bridges = append(node.Bridges, Bridge{Name: bridge, MAC: lanMAC(v, l.Number, macHost|h)})
	b.ifs[node.Name][bridge] = true
	b.link(Link{
		A:   Endpoint{Node: node.Name, Ifname: b.ifs[node.Name].take("up-" + vpc), MAC: lanMAC(v, l.Number, macUplink|h), Bridge: bridge},
		B:   Endpoint{Node: ce, Ifname: b.ifs[ce].take(node.Name), MAC: lanMAC(v, l.Number, macUplinkTo|h), Bridge: "lan"},
		MTU: defaultLANMTU, VPC: vpc, Site: l.Site,
	})
}

// machine adds machine m of the LAN, plugged into its host's bridge or, where
// it has no host, into the CE's.
func (b *builder) machine(v int, vpc string, l lan, m int, name, host string) string {
	addr := l.machine(m)
	b.add(Node{
		Name: name, Kind: KindMachine, VPC: vpc, Site: l.Site, Host: host, Addr: addr.Addr(),
		Routes: []Route{{Dst: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Via: l.gateway().Addr(), Dev: "eth0"}},
	}, "eth0")
	at, bridge := ceName(vpc, l.Site), "lan"
	if host != "" {
		at, bridge = host, hostBridge(vpc)
	}
	b.link(Link{
		A:   Endpoint{Node: name, Ifname: "eth0", MAC: lanMAC(v, l.Number, m), Addr: addr},
		B:   Endpoint{Node: at, Ifname: b.ifs[at].take(name), MAC: lanMAC(v, l.Number, macPort|m), Bridge: bridge},
		MTU: defaultLANMTU, VPC: vpc, Site: l.Site,
	})
	return name
}

// plain adds the bare nodes and their links.
func (b *builder) plain() {
	for _, e := range b.f.Topology.Nodes {
		n := b.add(Node{Name: e.Name, Kind: KindPlain, Forward: e.Value.Forward})
		for _, r := range e.Value.Routes {
			n.Routes = append(n.Routes, Route{Dst: r.To, Via: r.Via, Dev: plainDev(b.f.Topology.Links, e.Name, r.Via)})
		}
	}
	for i, l := range b.f.Topology.Links {
		out := Link{MTU: l.MTU, AtoB: l.Impairment, BtoA: l.Impairment}
		if l.Forward != nil {
			out.AtoB = *l.Forward
		}
		if l.Backward != nil {
			out.BtoA = *l.Backward
		}
		for j, end := range []*Endpoint{&out.A, &out.B} {
			end.Node, end.Ifname, _ = strings.Cut(l.Endpoints[j], ":")
			end.MAC = plainMAC(i+1, j+1)
			if len(l.IPv4) == 2 {
				end.Addr = l.IPv4[j]
			}
		}
		b.link(out)
	}
}

// plainDev is the interface of node that via is reached by.
func plainDev(links []PlainLink, node string, via netip.Addr) string {
	dev, bits := "", -1
	for _, l := range links {
		for j, endpoint := range l.Endpoints {
			name, ifname, _ := strings.Cut(endpoint, ":")
			if name == node && j < len(l.IPv4) && l.IPv4[j].Contains(via) && l.IPv4[j].Bits() > bits {
				dev, bits = ifname, l.IPv4[j].Bits()
			}
		}
	}
	return dev
}

// nodesInOrder puts the nodes into the plan: routers, then site by site its
// hosts and what each VPC has there, then bare nodes.
func (b *builder) nodesInOrder() {
	sites := map[string]int{"": -1}
	for i, e := range b.f.Topology.Sites {
		sites[e.Name] = i
	}
	group := func(n *Node) int {
		if n.Kind == KindPlain {
			return len(sites)
		}
		return sites[n.Site]
	}
	slices.SortStableFunc(b.nodes, func(x, y *Node) int { return group(x) - group(y) })
	for _, n := range b.nodes {
		b.plan.Nodes = append(b.plan.Nodes, *n)
	}
}
