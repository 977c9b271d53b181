package guest

import (
	"context"
	"io"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

func mirrored(t *testing.T) (*reporter, *MirrorServer, context.Context) {
	return mirroredBy(t, ListenMirror)
}

func mirroredBy(t *testing.T, listen func(string) (*MirrorServer, error)) (*reporter, *MirrorServer, context.Context) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	path := filepath.Join(t.TempDir(), "mirror")
	s, err := listen(path)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	var g errgroup.Group
	g.Go(func() error { return s.Accept(ctx) })
	r, err := openMirror(path)
	require.NoError(t, err)
	require.NoError(t, g.Wait())
	t.Cleanup(r.close)
	return r, s, ctx
}

// TestMirror: each report comes once and in order, and is acked once, when the
// agent has said so and not before.
func TestMirror(t *testing.T) {
	r, s, ctx := mirrored(t)
	const count = 10000
	var acked, allowed atomic.Int64
	all := make(chan struct{})
	go func() {
		for i := range int64(count) {
			r.report(i*512, make([]byte, i%7), func() {
				if n := acked.Add(1); n > allowed.Load() || n != i+1 {
					t.Errorf("write %d is acknowledged as number %d of %d allowed", i+1, n, allowed.Load())
				} else if n == count {
					close(all)
				}
			})
		}
	}()
	for seen := int64(0); seen < count; {
		number, extents, err := s.Next(ctx)
		require.NoError(t, err)
		for _, e := range extents {
			require.Equal(t, [2]int64{seen * 512, seen % 7}, e)
			seen++
		}
		require.EqualValues(t, seen, number)
		allowed.Store(seen)
		require.NoError(t, s.Ack(number))
	}
	select {
	case <-all:
	case <-ctx.Done():
		t.Fatalf("waited for %d acknowledgements, %d came", count, acked.Load())
	}
	r.close()
	_, _, err := s.Next(ctx)
	require.ErrorIs(t, err, io.EOF)
}

// TestMirrorGone: a guest goes on when its mirror is gone, whatever waits.
func TestMirrorGone(t *testing.T) {
	for name, end := range map[string]func(r *reporter, s *MirrorServer){
		"by the agent": func(_ *reporter, s *MirrorServer) { _ = s.Close() },
		"by the guest": func(r *reporter, _ *MirrorServer) { r.close() },
		"by a lie":     func(_ *reporter, s *MirrorServer) { _ = s.Ack(99) },
	} {
		t.Run(name, func(t *testing.T) {
			r, s, ctx := mirrored(t)
			done := make(chan struct{}, 4)
			ack := func() { done <- struct{}{} }
			r.report(0, []byte{1}, ack)
			r.report(1, []byte{1}, ack)
			number, _, err := s.Next(ctx)
			require.NoError(t, err)
			require.NoError(t, s.Ack(number))
			end(r, s)
			r.report(2, []byte{1}, ack)
			for i := range 3 {
				select {
				case <-done:
				case <-ctx.Done():
					t.Fatalf("waited for the end of write %d", i)
				}
			}
		})
	}
}

func TestMirrorIsPatientOnlyAsLongAsItsCaller(t *testing.T) {
	_, s, _ := mirrored(t)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	_, _, err := s.Next(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// TestWritesComeWithTheirBytes, whatever was written over them since.
func TestWritesComeWithTheirBytes(t *testing.T) {
	r, s, ctx := mirroredBy(t, ListenWrites)
	const count = 3000
	size := func(i int) int { return []int{0, 1, 512, 4096, 70000}[i%5] }
	go func() {
		b := make([]byte, 70000)
		for i := range count {
			for k := range b[:size(i)] {
				b[k] = byte(i)
			}
			r.report(int64(i)*512, b[:size(i)], func() {})
		}
	}()
	for seen := 0; seen < count; {
		number, writes, err := s.NextWrites(ctx)
		require.NoError(t, err)
		for _, w := range writes {
			require.Equal(t, int64(seen)*512, w.Off)
			require.Len(t, w.Data, size(seen))
			for _, c := range w.Data {
				if c != byte(seen) {
					t.Fatalf("write %d has bytes of write %d", seen, c)
				}
			}
			seen++
		}
		require.EqualValues(t, seen, number)
		require.NoError(t, s.Ack(number))
	}
	r.close()
	_, _, err := s.NextWrites(ctx)
	require.ErrorIs(t, err, io.EOF)
}
