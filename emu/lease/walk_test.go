package lease

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// A walk goes deeper than an exploration can: a thousand steps at random, in
// weather that changes now and then, from a state of health to wherever it leads.
// Much more may go wrong than in an exploration, but rarely.

// weather is how likely things are, in thousands.
type weather struct {
	lost, held, doubled int
	apart               uint8 // parties that hear nobody and are heard by nobody, by bits
	faults              int   // crashes, stops, clocks
	user                int   // what the users of the seats do
}

func newWeather(r *rand.Rand) weather {
	w := weather{user: 200}
	switch r.IntN(5) {
	case 0: // fine
	case 1:
		w.apart = 1 << r.IntN(3)
	case 2:
		w.lost, w.held = 200, 200
	case 3:
		w.faults = 30
	case 4:
		w.lost, w.held, w.doubled, w.faults = 100, 300, 100, 10
	}
	return w
}

// walker takes one walk after the other.
type walker struct {
	world
	r    *rand.Rand
	path []step // of this walk
	took map[stepKind]int
}

// choose is the next step.
func (k *walker) choose(m *model, w weather) step {
	if m.dues > 0 {
		msg := &m.due[0]
		roll := k.r.IntN(1000)
		switch room := m.helds < k.hold; {
		case w.apart>>msg.From&1 > 0 || w.apart>>msg.To&1 > 0 || roll < w.lost:
			return step{kind: lose}
		case msg.To != Third && m.stopped[msg.To]:
			if room {
				return step{kind: hold}
			}
			return step{kind: lose}
		case room && roll < w.lost+w.held:
			return step{kind: hold}
		case room && roll < w.lost+w.held+w.doubled:
			return step{kind: double}
		}
		return step{kind: arrive}
	}
	var faults, user, other []step
	k.steps(m, func(s step) {
		switch s.kind {
		case tick:
		case rate, stop, cont, crashHost, crashAgent:
			faults = append(faults, s)
		case let, letAgain, drop:
			other = append(other, s)
		default:
			user = append(user, s)
		}
	})
	roll := k.r.IntN(1000)
	switch {
	case roll < w.faults && len(faults) > 0:
		return faults[k.r.IntN(len(faults))]
	case roll < 400 && len(other) > 0:
		return other[k.r.IntN(len(other))]
	case roll < 400+w.user && len(user) > 0:
		return user[k.r.IntN(len(user))]
	}
	for p, stopped := range m.stopped {
		if stopped && roll%8 == 0 {
			return step{kind: cont, p: uint8(p)}
		}
	}
	return step{kind: tick}
}

// walk is one, of n steps.
func (k *walker) walk(m model, n int) (model, error) {
	k.path = k.path[:0]
	w := newWeather(k.r)
	for range n {
		if k.r.IntN(60) == 0 {
			w = newWeather(k.r)
		}
		m.left = budget{[3]int8{9, 9, 9}, 9, 9, 9, 9, 9}
		s := k.choose(&m, w)
		k.path = append(k.path, s)
		if err := k.do(&m, s); err != nil {
			return m, err
		}
		if k.took[s.kind]++; m.h[0].role == Active && m.h[1].role == Active {
			k.took[stepKinds]++ // one of them has an ended lease and does not know yet
		}
	}
	return m, nil
}

// told is how the last walk went.
func (k *walker) told(m model) string {
	var b strings.Builder
	for i, s := range k.path {
		if i > len(k.path)-60 {
			what := s.String()
			switch s.kind {
			case arrive, lose, hold, double:
				what = fmt.Sprintf("%s: %v", what, m.due[0])
			case let, letAgain, drop:
				what = fmt.Sprintf("%s: %v", what, m.held[s.i])
			}
			fmt.Fprintf(&b, "%v%s\n", &m, what)
		}
		m.left = budget{[3]int8{9, 9, 9}, 9, 9, 9, 9, 9}
		if k.do(&m, s) != nil {
			break
		}
	}
	return b.String()
}

// TestWalks is millions of steps at random, the same ones each time. After each
// walk nothing more goes wrong, and one host has to run the VM.
func TestWalks(t *testing.T) {
	const each = 1000
	steps, seed := 3000000, uint64(76)
	if long() {
		steps, seed = 200000000, uint64(time.Now().UnixNano())
		t.Logf("seed %d", seed)
	}
	began := time.Now()
	k := walker{world: world{hold: mostHeld}, r: rand.New(rand.NewPCG(seed, 25)), took: map[stepKind]int{}}
	f := fairness{world: k.world}
	starts := []func() model{cold0, paired, unprotected, given, complete, cutOff}
	walked := 0
	for ; walked < steps && time.Since(began) < 20*time.Minute; walked += each {
		start := starts[k.r.IntN(len(starts))]()
		m, err := k.walk(start, each)
		if err == nil {
			err = f.check(&m)
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, k.told(start))
		}
	}
	t.Logf("%d steps in %v; %d ends looked at, the slowest (%s) after %d units", walked, time.Since(began).Round(time.Millisecond), f.checked, f.whose, f.slowest)
	for kind := range stepKinds {
		if k.took[kind] == 0 {
			t.Errorf("not one step was %q", stepNames[kind])
		}
	}
	t.Logf("%v", k.took)
}

// TestWalksFindFlaws: they do, too, except for those that take one course of
// events in millions.
func TestWalksFindFlaws(t *testing.T) {
	found := 0
	for _, f := range flaws {
		k := walker{world: world{flaw: &f.flaw, hold: mostHeld}, r: rand.New(rand.NewPCG(76, 26)), took: map[stepKind]int{}}
		for range 300 {
			if _, err := k.walk(f.from(), 1000); err != nil {
				found++
				t.Logf("%s: %v", f.name, err)
				break
			}
		}
	}
	if found < len(flaws)/2 {
		t.Errorf("found %d flaws of %d", found, len(flaws))
	}
}
