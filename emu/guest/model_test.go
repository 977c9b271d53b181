package guest

import (
	"slices"
	"time"
)

// A model of migration without a network, to hold workloads against the
// published figures: bytes take bytes/goodput of time, in which the workload
// writes what it writes. Rules are those of Xen 3 and 4 and of CloudNet
// (papers' sections at the fields of round).

// published is the share of a link's rate that the paper's migrations got: the
// data and times of CloudNet's Table I give 86 to 92 of 100 Mb/s.
const published = 0.90

// round is one iteration.
type round struct {
	toSend, sent, skipped, dirtied, final int // pages; final: never sent again
	took                                  time.Duration
}

type modelled struct {
	rounds []round
	sent   int64 // bytes, before any encoder
	pause  time.Duration
	total  time.Duration
}

// model runs one migration of a player's memory.
type model struct {
	p      *player
	rate   float64 // goodput, bytes a second
	now    time.Duration
	dirty  []bool
	sentIn []int
	out    modelled
	// encode, where it is set, says how many bytes a page comes to when it is
	// sent in the round. Without, PageSize.
	encode func(round, page int) int
}

func newModel(s Spec, mbit float64) *model {
	p := newPlayer(newPlan(s, profiles[s.Workload]))
	m := &model{p: p, rate: mbit * 1e6 / 8 * published, dirty: make([]bool, p.pages), sentIn: make([]int, p.pages)}
	m.now = 1 // the first tick is over
	return m
}

// pass lets time go by.
func (m *model) pass(d time.Duration) {
	m.now += d
	for due := uint64(m.now / m.p.tick()); m.p.ticks < due; {
		m.p.visits(func(q int) { m.touch(q) })
	}
}

func (m *model) touch(q int) { m.dirty[q] = true; m.p.version[q]++ }

// migrate does at most live rounds and one more while the VM stands; window is
// CloudNet's, 0: none.
func (m *model) migrate(live, window int) modelled {
	began := m.now
	toSend := make([]bool, m.p.pages)
	for q := range toSend {
		toSend[q] = true
	}
	turned, lows, sentAll := false, []int(nil), 0
	few := max(4, 50*m.p.pages/(1<<18))
	for n := 1; ; n++ {
		r := m.round(n, toSend, true)
		sentAll += r.sent
		clear(toSend)
		for q, d := range m.dirty {
			if d {
				toSend[q], m.dirty[q] = true, false
				r.dirtied++
			}
		}
		m.out.rounds = append(m.out.rounds, r)
		last := n >= live || r.sent+r.skipped < few || sentAll > 3*m.p.pages
		if window > 0 {
			if turned {
				last = last || len(lows) == window && r.dirtied < slices.Min(lows)
				if lows = append(lows, r.dirtied); len(lows) > window {
					lows = lows[1:]
				}
			}
			turned = turned || r.dirtied > r.sent
		}
		if last {
			break
		}
	}
	stands := m.now
	m.out.rounds = append(m.out.rounds, m.round(len(m.out.rounds)+1, toSend, false))
	m.out.pause, m.out.total = m.now-stands, m.now-began
	for _, in := range m.sentIn {
		m.out.rounds[in-1].final++
	}
	return m.out
}

// round sends the pages of toSend; live, it skips those that are dirty again
// when their batch is made.
func (m *model) round(n int, toSend []bool, live bool) (r round) {
	began := m.now
	batch := min(max(int(m.rate*0.008/PageSize), 32), 256)
	for q := 0; q < len(toSend); {
		bytes, pages := 0, 0
		for ; q < len(toSend) && pages < batch; q++ {
			if !toSend[q] {
				continue
			}
			r.toSend++
			if live && m.dirty[q] {
				r.skipped++
				continue
			}
			pages++
			m.sentIn[q] = n
			if m.encode != nil {
				bytes += m.encode(n, q)
			} else {
				bytes += PageSize
			}
		}
		r.sent += pages
		m.out.sent += int64(bytes)
		d := time.Duration(float64(bytes) / m.rate * 1e9)
		if live {
			m.pass(d)
		} else {
			m.now += d
		}
	}
	r.took = m.now - began
	return r
}

// unique is the curve of unique dirty pages: how many pages are written in a
// time d, on the mean of n looks.
func (m *model) unique(d time.Duration, n int) int {
	sum := 0
	for range n {
		clear(m.dirty)
		m.pass(d)
		for _, w := range m.dirty {
			if w {
				sum++
			}
		}
	}
	return sum / n
}

