package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/vpclab/vpclab/cmd/vpclab/internal/graph"
)

func newGraph() *cobra.Command {
	var dot, mermaid, svg bool
	var file string
	cmd := &cobra.Command{
		Use:   "graph [SCENARIO]",
		Short: "draw a scenario: Graphviz, Mermaid or SVG",
		Long: `Draw a scenario: the backbone in the middle, sites outside, links with rate and delay.

The form is given by a flag, or by the file's ending (.dot, .mmd, .svg); it is SVG by default.`,
		Example:           "  vpclab graph quickstart -w quickstart.svg\n  vpclab graph quickstart --dot | dot -Tpdf > quickstart.pdf",
		Args:              maxArgs(1),
		ValidArgsFunction: completeScenarios,
		RunE: func(cmd *cobra.Command, args []string) error {
			if dot && mermaid || dot && svg || mermaid && svg {
				return usageError{fmt.Errorf("graph: --dot, --mermaid and --svg exclude each other")}
			}
			_, plan, err := scenario(args)
			if err != nil {
				return err
			}
			g := graph.Of(plan)
			if jsonOutput() {
				return printJSON(cmd, g)
			}
			var b bytes.Buffer
			switch ext := filepath.Ext(file); {
			case svg:
				err = g.SVG(&b)
			case dot, !mermaid && (ext == ".dot" || ext == ".gv"):
				err = g.DOT(&b)
			case mermaid, ext == ".mmd", ext == ".mermaid":
				err = g.Mermaid(&b)
			default:
				err = g.SVG(&b)
			}
			if err != nil {
				return err
			}
			if file == "-" {
				_, err = cmd.OutOrStdout().Write(b.Bytes())
				return err
			}
			if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
				return usageError{fmt.Errorf("graph: %w", err)}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&dot, "dot", false, "Graphviz")
	cmd.Flags().BoolVar(&mermaid, "mermaid", false, "Mermaid")
	cmd.Flags().BoolVar(&svg, "svg", false, "SVG")
	cmd.Flags().StringVarP(&file, "write", "w", "-", "file to write (-: standard output)")
	return cmd
}
