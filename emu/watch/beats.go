package watch

import (
	"slices"
	"time"
)

// lateFrom is from where on a wake-up counts as late: above what a kernel that is
// not disturbed takes, User Mode Linux included (0.1 to 0.3 ms).
const lateFrom = 2 * time.Millisecond

// fewest wake-ups that a rate of clocks is reckoned from.
const fewestRates = 8

// window is a part of a span, in nanoseconds of CLOCK_MONOTONIC.
type window struct{ from, to int64 }

// pace is what the wake-ups of a span say, in those windows of it that matter.
func (s *Seen) pace(beats []beat, begin, end, due int64, windows []window) {
	if due < end { // it should have come, and has not: who asks was first
		beats = append(slices.Clone(beats), beat{due: due, woke: end})
	}
	var lates []time.Duration
	for _, b := range beats {
		for _, w := range windows {
			part := beat{due: max(b.due, w.from), woke: min(b.woke, w.to)}
			if b.woke <= w.from || b.due >= w.to {
				continue
			}
			late := part.late()
			if late > s.Stall {
				s.Stall, s.StallAt = late, time.Duration(part.due-begin)
			}
			// Those that it slept through were late too, each by a period less.
			lates = append(lates, late)
			for late -= Period; late > 0; late -= Period {
				lates = append(lates, late)
			}
		}
	}
	s.Beats = len(lates)
	if s.Beats == 0 {
		return
	}
	slices.Sort(lates)
	s.Median, s.P99 = lates[(s.Beats-1)/2], lates[(s.Beats-1)*99/100]
	late := 0
	for _, l := range lates {
		if l > lateFrom {
			late++
		}
	}
	s.Late = float64(late) / float64(s.Beats)
	s.jumps(beats, begin)
}

// jumps compares CLOCK_MONOTONIC with the processor's counter between each two
// wake-ups: the rate is the same for all of them, but where the clock has jumped.
func (s *Seen) jumps(beats []beat, begin int64) {
	type step struct {
		at    int64
		ns    float64
		ticks float64
	}
	var steps []step
	var rates []float64
	for i := 1; i < len(beats); i++ {
		a, b := beats[i-1], beats[i]
		if a.tsc == 0 || b.tsc <= a.tsc || a.woke < begin {
			continue
		}
		t := step{b.woke - begin, float64(b.woke - a.woke), float64(b.tsc - a.tsc)}
		steps, rates = append(steps, t), append(rates, t.ns/t.ticks)
	}
	if len(rates) < fewestRates {
		return
	}
	slices.Sort(rates)
	rate := rates[len(rates)/2]
	for _, t := range steps {
		off := time.Duration(t.ns - rate*t.ticks)
		if off.Abs() > s.Jump.Abs() {
			s.Jump, s.JumpAt = off, time.Duration(t.at)
		}
	}
}
