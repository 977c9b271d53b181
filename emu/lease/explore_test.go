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
	depth int
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

func TestNeverTwoActiveBySteps(t *testing.T) {
	e := explorer{world: world{hold: 2}}
	o := e.explore([]model{cold(budget{crashes: [3]int8{1, 1, 1}, stops: 1, rates: 1, doubled: 1, planned: 1, changes: 3})}, 100000, 20*time.Second)
	t.Log(o)
	if o.err != nil {
		t.Fatalf("%v\n%s", o.err, o.trace)
	}
}
