package fault

import (
	"fmt"
	"hash/fnv"
	"iter"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/vpclab/vpclab/topo"
)

// Step is one fault of a schedule: what breaks when, since the beginning. It is
// none of those that stand for many (flap, churn).
type Step struct {
	At    time.Duration
	Fault topo.Fault
	// Of is the index of the event that it comes from.
	Of int
}

// Schedule expands the faults among events to a list in order of time, up to a
// horizon: each time that a flapping link goes down, each failure that churn
// draws. Operations are left out. The list is a function of its arguments: each
// component that churns has a stream of random numbers of its own, so that one
// that comes or goes changes nothing about the others. What lasts beyond the
// horizon has no end there.
func Schedule(seed uint64, plan *topo.Plan, events []topo.Event, horizon time.Duration) []Step {
	return slices.Collect(Steps(seed, plan, events, horizon))
}

// Steps is Schedule for those who do not want all of it at once: a link that
// flaps for a day does so a million times.
func Steps(seed uint64, plan *topo.Plan, events []topo.Event, horizon time.Duration) iter.Seq[Step] {
	var all []stream
	clock := time.Duration(0)
	for i, e := range events {
		clock = max(clock, e.At.Std()) // an event without a time comes right after the one ahead
		switch {
		case e.Fault.Kind == "":
		case e.Fault.Kind == topo.FaultFlap:
			all = append(all, flaps(e.Fault, i, clock))
		case e.Fault.Kind == topo.FaultChurn:
			end := horizon
			if e.Fault.For > 0 {
				end = min(end, clock+e.Fault.For.Std())
			}
			for _, component := range plan.FaultComponents(e.Fault) {
				all = append(all, failures(seed, e.Fault, component, i, clock, end))
			}
		default:
			all = append(all, once(Step{At: clock, Fault: e.Fault, Of: i}))
		}
	}
	return merged(all, horizon)
}

// stream gives one step after the other, in order of time; false: that was all.
// Each has state of its own, so a stream is for one reading.
type stream func() (Step, bool)

// merged are the steps of all streams in order of time, and of the streams where
// several come at the same time.
func merged(all []stream, horizon time.Duration) iter.Seq[Step] {
	return func(yield func(Step) bool) {
		next := make([]*Step, len(all))
		read := func(i int) {
			next[i] = nil
			if s, ok := all[i](); ok && s.At < horizon {
				next[i] = &s
			}
		}
		for i := range all {
			read(i)
		}
		for {
			first := -1
			for i, s := range next {
				if s != nil && (first < 0 || s.At < next[first].At) {
					first = i
				}
			}
			if first < 0 || !yield(*next[first]) {
				return
			}
			read(first)
		}
	}
}

func once(s Step) stream {
	done := false
	return func() (Step, bool) {
		was := done
		done = true
		return s, !was
	}
}

// flaps are the times that a link goes down.
func flaps(f topo.Fault, of int, from time.Duration) stream {
	one := topo.Fault{Kind: topo.FaultLinkDown, Link: f.Link, For: f.For}
	if one.For == 0 {
		one.For = f.Every / 2
	}
	n := 0
	return func() (Step, bool) {
		s := Step{At: from + time.Duration(n)*f.Every.Std(), Fault: one, Of: of}
		n++
		return s, f.Times == 0 || n <= f.Times
	}
}

// shortest is how long a failure lasts at least: below it nobody could see one.
const shortest = time.Millisecond

// failures are those of one component: it is whole and broken in turn, for times
// that are exponentially distributed.
func failures(seed uint64, churn, component topo.Fault, of int, from, to time.Duration) stream {
	name := fnv.New64a()
	fmt.Fprint(name, of, " ", component.String())
	r := rand.New(rand.NewPCG(seed, name.Sum64()))
	draw := func(mean topo.Duration) time.Duration {
		return max(shortest, time.Duration(r.ExpFloat64()*float64(mean)))
	}
	at := from
	return func() (Step, bool) {
		if at += draw(churn.MTBF); at >= to {
			at = to
			return Step{}, false
		}
		one := Step{At: at, Fault: component, Of: of}
		one.Fault.For = topo.Duration(min(draw(churn.MTTR), to-at))
		at += one.Fault.For.Std()
		return one, true
	}
}
