package compare

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/vpclab/vpclab/metrics"
)

// NotComparableError says why two sides have nothing to do with each other.
type NotComparableError struct{ Reasons []string }

func (e *NotComparableError) Error() string {
	return "not comparable: " + strings.Join(e.Reasons, "; ")
}

// fact is something of a run that should be the same on both sides.
type fact struct {
	what string
	of   func(metrics.RunInfo) string
	// bars: results that differ in it say nothing about each other.
	bars bool
	// real: on the virtual clock it has no influence.
	real bool
	why  string
}

var facts = []fact{
	{what: "scenario", of: func(i metrics.RunInfo) string { return i.Scenario }, bars: true},
	{what: "kernel", of: func(i metrics.RunInfo) string { return i.Kernel.Substrate }, bars: true},
	{what: "clock", of: func(i metrics.RunInfo) string { return i.Kernel.Clock }, bars: true},
	{what: "speed of the virtual processor", of: func(i metrics.RunInfo) string {
		if i.Kernel.Virtual == nil {
			return ""
		}
		return fmt.Sprintf("%d instructions in 2^%d ns", max(i.Kernel.Virtual.Speed, 1), i.Kernel.Virtual.Shift)
	}, bars: true},
	{what: "text of the scenario", of: func(i metrics.RunInfo) string { return i.Source }},
	{what: "kernel release", of: func(i metrics.RunInfo) string { return i.Kernel.Release }},
	{what: "CPUs of the lab", of: func(i metrics.RunInfo) string { return fmt.Sprint(i.Kernel.CPUs) }},
	{what: "memory of the lab", of: func(i metrics.RunInfo) string { return fmt.Sprint(i.Kernel.MemoryMiB, " MiB") }},
	{what: "kernel image", of: func(i metrics.RunInfo) string {
		if i.Kernel.Virtual == nil {
			return ""
		}
		return i.Kernel.Virtual.Image
	}},
	{what: "emulator", of: func(i metrics.RunInfo) string {
		if i.Kernel.Virtual == nil {
			return ""
		}
		return i.Kernel.Virtual.Emulator + ", " + i.Kernel.Virtual.Machine
	}},
	{what: "processor", of: func(i metrics.RunInfo) string { return i.Host.CPU }, real: true, why: "times of different machines are not those of different versions"},
	{what: "number of processors", of: func(i metrics.RunInfo) string { return fmt.Sprint(i.Host.CPUs) }, real: true},
	{what: "host's kernel", of: func(i metrics.RunInfo) string { return i.Host.Kernel }, real: true},
}

// comparable tells what differs between the sides beside the version: what
// forbids comparing them, unless it is forced, and what only adds noise.
func comparable(old, new Side, force bool) (warnings []string, err error) {
	var bars []string
	virtual := onVirtualClock(old) && onVirtualClock(new)
	for _, f := range facts {
		a, b := factOf(old, f), factOf(new, f)
		if f.real && virtual || slices.Equal(a, b) {
			continue
		}
		text := f.what + " differs"
		if long := strings.Join(append(slices.Clone(a), b...), ""); len(long) < 160 && !strings.Contains(long, "\n") {
			text += fmt.Sprintf(": %s in %s, %s in %s", orNone(a), old.Name, orNone(b), new.Name)
		}
		if f.why != "" {
			text += " (" + f.why + ")"
		}
		if f.bars {
			bars = append(bars, text)
		} else {
			warnings = append(warnings, text)
		}
	}
	warnings = append(warnings, loads(old, new, virtual)...)
	warnings = append(warnings, mixed(old, new)...)
	if len(bars) > 0 && !force {
		return warnings, &NotComparableError{bars}
	}
	return append(bars, warnings...), nil
}

// loads warns of a machine that was busy with something else.
func loads(old, new Side, virtual bool) (warnings []string) {
	for _, s := range []Side{old, new} {
		for _, r := range s.Runs {
			if busy := max(r.Host.LoadMin, 0); !virtual && r.Host.CPUs > 0 && busy > float64(r.Host.CPUs) {
				warnings = append(warnings, fmt.Sprintf("%s: the machine was busy when run %s began: load %.1f on %d processors", s.Name, r.ID, busy, r.Host.CPUs))
			}
		}
	}
	return warnings
}

// mixed warns of runs that were gone on with by another version or kernel: their
// trials are not of one kind.
func mixed(sides ...Side) (warnings []string) {
	for _, s := range sides {
		for _, r := range s.Runs {
			if len(r.Sessions) < 2 {
				continue
			}
			first := r.Sessions[0]
			if slices.ContainsFunc(r.Sessions, func(x metrics.Session) bool {
				return x.Version != first.Version || x.Program != first.Program || x.Kernel.Release != first.Kernel.Release || x.Kernel.Substrate != first.Kernel.Substrate
			}) {
				warnings = append(warnings, fmt.Sprintf("%s: run %s was gone on with by another version or on another kernel", s.Name, r.ID))
			}
		}
	}
	return warnings
}

// factOf are the values of a fact on a side, each once.
func factOf(s Side, f fact) []string {
	seen := map[string]bool{}
	for _, r := range s.Runs {
		seen[f.of(r)] = true
	}
	return slices.Sorted(maps.Keys(seen))
}

func orNone(values []string) string {
	text := strings.Join(values, " and ")
	if text == "" {
		return "none"
	}
	return text
}

func onVirtualClock(s Side) bool {
	return !slices.ContainsFunc(s.Runs, func(r metrics.RunInfo) bool { return r.Kernel.Clock != "virtual" })
}

// sameDraws tells whether trials of the same number had the same fate on both
// sides, but for what was changed: on the virtual clock, with the same seeds.
func sameDraws(old, new Side) bool {
	seeds := fact{of: func(i metrics.RunInfo) string { return fmt.Sprint(i.Seed) }}
	return onVirtualClock(old) && onVirtualClock(new) && slices.Equal(factOf(old, seeds), factOf(new, seeds))
}

// keysOf are the cells of both tables, by experiment, metric and point.
func keysOf(tables ...table) []cellKey {
	seen := map[cellKey]map[string]string{}
	for _, t := range tables {
		for k := range t.values {
			seen[k] = t.labels[k]
		}
	}
	return slices.SortedFunc(maps.Keys(seen), func(a, b cellKey) int {
		if c := strings.Compare(a.experiment, b.experiment); c != 0 {
			return c
		}
		if c := strings.Compare(a.metric, b.metric); c != 0 {
			return c
		}
		if c := metrics.ComparePoints(seen[a], seen[b]); c != 0 {
			return c
		}
		return strings.Compare(a.unit, b.unit)
	})
}
