package mpls

import (
	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/topo"
)

// reservedRulePref is the first preference of the rules that single out
// reserved traffic of an l3vpn: before the l3mdev rule (1000), which chooses
// the VRF's table for everything else.
const reservedRulePref = 900

// rulePref is the preference of a reservation's rule. The more exactly it says
// whose packets it means the earlier it is asked: source and destination; one
// of them, as the other end is a site; none. Of rules with one preference the
// kernel asks the older first.
func rulePref(d topo.ReservedPath) int {
	pref := reservedRulePref
	if !d.Src.IsSingleIP() {
		pref++
	}
	if !d.Dst.IsSingleIP() {
		pref += 2
	}
	return pref
}

// reservations adds what sets bandwidth aside: a class on the line of each
// core link that a reserved path crosses, the labels of explicit paths, and
// for an l3vpn the way in and out at the two PEs. For a vpls the speaker does
// that on its pseudowires (bgp.Flow).
func (c *compiler) reservations() {
	for _, a := range c.plan.Adjacencies {
		if n := c.node(a.Node); n != nil {
			n.MPLS = append(n.MPLS, fabric.MPLSRoute{In: a.Label, Via: a.Via, Dev: a.Dev})
		}
	}
	classes := map[hop][]fabric.Class{}
	for _, r := range c.plan.Reservations {
		for _, d := range r.Directions {
			for _, h := range d.Hops {
				at := hop{h.Node, h.Ifname}
				classes[at] = append(classes[at], fabric.Class{Label: d.Label, Depth: h.Depth, Rate: r.Rate})
			}
			if v, ok := c.plan.VPC(r.VPC); ok && len(v.VRFs) > 0 {
				c.steer(v, d)
			}
		}
	}
	if len(classes) > 0 {
		c.classify(classes)
	}
}

// hop is the end of a link.
type hop struct{ node, ifname string }

// classify puts classes on the ends that have a line; where a link has no
// rate, nothing need be set aside.
func (c *compiler) classify(classes map[hop][]fabric.Class) {
	for name, l := range c.st.Links {
		for _, e := range []*fabric.End{&l.A, &l.B} {
			if e.Egress.Rate > 0 {
				e.Classes = classes[hop{e.Node, e.Ifname}]
			}
		}
		c.st.Links[name] = l
	}
}

// steer gives reserved traffic its own label: at the ingress PE a rule for
// this source, destination and circuit leads to a table with the one route
// that has it; at the egress PE the label pops into the VRF as the VPN label
// does. A rule's input interface is the circuit and not the VRF device: the
// kernel compares it with the device that the packet came in by.
func (c *compiler) steer(v *topo.VPCPlan, d topo.ReservedPath) {
	in, out := c.node(d.From), c.node(d.To)
	far, ok := v.VRF(d.To)
	if in == nil || out == nil || !ok {
		return
	}
	for _, dev := range d.In {
		in.Rules = append(in.Rules, fabric.Rule{Pref: rulePref(d), Table: d.Table, From: d.Src, To: d.Dst, Iif: dev})
	}
	r := fabric.Route{Table: d.Table, Dst: d.Dst, Via: d.Via, Dev: d.Dev}
	copy(r.Labels[:], append(append([]uint32(nil), d.Stack...), d.Label))
	in.Routes = append(in.Routes, r)
	out.MPLS = append(out.MPLS, fabric.MPLSRoute{In: d.Label, Dev: far.Name})
}
