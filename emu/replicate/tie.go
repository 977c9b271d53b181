package replicate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/migrate/wire"
)

// tie is one session as an end uses it: several goroutines send.
type tie struct {
	wire.Session
	mu  sync.Mutex
	zip *zstd.Encoder
	un  *zstd.Decoder
	buf []byte
	out []byte
}

func newTie(s wire.Session) (*tie, error) {
	zip, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithWindowSize(2*partSize))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	un, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	return &tie{Session: s, zip: zip, un: un}, nil
}

// close gives the session up. The session takes its time where it has no
// connection, which nobody waits for but the end of this end.
func (t *tie) close(closing *sync.WaitGroup) {
	closing.Go(func() { _ = t.Close() })
	_ = t.zip.Close()
	t.un.Close()
}

// rest keeps an end that finds no session from asking for one all the time.
func rest(ctx context.Context) {
	timer := time.NewTimer(connectRest)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

const connectRest = 10 * time.Millisecond

// tell sends a message.
func (t *tie) tell(ctx context.Context, ty wire.Type, payload []byte) error {
	if ctx.Err() != nil { // a message that has room would be sent all the same
		return fmt.Errorf("send %q: %w", messageName(ty), context.Cause(ctx))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.Send(ctx, ty, payload); err != nil {
		return fmt.Errorf("send %q: %w", messageName(ty), err)
	}
	return nil
}

// pack sends a message compressed. It is for one goroutine.
func (t *tie) pack(ctx context.Context, ty wire.Type, payload []byte) error {
	t.out = t.zip.EncodeAll(payload, t.out[:0])
	return t.tell(ctx, ty, t.out)
}

// unpack gives what was packed, until the next call.
func (t *tie) unpack(payload []byte) ([]byte, error) {
	var err error
	if t.buf, err = t.un.DecodeAll(payload, t.buf[:0]); err != nil {
		return nil, fmt.Errorf("expand %d bytes: %w", len(payload), err)
	}
	return t.buf, nil
}

// next is what the other end says next, signs of life left out.
func (t *tie) next(ctx context.Context) (wire.Message, error) {
	for {
		m, err := t.Receive(ctx)
		switch {
		case errors.Is(err, io.EOF):
			return m, errors.New("the other end has closed the session")
		case err != nil:
			return m, err
		case m.Type == msgFailed:
			return m, failedError(m.Payload)
		case m.Type != msgBeat:
			return m, nil
		}
	}
}

// expect is the next message, which must be of that type.
func (t *tie) expect(ctx context.Context, ty wire.Type) ([]byte, error) {
	m, err := t.next(ctx)
	if err == nil && m.Type != ty {
		err = fmt.Errorf("it sent %q", messageName(m.Type))
	}
	if err != nil {
		return nil, fmt.Errorf("waiting for %q of the other end: %w", messageName(ty), err)
	}
	return m.Payload, nil
}

// failedError is what the standby says that has gone wrong there.
type failedError string

func (e failedError) Error() string { return "the standby: " + string(e) }

// watch looks whether the other end lives, and has this end give signs of life.
// Bytes are such signs, whatever they belong to: a long message on a slow
// link is many.
type watch struct {
	silence time.Duration
	tell    *Tell
	silent  func() // called once each time that the other end falls silent
	now     atomic.Pointer[tie]
	heard   atomic.Int64 // Mono
}

// on has a session be the one to look at.
func (w *watch) on(t *tie) { w.now.Store(t) }

// run looks until ctx ends. Time in which this end did not run itself is not
// taken for the other's silence.
func (w *watch) run(ctx context.Context) {
	every := max(time.Millisecond, w.silence/looks)
	tick := time.NewTicker(every)
	defer tick.Stop()
	w.heard.Store(int64(event.Now()))
	var (
		t       *tie
		in, out int64
		mute    time.Duration
		last    = event.Now()
		beating atomic.Bool
		beats   sync.WaitGroup
	)
	defer beats.Wait()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now := event.Now()
		passed := min(now.Sub(last), 2*every)
		last = now
		before := mute
		mute += passed
		if next := w.now.Load(); next != t {
			t, in, out = next, -1, -1
		}
		if t != nil {
			stats := t.Stats()
			if stats.In != in {
				in, mute = stats.In, 0
				w.heard.Store(int64(now))
				if w.tell.Heard != nil {
					w.tell.Heard(now)
				}
			}
			if stats.Out == out && beating.CompareAndSwap(false, true) {
				beats.Add(1)
				go func(t *tie) { // the window may be full
					defer beats.Done()
					defer beating.Store(false)
					_ = t.tell(ctx, msgBeat, nil) // a session that has ended tells others
				}(t)
			}
			out = t.Stats().Out
		}
		if before < w.silence && mute >= w.silence {
			if w.tell.Silent != nil {
				w.tell.Silent(event.Mono(w.heard.Load()))
			}
			w.silent()
		}
	}
}
