package topo

import (
	"errors"
	"fmt"
	"net/netip"
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
	p, err := c.plan(f)
	if err != nil {
		return nil, err
	}
	return p, c.ds.err()
}

// plan makes the plan of a scenario as far as its lab is right, and reports
// what is wrong with what is to be done to it: reservations that cannot be
// met, events that cannot be. It is nil where the lab itself is wrong.
func (c *checker) plan(f fullScenario) (*Plan, error) {
	for _, key := range []string{"name", "topology", "generate", "vpcs", "vms"} {
		if c.touched(key) {
			return nil, nil
		}
	}
	p, err := expand(f)
	if err != nil {
		return nil, err
	}
	c.reservations(f, p)
	if !c.touched("reservations") {
		c.events(f, p)
	}
	return p, nil
}

// events does the operations of each experiment to the plan, as a trial will do
// them to the lab, and sees whether there is what its faults break.
func (c *checker) events(f fullScenario, p *Plan) {
	for i, e := range f.Experiments {
		now, clock := p, Duration(0)
		for j, event := range e.Events {
			at := path("experiments", i, "events", j)
			if c.touched(at...) {
				break // what comes after may rest on it
			}
			if event.At > 0 && event.At < clock {
				c.fault(append(at, "at"), fmt.Sprintf("%s is before the event above, which is at %s; expected them in order of time", event.At, clock), "")
			}
			clock = max(clock, event.At)
			if event.Fault.Kind != "" {
				if err := now.CheckFault(event.Fault); err != nil {
					e, _ := errors.AsType[*FaultError](err)
					c.fault(append(at, e.Key...), e.Msg, e.Hint)
					break
				}
				continue // what it does is not in the plan
			}
			next, err := now.Do(event.Operation)
			if e, refused := errors.AsType[*OperationError](err); refused {
				c.fault(append(at, e.Key...), e.Msg, e.Hint)
				break
			}
			now = next
		}
	}
}

// reservations adds those of the file to the plan, one after the other.
func (c *checker) reservations(f fullScenario, p *Plan) {
	if n := len(f.Reservations); n > maxReservations {
		c.fault(path("reservations"), fmt.Sprintf("%d reservations are too many; expected at most %d", n, maxReservations), "")
		return
	}
	refused := func(name string, err *refusal) {
		c.fault(append(path("reservations", name), err.at...), err.msg, err.hint)
	}
	for i, e := range f.Reservations {
		if c.touched("reservations", e.Name) {
			continue
		}
		r := ReservationPlan{
			Name: e.Name, Index: i + 1, VPC: e.Value.VPC, Rate: e.Value.Rate,
			Between: [2]string(e.Value.Between), Asked: e.Value.Path,
		}
		if err := p.vet(r); err != nil {
			refused(r.Name, err)
			continue
		}
		p.Reservations = append(p.Reservations, r)
	}
	unmet := p.settle(true, "")
	for _, r := range p.Reservations {
		if err := unmet[r.Name]; err != nil {
			refused(r.Name, err)
		}
	}
}

// expand makes the plan of a scenario that check has passed.
func expand(f fullScenario) (*Plan, error) {
	t := f.Topology
	b := build(&Plan{Lab: f.Name, Seed: f.Seed, ASN: t.Backbone.ASN, CoreMTU: t.Backbone.MTU, Recovery: t.Backbone.Recovery.clone()})
	if len(t.Backbone.PE) > 0 {
		b.backbone(t.Backbone)
	}
	for i, e := range t.Sites {
		b.hosts(e.Name, i+1, e.Value)
	}
	for i := range f.VPCs {
		if err := b.customer(f, i+1); err != nil {
			return nil, fmt.Errorf("expand %s: VPC %s: %w", f.Name, f.VPCs[i].Name, err)
		}
	}
	if err := b.standbys(f); err != nil {
		return nil, fmt.Errorf("expand %s: %w", f.Name, err)
	}
	if f.guests() {
		b.infra()
	}
	b.plain(t)
	p := b.finish()
	p.route()
	p.protect()
	p.raiseTopLabel()
	return p, nil
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

// backbone adds PEs, Ps, the reflector and the links between them, the
// reflector's last.
func (b *builder) backbone(t Backbone) {
	b.labels = labels{routers: len(t.PE) + len(t.P) + 1, pes: len(t.PE)}
	for i, name := range t.PE {
		b.add(Node{Name: name, Kind: KindPE, Loopback: loopback(KindPE, i+1), Forward: true, Routing: t.of(name)})
	}
	for i, name := range t.P {
		b.add(Node{Name: name, Kind: KindP, Index: len(t.PE) + i + 1, Loopback: loopback(KindP, i+1), Forward: true, Routing: t.of(name)})
	}
	b.add(Node{Name: reflector, Kind: KindRR, Index: b.labels.routers, Loopback: loopback(KindRR, 1), Forward: true})
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
		A:    Endpoint{Node: a, MAC: coreMAC(k, 1), Addr: addrA},
		B:    Endpoint{Node: z, MAC: coreMAC(k, 2), Addr: addrZ},
		AtoB: forward, BtoA: backward, MTU: b.plan.CoreMTU, Core: true, Cost: cost,
	})
}

// hosts adds a site, with the hypervisor hosts of a cloud.
func (b *builder) hosts(name string, s int, site Site) {
	at := SitePlan{Name: name, Index: s, Kind: site.Kind, PE: site.PE, BackupPE: site.BackupPE, Machines: site.Machines, Access: site.Access}
	for h := range site.Hosts {
		at.Hosts = append(at.Hosts, b.add(Node{Name: hostName(name, h+1), Kind: KindHost, Site: name}).Name)
	}
	b.plan.Sites = append(b.plan.Sites, at)
}

// customer adds VPC number v of the file: what it has at each of its sites,
// and the VMs placed by hand.
func (b *builder) customer(f fullScenario, v int) error {
	e := f.VPCs[v-1]
	made := VPCPlan{
		Name: e.Name, Service: e.Value.Service, MTU: e.Value.MTU,
		Ageing: e.Value.MACAgeing.Std(), IPv6: e.Value.IPv6,
	}
	if e.Value.Subnet != nil {
		made.Subnet = *e.Value.Subnet
	}
	vpc := b.vpc(made)
	for _, vm := range f.VMs {
		if vm.Value.VPC == e.Name && vm.Value.Address != nil {
			b.given[e.Name].addrs[*vm.Value.Address] = true // no other machine may be given it
		}
	}
	for _, l := range f.lans(v) {
		site := b.plan.Sites[l.Number-1]
		a := b.attach(vpc, site, l.Subnet)
		more, _ := e.Value.Prefixes.Get(l.Site)
		a.More = moreOf(l.Number, more)
		b.join(vpc, a)
		if err := b.populate(vpc, a, site); err != nil {
			return err
		}
		for _, vm := range f.placed(e.Name, l.Site) {
			_, h, _ := splitHost(vm.Value.Host) // check has seen it
			w := newcomer{name: vm.Name, host: site.Hosts[h-1], mac: vm.Value.MAC, guest: f.guest(vm)}
			if vm.Value.Address != nil {
				w.addr = *vm.Value.Address
			}
			if err := b.machine(vpc, a, w); err != nil {
				return fmt.Errorf("VM %s: %w", vm.Name, err)
			}
		}
	}
	return nil
}

// plain adds the bare nodes and their links.
func (b *builder) plain(t Topology) {
	for _, e := range t.Nodes {
		n := b.add(Node{Name: e.Name, Kind: KindPlain, Forward: e.Value.Forward})
		for _, r := range e.Value.Routes {
			n.Routes = append(n.Routes, Route{Dst: r.To, Via: r.Via, Dev: plainDev(t.Links, e.Name, r.Via)})
		}
	}
	for i, l := range t.Links {
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
