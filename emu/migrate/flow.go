package migrate

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/migrate/codec"
	"github.com/vpclab/vpclab/emu/migrate/wire"
)

// belt is what batches of pages are put on: the WAN, or in a test a model of it
// on a clock of its own.
type belt interface {
	now() event.Mono
	// room waits until another batch should be put on.
	room(ctx context.Context) error
	// put encodes a batch and sends it; n is how many bytes it came to.
	put(ctx context.Context, pages []uint32, data []byte) (n int, err error)
	// mark tells the target that a round has ended.
	mark(ctx context.Context, round int) error
	// settle waits until nothing is on the way that a pause would have to wait for.
	settle(ctx context.Context) error
	// idle lets time pass.
	idle(ctx context.Context, d time.Duration) error
	// rate is what the belt carries, in bytes a second, and trip how long an
	// empty belt takes to deliver a batch and say so; 0: not known yet.
	rate() float64
	trip() time.Duration
	// batch is how many pages should be put on at a time.
	batch() int
	// sent is how many bytes have been handed to TCP.
	sent() int64
}

const (
	batchMin    = 32  // pages
	batchMax    = 256 // pages
	batchTime   = 8 * time.Millisecond
	underwayMin = 128 << 10 // bytes
	underwayMax = 8 << 20
	placeIn     = 60 * time.Second // for the target to place anything at all
)

// flow is the belt over a session. It keeps no more on the way than fills the
// link: twice what the link delivers in the time that an empty link takes (as
// TCP's BBR does). A longer queue would carry pages that have grown old in it,
// and the VM would stand while it drains. The target says of each batch when it
// has been placed.
type flow struct {
	bulk wire.Session
	enc  codec.Encoder
	buf  []byte

	gain        float64 // how many times what fills the link may be on the way
	sentBatches uint64
	last        int // bytes of the last batch
	lastPages   int
	waitedFor   time.Duration // in room
	putAt       event.Mono    // when the last batch was put on
	waitedAt    time.Duration // waits until then
	press       float64
	spare       *Spare
	least       float64 // of the processor that is taken to be spare

	mu        sync.Mutex
	way       []underway // what is not placed, oldest first
	bytes     int        // of them
	placed    uint64     // batches
	delivered int64      // bytes
	at        event.Mono // when the last was
	rates     [8]float64 // of the last deliveries
	n         int
	shortest  time.Duration
	news      chan struct{} // holds one when placed has grown
	broken    error
}

// underway is a batch that is not placed yet.
type underway struct {
	bytes     int
	at        event.Mono // put on
	delivered int64      // in all, when it was put on
	from      event.Mono // when that was so
}

func newFlow(bulk wire.Session, enc codec.Encoder) *flow {
	return &flow{bulk: bulk, enc: enc, gain: 2, spare: NewSpare(), news: make(chan struct{}, 1)}
}

func (f *flow) now() event.Mono { return event.Now() }

// arrived notes that the target has placed so many batches.
func (f *flow) arrived(placed uint64) error {
	now := event.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	if placed < f.placed || placed > f.placed+uint64(len(f.way)) {
		return fmt.Errorf("the target says that it placed %d batches, of %d", placed, f.placed+uint64(len(f.way)))
	}
	for ; f.placed < placed; f.placed++ {
		u := f.way[0]
		f.way = f.way[1:]
		f.bytes -= u.bytes
		f.delivered += int64(u.bytes)
		if trip := now.Sub(u.at); f.shortest == 0 || trip < f.shortest {
			f.shortest = trip
		} else {
			f.shortest += (trip - f.shortest) / 256 // a way that has become longer is noticed in time
		}
		if d := now.Sub(u.from); d > 0 {
			f.rates[f.n%len(f.rates)] = float64(f.delivered-u.delivered) / d.Seconds()
			f.n++
		}
		f.at = now
	}
	f.tell()
	return nil
}

// fail ends all waits.
func (f *flow) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken == nil {
		f.broken = err
	}
	f.tell()
}

// cause is why the flow has failed.
func (f *flow) cause() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.broken
}

func (f *flow) tell() {
	select {
	case f.news <- struct{}{}:
	default:
	}
}

func (f *flow) rate() float64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.best()
}

// best is the highest of the last rates: a delivery that was late says nothing
// about the link.
func (f *flow) best() float64 {
	best := 0.0
	for _, r := range f.rates[:min(f.n, len(f.rates))] {
		best = max(best, r)
	}
	return best
}

func (f *flow) trip() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.shortest
}

// limit is how many bytes may be on the way; the caller holds the lock.
func (f *flow) limit() int {
	if f.n == 0 {
		return 4 * underwayMin
	}
	fill := f.gain * f.best() * f.shortest.Seconds()
	return min(max(int(fill), underwayMin, 2*f.last), underwayMax)
}

// until waits while busy says so; busy is called with the lock.
func (f *flow) until(ctx context.Context, what string, busy func() bool) error {
	var timer *time.Timer
	for {
		f.mu.Lock()
		wait, err := busy(), f.broken
		f.mu.Unlock()
		if err != nil {
			return err
		}
		if !wait {
			return nil
		}
		if timer == nil {
			timer = time.NewTimer(placeIn)
			defer timer.Stop()
		}
		select {
		case <-f.news:
			timer.Reset(placeIn)
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, context.Cause(ctx))
		case <-timer.C:
			return fmt.Errorf("%s: nothing was placed in %v", what, placeIn)
		}
	}
}

func (f *flow) room(ctx context.Context) error {
	began := event.Mono(0)
	err := f.until(ctx, "waiting for the target to place a batch", func() bool {
		if f.bytes == 0 || f.bytes+f.last <= f.limit() {
			return false
		}
		if began == 0 {
			began = event.Now()
		}
		return true
	})
	if began != 0 {
		f.waitedFor += event.Now().Sub(began)
	}
	return err
}

func (f *flow) put(ctx context.Context, pages []uint32, data []byte) (int, error) {
	f.buf = f.enc.Encode(f.buf[:0], pages, data)
	now := event.Now()
	f.pressure(now)
	return len(f.buf), f.ship(ctx, now, msgPages, f.buf, len(pages))
}

// ship sends a batch of pages, which is on the way until it is placed.
func (f *flow) ship(ctx context.Context, now event.Mono, t wire.Type, batch []byte, pages int) error {
	f.last, f.lastPages = len(batch), pages
	f.mu.Lock()
	from := f.at
	if len(f.way) == 0 {
		from = now // the link stood: only what comes from now on is its rate
	}
	f.way = append(f.way, underway{bytes: len(batch), at: now, delivered: f.delivered, from: from})
	f.bytes += len(batch)
	f.mu.Unlock()
	f.sentBatches++
	if err := f.bulk.Send(ctx, t, batch); err != nil {
		return fmt.Errorf("send batch %d: %w", f.sentBatches, err)
	}
	return nil
}

func (f *flow) mark(ctx context.Context, round int) error {
	if err := f.bulk.Send(ctx, msgRound, u32(round)); err != nil {
		return fmt.Errorf("send the end of round %d: %w", round, err)
	}
	return nil
}

// pressure tells the encoder which share of the time since the batch before
// this one was spent waiting for the link: time that it could have had, as far
// as the processor had nothing else to do.
func (f *flow) pressure(now event.Mono) {
	waited := f.waitedFor + f.bulk.Waiting()
	if f.putAt != 0 {
		if took := now.Sub(f.putAt); took > 0 {
			share := min(1, float64(waited-f.waitedAt)/float64(took))
			f.press += (share - f.press) / 8
			f.enc.Pressure(min(f.press, max(f.least, f.spare.Share(now))))
		}
	}
	f.putAt, f.waitedAt = now, waited
}

// settle waits until all is placed: what is on the way when the VM pauses would
// be waited for while it stands.
func (f *flow) settle(ctx context.Context) error {
	return f.until(ctx, "waiting for the target to place all", func() bool { return f.bytes > 0 })
}

func (f *flow) idle(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// batch is so many pages as the link takes a few milliseconds for.
func (f *flow) batch() int {
	rate := f.rate()
	if f.lastPages == 0 || rate == 0 || f.last == 0 {
		return 64
	}
	perPage := float64(f.last) / float64(f.lastPages)
	return min(max(int(rate*batchTime.Seconds()/perPage), batchMin), batchMax)
}

func (f *flow) sent() int64 { return f.bulk.Stats().Out }
