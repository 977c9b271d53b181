package migrate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vpclab/vpclab/emu/migrate/codec"
	"github.com/vpclab/vpclab/emu/migrate/wire"
)

// Link is one end of a migration's sessions.
type Link struct {
	Bulk   wire.Session // all but what is urgent
	Urgent wire.Session // pages that a VM stands at; only where Options.Urgent says so
	// Again opens both anew when they have ended after the VM was given to the
	// target and before all was done; the old ones are closed then. nil: SendRest
	// and ReceiveRest do the rest later.
	Again func(ctx context.Context) (Link, error)
}

// Urgent tells whether the algorithm needs the urgent session.
func (o *Options) Urgent() bool { return o.Algorithm == PostCopy || o.Algorithm == Hybrid }

// againMost bounds how often sessions are replaced in one migration.
const againMost = 16

// carriesOn tells whether other sessions may help against an error.
func carriesOn(ctx context.Context, err error) bool {
	var differs *DiffersError
	var step *StepError
	var told peerError
	return ctx.Err() == nil && !errors.As(err, &differs) && !errors.As(err, &step) && !errors.As(err, &told)
}

// peerError is what the target says that has gone wrong there.
type peerError string

func (e peerError) Error() string { return "the target: " + string(e) }

func (l Link) sessions() (all []wire.Session) {
	for _, s := range []wire.Session{l.Bulk, l.Urgent} {
		if s != nil {
			all = append(all, s)
		}
	}
	return all
}

// shut closes the sessions.
func (l Link) shut() {
	for _, s := range l.sessions() {
		_ = s.Close() // it is given up
	}
}

// carried is how many bytes went out and came in, and how often a session had
// to reconnect.
func (l Link) carried() (out, in int64, reconnects int) {
	for _, s := range l.sessions() {
		stats := s.Stats()
		out, in, reconnects = out+stats.Out, in+stats.In, reconnects+stats.Reconnects
	}
	return out, in, reconnects
}

// line is what the source says to the target and hears of it by one link.
type line struct {
	bulk  wire.Session
	flow  *flow
	inbox chan message
	stop  func() // ends listening
}

// message is a copy of what came.
type message struct {
	wire.Type
	payload []byte
}

// newLine begins to listen; stop must be called.
func newLine(ctx context.Context, link Link, enc codec.Encoder) *line {
	l := &line{bulk: link.Bulk, flow: newFlow(link.Bulk, enc), inbox: make(chan message, 16)}
	ctx, cancel := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.listen(ctx)
	}()
	l.stop = func() {
		cancel(errors.New("the migration has ended"))
		<-ended
		l.flow.spare.Close()
	}
	return l
}

// listen sorts what the target says until the session or the line ends.
func (l *line) listen(ctx context.Context) {
	defer close(l.inbox)
	for {
		m, err := l.bulk.Receive(ctx)
		if err != nil {
			l.flow.fail(fmt.Errorf("receive from the target: %w", err))
			return
		}
		switch m.Type {
		case msgPlaced:
			n, err := parseU64(m.Payload)
			if err == nil {
				err = l.flow.arrived(n)
			}
			if err != nil {
				l.flow.fail(err)
				return
			}
			continue
		case msgFailed:
			l.flow.fail(peerError(m.Payload))
		}
		select {
		case l.inbox <- message{m.Type, append([]byte{}, m.Payload...)}:
		case <-ctx.Done():
			return
		}
	}
}

// await waits for the target's next message.
func (l *line) await(ctx context.Context, what string, within time.Duration) (message, error) {
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case m, ok := <-l.inbox:
		return m, l.whole(m, ok, what)
	case <-timer.C:
		return message{}, fmt.Errorf("waiting for %q of the target: nothing in %v", what, within)
	case <-ctx.Done():
		return message{}, fmt.Errorf("waiting for %q of the target: %w", what, context.Cause(ctx))
	}
}

// expect waits for the target's next message, which must be of type t.
func (l *line) expect(ctx context.Context, t wire.Type, within time.Duration) ([]byte, error) {
	m, err := l.await(ctx, messageName(t), within)
	if err == nil && m.Type != t {
		err = fmt.Errorf("waiting for %q: the target sent %q", messageName(t), messageName(m.Type))
	}
	return m.payload, err
}

// heard is await without waiting; nil: nothing has come.
func (l *line) heard() (*message, error) {
	select {
	case m, ok := <-l.inbox:
		return &m, l.whole(m, ok, "the target")
	default:
		return nil, nil
	}
}

// whole tells whether there is a message, and not the end of them.
func (l *line) whole(m message, ok bool, what string) error {
	switch {
	case !ok:
		return fmt.Errorf("waiting for %q: %w", what, l.flow.cause())
	case m.Type == msgFailed:
		return peerError(m.payload)
	}
	return nil
}

// tell sends a message of control.
func (l *line) tell(ctx context.Context, t wire.Type, payload []byte) error {
	if ctx.Err() != nil { // a message that has room would be sent all the same
		return fmt.Errorf("send %q: %w", messageName(t), context.Cause(ctx))
	}
	if err := l.bulk.Send(ctx, t, payload); err != nil {
		return fmt.Errorf("send %q: %w", messageName(t), err)
	}
	return nil
}
