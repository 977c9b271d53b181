package fidelity

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/vpclab/vpclab/metrics"
)

// Text prints a calibration as tables for people: what was measured, a table a
// system, and beside F1 what others published.
func Text(w io.Writer, c *metrics.Calibration) {
	for _, system := range systems(c) {
		t := newTable(w)
		if system != systemVPCLab {
			fmt.Fprintf(w, "\n%s on the same kernel, by the same instruments:\n", system)
		}
		fill(t, c, system)
		t.Render()
	}
	if slices.ContainsFunc(c.Results, func(r metrics.Calibrated) bool { return r.Test == "F1" }) {
		published(w)
	}
	for _, p := range c.Peers {
		fmt.Fprintf(w, "%s was not measured: %s\n", p.System, p.Why)
	}
	summary(w, c)
}

// Markdown prints what was measured as tables for a page, without what others
// published.
func Markdown(w io.Writer, c *metrics.Calibration) {
	for _, system := range systems(c) {
		fmt.Fprintf(w, "%s:\n\n", system)
		t := newTable(w)
		fill(t, c, system)
		t.RenderMarkdown()
		fmt.Fprintln(w)
	}
	summary(w, c)
}

func newTable(w io.Writer) table.Writer {
	t := table.NewWriter()
	t.SetOutputMirror(w)
	t.SetStyle(table.StyleLight)
	return t
}

func fill(t table.Writer, c *metrics.Calibration, system string) {
	t.AppendHeader(table.Row{"", "what", "set", "measured", "error", "bar", "of", "n", "verdict"})
	for _, r := range c.Results {
		if r.System == system {
			t.AppendRow(row(r))
		}
	}
}

func systems(c *metrics.Calibration) (names []string) {
	for _, r := range c.Results {
		if !slices.Contains(names, r.System) {
			names = append(names, r.System)
		}
	}
	return names
}

func row(r metrics.Calibrated) table.Row {
	errText, bar := fmt.Sprintf("%.3g", r.Error), fmt.Sprintf("%.3g", r.Bar)
	if r.Grade == metrics.FidelityReport || r.Grade == metrics.FidelityNone {
		errText, bar = "", ""
	}
	measured := r.Measured
	if r.Note != "" {
		measured = strings.TrimPrefix(measured+"; "+r.Note, "; ")
	}
	return table.Row{r.Test, r.What, r.Set, measured, errText, bar, r.Unit, r.N, strings.ToUpper(r.Grade)}
}

// published prints what F1 can be held against.
func published(w io.Writer) {
	fmt.Fprintln(w, "\nF1 as published: Mininet-HiFi (CoNEXT 2012), from the authors' raw data (github.com/mininet/mininet-tests):")
	t := newTable(w)
	t.AppendHeader(table.Row{"experiment", "rate", "n", "median", "p90", "p99", "p99.9", ""})
	for _, p := range metrics.HiFi {
		t.AppendRow(table.Row{p.Name, bits(p.RateBps), p.N, percent(p.Median), percent(p.P90), percent(p.P99), percent(p.P999), p.Says})
	}
	t.Render()
}

// summary says in a few lines what links this kernel can carry.
func summary(w io.Writer, c *metrics.Calibration) {
	for _, system := range systems(c) {
		fastest, at := 0.0, ""
		for _, curve := range c.Curves {
			if curve.System == system && curve.RateBps >= fastest && curve.Frame == fullFrame && passed(c, system, curve) {
				fastest, at = curve.RateBps, bits(curve.RateBps)
			}
		}
		if at != "" {
			fmt.Fprintf(w, "%s: frames of 1514 B leave a line as they should up to %s\n", system, at)
		}
		fmt.Fprintf(w, "%s: %d pass, %d warn, %d void\n", system, c.Count(system, metrics.FidelityPass), c.Count(system, metrics.FidelityWarn), c.Count(system, metrics.FidelityVoid))
	}
}

// passed says whether the measurement behind a curve did.
func passed(c *metrics.Calibration, system string, curve metrics.GapCurve) bool {
	return slices.ContainsFunc(c.Results, func(r metrics.Calibrated) bool {
		return r.Test == "F1" && r.System == system && r.Grade == metrics.FidelityPass && r.N == curve.N && r.Values["ideal_us"] == curve.IdealNs/1e3
	})
}

// Pass says that nothing of the lab's own is void. What a peer does is its
// own affair.
func Pass(c *metrics.Calibration) bool { return c.Count(systemVPCLab, metrics.FidelityVoid) == 0 }
