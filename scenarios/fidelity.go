package scenarios

import (
	"context"
	"fmt"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/watch"
	"github.com/vpclab/vpclab/metrics"
)

// Every experiment says by its resolution what it claims to tell apart: the
// shortest duration that may be read from its figures. Whether a lab's kernel
// that stood still for 20 ms has spoilt a trial depends on that alone: it does
// where an outage of 30 ms is measured, and not where 30 s of migration are.
// docs/invariants.md has the bounds with their reasons.

// Bounds in parts of the resolution.
const (
	stallVoid    = 5.0  // a stall of so many resolutions is a figure of its own
	latenessWarn = 0.2  // one wake-up in a hundred
	latenessVoid = 2.0  //
	jumpVoid     = 1.0  //
	jumpWarn     = 1e-3 // s, whatever the resolution: no clock of a kernel jumps
)

// How many wake-ups it takes until a share of them says something, and until one
// in a hundred says more than the longest stall does: one second, and 4.6.
const (
	beatsOfShare = 43
	beatsOfRank  = 200
)

// counting is the resolution of an experiment that counts and takes no times: it
// may be as slow as it likes.
const counting = 10 * time.Second

// Bounds that do not depend on it.
const (
	lateWarn    = 0.10 // of the time, nothing could begin to run
	lateVoid    = 0.50
	stolenWarn  = 0.05
	stolenVoid  = 0.50
	busyWarn    = 0.98
	dropsVoid   = 10   // packets that the kernel had no room for,
	dropsShare  = 1e-4 // or so many of all, if that is more
	reclaimVoid = 1000 // times a second
)

// checksOf are the invariants of a trial in which this was seen, of an experiment
// of a kind.
func checksOf(s watch.Seen, k kind, lost losses) (checks []metrics.Check, detail map[string]string) {
	r := k.resolution.Seconds()
	at := func(t time.Duration) string { return fmt.Sprintf("%.1f s after the beginning", t.Seconds()) }
	checks = []metrics.Check{
		{Invariant: "stall", Value: s.Stall.Seconds(), Warn: r, Void: stallVoid * r, Unit: "s"},
		{Invariant: "clock-jump", Value: max(s.Jump.Abs(), s.Stepped.Abs()).Seconds(), Warn: jumpWarn, Void: max(jumpVoid*r, 5*jumpWarn), Unit: "s"},
	}
	detail = map[string]string{
		"stall":          at(s.StallAt),
		"timer-lateness": fmt.Sprintf("99 %% of %d wake-ups", s.Beats),
		"clock-jump":     at(s.JumpAt),
	}
	if s.Beats >= beatsOfShare {
		void := lateVoid
		if k.resolution >= counting {
			void = 1 // never
		}
		checks = append(checks, metrics.Check{Invariant: "late-share", Value: s.Late, Warn: lateWarn, Void: void, Unit: "ratio"})
		detail["late-share"] = fmt.Sprintf("of %d wake-ups", s.Beats)
	}
	if s.Beats >= beatsOfRank {
		checks = append(checks, metrics.Check{Invariant: "timer-lateness", Value: s.P99.Seconds(), Warn: max(latenessWarn*r, 1e-3), Void: latenessVoid * r, Unit: "s"})
	}
	if s.Stepped.Abs() > s.Jump.Abs() {
		detail["clock-jump"] = "CLOCK_REALTIME was set"
	}
	if s.Uncounted == nil {
		counted, why := countedChecks(s, k)
		checks = append(checks, counted...)
		for k, v := range why {
			detail[k] = v
		}
	}
	return append(checks,
		metrics.Check{Invariant: "lost-probes", Value: float64(lost.probes), Unit: "count"},
		metrics.Check{Invariant: "lost-events", Value: float64(lost.events), Unit: "count"},
	), detail
}

// countedChecks are those of what the kernel counts.
func countedChecks(s watch.Seen, k kind) ([]metrics.Check, map[string]string) {
	busyWarn := busyWarn
	if k.computes {
		busyWarn = 1 // never
	}
	return []metrics.Check{
		{Invariant: "steal", Value: s.Stolen, Warn: stolenWarn, Void: stolenVoid, Unit: "ratio"},
		// Void is never: how busy the processor was is for whoever reads a rate.
		{Invariant: "cpu-busy", Value: s.Busy, Warn: busyWarn, Void: 1, Unit: "ratio"},
		{Invariant: "backlog-drops", Value: float64(s.Dropped), Void: max(dropsVoid, dropsShare*float64(s.Received)), Unit: "count"},
		{Invariant: "memory-reclaim", Value: float64(s.Reclaims) / max(s.Lasted.Seconds(), 1), Void: reclaimVoid, Unit: "1/s"},
		{Invariant: "out-of-memory", Value: float64(s.Killed), Unit: "count"},
	}, map[string]string{"backlog-drops": fmt.Sprintf("of %d packets", s.Received)}
}

// missing is a session whose probes can be lost where they have arrived.
type missing interface{ missed() int }

// losses are what measuring itself has lost until now.
type losses struct{ events, probes int }

func (r *runner) losses(s session) losses {
	l := losses{events: r.cfg.Lab.LostEvents()}
	if m, ok := s.(missing); ok {
		l.probes = m.missed()
	}
	return l
}

// beginWatch looks at a trial of a kind until it is graded. Without a watch nothing
// is seen, and the grade is unknown. s may be nil.
func (r *runner) beginWatch(ctx context.Context, k kind, s session) (context.Context, func() *metrics.Fidelity) {
	if r.watch == nil || r.grade != nil { // a test says what was seen, and not the machine that it runs on
		return ctx, func() *metrics.Fidelity { return nil }
	}
	span := r.watch.Begin()
	before := r.losses(s)
	return context.WithValue(ctx, spanKey{}, span), func() *metrics.Fidelity {
		seen, after := span.End(), r.losses(s)
		return metrics.GradeChecks(checksOf(seen, k, losses{after.events - before.events, after.probes - before.probes}))
	}
}

type spanKey struct{}

// measuring says that the durations which a trial measures lie between these two
// moments: what the kernel does before and after spoils nothing. A trial that
// says it several times measures in each of them; one that never does, always.
func measuring(ctx context.Context, from, to event.Mono) {
	if span, ok := ctx.Value(spanKey{}).(*watch.Span); ok {
		span.Only(int64(from), int64(to))
	}
}

// labKind is for the times of building and removing the lab, which are taken once.
var labKind = kind{resolution: time.Second, computes: true}

// gradeLab ends a stretch in which the lab was built or removed.
func (r *runner) gradeLab(_ context.Context, grade func() *metrics.Fidelity) {
	r.lab = metrics.WorseOf(r.lab, grade())
}

// judgeFidelity says which trials are left out. A point of which nothing is left
// fails the run, whatever is expected of the numbers.
func (r *runner) judgeFidelity(experiment string, v *Verdict) {
	if text := r.cfg.Store.VoidText(experiment); text != "" {
		v.Lines = append(v.Lines, fmt.Sprintf("VOID %s: %s", experiment, text))
	}
	for _, text := range r.cfg.Store.Unmeasured(experiment) {
		v.Lines = append(v.Lines, fmt.Sprintf("FAIL %s: no valid trial: %s", experiment, text))
		if v.Status == metrics.VerdictPass {
			v.Status = metrics.VerdictFail
		}
	}
}
