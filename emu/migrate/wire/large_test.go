package wire_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/vpclab/vpclab/emu/migrate/wire"
)

// Messages that are longer than one write, both ways at the same time: what one
// end confirms must not come into the middle of what it sends.
func TestLargeBothWays(t *testing.T) {
	a, b := pair(t, wire.Config{ID: [16]byte{2}}, nil)
	ctx := patient(t)
	sizes := []int{700 << 10, 100, 300 << 10, 260 << 10, 1 << 20}
	const count = 120
	var g errgroup.Group
	for _, s := range []wire.Session{a, b} {
		g.Go(func() error {
			var p []byte
			for n := range uint64(count) {
				p = payload(p, n, sizes[n%uint64(len(sizes))])
				if err := s.Send(ctx, 1, p); err != nil {
					return err
				}
			}
			return s.Flush(ctx)
		})
		g.Go(func() error {
			var p []byte
			for n := range uint64(count) {
				m, err := s.Receive(ctx)
				if err != nil {
					return err
				}
				if p = payload(p, n, sizes[n%uint64(len(sizes))]); !bytes.Equal(m.Payload, p) {
					t.Errorf("message %d is not what was sent", n)
				}
			}
			return nil
		})
	}
	require.NoError(t, g.Wait())
	for _, s := range []wire.Session{a, b} {
		require.Zero(t, s.Stats().Reconnects, "no connection was given up")
	}
}
