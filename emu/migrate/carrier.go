package migrate

import (
	"context"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/migrate/codec"
	"github.com/vpclab/vpclab/emu/migrate/wire"
)

// Carrier is the belt of a migration for others who send batches of pages by a
// session, and of whom the other end says how many it has placed: no more is on
// the way than fills the link, and the encoder is told how busy that is. All but
// Placed and Fail are for one goroutine.
type Carrier struct{ flow *flow }

// NewCarrier is for a session that carries nothing else of size.
// Least is how much of the time that it waits its encoder may have even where
// nobody leaves a processor idle; see codec.Encoder.Pressure.
func NewCarrier(s wire.Session, least float64) Carrier {
	f := newFlow(s, nil)
	f.least = least
	return Carrier{f}
}

// Close ends it; the session stays.
func (c Carrier) Close() { c.flow.spare.Close() }

// Tell names the encoder that is to hear of the link.
func (c Carrier) Tell(enc codec.Encoder) { c.flow.enc = enc }

// Room waits until another batch should be made.
func (c Carrier) Room(ctx context.Context) error { return c.flow.room(ctx) }

// Put sends a batch of so many pages as a message of type t.
func (c Carrier) Put(ctx context.Context, t wire.Type, batch []byte, pages int) error {
	now := event.Now()
	if c.flow.enc != nil {
		c.flow.pressure(now)
	}
	return c.flow.ship(ctx, now, t, batch, pages)
}

// Placed notes that the other end has placed so many batches in all.
func (c Carrier) Placed(n uint64) error { return c.flow.arrived(n) }

// Fail ends all waits.
func (c Carrier) Fail(err error) { c.flow.fail(err) }

// Batch is how many pages should be in a batch.
func (c Carrier) Batch() int { return c.flow.batch() }

// Idled adds time in which there was nothing to encode: it, too, could have been
// used to compress harder.
func (c Carrier) Idled(d time.Duration) { c.flow.waitedFor += d }

// Waited is how long Room has waited, and the session for the link to take what
// was put; and what was told to Idled.
func (c Carrier) Waited() time.Duration { return c.flow.waitedFor + c.flow.bulk.Waiting() }
