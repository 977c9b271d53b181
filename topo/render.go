package topo

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Render writes the scenario with all that it implies: what generate makes,
// defaults, and the subnets that were chosen for it. It is a scenario file
// that gives the same lab.
func (sc *Scenario) Render() ([]byte, error) {
	sc, err := sc.parsed()
	if err != nil {
		return nil, err
	}
	f := sc.full()
	out := *f.Scenario
	out.Topology.Backbone.Defaults = Impairment{} // in the links by now
	if len(out.Topology.Backbone.PE) == 0 {
		out.Topology.Backbone = Backbone{}
	}
	for i := range out.VPCs {
		vpc := &out.VPCs[i].Value
		vpc.Sites, vpc.Subnets = f.written(i + 1)
	}
	var root yaml.Node
	if err := root.Encode(&out); err != nil {
		return nil, fmt.Errorf("render %s: %w", sc.Name, err)
	}
	compact(&root, 0)
	var b bytes.Buffer
	d, err := yaml.NewDumper(&b, yaml.WithLineWidth(-1), yaml.WithIndent(2))
	if err != nil {
		return nil, fmt.Errorf("render %s: %w", sc.Name, err)
	}
	if err := d.Dump(&root); err != nil {
		return nil, fmt.Errorf("render %s: %w", sc.Name, err)
	}
	if err := d.Close(); err != nil {
		return nil, fmt.Errorf("render %s: %w", sc.Name, err)
	}
	return b.Bytes(), nil
}

// written is how Render writes the LANs of VPC number v. Chosen subnets are
// not numbered as default ones are, so sites stay sites.
func (f fullScenario) written(v int) ([]string, Map[Prefix]) {
	e := f.VPCs[v-1].Value
	return e.Sites, e.Subnets
}

// compact puts short mappings and lists on one line, below the first level.
func compact(n *yaml.Node, depth int) {
	for _, c := range n.Content {
		compact(c, depth+1)
	}
	if depth > 1 && slices.Contains([]yaml.Kind{yaml.MappingNode, yaml.SequenceNode}, n.Kind) && short(n) {
		n.Style |= yaml.FlowStyle
	}
}

// short reports whether n fits a line and is no deeper than a link.
func short(n *yaml.Node) bool {
	width, depth := extent(n)
	return width <= 110 && depth <= 3
}

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
