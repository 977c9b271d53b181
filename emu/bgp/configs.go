package bgp

import (
	"net/netip"
	"slices"

	"github.com/vpclab/vpclab/topo"
)

// Configs is the configuration of every speaker of the plan, by node: one for
// each PE and one for the route reflector. Sites that have not joined appear
// nowhere: neither at their PE nor in the policy.
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
	for _, n := range plan.Nodes {
		c := Config{Node: n.Name, ASN: plan.ASN, RouterID: n.Loopback}
		switch n.Kind {
		case topo.KindPE:
			c.Neighbors = slices.Clone(reflectors)
			c.VRFs = vrfsOf(plan, n.Name)
			c.Tunnels = tunnelsOf(plan, n.Name, loopbacks)
		case topo.KindRR:
			c.Reflector = true
			c.Neighbors = slices.Clone(pes)
			c.Policy = policyOf(plan)
		default:
			continue
		}
		out[n.Name] = c
	}
	return out
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
				if a.PE == pe && a.Joined {
					b.Circuits = append(b.Circuits, Circuit{Site: a.Site, Prefix: a.Subnet, ExportRT: a.ExportRT, ImportRT: a.ImportRT})
				}
			}
			if len(b.Circuits) > 0 {
				out = append(out, b)
			}
		}
	}
	return out
}

// tunnelsOf lists the LSPs that begin at a PE. The first label is the next
// router's, or none where the egress is the neighbor.
func tunnelsOf(plan *topo.Plan, pe string, loopbacks map[string]netip.Addr) []Tunnel {
	var out []Tunnel
	for _, lsp := range plan.LSPs {
		for _, h := range lsp.Hops {
			if h.Node == pe && lsp.Egress != pe {
				out = append(out, Tunnel{Egress: loopbacks[lsp.Egress], Label: h.OutLabel, Via: h.Via, Dev: h.Dev})
			}
		}
	}
	return out
}

// policyOf is a full mesh in each VPC: every joined site's routes go to every
// joined site.
func policyOf(plan *topo.Plan) []RTRule {
	var out []RTRule
	for _, v := range plan.VPCs {
		r := RTRule{Name: v.Name}
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
