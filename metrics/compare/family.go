package compare

import (
	"fmt"
	"path"
	"strings"

	"github.com/vpclab/vpclab/metrics"
)

// headlines are the metrics that an experiment is about, in the order of a
// reader's interest. They decide where the user names none; together with what
// the scenario's expectations compare.
var headlines = []string{
	"setup.programmed", "setup.first_packet", "join.first_packet",
	"operation.first_packet", "operation.outage",
	"migration.total", "migration.pause", "migration.payload",
	"group.total", "group.bytes",
	"reconvergence.outage", "failover.rto", "failover.rpo_bytes", "availability.ratio", "availability.down",
	"replica.commit", "replica.pause",
	"lan.throughput", "lan.rtt", "reservation.rate", "reservation.latency",
	"peer.join", "peer.outage", "audit.time",
}

// family tells of a cell whether it is among those that decide. It is settled
// by names alone, before any value is looked at.
type family struct {
	how string // for people
	has func(k cellKey) bool
}

// familyOf names the cells that decide: those of the patterns that the user
// gave; else the headlines and what the scenario's expectations compare.
func (o Options) familyOf(sides ...Side) (family, error) {
	if len(o.Metrics) > 0 {
		for _, p := range o.Metrics {
			if _, err := path.Match(p, ""); err != nil {
				return family{}, fmt.Errorf("pattern of metrics %q: %w", p, err)
			}
		}
		return family{
			how: "the metrics that were named: " + strings.Join(o.Metrics, ", "),
			has: func(k cellKey) bool { return k.metric == failedMetric || matches(o.Metrics, k.metric) },
		}, nil
	}
	said := map[cellKey]bool{}
	for _, s := range sides {
		samples := s.samples()
		for _, info := range s.Runs {
			for _, outcome := range info.Outcomes {
				e, err := metrics.ParseExpect(outcome.Expect)
				if err != nil {
					continue // it was judged by a version that could read it
				}
				for _, p := range e.Names(ofExperiment(samples, outcome.Experiment)) {
					said[cellKey{outcome.Experiment, p.Metric, p.Unit, metrics.PointText(p.Labels)}] = true
				}
			}
		}
	}
	return family{
		how: "what the scenario's expectations compare, and the headline metrics of its experiments",
		has: func(k cellKey) bool {
			return k.metric == failedMetric || said[k] || matches(headlines, k.metric)
		},
	}, nil
}

func ofExperiment(samples []metrics.Sample, name string) (of []metrics.Sample) {
	for _, s := range samples {
		if s.Experiment == name {
			of = append(of, s)
		}
	}
	return of
}
