package scenarios

import (
	"time"

	"github.com/vpclab/vpclab/topo"
)

// The experiment availability.
//
// A point is a mode of replication, or none ("alone"). In each trial the VM
// begins anew and has users; then faults come, one after the other, drawn from
// the experiment's events under the trial's seed: after a time of the mean mtbf
// from when all was well, for a time of the mean that its event says (for). When a
// fault has been undone the lab must become whole and the VM protected again.
//
// What must never be is counted as a violation: two seats active at the same
// time; a transaction lost that a mode had promised to keep; a lab that does not
// become whole; a guest that finds its own bytes wrong.

// modeAlone is in place of a mode of replication: there is no standby.
const modeAlone = "alone"

// Invariants, by their names in samples.
const (
	invariantActive = "one-active"
	invariantKept   = "nothing-lost"
	invariantWhole  = "whole-again"
	invariantSound  = "guest-sound"
)

var invariants = []string{invariantActive, invariantKept, invariantWhole, invariantSound}

const (
	usualLasts = 60 * time.Second
	usualMTBF  = 5 * time.Second
	usualMTTR  = 2 * time.Second
)

func availabilityKind() kind {
	return kind{
		resolution: 100 * time.Millisecond, // a silence counts from 0.5 s on
		params: []param{
			word(paramMode, "a mode of replication", append([]string{modeAlone}, replicaModes...), func(p *topo.Plan, e topo.Experiment) string {
				pair, _ := p.PairOf(e.VM)
				return pair.Mode
			}),
		},
		guests:      true,
		takesEvents: true,
		takesFaults: true,
		metricsOf:   availabilityMetrics,
		check:       checkAvailability,
		open:        func(o opening) (session, error) { return openAvailability(o) },
	}
}

// checkAvailability reports what of a plan makes the experiment impossible.
func checkAvailability(plan *topo.Plan, e topo.Experiment) (msg, hint string) {
	if len(e.Events) == 0 {
		return "availability needs faults to draw from, and the experiment has none", "add for example `events: [{fault: host-crash, host: texas/1, for: 3s}]`"
	}
	for _, ev := range e.Events {
		if ev.At != 0 {
			return "availability decides by itself when a fault comes", "take at away: mtbf is the mean time between faults"
		}
	}
	varied := e
	varied.Vary = nil
	return checkFailover(plan, varied)
}

// availabilityMetrics are those of an experiment.
func availabilityMetrics(_ *topo.Plan, e topo.Experiment) []metric {
	none := []labels{{}}
	kinds := faultNames(e)
	return []metric{
		{"availability.ratio", "ratio", "of the time, that in which users were answered", nil},
		{"availability.down", "s", "time in which they were not, in all", nil},
		{"availability.lasted", "s", "time in all", nil},
		{"availability.outages", "count", "times that they were not", nil},
		{"availability.mttr", "s", "length of one", cross(none, "quantile", quantileNames()...)},
		{"availability.faults", "count", "faults that came", cross(none, "fault", kinds...)},
		{"availability.takeovers", "count", "times that the other seat took over", nil},
		{"availability.acked", "count", "transactions that users were told are done", nil},
		{"availability.lost", "count", "of them, those of which the VM knows nothing at the end", nil},
		{"availability.resets", "count", "connections of users that broke", nil},
		{"availability.violations", "count", "what must never be, and was", append(cross(none, "invariant", invariants...), labels{})},
	}
}
