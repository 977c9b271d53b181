package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

const (
	defaultWindow   = 8 << 20
	defaultMaxFrame = 4 << 20
	defaultPatience = 15 * time.Second
	// closeGrace bounds how long Close waits for the connection to take what is
	// queued and for the other end to say that it knows.
	closeGrace = 5 * time.Second
	// pulses is into how many parts Patience is divided: an end that has sent
	// nothing for one of them says so.
	pulses = 8
	// confirmParts is into how many parts the window is divided: so much is taken
	// before it is confirmed unasked.
	confirmParts = 16
)

// withDefaults fills in what the caller left out.
func (c Config) withDefaults() Config {
	if c.Window <= 0 {
		c.Window = defaultWindow
	}
	if c.MaxFrame <= 0 {
		c.MaxFrame = defaultMaxFrame
	}
	if c.Patience <= 0 {
		c.Patience = defaultPatience
	}
	if c.Backlog <= 0 {
		c.Backlog = defaultBacklog
	}
	if c.Unsent <= 0 {
		c.Unsent = defaultUnsent
	}
	return c
}

// session is both ends' Session. One goroutine (run) owns its connection: it
// writes in another (write), reads itself (read), and finds the next connection
// when one breaks. Callers meet them at the fields below.
type session struct {
	cfg  Config
	self uint64
	// reconnect finds the next connection after one broke, within Patience.
	reconnect func(cause error) (*link, error)
	offers    chan offer // of the Listener

	mu       sync.Mutex
	link     *link  // that carries the session now; nil: none
	other    uint64 // the other end's self; 0: not known yet
	attempt  uint64 // the last connection's number
	window   int    // agreed
	maxFrame int    // agreed

	out       ring
	sent      uint64 // number of the last message queued
	confirmed uint64 // of the last that the other end has confirmed: out.tail is behind it
	handed    uint64 // position in out: given to the connection
	written   uint64 // taken by it
	tried     uint64 // taken by any, where the last one broke in the middle of a write
	asking    bool   // a Flush waits: the other end is to be asked

	queue        []message // that have come and that Receive has not given out
	last         *chunk    // of the message that Receive gave out last
	received     uint64    // number of the last that has come
	taken        uint64    // of the last that Receive gave out
	told         uint64    // of the last confirmed to the other end
	wanted       uint64    // up to where the other end asks for confirmation
	inBytes      uint64    // of the frames up to received, taken and told
	takenBytes   uint64
	toldBytes    uint64
	confirmDue   bool
	pulseDue     bool
	chunks       []*chunk // free
	leaving      bool     // no more connections; the end is to be said where there is one
	saidEnd      bool
	heardEnd     bool
	why          string // said with the end
	err          error  // why callers get nothing any more
	dead         chan struct{}
	gone         chan struct{} // closed when run has ended
	space        chan struct{} // wakes Send
	arrived      chan struct{} // wakes Receive
	flushed      chan struct{} // wakes Flush
	waiting      atomic.Int64
	wrote, heard atomic.Int64
	resent       atomic.Int64
	reconnects   atomic.Int64
}

// message that has come; its payload lies in a chunk.
type message struct {
	Message
	number uint64
	in     *chunk
}

func newSession(cfg Config) *session {
	cfg = cfg.withDefaults()
	s := &session{
		cfg: cfg, self: rand.Uint64() | 1, offers: make(chan offer, 1),
		dead: make(chan struct{}), gone: make(chan struct{}),
		space: make(chan struct{}, 1), arrived: make(chan struct{}, 1), flushed: make(chan struct{}, 1),
	}
	s.agree(uint32(cfg.Window), uint32(cfg.MaxFrame))
	return s
}

// agree sets the window and the largest message that both ends take. Two of the
// largest always fit into the window, so that one can be sent while the
// confirmation of a few small ones is held back.
func (s *session) agree(window, maxFrame uint32) {
	s.maxFrame = int(min(uint32(s.cfg.MaxFrame), maxFrame))
	s.window = max(int(min(uint32(s.cfg.Window), window)), 2*(s.maxFrame+headerSize))
	s.out.limit = s.window
}

// signal wakes the one that waits at a channel of capacity 1, now or next time.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run carries the session from connection to connection until it is over.
func (s *session) run(l *link) {
	defer close(s.gone)
	defer s.drop()
	pulse := time.NewTicker(max(time.Millisecond, s.cfg.Patience/pulses))
	defer pulse.Stop()
	go s.watch(pulse.C)
	for {
		err := s.carry(l)
		s.mu.Lock()
		over := s.leaving
		s.mu.Unlock()
		if over {
			return
		}
		if l, err = s.reconnect(err); err != nil {
			s.fail(err)
			return
		}
		s.reconnects.Add(1)
	}
}

// drop closes a connection that was offered and that nobody takes any more; the
// session has ended, so there will be no other.
func (s *session) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case o := <-s.offers:
		o.drop()
	default:
	}
}

// watch keeps the connection from being silent, and gives up one that is.
func (s *session) watch(pulse <-chan time.Time) {
	var link *link
	var wrote, heard int64
	silent := 0
	for {
		select {
		case <-s.gone:
			return
		case <-pulse:
		}
		s.mu.Lock()
		l := s.link
		if l == nil {
			s.mu.Unlock()
			continue
		}
		if n := s.wrote.Load(); n == wrote {
			s.pulseDue = true
			signal(l.kick)
		} else {
			wrote = n
		}
		s.mu.Unlock()
		if n := s.heard.Load(); n != heard || l != link {
			heard, link, silent = n, l, 0
		} else if silent++; silent >= pulses {
			l.cut(fmt.Errorf("%w: %v", ErrSilent, s.cfg.Patience))
		}
	}
}

// fail ends the session for its callers, for the first reason given.
func (s *session) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failLocked(err)
}

func (s *session) failLocked(err error) {
	if s.err == nil {
		s.err = err
		close(s.dead)
	}
	s.leaving = true
}

func (s *session) Send(ctx context.Context, t Type, payload []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(payload) > s.maxFrame {
		return fmt.Errorf("send a message of type %d: %w: it has %d bytes, the ends take %d", t, ErrTooLarge, len(payload), s.maxFrame)
	}
	if err := s.awaitSpace(ctx, headerSize+len(payload)); err != nil {
		return fmt.Errorf("send a message of type %d: %w", t, err)
	}
	s.sent++
	h := header{kind: kindData, typ: t, length: len(payload), number: s.sent, sum: checksum(payload)}.encode()
	s.out.put(h[:])
	s.out.put(payload)
	if l := s.link; l != nil && l.idle {
		// The writer is to run before the caller makes the next message: where
		// there is one processor the link would stand still meanwhile.
		l.idle = false
		signal(l.kick)
		s.mu.Unlock()
		runtime.Gosched()
		s.mu.Lock()
	}
	return nil
}

// awaitSpace waits until the connection has taken most of what was sent, and
// the window has room for n bytes more. It holds s.mu on entry and return.
func (s *session) awaitSpace(ctx context.Context, n int) error {
	var began time.Time
	for {
		if s.err != nil {
			return s.sendErr()
		}
		if s.out.head-s.written < uint64(s.cfg.Backlog) && s.out.room(n) {
			break
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		s.mu.Unlock()
		if began.IsZero() {
			began = time.Now()
		}
		select {
		case <-s.space:
		case <-ctx.Done():
		case <-s.dead:
		}
		s.mu.Lock()
	}
	if !began.IsZero() {
		s.waiting.Add(int64(time.Since(began)))
	}
	return nil
}

// sendErr is what ended the session, as a sender is told it.
func (s *session) sendErr() error {
	if s.err == io.EOF {
		return &EndedError{"it has closed it"}
	}
	return s.err
}

func (s *session) Flush(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	until := s.sent
	defer func() { s.asking = false }()
	for s.confirmed < until {
		if s.err != nil {
			return fmt.Errorf("wait until message %d is confirmed: %w", until, s.sendErr())
		}
		if ctx.Err() != nil {
			return fmt.Errorf("wait until message %d is confirmed: %w", until, context.Cause(ctx))
		}
		s.asking = true
		if s.link != nil && s.link.asked < until {
			signal(s.link.kick)
		}
		s.mu.Unlock()
		select {
		case <-s.flushed:
		case <-ctx.Done():
		case <-s.dead:
		}
		s.mu.Lock()
	}
	return nil
}

func (s *session) Receive(ctx context.Context) (Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.release(s.last)
	s.last = nil
	for len(s.queue) == 0 {
		if s.err != nil {
			if s.err == io.EOF {
				return Message{}, io.EOF
			}
			return Message{}, fmt.Errorf("receive: %w", s.err)
		}
		if ctx.Err() != nil {
			return Message{}, fmt.Errorf("receive: %w", context.Cause(ctx))
		}
		s.mu.Unlock()
		select {
		case <-s.arrived:
		case <-ctx.Done():
		case <-s.dead:
		}
		s.mu.Lock()
	}
	m := s.queue[0]
	s.queue[0] = message{}
	if s.queue = s.queue[1:]; len(s.queue) == 0 {
		s.queue = nil
	}
	s.last, s.taken = m.in, m.number
	s.takenBytes += uint64(headerSize + len(m.Payload))
	if s.takenBytes-s.toldBytes >= uint64(s.window/confirmParts) || s.wanted > s.told && s.taken >= s.wanted {
		s.confirmDue = true
		if s.link != nil {
			signal(s.link.kick)
		}
	}
	return m.Message, nil
}

func (s *session) Waiting() time.Duration { return time.Duration(s.waiting.Load()) }

func (s *session) Stats() Stats {
	return Stats{
		Out: s.wrote.Load(), In: s.heard.Load(), Resent: s.resent.Load(),
		Reconnects: int(s.reconnects.Load()),
	}
}

// Close ends the session: the other end receives what was sent, where the
// connection carries it at once, and then io.EOF. Whoever must know that all
// has arrived calls Flush before.
func (s *session) Close() error {
	s.mu.Lock()
	s.failLocked(ErrClosed)
	if s.link != nil {
		signal(s.link.kick)
	}
	s.mu.Unlock()
	grace := time.NewTimer(min(closeGrace, s.cfg.Patience))
	defer grace.Stop()
	select {
	case <-s.gone:
		return nil
	case <-grace.C:
	}
	s.mu.Lock()
	l := s.link
	s.mu.Unlock()
	if l != nil {
		l.cut(ErrClosed)
	}
	<-s.gone
	return nil
}

// permanent says that another connection would not help.
func permanent(err error) bool {
	var v *VersionError
	var bad *ViolationError
	return errors.As(err, &v) || errors.As(err, &bad) || errors.Is(err, ErrStranger) || errors.Is(err, ErrForgotten)
}
