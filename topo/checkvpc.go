package topo

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

func (c *checker) vpcs(f fullScenario) {
	seen := map[string]bool{}
	for i, e := range f.VPCs {
		at := path("vpcs", e.Name)
		if seen[e.Name] {
			c.faultTwice(at, "VPC "+e.Name)
			continue
		}
		seen[e.Name] = true
		if e.Name == Infra && f.guests() {
			c.faultKey(at, fmt.Sprintf("%s is the name of the network that joins the hypervisor hosts, which is there where VMs have guests; expected another", Infra), "rename the VPC")
		}
		if len(e.Value.Sites)+len(e.Value.Subnets) == 0 && !c.touched("vpcs", e.Name) && !f.made[join(at)] {
			c.fault(at, "the VPC has no site; expected sites or subnets", "add for example `sites: ["+strings.Join(f.Topology.Sites.Names(), ", ")+"]`")
		}
		c.service(e.Value, at)
		c.prefixes(f, e, at)
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
	only(len(v.Prefixes) > 0, "prefixes", ServiceL3VPN, "")
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

// prefixes checks what is behind the sites of a VPC besides their LANs.
func (c *checker) prefixes(f fullScenario, vpc Entry[VPC], at []string) {
	v := vpc.Value
	sites := slices.Concat(v.Sites, v.Subnets.Names())
	for _, e := range v.Prefixes {
		at := append(slices.Clone(at), "prefixes", e.Name)
		site, _ := f.Topology.Sites.Get(e.Name)
		switch n := e.Value; {
		case c.lost(at...) || v.Service != ServiceL3VPN:
		case !slices.Contains(sites, e.Name):
			c.faultKey(at, fmt.Sprintf("the VPC has no site %q; expected %s", e.Name, oneOf(sites)), suggest(e.Name, sites))
		case n < 1 || n > maxMore:
			c.fault(at, fmt.Sprintf("%d prefixes; expected 1 to %d", n, maxMore), "")
		case slices.ContainsFunc(homes(site), func(pe string) bool { return f.Topology.Backbone.of(pe) == RoutingFRR }):
			c.fault(at, fmt.Sprintf("site %s is homed to a PE that runs FRR, which is told of LANs only", e.Name), "set `routing: controller` at that PE")
		case site.Machines+len(f.placed(vpc.Name, e.Name)) == 0:
			c.fault(at, fmt.Sprintf("site %s has no machine to answer for %d prefixes", e.Name, n), "set `machines: 1` at the site")
		}
	}
	for _, e := range v.Subnets {
		if len(v.Prefixes) > 0 && e.Value.IsValid() && e.Value.Overlaps(moreSpace) {
			c.fault(append(slices.Clone(at), "subnets", e.Name), fmt.Sprintf("%s is in %s, where the prefixes behind the VPC's sites are; expected another subnet", e.Value, moreSpace), "")
		}
	}
}

// homes are the PEs of a site.
func homes(s Site) []string { return []string{s.PE, s.BackupPE} }

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
		c.guest(e.Value, at)
		c.standby(f, e.Name, e.Value)
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
