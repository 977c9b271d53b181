package lease

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/zeebo/xxh3"
)

// explorer takes all steps in all orders, the shortest first.
type explorer struct {
	world
	seen map[uint64]struct{} // hashes of packed states
	// from is how each state was first reached.
	from  []origin
	queue [][]byte
	like  model // for what is the same in all
	// at is called with each state; it may say that something is wrong.
	at func(m *model) error
}

type origin struct {
	parent int32
	step   step
}

// outcome is how far an exploration came.
type outcome struct {
	states, depth int
	done          bool // there is no more
	took          time.Duration
	err           error
	trace         string
}

func (o outcome) String() string {
	s := fmt.Sprintf("%d states, all up to %d steps deep, in %v", o.states, o.depth, o.took.Round(time.Millisecond))
	if o.done {
		s += "; there are no others"
	}
	return s
}

// explore goes through all states from starts, up to most of them.
func (e *explorer) explore(starts []model, most int, within time.Duration) (o outcome) {
	began := time.Now()
	e.seen = map[uint64]struct{}{}
	e.like = cold(budget{})
	for i := range starts {
		starts[i].canonical()
		e.add(&starts[i], origin{parent: -1 - int32(i)})
	}
	next, depth := len(e.queue), 0
	for at := 0; at < len(e.queue); at++ {
		if at == next {
			depth, next = depth+1, len(e.queue)
		}
		if len(e.from) >= most || at%256 == 0 && time.Since(began) > within {
			break
		}
		m := unpacked(e.queue[at], &e.like)
		e.queue[at] = nil
		var err error
		if e.at != nil {
			err = e.at(&m)
		}
		e.steps(&m, func(s step) {
			if err != nil {
				return
			}
			n := m
			if err = e.do(&n, s); err == nil {
				e.add(&n, origin{int32(at), s})
				return
			}
			e.from = append(e.from, origin{int32(at), s})
			o.trace = e.trace(starts, len(e.from)-1)
		})
		if err != nil {
			if o.trace == "" {
				o.trace = e.trace(starts, at)
			}
			o.err = err
			break
		}
		o.done = at == len(e.queue)-1
	}
	o.states, o.depth, o.took = len(e.from), depth, time.Since(began)
	return o
}

func (e *explorer) add(m *model, from origin) {
	k := packer{b: make([]byte, 0, 128)}
	k.model(m)
	id := xxh3.Hash(k.b)
	if _, seen := e.seen[id]; seen {
		return
	}
	e.seen[id] = struct{}{}
	e.from = append(e.from, from)
	e.queue = append(e.queue, k.b)
}

// trace tells how a state was reached.
func (e *explorer) trace(starts []model, at int) string {
	var path []origin
	i := int32(at)
	for i >= 0 {
		path = append(path, e.from[i])
		i = e.from[i].parent
	}
	m := starts[-1-i]
	s := "start: " + m.String()
	for n := len(path) - 2; n >= 0; n-- {
		o := path[n]
		what := o.step.String()
		switch o.step.kind {
		case arrive, lose, hold, double:
			what = fmt.Sprintf("%s: %v", what, m.due[0])
		case let, letAgain, drop:
			what = fmt.Sprintf("%s: %v", what, m.held[o.step.i])
		}
		if err := e.do(&m, o.step); err != nil {
			return s + what + ": " + err.Error() + "\n"
		}
		s += what + "\n" + m.String()
	}
	return s
}

// long is whether there is time for more.
func long() bool { return os.Getenv("VPCLAB_LONG") == "1" }

// explorations are how much may go wrong, and from where on.
var explorations = []struct {
	name   string
	hold   int
	left   budget
	starts []func() model
}{
	{allLosses, 0, budget{}, []func() model{paired}},
	{"one message at a time comes late", 1, budget{}, []func() model{paired, given}},
	{"a host or the witness starts again", 1, budget{crashes: [3]int8{1, 1, 1}}, []func() model{paired, cutOff}},
	{"processes stop and clocks run at different rates", 1, budget{stops: 2, rates: 2}, []func() model{paired, given}},
	{"the standby is given up and comes back", 1, budget{changes: 4, crashes: [3]int8{0, 1, 0}}, []func() model{paired, unprotected, complete}},
	{"planned switch-over", 1, budget{planned: 2, changes: 1}, []func() model{paired, given}},
	{"everything, two messages late and doubled", 2, budget{[3]int8{2, 2, 2}, 2, 2, 2, 2, 6}, []func() model{cold0, paired, unprotected, given, complete, cutOff}},
}

// allLosses is an exploration that comes to its end.
const allLosses = "any message may be lost"

func cold0() model { return cold(budget{}) }

// TestNeverTwoActive goes through what can happen, the shortest first, as far as
// there is time. In each state that is reached
//
//   - at most one host believes that it runs the VM,
//   - output is released unprotected only if the witness has it that the standby is
//     stale,
//   - who takes over holds all output that was released,
//
// and from a sample of them one host runs the VM
// in bounded time if nothing goes wrong any more, and also if one party dies where
// the pair was whole.
func TestNeverTwoActive(t *testing.T) {
	share, each, all := 100000, 100, 0
	limit := time.Minute
	if long() {
		share, each, limit = 6000000, 1000, 10*time.Minute
	}
	for _, c := range explorations {
		t.Run(c.name, func(t *testing.T) {
			e := explorer{world: world{hold: c.hold}}
			f := fairness{world: e.world}
			n := 0
			e.at = func(m *model) error {
				if n++; n%each != 0 || m.dues > 0 && !long() {
					return nil
				}
				return f.check(m)
			}
			var starts []model
			for _, start := range c.starts {
				starts = append(starts, start())
			}
			most := share
			if c.name == allLosses {
				most = 1000000
			}
			o := e.explore(begins(c.left, starts...), most, limit)
			all += o.states
			if o.err != nil {
				t.Fatalf("%v\n%s", o.err, o.trace)
			}
			if c.name == allLosses && !o.done && o.took < limit {
				t.Errorf("there is no end to it: %v", o)
			}
			t.Logf("%v; %d ends looked at, the slowest (%s) after %d units", o, f.checked, f.whose, f.slowest)
		})
	}
	t.Logf("%d states in all", all)
}
