package wire

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// mostGreetings bounds the connections whose hello has not come yet.
const mostGreetings = 64

// Listener takes the connections of one migration, and gives each to the
// session that it belongs to: also those by which a session goes on after one
// broke, so it stays open as long as its sessions.
type Listener struct {
	cfg Config
	l   net.Listener

	mu       sync.Mutex
	sessions map[uint8]*session
	early    map[uint8]offer // channels that nobody has accepted yet
	refused  error           // why a connection was last turned away
	tokens   chan struct{}
	closed   chan struct{}
	once     sync.Once
	wg       sync.WaitGroup
}

// offer is a connection that the other end has opened for a session.
type offer struct {
	conn  net.Conn
	hello hello
	err   error // instead: why there can be none
}

// drop closes the connection of an offer that nobody takes, if it has one.
func (o offer) drop() {
	if o.conn != nil {
		_ = o.conn.Close()
	}
}

// Listen takes connections from l for the migration cfg.ID. The Channel of cfg
// does not count.
func Listen(l net.Listener, cfg Config) *Listener {
	ln := &Listener{
		cfg: cfg.withDefaults(), l: l, sessions: map[uint8]*session{}, early: map[uint8]offer{},
		tokens: make(chan struct{}, mostGreetings), closed: make(chan struct{}),
	}
	ln.wg.Add(1)
	go ln.serve()
	return ln
}

// Addr is where it listens.
func (l *Listener) Addr() net.Addr { return l.l.Addr() }

// Close ends listening. Sessions that are open go on, without getting another
// connection.
func (l *Listener) Close() error {
	err := l.l.Close()
	l.once.Do(func() { close(l.closed) })
	l.mu.Lock()
	for ch, o := range l.early {
		o.drop()
		delete(l.early, ch)
	}
	l.mu.Unlock()
	l.wg.Wait()
	return err
}

// serve accepts connections until the listener is closed.
func (l *Listener) serve() {
	defer l.wg.Done()
	rest := firstRest
	for {
		conn, err := l.l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of descriptors or the like: it may pass.
			l.note(fmt.Errorf("accept: %w", err))
			timer := time.NewTimer(rest)
			select {
			case <-timer.C:
			case <-l.closed:
				timer.Stop()
				return
			}
			rest = min(2*rest, longestRest)
			continue
		}
		rest = firstRest
		select {
		case l.tokens <- struct{}{}:
			l.wg.Add(1)
			go l.greet(conn)
		default:
			l.note(fmt.Errorf("%v: more than %d connections without a hello", conn.RemoteAddr(), mostGreetings))
			_ = conn.Close() // a stranger
		}
	}
}

func (l *Listener) note(err error) {
	l.mu.Lock()
	l.refused = err
	l.mu.Unlock()
}

// greet reads the hello of a new connection and finds its session.
func (l *Listener) greet(conn net.Conn) {
	defer l.wg.Done()
	defer func() { <-l.tokens }()
	heard := make(chan struct{})
	go func() {
		select {
		case <-l.closed:
			_ = conn.Close() // ends the wait for the hello
		case <-heard:
		}
	}()
	_ = conn.SetDeadline(time.Now().Add(l.cfg.Patience)) // a connection without deadlines fails at its first use
	h, err := readHello(conn)
	close(heard)
	if err != nil {
		l.note(fmt.Errorf("%v: %w", conn.RemoteAddr(), err))
		_ = conn.Close()
		return
	}
	known := subtle.ConstantTimeCompare(h.id[:], l.cfg.ID[:]) == 1
	switch {
	case h.version != Version:
		err := &VersionError{Version, h.version}
		l.note(fmt.Errorf("%v: %w", conn.RemoteAddr(), err))
		turnAway(conn, h, noVersion)
		if known {
			l.give(offer{hello: h, err: err})
		}
	case !known:
		l.note(fmt.Errorf("%v: %w", conn.RemoteAddr(), ErrStranger))
		turnAway(conn, h, stranger)
	default:
		l.give(offer{conn: conn, hello: h})
	}
}

// turnAway answers a hello with a verdict, and closes.
func turnAway(conn net.Conn, h hello, v verdict) {
	h.version, h.verdict = Version, v
	h.self, h.other, h.received = 0, h.self, 0
	_, _ = conn.Write(h.encode()) // it is told if it can be
	_ = conn.Close()
}

// give passes an offer to its session, or keeps it until that is accepted.
func (l *Listener) give(o offer) {
	l.mu.Lock()
	s := l.sessions[o.hello.channel]
	if s == nil {
		before := l.early[o.hello.channel]
		before.drop() // the other end has opened a newer one
		l.early[o.hello.channel] = o
		select {
		case <-l.closed:
			o.drop()
		default:
		}
	}
	l.mu.Unlock()
	if s != nil {
		s.offer(o)
	}
}

// Accept waits for the session of a channel; ctx is for that alone.
func (l *Listener) Accept(ctx context.Context, channel uint8) (Session, error) {
	cfg := l.cfg
	cfg.Channel, cfg.Dial = channel, nil
	s := newSession(cfg)
	l.mu.Lock()
	if before := l.sessions[channel]; before != nil && !before.over() {
		l.mu.Unlock()
		return nil, fmt.Errorf("accept channel %d of migration %x: it is open", channel, cfg.ID)
	}
	l.sessions[channel] = s
	early, is := l.early[channel]
	delete(l.early, channel)
	l.mu.Unlock()
	if is {
		s.offer(early)
	}
	first, err := s.accept(ctx, l.closed)
	if err != nil {
		s.fail(err)
		s.drop()
		l.mu.Lock()
		if l.refused != nil && !permanent(err) {
			err = fmt.Errorf("%w (last turned away: %w)", err, l.refused)
		}
		l.mu.Unlock()
		return nil, fmt.Errorf("accept channel %d of migration %x: %w", channel, cfg.ID, err)
	}
	s.reconnect = func(cause error) (*link, error) {
		ctx, cancel := context.WithTimeoutCause(context.Background(), cfg.Patience, fmt.Errorf("waited %v", cfg.Patience))
		defer cancel()
		next, err := s.accept(ctx, l.closed)
		if err != nil {
			return nil, fmt.Errorf("connection lost (%w), and no other came: %w", cause, err)
		}
		return next, nil
	}
	go s.run(first)
	return s, nil
}

// over says that a session has ended.
func (s *session) over() bool {
	select {
	case <-s.dead:
		return true
	default:
		return false
	}
}

// offer judges the hello of a connection for this session. A newer connection
// takes the place of the one in use: the other end would not have opened it
// if that were alive, whatever it looks like from here.
func (s *session) offer(o offer) {
	s.mu.Lock()
	v := welcome
	if o.conn != nil {
		v = s.welcomes(o.hello)
	}
	if v != welcome {
		s.mu.Unlock()
		turnAway(o.conn, o.hello, v)
		return
	}
	defer s.mu.Unlock()
	if o.conn != nil {
		s.other, s.attempt = o.hello.self, o.hello.attempt
	}
	if s.link != nil {
		s.link.cut(errReplaced)
	}
	select {
	case before := <-s.offers:
		before.drop()
	default:
	}
	s.offers <- o // there is room: offers are made under the lock alone
}

// welcomes says whether a hello is that of the other end of this session; the
// caller holds s.mu.
func (s *session) welcomes(h hello) verdict {
	switch {
	case s.leaving, h.self == 0, s.other != 0 && h.self != s.other, h.other != 0 && h.other != s.self:
		return forgotten
	case h.attempt <= s.attempt:
		return stale
	}
	return welcome
}

// accept waits for a connection and answers its hello.
func (s *session) accept(ctx context.Context, closed <-chan struct{}) (*link, error) {
	for {
		var o offer
		select {
		case o = <-s.offers:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-s.dead:
			return nil, s.err
		case <-closed:
			return nil, net.ErrClosed
		}
		if o.err != nil {
			return nil, o.err
		}
		s.mu.Lock()
		ours := s.hello()
		s.mu.Unlock()
		ours.attempt = o.hello.attempt
		if _, err := o.conn.Write(ours.encode()); err != nil {
			_ = o.conn.Close() // the other end comes again
			continue
		}
		s.wrote.Add(helloSize)
		s.heard.Add(helloSize)
		_ = o.conn.SetDeadline(time.Time{}) // fails only where the next use fails too
		return newLink(o.conn, o.hello, s.cfg.Unsent), nil
	}
}
