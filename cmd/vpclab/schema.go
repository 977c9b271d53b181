package main

import (
	"github.com/spf13/cobra"

	"github.com/vpclab/vpclab/topo"
)

func newSchema() *cobra.Command {
	var markdown bool
	cmd := &cobra.Command{
		Use:   "schema",
		Short: "print the JSON Schema of scenario files, for editors and programs",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text := topo.SchemaJSON()
			if markdown {
				text = topo.SchemaMarkdown()
			}
			_, err := cmd.OutOrStdout().Write(text)
			return err
		},
	}
	cmd.Flags().BoolVar(&markdown, "markdown", false, "print it as a reference for people")
	return cmd
}
