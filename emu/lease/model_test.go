package lease

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/vpclab/vpclab/emu/event"
)

// The model is the three parties, what is under way between them, and as much of
// replication as the promises of this package are about. Everything that can
// happen to it is a step (steps_test.go); explore_test.go takes all steps in all
// orders.
//
// Time is whole units. Each party has a clock of its own; a tick moves each on by
// one or two units, so that a clock may run twice as fast as another: Drift is 1.
// All times are kept relative to the clock that they are by, and what is so long
// ago that only its order matters loses the rest (canonical): the states are
// finite.
//
// A message is due at once. It arrives, is lost, or is held: for as long as it
// takes, past any number of terms and messages that were sent after it. It may
// also arrive and be held. As any message may be lost, there are partitions of
// every kind and length.

// base is what each clock says, always.
const base = 100

// modelConfig has the shortest term that tells things apart.
var modelConfig = Config{VM: "shop", Term: 2, Renew: 1, Drift: 1, Silence: 1}

// Images under way to a host.
const (
	noImage   = iota
	goodImage // holds all that was released
	oldImage  // output has been released unprotected since it was taken
)

// Messages at a time that are due, and that are held (see world.held).
const (
	mostDue  = 12
	mostHeld = 4
)

type model struct {
	h [2]Holder
	w Witness

	due     [mostDue]Message // in the order in which they were sent
	dues    int
	held    [mostHeld]Message // sorted
	helds   int
	stopped [2]bool // the process does not run (SIGSTOP, or all else has its CPU)
	fast    uint8   // whose clock runs twice as fast, by bits

	disk Record // what the witness has on its disk

	// Replication, as far as it matters here.
	lacks [2]bool  // what a host has of the VM lacks output that was released
	image [2]uint8 // under way to it
	acked [2]bool  // it was told that the other holds all that it released

	left budget
}

// budget is how much more may go wrong.
type budget struct {
	crashes [3]int8 // of each party
	stops   int8    // processes that stand for a time
	rates   int8    // changes of how fast clocks run
	doubled int8    // messages that arrive and are held
	planned int8    // switch-overs
	changes int8    // Alone, Protect, Synced
}

// cold is before anything has happened.
func cold(left budget) model {
	m := model{left: left}
	m.w = NewWitness(modelConfig, Record{Gen: 1, Holder: HostA}, 0, base)
	m.h[HostA] = NewHolder(modelConfig, HostA, Disk, 1, base)
	m.h[HostB] = NewHolder(modelConfig, HostB, Nothing, 1, base)
	m.disk = m.w.record
	m.lacks = [2]bool{false, true}
	return m
}

// messages calls f with each.
func (m *model) messages(f func(*Message)) {
	for i := range m.due[:m.dues] {
		f(&m.due[i])
	}
	for i := range m.held[:m.helds] {
		f(&m.held[i])
	}
}

// stamps calls f with each time by p's clock of which only the order counts once
// it is a term ago: of questions, and what is kept of them.
func (m *model) stamps(p Party, f func(*event.Mono)) {
	f(&m.h[p].void)
	f(&m.h[p.Other()].beat.at)
	f(&m.h[p.Other()].handed.at)
	m.messages(func(msg *Message) {
		if asker(msg) == p {
			f(&msg.Asked)
		}
	})
}

// asker is by whose clock a message's Asked is.
func asker(m *Message) Party {
	switch m.Kind {
	case Told, Promise, Answer:
		return m.To
	}
	return m.From
}

// tick moves p's clock on by d, which is to say all that it has noted back.
func (m *model) tick(p Party, d event.Mono) {
	if p == Third {
		m.w.until -= d
		return
	}
	h := &m.h[p]
	for _, t := range []*event.Mono{&h.witness, &h.peer, &h.contact, &h.promise, &h.before, &h.heard, &h.ask} {
		*t -= d
	}
	m.stamps(p, func(t *event.Mono) { *t -= d })
}

// canonical makes states that cannot be told apart by anything that follows the
// same state.
func (m *model) canonical() {
	m.w.until = max(m.w.until, base)
	for p := range m.h {
		h := &m.h[p]
		h.Out = nil
		h.promise, h.before, h.ask = max(h.promise, base), max(h.before, base), max(h.ask, base)
		h.heard = max(h.heard, base-h.silence)
		if h.role != Standby {
			h.heard = base - h.silence
		}
		if h.role == Active {
			h.have = Machine
		} else {
			h.from = Nothing
		}
		if h.witness <= base {
			h.witness = 0
		}
		if h.peer <= base {
			h.peer = 0
		}
		if h.contact+h.term <= base {
			h.contact = 0
		}
		if h.doubt < h.record.Gen {
			h.doubt = 0
		}
		m.rank(Party(p))
	}
	m.prune()
	m.renumber()
	slices.SortFunc(m.held[:m.helds], compare)
}

// rank gives the stamps that are a term or more ago the latest times that are
// still that long ago, in the same order.
func (m *model) rank(p Party) {
	var old [mostDue + mostHeld + 3]event.Mono
	n := 0
	end := base - m.h[p].term
	m.stamps(p, func(t *event.Mono) {
		if *t <= end && !slices.Contains(old[:n], *t) {
			old[n] = *t
			n++
		}
	})
	slices.Sort(old[:n])
	m.stamps(p, func(t *event.Mono) {
		if *t <= end {
			*t = end - event.Mono(n-1-slices.Index(old[:n], *t))
		}
	})
}

// prune takes away messages that can never do anything again.
func (m *model) prune() {
	spent := func(msg Message) bool { return msg.To != Third && m.spent(&msg) }
	m.dues = len(slices.DeleteFunc(m.due[:m.dues], spent))
	m.helds = len(slices.DeleteFunc(m.held[:m.helds], spent))
}

// spent: an answer teaches nothing any more, and is too old to be a lease or is
// not for this process.
func (m *model) spent(msg *Message) bool {
	h := &m.h[msg.To]
	if msg.Record.Gen > h.record.Gen {
		return false
	}
	late := msg.Boot != h.boot || msg.Asked+h.term <= base
	switch msg.Kind {
	case Promise:
		return late
	case Told:
		return msg.Boot != h.boot
	case Answer:
		return h.met && (msg.Boot != h.boot || late && msg.Record.Gen < h.record.Gen)
	}
	return false
}

// renumber gives generations the lowest numbers, in the same order. That of the
// witness is the greatest: all others have come from it.
func (m *model) renumber() {
	var gens [mostDue + mostHeld + 10]uint64
	n := 0
	visit := func(f func(*uint64)) {
		f(&m.w.record.Gen)
		f(&m.disk.Gen)
		for p := range m.h {
			h := &m.h[p]
			f(&h.record.Gen)
			f(&h.doubt)
			f(&h.beat.gen)
			f(&h.handed.gen)
		}
		m.messages(func(msg *Message) { f(&msg.Record.Gen) })
	}
	visit(func(g *uint64) {
		if *g > 0 && !slices.Contains(gens[:n], *g) {
			gens[n] = *g
			n++
		}
	})
	slices.Sort(gens[:n])
	visit(func(g *uint64) {
		if *g > 0 {
			*g = uint64(slices.Index(gens[:n], *g)) + 1
		}
	})
	// Of the processes that asked, only the present one matters.
	m.messages(func(msg *Message) { msg.Boot = bit(msg.Boot == m.h[asker(msg)].boot, 0) })
	m.h[0].boot, m.h[1].boot = 1, 1
}

func compare(a, b Message) int {
	x, y := a.key(), b.key()
	return cmp.Or(cmp.Compare(x[0], y[0]), cmp.Compare(x[1], y[1]))
}

func bit(b bool, n int) uint64 {
	if b {
		return 1 << n
	}
	return 0
}

// key has all of a message of a canonical state.
func (m *Message) key() [2]uint64 {
	return [2]uint64{
		uint64(m.Kind) | uint64(m.From)<<8 | uint64(m.To)<<16 | m.Boot<<24 | uint64(m.Asked)<<32 |
			bit(m.Record.InSync, 56) | bit(m.Plain, 57) | bit(m.Handed, 58) | bit(m.OK, 59) | uint64(m.Record.Holder)<<60,
		m.Record.Gen | uint64(m.Re)<<8 | uint64(m.Left)<<16,
	}
}

// roles in the order of their numbers in a packed state.
var roles = [...]Role{Forgotten, Standby, Taking, Active, Handing, Lapsed, Fenced}

// packer turns a model into bytes, or bytes into a model.
type packer struct {
	b      []byte
	unpack bool
}

func (k *packer) byte(get byte, set func(byte)) {
	if !k.unpack {
		k.b = append(k.b, get)
		return
	}
	set(k.b[0])
	k.b = k.b[1:]
}

func (k *packer) mono(t *event.Mono) { k.byte(byte(*t), func(b byte) { *t = event.Mono(b) }) }
func (k *packer) gen(g *uint64)      { k.byte(byte(*g), func(b byte) { *g = uint64(b) }) }
func (k *packer) int8(n *int8)       { k.byte(byte(*n), func(b byte) { *n = int8(b) }) }

func (k *packer) bools(bools ...*bool) {
	var get byte
	for i, b := range bools {
		if *b {
			get |= 1 << i
		}
	}
	k.byte(get, func(v byte) {
		for i, b := range bools {
			*b = v>>i&1 != 0
		}
	})
}

func (k *packer) record(r *Record) {
	k.gen(&r.Gen)
	k.byte(byte(r.Holder)|byte(bit(r.InSync, 1)), func(b byte) { r.Holder, r.InSync = Party(b&1), b&2 != 0 })
}

func (k *packer) holder(h *Holder) {
	k.byte(byte(slices.Index(roles[:], h.role)), func(b byte) { h.role = roles[b] })
	k.byte(byte(h.from)|byte(h.have)<<4, func(b byte) { h.from, h.have = Have(b&15), Have(b>>4) })
	k.record(&h.record)
	k.bools(&h.met, &h.claim, &h.fresh, &h.alone, &h.sync)
	for _, t := range []*event.Mono{&h.witness, &h.peer, &h.contact, &h.void, &h.promise, &h.before, &h.heard, &h.beat.at, &h.handed.at, &h.ask} {
		k.mono(t)
	}
	k.gen(&h.beat.gen)
	k.gen(&h.handed.gen)
	k.gen(&h.doubt)
}

func (k *packer) model(m *model) {
	k.holder(&m.h[0])
	k.holder(&m.h[1])
	k.record(&m.w.record)
	k.record(&m.disk)
	k.mono(&m.w.until)
	k.bools(&m.lacks[0], &m.lacks[1], &m.acked[0], &m.acked[1])
	k.byte(m.image[0]|m.image[1]<<4, func(b byte) { m.image = [2]uint8{b & 15, b >> 4} })
	for p := range m.left.crashes {
		k.int8(&m.left.crashes[p])
	}
	for _, n := range []*int8{&m.left.stops, &m.left.rates, &m.left.doubled, &m.left.planned, &m.left.changes} {
		k.int8(n)
	}
	k.byte(m.fast|byte(bit(m.stopped[0], 3)|bit(m.stopped[1], 4)), func(b byte) { m.fast, m.stopped = b&7, [2]bool{b>>3&1 > 0, b>>4&1 > 0} })
	k.byte(byte(m.dues)|byte(m.helds)<<4, func(b byte) { m.dues, m.helds = int(b&15), int(b>>4) })
	m.messages(func(msg *Message) {
		k.byte(byte(msg.Kind)|byte(msg.Re)<<4, func(b byte) { msg.Kind, msg.Re = Kind(b&15), Kind(b>>4) })
		k.byte(byte(msg.From)|byte(msg.To)<<2|byte(msg.Boot)<<4, func(b byte) { msg.From, msg.To, msg.Boot = Party(b&3), Party(b>>2&3), uint64(b>>4) })
		k.mono(&msg.Asked)
		k.record(&msg.Record)
		k.bools(&msg.Plain, &msg.Handed, &msg.OK)
		k.byte(byte(msg.Left), func(b byte) { msg.Left = time.Duration(b) })
	})
}

// unpacked is the model of bytes, with what is the same in all.
func unpacked(b []byte, like *model) model {
	m := *like
	m.due, m.held = [mostDue]Message{}, [mostHeld]Message{}
	k := packer{b: b, unpack: true}
	k.model(&m)
	return m
}

func (m *model) String() string {
	s := fmt.Sprintf("witness %+v until %d, fast %03b, stopped %v\n", m.w.record, m.w.until-base, m.fast, m.stopped)
	for p := range m.h {
		h := m.h[p]
		_, active := h.Active(base)
		s += fmt.Sprintf("   %d %v active=%v have=%d rec=%+v met=%v claim=%v fresh=%v leases %d %d void %d promise %d before %d heard %d beat %+v handed %+v alone=%v sync=%v doubt=%d ask=%d contact=%d lacks=%v image=%d acked=%v\n",
			p, h.role, active, h.have, h.record, h.met, h.claim, h.fresh, h.witness-base, h.peer-base, h.void-base, h.promise-base, h.before-base, h.heard-base,
			h.beat, h.handed, h.alone, h.sync, h.doubt, h.ask-base, h.contact-base, m.lacks[p], m.image[p], m.acked[p])
	}
	for _, msg := range m.due[:m.dues] {
		s += fmt.Sprintf("   > %v asked %d boot %d\n", msg, msg.Asked-base, msg.Boot)
	}
	for _, msg := range m.held[:m.helds] {
		s += fmt.Sprintf("   ~ %v asked %d boot %d\n", msg, msg.Asked-base, msg.Boot)
	}
	return s
}
