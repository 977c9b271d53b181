package wanopt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vpclab/vpclab/emu/migrate/wire"
)

// pair is both ends over loopback, with sockets in place of QEMUs.
type pair struct {
	tb     testing.TB
	source string // where the source QEMU connects
	dest   *net.UnixListener
	near   chan ended
	far    chan ended
	stop   context.CancelFunc // of the near end
	leave  context.CancelFunc // of the far end
	warned *words
}

type ended struct {
	*Stats
	err error
}

// words are what was warned of.
type words struct {
	mu   sync.Mutex
	said []string
}

func (w *words) warn(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said = append(w.said, what)
}

func (w *words) all() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.said, "; ")
}

func listenUnix(tb testing.TB) *net.UnixListener {
	tb.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(tb.TempDir(), "s"), Net: "unix"})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = l.Close() })
	return l
}

func newPair(tb testing.TB, n Near) *pair {
	tb.Helper()
	return newPairOver(tb, n, 0)
}

// newPairOver has a link of so many bytes a second between the ends; 0: loopback.
func newPairOver(tb testing.TB, n Near, rate float64) *pair {
	tb.Helper()
	l, err := wire.ListenTCP(tb.Context(), netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		tb.Fatal(err)
	}
	cfg := wire.Config{ID: [16]byte{7}, Patience: 3 * time.Second}
	listener := wire.Listen(l, cfg)
	tb.Cleanup(func() { _ = listener.Close() })
	at := l.Addr().(*net.TCPAddr).AddrPort()
	in := listenUnix(tb)
	p := &pair{tb: tb, source: in.Addr().String(), dest: listenUnix(tb), near: make(chan ended, 1), far: make(chan ended, 1), warned: &words{}}
	n.Warn = p.warned.warn
	n.Open = func(ctx context.Context, channel uint8) (wire.Session, error) {
		c := cfg
		c.Channel, c.Dial = channel, pacedDial(wire.DialTCP(at), rate)
		return wire.Open(ctx, c)
	}
	f := Far{Accept: listener.Accept, Warn: p.warned.warn, Dial: func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", p.dest.Addr().String())
	}}
	var nearCtx, farCtx context.Context
	nearCtx, p.stop = context.WithCancel(tb.Context())
	farCtx, p.leave = context.WithCancel(tb.Context())
	go func() {
		st, err := n.Serve(nearCtx, in)
		p.near <- ended{st, err}
	}()
	go func() {
		st, err := f.Serve(farCtx)
		p.far <- ended{st, err}
	}()
	tb.Cleanup(p.stop)
	tb.Cleanup(p.leave)
	return p
}

// connect is the source QEMU's connection.
func (p *pair) connect() net.Conn {
	p.tb.Helper()
	c, err := net.Dial("unix", p.source)
	if err != nil {
		p.tb.Fatal(err)
	}
	p.tb.Cleanup(func() { _ = c.Close() })
	return c
}

// incoming is what comes to the destination QEMU.
func (p *pair) incoming() net.Conn {
	p.tb.Helper()
	if err := p.dest.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		p.tb.Fatal(err)
	}
	c, err := p.dest.Accept()
	if err != nil {
		p.tb.Fatalf("wait for the far end to connect: %v", err)
	}
	p.tb.Cleanup(func() { _ = c.Close() })
	return c
}

// end waits for an end.
func (p *pair) end(what string, c <-chan ended) ended {
	p.tb.Helper()
	select {
	case e := <-c:
		return e
	case <-time.After(20 * time.Second):
		p.tb.Fatalf("the %s end does not end", what)
		return ended{}
	}
}

// guestStream is what a QEMU would send of a guest with so many pages that are
// written in passes, each a third of them.
func guestStream(pages, passes int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	m := new(made)
	m.text("QEVM\x00\x00\x00\x03\x01\x00\x00\x00\x02").text(string(memoryStart))
	m.u64(uint64(pages)*pageSize | recordSize).text("\x06pc.ram").u64(uint64(pages) * pageSize).u64(recordEnd).text("\x7e\x00\x00\x00\x02")
	content := make([]byte, pageSize)
	for pass := range passes {
		m.text("\x02\x00\x00\x00\x02")
		name := uint64(0)
		for page := range pages {
			if pass > 0 && r.IntN(3) > 0 {
				continue
			}
			at := uint64(page) * pageSize
			if page%5 == 0 {
				m.u64(at | recordZero | name)
				if name == 0 {
					m.text("\x06pc.ram")
				}
				m.WriteByte(0)
			} else {
				for i := 0; i < pageSize; i += 16 {
					copy(content[i:], fmt.Sprintf("%06d,%03d,%03d   ", page%97, i, pass*(page%2)))
				}
				m.u64(at | recordPage | name)
				if name == 0 {
					m.text("\x06pc.ram")
				}
				m.Write(content)
			}
			name = recordGoesOn
		}
		m.u64(recordEnd).text("\x7e\x00\x00\x00\x02")
	}
	return m.text("\x04\x00\x00\x00\x09\x03cpu and what a device has to say\x7e\x00\x00\x00\x09\x00").Bytes()
}

func TestTheStreamComesOutAsItWentIn(t *testing.T) {
	streams := captured(t)
	streams["made"] = guestStream(2000, 4)
	streams["noise"] = bytes.Repeat([]byte("\x02\x00\x00\x00\x02no stream of QEMU's "), 50_000)
	streams["nothing"] = nil
	for _, variant := range Variants {
		encoders, _, _ := ByVariant(variant)
		for name, stream := range streams {
			t.Run(variant+" "+name, func(t *testing.T) {
				p := newPair(t, Near{Encoders: encoders})
				from := p.connect()
				go func() {
					_, _ = from.Write(stream) // what is missing is found missing
					_ = from.(*net.UnixConn).CloseWrite()
				}()
				to := p.incoming()
				got, err := io.ReadAll(to)
				_ = to.Close()
				if err != nil || !bytes.Equal(got, stream) {
					t.Fatalf("%d bytes came out of %d (%v)", len(got), len(stream), err)
				}
				near, far := p.end("near", p.near), p.end("far", p.far)
				if near.err != nil || far.err != nil {
					t.Fatalf("near: %v; far: %v", near.err, far.err)
				}
				if !near.Equal || near.SHA256 != far.SHA256 || near.Bytes != int64(len(stream)) {
					t.Errorf("proof: %+v, %+v", near.Stats, far.Stats)
				}
				t.Logf("%d bytes, %d on the WAN, %d pages, warned %q", len(stream), near.WANOut, near.Pages, p.warned.all())
			})
		}
	}
}

func TestNothingIsHeldBack(t *testing.T) {
	p := newPair(t, Near{})
	from := p.connect()
	stream := guestStream(300, 1)
	// In the middle of a page, of a header, of a record's name, and after a page.
	at := 0
	var to net.Conn
	for _, until := range []int{3, 60, 66, 100, 5000, 5001, 9007, len(stream) - 3, len(stream)} {
		if _, err := from.Write(stream[at:until]); err != nil {
			t.Fatal(err)
		}
		if to == nil {
			to = p.incoming()
		}
		got := make([]byte, until-at)
		if err := to.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if n, err := io.ReadFull(to, got); err != nil {
			t.Fatalf("of bytes %d to %d came %d: %v", at, until, n, err)
		}
		if !bytes.Equal(got, stream[at:until]) {
			t.Fatalf("bytes %d to %d came otherwise", at, until)
		}
		at = until
		// And the other way.
		if _, err := fmt.Fprintf(to, "pong %4d", until); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, 32)
		if err := from.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(from, answer[:len(fmt.Sprintf("pong %4d", until))]); err != nil {
			t.Fatalf("the answer to byte %d: %v", until, err)
		}
	}
}

func TestFurtherConnectionsPass(t *testing.T) {
	p := newPair(t, Near{})
	main, more := p.connect(), net.Conn(nil)
	if _, err := main.Write([]byte("QEVM")); err != nil {
		t.Fatal(err)
	}
	to := p.incoming()
	more = p.connect()
	if _, err := more.Write([]byte("\x11\x22\x33\x44 pages")); err != nil {
		t.Fatal(err)
	}
	toMore := p.incoming()
	got := make([]byte, 10)
	if _, err := io.ReadFull(toMore, got); err != nil || string(got) != "\x11\x22\x33\x44 pages" {
		t.Fatalf("%q, %v", got, err)
	}
	_, _ = more.Close(), main.Close()
	for _, c := range []net.Conn{toMore, to} {
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
	}
	near := p.end("near", p.near)
	if near.err != nil || near.Streams != 2 {
		t.Fatalf("%v, %+v", near.err, near.Stats)
	}
	if said := p.warned.all(); !strings.Contains(said, "2 connections") {
		t.Errorf("warned of %q", said)
	}
}

// hangsUp waits until a connection has ended.
func hangsUp(t *testing.T, c net.Conn, what string) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second)) // one that is closed has ended
	buf := make([]byte, 1<<16)
	for {
		_, err := c.Read(buf)
		if err == nil {
			_, err = c.Write(buf)
		}
		if errors.Is(err, context.DeadlineExceeded) || err != nil && strings.Contains(err.Error(), "timeout") {
			t.Fatalf("%s: the connection to QEMU stays", what)
		}
		if err != nil {
			return
		}
	}
}

func TestWhoeverLeavesQEMUFindsOut(t *testing.T) {
	for name, c := range map[string]struct {
		leave func(p *pair, from, to net.Conn)
		near  string
		far   string
	}{
		"the near end is interrupted": {func(p *pair, _, _ net.Conn) { p.stop() }, "canceled", "near end"},
		"the far end is interrupted":  {func(p *pair, _, _ net.Conn) { p.leave() }, "far end", "canceled"},
		"the destination's QEMU dies": {func(_ *pair, _, to net.Conn) { _ = to.Close() }, "far end", "QEMU"},
		"the source's QEMU is cut off": {func(_ *pair, from, to net.Conn) {
			_ = from.Close()
			_, _ = io.Copy(io.Discard, to) // until the far end says that there is no more
			_ = to.Close()
		}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, Near{})
			from := p.connect()
			stream := guestStream(500, 1)
			if _, err := from.Write(stream[:len(stream)/2]); err != nil {
				t.Fatal(err)
			}
			to := p.incoming()
			if _, err := io.ReadFull(to, make([]byte, len(stream)/4)); err != nil {
				t.Fatal(err)
			}
			c.leave(p, from, to)
			if c.near != "" {
				go func() {
					for i := 0; i < 1000; i++ { // until it is noticed
						if _, err := from.Write(stream); err != nil {
							return
						}
					}
				}()
			}
			near := p.end("near", p.near)
			far := p.end("far", p.far)
			for _, e := range []struct {
				what, want string
				err        error
			}{{"near", c.near, near.err}, {"far", c.far, far.err}} {
				if e.want == "" && e.err != nil || e.want != "" && (e.err == nil || !strings.Contains(e.err.Error(), e.want)) {
					t.Errorf("the %s end says %v, expected %q in it", e.what, e.err, e.want)
				}
			}
			hangsUp(t, from, "source")
			hangsUp(t, to, "destination")
		})
	}
}
