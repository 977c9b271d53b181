package fault

import (
	"cmp"
	"fmt"
	"hash/fnv"
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
	var steps []Step
	clock := topo.Duration(0)
	for i, e := range events {
		clock = max(clock, e.At) // an event without a time comes right after the one ahead
		switch {
		case e.Fault.Kind == "" || clock.Std() >= horizon:
		case e.Fault.Kind == topo.FaultFlap:
			steps = append(steps, flaps(e.Fault, i, clock.Std(), horizon)...)
		case e.Fault.Kind == topo.FaultChurn:
			end := horizon
			if e.Fault.For > 0 {
				end = min(end, clock.Std()+e.Fault.For.Std())
			}
			for _, component := range plan.FaultComponents(e.Fault) {
				steps = append(steps, failures(seed, e.Fault, component, i, clock.Std(), end)...)
			}
		default:
			steps = append(steps, Step{At: clock.Std(), Fault: e.Fault, Of: i})
		}
	}
	slices.SortStableFunc(steps, func(a, b Step) int { return cmp.Compare(a.At, b.At) })
	return steps
}

// flaps are the times that a link goes down.
func flaps(f topo.Fault, of int, from, to time.Duration) (steps []Step) {
	one := topo.Fault{Kind: topo.FaultLinkDown, Link: f.Link, For: f.For}
	if one.For == 0 {
		one.For = f.Every / 2
	}
	for n := 0; (f.Times == 0 || n < f.Times) && from < to; n++ {
		steps = append(steps, Step{At: from, Fault: one, Of: of})
		from += f.Every.Std()
	}
	return steps
}

// shortest is how long a failure lasts at least: below it nobody could see one.
const shortest = time.Millisecond

// failures are those of one component: it is whole and broken in turn, for times
// that are exponentially distributed.
func failures(seed uint64, churn, component topo.Fault, of int, from, to time.Duration) (steps []Step) {
	name := fnv.New64a()
	fmt.Fprint(name, of, " ", component.String())
	r := rand.New(rand.NewPCG(seed, name.Sum64()))
	draw := func(mean topo.Duration) time.Duration {
		return max(shortest, time.Duration(r.ExpFloat64()*float64(mean)))
	}
	for at := from + draw(churn.MTBF); at < to; {
		one := component
		one.For = topo.Duration(min(draw(churn.MTTR), to-at))
		steps = append(steps, Step{At: at, Fault: one, Of: of})
		at += one.For.Std() + draw(churn.MTBF)
	}
	return steps
}
