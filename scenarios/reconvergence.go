package scenarios

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vpclab/vpclab/topo"
)

// The experiment reconvergence.
//
// A point is one fault on a backbone with some means to recover from it. Two
// machines talk, in both directions, by a train of probes and by TCP; the fault
// of the point is done to the lab, and they are watched until packets come
// through again both ways, or for as long as the file says. Then the fault is
// undone, and the lab must be whole again before the next trial.
//
// Failover is split as RFC 6894 has it: from the fault until somebody in the
// network has found out, and from then until packets flow. Times are seconds
// by the lab kernel's monotonic clock.

// Parameters of the experiment.
const (
	paramFault      = "fault"
	paramRecovery   = "recovery"
	paramInterval   = "interval"
	paramMultiplier = "multiplier"
	paramHold       = "hold"
	paramPrefixes   = "prefixes"
)

// Means of recovery, joined by plus signs in the parameter "recovery".
const (
	meansNone    = "none"
	meansReroute = "reroute"
	meansPIC     = "pic"
)

// detections and the other means, in the order in which they are written.
var (
	detections = []string{topo.DetectCarrier, topo.DetectBFD, topo.DetectMultihop}
	allMeans   = append(slices.Clone(detections), topo.LocalBackup, meansReroute, meansPIC)
)

const (
	usualInterval   = 50 * time.Millisecond
	usualMultiplier = 3
	usualHold       = 9 * time.Second
	maxPrefixes     = 10000
)

func reconvergenceKind() kind {
	return kind{
		resolution: 10 * time.Millisecond,
		params: []param{
			faultParam(),
			recoveryParam(),
			quantity(paramInterval, "an interval of BFD packets", topo.ParseDuration, topo.Duration(10*time.Millisecond), topo.Duration(10*time.Second), func(p *topo.Plan, _ topo.Experiment) string {
				return topo.Duration(recoveryOf(p).Interval).String()
			}),
			number(paramMultiplier, "a number of packets missed", func(*topo.Plan) (int, int) { return 2, 50 }, func(p *topo.Plan) int { return recoveryOf(p).Multiplier }),
			quantity(paramHold, "a hold time of BGP", topo.ParseDuration, topo.Duration(3*time.Second), topo.Duration(180*time.Second), func(p *topo.Plan, _ topo.Experiment) string {
				return topo.Duration(recoveryOf(p).Hold).String()
			}),
			number(paramPrefixes, "a number of prefixes", func(*topo.Plan) (int, int) { return 1, maxPrefixes }, nil).orAbsent(),
		},
		takesEvents: true,
		takesFaults: true,
		metricsOf:   reconvergenceMetrics,
		check:       checkReconvergence,
		open:        func(o opening) (session, error) { return openReconvergence(o) },
	}
}

// recoveryOf is the backbone's means of recovery with nothing left out.
func recoveryOf(plan *topo.Plan) topo.Recovery {
	r := topo.Recovery{}
	if plan.Recovery != nil {
		r = *plan.Recovery
	}
	if r.Interval == 0 {
		r.Interval = topo.Duration(usualInterval)
	}
	if r.Multiplier == 0 {
		r.Multiplier = usualMultiplier
	}
	if r.Hold == 0 {
		r.Hold = topo.Duration(usualHold)
	}
	return r
}

// recoveryParam are means of recovery, joined by plus signs.
func recoveryParam() param {
	return param{
		name:  paramRecovery,
		usual: func(p *topo.Plan, _ topo.Experiment) string { return meansText(p.Recovery) },
		read: func(_ *topo.Plan, text string) (string, *refusal) {
			var have []string
			for _, word := range strings.Split(text, "+") {
				switch {
				case word == meansNone && text == meansNone:
				case !slices.Contains(allMeans, word):
					bad := &refusal{msg: fmt.Sprintf("%q is no means of recovery; expected none, or some of %s joined by plus signs", word, strings.Join(allMeans, ", "))}
					if near := topo.Nearest(word, append(allMeans, meansNone)); near != "" {
						bad.hint = "did you mean " + near + "?"
					}
					return "", bad
				case slices.Contains(have, word):
					return "", &refusal{fmt.Sprintf("%s is there twice", word), ""}
				default:
					have = append(have, word)
				}
			}
			acts := slices.ContainsFunc(have, func(w string) bool { return w == topo.LocalBackup || w == meansReroute })
			sees := slices.ContainsFunc(have, func(w string) bool { return w == topo.DetectCarrier || w == topo.DetectBFD })
			if acts && !sees {
				return "", &refusal{fmt.Sprintf("%s: nobody sees a link fail, so nothing would act on it", text), "join carrier or bfd to it"}
			}
			return orderedMeans(have), nil
		},
	}
}

// orderedMeans writes means in one order, so that a point has one name.
func orderedMeans(have []string) string {
	var out []string
	for _, word := range allMeans {
		if slices.Contains(have, word) {
			out = append(out, word)
		}
	}
	if len(out) == 0 {
		return meansNone
	}
	return strings.Join(out, "+")
}

// meansText are the means of a backbone, as the parameter has them.
func meansText(r *topo.Recovery) string {
	if r == nil {
		return meansNone
	}
	have := slices.Clone(r.Detect)
	if r.Local == topo.LocalBackup {
		have = append(have, topo.LocalBackup)
	}
	if r.Reroute {
		have = append(have, meansReroute)
	}
	if r.PIC {
		have = append(have, meansPIC)
	}
	return orderedMeans(have)
}

// recoveryAt is the backbone's means of recovery at a point.
func recoveryAt(plan *topo.Plan, pt point) *topo.Recovery {
	r := recoveryOf(plan)
	words := strings.Split(pt[paramRecovery], "+")
	has := func(word string) bool { return slices.Contains(words, word) }
	r.Detect = slices.DeleteFunc(slices.Clone(detections), func(d string) bool { return !has(d) })
	if len(r.Detect) == 0 {
		r.Detect = []string{topo.DetectNone}
	}
	r.Local = topo.LocalNone
	if has(topo.LocalBackup) {
		r.Local = topo.LocalBackup
	}
	r.Reroute, r.PIC = has(meansReroute), has(meansPIC)
	r.Interval, r.Multiplier, r.Hold = topo.Duration(pt.time(paramInterval)), pt.number(paramMultiplier), topo.Duration(pt.time(paramHold))
	return &r
}

// faultParam is which of the experiment's faults is done.
func faultParam() param {
	return param{
		name: paramFault,
		usual: func(_ *topo.Plan, e topo.Experiment) string {
			if len(e.Events) == 0 {
				return ""
			}
			return faultName(e.Events, 0)
		},
		read: func(_ *topo.Plan, text string) (string, *refusal) {
			if text == "" {
				return "", &refusal{"a fault is named by its kind", ""}
			}
			return text, nil
		},
	}
}

// faultName tells the faults of one experiment apart: the kind, with a number
// where it comes again.
func faultName(events []topo.Event, i int) string {
	nth := 1
	for _, e := range events[:i] {
		if e.Fault.Kind == events[i].Fault.Kind {
			nth++
		}
	}
	if nth == 1 {
		return events[i].Fault.Kind
	}
	return fmt.Sprintf("%s-%d", events[i].Fault.Kind, nth)
}

// faultNames are those of all faults of an experiment.
func faultNames(e topo.Experiment) (names []string) {
	for i := range e.Events {
		names = append(names, faultName(e.Events, i))
	}
	return names
}

// faultAt is the event of a point's fault.
func faultAt(e topo.Experiment, pt point) topo.Event {
	return e.Events[slices.Index(faultNames(e), pt[paramFault])] // check let it through
}

// checkFaults reports what is wrong with the faults of an experiment that
// chooses among them.
func checkFaults(e topo.Experiment) (msg, hint string) {
	if len(e.Events) == 0 {
		return e.Kind + " needs a fault, and the experiment has none", "add for example `events: [{fault: link-down, link: [p1, p2]}]`"
	}
	names := faultNames(e)
	if varied, ok := e.Vary.Get(paramFault); ok {
		for _, v := range varied {
			if !slices.Contains(names, string(v)) {
				return fmt.Sprintf("fault %q is not among the experiment's events; there are %s", v, strings.Join(names, ", ")), ""
			}
		}
	}
	return "", ""
}

// checkReconvergence reports what of a plan makes the experiment impossible.
func checkReconvergence(plan *topo.Plan, e topo.Experiment) (msg, hint string) {
	if msg, hint = checkFaults(e); msg != "" {
		return msg, hint
	}
	if len(e.Between) != 2 {
		return "reconvergence watches the traffic of two machines, and which is not said", "add for example `between: [web, hq-1]`"
	}
	var vpcs []string
	for _, name := range e.Between {
		n, ok := plan.Node(name)
		if !ok || n.Kind != topo.KindMachine {
			return fmt.Sprintf("between: there is no machine %s", name), ""
		}
		vpcs = append(vpcs, n.VPC)
	}
	if _, varied := e.Vary.Get(paramPrefixes); varied {
		if v, ok := plan.VPC(vpcs[1]); ok && v.Service != topo.ServiceL3VPN {
			return fmt.Sprintf("VPC %s is a %s: prefixes are behind the sites of an l3vpn", v.Name, v.Service), "take prefixes away, or another VPC"
		}
	}
	if vpcs[0] != vpcs[1] {
		return fmt.Sprintf("between: %s is in VPC %s and %s in %s: they never reach each other", e.Between[0], vpcs[0], e.Between[1], vpcs[1]), "take two machines of one VPC"
	}
	return "", ""
}

// reconvergenceMetrics are those of an experiment.
func reconvergenceMetrics(_ *topo.Plan, e topo.Experiment) []metric {
	list := []metric{
		{"reconvergence.outage", "s", "longest run of lost probes after the fault, of either direction", nil},
		{"reconvergence.lost", "count", "probes lost from the fault on, both directions", nil},
		{"reconvergence.recovered", "count", "1: packets came through, both ways, before the fault was undone", nil},
		{"reconvergence.detect", "s", "from the fault until somebody in the network has found out", nil},
		{"reconvergence.switch", "s", "from then until packets flow again, both ways", nil},
		{"reconvergence.reroute", "s", "from the fault until the controller's new ways are in force", nil},
		{"reconvergence.tcp_gap", "s", "longest time in which nothing of a TCP flow arrived, of either direction", nil},
		{"reconvergence.goodput", "ratio", "of the TCP flows in the second from the fault on, to what it was before", nil},
		{"reconvergence.interval", "s", "between two probes, as they were sent: nothing is told apart more finely", nil},
	}
	if _, varied := e.Vary.Get(paramPrefixes); varied {
		list = append(list, metric{"reconvergence.prefix_outage", "s", "outage of single prefixes, of those that were probed", cross([]labels{{}}, "quantile", "p50", "max")})
	}
	return list
}
