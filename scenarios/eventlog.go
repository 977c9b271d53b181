package scenarios

import (
	"context"
	"slices"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/metrics"
)

// eventLog reads the lab's events as they come and keeps them.
type eventLog struct {
	sub  *lab.Subscription
	seen []event.Event
}

// until waits for an event, one that was seen included.
func (l *eventLog) until(ctx context.Context, found func(event.Event) bool) (event.Mono, error) {
	for i := 0; ; i++ {
		if i == len(l.seen) {
			l.sub.Refill()
			select {
			case e := <-l.sub.C:
				l.seen = append(l.seen, e)
			case <-ctx.Done():
				return 0, context.Cause(ctx)
			}
		}
		if found(l.seen[i]) {
			return l.seen[i].T, nil
		}
	}
}

// drain takes what has come.
func (l *eventLog) drain() []event.Event {
	for {
		select {
		case e := <-l.sub.C:
			l.seen = append(l.seen, e)
		default:
			if !l.sub.Refill() {
				return l.seen
			}
		}
	}
}

func (l *eventLog) has(found func(event.Event) bool) bool {
	return slices.ContainsFunc(l.drain(), found)
}

// first is when the first event of a kind was, between two moments.
func (l *eventLog) first(kind string, from, to event.Mono) (at event.Mono, ok bool) {
	for _, e := range l.drain() {
		if e.Kind == kind && e.T >= from && e.T <= to && (!ok || e.T < at) {
			at, ok = e.T, true
		}
	}
	return at, ok
}

// keep stores all of them.
func (l *eventLog) keep(t *metrics.Trial) error {
	var died error
	for _, e := range l.drain() {
		t.Event(e)
	}
	return died
}
