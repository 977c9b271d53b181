package topo

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Render writes the scenario with all that it implies: what generate makes
// and all defaults as the file would have them, and the numbers that follow
// from it in comments. What it writes is a scenario file of the same lab.
func (sc *Scenario) Render() ([]byte, error) {
	sc, err := sc.parsed()
	if err != nil {
		return nil, err
	}
	plan, err := Expand(sc)
	if err != nil {
		return nil, err
	}
	out := *sc.full().Scenario
	out.Topology.Backbone.Defaults = Impairment{} // in the links by now
	if len(out.Topology.Backbone.PE) == 0 {
		out.Topology.Backbone = Backbone{}
	}
	var root yaml.Node
	if err := root.Encode(&out); err != nil {
		return nil, fmt.Errorf("render %s: %w", sc.Name, err)
	}
	compact(&root, "")
	annotate(&root, plan)
	b, err := yaml.Dump(&root, yaml.WithLineWidth(-1), yaml.WithIndent(2), yaml.WithCompactSeqIndent(false))
	if err != nil {
		return nil, fmt.Errorf("render %s: %w", sc.Name, err)
	}
	return b, nil
}

// spread are the keys whose values are written one item a line.
var spread = []string{"", "topology", "backbone", "sites", "nodes", "links", "vpcs", "vms", "reservations", "experiments", "claims", "events", "generate"}

// compact puts the short mappings and lists below the spread ones on one line.
func compact(n *yaml.Node, key string) {
	block := slices.Contains(spread, key) && !(key == "sites" && n.Kind == yaml.SequenceNode)
	if width, depth := extent(n); !block && n.Kind != yaml.ScalarNode && width <= 110 && depth <= 3 {
		n.Style |= yaml.FlowStyle
	}
	switch n.Kind {
	case yaml.SequenceNode:
		for _, c := range n.Content {
			compact(c, "-")
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			compact(n.Content[i+1], n.Content[i].Value)
		}
	}
}

// extent is how wide n is on one line, about, and how deep.
func extent(n *yaml.Node) (width, depth int) {
	if n.Kind == yaml.ScalarNode {
		if strings.Contains(n.Value, "\n") {
			return 1000, 0
		}
		return len(n.Value) + 2, 0
	}
	for _, c := range n.Content {
		w, d := extent(c)
		width, depth = width+w, max(depth, d)
	}
	return width + 2, depth + 1
}

// annotate adds the numbers of the plan as comments.
func annotate(root *yaml.Node, p *Plan) {
	_, topology := child(root, "topology")
	if topology != nil && len(p.LSPs) > 0 {
		_, backbone := child(topology, "backbone")
		comment(backbone, "pe", loopbacks(p, KindPE))
		comment(backbone, "p", loopbacks(p, KindP))
		comment(backbone, "rr", loopbacks(p, KindRR))
		if _, links := child(backbone, "links"); links != nil {
			for i, n := range links.Content {
				n.HeadComment = fmt.Sprintf("%s, %s", p.Links[i].A.Addr, p.Links[i].B.Addr.Addr())
			}
		}
	}
	if _, vpcs := child(root, "vpcs"); vpcs != nil {
		for _, v := range p.VPCs {
			comment(vpcs, v.Name, vpcNumbers(p, v))
		}
		if v, ok := p.VPC(Infra); ok && v.Provider {
			comment(root, "vms", "The hypervisor hosts are joined by a network of their own, "+Infra+":\n"+vpcNumbers(p, *v))
		}
	}
	if _, reservations := child(root, "reservations"); reservations != nil {
		for _, r := range p.Reservations {
			comment(reservations, r.Name, wayNumbers(r))
		}
	}
}

func comment(n *yaml.Node, name, text string) {
	if key, _ := child(n, name); key != nil {
		key.HeadComment = text
	}
}

func loopbacks(p *Plan, kind NodeKind) string {
	var parts []string
	for _, n := range p.OfKind(kind) {
		parts = append(parts, fmt.Sprintf("%s %s", n.Name, n.Loopback))
	}
	return lines(parts, 6)
}

// vpcNumbers lists the tables, labels, subnets and targets of a VPC.
func vpcNumbers(p *Plan, v VPCPlan) string {
	head := fmt.Sprintf("VPC %d", v.Index)
	var edges, lans []string
	for _, f := range v.VRFs {
		edges = append(edges, fmt.Sprintf("%s RD %s label %d", f.PE, f.RD, f.Label))
	}
	for _, s := range v.VSIs {
		edges = append(edges, fmt.Sprintf("%s RD %s VE %d", s.PE, s.RD, s.VEID))
	}
	for _, a := range v.Attachments {
		lans = append(lans, fmt.Sprintf("%s %s export %s import %s", a.Site, v.block(&a).from, a.ExportRT, a.ImportRT))
	}
	if v.Service == ServiceL3VPN {
		head += fmt.Sprintf(", table %d", tableBase+v.Index)
	} else if len(v.VSIs) > 0 {
		head += fmt.Sprintf(", %s, label %d for VE 1", v.Subnet, v.VSIs[0].LabelBase)
	}
	return head + "\n" + lines(edges, 3) + "\n" + lines(lans, 1)
}

// wayNumbers shows the label stacks of a reservation as they leave its PEs,
// and by which routers they go.
func wayNumbers(r ReservationPlan) string {
	var parts []string
	for _, d := range r.Directions {
		var stack []string
		for _, label := range append(slices.Clone(d.Stack), d.Label) {
			stack = append(stack, fmt.Sprint(label))
		}
		parts = append(parts, strings.Join(d.Path, " ")+" by "+strings.Join(stack, "/"))
	}
	return lines(parts, 1)
}

// lines joins parts, so many a line.
func lines(parts []string, each int) string {
	var all []string
	for chunk := range slices.Chunk(parts, each) {
		all = append(all, strings.Join(chunk, ", "))
	}
	return strings.Join(all, "\n")
}
