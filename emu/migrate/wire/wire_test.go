package wire_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/vpclab/vpclab/emu/migrate/wire"
)

const deadline = 60 * time.Second // of everything that a test waits for

var loopback = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)

func patient(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	t.Cleanup(cancel)
	return ctx
}

// listen makes a listener of the migration of cfg.
func listen(t testing.TB, cfg wire.Config) *wire.Listener {
	l, err := wire.ListenTCP(patient(t), loopback)
	require.NoError(t, err)
	ln := wire.Listen(l, cfg)
	t.Cleanup(func() { _ = ln.Close() })
	return ln
}

// pair opens a session through dial (to the listener's address; nil: directly).
func pair(t testing.TB, cfg wire.Config, by func(to netip.AddrPort) func(context.Context) (net.Conn, error)) (a, b wire.Session) {
	ctx := patient(t)
	ln := listen(t, cfg)
	to := ln.Addr().(*net.TCPAddr).AddrPort()
	cfg.Dial = wire.DialTCP(to)
	if by != nil {
		cfg.Dial = by(to)
	}
	var g errgroup.Group
	g.Go(func() (err error) { b, err = ln.Accept(ctx, cfg.Channel); return err })
	a, err := wire.Open(ctx, cfg)
	require.NoError(t, err)
	require.NoError(t, g.Wait())
	t.Cleanup(func() {
		_ = a.Close()
		_ = b.Close()
	})
	return a, b
}

// payload is what message n of a run carries: any test end can tell whether it
// is whole and the right one.
func payload(dst []byte, n uint64, size int) []byte {
	dst = binary.BigEndian.AppendUint64(dst[:0], n)
	r := rand.NewPCG(n, uint64(size))
	for len(dst) < size {
		dst = binary.BigEndian.AppendUint64(dst, r.Uint64())
	}
	return dst[:max(8, size)]
}

// sizes of messages: most are small, some large.
func size(n uint64) int {
	r := rand.New(rand.NewPCG(n, 7))
	if n%17 == 0 {
		return r.IntN(200 << 10)
	}
	return r.IntN(3 << 10)
}

func send(ctx context.Context, s wire.Session, count uint64) error {
	var p []byte
	for n := range count {
		p = payload(p, n, size(n))
		if err := s.Send(ctx, wire.Type(n), p); err != nil {
			return err
		}
	}
	return s.Flush(ctx)
}

func receive(t testing.TB, ctx context.Context, s wire.Session, count uint64) error {
	var p []byte
	for n := range count {
		m, err := s.Receive(ctx)
		if err != nil {
			return err
		}
		p = payload(p, n, size(n))
		if m.Type != wire.Type(n) || !bytes.Equal(m.Payload, p) {
			t.Errorf("message %d is not what was sent", n)
			return io.ErrUnexpectedEOF
		}
	}
	return nil
}

func TestBothWays(t *testing.T) {
	a, b := pair(t, wire.Config{ID: [16]byte{1}, Channel: 3}, nil)
	ctx := patient(t)
	var g errgroup.Group
	const count = 5000
	g.Go(func() error { return send(ctx, a, count) })
	g.Go(func() error { return send(ctx, b, count) })
	g.Go(func() error { return receive(t, ctx, a, count) })
	g.Go(func() error { return receive(t, ctx, b, count) })
	require.NoError(t, g.Wait())
	require.NoError(t, a.Close())
	_, err := b.Receive(ctx)
	require.ErrorIs(t, err, io.EOF)
	require.ErrorIs(t, a.Send(ctx, 1, nil), wire.ErrClosed)
	var ended *wire.EndedError
	require.ErrorAs(t, b.Send(ctx, 1, nil), &ended)
}

// TestOneWay: confirmations come although the receiving end sends nothing, and
// although both ends send before either receives.
func TestOneWay(t *testing.T) {
	a, b := pair(t, wire.Config{Window: 128 << 10, MaxFrame: 64 << 10}, nil)
	ctx := patient(t)
	var g errgroup.Group
	g.Go(func() error {
		for range 1000 {
			if err := a.Send(ctx, 1, make([]byte, 60<<10)); err != nil {
				return err
			}
		}
		return a.Flush(ctx)
	})
	g.Go(func() error {
		for range 1000 {
			if _, err := b.Receive(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	require.NoError(t, g.Wait())
	require.Positive(t, a.Waiting())
	for _, s := range []wire.Session{a, b} {
		require.NoError(t, s.Send(ctx, 2, make([]byte, 64<<10)))
	}
	for _, s := range []wire.Session{a, b} {
		m, err := s.Receive(ctx)
		require.NoError(t, err)
		require.Len(t, m.Payload, 64<<10)
	}
	require.ErrorIs(t, a.Send(ctx, 2, make([]byte, 64<<10+1)), wire.ErrTooLarge)
}
