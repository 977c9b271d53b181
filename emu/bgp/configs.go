package bgp

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/vpclab/vpclab/topo"
)

// Configs is the configuration of every speaker of the plan, by node: one for
// each PE and one for the route reflector, and where FRR gives out the labels
// one for each P. Sites that have not joined appear nowhere: neither at their
// PE nor in the policy.
func Configs(plan *topo.Plan) map[string]Config {
	out := map[string]Config{}
	loopbacks := map[string]netip.Addr{}
	var reflectors, pes []netip.Addr
	for _, n := range plan.Nodes {
		switch n.Kind {
		case topo.KindPE:
			pes = append(pes, n.Loopback)
		case topo.KindRR:
			reflectors = append(reflectors, n.Loopback)
		default:
			continue
		}
		loopbacks[n.Name] = n.Loopback
	}
	ldp := plan.AllFRR()
	for _, n := range plan.Nodes {
		c := Config{Node: n.Name, Routing: n.Routing, ASN: plan.ASN, RouterID: n.Loopback}
		switch n.Kind {
		case topo.KindPE:
			c.Neighbors = slices.Clone(reflectors)
			c.VRFs = vrfsOf(plan, n.Name)
			c.VSIs = vsisOf(plan, n.Name, loopbacks)
			if ldp {
				c.Core = coreOf(plan, n.Name)
			} else {
				c.Tunnels = tunnelsOf(plan, n, loopbacks)
			}
		case topo.KindP:
			if !ldp {
				continue // labels and routes are the controller's
			}
			c.Core = coreOf(plan, n.Name)
		case topo.KindRR:
			c.Reflector = true
			c.Neighbors = slices.Clone(pes)
			c.Policy = policyOf(plan)
		default:
			continue
		}
		c.recover(plan.Recovery)
		out[n.Name] = c
	}
	return out
}

// recover has a speaker do what the backbone does about failures. FRR's daemons
// take the timers alone.
func (c *Config) recover(r *topo.Recovery) {
	if r == nil {
		return
	}
	c.Hold = int(r.Hold.Std().Seconds())
	c.Keepalive = c.Hold / 3
	if !c.Reflector && c.Routing != topo.RoutingFRR {
		c.PIC, c.Liveness = r.Shares(), r.Reflexes()
	}
}

// vrfsOf lists the VRFs of a PE with the sites joined there.
func vrfsOf(plan *topo.Plan, pe string) []VRF {
	var out []VRF
	for _, v := range plan.VPCs {
		for _, vrf := range v.VRFs {
			if vrf.PE != pe {
				continue
			}
			b := VRF{Name: vrf.Name, Table: vrf.Table, RD: vrf.RD, Label: vrf.Label}
			for _, a := range v.Attachments {
				if k, here := a.At(pe); here && a.Joined {
					site := Circuit{Site: a.Site, Prefix: a.Subnet, ExportRT: a.ExportRT, ImportRT: a.ImportRT, Preference: k.Preference, More: a.More}
					b.Circuits = append(b.Circuits, site)
					site.More = topo.Run{}
					for _, site.Prefix = range a.Seats { // VMs of other sites that are active at this one
						b.Circuits = append(b.Circuits, site)
					}
				}
			}
			if len(b.Circuits) > 0 {
				out = append(out, b)
			}
		}
	}
	return out
}

// vsisOf lists the VSIs of a PE with the targets of the sites joined there.
func vsisOf(plan *topo.Plan, pe string, loopbacks map[string]netip.Addr) []VSI {
	var out []VSI
	for _, v := range plan.VPCs {
		for _, vsi := range v.VSIs {
			if vsi.PE != pe {
				continue
			}
			b := VSI{Name: vsi.Name, RD: vsi.RD, VEID: vsi.VEID, BlockOffset: vsi.BlockOffset, BlockSize: vsi.BlockSize,
				LabelBase: vsi.LabelBase, MTU: v.MTU}
			for _, a := range v.Attachments {
				k, here := a.At(pe)
				if !here || !a.Joined {
					continue
				}
				b.ExportRTs = appendNew(b.ExportRTs, a.ExportRT)
				b.ImportRTs = appendNew(b.ImportRTs, a.ImportRT)
				if a.Backup != nil {
					b.Homed = append(b.Homed, Homed{Site: a.Site, ID: a.Index, Preference: k.Preference, Port: k.PEIf})
				}
			}
			if len(b.ExportRTs) > 0 {
				b.Flows = flowsOf(plan, v.Name, pe, loopbacks)
				out = append(out, b)
			}
		}
	}
	return out
}

// flowsOf lists the reservations of a VPC that leave it at a PE. What comes
// back has the label of the other direction.
func flowsOf(plan *topo.Plan, vpc, pe string, loopbacks map[string]netip.Addr) []Flow {
	var out []Flow
	for _, r := range plan.Reservations {
		if r.VPC != vpc || len(r.Directions) != 2 {
			continue
		}
		for i, d := range r.Directions {
			if d.From != pe {
				continue
			}
			f := Flow{Name: r.Name, Egress: loopbacks[d.To], Src: d.SrcMAC, Dst: d.DstMAC,
				Labels: append(slices.Clone(d.Stack), d.Label), Via: d.Via, Dev: d.Dev, In: r.Directions[1-i].Label}
			if by, ok := plan.ReservedBackup(d); ok {
				f.Backup = backup(by)
			}
			out = append(out, f)
		}
	}
	return out
}

// tunnelsOf lists the LSPs that begin at a PE. The first label is the next
// router's, or none where the egress is the neighbor; FRR resolves VPN routes
// by labelled ones only and is given the egress's own there.
func tunnelsOf(plan *topo.Plan, pe topo.Node, loopbacks map[string]netip.Addr) []Tunnel {
	var out []Tunnel
	for _, lsp := range plan.LSPs {
		for _, h := range lsp.Hops {
			if h.Node != pe.Name || lsp.Egress == pe.Name {
				continue
			}
			t := Tunnel{Egress: loopbacks[lsp.Egress], Label: h.OutLabel, Via: h.Via, Dev: h.Dev, Lost: !plan.Reaches(pe.Name, lsp.Egress)}
			if pe.Routing == topo.RoutingFRR {
				t.Label = cmp.Or(t.Label, lsp.Label)
			} else if by, ok := plan.Backup(pe.Name, lsp.Egress); ok {
				t.Backup = backup(by)
			}
			out = append(out, t)
		}
	}
	return out
}

func backup(by topo.Forwarding) *Backup { return &Backup{Labels: by.Labels, Via: by.Via, Dev: by.Dev} }

// coreOf lists the core links of a router.
func coreOf(plan *topo.Plan, router string) *Core {
	c := &Core{}
	for _, l := range plan.LinksOf(router) {
		if !l.Core {
			continue
		}
		here, there := l.A, l.B
		if here.Node != router {
			here, there = there, here
		}
		n, _ := plan.Node(there.Node)
		if n.Kind == topo.KindRR {
			c.Silent = append(c.Silent, netip.PrefixFrom(n.Loopback, n.Loopback.BitLen()))
			continue
		}
		c.Links = append(c.Links, CoreLink{Dev: here.Ifname, Addr: here.Addr, Cost: l.Cost})
	}
	return c
}

// policyOf is a full mesh in each VPC: every joined site's routes go to every
// joined site.
func policyOf(plan *topo.Plan) []RTRule {
	var out []RTRule
	for _, v := range plan.VPCs {
		r := RTRule{Name: v.Name, VPLS: len(v.VSIs) > 0}
		for _, a := range v.Attachments {
			if !a.Joined {
				continue
			}
			r.From = appendNew(r.From, a.ExportRT)
			r.To = appendNew(r.To, a.ImportRT)
		}
		if len(r.From) > 0 {
			out = append(out, r)
		}
	}
	return out
}

func appendNew(list []string, s string) []string {
	if slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}
