package scenarios

import (
	"fmt"
	"strings"
	"time"

	"github.com/vpclab/vpclab/emu/replicate"
	"github.com/vpclab/vpclab/topo"
)

// The experiment failover.
//
// A point is a kind of guest, a mode of replication, its epoch, a round-trip time between the two
// clouds and a fault. In each trial the VM begins anew, alone: its users are
// watched for a while. Then it begins once more, with its standby, and when that
// holds everything other users come and are watched. Then the fault of the point is done; or, where it is
// "planned", the VM is switched over as for maintenance. The users are watched
// until each has been answered from the seat that took over, and for as long as
// the file says; then each asks what became of what it was told. At last the fault
// is undone, and the lab must be whole again, with the VM protected.
//
// Times are seconds by the lab kernel's monotonic clock. They are split at what
// the seats, the witness and the users say themselves.

// Parameters of the experiment beside the fault and the round-trip time.
const (
	paramMode  = "mode"
	paramEpoch = "epoch"
)

// faultPlanned is in place of a fault: the VM is switched over.
const faultPlanned = "planned"

// Phases of users' response times.
const (
	phaseAlone     = "alone"     // without a standby
	phaseProtected = "protected" // with one
)

// replicaModes are those of package replicate, by what they promise.
var replicaModes = []string{replicate.Async, replicate.Checkpoint, replicate.Pipelined, replicate.Sync}

func failoverKind() kind {
	return kind{
		resolution: 50 * time.Millisecond,
		params: []param{
			word(paramGuest, "a kind of guest", []string{topo.GuestProcess, topo.GuestQEMU}, kindOf),
			word(paramMode, "a mode of replication", replicaModes, func(p *topo.Plan, e topo.Experiment) string {
				pair, _ := p.PairOf(e.VM)
				return pair.Mode
			}),
			quantity(paramEpoch, "an epoch", topo.ParseDuration, topo.Duration(time.Millisecond), topo.Duration(10*time.Second), func(p *topo.Plan, e topo.Experiment) string {
				pair, _ := p.PairOf(e.VM)
				return epochText(pair.Epoch)
			}),
			quantity(paramRTT, "a round-trip time between the two clouds", topo.ParseDuration, 0, topo.Duration(2*time.Second), func(p *topo.Plan, e topo.Experiment) string {
				return pairWAN(p, e).rtt.String()
			}),
			failoverFaultParam(),
		},
		guests:      true,
		takesEvents: true,
		takesFaults: true,
		metricsOf:   failoverMetrics,
		check:       checkFailover,
		open:        func(o opening) (session, error) { return openFailover(o) },
	}
}

// epochText is an epoch as the parameter has it; "": the mode's own.
func epochText(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return topo.Duration(d).String()
}

// failoverFaultParam is which of the experiment's faults is done, or that the
// VM is switched over.
func failoverFaultParam() param {
	p := faultParam()
	chosen := p.usual
	p.usual = func(plan *topo.Plan, e topo.Experiment) string {
		if len(e.Events) == 0 {
			return faultPlanned
		}
		return chosen(plan, e)
	}
	return p
}

// pairWAN is the path between the PEs of a VM's two seats.
func pairWAN(plan *topo.Plan, e topo.Experiment) wan {
	pair, ok := plan.PairOf(e.VM)
	if !ok {
		return wan{}
	}
	return wanBetween(plan, siteOf(plan, pair.Hosts[0]), siteOf(plan, pair.Hosts[1]))
}

// siteOf is the site of a node.
func siteOf(plan *topo.Plan, node string) string {
	n, _ := plan.Node(node)
	if n == nil {
		return ""
	}
	return n.Site
}

// checkFailover reports what of a plan makes a failover impossible.
func checkFailover(plan *topo.Plan, e topo.Experiment) (msg, hint string) {
	if _, ok := plan.PairOf(e.VM); !ok {
		if _, ok := plan.Node(e.VM); !ok || e.VM == "" {
			return "failover needs a VM, and which is not said", "add for example `vm: shop`"
		}
		return fmt.Sprintf("VM %s has no standby: nothing would take over", e.VM), "give it one, as in `standby: {host: illinois/1}`"
	}
	if e.Clients == nil {
		return "failover is measured by what users see, and there are none", "add for example `clients: {from: hq}`"
	}
	if n, _ := plan.Node(e.VM); n.Guest == nil || n.Guest.Disk == 0 {
		return fmt.Sprintf("VM %s has no disk: what it was told could not be looked up after it has failed over", e.VM), "give it one, as in `disk: 16MiB`"
	}
	if len(e.Events) > 0 {
		planned := e
		planned.Vary = nil
		if msg, hint = checkFaults(planned); msg != "" {
			return msg, hint
		}
	}
	names := append(faultNames(e), faultPlanned)
	varied, _ := e.Vary.Get(paramFault)
	for _, v := range varied {
		found := false
		for _, name := range names {
			found = found || name == string(v)
		}
		if !found {
			return fmt.Sprintf("fault %q is not among the experiment's events; there are %s", v, strings.Join(names, ", ")), ""
		}
	}
	w := pairWAN(plan, e)
	if _, rtts := e.Vary.Get(paramRTT); rtts && len(w.path) < 2 {
		return "both seats are at one PE: no core link is between them whose round-trip time could be varied", "choose a host at another PE"
	}
	return "", ""
}

// failoverParts are what a recovery is made of, in order of time: each lasts
// from the end of the one before it.
var failoverParts = []struct{ name, what string }{
	{"detect", "from the fault until the standby has not heard of the other seat for as long as it waits"},
	{"decide", "until the witness has given it the VM"},
	{"activate", "until the VM has taken its first step there"},
	{"redirect", "until the network has been told where it is"},
	{"client", "until the first user is answered from there"},
}

// failoverMetrics are those of an experiment.
func failoverMetrics(*topo.Plan, topo.Experiment) []metric {
	none := []labels{{}}
	quantile := cross(none, "quantile", quantileNames()...)
	var list []metric
	for _, p := range failoverParts {
		list = append(list, metric{"failover." + p.name, "s", p.what, nil})
	}
	return append(list,
		metric{"failover.rto", "s", "from the fault until the first user is answered by the seat that took over", nil},
		metric{"failover.gap", "s", "longest time without an answer to any user, less the usual one", nil},
		metric{"failover.took_over", "count", "1: the other seat took over; 0: the VM went on where it was", nil},
		metric{"failover.acked", "count", "transactions that users were told are done", nil},
		metric{"failover.lost", "count", "of them, those of which the VM knows nothing afterwards", nil},
		metric{"failover.rpo_time", "s", "age at the fault of the oldest of them", nil},
		metric{"failover.rpo_bytes", "bytes", "that they had written", nil},
		metric{"failover.active", "count", "seats that ran at the same time, at most", nil},
		metric{"failover.protected_again", "s", "from when the fault was undone until a standby holds everything again", nil},
		metric{"client.resets", "count", "connections of users that broke", nil},
		metric{"client.reconnects", "count", "connections that users opened again", nil},
		metric{"client.response", "s", "of questions asked in a phase", cross(cross(none, "phase", phaseAlone, phaseProtected, phaseAfter), "quantile", quantileNames()...)},
		metric{"client.rate", "1/s", "answers in a phase", cross(none, "phase", phaseAlone, phaseProtected)},
		metric{"guest.overhead", "ratio", "steps of the workload in a second alone, to those with a standby, less 1", nil},
		metric{"replica.sync", "s", "from when the standby came until it held everything", nil},
		metric{"replica.bytes", "bytes", "sent to the standby while the VM was watched with it", nil},
		metric{"replica.rate", "bit/s", "likewise, a second", nil},
		metric{"replica.epochs", "count", "acknowledged meanwhile", nil},
		metric{"replica.frequency", "1/s", "checkpoints, or batches of writes, a second", nil},
		metric{"replica.pause", "s", "that the VM stood for one", quantile},
		metric{"replica.commit", "s", "from when one was taken until it was acknowledged", quantile})
}
