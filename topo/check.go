package topo

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// check reports what is wrong with the meaning of a scenario. Whatever passes
// it can be expanded.
func (c *checker) check(f fullScenario) {
	c.something(f)
	c.backbone(f)
	c.sites(f)
	c.vpcs(f)
	c.frames(f)
	c.vms(f)
	c.overcommit(f)
	c.plainNodes(f)
	c.plainLinks(f)
	c.plainRoutes(f)
	c.experiments(f)
	c.eventForms(f)
	c.claims(f)
	if c.size(f) {
		c.names(f)
	}
}

// maxNodes is how many nodes a lab may have: far beyond what one kernel
// carries, and small enough to count before anything is built.
const maxNodes = 20_000

// size reports a lab that is too large, false then.
func (c *checker) size(f fullScenario) bool {
	n := len(f.Topology.Backbone.PE) + len(f.Topology.Backbone.P) + len(f.Topology.Nodes) + len(f.VMs) + len(f.hosts())
	for _, e := range f.VMs {
		if e.Value.Standby != nil {
			n++
		}
	}
	for _, e := range f.VPCs {
		for _, site := range slices.Concat(e.Value.Sites, e.Value.Subnets.Names()) {
			s, _ := f.Topology.Sites.Get(site)
			n += 1 + s.Machines
		}
	}
	if n <= maxNodes {
		return true
	}
	at := path("vpcs")
	if f.made[""] {
		at = path("generate")
	}
	c.fault(at, fmt.Sprintf("the lab would have %d nodes; expected at most %d", n, maxNodes), "take fewer sites, VPCs or machines")
	return false
}

// something makes sure that there is anything to build.
func (c *checker) something(f fullScenario) {
	t := f.Topology
	if len(t.Backbone.PE)+len(t.Backbone.P)+len(t.Sites)+len(t.Nodes) == 0 && !c.touched("topology") && !c.touched("generate") {
		c.fault(nil, "there is nothing to build; expected topology (backbone and sites, or nodes and links) or generate", "see `vpclab render quickstart` for a small scenario")
	}
	if e, ok := formats["vpclab-lab"].check(f.Name).(*valueError); ok && !c.lost("name") {
		c.fault([]string{"name"}, e.Msg, e.Hint) // it may have been changed since it was read
	}
	if m := f.Kernel.Memory; m != 0 && m < 64<<20 {
		c.fault([]string{"kernel", "memory"}, fmt.Sprintf("%s is too little for a kernel; expected at least 64MiB", m), "")
	}
}

func path(elements ...any) []string {
	p := make([]string, len(elements))
	for i, e := range elements {
		p[i] = fmt.Sprint(e)
	}
	return p
}

func (c *checker) backbone(f fullScenario) {
	b := f.Topology.Backbone
	seen := map[string][]string{}
	for _, list := range []struct {
		key, what string
		names     []string
		most      int
	}{{"pe", "PE", b.PE, maxPEs}, {"p", "P", b.P, maxPs}} {
		for i, name := range list.names {
			at := path("topology", "backbone", list.key, i)
			switch {
			case name == "":
			case name == reflector:
				c.fault(at, `"rr" is the name of the route reflector, which is always there`, "choose another name")
			case slices.Contains(reservedIfnames, name):
				c.fault(at, fmt.Sprintf("%q cannot be the name of a router: links to it are named after it, and the kernel keeps that name for itself", name), "choose another name")
			case seen[name] != nil && f.made[join(at)]:
				c.faultTwice(seen[name], "router "+name)
			case seen[name] != nil:
				c.fault(at, fmt.Sprintf("router %q is already in %s", name, seen[name][2]), "")
			default:
				seen[name] = at
			}
		}
		if len(list.names) > list.most {
			c.fault(path("topology", "backbone", list.key), fmt.Sprintf("%d %s routers are too many; expected at most %d", len(list.names), list.what, list.most), "")
		}
	}
	routers := slices.Concat(b.PE, b.P)
	known := !c.unsure("topology", "backbone", "pe") && !c.unsure("topology", "backbone", "p")
	if len(b.P) > 0 && len(b.PE) == 0 && known {
		c.fault(path("topology", "backbone", "p"), "there are P routers but no PE; expected pe: with at least one router", "")
	}
	if b.RR != "" && known && !slices.Contains(routers, b.RR) && !c.lost("topology", "backbone", "rr") {
		c.fault(path("topology", "backbone", "rr"), fmt.Sprintf("there is no router %q; expected %s", b.RR, oneOf(routers)), suggest(b.RR, routers))
	}
	for _, e := range b.Routers {
		at := path("topology", "backbone", "routers", e.Name)
		switch {
		case e.Name == reflector:
			c.faultKey(at, "the route reflector is always vpclab's own: it rewrites the route targets", "expected "+oneOf(routers))
		case known && !slices.Contains(routers, e.Name) && !c.lost(at...):
			c.faultKey(at, fmt.Sprintf("there is no router %q; expected %s", e.Name, oneOf(routers)), suggest(e.Name, routers))
		}
	}
	c.backboneLinks(f, routers, known)
	if known && !c.touched("topology", "backbone", "links") {
		c.connected(b, routers)
	}
	c.impairment(b.Defaults, path("topology", "backbone", "defaults"))
	c.recovery(b.Recovery)
}

func (c *checker) backboneLinks(f fullScenario, routers []string, known bool) {
	seen := map[[2]string]int{}
	for i, l := range f.Topology.Backbone.Links {
		at := path("topology", "backbone", "links", i)
		c.impairment(l.Impairment, at)
		c.directions(l.Forward, l.Backward, at)
		if len(l.Between) != 2 {
			continue
		}
		for j, name := range l.Between {
			if name != "" && known && !slices.Contains(routers, name) {
				c.fault(append(at, "between", strconv.Itoa(j)), fmt.Sprintf("there is no router %q; expected %s", name, oneOf(routers)), suggest(name, routers))
			}
		}
		a, b := l.Between[0], l.Between[1]
		pair := [2]string{min(a, b), max(a, b)}
		previous, twice := seen[pair]
		switch {
		case a == "" || b == "":
		case a == b:
			c.fault(append(at, "between", "1"), fmt.Sprintf("%q is linked to itself; expected two routers", a), "")
		case twice:
			c.fault(append(at, "between"), fmt.Sprintf("%s and %s are already linked by links[%d]; expected one link between two routers", a, b, previous), "")
		default:
			seen[pair] = i
		}
	}
	if n := len(f.Topology.Backbone.Links); n > 0x7000 {
		c.fault(path("topology", "backbone", "links"), fmt.Sprintf("%d links are too many; expected at most %d", n, 0x7000), "")
	}
}

func (c *checker) directions(forward, backward *Impairment, at []string) {
	if forward != nil {
		c.impairment(*forward, append(slices.Clone(at), "forward"))
	}
	if backward != nil {
		c.impairment(*backward, append(slices.Clone(at), "backward"))
	}
}

// impairment checks what a link does once defaults are in it.
func (c *checker) impairment(i Impairment, at []string) {
	if i.Jitter > 0 && i.Delay == 0 && !c.lost(append(at, "delay")...) {
		c.fault(append(at, "jitter"), "jitter varies a delay, and there is none; expected delay beside it", fmt.Sprintf("add for example `delay: %s`", 4*i.Jitter))
	}
}

// connected reports the routers that no path leads to from the first.
func (c *checker) connected(b Backbone, routers []string) {
	if len(routers) == 0 {
		return
	}
	reached := map[string]bool{routers[0]: true}
	for again := true; again; {
		again = false
		for _, l := range b.Links {
			if len(l.Between) == 2 && reached[l.Between[0]] != reached[l.Between[1]] {
				reached[l.Between[0]], reached[l.Between[1]], again = true, true, true
			}
		}
	}
	var apart []string
	for _, name := range routers {
		if !reached[name] && name != "" {
			apart = append(apart, name)
		}
	}
	if len(apart) > 0 {
		at := path("topology", "backbone", "links")
		if len(b.Links) == 0 {
			at = path("topology", "backbone")
		}
		c.fault(at, fmt.Sprintf("no links lead from %s to %s; expected links that join all routers", routers[0], strings.Join(apart, ", ")),
			fmt.Sprintf("add for example `- {between: [%s, %s]}`", routers[0], apart[0]))
	}
}

func (c *checker) sites(f fullScenario) {
	pes := f.Topology.Backbone.PE
	seen := map[string]bool{}
	for _, e := range f.Topology.Sites {
		at := path("topology", "sites", e.Name)
		if seen[e.Name] {
			c.faultTwice(at, "site "+e.Name)
		}
		seen[e.Name] = true
		if pe := e.Value.PE; pe != "" && !slices.Contains(pes, pe) && !c.unsure("topology", "backbone", "pe") {
			msg := fmt.Sprintf("there is no PE %q; expected %s", pe, oneOf(pes))
			if slices.Contains(f.Topology.Backbone.P, pe) {
				msg = fmt.Sprintf("%q is a P router, and sites are homed to PEs; expected %s", pe, oneOf(pes))
			}
			c.fault(append(at, "pe"), msg, suggest(pe, pes))
		}
		c.backupPE(f, e.Value, at)
		if e.Value.Kind == "enterprise" && e.Value.Hosts > 0 {
			c.fault(append(at, "hosts"), "an enterprise has no hypervisor hosts; expected machines", fmt.Sprintf("did you mean machines: %d, or kind: cloud?", e.Value.Hosts))
		}
		c.impairment(e.Value.Access, append(at, "access"))
	}
	if n := len(f.Topology.Sites); n > maxSites {
		c.fault(path("topology", "sites"), fmt.Sprintf("%d sites are too many; expected at most %d", n, maxSites), "")
	}
}

// hosts lists all hypervisor hosts as a VM names them.
func (f fullScenario) hosts() []string {
	var all []string
	for _, e := range f.Topology.Sites {
		for h := range e.Value.Hosts {
			all = append(all, fmt.Sprintf("%s/%d", e.Name, h+1))
		}
	}
	return all
}

func (c *checker) plainNodes(f fullScenario) {
	for _, e := range f.Topology.Nodes {
		if slices.Contains(reservedIfnames, e.Name) {
			c.faultKey(path("topology", "nodes", e.Name), fmt.Sprintf("%q cannot be the name of a node: the kernel keeps it for itself", e.Name), "choose another name")
		}
	}
	if n := len(f.Topology.Links); n > 0xffff {
		c.fault(path("topology", "links"), fmt.Sprintf("%d links are too many; expected at most %d", n, 0xffff), "")
	}
}

func (c *checker) plainLinks(f fullScenario) {
	nodes := f.Topology.Nodes.Names()
	ends, addrs := map[string]int{}, map[netip.Addr]int{}
	for i, l := range f.Topology.Links {
		at := path("topology", "links", i)
		c.impairment(l.Impairment, at)
		c.directions(l.Forward, l.Backward, at)
		for j, endpoint := range l.Endpoints {
			at := append(slices.Clone(at), "endpoints", strconv.Itoa(j))
			node, _, _ := strings.Cut(endpoint, ":")
			previous, twice := ends[endpoint]
			switch {
			case endpoint == "":
			case !slices.Contains(nodes, node) && !c.lost("topology", "nodes"):
				c.fault(at, fmt.Sprintf("there is no node %q in topology.nodes; expected %s", node, oneOf(nodes)), suggest(node, nodes))
			case twice:
				c.fault(at, fmt.Sprintf("%s is already an end of links[%d]; expected each interface once", endpoint, previous), "")
			default:
				ends[endpoint] = i
			}
		}
		for j, p := range l.IPv4 {
			at := append(slices.Clone(at), "ipv4", strconv.Itoa(j))
			previous, twice := addrs[p.Addr()]
			switch {
			case !p.IsValid():
			case twice:
				c.fault(at, fmt.Sprintf("%s is already given in links[%d]; expected each address once", p.Addr(), previous), "")
			case p.Bits() < 31 && (p.Addr() == p.Masked().Addr() || p.Addr() == offset(p, 1<<(32-p.Bits())-1)):
				c.fault(at, fmt.Sprintf("%s is the first or last address of its subnet, which no interface can have", p), "")
			default:
				addrs[p.Addr()] = i
			}
		}
		if len(l.IPv4) == 2 && l.IPv4[0].IsValid() && l.IPv4[1].IsValid() && l.IPv4[0].Masked() != l.IPv4[1].Masked() {
			c.fault(append(at, "ipv4"), fmt.Sprintf("%s and %s are in different subnets; expected two addresses of one", l.IPv4[0], l.IPv4[1]), "")
		}
	}
}

func (c *checker) plainRoutes(f fullScenario) {
	if c.touched("topology", "links") {
		return
	}
	for _, e := range f.Topology.Nodes {
		near := connectedPrefixes(f.Topology.Links, e.Name)
		seen := map[netip.Prefix]bool{}
		for i, r := range e.Value.Routes {
			at := path("topology", "nodes", e.Name, "routes", i)
			if !r.To.IsValid() || !r.Via.IsValid() {
				continue
			}
			if seen[r.To] {
				c.fault(append(at, "to"), fmt.Sprintf("there is already a route to %s", r.To), "")
			}
			seen[r.To] = true
			if !slices.ContainsFunc(near, func(p netip.Prefix) bool { return p.Contains(r.Via) && p.Addr() != r.Via }) {
				var list []string
				for _, p := range near {
					list = append(list, p.Masked().String())
				}
				c.fault(append(at, "via"), fmt.Sprintf("%s is no neighbour of %s; expected another node's address in %s", r.Via, e.Name, oneOf(list)), "")
			}
		}
	}
}

// connectedPrefixes are the addresses that node has on its links.
func connectedPrefixes(links []PlainLink, node string) []netip.Prefix {
	var near []netip.Prefix
	for _, l := range links {
		for j, endpoint := range l.Endpoints {
			if strings.HasPrefix(endpoint, node+":") && j < len(l.IPv4) {
				near = append(near, l.IPv4[j])
			}
		}
	}
	return near
}

func (c *checker) experiments(f fullScenario) {
	seen := map[string]int{}
	for i, e := range f.Experiments {
		if previous, twice := seen[e.Name]; twice && e.Name != "" {
			c.fault(path("experiments", i, "name"), fmt.Sprintf("experiments[%d] has the name %q too; expected different names, as results are filed by them", previous, e.Name), "")
		}
		seen[e.Name] = i
		if e.Kind != "" && e.Kind != "vpc-operations" && e.Kind != "content" && len(f.VPCs) == 0 && !c.lost("vpcs") && !c.touched("generate") {
			c.fault(path("experiments", i, "kind"), e.Kind+" needs a VPC, and there is none; expected vpcs or generate", "")
		}
		if e.Baseline != "" && e.Kind != "" && e.Kind != "vpc-setup" {
			c.faultKey(path("experiments", i, "baseline"), "only vpc-setup has a baseline, and this is "+e.Kind, "")
		}
		c.measured(f, i, e)
		c.migration(f, i, e)
		for _, v := range e.Vary {
			for j, value := range v.Value {
				if k := slices.Index(v.Value, value); k < j {
					c.fault(path("experiments", i, "vary", v.Name, j), fmt.Sprintf("%s is in the list twice", value), "")
				}
			}
		}
	}
	for i, name := range f.Figures {
		if name != "" && slices.Index(f.Figures, name) < i {
			c.fault(path("figures", i), fmt.Sprintf("figure %q is in the list twice", name), "")
		}
	}
}

// measured checks whose traffic an experiment measures.
func (c *checker) measured(f fullScenario, i int, e Experiment) {
	at := path("experiments", i, "reservation")
	switch {
	case e.Reservation == "" || c.lost(at...):
	case e.Kind != "" && e.Kind != "reservation":
		c.faultKey(at, "only the experiment reservation measures one, and this is "+e.Kind, "")
	case !slices.Contains(f.Reservations.Names(), e.Reservation) && !c.touched("reservations"):
		c.fault(at, fmt.Sprintf("there is no reservation %q; expected %s", e.Reservation, oneOf(f.Reservations.Names())), suggest(e.Reservation, f.Reservations.Names()))
	}
}

// claims checks the shape of the claims: what is in them is judged elsewhere.
func (c *checker) claims(f fullScenario) {
	var experiments []string
	for _, e := range f.Experiments {
		experiments = append(experiments, e.Name)
	}
	seen := map[string]int{}
	for i, claim := range f.Claims {
		at := path("claims", i)
		if previous, twice := seen[claim.ID]; twice && claim.ID != "" {
			c.fault(append(slices.Clone(at), "id"), fmt.Sprintf("claims[%d] has the id %s too; expected one of its own for each", previous, claim.ID), "")
		}
		seen[claim.ID] = i
		c.numbers(claim, at, experiments)
		at = append(at, "holds")
		switch {
		case len(claim.Holds) > 0 || c.touched(at...):
		case len(claim.Numbers) == 0 && !c.touched("claims", fmt.Sprint(i), "numbers"):
			c.fault(at, "nothing has to hold; expected an experiment and what must hold of its results", "add for example `audit: [leaks == 0]`")
		}
		for _, h := range claim.Holds {
			at := append(slices.Clone(at), h.Name)
			switch {
			case c.touched(at...):
			case !slices.Contains(experiments, h.Name) && !c.touched("experiments"):
				c.faultKey(at, fmt.Sprintf("there is no experiment %q; expected %s", h.Name, oneOf(experiments)), suggest(h.Name, experiments))
			case len(h.Value) == 0:
				c.fault(at, "the list is empty; expected what must hold of the results", "")
			}
		}
	}
}

// names makes sure that no two nodes get one name.
func (c *checker) names(f fullScenario) {
	taken := map[string]string{}
	take := func(name, what string, at []string) {
		if name == "" || c.lost(at...) {
			return
		}
		if other, ok := taken[name]; ok {
			c.faultKey(at, fmt.Sprintf("%s would be named %s, and so would %s; expected a name of its own for each node", what, name, other), "rename one of them")
			return
		}
		taken[name] = what
	}
	b := f.Topology.Backbone
	for i, name := range slices.Concat(b.PE, b.P) {
		if _, twice := taken[name]; !twice && i < len(b.PE) {
			take(name, "PE "+name, path("topology", "backbone", "pe", i))
		} else if !twice {
			take(name, "P "+name, path("topology", "backbone", "p", i-len(b.PE)))
		}
	}
	if len(b.PE) > 0 {
		take(reflector, "the route reflector", path("topology", "backbone"))
	}
	for _, e := range f.Topology.Sites {
		for h := range e.Value.Hosts {
			take(hostName(e.Name, h+1), fmt.Sprintf("host %d of site %s", h+1, e.Name), path("topology", "sites", e.Name))
		}
	}
	for v, e := range f.VPCs {
		for _, l := range f.lans(v + 1) {
			if l.Number == 0 || c.lost(l.path...) {
				continue
			}
			in := fmt.Sprintf("VPC %s at site %s", e.Name, l.Site)
			take(ceName(e.Name, l.Site), "the CE of "+in, path("vpcs", e.Name))
			for m := range min(f.Topology.Sites[l.Number-1].Value.Machines, l.room()) {
				take(machineName(e.Name, l.Site, m+1), fmt.Sprintf("machine %d of %s", m+1, in), path("vpcs", e.Name))
			}
		}
	}
	if f.guests() {
		for _, e := range f.Topology.Sites {
			if f.hosting(e.Value) {
				take(ceName(Infra, e.Name), fmt.Sprintf("the CE of the hosts' network at site %s", e.Name), path("topology", "sites", e.Name))
			}
		}
	}
	for _, e := range f.VMs {
		take(e.Name, "VM "+e.Name, path("vms", e.Name))
		if e.Value.Standby != nil {
			take(e.Name+standbySuffix, "the standby of VM "+e.Name, path("vms", e.Name, "standby"))
		}
	}
	for _, e := range f.Topology.Nodes {
		take(e.Name, "node "+e.Name, path("topology", "nodes", e.Name))
	}
}
