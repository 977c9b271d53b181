package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/vpclab/vpclab/emu/kernel"
)

// newDoctor says which kernels can carry a lab on this machine.
func newDoctor() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "say which kernels can carry a lab here, what is missing, and what mends it",
		Long: `Try this machine: its own kernel, and a User Mode Linux and a stock kernel in QEMU booted for the
purpose. Nothing is changed.

The exit code is 0 if some kernel can carry a lab, else 3.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "table" && format != "json" {
				return usageError{fmt.Errorf("--format %q: want table or json", format)}
			}
			checks := kernel.Doctor(cmd.Context(), checkFRR(cmd.Context()))
			usable := kernel.Usable(checks)
			if format == "json" {
				if err := printDoctorJSON(cmd.OutOrStdout(), checks, usable); err != nil {
					return err
				}
			} else {
				printDoctor(cmd.OutOrStdout(), checks, usable)
			}
			if len(usable) == 0 {
				return exitCode(exitUnusable)
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "table", "table or json")
	return cmd
}

func printDoctorJSON(w io.Writer, checks []kernel.Check, usable []kernel.Substrate) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(struct {
		Usable []kernel.Substrate `json:"usable"`
		Checks []kernel.Check     `json:"checks"`
	}{append([]kernel.Substrate{}, usable...), checks})
}

func printDoctor(w io.Writer, checks []kernel.Check, usable []kernel.Substrate) {
	t := table.NewWriter()
	t.SetOutputMirror(w)
	t.SetStyle(table.StyleLight)
	t.AppendHeader(table.Row{"for", "check", "", "found"})
	last := ""
	for _, c := range checks {
		group := c.Substrate
		if group == last {
			group = ""
		} else if last != "" {
			t.AppendSeparator()
		}
		last = c.Substrate
		t.AppendRow(table.Row{group, c.Name, checkMark(c), checkText(c)})
	}
	t.Render()
	if len(usable) == 0 {
		fmt.Fprintln(w, "No kernel here can carry a lab. The shortest way: apt-get install user-mode-linux, or ./run.sh as any user.")
		return
	}
	names := make([]string, len(usable))
	for i, s := range usable {
		names[i] = string(s)
	}
	fmt.Fprintf(w, "Labs can run here on: %s. By default on: %s.\n", strings.Join(names, ", "), names[0])
}

func checkMark(c kernel.Check) string {
	switch {
	case c.OK:
		return "ok"
	case c.Optional:
		return "-"
	}
	return "NO"
}

func checkText(c kernel.Check) string {
	text := c.Detail
	if c.Fix != "" {
		text += "\nmend it: " + c.Fix
	}
	return text
}
