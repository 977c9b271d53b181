package topo

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
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
	c.plainNodes(f)
	c.plainLinks(f)
	c.plainRoutes(f)
	c.experiments(f)
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
		if e.Value.Kind == "enterprise" && e.Value.Hosts > 0 {
			c.fault(append(at, "hosts"), "an enterprise has no hypervisor hosts; expected machines", fmt.Sprintf("did you mean machines: %d, or kind: cloud?", e.Value.Hosts))
		}
		c.impairment(e.Value.Access, append(at, "access"))
	}
	if n := len(f.Topology.Sites); n > maxSites {
		c.fault(path("topology", "sites"), fmt.Sprintf("%d sites are too many; expected at most %d", n, maxSites), "")
	}
}

func (c *checker) vpcs(f fullScenario) {
	seen := map[string]bool{}
	for i, e := range f.VPCs {
		at := path("vpcs", e.Name)
		if seen[e.Name] {
			c.faultTwice(at, "VPC "+e.Name)
			continue
		}
		seen[e.Name] = true
		if len(e.Value.Sites)+len(e.Value.Subnets) == 0 && !c.touched("vpcs", e.Name) && !f.made[join(at)] {
			c.fault(at, "the VPC has no site; expected sites or subnets", "add for example `sites: ["+strings.Join(f.Topology.Sites.Names(), ", ")+"]`")
		}
		c.service(e.Value, at)
		if len(f.VPCs) <= maxVPCs && len(f.Topology.Sites) <= maxSites {
			c.lans(f, i+1, f.lans(i+1))
		}
	}
	if n := len(f.VPCs); n > maxVPCs {
		c.fault(path("vpcs"), fmt.Sprintf("%d VPCs are too many; expected at most %d", n, maxVPCs), "")
	}
}

// service checks what only one of the services has, and the frames of a vpls
// against the backbone.
func (c *checker) service(v VPC, at []string) {
	key := func(name string) []string { return append(slices.Clone(at), name) }
	only := func(given bool, name, service, hint string) {
		if given && v.Service != "" && v.Service != service {
			c.faultKey(key(name), fmt.Sprintf("only a VPC with service %s has %s, and this one is %s", service, name, v.Service), hint)
		}
	}
	only(len(v.Subnets) > 0, "subnets", ServiceL3VPN, "a vpls has one subnet: choose it by `subnet: 10.0.0.0/24` and name its sites in sites")
	only(v.Subnet != nil, "subnet", ServiceVPLS, "choose the subnet of each site by subnets")
	only(v.MACAgeing != 0, "mac-ageing", ServiceVPLS, "")
	only(v.IPv6, "ipv6", ServiceVPLS, "")
	if v.Service != ServiceVPLS {
		return
	}
	if v.MACAgeing < Duration(time.Second) && !c.lost(key("mac-ageing")...) {
		c.fault(key("mac-ageing"), fmt.Sprintf("%s is too short for a bridge to remember anything; expected at least 1s", v.MACAgeing), "")
	}
	if v.IPv6 && v.MTU < 1280 && !c.touched(key("mtu")...) {
		c.fault(key("mtu"), fmt.Sprintf("%d bytes are too few for IPv6; expected at least 1280", v.MTU), "or take ipv6 away")
	}
}

// frames reports a backbone that the frames of a vpls do not fit through: a
// pseudowire cannot fragment them (RFC 4761 has no way to), and a P router
// would drop them without a word.
func (c *checker) frames(f fullScenario) {
	mtu := path("topology", "backbone", "mtu")
	core := f.Topology.Backbone.MTU
	if c.lost(mtu...) || len(f.Topology.Backbone.PE) == 0 {
		return
	}
	_, _, chosen := c.doc.locate(mtu)
	for _, e := range f.VPCs {
		at, need := path("vpcs", e.Name, "mtu"), frameOf(e.Value.MTU, 2)
		if e.Value.Service != ServiceVPLS || need <= core || c.lost(at...) {
			continue
		}
		says := tooFewBytes(e.Name, e.Value.MTU, core)
		if chosen {
			c.fault(mtu, says, fmt.Sprintf("expected at least %d", need))
			return
		}
		c.fault(at, says, fmt.Sprintf("set topology.backbone.mtu to %d or more", need))
	}
}

// tooFewBytes says how much too small a backbone's MTU is for a vpls.
func tooFewBytes(vpc string, mtu, core int) string {
	need := frameOf(mtu, 2)
	return fmt.Sprintf("the frames of vpls %s have %d bytes in the backbone (MTU of its LANs %d, Ethernet header %d, two labels %d), and its links carry %d: %d too few",
		vpc, need, mtu, etherHeader, 2*labelBytes, core, need-core)
}

// noVPLS says why a vpls cannot come to a site.
func noVPLS(site, pe string) string {
	return fmt.Sprintf("site %s is homed to %s, which runs FRR, and FRR has no VPLS with BGP (RFC 4761)", site, pe)
}

// reserved are the addresses that no LAN may have.
var reserved = []struct {
	prefix netip.Prefix
	what   string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "no addresses of machines"},
	{netip.MustParsePrefix("127.0.0.0/8"), "each machine's own"},
	{netip.MustParsePrefix("169.254.0.0/16"), "those of the circuits between CE and PE"},
	{netip.MustParsePrefix("224.0.0.0/3"), "multicast or reserved"},
}

// lans checks the LANs of one VPC: sites, subnets, and room for the machines.
func (c *checker) lans(f fullScenario, v int, lans []lan) {
	vpls := f.VPCs[v-1].Value.Service == ServiceVPLS
	sites := f.Topology.Sites.Names()
	known := !c.lost("topology", "sites") && !c.unsure("generate")
	for i, l := range lans {
		if l.Site == "" || c.lost(l.path...) {
			continue
		}
		twice := slices.IndexFunc(lans[:i], func(o lan) bool { return o.Site == l.Site })
		switch {
		case l.Number == 0 && known && l.Chosen:
			c.faultKey(l.path, fmt.Sprintf("there is no site %q; expected %s", l.Site, oneOf(sites)), suggest(l.Site, sites))
		case l.Number == 0 && known:
			c.fault(l.path, fmt.Sprintf("there is no site %q; expected %s", l.Site, oneOf(sites)), suggest(l.Site, sites))
		case twice >= 0 && l.Chosen:
			c.faultKey(l.path, fmt.Sprintf("site %q is in sites and in subnets; expected it in one of them", l.Site), "take it out of sites to choose its subnet")
		case twice >= 0:
			c.fault(l.path, fmt.Sprintf("site %q is here twice", l.Site), "")
		case !l.Subnet.IsValid():
		case vpls && l.Number > 0 && f.Topology.Backbone.of(f.Topology.Sites[l.Number-1].Value.PE) == RoutingFRR:
			c.fault(l.path, noVPLS(l.Site, f.Topology.Sites[l.Number-1].Value.PE),
				"use l3vpn here, or set `routing: controller` at that PE")
		case vpls:
			c.roomAt(f, f.VPCs[v-1].Name, l)
		default:
			c.subnet(f, f.VPCs[v-1].Name, l, lans[:i])
		}
	}
	if vpls && f.VPCs[v-1].Value.Subnet != nil {
		c.shared(f, v, lans)
	}
}

// outside says which addresses that no LAN may have a subnet has.
func outside(subnet Prefix) (says string, bad bool) {
	for _, r := range reserved {
		if subnet.Overlaps(r.prefix) {
			return fmt.Sprintf("%s overlaps %s, which are %s; expected a subnet such as 10.0.0.0/24", subnet, r.prefix, r.what), true
		}
	}
	return "", false
}

// outOfBounds reports a subnet that no LAN may have.
func (c *checker) outOfBounds(subnet Prefix, at []string) bool {
	says, bad := outside(subnet)
	if bad {
		c.fault(at, says, "")
	}
	return bad
}

// shared checks the one subnet of a vpls: all its machines must fit in.
func (c *checker) shared(f fullScenario, v int, lans []lan) {
	name, subnet := f.VPCs[v-1].Name, *f.VPCs[v-1].Value.Subnet
	at := path("vpcs", name, "subnet")
	if c.lost(at...) || c.outOfBounds(subnet, at) || subnet == defaultSubnet(v) {
		return
	}
	want := 0
	for _, l := range lans {
		if l.Number > 0 {
			want += f.Topology.Sites[l.Number-1].Value.Machines + len(f.placed(name, l.Site))
		}
	}
	if room := (block{subnet, subnet}).room(); want > room && !c.touched("topology", "sites") {
		c.fault(at, fmt.Sprintf("%s has room for %s, and the sites of %s have %d", subnet, plural(room, "machine"), name, want), "choose a larger subnet")
	}
}

// subnet checks the addresses of one LAN against those before it.
func (c *checker) subnet(f fullScenario, vpc string, l lan, before []lan) {
	if c.outOfBounds(l.Subnet, l.path) {
		return
	}
	for _, o := range before {
		if o.Subnet.IsValid() && o.Number > 0 && o.Subnet.Overlaps(l.Subnet) {
			c.fault(l.path, fmt.Sprintf("%s overlaps %s of site %s; expected subnets that are apart within a VPC", l.Subnet, o.Subnet, o.Site), "")
			return
		}
	}
	c.roomAt(f, vpc, l)
}

// roomAt checks that the machines of a site fit into what the LAN has for it.
func (c *checker) roomAt(f fullScenario, vpc string, l lan) {
	if l.Number == 0 {
		return
	}
	v, _ := f.VPCs.Get(vpc)
	if v.Service == ServiceVPLS && l.from == l.Subnet {
		return // shared counts all sites together
	}
	site := f.Topology.Sites[l.Number-1].Value
	placed := len(f.placed(vpc, l.Site))
	if site.Machines+placed <= l.room() || c.touched("topology", "sites", l.Site, "machines") {
		return
	}
	beside := " beside the gateway"
	if v.Service == ServiceVPLS {
		beside = ""
	}
	msg := fmt.Sprintf("%s has room for %s%s, and site %s has %d", l.from, plural(l.room(), "machine"), beside, l.Site, site.Machines)
	if placed > 0 {
		msg += fmt.Sprintf(" and %d VMs placed by hand", placed)
	}
	hint := "choose a larger subnet"
	switch {
	case v.Service == ServiceVPLS:
		hint = fmt.Sprintf("choose one for all sites by `subnet: 10.%d.0.0/16`", 100+l.Number%100)
	case !l.Chosen:
		hint = fmt.Sprintf("choose one by subnets: {%s: 10.%d.0.0/16}", l.Site, 100+l.Number%100)
	}
	c.fault(l.path, msg, hint)
}

func (c *checker) vms(f fullScenario) {
	for _, e := range f.VMs {
		at := path("vms", e.Name)
		vpc, haveVPC := f.VPCs.Get(e.Value.VPC)
		if names := f.VPCs.Names(); e.Value.VPC != "" && !haveVPC && !c.lost("vpcs") && !c.unsure("generate") {
			c.fault(append(at, "vpc"), fmt.Sprintf("there is no VPC %q; expected %s", e.Value.VPC, oneOf(names)), suggest(e.Value.VPC, names))
		}
		siteName, number, err := splitHost(e.Value.Host)
		if err != nil || c.lost("topology", "sites") || c.unsure("generate") {
			continue
		}
		site, haveSite := f.Topology.Sites.Get(siteName)
		hosts := f.hosts()
		at = append(at, "host")
		switch {
		case !haveSite:
			c.fault(at, fmt.Sprintf("there is no site %q; expected %s", siteName, oneOf(hosts)), suggest(e.Value.Host, hosts))
		case c.touched("topology", "sites", siteName):
		case site.Kind != "cloud":
			c.fault(at, fmt.Sprintf("site %s is no cloud and has no hosts; expected %s", siteName, oneOf(hosts)), "")
		case number > site.Hosts:
			c.fault(at, fmt.Sprintf("site %s has %s; expected %s", siteName, plural(site.Hosts, "host"), oneOf(hosts)), "")
		case haveVPC && !c.touched("vpcs", e.Value.VPC) && !slices.Contains(vpc.Sites, siteName) && vpc.Subnets.Index(siteName) < 0:
			c.fault(at, fmt.Sprintf("VPC %s does not come to site %s; expected a host at one of its sites: %s", e.Value.VPC, siteName,
				strings.Join(slices.Concat(vpc.Sites, vpc.Subnets.Names()), ", ")), fmt.Sprintf("or add %s to the sites of %s", siteName, e.Value.VPC))
		}
	}
	for i, e := range f.VPCs {
		if !c.touched("vpcs", e.Name) && !c.lost("topology", "sites") && len(f.VPCs) <= maxVPCs && len(f.Topology.Sites) <= maxSites {
			c.chosen(f, i+1)
		}
	}
}

// chosen checks the addresses and MACs that VMs of VPC number v are given by
// the file.
func (c *checker) chosen(f fullScenario, v int) {
	name := f.VPCs[v-1].Name
	lans := f.lans(v)
	macs, addrs := map[MAC]string{}, map[Addr]string{}
	for _, e := range f.VMs {
		at := path("vms", e.Name)
		site, _, err := splitHost(e.Value.Host)
		i := slices.IndexFunc(lans, func(l lan) bool { return l.Site == site && l.Number > 0 })
		if e.Value.VPC != name || err != nil || i < 0 || c.lost(at...) {
			continue
		}
		if m := e.Value.MAC; !m.IsZero() {
			at := append(slices.Clone(at), "mac")
			switch other, twice := macs[m]; {
			case twice:
				c.fault(at, fmt.Sprintf("%s is the MAC of VM %s; expected one of its own within VPC %s", m, other, name), "")
			case m[1] == byte(v>>8) && m[2] == byte(v):
				c.fault(at, fmt.Sprintf("%s is one of those that vpclab gives in VPC %s, which begin with %s", m, name, m.String()[:8]), "choose another, such as 02:aa"+m.String()[5:])
			}
			macs[m] = e.Name
		}
		if e.Value.Address != nil {
			c.address(f, v, lans[i], *e.Value.Address, addrs, append(at, "address"))
			addrs[*e.Value.Address] = e.Name
		}
	}
}

// address checks one that is chosen for a VM in a LAN; taken are those of the
// VMs before it.
func (c *checker) address(f fullScenario, v int, l lan, a Addr, taken map[Addr]string, at []string) {
	vpls := f.VPCs[v-1].Value.Service == ServiceVPLS
	last := offset(l.Subnet, 1<<(32-l.Subnet.Bits())-1)
	other, twice := taken[a]
	switch {
	case !l.Subnet.Contains(a):
		c.fault(at, fmt.Sprintf("%s is not in %s, the subnet of VPC %s at site %s", a, l.Subnet, f.VPCs[v-1].Name, l.Site), "")
	case a == l.Subnet.Addr() || a == last:
		c.fault(at, fmt.Sprintf("%s is the first or last address of %s, which no machine can have", a, l.Subnet), "")
	case !vpls && a == l.gateway().Addr():
		c.fault(at, fmt.Sprintf("%s is the gateway's in %s", a, l.Subnet), "")
	case twice:
		c.fault(at, fmt.Sprintf("%s is the address of VM %s; expected one of its own within the VPC", a, other), "")
	default:
		if m := f.numbered(v, a); m != "" {
			c.fault(at, fmt.Sprintf("%s is the address of %s", a, m), "choose another, or fewer machines")
		}
	}
}

// numbered names the machine of VPC number v whose address follows from its
// number and is a.
func (f fullScenario) numbered(v int, a Addr) string {
	for _, l := range f.lans(v) {
		if l.Number == 0 || f.VPCs[v-1].Value.Service == ServiceVPLS && l.from == l.Subnet {
			continue
		}
		for m := range min(f.Topology.Sites[l.Number-1].Value.Machines, l.room()) {
			if l.machine(m+1) == a {
				return machineName(f.VPCs[v-1].Name, l.Site, m+1)
			}
		}
	}
	return ""
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
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
		if e.Kind != "" && e.Kind != "vpc-operations" && len(f.VPCs) == 0 && !c.lost("vpcs") && !c.touched("generate") {
			c.fault(path("experiments", i, "kind"), e.Kind+" needs a VPC, and there is none; expected vpcs or generate", "")
		}
		if e.Baseline != "" && e.Kind != "" && e.Kind != "vpc-setup" {
			c.faultKey(path("experiments", i, "baseline"), "only vpc-setup has a baseline, and this is "+e.Kind, "")
		}
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
		at = append(at, "holds")
		if len(claim.Holds) == 0 && !c.touched(at...) {
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
	for _, e := range f.VMs {
		take(e.Name, "VM "+e.Name, path("vms", e.Name))
	}
	for _, e := range f.Topology.Nodes {
		take(e.Name, "node "+e.Name, path("topology", "nodes", e.Name))
	}
}
