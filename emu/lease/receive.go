package lease

import "github.com/vpclab/vpclab/emu/event"

// Receive takes a message of another party.
func (h *Holder) Receive(now event.Mono, m Message) {
	h.settle(now)
	if m.From == h.me || m.To != h.me {
		return
	}
	if m.From == Third {
		if m.Kind == Answer {
			if m.Record.Gen > h.record.Gen && !m.OK {
				h.ask = now // again, as it now is
			}
			h.learn(m.Record)
			h.met = true
			if m.Boot == h.boot {
				h.contact = max(h.contact, m.Asked)
			}
			h.settle(now)
			h.answered(now, m)
		}
		h.Tick(now)
		return
	}
	h.learn(m.Record)
	h.settle(now)
	switch m.Kind {
	case Look:
		h.reply(m, Told)
	case Told:
		h.told(now, m)
	case Beat:
		h.beaten(now, m)
	case Promise:
		h.promised(now, m)
	case Handed:
		h.given(now, m)
	}
	h.Tick(now)
}

// learn takes over what is newer.
func (h *Holder) learn(r Record) {
	if r.Gen <= h.record.Gen {
		return
	}
	h.record = r
	if r.InSync && r.Holder == h.me {
		h.sync = false // done
	}
}

// answered takes the witness's answer to a question of ours. It is a grant only
// if the witness knew all that we know.
func (h *Holder) answered(now event.Mono, m Message) {
	if m.Boot != h.boot || m.Record.Gen != h.record.Gen {
		return
	}
	if m.Record.Holder != h.me {
		switch {
		case h.role != Taking:
		case m.Re == Look:
			h.take(now)
		case m.Re == Take && m.Left > 0:
			h.ask = min(h.ask, now+event.Mono(m.Left))
		}
		return
	}
	lease := m.Asked + h.term
	switch {
	case m.Re == Look && h.role == Lapsed:
		// It hears us and we hear it: now in earnest.
		if h.claim {
			h.send(now, Third, Claim)
		} else {
			h.send(now, Third, Renew)
		}
	case m.Re == Look && h.mayBoot(now):
		h.ask = now
	case !m.OK || now >= lease || m.Asked <= h.void:
	case m.Re == Claim:
		h.claimed(lease)
	case h.claim:
		// What was asked before the claim that is still to be done.
	case h.role == Active, h.role == Lapsed, h.role == Taking:
		h.witness = max(h.witness, lease)
		if h.role == Lapsed {
			h.begin(Machine)
		}
		h.settle(now)
	}
}

// claimed begins with what we have, or goes on.
func (h *Holder) claimed(lease event.Mono) {
	switch h.role {
	case Active:
	case Lapsed:
		h.begin(Machine)
	case Forgotten:
		if h.have != Disk {
			return
		}
		h.begin(Disk)
	default:
		return
	}
	h.claim, h.fresh, h.witness = false, false, lease
}

// told is the other host's answer to a Look.
func (h *Holder) told(now event.Mono, m Message) {
	if m.Re == Look && m.Boot == h.boot && h.role == Lapsed && !h.fresh {
		h.send(now, m.From, Beat)
	}
}

// beaten promises the active not to take over, unless we know better.
func (h *Holder) beaten(now event.Mono, m Message) {
	s := stamp{m.Record.Gen, m.Asked}
	switch {
	case h.role == Active || h.role == Lapsed || h.role == Handing,
		!h.met, h.record.Holder != m.From:
		h.reply(m, Told)
		return
	case !s.after(h.handed):
		return // it was sent before the VM was handed over
	}
	if s.after(h.beat) {
		h.beat = s
	}
	h.heard, h.promise = now, max(h.promise, now+h.guard)
	if h.role == Taking {
		h.role = Standby
	}
	h.reply(m, Promise)
}

// promised counts the other host's promise.
func (h *Holder) promised(now event.Mono, m Message) {
	lease := m.Asked + h.term
	if m.Boot != h.boot || h.fresh || m.Asked <= h.void || now >= lease {
		return
	}
	switch h.role {
	case Active:
	case Lapsed:
		h.begin(Machine)
	default:
		return
	}
	h.peer = max(h.peer, lease)
}

// given takes the VM that the active has handed over. It relies on no promise
// of ours any more, except on one to a Beat that it sent after it had thought
// better of it.
func (h *Holder) given(now event.Mono, m Message) {
	s := stamp{m.Record.Gen, m.Asked}
	if !s.after(h.beat) || !s.after(h.handed) || h.record.Holder != m.From {
		h.reply(m, Told)
		return
	}
	if h.role != Standby && h.role != Taking {
		return // without an image; the active goes on
	}
	h.handed, h.promise = s, max(now, h.before)
	h.role, h.ask = Taking, now
}
