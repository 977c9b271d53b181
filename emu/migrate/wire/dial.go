package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"
)

const (
	// firstRest and longestRest are between two attempts to connect, doubling.
	firstRest   = 20 * time.Millisecond
	longestRest = time.Second
	// dialPatience bounds one attempt. TCP's own attempts come ever more
	// seldom; a new one finds a link that has come back sooner.
	dialPatience = 3 * time.Second
)

// Open makes a session by dialling, for at most Patience; cfg.Dial must be set.
// The session dials again by itself when its connection breaks. ctx is for
// opening alone.
func Open(ctx context.Context, cfg Config) (Session, error) {
	if cfg.Dial == nil {
		return nil, errors.New("open a session: no way to dial")
	}
	s := newSession(cfg)
	l, err := s.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("open channel %d of migration %x: %w", cfg.Channel, cfg.ID, err)
	}
	s.reconnect = func(cause error) (*link, error) {
		l, err := s.dial(context.Background())
		if err != nil {
			return nil, fmt.Errorf("connection lost (%w), and no other found: %w", cause, err)
		}
		return l, nil
	}
	go s.run(l)
	return s, nil
}

// dial tries to connect until it succeeds, Patience is over, the session is
// left, or trying again is of no use.
func (s *session) dial(ctx context.Context) (*link, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.Patience, fmt.Errorf("tried for %v", s.cfg.Patience))
	defer cancel()
	go func() {
		select {
		case <-s.dead:
			cancel()
		case <-ctx.Done():
		}
	}()
	rest := firstRest
	for {
		l, err := s.try(ctx)
		if err == nil {
			return l, nil
		}
		if permanent(err) {
			return nil, err
		}
		timer := time.NewTimer(rest)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, fmt.Errorf("%w; at last: %w", context.Cause(ctx), err)
		}
		rest = min(2*rest, longestRest)
	}
}

// try connects once.
func (s *session) try(ctx context.Context) (*link, error) {
	dial, cancel := context.WithTimeout(ctx, dialPatience)
	defer cancel()
	conn, err := s.cfg.Dial(dial)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // ends what waits for it
	theirs, err := s.greet(conn)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = conn.Close() // it is of no use
		return nil, err
	}
	return newLink(conn, theirs, s.cfg.Unsent), nil
}

// greet says this end's hello on a new connection and judges the answer.
func (s *session) greet(conn net.Conn) (hello, error) {
	s.mu.Lock()
	s.attempt++
	ours := s.hello()
	s.mu.Unlock()
	if err := conn.SetDeadline(time.Now().Add(s.cfg.Patience)); err != nil {
		return hello{}, fmt.Errorf("set deadline: %w", err)
	}
	if _, err := conn.Write(ours.encode()); err != nil {
		return hello{}, fmt.Errorf("send hello: %w", err)
	}
	theirs, err := readHello(conn)
	if err != nil {
		return hello{}, err
	}
	s.wrote.Add(helloSize)
	s.heard.Add(helloSize)
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return hello{}, fmt.Errorf("clear deadline: %w", err)
	}
	return theirs, s.judge(ours, theirs)
}

// hello is this end's, now; the caller holds s.mu.
func (s *session) hello() hello {
	return hello{
		version: Version, channel: s.cfg.Channel, id: s.cfg.ID, self: s.self, other: s.other, attempt: s.attempt,
		received: s.received, window: uint32(s.cfg.Window), maxFrame: uint32(s.cfg.MaxFrame),
	}
}

// judge says whether the answer to this end's hello lets the session go on.
func (s *session) judge(ours, theirs hello) error {
	if theirs.version != Version {
		return &VersionError{Version, theirs.version}
	}
	switch theirs.verdict {
	case welcome:
	case stranger:
		return ErrStranger
	case forgotten:
		return ErrForgotten
	case stale:
		return errReplaced
	default:
		return violation("hello with verdict %d", theirs.verdict)
	}
	if theirs.id != ours.id || theirs.channel != ours.channel {
		return ErrStranger
	}
	if theirs.other != ours.self || theirs.attempt != ours.attempt || theirs.self == 0 {
		return violation("hello that answers another: end %x, attempt %d", theirs.other, theirs.attempt)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.other != 0 && s.other != theirs.self {
		return ErrForgotten
	}
	s.other = theirs.self
	return nil
}
