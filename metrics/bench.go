package metrics

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// WriteBench writes samples in the Go benchmark format
// (https://golang.org/design/14313-benchmark-format), so that
// `benchstat old/bench.txt new/bench.txt` compares two runs:
//
//	BenchmarkVpc-setup/sites=4/system=vpn-1 1 0.412 setup.first_packet-sec 0.398 setup.programmed-sec
//
// A line is one trial at one set of labels; the labels are the sub-benchmark
// names, in alphabetical order; the number at the end of the name is the lab
// kernel's CPUs; each metric is a unit of its own, its name before the unit.
// Only what makes runs incomparable is a configuration key (scenario, kernel
// substrate, clock), because benchstat compares nothing across those; the
// other facts of the run are comments.
func WriteBench(w io.Writer, info RunInfo, samples []Sample) error {
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, "# vpclab run %s of %s, version %s, kernel release %s\n",
		oneLine(info.ID), oneLine(info.Scenario), oneLine(info.Version), oneLine(info.Kernel.Release))
	for _, kv := range [][2]string{{"scenario", info.Scenario}, {"kernel", info.Kernel.Substrate}, {"clock", info.Kernel.Clock}} {
		if kv[1] != "" {
			fmt.Fprintf(out, "%s: %s\n", kv[0], oneLine(kv[1]))
		}
	}
	writeUnits(out, samples)
	for _, line := range benchLines(samples, max(info.Kernel.CPUs, 1)) {
		out.WriteString(line)
		out.WriteByte('\n')
	}
	return out.Flush()
}

// writeUnits declares the direction of every unit: of times, counts and bytes
// less is better; of rates and of pairs reached, more.
func writeUnits(out *bufio.Writer, samples []Sample) {
	seen := map[string]bool{}
	for _, s := range samples {
		unit := benchUnit(s.Metric, s.Unit)
		if seen[unit] {
			continue
		}
		seen[unit] = true
		better := "lower"
		if strings.HasSuffix(s.Unit, "/s") || strings.HasSuffix(s.Metric, "pairs_reached") {
			better = "higher"
		}
		fmt.Fprintf(out, "Unit %s better=%s assume=nothing\n", unit, better)
	}
}

// benchLines groups samples into lines. Within a trial a metric that comes
// twice at one set of labels begins another line.
func benchLines(samples []Sample, cpus int) []string {
	type key struct {
		name  string
		trial int
		nth   int
	}
	var order []key
	cells := map[key]*strings.Builder{}
	count := map[string]int{}
	for _, s := range samples {
		name := benchName(s.Experiment, s.Labels, cpus)
		k := key{name: name, trial: s.Trial}
		again := fmt.Sprint(name, " ", s.Trial, " ", s.Metric)
		k.nth = count[again]
		count[again]++
		b := cells[k]
		if b == nil {
			b = &strings.Builder{}
			fmt.Fprintf(b, "%s 1", name)
			cells[k] = b
			order = append(order, k)
		}
		fmt.Fprintf(b, " %s %s", strconv.FormatFloat(s.Value, 'g', -1, 64), benchUnit(s.Metric, s.Unit))
	}
	lines := make([]string, len(order))
	for i, k := range order {
		lines[i] = cells[k].String()
	}
	return lines
}

// benchName is Benchmark<Experiment>/k=v/…-<cpus>. The number is always
// there, so that a label that ends in -2 is not read as CPUs.
func benchName(experiment string, labels map[string]string, cpus int) string {
	var b strings.Builder
	name := benchEscape(experiment)
	b.WriteString("Benchmark" + strings.ToUpper(name[:1]) + name[1:])
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		b.WriteString("/" + benchEscape(k) + "=" + benchEscape(labels[k]))
	}
	fmt.Fprintf(&b, "-%d", cpus)
	return b.String()
}

// benchUnit is the metric's own unit. Seconds and bytes are called as the Go
// tools call them.
func benchUnit(metric, unit string) string {
	switch unit {
	case "s":
		unit = "sec"
	case "bytes":
		unit = "B"
	}
	return metric + "-" + unit
}

// benchEscape keeps a part of a name one field and one part.
func benchEscape(s string) string {
	if s == "" {
		return "_"
	}
	return strings.Map(func(r rune) rune {
		if r == '/' || unicode.IsSpace(r) || unicode.IsControl(r) {
			return '_'
		}
		return r
	}, s)
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
