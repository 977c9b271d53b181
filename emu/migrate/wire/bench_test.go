package wire_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/migrate/wire"
)

// BenchmarkThroughput sends messages of one size over loopback. It also copies
// as much through plain TCP, in turns with the session, and prints the ratio:
// what is left of a link that is as fast as the machine.
func BenchmarkThroughput(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10, 256 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			ctx, cancel := context.WithTimeout(context.Background(), deadline)
			defer cancel()
			s, r := pair(b, wire.Config{}, nil)
			out, in := plain(b)
			p := make([]byte, size)
			b.SetBytes(int64(size))
			var session, tcp time.Duration
			const turn = 64 << 20
			total := b.N * size
			b.ResetTimer()
			for sent := 0; sent < total; sent += turn {
				n := max(1, min(turn, total-sent)/size)
				session += timed(func() { throughSession(b, ctx, s, r, p, n) })
				b.StopTimer()
				tcp += timed(func() { throughTCP(b, out, in, p, n) })
				b.StartTimer()
			}
			b.ReportMetric(tcp.Seconds()/session.Seconds(), "of-plain-TCP")
		})
	}
}

func timed(do func()) time.Duration {
	began := time.Now()
	do()
	return time.Since(began)
}

func throughSession(b *testing.B, ctx context.Context, s, r wire.Session, p []byte, n int) {
	done := make(chan error, 1)
	go func() {
		for range n {
			if _, err := r.Receive(ctx); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for range n {
		require.NoError(b, s.Send(ctx, 1, p))
	}
	require.NoError(b, <-done)
}

func throughTCP(b *testing.B, out, in net.Conn, p []byte, n int) {
	done := make(chan error, 1)
	go func() {
		_, err := io.CopyN(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{in}, int64(n*len(p)))
		done <- err
	}()
	for range n {
		_, err := out.Write(p)
		require.NoError(b, err)
	}
	require.NoError(b, <-done)
}

// plain is a TCP connection of its own.
func plain(b *testing.B) (out, in net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	defer l.Close()
	out, err = net.Dial("tcp", l.Addr().String())
	require.NoError(b, err)
	in, err = l.Accept()
	require.NoError(b, err)
	b.Cleanup(func() {
		_ = out.Close()
		_ = in.Close()
	})
	return out, in
}
