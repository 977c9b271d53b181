package wanopt

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vpclab/vpclab/emu/migrate/wire"
)

// BenchmarkMoves moves real guests over a path of so many bits a second and 27 ms
// there and back, by QEMU's own modes and through the pair, and prints what each
// move took:
//
//	go test -run '^$' -bench Moves -benchtime 1x -timeout 30m ./emu/wanopt
//
// The path is a relay in this process, not a link: it has no segments and loses
// nothing. A move that is not over after hopeless is given up.
func BenchmarkMoves(b *testing.B) {
	const hopeless = 40 * time.Second
	for _, link := range []struct {
		name string
		rate float64 // bytes/s
	}{{"465Mbps", 465e6 / 8}, {"100Mbps", 100e6 / 8}} {
		for _, load := range []string{"web", "compile", "hot"} {
			for _, mode := range []string{"pre-copy", "multifd-zstd", Raw, CRE, Plain, All} {
				b.Run(link.name+"/"+load+"/"+mode, func(b *testing.B) {
					for range b.N {
						m := moveOver(b, load, mode, link.rate, hopeless)
						b.ReportMetric(m.total.Seconds(), "s")
						b.ReportMetric(float64(m.pause.Microseconds())/1e3, "pause-ms")
						b.ReportMetric(float64(m.bytes)/1e6, "MB")
						b.Log(m.said)
					}
				})
			}
		}
	}
}

type measured struct {
	total, pause time.Duration // 0: it never ended
	bytes        int64         // both ways
	said         string
}

func moveOver(b *testing.B, load, mode string, rate float64, hopeless time.Duration) (m measured) {
	source := boot(b, load)
	dir := b.TempDir()
	in := filepath.Join(dir, "in")
	dest := startVM(b, "none", true)
	r := newRelay(b, rate, 13500*time.Microsecond)
	parameters := map[string]any{"max-bandwidth": int64(512 << 20)}
	source.sets(b, parameters)
	dest.sets(b, parameters)
	ended := make(chan ended, 1)
	uri := "tcp:" + r.at.String()
	encoders, smart, paired := ByVariant(mode)
	if mode == "multifd-zstd" {
		for _, v := range []*vm{source, dest} {
			v.do(b, "migrate-set-capabilities", map[string]any{"capabilities": []capability{{"multifd", true}}}, nil)
			v.do(b, "migrate-set-parameters", map[string]any{"multifd-compression": "zstd", "multifd-channels": 2}, nil)
		}
	}
	dest.listens(b, in)
	if paired {
		uri = "unix:" + filepath.Join(dir, "out")
		near := nearOver(b, r, in, filepath.Join(dir, "out"), encoders)
		ready := make(chan struct{})
		go func() { ended <- near(source, smart, ready) }()
		<-ready
	} else {
		r.to <- Address{"unix", in}.Dial
	}
	stops, resumes := source.Subscribe("STOP"), dest.Subscribe("RESUME")
	ctx, cancel := context.WithTimeout(b.Context(), hopeless)
	defer cancel()
	began := time.Now()
	source.do(b, "migrate", map[string]any{"uri": uri}, nil)
	stop, err := stops.Next(ctx)
	if err != nil {
		m.bytes, m.said = r.carried.Load(), fmt.Sprintf("did not end in %v", hopeless)
		return m
	}
	resume := next(b, resumes)
	m.total, m.pause = time.Since(began), resume.T.Sub(stop.T)
	if paired {
		e := <-ended
		if e.err != nil || !e.Equal {
			b.Fatalf("the near end: %v", e.err)
		}
		m.said = fmt.Sprintf("%.1f MB of QEMU's, encoder CPU %v; %v", float64(e.Bytes)/1e6, e.CPU.Round(time.Millisecond), e.Stop)
	}
	m.bytes = r.carried.Load()
	dest.whole(b)
	return m
}

// nearOver readies a pair whose far end is behind the relay.
func nearOver(b *testing.B, r *relay, in, out string, encoders []string) func(source *vm, smart bool, ready chan<- struct{}) ended {
	l, err := wire.ListenTCP(b.Context(), netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		b.Fatal(err)
	}
	at, err := ParseAddress(l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	r.to <- at.Dial
	sessions := wire.Listen(l, realConfig())
	b.Cleanup(func() { _ = sessions.Close() })
	go func() {
		_, _ = Far{Accept: sessions.Accept, Dial: Address{"unix", in}.Dial}.Serve(b.Context()) // the near end says it
	}()
	listener, err := Address{"unix", out}.Listen(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = listener.Close() })
	n := Near{Encoders: encoders, Warn: func(what string) { b.Log("warned:", what) }, Open: func(ctx context.Context, channel uint8) (wire.Session, error) {
		c := realConfig()
		c.Channel, c.Dial = channel, wire.DialTCP(r.at)
		return wire.Open(ctx, c)
	}}
	return func(source *vm, smart bool, ready chan<- struct{}) ended {
		if !smart {
			close(ready)
			st, err := n.Serve(b.Context(), listener)
			return ended{st, err}
		}
		st, err := n.serveSmart(b.Context(), listener, source.Client, Rule{}, func() { close(ready) })
		return ended{st, err}
	}
}

// relay is a path: what goes in at at comes out where to leads, later by a delay,
// and all of it in one direction at no more than a rate.
type relay struct {
	at      netip.AddrPort
	to      chan func(context.Context) (net.Conn, error)
	rate    float64
	delay   time.Duration
	carried atomic.Int64
	lanes   [2]lane
}

// lane is one direction.
type lane struct {
	mu   sync.Mutex
	free time.Time // when all that was given has been sent
}

// relayQueue is how much waits in a path's queue at most, besides what is on the
// way.
const relayQueue = 256 << 10

func newRelay(tb testing.TB, rate float64, delay time.Duration) *relay {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	r := &relay{at: l.Addr().(*net.TCPAddr).AddrPort(), to: make(chan func(context.Context) (net.Conn, error), 1), rate: rate, delay: delay}
	tb.Cleanup(func() { _ = l.Close() })
	go func() {
		dial := (func(context.Context) (net.Conn, error))(nil)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if dial == nil {
				dial = <-r.to
			}
			far, err := dial(tb.Context())
			if err != nil {
				fmt.Fprintln(os.Stderr, "relay:", err)
				_ = c.Close()
				continue
			}
			go r.carry(&r.lanes[0], far, c)
			go r.carry(&r.lanes[1], c, far)
		}
	}()
	return r
}

// carry carries one direction of a connection to its end.
func (r *relay) carry(l *lane, to, from net.Conn) {
	type part struct {
		data []byte
		due  time.Time
	}
	const most = 16 << 10
	way := int(r.rate*r.delay.Seconds()) + relayQueue
	parts := make(chan part, way/most)
	go func() {
		defer close(parts)
		for {
			buf := make([]byte, most)
			n, err := from.Read(buf)
			if n > 0 {
				l.mu.Lock()
				now := time.Now()
				if l.free.Before(now) {
					l.free = now
				}
				l.free = l.free.Add(time.Duration(float64(n) / r.rate * float64(time.Second)))
				due := l.free.Add(r.delay)
				l.mu.Unlock()
				r.carried.Add(int64(n))
				parts <- part{buf[:n], due}
			}
			if err != nil {
				return
			}
		}
	}()
	var err error
	for p := range parts {
		time.Sleep(time.Until(p.due)) // what is waited for is a time
		if err == nil {
			_, err = to.Write(p.data)
		}
	}
	if err != nil && err != io.ErrClosedPipe {
		_ = from.Close() // it finds out
	}
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}
