package topo

import "slices"

// Node returns the node of that name.
func (p *Plan) Node(name string) (*Node, bool) {
	i := slices.IndexFunc(p.Nodes, func(n Node) bool { return n.Name == name })
	if i < 0 {
		return nil, false
	}
	return &p.Nodes[i], true
}

// VPC returns the VPC of that name.
func (p *Plan) VPC(name string) (*VPCPlan, bool) {
	i := slices.IndexFunc(p.VPCs, func(v VPCPlan) bool { return v.Name == name })
	if i < 0 {
		return nil, false
	}
	return &p.VPCs[i], true
}

// VRF returns the VPC's routing table at a PE.
func (v *VPCPlan) VRF(pe string) (VRF, bool) {
	i := slices.IndexFunc(v.VRFs, func(f VRF) bool { return f.PE == pe })
	if i < 0 {
		return VRF{}, false
	}
	return v.VRFs[i], true
}

// VSI returns the VPC's switch instance at a PE.
func (v *VPCPlan) VSI(pe string) (VSI, bool) {
	i := slices.IndexFunc(v.VSIs, func(s VSI) bool { return s.PE == pe })
	if i < 0 {
		return VSI{}, false
	}
	return v.VSIs[i], true
}

// Site returns the site of that name.
func (p *Plan) Site(name string) (SitePlan, bool) {
	i := slices.IndexFunc(p.Sites, func(s SitePlan) bool { return s.Name == name })
	if i < 0 {
		return SitePlan{}, false
	}
	return p.Sites[i], true
}

// LSP returns the tree towards an egress PE.
func (p *Plan) LSP(egress string) (*LSP, bool) {
	i := slices.IndexFunc(p.LSPs, func(l LSP) bool { return l.Egress == egress })
	if i < 0 {
		return nil, false
	}
	return &p.LSPs[i], true
}

// OfKind lists the nodes of the kinds, in order.
func (p *Plan) OfKind(kinds ...NodeKind) []Node {
	var nodes []Node
	for _, n := range p.Nodes {
		if slices.Contains(kinds, n.Kind) {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// Machines lists the machines and VMs, in order.
func (p *Plan) Machines() []Node { return p.OfKind(KindMachine) }

// Routers lists PEs, Ps and the reflector, in order of their numbers.
func (p *Plan) Routers() []Node { return p.OfKind(KindPE, KindP, KindRR) }

// LinksOf lists the links that end at node.
func (p *Plan) LinksOf(node string) []Link {
	var links []Link
	for _, l := range p.Links {
		if l.A.Node == node || l.B.Node == node {
			links = append(links, l)
		}
	}
	return links
}

// Neighbors lists the nodes that a link joins to node, in order of the links.
func (p *Plan) Neighbors(node string) []string {
	var names []string
	for _, l := range p.LinksOf(node) {
		other := l.A.Node
		if other == node {
			other = l.B.Node
		}
		if !slices.Contains(names, other) {
			names = append(names, other)
		}
	}
	return names
}

// Attachments lists all attachments, VPC by VPC.
func (p *Plan) Attachments() []Attachment {
	var all []Attachment
	for _, v := range p.VPCs {
		all = append(all, v.Attachments...)
	}
	return all
}

// MaxLabel is the highest label that any router of the whole lab was given;
// the kernel's label tables need one place more. Restrict and Detach do not
// lower it.
func (p *Plan) MaxLabel() uint32 { return p.TopLabel }

// member names a VPC at a site.
type member struct{ vpc, site string }

// Restrict returns a copy of the plan with only those attachments that keep
// chooses: without the others' CEs, machines and links, and without the VRFs,
// VSIs and VPCs that become empty. Routers and hosts stay, and no number
// changes.
func (p *Plan) Restrict(keep func(a Attachment) bool) *Plan {
	p = p.withoutStandbys(func(pair Pair) bool {
		return slices.ContainsFunc(p.Attachments(), func(a Attachment) bool { return p.hasSeat(pair, a) && !keep(a) })
	})
	gone := map[member]bool{}
	q := *p
	q.VPCs = nil
	for _, v := range p.VPCs {
		var kept []Attachment
		for _, a := range v.Attachments {
			if keep(a) {
				kept = append(kept, a)
			} else {
				gone[member{v.Name, a.Site}] = true
			}
		}
		if len(kept) > 0 {
			v.Attachments = kept
			q.VPCs = append(q.VPCs, v)
		}
	}
	q.Nodes = nil
	for _, n := range p.Nodes {
		if gone[member{n.VPC, n.Site}] {
			continue
		}
		if n.Kind == KindHost {
			n.Bridges = slices.DeleteFunc(slices.Clone(n.Bridges), func(b Bridge) bool { return bridgeGone(b, n.Site, gone) })
		}
		q.Nodes = append(q.Nodes, n)
	}
	q.Links = slices.DeleteFunc(slices.Clone(p.Links), func(l Link) bool { return gone[member{l.VPC, l.Site}] })
	q.dropUnused()
	q.Reservations = slices.DeleteFunc(slices.Clone(p.Reservations), func(r ReservationPlan) bool {
		_, err := q.ends(r)
		return err != nil
	})
	q.settle(false, "")
	return &q
}

// bridgeGone reports whether b is the segment, on a host of site, of a VPC
// that is gone from there.
func bridgeGone(b Bridge, site string, gone map[member]bool) bool {
	for m := range gone {
		if m.site == site && b.Name == hostBridge(m.vpc) {
			return true
		}
	}
	return false
}

// dropUnused takes the VRFs and VSIs away that no joined attachment is in, and
// the bridges of those VSIs. The plan's VPCs and Nodes must be its own.
func (p *Plan) dropUnused() {
	bridges := map[[2]string]bool{} // PE and VSI
	for i := range p.VPCs {
		v := &p.VPCs[i]
		used := map[string]bool{}
		for _, a := range v.Attachments {
			for _, k := range a.Circuits() {
				used[k.PE] = used[k.PE] || a.Joined
			}
		}
		v.VRFs = slices.DeleteFunc(slices.Clone(v.VRFs), func(f VRF) bool { return !used[f.PE] })
		v.VSIs = slices.DeleteFunc(slices.Clone(v.VSIs), func(s VSI) bool { return !used[s.PE] })
		for _, s := range v.VSIs {
			bridges[[2]string{s.PE, s.Name}] = true
		}
	}
	for i := range p.Nodes {
		if n := &p.Nodes[i]; n.Kind == KindPE {
			n.Bridges = slices.DeleteFunc(slices.Clone(n.Bridges), func(b Bridge) bool { return !bridges[[2]string{n.Name, b.Name}] })
		}
	}
}

// Detach returns a copy of the plan in which the attachments that drop
// chooses are not joined: their CE, LAN and machines are there, but no
// circuit leads to the PE, and a VRF or VSI that no other attachment is in is
// gone.
func (p *Plan) Detach(drop func(a Attachment) bool) *Plan {
	apart := map[member]bool{}
	q := *p
	q.VPCs = slices.Clone(p.VPCs)
	for i := range q.VPCs {
		v := &q.VPCs[i]
		v.Attachments = slices.Clone(v.Attachments)
		for j := range v.Attachments {
			if a := &v.Attachments[j]; drop(*a) {
				a.Joined = false
				apart[member{v.Name, a.Site}] = true
			}
		}
	}
	q.Nodes = slices.Clone(p.Nodes)
	for i := range q.Nodes {
		if n := &q.Nodes[i]; n.Kind == KindCE && apart[member{n.VPC, n.Site}] {
			n.Routes = nil // its default route leads over the circuit
		}
	}
	q.Links = slices.DeleteFunc(slices.Clone(p.Links), func(l Link) bool { return l.AC && apart[member{l.VPC, l.Site}] })
	q.dropUnused()
	q.settle(false, "")
	return &q
}
