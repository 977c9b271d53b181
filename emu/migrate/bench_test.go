package migrate

import (
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	workloads "github.com/vpclab/vpclab/emu/guest"
)

// benchPages is a memory of 64 MiB.
const benchPages = 16384

// benchContents are memories of one kind of page, and the mixture that a web
// shop has.
func benchContents(b *testing.B) []struct {
	name   string
	memory []byte
} {
	random := make([]byte, benchPages*PageSize)
	r := rand.New(rand.NewPCG(1, 2))
	for i := 0; i < len(random); i += 8 {
		binary.LittleEndian.PutUint64(random[i:], r.Uint64())
	}
	twice := make([]byte, len(random))
	for at := 0; at < len(twice); at += 16 * PageSize {
		copy(twice[at:at+16*PageSize], random)
	}
	folder := b.TempDir()
	replay, err := workloads.NewReplay(workloads.Spec{Name: "vm", Memory: benchPages * PageSize, Workload: workloads.TPCW, Seed: 1}, folder)
	if err != nil {
		b.Fatal(err)
	}
	defer replay.Close()
	mixed := append([]byte{}, replay.Memory()...)
	return []struct {
		name   string
		memory []byte
	}{{"zero", make([]byte, len(random))}, {"duplicate", twice}, {"incompressible", random}, {"tpcw", mixed}}
}

// BenchmarkPipeline moves a memory over loopback TCP, both ends in this
// process: MB of memory a second, as a share of memcpy and of a plain copy over
// TCP; and processor time of both ends and the kernel, with the proof after the
// hand-over. It is limited to one processor by -cpu 1.
func BenchmarkPipeline(b *testing.B) {
	for _, content := range benchContents(b) {
		g := newGuest(b, benchPages, 1)
		copy(g.from.memory, content.memory)
		copy(g.to.memory, content.memory) // faults are not what is measured
		memcpy := fastest(5, func() { copy(g.to.memory, g.from.memory) })
		plain := fastest(3, func() { plainCopy(b, g.to.memory, g.from.memory) })
		mb := float64(len(content.memory)) / 1e6
		for _, algorithm := range []string{StopAndCopy, Xen30, CloudNet, Own, PostCopy} {
			b.Run(content.name+"/"+algorithm, func(b *testing.B) {
				b.SetBytes(int64(len(content.memory)))
				best, out, used := time.Hour, int64(0), cpu()
				for b.Loop() {
					g.arb = &judge{}
					g.lacking = nil
					g.at.Store(g.from)
					opt := Options{Algorithm: algorithm}
					tr := (&wan{}).join(b, opt.Urgent(), 5*time.Second)
					s, _, serr, terr := move(b, g, tr, opt, opt)
					if serr != nil || terr != nil {
						b.Fatal(serr, terr)
					}
					tr.close()
					best, out = min(best, s.Total()), s.BytesOut
				}
				// On a machine that others use too, this tells more than the time.
				b.ReportMetric(float64((cpu()-used).Nanoseconds())/1e3/benchPages/float64(b.N), "cpu-us/page")
				b.ReportMetric(mb/best.Seconds(), "MB/s-best")
				b.ReportMetric(mb/best.Seconds()*8/1000, "Gb/s")
				b.ReportMetric(memcpy.Seconds()/best.Seconds(), "memcpy")
				b.ReportMetric(plain.Seconds()/best.Seconds(), "tcp")
				b.ReportMetric(float64(out)/float64(len(content.memory)), "out/in")
			})
		}
	}
}

func fastest(n int, do func()) time.Duration {
	best := time.Hour
	for range n {
		began := time.Now()
		do()
		best = min(best, time.Since(began))
	}
	return best
}

// plainCopy sends from to to over a TCP connection, and does nothing else.
func plainCopy(b *testing.B, to, from []byte) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			defer c.Close()
			_, err = io.ReadFull(c, to)
		}
		done <- err
	}()
	c, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(context.Background(), "tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(from); err != nil {
		b.Fatal(err)
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}

// BenchmarkProof is what the 256-bit hashes of a memory cost.
func BenchmarkProof(b *testing.B) {
	for _, content := range benchContents(b) {
		b.Run(content.name, func(b *testing.B) {
			b.SetBytes(int64(len(content.memory)))
			p := newProof(benchPages)
			for b.Loop() {
				p.over(content.memory)
				p.root()
			}
		})
	}
}
