package compare

import (
	"path"
	"slices"
	"strings"
)

// Direction says which way of a metric is the better one.
type Direction string

const (
	Lower   Direction = "lower"   // less is better
	Higher  Direction = "higher"  // more is better
	Neither Direction = "neither" // a difference is one, and no more
)

// directions are the metrics whose unit does not say it, as patterns of their
// names; the first that fits counts. What is set by the experiment itself, or
// how far it got, is neither. What is in none of these rows goes by its unit.
var directions = []struct {
	better  Direction
	pattern []string
}{
	{Lower, []string{
		failedMetric, "rules", "vm_commands", "circuit_entries", "touched.*", "operation.routers", "operation.announcements", "operation.vm_commands",
		"*.leaks", "*leaked", "*.violations", "*.errors", "*.lost", "*.resets", "*.reconnects", "*probes_lost", "*.different", "*.doubled",
		"*.duplicates", "*.wrong_answers", "*.overheard", "*.mtu_silent", "*.outages", "*.rpo_bytes", "*.resent", "*.refused",
		"*.corrupt", "*.false", "migration.rounds", "faults.demanded", "guest.overhead", "replica.rate", "lan.rtt_ratio",
		"disk.sent", "disk.synced",
	}},
	{Higher, []string{
		"*.pairs_reached", "*.verified", "*.done", "*.acked", "*.recovered", "*.took_over", "*.rerouted", "*.silent_arrived", "*.inside_received",
		"availability.ratio", "reconvergence.goodput", "reservation.share*", "reservation.used", "reservation.spare", "lan.throughput_ratio",
		"lan.mtu", "disk.same",
	}},
	{Neither, []string{
		"*_set", "*probe_interval", "*_interval", "reconvergence.interval", "*.lasted", "reservation.pause", "reservation.short", "redundancy.*",
		"delta.*", "encoder.in", "encoder.units", "encoder.wanted", "round.*", "lan.fragmented",
	}},
}

// better is the direction of a metric: as the user says, else by the table,
// else by its unit. Of times and bytes less is better, of rates more; of other
// counts nobody knows.
func (o Options) better(metric, unit string) Direction {
	switch {
	case matches(o.Lower, metric):
		return Lower
	case matches(o.Higher, metric):
		return Higher
	case matches(o.Neither, metric):
		return Neither
	}
	for _, d := range directions {
		if matches(d.pattern, metric) {
			return d.better
		}
	}
	switch {
	case strings.HasSuffix(unit, "/s"):
		return Higher
	case unit == "s" || unit == "bytes":
		return Lower
	}
	return Neither
}

// matches tells whether a metric is named by one of some patterns, in which *
// stands for any letters, dots included.
func matches(patterns []string, metric string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		ok, err := path.Match(p, metric)
		return err == nil && ok
	})
}

// scheduled are counts that depend on when things happen: the tick at which a
// page is written decides whether it is sent once more. Any change of the
// program moves them, so that one which was the same in six trials need not be
// in the seventh.
var scheduled = []string{
	"migration.rounds", "round.*", "encoder.*", "faults.*", "disk.*", "*.done", "*.acked", "*.probes_*", "reconvergence.lost", "reservation.lost", "failover.lost", "*_sent", "*_arrived",
	"*.resent", "*.reconnects", "replica.epochs", "operation.announcements", "availability.*",
}

// byChance tells of a counter whether its value may depend on the schedule.
func byChance(metric, unit string) bool { return unit != "count" || matches(scheduled, metric) }

// isCounter tells what is counted from what is measured: a count that does not
// depend on chance or on the machine is the same in every trial.
func isCounter(unit string) bool {
	return slices.Contains([]string{"count", "bytes", "pages"}, unit)
}
