package lease

import "fmt"

// What must come true when nothing goes wrong any more, or when one of three is
// dead and nothing else goes wrong.

// within is how many units of time there are for it: a lease or promise that
// still runs (4), a standby's silence, and a few questions and answers, at one
// unit each. steady is how long it then has to stay so.
const (
	within = 14
	steady = 6
)

// nobody is dead.
const nobody = Third + 1

// fair lets time pass for m, with one party dead. It says what is wrong with how
// that ends, and otherwise how long it took until one host alone ran the VM.
func (w *world) fair(m model, dead Party) (took int, err error) {
	m.left, m.fast = budget{}, 0 // at twice the rate, a term of two units is none
	for p := range m.h {
		m.stopped[p] = Party(p) == dead
	}
	for m.helds > 0 { // what was held up arrives, or it would be for ever
		msg := m.held[0]
		m.drop(0)
		if m.dues < mostDue {
			m.send(msg)
		}
	}
	since := -1
	for now := range within + steady {
		if err := w.pass(&m, dead); err != nil {
			return 0, err
		}
		running := nobody
		for p := range HostB + 1 {
			if _, active := m.h[p].Active(base); active && p != dead {
				running = p
			}
		}
		switch {
		case running == nobody && since >= 0 && now >= within:
			return 0, fmt.Errorf("with party %d dead: host that ran the VM from %d on stopped at %d\n%v", dead, since, now, &m)
		case running == nobody:
			since = -1
		case since < 0:
			since = now
		}
	}
	if since < 0 || since > within {
		return 0, fmt.Errorf("with party %d dead: no host runs the VM after %d units\n%v", dead, within+steady, &m)
	}
	return since, nil
}

// pass is one unit of time in which every message arrives, and a host that is
// fenced keeps what it has.
func (w *world) pass(m *model, dead Party) error {
	for n := 0; m.dues > 0; n++ {
		if n == 100 {
			return fmt.Errorf("with party %d dead: the others speak without end\n%v", dead, m)
		}
		kind := arrive
		if m.due[0].To == dead {
			kind = lose
		}
		if err := w.do(m, step{kind: kind}); err != nil {
			return err
		}
	}
	for p := range HostB + 1 {
		if h := &m.h[p]; p != dead && h.role == Fenced && h.have == Nothing {
			if err := w.do(m, step{kind: retain, p: uint8(p)}); err != nil {
				return err
			}
		}
	}
	if m.dues > 0 {
		return w.pass(m, dead)
	}
	return w.do(m, step{kind: tick})
}

// healthy is whether the VM runs, or is being handed over, and the standby may
// take it, also when all that is under way has arrived: then any one of the three
// may die.
func (m *model) healthy() bool {
	given := false
	m.messages(func(msg *Message) { given = given || msg.Kind == Stale || msg.Kind == Lost })
	p := m.w.record.Holder
	h, o := &m.h[p], &m.h[p.Other()]
	_, active := h.Active(base)
	return !given && !h.alone && m.w.record.InSync && (active || h.role == Handing) && h.record == m.w.record && !m.stopped[p] &&
		(o.role == Standby || o.role == Taking) && o.met && o.record == m.w.record && !m.lacks[p.Other()] && !m.stopped[p.Other()]
}

// fairness checks the ends of one state, and of what may die in it.
type fairness struct {
	world
	checked, slowest int
	whose            string
}

func (f *fairness) check(m *model) error {
	deaths := []Party{nobody}
	if m.healthy() {
		deaths = append(deaths, HostA, HostB, Third)
	}
	for _, dead := range deaths {
		took, err := f.fair(*m, dead)
		if err != nil {
			return err
		}
		f.checked++
		if took > f.slowest {
			f.slowest, f.whose = took, fmt.Sprintf("party %d dead", dead)
		}
	}
	return nil
}
