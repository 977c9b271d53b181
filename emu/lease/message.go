package lease

import (
	"fmt"
	"time"

	"github.com/vpclab/vpclab/emu/event"
)

// Kind is what a message says.
type Kind uint8

const (
	// Between the hosts.
	Look    Kind = iota + 1 // what do you know? Binds nobody. To the witness, too
	Told                    // this is what I know
	Beat                    // I run the VM: promise not to take it over for a term
	Promise                 // I do, counted from your Beat's Asked
	Handed                  // I have stopped the VM and count on nothing that I was promised before Asked: take it

	// To the witness, who answers each with Answer. All but Look and Renew are
	// done only if the record is still the one that the asker knows (Gen), so
	// that one which comes late or twice does nothing.
	Renew // I run the VM
	Claim // I begin to run the VM, which is mine by the record
	Stale // my standby cannot be relied on any more
	Sync  // my standby holds everything again
	Lost  // I am the standby and have nothing
	Take  // I am the standby, the active is silent (or has handed over), and I hold everything

	Answer // the witness's
)

var kinds = [...]string{
	Look: "look", Told: "told", Beat: "beat", Promise: "promise", Handed: "handed",
	Renew: "renew", Claim: "claim", Stale: "stale", Sync: "sync", Lost: "lost", Take: "take",
	Answer: "answer",
}

func (k Kind) String() string {
	if int(k) < len(kinds) && kinds[k] != "" {
		return kinds[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Message is what parties send each other about one VM. An answer (Told,
// Promise, Answer) repeats Boot and Asked of what it answers.
type Message struct {
	Kind     Kind
	From, To Party
	// Boot is drawn at random when the asker starts: answers to its predecessor
	// are not for it.
	Boot  uint64
	Asked event.Mono // by the asker's clock: its lease counts from here
	// Record is the latest that the sender knows. A question to the witness
	// means this one, by its generation.
	Record Record
	Plain  bool // Claim: the VM begins from its disk; not set: as it was left
	Handed bool // Take: the active has handed over

	Re   Kind          // Told, Promise, Answer: to which question
	OK   bool          // Answer: it was done
	Left time.Duration // Answer to a Take that was not: when it may be, as far as the active's lease goes
}

func (m Message) String() string {
	s := fmt.Sprintf("%v %d→%d gen %d held by %d", m.Kind, m.From, m.To, m.Record.Gen, m.Record.Holder)
	if m.Record.InSync {
		s += " in sync"
	}
	if m.Kind == Answer {
		s += fmt.Sprintf(" re %v: %v", m.Re, m.OK)
	}
	return s
}
