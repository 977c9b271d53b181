package graph

import (
	"fmt"
	"io"
	"strings"

	"github.com/vpclab/vpclab/topo"
)

// Mermaid writes the graph as a Mermaid flowchart, which GitHub and GitLab
// draw in Markdown files.
func (g *Graph) Mermaid(w io.Writer) error {
	var b strings.Builder
	b.WriteString("flowchart LR\n")
	id := map[string]string{}
	name := func(box string) string {
		if _, known := id[box]; !known {
			id[box] = fmt.Sprintf("n%d", len(id)+1)
		}
		return id[box]
	}
	for _, r := range g.Routers {
		open, end := "[", "]"
		switch r.Kind {
		case topo.KindP:
			open, end = "([", "])"
		case topo.KindRR:
			open, end = "{{", "}}"
		}
		fmt.Fprintf(&b, "  %s%s\"%s<br/>%s\"%s\n", name(r.Name), open, r.Name, r.Loopback, end)
	}
	for _, s := range g.Sites {
		lines := []string{s.Name + " (" + s.text() + ")"}
		for _, m := range s.Members {
			lines = append(lines, m.VPC+" "+m.text())
		}
		fmt.Fprintf(&b, "  %s>\"%s\"]\n", name(siteID(s.Name)), strings.Join(lines, "<br/>"))
	}
	for _, n := range g.Plain {
		fmt.Fprintf(&b, "  %s[\"%s\"]\n", name(n), n)
	}
	for _, e := range g.Edges {
		line := "---"
		if e.Core {
			line = "==="
		}
		if e.Label != "" {
			line += fmt.Sprintf("|\"%s\"|", e.Label)
		}
		fmt.Fprintf(&b, "  %s %s %s\n", name(e.A), line, name(e.B))
	}
	_, err := io.WriteString(w, b.String())
	return err
}
