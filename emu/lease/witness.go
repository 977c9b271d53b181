package lease

import (
	"time"

	"github.com/vpclab/vpclab/emu/event"
)

// Witness is the third party's part for one VM: it keeps the record, and a lease
// for who has the VM. It is a plain value; a copy is another witness.
type Witness struct {
	guard  time.Duration
	record Record
	until  event.Mono // before that, nobody but the holder may have a lease
}

// NewWitness begins with a record: the one that was kept, or that of a new VM.
// Leases that were given before are not known, so it is as if one had been given
// just now. term is the longest that leases were ever given for.
func NewWitness(c Config, record Record, term time.Duration, now event.Mono) Witness {
	c.Term = max(c.Term, term)
	return Witness{guard: c.guard(), record: record, until: now + event.Mono(c.guard())}
}

// Record is what is to be kept.
func (w *Witness) Record() Record { return w.record }

// Receive answers m. Where the record has changed, it must be on the disk before
// the answer is sent, and if that fails the witness must be what it was.
func (w *Witness) Receive(now event.Mono, m Message) Message {
	r := &w.record
	mine, same := m.From == r.Holder, m.Record.Gen == r.Gen
	leave := Message{Kind: Answer, From: Third, To: m.From, Boot: m.Boot, Asked: m.Asked, Re: m.Kind}
	lease := false // for From
	switch m.Kind {
	case Renew:
		leave.OK = mine
		lease = leave.OK
	case Claim:
		// A VM begins from its disk only when nothing better is left of it.
		leave.OK = mine && same && !(m.Plain && r.InSync)
		lease = leave.OK
	case Stale, Sync:
		leave.OK = mine && same
		lease = leave.OK
		if leave.OK {
			r.InSync = m.Kind == Sync
		}
	case Lost:
		leave.OK = !mine && same && r.InSync
		if leave.OK {
			r.InSync = false
		}
	case Take:
		leave.OK = !mine && same && r.InSync && (m.Handed || now >= w.until)
		lease = leave.OK
		if leave.OK {
			// Who had it holds everything for as long as the new one has not released
			// anything: that it does needs a Stale, or to have the other in sync.
			r.Holder = m.From
		} else if !mine && r.InSync {
			leave.Left = max(0, w.until.Sub(now))
		}
	}
	if leave.OK && m.Kind != Renew {
		r.Gen++
	}
	if lease {
		w.until = now + event.Mono(w.guard)
	}
	leave.Record = *r
	return leave
}
