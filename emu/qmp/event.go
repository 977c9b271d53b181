package qmp

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/vpclab/vpclab/emu/event"
)

// Event is something that happened in QEMU: STOP, RESUME, MIGRATION …
type Event struct {
	Name string
	Data json.RawMessage // nil: there is none
	// When it happened, by QEMU, exact to a microsecond. Its clock is the wall's;
	// T is the same moment by the lab's clock, which is right for a QEMU in the same
	// kernel, unless the wall's clock was set between the event and its arrival.
	Wall time.Time
	T    event.Mono
}

// Decode reads the event's data.
func (e Event) Decode(into any) error {
	if err := json.Unmarshal(e.Data, into); err != nil {
		return fmt.Errorf("QMP event %s: data: %w", e.Name, err)
	}
	return nil
}

// newEvent has an event that came just now.
func newEvent(name string, data json.RawMessage, seconds, microseconds int64) *Event {
	e := &Event{Name: name, Data: data, Wall: wallTime(seconds, microseconds)}
	wall, now := time.Now(), event.Now()
	if e.Wall.IsZero() {
		e.Wall, e.T = wall, now
		return e
	}
	// Without Go's own reading of the monotonic clock: it is the wall's clocks
	// that are compared.
	e.T = now - event.Mono(wall.Round(0).Sub(e.Wall))
	return e
}

// Subscription has the events that came since it was made, in their order. None
// is lost: they wait until they are taken.
type Subscription struct {
	client *Client
	names  []string

	mu    sync.Mutex
	queue []Event
	ended bool
	more  chan struct{} // has room for one: something is new
}

// Subscribe begins to listen to events of these names; none: to all.
func (c *Client) Subscribe(names ...string) *Subscription {
	s := &Subscription{client: c, names: names, more: make(chan struct{}, 1)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		s.ended = true
		return s
	}
	c.heard[s] = struct{}{}
	return s
}

// Close ends it.
func (s *Subscription) Close() {
	s.client.mu.Lock()
	delete(s.client.heard, s)
	s.client.mu.Unlock()
	s.end()
}

func (s *Subscription) put(e Event) {
	if len(s.names) > 0 && !slices.Contains(s.names, e.Name) {
		return
	}
	s.mu.Lock()
	s.queue = append(s.queue, e)
	s.mu.Unlock()
	s.wake()
}

func (s *Subscription) end() {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.wake()
}

func (s *Subscription) wake() {
	select {
	case s.more <- struct{}{}:
	default:
	}
}

// take takes the first that waits. over: there will never be another one.
func (s *Subscription) take() (e Event, ok, over bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		return e, false, s.ended
	}
	e = s.queue[0]
	s.queue = s.queue[1:]
	return e, true, false
}

// Try takes the next event if there is one now. What QEMU said before its answer
// to a command is there when Execute returns.
func (s *Subscription) Try() (e Event, ok bool) {
	e, ok, _ = s.take()
	return e, ok
}

// Next waits for the next event. It is for one goroutine at a time.
func (s *Subscription) Next(ctx context.Context) (Event, error) {
	for {
		e, ok, over := s.take()
		if ok {
			return e, nil
		}
		var err error
		if over {
			s.wake() // the next one who asks is told, too
			if err = s.client.Err(); err == nil {
				err = ErrClosed
			}
		} else {
			select {
			case <-s.more:
				continue
			case <-ctx.Done():
				err = context.Cause(ctx)
			}
		}
		return Event{}, fmt.Errorf("QMP %s: wait for event %v: %w", s.client.name, s.names, err)
	}
}
