package lab

import (
	"strconv"
	"sync"

	"github.com/vpclab/vpclab/emu/event"
)

const (
	busHistory = 4096    // events that a late subscriber can still ask for
	busQueue   = 4096    // events that a slow subscriber may lie behind
	busMore    = 1 << 20 // and, who may not miss one
)

// bus hands events to subscribers. Publishing never blocks: each subscriber
// has a queue of fixed length, and what does not fit is counted, not kept; but
// for those who go by what they read, as an experiment does, a lot more is.
type bus struct {
	mu      sync.Mutex
	history []event.Event // ring of the last busHistory events
	next    int
	subs    map[*Subscription]struct{}
	missed  int // events that were lost for those who may not miss one
}

// Subscription is one reader of the bus.
type Subscription struct {
	C   <-chan event.Event
	bus *bus
	c   chan event.Event
	// Guarded by bus.mu:
	lost  int           // since the last event that fitted
	whole bool          // what does not fit is kept
	more  []event.Event // what waits for room
}

func newBus() *bus { return &bus{subs: map[*Subscription]struct{}{}} }

// subscribe gives a reader the last n events and then all new ones.
func (b *bus) subscribe(n int) *Subscription {
	b.mu.Lock()
	defer b.mu.Unlock()
	past := append(append([]event.Event(nil), b.history[b.next:]...), b.history[:b.next]...)
	if n < len(past) {
		past = past[len(past)-n:]
	}
	c := make(chan event.Event, busQueue+len(past))
	for _, e := range past {
		c <- e
	}
	s := &Subscription{C: c, c: c, bus: b}
	b.subs[s] = struct{}{}
	return s
}

// Close ends the subscription and closes C.
func (s *Subscription) Close() {
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	if _, open := s.bus.subs[s]; open {
		delete(s.bus.subs, s)
		close(s.c)
	}
}

func (b *bus) publish(e event.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.history) < busHistory {
		b.history = append(b.history, e)
	} else {
		b.history[b.next] = e
		b.next = (b.next + 1) % busHistory
	}
	for s := range b.subs {
		s.offer(e)
	}
}

// offer queues e, preceded by a note of what was lost before it.
func (s *Subscription) offer(e event.Event) {
	if s.whole {
		if s.refill(); len(s.more) > 0 || len(s.c) == cap(s.c) {
			if len(s.more) < busMore {
				s.more = append(s.more, e)
				return
			}
			s.lost++
			s.bus.missed++
			return
		}
	}
	if s.lost > 0 {
		note := event.Event{T: e.T, Wall: e.Wall, Kind: "events.lost", Attr: map[string]string{"n": strconv.Itoa(s.lost)}}
		select {
		case s.c <- note:
			s.lost = 0
		default:
			s.lost++
			return
		}
	}
	select {
	case s.c <- e:
	default:
		s.lost++
	}
}

// Refill gives a reader who has found C empty what has waited for room in it, and
// tells whether there was anything.
func (s *Subscription) Refill() bool {
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	return s.refill()
}

func (s *Subscription) refill() bool {
	if _, open := s.bus.subs[s]; !open {
		return false // C is closed
	}
	n := min(len(s.more), cap(s.c)-len(s.c))
	for _, e := range s.more[:n] {
		s.c <- e // there is room, and only who holds mu puts anything in
	}
	if s.more = s.more[n:]; len(s.more) == 0 {
		s.more = nil
	}
	return n > 0
}
