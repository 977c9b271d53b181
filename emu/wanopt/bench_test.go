package wanopt

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// BenchmarkPair sends the stream of a guest of 64 MiB through both ends, on one
// machine: what a stream of a guest's bytes is done with in a second, as a share of
// the rate at which this machine copies memory, and of the link's; and how many
// bytes of the stream there are for one on the WAN. Where the share of the link is
// near 100 %, the link is what it waits for.
//
//	go test -run '^$' -bench Pair -benchtime 1x ./emu/wanopt
func BenchmarkPair(b *testing.B) {
	stream := benchStream(16 << 10)
	memory := copyRate()
	for _, link := range []struct {
		name string
		rate float64 // bytes/s; 0: loopback
	}{{"loopback", 0}, {"465Mbps", 465e6 / 8}, {"100Mbps", 100e6 / 8}} {
		for _, variant := range []string{Raw, CRE, All} {
			b.Run(link.name+"/"+variant, func(b *testing.B) {
				encoders, _, _ := ByVariant(variant)
				for range b.N {
					p := newPairOver(b, Near{Encoders: encoders}, link.rate)
					from := p.connect()
					began := time.Now()
					go func() {
						_, _ = from.Write(stream) // what is missing is found missing
						_ = from.(*net.UnixConn).CloseWrite()
					}()
					to := p.incoming()
					n, err := io.Copy(io.Discard, to)
					took := time.Since(began).Seconds()
					_ = to.Close()
					near := p.end("near", p.near)
					if err != nil || near.err != nil || n != int64(len(stream)) {
						b.Fatal(err, near.err, n)
					}
					rate := float64(n) / took
					b.ReportMetric(rate/1e6, "MB/s")
					b.ReportMetric(100*rate/memory, "%memory")
					b.ReportMetric(float64(n)/float64(near.WANOut), "ratio")
					b.ReportMetric(near.CPU.Seconds()/(float64(n)/1e9), "CPU-s/GB") // of both ends: one process
					if link.rate > 0 {
						b.ReportMetric(100*float64(near.WANOut)/took/link.rate, "%link")
					}
				}
			})
		}
	}
}

// copyRate is how many bytes a second one thread copies.
func copyRate() float64 {
	from, to := make([]byte, 64<<20), make([]byte, 64<<20)
	copy(to, from)
	began := time.Now()
	copy(to, from)
	return float64(len(from)) / time.Since(began).Seconds()
}

// benchStream is a stream of so many pages, a quarter of zeros, some copies, the
// rest half noise, and two more passes over a third of them in which a sixteenth of
// a page changes.
func benchStream(pages int) []byte {
	r := rand.New(rand.NewPCG(5, 6))
	m := new(made)
	m.text("QEVM\x00\x00\x00\x03\x01\x00\x00\x00\x02").text(string(memoryStart))
	m.u64(uint64(pages)*pageSize | recordSize).text("\x06pc.ram").u64(uint64(pages) * pageSize).u64(recordEnd).text("\x7e\x00\x00\x00\x02")
	g := guestMemory{memory: make([]byte, pages*pageSize), versions: make([]uint32, pages), l: load{bytes: 256}}
	for pass := range 3 {
		m.text("\x02\x00\x00\x00\x02")
		name := uint64(0)
		for page := range pages {
			if pass > 0 && r.IntN(3) > 0 {
				continue
			}
			at := uint64(page) * pageSize
			content := g.memory[at : at+pageSize]
			kind := uint64(recordPage)
			switch {
			case page%4 == 0 && pass == 0:
				kind = recordZero
			case page%16 == 1 && pass == 0 && page > 16:
				copy(content, g.memory[at-16*pageSize:])
			default:
				g.write(page, 256)
			}
			m.u64(at | kind | name)
			if name == 0 {
				m.text("\x06pc.ram")
			}
			if kind == recordZero {
				m.WriteByte(0)
			} else {
				m.Write(content)
			}
			name = recordGoesOn
		}
		m.u64(recordEnd).text("\x7e\x00\x00\x00\x02")
	}
	return m.text("\x00").Bytes()
}

// paced is a connection that takes so many bytes a second, as a link with a short
// queue does.
type paced struct {
	net.Conn
	rate float64
	mu   sync.Mutex
	free time.Time // when the link has sent what it was given
}

const pacedQueue = 5 * time.Millisecond

func (p *paced) Write(b []byte) (n int, err error) {
	for len(b) > 0 && err == nil {
		part := b[:min(len(b), 16<<10)]
		p.mu.Lock()
		now := time.Now()
		if p.free.Before(now) {
			p.free = now
		}
		p.free = p.free.Add(time.Duration(float64(len(part)) / p.rate * float64(time.Second)))
		wait := p.free.Sub(now) - pacedQueue
		p.mu.Unlock()
		if wait > 0 {
			time.Sleep(wait) // what is waited for is a time
		}
		var k int
		k, err = p.Conn.Write(part)
		n += k
		b = b[len(part):]
	}
	return n, err
}

// pacedDial makes connections that are.
func pacedDial(dial func(context.Context) (net.Conn, error), rate float64) func(context.Context) (net.Conn, error) {
	if rate == 0 {
		return dial
	}
	return func(ctx context.Context) (net.Conn, error) {
		c, err := dial(ctx)
		if err != nil {
			return nil, err
		}
		return &paced{Conn: c, rate: rate}, nil
	}
}
