package lease

import "github.com/vpclab/vpclab/emu/event"

// renewAll sends what the role has to send from time to time.
func (h *Holder) renewAll(now event.Mono) {
	switch h.role {
	case Active:
		h.send(now, h.me.Other(), Beat)
		h.askWitness(now)
	case Lapsed:
		// Looking binds nobody: a host that can be heard and hears nothing must not
		// keep the others from taking over. See answered.
		h.send(now, Third, Look)
		if !h.fresh {
			h.send(now, h.me.Other(), Look)
		}
	case Handing:
		h.Out = append(h.Out, h.message(h.void, h.me.Other(), Handed))
		h.send(now, Third, Look) // whether it is done
	case Taking:
		if h.won() {
			h.send(now, Third, Renew)
			return
		}
		h.take(now)
	case Standby, Fenced:
		// A standby does so that it may be asked for the VM at any time: see take. Of
		// a fenced host nobody has said yet what it has.
		h.send(now, Third, Look)
	case Forgotten:
		h.idle(now)
	}
}

// askWitness is an active's question.
func (h *Holder) askWitness(now event.Mono) {
	kind := Renew
	switch {
	case h.claim && !h.met:
		kind = Look
	case h.claim:
		kind = Claim
	case h.alone && !h.unprotected():
		kind = Stale
	case h.sync:
		kind, h.doubt = Sync, h.record.Gen
	}
	h.send(now, Third, kind)
}

// take asks for the VM, if the witness answered lately: it must not be given to a
// host that is heard and hears nothing.
func (h *Holder) take(now event.Mono) {
	if now >= h.contact+h.term {
		h.send(now, Third, Look)
		return
	}
	m := h.message(now, Third, Take)
	m.Handed = h.handed.gen == h.record.Gen && h.handed.after(h.beat)
	h.Out = append(h.Out, m)
}

// mayBoot is whether the VM may begin from the disk that is here: nothing better
// is left of it, by the record, and no promise of ours is left either. (Nobody has
// made any for a VM that has never run.)
func (h *Holder) mayBoot(now event.Mono) bool {
	return h.role == Forgotten && h.have == Disk && h.met && h.record.Holder == h.me && !h.record.InSync &&
		(now >= h.promise || h.record.Gen == 1)
}

// idle is what a host asks that has no image.
func (h *Holder) idle(now event.Mono) {
	switch {
	case !h.met:
		h.send(now, Third, Look)
	case h.record.Holder != h.me && h.record.InSync:
		h.send(now, Third, Lost)
	case h.mayBoot(now):
		m := h.message(now, Third, Claim)
		m.Plain = true
		h.Out = append(h.Out, m)
	default:
		h.send(now, Third, Look)
	}
}

func (h *Holder) send(now event.Mono, to Party, kind Kind) {
	h.Out = append(h.Out, h.message(now, to, kind))
}

func (h *Holder) message(asked event.Mono, to Party, kind Kind) Message {
	return Message{Kind: kind, From: h.me, To: to, Boot: h.boot, Asked: asked, Record: h.record}
}

// reply answers the other host's question.
func (h *Holder) reply(m Message, kind Kind) {
	h.Out = append(h.Out, Message{Kind: kind, From: h.me, To: m.From, Boot: m.Boot, Asked: m.Asked, Re: m.Kind, Record: h.record})
}
