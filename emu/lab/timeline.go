package lab

import (
	"cmp"
	"slices"
	"time"

	"github.com/vpclab/vpclab/emu/bgp"
	"github.com/vpclab/vpclab/emu/event"
)

// Timeline is what one Apply measured, on CLOCK_MONOTONIC of the lab kernel.
// A stage that had nothing to do carries the moment Apply passed it, so every
// difference between two stamps is a duration >= 0 of that Apply, save that
// Announced may lie before Policy: sites announce as soon as they are
// configured, whatever the reflector does with it.
type Timeline struct {
	Request    event.Mono `json:"request_ns"`    // Apply was called
	Withdrawn  event.Mono `json:"withdrawn_ns"`  // last route that the new plan does not have was removed from a kernel
	Fabric     event.Mono `json:"fabric_ns"`     // namespaces, links, label tables and VRFs are in the kernel
	Configured event.Mono `json:"configured_ns"` // every PE's speaker runs and has acknowledged its configuration
	Policy     event.Mono `json:"policy_ns"`     // the reflector has acknowledged the route-target policy
	Announced  event.Mono `json:"announced_ns"`  // the last PE announced
	Programmed event.Mono `json:"programmed_ns"` // the last expected VPN route or pseudowire was acknowledged by a PE's kernel

	Nodes map[string]NodeTimes `json:"nodes,omitempty"` // by PE

	Added   int `json:"routes_added"`   // VPN routes and pseudowires programmed by this Apply
	Removed int `json:"routes_removed"` // VPN routes removed by it
	Changes int `json:"changes"`        // kernel objects added, changed and removed
}

// NodeTimes are one PE's stamps; 0 where nothing happened there.
type NodeTimes struct {
	Configured event.Mono `json:"configured_ns,omitempty"`
	Announced  event.Mono `json:"announced_ns,omitempty"`
	Programmed event.Mono `json:"programmed_ns,omitempty"`
	Routes     int        `json:"routes,omitempty"` // programmed by this Apply
}

// Total is the time from the request to the last thing that Apply waited for.
func (t *Timeline) Total() time.Duration {
	return max(t.Withdrawn, t.Policy, t.Configured, t.Fabric, t.Programmed).Sub(t.Request)
}

// note records what an event of this Apply says.
func (t *Timeline) note(e event.Event) {
	if e.T < t.Request || e.Node == "" {
		return
	}
	n := t.Nodes[e.Node]
	switch e.Kind {
	case "bgp.announced": // also a VSI's
		n.Announced = max(n.Announced, e.T)
		t.Announced = max(t.Announced, e.T)
	case "route.programmed", "pw.up":
		n.Programmed = max(n.Programmed, e.T)
		n.Routes += routesOf(e)
		t.Programmed = max(t.Programmed, e.T)
		t.Added += routesOf(e)
	case "route.removed", "pw.down":
		t.Withdrawn = max(t.Withdrawn, e.T)
		t.Removed += routesOf(e)
	default:
		return
	}
	t.Nodes[e.Node] = n
}

// routesOf is how many routes an event is about; a pseudowire counts as one.
func routesOf(e event.Event) int {
	run, err := bgp.Prefixes(e)
	if err != nil {
		return 1
	}
	return run.Count
}

// Stage is one part of an Apply.
type Stage struct {
	Name string        `json:"name"`
	At   event.Mono    `json:"at_ns"`
	Took time.Duration `json:"took_ns"` // since the stage before it ended
}

// Stages are the parts in the order in which they ended, without those that
// took no time worth telling.
func (t *Timeline) Stages() []Stage {
	first := "withdraw"
	if t.Removed == 0 {
		first = "prepare" // the plan was compiled, and that is all
	}
	list := []Stage{
		{Name: first, At: t.Withdrawn}, {Name: "fabric", At: t.Fabric}, {Name: "configure", At: t.Configured},
		{Name: "policy", At: t.Policy}, {Name: "announce", At: t.Announced}, {Name: "program", At: t.Programmed},
	}
	slices.SortStableFunc(list, func(a, b Stage) int { return cmp.Compare(a.At, b.At) })
	var out []Stage
	last := t.Request
	for _, s := range list {
		s.Took = max(0, s.At.Sub(last))
		last = max(last, s.At)
		if s.Took >= time.Millisecond {
			out = append(out, s)
		}
	}
	return out
}
