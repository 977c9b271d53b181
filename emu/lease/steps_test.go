package lease

import (
	"fmt"
	"slices"

	"github.com/vpclab/vpclab/emu/event"
)

// flaw breaks a model in one respect, so that it can be seen that the checks
// find it.
type flaw struct {
	name string
	// begin changes a host that has just started.
	begin func(h *Holder)
	// before changes a host right before it does what is due, or takes a message.
	before func(h *Holder, msg *Message)
	// witness changes the witness right before it takes a message, and restart
	// when it has started again.
	witness func(w *Witness, msg *Message)
	restart func(w *Witness)
	// lazy: the witness writes its record after it has told of it.
	lazy bool
}

// step is one thing that happens.
type step struct {
	kind stepKind
	p, i uint8
}

type stepKind uint8

const (
	tick       stepKind = iota // all clocks go on, and processes do what is due
	arrive                     // the next due message arrives
	lose                       // it is lost
	hold                       // it is held
	double                     // it arrives and is held
	let                        // held message i arrives
	letAgain                   // held message i arrives, and is held
	drop                       // held message i is lost
	rate                       // clocks i run twice as fast from now on
	stop                       // p's process is stopped
	cont                       // it goes on
	crashHost                  // p loses all but its disk, and starts again
	crashAgent                 // p's process dies and starts again; what it has of the VM stays
	alone                      // p gives its standby up
	protect                    // p has output wait for its standby again
	synced                     // p has heard that its standby holds all
	hand                       // planned switch-over
	release                    // p lets unprotected output go
	ship                       // p sends a checkpoint
	place                      // it is whole at p
	retain                     // p, that is fenced, keeps what it has as an image
	stepKinds
)

var stepNames = [stepKinds]string{"tick", "arrive", "lose", "hold", "double", "let", "let again", "drop", "rate", "stop", "cont", "crash host", "crash agent", "alone", "protect", "synced", "hand", "release", "ship", "place", "retain"}

func (s step) String() string { return fmt.Sprintf("%s %d %d", stepNames[s.kind], s.p, s.i) }

// world makes steps, with a flaw or (nil) without.
type world struct {
	flaw *flaw
	hold int // messages at a time
}

// steps calls f with each step that can be done in m. What is due is due first.
func (w *world) steps(m *model, f func(step)) {
	if m.dues > 0 {
		f(step{kind: lose})
		to := m.due[0].To
		if m.helds < w.hold {
			f(step{kind: hold})
		}
		if to != Third && m.stopped[to] {
			return
		}
		f(step{kind: arrive})
		if m.helds < w.hold && m.left.doubled > 0 {
			f(step{kind: double})
		}
		return
	}
	f(step{kind: tick})
	for i := range uint8(m.helds) {
		f(step{kind: drop, i: i})
		if to := m.held[i].To; to != Third && m.stopped[to] {
			continue
		}
		f(step{kind: let, i: i})
		if m.left.doubled > 0 {
			f(step{kind: letAgain, i: i})
		}
	}
	if m.left.rates > 0 {
		for fast := range uint8(7) { // all fast is as all slow
			if fast != m.fast {
				f(step{kind: rate, i: fast})
			}
		}
	}
	if m.left.crashes[Third] > 0 {
		f(step{kind: crashHost, p: uint8(Third)})
	}
	for p := range HostB + 1 {
		w.hostSteps(m, p, func(kind stepKind) { f(step{kind: kind, p: uint8(p)}) })
	}
}

// hostSteps are what can happen at a host.
func (w *world) hostSteps(m *model, p Party, f func(stepKind)) {
	h, o := &m.h[p], p.Other()
	if m.left.crashes[p] > 0 {
		f(crashHost)
		f(crashAgent)
	}
	if m.stopped[p] {
		f(cont)
		return
	}
	if m.left.stops > 0 {
		f(stop)
	}
	if m.image[p] != noImage && (h.role == Forgotten || h.role == Fenced || h.role == Standby) {
		f(place)
	}
	if h.role == Fenced && h.have == Nothing {
		f(retain)
	}
	if _, active := h.Active(base); !active {
		return
	}
	switch {
	case m.left.changes == 0:
	case h.alone:
		f(protect)
	default:
		f(alone)
		if m.acked[p] && !h.record.InSync && !h.sync {
			f(synced)
		}
	}
	switch {
	case h.unprotected():
		f(release)
	case !h.alone && m.image[o] != goodImage && !(m.acked[p] && m.h[o].have == Image):
		f(ship)
	}
	if m.left.planned > 0 && m.acked[p] && h.record.InSync {
		f(hand)
	}
}

// do makes m what it is after s, or says what is wrong with that.
func (w *world) do(m *model, s step) error {
	was := [2]Role{m.h[0].role, m.h[1].role}
	p := Party(s.p)
	switch s.kind {
	case tick:
		for q := range Third + 1 {
			m.tick(q, event.Mono(1+m.fast>>q&1))
		}
		for q := range m.h {
			if !m.stopped[q] {
				w.ready(&m.h[q], nil)
				m.h[q].Tick(base)
			}
		}
	case arrive, lose, hold, double:
		w.fate(m, s.kind)
	case let, letAgain:
		msg := m.held[s.i]
		if s.kind == letAgain {
			m.left.doubled--
		} else {
			m.drop(int(s.i))
		}
		w.arrive(m, msg)
	case drop:
		m.drop(int(s.i))
	case rate:
		m.left.rates--
		m.fast = s.i
	case stop:
		m.left.stops--
		m.stopped[p] = true
	case cont:
		m.stopped[p] = false
		w.ready(&m.h[p], nil)
		m.h[p].Tick(base)
	case crashHost, crashAgent:
		w.crash(m, p, s.kind == crashHost)
	default:
		w.change(m, p, s.kind)
		if s.kind == release && (m.w.record.Holder != p || m.w.record.InSync) {
			return fmt.Errorf("host %d releases output unprotected, and the witness has it that %+v", p, m.w.record)
		}
	}
	for q := range m.h {
		for _, msg := range m.h[q].Out {
			m.send(msg)
		}
		m.h[q].Out = nil
		if m.h[q].role == Active && was[q] != Active {
			if err := m.began(Party(q)); err != nil {
				return err
			}
		}
	}
	_, a := m.h[0].Active(base)
	_, b := m.h[1].Active(base)
	if a && b {
		return fmt.Errorf("both hosts run the VM")
	}
	m.canonical()
	return nil
}

func (w *world) ready(h *Holder, msg *Message) {
	if w.flaw != nil && w.flaw.before != nil {
		w.flaw.before(h, msg)
	}
}

// fate is what becomes of the next due message.
func (w *world) fate(m *model, kind stepKind) {
	msg := m.due[0]
	m.dues = len(slices.Delete(m.due[:m.dues], 0, 1))
	if kind == hold || kind == double {
		if !slices.Contains(m.held[:m.helds], msg) {
			m.held[m.helds] = msg
			m.helds++
		}
	}
	if kind == double {
		m.left.doubled--
	}
	if kind == arrive || kind == double {
		w.arrive(m, msg)
	}
}

func (w *world) arrive(m *model, msg Message) {
	if msg.To != Third {
		w.ready(&m.h[msg.To], &msg)
		m.h[msg.To].Receive(base, msg)
		return
	}
	if w.flaw != nil && w.flaw.witness != nil {
		w.flaw.witness(&m.w, &msg)
	}
	was := m.w.record
	m.send(m.w.Receive(base, msg))
	m.disk = m.w.record
	if w.flaw != nil && w.flaw.lazy && was != m.w.record {
		m.disk = was
	}
}

func (m *model) drop(i int) {
	m.helds = len(slices.Delete(m.held[:m.helds], i, i+1))
}

// send has a message due. There is room for all that a step can send.
func (m *model) send(msg Message) {
	m.due[m.dues] = msg
	m.dues++
}

// crash starts p again. Its sessions with the other host have ended.
func (w *world) crash(m *model, p Party, host bool) {
	m.left.crashes[p]--
	if p == Third {
		m.w = NewWitness(modelConfig, m.disk, 0, base)
		if w.flaw != nil && w.flaw.restart != nil {
			w.flaw.restart(&m.w)
		}
		return
	}
	have := Nothing
	if m.h[p].have == Disk {
		have = Disk
	}
	switch m.h[p].role {
	case Active, Lapsed, Handing:
		have = Machine
	case Standby, Taking:
		have = Image
	}
	if host {
		have = Disk
		m.lacks[p] = true
	}
	m.h[p] = NewHolder(modelConfig, p, have, m.h[p].boot+1, base)
	if w.flaw != nil && w.flaw.begin != nil {
		w.flaw.begin(&m.h[p])
	}
	m.acked[p], m.stopped[p] = false, false
	m.image = [2]uint8{}
	m.h[p].Tick(base)
}

// change is what the user of p's seat does.
func (w *world) change(m *model, p Party, kind stepKind) {
	h, o := &m.h[p], p.Other()
	switch kind {
	case alone:
		m.left.changes--
		h.Alone(base)
	case protect:
		m.left.changes--
		m.acked[p] = false
		h.Protect(base)
	case synced:
		m.left.changes--
		h.Synced(base)
	case hand:
		m.left.planned--
		_ = h.Hand(base) // refused: it goes on
	case release:
		m.lacks[o], m.acked[p] = true, false
		if m.image[o] != noImage {
			m.image[o] = oldImage
		}
	case retain:
		h.Has(base, Image)
	case ship:
		m.image[o] = goodImage
	case place:
		m.lacks[p] = m.image[p] == oldImage
		if m.image[p] == goodImage {
			m.acked[o] = true
		}
		m.image[p] = noImage
		h.Has(base, Image)
	}
}

// began checks that a host holds what it goes on from.
func (m *model) began(p Party) error {
	if m.h[p].from == Disk {
		// What it knew is gone, and the witness has it that the other knows no
		// better. What the other has is of another history from now on.
		m.lacks[p], m.lacks[p.Other()] = false, true
		m.acked[p] = false
		return nil
	}
	if m.lacks[p] {
		return fmt.Errorf("host %d runs the VM from %d, and output was released that it knows nothing of", p, m.h[p].from)
	}
	return nil
}
