package scenarios

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vpclab/vpclab/topo"
)

// param is a parameter that can be varied.
type param struct {
	name string
	// read gives a value in its normal form, which is the label of samples; or
	// what is wrong with it.
	read func(plan *topo.Plan, text string) (normal string, bad *refusal)
	// usual is what it has where it is not varied, in normal form; "": the
	// points are then without it.
	usual func(plan *topo.Plan, e topo.Experiment) string
}

// refusal is what is wrong with a value, and what would mend it.
type refusal struct{ msg, hint string }

func refused(err error) *refusal {
	msg, hint := topo.Explain(err)
	return &refusal{msg, hint}
}

// number is a parameter that is a whole number within bounds; nil for usual is
// the upper one.
func number(name, what string, bounds func(plan *topo.Plan) (lo, hi int), usual func(plan *topo.Plan) int) param {
	return param{
		name: name,
		read: func(plan *topo.Plan, text string) (string, *refusal) {
			lo, hi := bounds(plan)
			n, err := strconv.Atoi(text)
			switch {
			case err != nil:
				return "", &refusal{fmt.Sprintf("%q is not a whole number; expected %s, %d to %d", text, what, lo, hi), ""}
			case n < lo || n > hi:
				return "", &refusal{fmt.Sprintf("%s %d is out of range; expected %s, %d to %d", name, n, what, lo, hi), ""}
			}
			return strconv.Itoa(n), nil
		},
		usual: func(plan *topo.Plan, _ topo.Experiment) string {
			if usual != nil {
				return strconv.Itoa(usual(plan))
			}
			_, hi := bounds(plan)
			return strconv.Itoa(hi)
		},
	}
}

// word is a parameter that is one of some words.
func word(name, what string, all []string, usual func(plan *topo.Plan, e topo.Experiment) string) param {
	return param{name: name, usual: usual, read: func(_ *topo.Plan, text string) (string, *refusal) {
		if slices.Contains(all, text) {
			return text, nil
		}
		bad := &refusal{msg: fmt.Sprintf("%q is not %s; expected %s", text, what, strings.Join(all, ", "))}
		if near := topo.Nearest(text, all); near != "" {
			bad.hint = "did you mean " + near + "?"
		}
		return "", bad
	}}
}

// quantity is a parameter with a unit, within bounds.
func quantity[T interface {
	~int64
	fmt.Stringer
}](name, what string, parse func(string) (T, error), lo, hi T, usual func(plan *topo.Plan, e topo.Experiment) string) param {
	return param{name: name, usual: usual, read: func(_ *topo.Plan, text string) (string, *refusal) {
		v, err := parse(text)
		switch {
		case err != nil:
			return "", refused(err)
		case v < lo || v > hi:
			return "", &refusal{fmt.Sprintf("%s %s is out of range; expected %s, %s to %s", name, v, what, lo, hi), ""}
		}
		return v.String(), nil
	}}
}

// either is a parameter that is read in the first way that takes it; what is
// wrong is said by the way that a test of the text chooses.
func either(first param, when func(text string) bool, second param) param {
	return param{name: first.name, usual: first.usual, read: func(plan *topo.Plan, text string) (string, *refusal) {
		if when(text) {
			return first.read(plan, text)
		}
		return second.read(plan, text)
	}}
}

// absent is the default of a parameter that points can be without.
func absent(*topo.Plan, topo.Experiment) string { return "" }

// point is one combination of parameters, by name.
type point map[string]string

// number is the value of a parameter; check has seen that it is one.
func (p point) number(name string) int {
	n, err := strconv.Atoi(p[name])
	if err != nil {
		p.panic(name)
	}
	return n
}

// rate is likewise; 0 where the point is without it.
func (p point) rate(name string) topo.Rate {
	return quantityOf(p, name, topo.ParseRate)
}

// time is likewise.
func (p point) time(name string) time.Duration {
	return quantityOf(p, name, topo.ParseDuration).Std()
}

// size is likewise.
func (p point) size(name string) topo.Size {
	return quantityOf(p, name, topo.ParseSize)
}

func quantityOf[T any](p point, name string, parse func(string) (T, error)) (v T) {
	text := p[name]
	if text == "" {
		return v
	}
	v, err := parse(text)
	if err != nil {
		p.panic(name)
	}
	return v
}

func (p point) panic(name string) {
	panic(fmt.Sprintf("scenarios: parameter %s is %q, which check let through", name, p[name]))
}

// points is the cross product of what is varied; parameters that are not
// varied have their default.
func points(plan *topo.Plan, k kind, e topo.Experiment) []point {
	grid := []point{{}}
	for _, p := range k.params {
		var values []string
		if varied, ok := e.Vary.Get(p.name); ok {
			for _, v := range varied {
				normal, bad := p.read(plan, string(v))
				if bad != nil {
					panic(fmt.Sprintf("scenarios: parameter %s is %q, which check let through", p.name, v))
				}
				values = append(values, normal)
			}
		} else {
			values = []string{p.usual(plan, e)}
		}
		var next []point
		for _, pt := range grid {
			for _, v := range values {
				q := point{}
				for name, had := range pt {
					q[name] = had
				}
				if v != "" {
					q[p.name] = v
				}
				next = append(next, q)
			}
		}
		grid = next
	}
	return grid
}
