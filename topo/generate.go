package topo

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
)

// full returns sc with nothing left implicit but numbers: what the generate
// block makes is written out, links have the backbone's defaults in them, and
// the route reflector has its place. made holds the paths of what generate
// made, so that messages about it can point at the block; "" is in it when
// there is one.
type fullScenario struct {
	*Scenario
	made map[string]bool
}

func (sc *Scenario) full() fullScenario {
	c := *sc
	f := fullScenario{&c, map[string]bool{}}
	b := &c.Topology.Backbone
	b.PE, b.P, b.Links = slices.Clone(b.PE), slices.Clone(b.P), slices.Clone(b.Links)
	c.Topology.Sites, c.VPCs = slices.Clone(c.Topology.Sites), slices.Clone(c.VPCs)
	c.Topology.Links = slices.Clone(c.Topology.Links)
	if g := c.Generate; g != nil {
		f.made[""] = true
		f.generateBackbone(*g)
		f.generateSites(*g)
		c.Generate = nil
	}
	for i := range b.Links {
		l := &b.Links[i]
		l.Impairment = l.Impairment.over(b.Defaults)
		l.Forward, l.Backward = directed(l.Impairment, l.Forward), directed(l.Impairment, l.Backward)
	}
	for i := range c.Topology.Links {
		l := &c.Topology.Links[i]
		l.Forward, l.Backward = directed(l.Impairment, l.Forward), directed(l.Impairment, l.Backward)
	}
	if b.RR == "" {
		b.RR = first(b.P, b.PE)
	}
	return f
}

// first is the first name of the first list that has one.
func first(lists ...[]string) string {
	for _, list := range lists {
		if len(list) > 0 {
			return list[0]
		}
	}
	return ""
}

// directed is what one direction does where it is not what both do.
func directed(both Impairment, own *Impairment) *Impairment {
	if own == nil {
		return nil
	}
	merged := own.over(both)
	return &merged
}

// over returns i with what it leaves open taken from base.
func (i Impairment) over(base Impairment) Impairment {
	if i.Rate == 0 {
		i.Rate = base.Rate
	}
	if i.Delay == 0 {
		i.Delay = base.Delay
	}
	if i.Jitter == 0 {
		i.Jitter = base.Jitter
	}
	if i.Loss == 0 {
		i.Loss = base.Loss
	}
	if i.Queue == 0 {
		i.Queue = base.Queue
	}
	return i
}

func (f fullScenario) mark(path ...string) { f.made[join(path)] = true }

// generateBackbone makes p1…, their shape, and pe1… with two uplinks each.
func (f fullScenario) generateBackbone(g Generate) {
	b := &f.Topology.Backbone
	p, edge := numbered("p", g.P), numbered("p", g.P)
	link := func(from, to string) {
		f.mark("topology", "backbone", "links", strconv.Itoa(len(b.Links)))
		b.Links = append(b.Links, BackboneLink{Between: []string{from, to}, Impairment: g.Link, Cost: 10})
	}
	switch g.Backbone {
	case "ring":
		for i := range max(len(p)-1, 0) {
			link(p[i], p[i+1])
		}
		if len(p) > 2 {
			link(p[len(p)-1], p[0])
		}
	case "star":
		for _, leaf := range p[min(1, len(p)):] {
			link(p[0], leaf)
		}
		if len(p) > 1 {
			edge = p[1:]
		}
	case "mesh":
		for i := range p {
			for j := i + 1; j < len(p); j++ {
				link(p[i], p[j])
			}
		}
	case "fat-tree":
		spines := len(p) / 2
		for _, leaf := range p[spines:] {
			for _, spine := range p[:spines] {
				link(leaf, spine)
			}
		}
		edge = p[spines:]
	}
	for i, pe := range numbered("pe", g.PE) {
		f.mark("topology", "backbone", "pe", strconv.Itoa(len(b.PE)))
		b.PE = append(b.PE, pe)
		for j := range min(2, len(edge)) {
			link(pe, edge[(i+j)%len(edge)])
		}
	}
	for _, name := range p {
		f.mark("topology", "backbone", "p", strconv.Itoa(len(b.P)))
		b.P = append(b.P, name)
	}
}

// generateSites makes s1… over the generated PEs in turn, and t1… at each.
func (f fullScenario) generateSites(g Generate) {
	sites := numbered("s", g.Sites)
	firstSite := len(f.Topology.Sites) + 1
	for i, name := range sites {
		site := Site{Kind: g.SiteKind, PE: "pe" + strconv.Itoa(i%max(g.PE, 1)+1), Machines: g.Machines}
		if g.SiteKind == "cloud" {
			site.Hosts = 1
		}
		f.mark("topology", "sites", name)
		f.Topology.Sites = append(f.Topology.Sites, Entry[Site]{name, site})
	}
	for _, name := range numbered("t", g.Tenants) {
		vpc := VPC{Service: g.Service, Sites: sites, MTU: defaultMTU}
		vpc.fillByService()
		if g.Overlap && g.Service == ServiceVPLS {
			shared := defaultSubnet(0)
			vpc.Subnet = &shared
		} else if g.Overlap {
			vpc.Sites = nil
			for i, site := range sites {
				vpc.Subnets = append(vpc.Subnets, Entry[Prefix]{site, defaultLAN(0, firstSite+i)})
			}
		}
		f.mark("vpcs", name)
		f.VPCs = append(f.VPCs, Entry[VPC]{name, vpc})
	}
}

// numbered is prefix1 … prefixN.
func numbered(prefix string, n int) []string {
	names := make([]string, max(n, 0))
	for i := range names {
		names[i] = fmt.Sprint(prefix, i+1)
	}
	return names
}

// lan is one VPC at one site, as the file has it.
type lan struct {
	block
	Site   string
	Number int  // the site's, from 1; 0: there is no such site
	Chosen bool // by the user, for this site
	path   []string
}

// lans lists the LANs of VPC number v (from 1): those with default subnets
// first, each list in the order of the file.
func (f fullScenario) lans(v int) []lan {
	var all []lan
	name, vpc := f.VPCs[v-1].Name, f.VPCs[v-1].Value
	add := func(site string, choose func(s int) netip.Prefix, chosen bool, path ...string) {
		s := f.Topology.Sites.Index(site) + 1
		k := blockOf(vpc.Service, v, s, choose(s))
		all = append(all, lan{k, site, s, chosen, append([]string{"vpcs", name}, path...)})
	}
	for i, site := range vpc.Sites {
		add(site, func(s int) netip.Prefix {
			switch {
			case vpc.Service == ServiceVPLS && vpc.Subnet != nil:
				return *vpc.Subnet
			case vpc.Service == ServiceVPLS:
				return defaultSubnet(v)
			}
			return defaultLAN(v, s)
		}, false, "sites", strconv.Itoa(i))
	}
	for _, sub := range vpc.Subnets {
		add(sub.Name, func(int) netip.Prefix { return sub.Value }, true, "subnets", sub.Name)
	}
	return all
}

// placed lists the VMs put by hand into VPC vpc at site, in order of the file.
func (f fullScenario) placed(vpc, site string) []Entry[VM] {
	var vms []Entry[VM]
	for _, e := range f.VMs {
		if at, _, err := splitHost(e.Value.Host); err == nil && at == site && e.Value.VPC == vpc {
			vms = append(vms, e)
		}
	}
	return vms
}
