package lease

import (
	"fmt"

	"github.com/vpclab/vpclab/emu/event"
)

// Holder is a host's part for one VM. It is a plain value; a copy is another
// holder. After each call, Next says when Tick is due; messages to be sent are
// in Out, which the caller empties.
//
// A host is active while it has an unexpired lease of the witness or of the
// other host. The other host's is a promise: it does not take the VM over
// before the promise has run out by its own clock, whatever the witness says.
type Holder struct {
	Out []Message

	me                   Party
	term, renew, silence event.Mono
	guard                event.Mono
	boot                 uint64

	role Role
	from Have // of Active
	have Have // of another role
	// record is the latest that came from anywhere. Each generation has one
	// record, so the greatest is the latest.
	record Record
	met    bool // the witness itself has told, since Start

	witness, peer event.Mono // our leases from them end
	// claim: before leases of the witness count, Claim has to be done: old
	// messages might end what it has just given. Claims are also how a host
	// begins after Start, when not even the other host's promise counts (fresh).
	claim, fresh bool
	contact      event.Mono // when we asked the latest of what the witness answered
	// void: what was asked for until then counts no more, because Handed gave it
	// away.
	void event.Mono

	promise event.Mono // what we promised the other host ends
	before  event.Mono // and what our predecessor may have promised it
	heard   event.Mono // the last sign of life of the active
	// beat is the latest Beat that we promised on, and handed the latest Handed:
	// whichever is later by the other's clock holds.
	beat, handed stamp

	alone, sync bool // what the witness is to record
	// doubt: a Sync of this generation may still be under way, and do what it
	// says.
	doubt uint64

	ask event.Mono // when to send next
}

// stamp orders messages of one host: within a generation, by its clock. (A host
// that starts again claims, and has a new generation, before it sends any.)
type stamp struct {
	gen uint64
	at  event.Mono
}

func (s stamp) after(t stamp) bool { return s.gen > t.gen || s.gen == t.gen && s.at > t.at }

// NewHolder is the part of me, a host, beginning with what it has of the VM: a
// Machine that stands, an Image, a Disk that the VM may be booted from, or
// Nothing. The record says what becomes of it. boot is drawn at random.
func NewHolder(c Config, me Party, have Have, boot uint64, now event.Mono) Holder {
	h := Holder{
		me: me, boot: boot, have: have, role: Forgotten, claim: true, fresh: true,
		term: event.Mono(c.Term), renew: event.Mono(c.Renew), silence: event.Mono(c.Silence), guard: event.Mono(c.guard()),
		// What the predecessor of this process promised is not known.
		promise: now + event.Mono(c.guard()), before: now + event.Mono(c.guard()), heard: now, ask: now,
	}
	switch have {
	case Machine:
		h.role = Lapsed
	case Image:
		h.role = Standby
	}
	return h
}

// State is what the host knows at now.
func (h *Holder) State(now event.Mono) State {
	s := State{Role: h.role, Record: h.record}
	if h.role == Active {
		s.From, s.Until = h.from, h.until()
		if now >= s.Until {
			s.Role = Lapsed // Tick has not come to it yet
		}
		s.Unprotected = s.Role == Active && h.unprotected()
	}
	return s
}

// Active is whether the VM may run at now. It is valid as long as the caller's
// clock says less than until.
func (h *Holder) Active(now event.Mono) (until event.Mono, active bool) {
	return h.until(), h.role == Active && now < h.until()
}

// Next is when Tick is due.
func (h *Holder) Next(now event.Mono) event.Mono {
	next := h.ask
	switch h.role {
	case Active:
		next = min(next, h.until())
	case Handing:
		next = min(next, h.void+h.term)
	case Standby:
		next = min(next, max(h.promise, h.heard+h.silence))
	case Forgotten:
		if h.promise > now {
			next = min(next, h.promise)
		}
	case Taking:
		if h.won() && h.promise > now {
			next = min(next, h.promise)
		}
	}
	return next
}

// Has says what the host has of the VM from now on, where it does not run it: a
// standby's Image is whole, or what there was is gone.
func (h *Holder) Has(now event.Mono, have Have) {
	switch h.role {
	case Active, Handing, Lapsed:
		return
	}
	h.have = have
	switch {
	case have == Image && (h.role == Forgotten || h.role == Fenced):
		h.role, h.heard = Standby, now
	case have != Image:
		h.role = Forgotten
	}
	h.Tick(now)
}

// Alone says that the standby cannot be relied on: the witness is to record that
// it may not take over. State.Unprotected tells when it has.
func (h *Holder) Alone(now event.Mono) {
	if !h.alone && h.has() {
		h.alone, h.sync, h.ask = true, false, now
	}
	h.Tick(now)
}

// Protect ends what Alone began: State.Unprotected is false from now on.
func (h *Holder) Protect(now event.Mono) {
	h.alone = false
	h.Tick(now)
}

// Synced says that the standby holds all that released output rests on; none may
// have been released unprotected since the checkpoint that it holds. The
// witness is to record that it may take over.
func (h *Holder) Synced(now event.Mono) {
	if h.has() {
		h.alone, h.sync, h.ask = false, !h.record.InSync, now
	}
	h.Tick(now)
}

// Hand gives the VM to the standby. The caller has stopped it. The outcome is a
// change of role: Fenced when the standby has been given it, Lapsed when that
// could not be done in time, and then most likely Active again.
func (h *Holder) Hand(now event.Mono) error {
	h.Tick(now)
	switch {
	case h.role != Active || h.claim:
		return fmt.Errorf("hand over: %w", ErrNotActive)
	case !h.record.InSync || h.alone || h.sync:
		return fmt.Errorf("hand over: %w", ErrNotInSync)
	case now >= h.witness:
		return fmt.Errorf("hand over: %w", ErrNoWitness)
	}
	h.role, h.void, h.ask = Handing, now, now
	h.witness, h.peer = 0, 0
	h.Tick(now)
	return nil
}

// Tick does what is due.
func (h *Holder) Tick(now event.Mono) {
	h.settle(now)
	if now >= h.ask {
		h.ask = now + h.renew
		h.renewAll(now)
	}
}

// settle is what time alone does, and what follows from the record.
func (h *Holder) settle(now event.Mono) {
	switch {
	case h.record.Gen == 0 || h.record.Holder == h.me:
	case h.fresh && !h.met: // what the other host knows may be older than what we knew once
	case h.role == Active, h.role == Handing, h.role == Lapsed:
		h.role, h.have = Fenced, Nothing
		h.alone, h.sync, h.claim, h.fresh = false, false, false, false
		h.witness, h.peer, h.heard = 0, 0, now
	}
	switch h.role {
	case Active:
		if now >= h.until() {
			h.role, h.ask = Lapsed, now
		}
	case Handing:
		if now >= h.void+h.term || !h.record.InSync {
			// Nobody took it. The standby may still be about to: it has to promise,
			// or the witness to give the VM a new generation.
			h.role, h.claim, h.ask = Lapsed, true, now
		}
	case Standby:
		if h.won() || now >= h.promise && now >= h.heard+h.silence {
			h.role, h.ask = Taking, now
		}
	}
	if h.role == Taking && h.won() {
		h.claim, h.fresh = false, false // that we were given it has a generation of its own
		if now >= h.promise && now < h.witness {
			h.begin(Image)
		}
	}
}

// won is whether the witness has given us the VM that we hold an image of.
func (h *Holder) won() bool { return h.have == Image && h.met && h.record.Holder == h.me }

func (h *Holder) begin(from Have) {
	h.role, h.from = Active, from
	h.handed = stamp{}
}

// has is whether the VM is here, running or not.
func (h *Holder) has() bool { return h.role == Active || h.role == Lapsed }

func (h *Holder) until() event.Mono { return max(h.witness, h.peer) }

// unprotected: the record says so, and nothing under way can change that.
func (h *Holder) unprotected() bool {
	return h.alone && h.record.Holder == h.me && !h.record.InSync && h.record.Gen > h.doubt
}
