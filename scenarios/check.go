package scenarios

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/topo"
)

// kind is one kind of experiment.
type kind struct {
	params  []param
	metrics []metric
	// metricsOf gives them where they depend on the plan or the experiment.
	metricsOf func(plan *topo.Plan, e topo.Experiment) []metric
	// check reports what makes the experiment impossible on this plan.
	check func(plan *topo.Plan, e topo.Experiment) (msg, hint string)
	// takesEvents says that the experiment's events are done in its trials.
	takesEvents bool
	// takesFaults says that faults may be among them.
	takesFaults bool
	// guests says that the guests of VMs run meanwhile, and their hosts are
	// joined; else VMs are machines like others.
	guests bool
	// resolution is the shortest duration that may be read from its figures; how
	// much a lab's kernel may disturb a trial follows from it.
	resolution time.Duration
	// computes says that its figures are of what the processor does: it may be
	// busy all the time. Else a network is measured, for which it has to have time.
	computes bool
	// open prepares the lab for the trials of e.
	open func(cfg opening) (session, error)
}

// measured are the metrics of an experiment of this kind on a plan.
func (k kind) measured(plan *topo.Plan, e topo.Experiment) []metric {
	if k.metricsOf != nil {
		return k.metricsOf(plan, e)
	}
	return k.metrics
}

// kinds by name.
func kinds() map[string]kind {
	return map[string]kind{
		"vpc-setup":      vpcSetup(),
		"vpc-operations": vpcOperations(),
		"audit":          isolationAudit(),
		"lan":            lanKind(),
		"reservation":    reservationKind(),
		"routing-peer":   routingPeer(),
		"migration":      migrationKind(),
		"content":        contentKind(),
		"reconvergence":  reconvergenceKind(),
		"failover":       failoverKind(),
		"availability":   availabilityKind(),
	}
}

// check reports what is wrong with the experiments of a scenario.
func check(sc *topo.Scenario, plan *topo.Plan) topo.Diagnostics {
	var ds topo.Diagnostics
	names := map[string]int{}
	for i, e := range sc.Experiments {
		if e.Name == labExperiment {
			ds = append(ds, sc.Diagnose(fmt.Sprintf("the name %q is taken for the times of building and removing the lab", e.Name), "choose another", "experiments", i, "name"))
		}
		if first, taken := names[e.Name]; taken {
			ds = append(ds, sc.Diagnose(fmt.Sprintf("experiment %d has the name %q too", first+1, e.Name), "give each its own name", "experiments", i, "name"))
		}
		names[e.Name] = i
		ds = append(ds, checkExperiment(sc, plan, i, e)...)
	}
	if len(ds) == 0 { // else the points are not known
		ds = append(ds, checkClaims(sc, plan)...)
	}
	slices.SortStableFunc(ds, func(a, b topo.Diagnostic) int { return (a.Line-b.Line)*1000 + a.Col - b.Col })
	if len(ds) == 0 {
		return nil
	}
	return ds
}

func checkExperiment(sc *topo.Scenario, plan *topo.Plan, i int, e topo.Experiment) (ds topo.Diagnostics) {
	k, known := kinds()[e.Kind]
	if !known {
		var all []string
		for name := range kinds() {
			all = append(all, name)
		}
		slices.Sort(all)
		return topo.Diagnostics{sc.Diagnose(fmt.Sprintf("there is no experiment of the kind %q", e.Kind), "kinds are "+strings.Join(all, ", "), "experiments", i, "kind")}
	}
	if len(e.Events) > 0 && !k.takesEvents {
		ds = append(ds, sc.Diagnose(e.Kind+" decides by itself what happens and when: it takes no events", "take them away", "experiments", i, "events"))
	}
	for j, event := range e.Events {
		if event.Fault.Kind != "" && k.takesEvents && !k.takesFaults {
			ds = append(ds, sc.Diagnose(e.Kind+" is about operations: it takes no faults", "take it away", "experiments", i, "events", j, "fault"))
		}
	}
	if msg, hint := k.check(plan, e); msg != "" {
		return append(ds, sc.Diagnose(msg, hint, "experiments", i, "kind"))
	}
	for _, v := range e.Vary {
		ds = append(ds, checkVary(sc, plan, k, i, e, v)...)
	}
	if len(ds) > 0 {
		return ds // the points are not known: expectations cannot be judged
	}
	return checkExpectations(sc, plan, k, i, e)
}

func checkVary(sc *topo.Scenario, plan *topo.Plan, k kind, i int, e topo.Experiment, v topo.Entry[[]topo.Value]) (ds topo.Diagnostics) {
	var names []string
	for _, p := range k.params {
		names = append(names, p.name)
	}
	at := slices.Index(names, v.Name)
	if at < 0 {
		hint := "parameters are " + strings.Join(names, ", ")
		if near := topo.Nearest(v.Name, names); near != "" {
			hint = "did you mean " + near + "?"
		}
		return topo.Diagnostics{sc.Diagnose(fmt.Sprintf("%s has no parameter %q", e.Kind, v.Name), hint, "experiments", i, "vary", v.Name)}
	}
	seen := map[string]int{}
	for j, value := range v.Value {
		where := []any{"experiments", i, "vary", v.Name, j}
		normal, bad := k.params[at].read(plan, string(value))
		if bad != nil {
			ds = append(ds, sc.Diagnose(bad.msg, bad.hint, where...))
			continue
		}
		first, twice := seen[normal]
		if twice && v.Value[first] != value { // the same text twice has been reported
			ds = append(ds, sc.Diagnose(fmt.Sprintf("%s is %s, which is in the list already", value, v.Value[first]), "", where...))
		}
		seen[normal] = j
	}
	return ds
}

// checkExpectations checks what must hold of an experiment's results: its own
// expectations.
func checkExpectations(sc *topo.Scenario, plan *topo.Plan, k kind, i int, e topo.Experiment) topo.Diagnostics {
	return checkTexts(sc, plan, k, e, e.Expect, "experiments", i, "expect")
}

// checkClaims checks likewise what claims demand of the experiments that are
// sound.
func checkClaims(sc *topo.Scenario, plan *topo.Plan) (ds topo.Diagnostics) {
	for i, c := range sc.Claims {
		for _, h := range c.Holds {
			at := slices.IndexFunc(sc.Experiments, func(e topo.Experiment) bool { return e.Name == h.Name })
			if at < 0 {
				continue // topo has refused it
			}
			e := sc.Experiments[at]
			ds = append(ds, checkTexts(sc, plan, kinds()[e.Kind], e, h.Value, "claims", i, "holds", h.Name)...)
		}
		for j, n := range c.Numbers {
			ds = append(ds, checkNumber(sc, plan, metrics.Number(n), "claims", i, "numbers", j)...)
		}
	}
	return ds
}

// checkTexts parses expectations and tries them on made-up samples of every
// metric at every point, so that a misspelt metric, label or unit is found
// before an hour of trials and not after.
func checkTexts(sc *topo.Scenario, plan *topo.Plan, k kind, e topo.Experiment, texts []string, path ...any) (ds topo.Diagnostics) {
	var samples []metrics.Sample
	for j, text := range texts {
		at := append(slices.Clone(path), j)
		x, err := metrics.ParseExpect(text)
		if err != nil {
			ds = append(ds, expectFault(sc, err, at...))
			continue
		}
		if samples == nil {
			samples = madeUp(plan, k, e)
		}
		if o := x.Eval(samples); o.Points == 0 {
			ds = append(ds, sc.Diagnose(strings.TrimPrefix(o.Text, text+": "), "", at...))
		}
	}
	return ds
}

// checkNumber does the same with a published value.
func checkNumber(sc *topo.Scenario, plan *topo.Plan, n metrics.Number, path ...any) topo.Diagnostics {
	at := slices.IndexFunc(sc.Experiments, func(e topo.Experiment) bool { return e.Name == n.Experiment })
	if at < 0 {
		return nil // topo has refused it
	}
	key := func(name string) []any { return append(slices.Clone(path), name) }
	if _, err := metrics.ParseMeasure(n.Measure); err != nil {
		return topo.Diagnostics{expectFault(sc, err, key("measure")...)}
	}
	e := sc.Experiments[at]
	switch o, err := n.Eval(madeUp(plan, kinds()[e.Kind], e)); {
	case err != nil:
		name, msg, _ := strings.Cut(err.Error(), ": ")
		return topo.Diagnostics{sc.Diagnose(msg, "", key(name)...)}
	case o.Status == metrics.NumberOpen:
		return topo.Diagnostics{sc.Diagnose(o.Why, "", key("measure")...)}
	}
	return nil
}

// expectFault points into the expectation where the parser stopped.
func expectFault(sc *topo.Scenario, err error, path ...any) topo.Diagnostic {
	var x *metrics.ExpectError
	if !errors.As(err, &x) {
		return sc.Diagnose(err.Error(), "", path...)
	}
	d := sc.Diagnose(x.Msg, x.Hint, path...)
	if d.Line == 0 {
		return d
	}
	// The text stands on that line as it is, but for quotes around it.
	if at := strings.Index(d.Source, x.Text); at >= 0 {
		d.Col = len([]rune(d.Source[:at])) + len([]rune(x.Text[:x.Offset])) + 1
		d.Len = 1
	}
	return d
}

func madeUp(plan *topo.Plan, k kind, e topo.Experiment) (samples []metrics.Sample) {
	for _, pt := range points(plan, k, e) {
		for _, m := range k.measured(plan, e) {
			sets := m.labels
			if sets == nil {
				sets = []labels{nil}
			}
			for _, set := range sets {
				if e.Baseline == "none" && (set["system"] == systemFW || set["system"] == systemSets) {
					continue
				}
				all := map[string]string{}
				for _, l := range []map[string]string{pt, set} {
					for name, v := range l {
						all[name] = v
					}
				}
				samples = append(samples, metrics.Sample{Experiment: e.Name, Trial: 1, Metric: m.name, Unit: m.unit, Value: 1, Labels: all})
			}
		}
	}
	return samples
}
