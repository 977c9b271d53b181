package graph

import (
	"fmt"
	"io"
	"strings"

	"github.com/vpclab/vpclab/topo"
)

// DOT writes the graph for Graphviz.
func (g *Graph) DOT(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "graph %q {\n  layout=neato; overlap=false; splines=true;\n  node [fontname=\"sans-serif\", fontsize=11]; edge [fontname=\"sans-serif\", fontsize=9];\n", g.Title)
	for _, r := range g.Routers {
		shape := map[topo.NodeKind]string{topo.KindPE: "box", topo.KindP: "ellipse", topo.KindRR: "hexagon"}[r.Kind]
		fmt.Fprintf(&b, "  %q [shape=%s, label=%q];\n", r.Name, shape, r.Name+"\n"+r.Loopback)
	}
	for _, s := range g.Sites {
		label := s.Name + " (" + s.text() + ")"
		for _, m := range s.Members {
			label += "\n" + m.VPC + " " + m.text()
		}
		fmt.Fprintf(&b, "  %q [shape=note, label=%q];\n", siteID(s.Name), label)
	}
	for _, n := range g.Plain {
		fmt.Fprintf(&b, "  %q [shape=plaintext];\n", n)
	}
	for _, e := range g.Edges {
		style := ""
		if e.Core {
			style = ", penwidth=2"
		}
		fmt.Fprintf(&b, "  %q -- %q [label=%q%s];\n", e.A, e.B, e.Label, style)
	}
	b.WriteString("}\n")
	_, err := io.WriteString(w, b.String())
	return err
}
