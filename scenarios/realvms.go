package scenarios

import (
	"time"

	"github.com/vpclab/vpclab/emu/vmm"
	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/topo"
)

// What is different in the experiment migration where QEMU moves its guest by
// itself.

// A migration may take so long to converge where the file does not say: the time
// in which its memory could be sent so often, and no less than a minute.
const (
	convergeTimes = 5
	convergeLeast = time.Minute
)

// convergeIn is how long the memory of a VM may be copied while it runs.
func (r *migrationTrial) convergeIn(node *topo.Node) time.Duration {
	if q := r.experiment.QEMU; q != nil && q.Within != 0 {
		return q.Within.Std()
	}
	rate := r.pt.rate(paramRate)
	if rate == 0 {
		return convergeLeast
	}
	once := time.Duration(8 * float64(node.Guest.Memory) / float64(rate) * float64(time.Second))
	return max(convergeLeast, convergeTimes*once)
}

// realMetrics are those of an experiment with QEMU guests only.
func realMetrics(each []labels) []metric {
	return []metric{
		{"migration.converged", "count", "1: the VM has moved; 0: its pages were dirtied faster than they could be sent, until the migration was given up", each},
		{"qemu.downtime", "s", "QEMU's own word on how long the VM stood; it leaves out what the pause has beside the stream", each},
		{"qemu.setup", "s", "QEMU's preparations, before a page was sent", each},
		{"qemu.throttle", "percent", "the most by which QEMU slowed the VM down", each},
		{"qemu.dirty_rate", "pages", "a second that the VM dirtied, as QEMU last measured it before the VM stood", each},
		{"qemu.blocked", "s", "that virtual processors stood at missing pages, after the VM ran at the destination", each},
	}
}

// hasReal tells whether QEMU guests are among those that move.
func hasReal(plan *topo.Plan, e topo.Experiment) bool {
	for _, kind := range kindsOf(plan, e) {
		if kind == topo.GuestQEMU {
			return true
		}
	}
	return false
}

// addReal stores what only a migration of a QEMU guest has.
func (r *migrationTrial) addReal(m *moved, set labels) {
	converged := 1.
	if m.diverged {
		converged = 0
	}
	r.t.Add("migration.converged", "count", converged, set)
	if q := m.qemu; q != nil {
		addStats(r.t, q, set)
	}
}

func addStats(t *metrics.Trial, q *vmm.Stats, set labels) {
	t.Add("qemu.downtime", "s", q.Downtime.Seconds(), set)
	t.Add("qemu.setup", "s", q.Setup.Seconds(), set)
	t.Add("qemu.throttle", "percent", float64(q.Throttle), set)
	t.Add("qemu.dirty_rate", "pages", float64(q.DirtyRate), set)
	t.Add("qemu.blocked", "s", q.Blocktime.Seconds(), set)
}
