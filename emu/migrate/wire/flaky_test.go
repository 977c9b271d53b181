package wire_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/vpclab/vpclab/emu/migrate/wire"
)

// mischief is what a bad way does to a connection.
type mischief struct {
	seed  uint64
	life  int  // bytes after which a connection is cut, about; 0: never
	flips int  // bytes among which one bit is flipped, about; 0: never
	stop  bool // connections are not cut: they stand still, and nobody tells
	delay time.Duration
}

// way dials through mischief.
type way struct {
	mischief
	mu   sync.Mutex
	r    *rand.Rand
	cuts int
}

func (m mischief) way() *way {
	return &way{mischief: m, r: rand.New(rand.NewPCG(m.seed, 1))}
}

func (w *way) dial(to netip.AddrPort) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		c, err := wire.DialTCP(to)(ctx)
		if err != nil {
			return nil, err
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		return &badConn{
			Conn: c, w: w, still: make(chan struct{}), closed: make(chan struct{}),
			out: half{life: w.about(w.life), flip: w.about(w.flips)}, in: half{life: w.about(w.life), flip: w.about(w.flips)},
		}, nil
	}
}

// about is a number around n, exponentially spread: bad luck comes in rows.
func (w *way) about(n int) int {
	if n == 0 {
		return 1 << 60
	}
	return int(w.r.ExpFloat64() * float64(n))
}

// half is one direction.
type half struct{ life, flip int }

// badConn is a connection that does not live long and mangles bytes. It is used
// as any connection is: one goroutine reads, one writes.
type badConn struct {
	net.Conn
	w             *way
	in, out       half
	still, closed chan struct{}
	once, gone    sync.Once
}

var errCut = errors.New("cut by the test")

// spoil does to p what is due, and tells how much of it goes through.
func (c *badConn) spoil(h *half, p []byte) (int, bool) {
	for h.flip < len(p) {
		p[h.flip] ^= 1 << (h.flip % 8)
		c.w.mu.Lock()
		h.flip += 1 + c.w.about(c.w.flips)
		c.w.mu.Unlock()
	}
	h.flip -= len(p)
	if h.life < len(p) {
		n := h.life
		h.life = 0
		return n, true
	}
	h.life -= len(p)
	return len(p), false
}

func (c *badConn) Write(p []byte) (int, error) {
	q := append([]byte(nil), p...) // what is sent again must be whole
	n, cut := c.spoil(&c.out, q)
	if cut && c.w.stop {
		c.once.Do(func() { close(c.still) })
		_, err := c.Conn.Write(q[:n])
		return len(p), err // what is more goes nowhere
	}
	if c.w.delay > 0 {
		time.Sleep(c.w.delay) // it is the way that is slow
	}
	m, err := c.Conn.Write(q[:n])
	if err == nil && cut {
		return m, c.end()
	}
	return m, err
}

func (c *badConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		return n, err
	}
	select {
	case <-c.still:
		<-c.closed
		return 0, net.ErrClosed
	default:
	}
	n, cut := c.spoil(&c.in, p[:n])
	if cut {
		return n, c.end()
	}
	return n, nil
}

func (c *badConn) Close() error {
	c.gone.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

func (c *badConn) end() error {
	c.w.mu.Lock()
	c.w.cuts++
	c.w.mu.Unlock()
	_ = c.Conn.Close()
	return errCut
}

// TestFlaky: whatever the way does, each message comes once, whole, in order.
func TestFlaky(t *testing.T) {
	for _, m := range []mischief{
		{life: 300 << 10}, {flips: 300 << 10}, {life: 200 << 10, flips: 200 << 10},
		{life: 2 << 20, stop: true}, {life: 400 << 10, delay: 200 * time.Microsecond},
	} {
		for seed := range uint64(3) {
			m.seed = seed
			t.Run(fmt.Sprintf("%+v", m), func(t *testing.T) {
				t.Parallel()
				flaky(t, m)
			})
		}
	}
}

func flaky(t *testing.T, m mischief) {
	w := m.way()
	cfg := wire.Config{Window: 1 << 20, MaxFrame: 256 << 10, Patience: 10 * time.Second}
	if m.stop {
		cfg.Patience = 500 * time.Millisecond
	}
	a, b := pair(t, cfg, w.dial)
	ctx := patient(t)
	const count = 800
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return send(ctx, a, count) })
	g.Go(func() error { return send(ctx, b, count) })
	g.Go(func() error { return receive(t, ctx, a, count) })
	g.Go(func() error { return receive(t, ctx, b, count) })
	require.NoError(t, g.Wait())
	st := a.Stats()
	t.Logf("%d cuts, %+v", w.cuts, st)
	require.Positive(t, st.Reconnects, "the way was not bad enough to show anything")
}

// TestSilence: a connection on which nothing comes any more, and of which
// nobody tells, is given up, and the session goes on.
func TestSilence(t *testing.T) {
	var mu sync.Mutex
	var held []*holdConn
	a, b := pair(t, wire.Config{Patience: 400 * time.Millisecond}, func(to netip.AddrPort) func(context.Context) (net.Conn, error) {
		return func(ctx context.Context) (net.Conn, error) {
			c, err := wire.DialTCP(to)(ctx)
			if err != nil {
				return nil, err
			}
			h := &holdConn{Conn: c, still: make(chan struct{}), closed: make(chan struct{})}
			mu.Lock()
			held = append(held, h)
			mu.Unlock()
			return h, nil
		}
	})
	ctx := patient(t)
	receiving(t, b, 2)
	require.NoError(t, a.Send(ctx, 1, []byte("before")))
	require.NoError(t, a.Flush(ctx))
	mu.Lock()
	close(held[0].still)
	mu.Unlock()
	require.NoError(t, a.Send(ctx, 1, []byte("after")))
	require.NoError(t, a.Flush(ctx))
	require.Equal(t, 1, a.Stats().Reconnects)
}

// receiving takes messages in the background.
func receiving(t *testing.T, s wire.Session, count int) {
	ctx := patient(t)
	go func() {
		for range count {
			if _, err := s.Receive(ctx); err != nil {
				t.Errorf("receive: %v", err)
				return
			}
		}
	}()
}

// holdConn is a connection that stands still after a moment: what is written
// goes nowhere, nothing comes, and there is no error.
type holdConn struct {
	net.Conn
	still, closed chan struct{}
	once          sync.Once
}

func (c *holdConn) Write(p []byte) (int, error) {
	select {
	case <-c.still:
		<-c.closed
		return 0, net.ErrClosed
	default:
		return c.Conn.Write(p)
	}
}

func (c *holdConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	select {
	case <-c.still:
		<-c.closed
		return 0, net.ErrClosed
	default:
		return n, err
	}
}

func (c *holdConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// TestPatience: when no connection is found the session fails, at both ends,
// and says what it waited for.
func TestPatience(t *testing.T) {
	cfg := wire.Config{Patience: 300 * time.Millisecond}
	ctx := patient(t)
	ln := listen(t, cfg)
	var conns []net.Conn
	dead := false
	cfg.Dial = func(ctx context.Context) (net.Conn, error) {
		if dead {
			return nil, errors.New("no way")
		}
		c, err := wire.DialTCP(ln.Addr().(*net.TCPAddr).AddrPort())(ctx)
		conns = append(conns, c)
		return c, err
	}
	var g errgroup.Group
	var b wire.Session
	g.Go(func() (err error) { b, err = ln.Accept(ctx, 0); return err })
	a, err := wire.Open(ctx, cfg)
	require.NoError(t, err)
	require.NoError(t, g.Wait())
	require.NoError(t, a.Send(ctx, 0, nil))
	dead = true
	require.NoError(t, conns[0].Close())
	_, err = a.Receive(ctx)
	require.ErrorContains(t, err, "no way")
	require.ErrorContains(t, err, "tried for 300ms")
	for err = nil; err == nil; { // the message may have come
		_, err = b.Receive(ctx)
	}
	require.ErrorContains(t, err, "waited 300ms")
	require.Error(t, a.Send(ctx, 0, nil))
	require.Error(t, a.Flush(ctx), "what was never confirmed")
	require.NoError(t, a.Close())
	require.NoError(t, b.Close())
}

// raw opens a TCP connection to a listener, sends bytes and reads the answer.
func raw(t *testing.T, ln *wire.Listener, b []byte) []byte {
	c, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Write(b)
	require.NoError(t, err)
	_ = c.(*net.TCPConn).CloseWrite() // it may have been turned away by now
	require.NoError(t, c.SetDeadline(time.Now().Add(deadline)))
	answer, _ := io.ReadAll(c) // a reset ends it too
	return answer
}

// TestVersions: ends of two versions tell each other so, before anything else.
func TestVersions(t *testing.T) {
	ctx := patient(t)
	cfg := wire.Config{ID: [16]byte{9}}

	// A dialling end of another version.
	ln := listen(t, cfg)
	var g errgroup.Group
	var version *wire.VersionError
	g.Go(func() error { _, err := ln.Accept(ctx, 0); return err })
	answer := raw(t, ln, wire.HelloOf(7, cfg.ID, 0))
	require.ErrorAs(t, g.Wait(), &version)
	require.Equal(t, &wire.VersionError{Ours: wire.Version, Theirs: 7}, version)
	require.Len(t, answer, 80)
	require.EqualValues(t, wire.Version, binary.BigEndian.Uint16(answer[8:]))

	// A listening end of another version.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = c.Write(wire.HelloOf(7, cfg.ID, 0)) // the test sees what comes of it
		_, _ = io.Copy(io.Discard, c)
		_ = c.Close()
	}()
	cfg.Dial = wire.DialTCP(l.Addr().(*net.TCPAddr).AddrPort())
	_, err = wire.Open(ctx, cfg)
	require.ErrorAs(t, err, &version)
}

// TestStrangers: neither another migration, nor noise, nor silence keeps the
// right end out, and each is told apart.
func TestStrangers(t *testing.T) {
	cfg := wire.Config{ID: [16]byte{9}}
	ln := listen(t, cfg)
	require.Empty(t, raw(t, ln, []byte("GET / HTTP/1.1\r\n\r\n and more than twelve bytes")))
	mangled := wire.HelloOf(wire.Version, cfg.ID, 0)
	mangled[40] ^= 4
	require.Empty(t, raw(t, ln, mangled))
	idle, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	defer idle.Close()

	ctx := patient(t)
	other := cfg
	other.ID[3] = 1
	other.Dial = wire.DialTCP(ln.Addr().(*net.TCPAddr).AddrPort())
	_, err = wire.Open(ctx, other)
	require.ErrorIs(t, err, wire.ErrStranger)

	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	_, err = ln.Accept(short, 5)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "last turned away")

	cfg.Dial = other.Dial
	var g errgroup.Group
	g.Go(func() error { _, err := ln.Accept(ctx, 0); return err })
	a, err := wire.Open(ctx, cfg)
	require.NoError(t, err)
	require.NoError(t, g.Wait())

	// An end that was started anew is not taken for the one before.
	_, err = wire.Open(ctx, cfg)
	require.ErrorIs(t, err, wire.ErrForgotten)
	require.NoError(t, a.Send(ctx, 1, nil))
	require.NoError(t, a.Close())
}

// TestEarly: an end may dial a channel before it is accepted.
func TestEarly(t *testing.T) {
	cfg := wire.Config{ID: [16]byte{2}}
	ln := listen(t, cfg)
	cfg.Dial = wire.DialTCP(ln.Addr().(*net.TCPAddr).AddrPort())
	ctx := patient(t)
	var g errgroup.Group
	for ch := range uint8(3) {
		cfg := cfg
		cfg.Channel = ch
		g.Go(func() error {
			s, err := wire.Open(ctx, cfg)
			if err != nil {
				return err
			}
			return s.Send(ctx, wire.Type(ch), nil)
		})
	}
	for ch := range uint8(3) {
		s, err := ln.Accept(ctx, 2-ch)
		require.NoError(t, err)
		m, err := s.Receive(ctx)
		require.NoError(t, err)
		require.EqualValues(t, 2-ch, m.Type)
	}
	require.NoError(t, g.Wait())
}
