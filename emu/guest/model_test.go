package guest

import (
	"slices"
	"time"

	"github.com/vpclab/vpclab/emu/migrate/codec"
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
	bytes                                 int
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
	// encoder, where there is one, is given each batch with its real bytes.
	encoder codec.Encoder
	list    []uint32
	data    []byte
	coded   []byte
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
		m.list = m.list[:0]
		for ; q < len(toSend) && len(m.list) < batch; q++ {
			if !toSend[q] {
				continue
			}
			r.toSend++
			if live && m.dirty[q] {
				r.skipped++
				continue
			}
			m.list = append(m.list, uint32(q))
			m.sentIn[q] = n
		}
		bytes := m.encode()
		r.sent += len(m.list)
		r.bytes += bytes
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

// encode tells how many bytes the pages of the list come to.
func (m *model) encode() int {
	if m.encoder == nil || len(m.list) == 0 {
		return len(m.list) * PageSize
	}
	m.data = m.data[:0]
	for _, q := range m.list {
		m.data = append(m.data, make([]byte, PageSize)...)
		m.p.now(m.data[len(m.data)-PageSize:], int(q))
	}
	m.coded = m.encoder.Encode(m.coded[:0], m.list, m.data)
	return len(m.coded)
}

// now is what page q holds now.
func (p *player) now(dst []byte, q int) {
	a := p.author(q)
	for i := range pageLines {
		p.line(&a, dst[i*lineSize:], q, i, p.version[q])
	}
}
