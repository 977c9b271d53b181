package watch

import (
	"fmt"
	"os"
	"time"
)

// Period is the time between two wake-ups of the pulse. It is no multiple of
// the kernel's tick nor of the round numbers that a lab's own timers have, so
// that it does not always meet the same of them.
const Period = 23 * time.Millisecond

const (
	ring       = 4096 // notes that are kept until somebody takes them: 94 s
	ringMask   = ring - 1
	drainEvery = 20 * time.Second
	endWait    = 2 * time.Second // until the thread has ended; it does at its next wake-up
)

// note is one wake-up as the thread writes it.
type note struct {
	due  int64  // CLOCK_MONOTONIC, ns: when it should have been
	woke int64  // when it was
	tsc  uint64 // of the processor just before; 0: it was interrupted between the two
	_    uint64
}

// beat is one wake-up.
type beat struct {
	due, woke int64
	tsc       uint64
}

func (b beat) late() time.Duration { return time.Duration(max(0, b.woke-b.due)) }

// take appends the notes from number *from on that are still in the ring. It
// returns how many were written over before anybody took them.
func (p *pulse) take(from *uint64, beats []beat) (_ []beat, lost int) {
	head := p.head()
	if head-*from > ring {
		lost = int(head - *from - ring)
		*from = head - ring
	}
	for ; *from < head; *from++ {
		n := p.note(*from)
		beats = append(beats, beat{n.due, n.woke, n.tsc})
	}
	return beats, lost
}

// errStuck says that the thread did not end in time.
func errStuck() error {
	return fmt.Errorf("end of the pulse: its thread has not ended %v after it was told: %w", endWait, os.ErrDeadlineExceeded)
}
