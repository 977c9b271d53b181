package kernel

import (
	"bufio"
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync/atomic"
	"testing"
)

// meteredTTY stands for the serial line as seen from inside and counts what
// waits for its reader.
type meteredTTY struct {
	net.Conn
	in      io.Reader
	pending *atomic.Int64
}

func (m *meteredTTY) Read(p []byte) (int, error) {
	n, err := m.in.Read(p)
	m.pending.Add(int64(-n))
	return n, err
}

// linePair joins an outer and an inner line by a connection, and tells how
// many bytes were at most under way to the inside. The inner end begins with
// hello.
func linePair(t testing.TB, spool string) (outer *outerLine, inner *innerLine, hello func(), most *atomic.Int64) {
	t.Helper()
	a, b := net.Pipe()
	t.Cleanup(func() { a.Close(); b.Close() })
	most = new(atomic.Int64)
	var pending atomic.Int64
	outer = newOuterLine(&countingConn{Conn: a, pending: &pending, most: most}, spool)
	inner = &innerLine{tty: &meteredTTY{Conn: b, in: b, pending: &pending}, spool: spool}
	inner.r = bufio.NewReaderSize(ackReader{inner}, lineWindow)
	hello = func() { _, _ = io.WriteString(b, "noise\nmore noise "+helloMark+"\n") }
	return outer, inner, hello, most
}

type countingConn struct {
	net.Conn
	pending, most *atomic.Int64
}

func (c *countingConn) Write(p []byte) (int, error) {
	now := c.pending.Add(int64(len(p)))
	for {
		old := c.most.Load()
		if now <= old || c.most.CompareAndSwap(old, now) {
			break
		}
	}
	return c.Conn.Write(p)
}

// TestLineWindow sends bytes both ways at once, in odd pieces, and looks that
// they arrive and that the terminal's buffer would never have been full.
func TestLineWindow(t *testing.T) {
	t.Run("by the line", func(t *testing.T) { testLine(t, "") })
	spool := t.TempDir()
	t.Run("by files", func(t *testing.T) { testLine(t, spool) })
	if left, err := os.ReadDir(spool); err != nil || len(left) > 0 {
		t.Errorf("%d files are left, %v", len(left), err)
	}
}

func testLine(t *testing.T, spool string) {
	outer, inner, hello, most := linePair(t, spool)
	rng := rand.New(rand.NewPCG(1, 2))
	data := make([]byte, 300_000)
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	errs := make(chan error, 4)
	got := make(chan []byte, 2)
	send := func(w io.Writer, pieces []int) {
		rest := data
		for i := 0; len(rest) > 0; i++ {
			n := min(len(rest), pieces[i%len(pieces)])
			if _, err := w.Write(rest[:n]); err != nil {
				errs <- err
				return
			}
			rest = rest[n:]
		}
		errs <- nil
	}
	receive := func(r io.Reader) {
		buf := make([]byte, len(data))
		_, err := io.ReadFull(r, buf)
		got <- buf
		errs <- err
		_, _ = io.Copy(io.Discard, r) // acknowledgements go on until the end
	}
	go send(outer, []int{1, 12, 4000, 70_000})
	go func() {
		hello() // before any frame, as newInnerLine does
		send(inner, []int{12, 32_768, 1, 100_000})
	}()
	go receive(inner)
	go receive(outer)
	for range 4 {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if !bytes.Equal(<-got, data) {
			t.Error("what came is not what was sent")
		}
	}
	if err := outer.await(func() bool { return outer.files == 0 }, func() {}); err != nil {
		t.Errorf("files were not read: %v", err)
	}
	if most.Load() > lineWindow {
		t.Errorf("%d bytes were under way to the inside, more than the window of %d", most.Load(), lineWindow)
	}
}

func TestLineCloseFreesWriter(t *testing.T) {
	outer, _, hello, _ := linePair(t, "")
	go hello()
	go func() { _, _ = outer.Read(make([]byte, 1)) }()
	done := make(chan error, 1)
	go func() {
		_, err := outer.Write(make([]byte, 10*lineWindow)) // nobody takes it
		done <- err
	}()
	outer.Close()
	if err := <-done; err == nil {
		t.Error("a write to a closed line succeeded")
	}
}

func FuzzOuterLine(f *testing.F) {
	head := lineHead(kindData, 3)
	f.Add([]byte(helloMark + "\n" + string(head[:]) + "abc"))
	f.Add([]byte(helloMark + "\na\x00\x00\x05d\x00\x00\x00d\xff\xff\xff"))
	f.Add([]byte("noise"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		l := newOuterLine(nopConn{bytes.NewReader(wire)}, "")
		data, _ := io.ReadAll(l)
		if len(data) > len(wire) {
			t.Errorf("%d bytes came of %d", len(data), len(wire))
		}
		if _, err := l.Write([]byte{1}); err == nil {
			t.Error("a line at its end takes writes")
		}
	})
}

type nopConn struct{ io.Reader }

func (nopConn) Write(p []byte) (int, error) { return len(p), nil }
func (nopConn) Close() error                { return nil }

func TestLineHead(t *testing.T) {
	h := lineHead(kindAck, 0x010203)
	if want := [4]byte{'a', 1, 2, 3}; h != want {
		t.Errorf("head %v, want %v", h, want)
	}
	if kind, n := parseHead(h); kind != kindAck || n != 0x010203 {
		t.Errorf("reads back as %c %x", kind, n)
	}
}
