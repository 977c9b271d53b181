package guest

import (
	"errors"
	"fmt"
	"time"
)

// workload is what runs in a guest: at each tick it writes pages of its
// memory. Which pages and bytes is a function of the plan and the number of the
// tick, never of what else happens: every algorithm of migration meets the same
// writes. Ticks are counted in time that the guest runs; a guest that is late
// makes up for it.
type workload interface {
	tick() time.Duration
	// fill writes the memory's content at the start.
	fill(m *Memory)
	// step does the next tick's work. An error says what was wrong with the
	// memory; the work is done all the same.
	step(m *Memory) error
	// check compares a page with what it must hold, between two steps.
	check(m *Memory, page int) error
	// save and load are for the state of the virtual CPUs.
	save(s *cpuState)
	load(s *cpuState) error
}

// player is the workload of a profile.
type player struct {
	*plan
	ticks   uint64
	cursors []uint64 // visits made, by sweep
	digest  uint64   // of all visits
	version []uint32 // how often each page was written
}

func newPlayer(pl *plan) *player {
	return &player{plan: pl, cursors: make([]uint64, len(pl.sweep)), version: make([]uint32, pl.pages)}
}

func (p *player) tick() time.Duration { return p.profile.tick }

func (p *player) fill(m *Memory) {
	for q := range p.pages {
		if p.role[q] != roleApp {
			p.plan.fill(m.change(q), q)
			m.changed(q)
		}
	}
}

// visits calls visit with each page that the next tick writes, in order.
func (p *player) visits(visit func(q int)) {
	for g, set := range p.sweep {
		if len(set) == 0 {
			continue
		}
		due := int(float64(p.ticks+1)*p.speed[g]) - int(float64(p.ticks)*p.speed[g])
		n := uint64(p.active(g, p.ticks))
		for range min(due, int(n)) {
			visit(int(set[p.cursors[g]%n]))
			p.cursors[g]++
		}
	}
	p.ticks++
}

func (p *player) step(m *Memory) error {
	var wrong []error
	p.readSome(m, &wrong)
	p.visits(func(q int) {
		if err := p.write(m, q); err != nil {
			wrong = append(wrong, err)
		}
	})
	return errors.Join(wrong...)
}

// write writes page q once more. The first line that it replaces is checked
// before: a write of the guest's that did not come along shows here.
func (p *player) write(m *Memory, q int) error {
	b, a, s := m.change(q), p.author(q), p.spots[q]
	var err error
	if at := int(s.first); !p.agrees(&a, b[at*lineSize:], q, at) {
		err = p.mismatch(q, at)
	}
	p.written(q)
	for k, i := 0, int(s.first); k < int(s.count); k, i = k+1, i+int(s.stride) {
		a.line(b[i*lineSize:], i, uint64(p.version[q]))
	}
	m.changed(q)
	return err
}

// readSome checks whole pages, anywhere.
func (p *player) readSome(m *Memory, wrong *[]error) {
	rate := p.reads * p.profile.tick.Seconds()
	from, to := uint64(float64(p.ticks)*rate), uint64(float64(p.ticks+1)*rate)
	for ; from < to; from++ {
		q := int(draw(p.seed, drawRead, int(from)) * float64(p.pages))
		if err := p.check(m, q); err != nil {
			*wrong = append(*wrong, err)
		}
	}
}

// check compares all of page q with what it must hold.
func (p *player) check(m *Memory, q int) error {
	if p.role[q] == roleApp {
		return nil // the server checks its own
	}
	b, a := m.page(q), p.author(q)
	for i := range pageLines {
		if !p.agrees(&a, b[i*lineSize:], q, i) {
			return p.mismatch(q, i)
		}
	}
	return nil
}

func (p *player) agrees(a *author, got []byte, q, i int) bool {
	var want [lineSize]byte
	p.line(a, want[:], q, i, p.version[q])
	return string(got[:lineSize]) == string(want[:])
}

func (p *player) mismatch(q, line int) error {
	return fmt.Errorf("page %d, which was written %d times, differs at byte %d from what was written", q, p.version[q], line*lineSize)
}

// recall does a tick's work as far as the workload knows of it, and leaves the
// memory alone: another process has done the tick there.
func (p *player) recall() { p.visits(p.written) }

// written notes a write of page q.
func (p *player) written(q int) {
	p.version[q]++
	p.digest = mix(p.digest + uint64(q))
}

func (p *player) save(s *cpuState) {
	s.ticks, s.rng = p.ticks, p.digest
	s.cursors = append([]uint64(nil), p.cursors...)
}

func (p *player) load(s *cpuState) error {
	if len(s.cursors) != len(p.cursors) {
		return fmt.Errorf("state with %d cursors: workload %s has %d", len(s.cursors), s.workload, len(p.cursors))
	}
	// Where the same process goes on there is nothing to catch up with: what it
	// wrote last is what the state must say.
	for p.ticks < s.ticks {
		p.recall()
	}
	if s.ticks != p.ticks || s.rng != p.digest {
		return fmt.Errorf("state of tick %d (digest %x): the guest stood at tick %d (%x)", s.ticks, s.rng, p.ticks, p.digest)
	}
	copy(p.cursors, s.cursors)
	return nil
}

// newWorkload is what a Spec asks for.
func newWorkload(s Spec) (workload, []uint32, error) {
	if err := s.Check(); err != nil {
		return nil, nil, err
	}
	if s.Workload == Trace {
		return openPlayback(s)
	}
	pl := newPlan(s, profiles[s.Workload])
	return newPlayer(pl), pl.app, nil
}
