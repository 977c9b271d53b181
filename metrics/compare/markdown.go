package compare

import (
	"fmt"
	"io"
	"strings"

	"github.com/vpclab/vpclab/metrics"
)

// WriteMarkdown writes the report as GitHub shows it: the verdict first, then
// what differs, and the long tables folded away.
func (r Report) WriteMarkdown(w io.Writer, all bool) error {
	var b strings.Builder
	fmt.Fprintf(&b, "### %s\n\n", r.Says())
	for _, why := range r.Reasons {
		fmt.Fprintf(&b, "- %s\n", escapeCell(why))
	}
	fmt.Fprintf(&b, "\nold: %s  \nnew: %s\n", escapeCell(r.Old.line()), escapeCell(r.New.line()))
	if len(r.Held) > 0 {
		fmt.Fprintf(&b, "\nall: %s\n", escapeCell(metrics.PointText(r.Held)))
	}
	for _, warning := range r.Warnings {
		fmt.Fprintf(&b, "\n> warning: %s\n", escapeCell(warning))
	}
	for i, s := range r.sections(all) {
		fold := i == 2 && len(s.rows) > 0
		if fold {
			fmt.Fprintf(&b, "\n<details><summary>%s</summary>\n", escapeCell(s.head))
		} else {
			fmt.Fprintf(&b, "\n**%s**\n", escapeCell(s.head))
		}
		if len(s.rows) > 0 {
			fmt.Fprintf(&b, "\n| %s |\n|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
			for _, c := range s.rows {
				cells := c.row()
				for j := range cells {
					cells[j] = escapeCell(cells[j])
				}
				fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | "))
			}
		}
		if s.rest != "" {
			fmt.Fprintf(&b, "\n%s\n", escapeCell(s.rest))
		}
		if fold {
			b.WriteString("\n</details>\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// escapeCell keeps text one cell and no markup.
func escapeCell(s string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;", "*", `\*`, "_", `\_`, "\n", " ").Replace(s)
}
