package audit

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vpclab/vpclab/topo"
)

// Kind is a kind of question.
type Kind string

const (
	// KindIP and KindFrame are honest packets and frames between machines.
	KindIP    Kind = "ip"
	KindFrame Kind = "frame"
	// KindSpoofedIP are packets to machines of other VPCs from addresses that
	// the sender does not have: of a neighbour of the victim, of its own PE, of
	// its own VPC's other site.
	KindSpoofedIP Kind = "spoofed-ip"
	// KindProvider are packets to the backbone's own addresses: loopbacks of
	// PEs, Ps and the reflector, ends of backbone links, circuits of other
	// VPCs.
	KindProvider Kind = "provider"
	// KindSpoofedMAC are frames with the MAC address of a machine of another
	// VPC, to everybody and to a neighbour of that machine.
	KindSpoofedMAC Kind = "spoofed-mac"
	// KindLabel are frames with one label that some router gave out, over a
	// packet or frame to a machine of a VPC that the label leads to.
	KindLabel Kind = "label"
	// KindLabelStack are frames with two labels: one that leads to a PE, or
	// explicit null, and below it one of another VPC there.
	KindLabelStack Kind = "label-stack"
)

// Kinds of attacks, in order.
var attackKinds = []Kind{KindSpoofedIP, KindProvider, KindSpoofedMAC, KindLabel, KindLabelStack}

// probe is one frame that somebody sends.
type probe struct {
	kind     Kind
	from     *source
	dst, src topo.MAC
	stack    [2]uint32
	labels   int // how many of stack
	// What the frame, or the label stack, carries: an IP packet, or with ip
	// false a frame (below a label stack) or nothing but a mark.
	ip              bool
	ipSrc, ipDst    netip.Addr
	innerDst, inner topo.MAC
}

// what is the probe in words.
func (p *probe) what() string {
	var b strings.Builder
	if p.labels > 0 {
		fmt.Fprintf(&b, "%s over ", labelWords(p.stack[:p.labels]))
	}
	switch {
	case p.ip:
		fmt.Fprintf(&b, "a packet from %s to %s", p.ipSrc, p.ipDst)
	case p.labels > 0:
		fmt.Fprintf(&b, "a frame from %s to %s", p.inner, p.innerDst)
	default:
		fmt.Fprintf(&b, "a frame from %s", p.src)
	}
	if p.labels > 0 || !p.ip {
		to := p.dst.String()
		if p.dst == broadcast {
			to = "everybody"
		}
		if p.labels > 0 {
			b.WriteString(", sent")
		}
		b.WriteString(" to " + to)
	}
	return b.String()
}

// labelWords writes labels as captures do, outermost first.
func labelWords(stack []uint32) string {
	if len(stack) == 0 {
		return "unlabelled"
	}
	words := make([]string, len(stack))
	for i, l := range stack {
		words[i] = fmt.Sprint(l)
	}
	return "label " + strings.Join(words, "/")
}

var broadcast = topo.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// collector keeps every so many-th of the probes that it is given.
type collector struct {
	every int // 0: none, they are only counted
	seen  int
	kept  []probe
}

func (c *collector) add(p probe) {
	if c.every > 0 && c.seen%c.every == 0 {
		c.kept = append(c.kept, p)
	}
	c.seen++
}

// attacks are all probes that a hostile customer tries from one interface.
func (g *ground) attacks(s *source, c *collector) {
	g.spoofedPackets(s, c)
	g.providerPackets(s, c)
	g.spoofedFrames(s, c)
	g.labelled(s, c)
	if s.wire {
		g.guesses(s, c)
		g.stacked(s, c)
	}
}

// victims are machines of other VPCs, one a LAN.
func (g *ground) victims(s *source) (victims []*machine) {
	for _, v := range g.plan.VPCs {
		if v.Name != s.vpc {
			victims = append(victims, g.firsts[v.Name]...)
		}
	}
	return victims
}

// victim is one machine of the VPC, one behind the PE if there is one; of any
// other VPC where the label is no VPC's. Nil: there is none.
func (g *ground) victim(s *source, vpc, pe string) *machine {
	all := g.firsts[vpc]
	if vpc == "" {
		all = g.victims(s)
	}
	for _, v := range all {
		if _, there := v.lan.at(pe); there {
			return v
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all[0]
}

// elsewhere is an address of the sender's VPC at another site, or its own.
func (g *ground) elsewhere(s *source) netip.Addr {
	for _, m := range g.firsts[s.vpc] {
		if m.Site != s.site {
			return m.Addr
		}
	}
	return s.addr
}

// packets adds an unlabelled packet by each of the sender's ways to the PE.
func (s *source) packets(kind Kind, c *collector, from, to netip.Addr) {
	for _, hop := range s.hops {
		c.add(probe{kind: kind, from: s, dst: hop, src: s.mac, ip: true, ipSrc: from, ipDst: to})
	}
}

func (g *ground) spoofedPackets(s *source, c *collector) {
	for _, v := range g.victims(s) {
		from := []netip.Addr{g.neighbour(v).Addr, g.loopbacks[s.pe], g.elsewhere(s)}
		slices.SortFunc(from, netip.Addr.Compare)
		for _, a := range slices.Compact(from) {
			if a != v.Addr {
				s.packets(KindSpoofedIP, c, a, v.Addr)
			}
		}
	}
}

// providerPackets leave out addresses that the VPC has itself: then it is
// meant.
func (g *ground) providerPackets(s *source, c *collector) {
	for _, a := range g.provider {
		if g.has(s.vpc, a) {
			continue
		}
		for _, from := range []netip.Addr{s.addr, g.loopbacks[s.pe]} {
			if from != a {
				s.packets(KindProvider, c, from, a)
			}
		}
	}
}

// spoofedFrames leave out MAC addresses of the sender's own VPC: spoofing them
// is its own affair, and would cut a machine off.
func (g *ground) spoofedFrames(s *source, c *collector) {
	own := map[topo.MAC]bool{}
	for _, m := range g.machines {
		own[m.mac] = own[m.mac] || m.VPC == s.vpc
	}
	for _, v := range g.victims(s) {
		if own[v.mac] {
			continue
		}
		for _, to := range []topo.MAC{broadcast, g.neighbour(v).mac} {
			c.add(probe{kind: KindSpoofedMAC, from: s, dst: to, src: v.mac})
		}
	}
}

// labelled tries every label that any router gave out, but for the sender's
// own VPC's, over a packet and over a frame.
func (g *ground) labelled(s *source, c *collector) {
	for _, l := range g.sorted {
		owner := g.labels[l]
		v := g.victim(s, owner.vpc, "")
		if owner.vpc == s.vpc || v == nil {
			continue
		}
		for _, dst := range append([]topo.MAC{broadcast}, s.hops...) {
			g.over(s, KindLabel, c, dst, v, true, l)
			g.over(s, KindLabel, c, dst, v, false, l)
		}
	}
}

// guesses tries labels that may lead to any VPC.
func (g *ground) guesses(s *source, c *collector) {
	for _, l := range g.guessed {
		for _, v := range g.plan.VPCs {
			m := g.victim(s, v.Name, "")
			if v.Name == s.vpc || m == nil {
				continue
			}
			for _, dst := range s.hops {
				g.over(s, KindLabel, c, dst, m, true, l)
			}
		}
	}
}

// over adds labels over a packet, or over a frame, to a victim as from its
// neighbour.
func (g *ground) over(s *source, kind Kind, c *collector, dst topo.MAC, v *machine, packet bool, labels ...uint32) {
	p := probe{kind: kind, from: s, dst: dst, src: s.mac, labels: len(labels)}
	copy(p.stack[:], labels)
	if n := g.neighbour(v); packet {
		p.ip, p.ipSrc, p.ipDst = true, n.Addr, v.Addr
	} else {
		p.inner, p.innerDst = n.mac, v.mac
	}
	c.add(p)
}

// stacked tries every label that leads to a PE over those of other VPCs there,
// and explicit null over those at the sender's own PE.
func (g *ground) stacked(s *source, c *collector) {
	for _, way := range append([]way{{explicitNull, s.pe}}, g.ways...) {
		for _, sv := range g.services[way.to] {
			v := g.victim(s, sv.vpc, way.to)
			if sv.vpc == s.vpc || v == nil {
				continue
			}
			for _, dst := range s.hops {
				g.over(s, KindLabelStack, c, dst, v, sv.ip, way.label, sv.label)
			}
		}
	}
}

// explicitNull is IPv4 explicit null (RFC 3032, section 2.1): go on with what
// is below.
const explicitNull = 0
