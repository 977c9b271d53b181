package wire_test

import (
	"bytes"
	"context"
	"net"
	"testing"
	"time"

	"github.com/vpclab/vpclab/emu/migrate/wire"
)

// FuzzReceive gives a session what a hostile or broken other end may send after
// its hello. It must not panic, deliver what was not sent so, or take more
// memory than its configuration says. mend puts right checksums where the
// fuzzer wrote headers, since it would never hit them.
func FuzzReceive(f *testing.F) {
	f.Add(wire.FrameOf(1, 7, 1, []byte("hello")), true)
	f.Add(append(wire.FrameOf(1, 7, 1, nil), wire.FrameOf(1, 7, 3, nil)...), false)
	f.Add(wire.FrameOf(2, 0, 9, nil), false)
	f.Add(wire.FrameOf(3, 0, 1<<63, nil), false)
	f.Add(append(wire.FrameOf(4, 0, 0, []byte("why")), wire.FrameOf(1, 0, 1, nil)...), false)
	f.Add(wire.FrameOf(200, 0, 0, nil), true)
	huge := wire.FrameOf(1, 7, 1, nil)
	huge[4] = 0xff
	f.Add(huge, true)
	f.Fuzz(func(t *testing.T, b []byte, mend bool) {
		if mend {
			b = wire.Mended(b)
		}
		const window, frame = 64 << 10, 16 << 10
		var want uint64
		count, held, err := wire.ReceiveFrom(b, wire.Config{Window: window, MaxFrame: frame}, func(number uint64, m wire.Message) {
			if want++; number != want {
				t.Fatalf("message %d comes after %d", number, want-1)
			}
			if len(m.Payload) > frame {
				t.Fatalf("message of %d bytes", len(m.Payload))
			}
		})
		if count != want {
			t.Fatalf("%d messages taken of %d", want, count)
		}
		if err == nil {
			t.Fatal("a connection that ended has no error")
		}
		if held > window+8<<20 {
			t.Fatalf("%d bytes held", held)
		}
	})
}

// FuzzHello gives both ends' readers of hellos any bytes.
func FuzzHello(f *testing.F) {
	f.Add(wire.HelloOf(wire.Version, [16]byte{1}, 0))
	f.Add(wire.HelloOf(9, [16]byte{1}, 2))
	f.Add([]byte("vpclab\r\n\x00\x01\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		version, err := wire.ReadHello(r)
		if err == nil && r.Len() > len(b)-36 {
			t.Fatal("a hello of less than 36 bytes")
		}
		if err == nil && version == wire.Version && !bytes.Equal(wire.Again(b[:80]), b[:80]) {
			t.Fatal("a hello that is not what it says")
		}
		// The dialling end, all of it.
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		defer cancel()
		s, err := wire.Open(ctx, wire.Config{Patience: time.Millisecond, Dial: func(context.Context) (net.Conn, error) {
			return &scripted{in: bytes.NewReader(b)}, nil
		}})
		if err == nil {
			_ = s.Close()
			t.Fatal("a session with noise")
		}
	})
}

// scripted is a connection that says what it has and then ends.
type scripted struct {
	net.Conn
	in *bytes.Reader
}

func (c *scripted) Read(p []byte) (int, error)  { return c.in.Read(p) }
func (c *scripted) Write(p []byte) (int, error) { return len(p), nil }
func (c *scripted) Close() error                { return nil }
func (c *scripted) SetDeadline(time.Time) error { return nil }
