package codec

import (
	"fmt"
	"runtime"
	"testing"
	"time"
)

// benchBatch is about what an engine sends at a time.
const benchBatch = 512

// contents are memories of one kind each.
func contents(pages int) []struct {
	name   string
	memory []byte
} {
	r := seeded(1)
	zero := make([]byte, pages*PageSize)
	for i := range zero {
		zero[i] = 1 // or all its pages are the same one of the machine's
	}
	clear(zero)
	copies := make([]byte, pages*PageSize)
	for i := range pages {
		if i < 64 {
			fillRecords(r, at(copies, i))
		} else {
			copy(at(copies, i), at(copies, r.IntN(64)))
		}
	}
	noise := make([]byte, pages*PageSize)
	fillRandom(r, noise)
	heap := make([]byte, pages*PageSize)
	for i := range pages {
		fillRecords(r, at(heap, i))
	}
	return []struct {
		name   string
		memory []byte
	}{{"zero", zero}, {"duplicate", copies}, {"incompressible", noise}, {"heap", heap}, {"mixed", mixed(r, pages)}}
}

// codes are the ways to encode that are compared.
var codes = []struct {
	name string
	c    Config
}{
	{"raw", Config{}},
	{"zero", Config{Zero: true}},
	{"lz4", Config{Zero: true, Compress: "lz4"}},
	{"zstd-1", Config{Zero: true, Compress: "zstd-1"}},
	{"zstd-3", Config{Zero: true, Compress: "zstd-3"}},
	{"zip", Config{Zero: true, Compress: "zip"}},
	{"cbr", Config{CBR: true}},
	{"cloudnet", Config{CBR: true, Delta: true}},
	{"cbr+zstd-1", Config{CBR: true, Zero: true, Compress: "zstd-1"}},
	{"vpclab", Config{Own: true, Zero: true}},
}

// encodeAll encodes a whole memory by a new encoder and gives the batches.
func encodeAll(tb testing.TB, c Config, memory []byte, p float64) ([][]byte, time.Duration) {
	return encodeInto(tb, c, memory, p, make([]byte, 0, len(memory)+len(memory)/8+1<<20))
}

// encodeInto does it into room, so that what it measures is not page faults.
func encodeInto(tb testing.TB, c Config, memory []byte, p float64, room []byte) ([][]byte, time.Duration) {
	c.Pages = len(memory) / PageSize
	e, err := NewEncoder(c)
	if err != nil {
		tb.Fatal(err)
	}
	defer e.Close()
	if o, ok := e.(*ownEncoder); ok {
		o.shadow.memory.fill() // page faults are the kernel's speed
	}
	for range 20 {
		e.Pressure(p)
	}
	defer func() {
		if testing.Verbose() {
			for _, u := range e.Usage() {
				tb.Logf("%-8s %6d units, %8d -> %8d bytes, %v, %d false", u.Name, u.Units, u.In, u.Out, u.CPU, u.False)
			}
		}
	}()
	pages := all(memory)
	var out [][]byte
	took := stopwatch()
	for len(pages) > 0 {
		now := pages[:min(benchBatch, len(pages))]
		pages = pages[len(now):]
		from := int(now[0]) * PageSize
		before := len(room)
		room = e.Encode(room, now, memory[from:from+len(now)*PageSize])
		out = append(out, room[before:])
	}
	return out, took()
}

func decodeAll(tb testing.TB, c Config, memory []byte, batches [][]byte) time.Duration {
	c.Pages = len(memory) / PageSize
	d, err := NewDecoder(c)
	if err != nil {
		tb.Fatal(err)
	}
	defer d.Close()
	took := stopwatch()
	for _, b := range batches {
		if err := d.Decode(memory, b, func(int) {}); err != nil {
			tb.Fatal(err)
		}
	}
	return took()
}

// stopwatch measures CPU of this thread, on which the goroutine stays until it is
// stopped: what others do on a busy machine is not counted.
func stopwatch() (stop func() time.Duration) {
	runtime.LockOSThread()
	began := cpuNow()
	return func() time.Duration {
		defer runtime.UnlockOSThread()
		return cpuNow() - began
	}
}

// copyRate is what memcpy does with as many bytes, in bytes a second.
func copyRate(memory []byte) float64 {
	to := make([]byte, len(memory))
	copy(to, memory)
	best := time.Hour
	for range 5 {
		took := stopwatch()
		copy(to, memory)
		best = min(best, took())
	}
	return float64(len(memory)) / best.Seconds()
}

// BenchmarkCodec moves a memory of each kind by each encoder: MB/s of memory on
// one core, the same in Gb/s, as a share of memcpy, and bytes out a byte in.
func BenchmarkCodec(b *testing.B) {
	const pages = 16384
	for _, content := range contents(pages) {
		rate := copyRate(content.memory)
		for _, code := range codes {
			run := func(name string, once func() time.Duration, out int64) {
				b.Run(fmt.Sprintf("%s/%s/%s", content.name, code.name, name), func(b *testing.B) {
					b.SetBytes(int64(len(content.memory)))
					best := time.Hour
					n := 0
					for b.Loop() {
						best = min(best, once())
						n++
					}
					speed := float64(len(content.memory)) / best.Seconds()
					b.ReportMetric(speed/1e6, "MB/s-best")
					b.ReportMetric(speed*8/1e9, "Gb/s")
					b.ReportMetric(speed/rate, "memcpy")
					b.ReportMetric(float64(out)/float64(len(content.memory)), "out/in")
				})
			}
			room := make([]byte, 0, len(content.memory)+len(content.memory)/8+1<<20)
			batches, _ := encodeAll(b, code.c, content.memory, 0)
			var out int64
			for _, batch := range batches {
				out += int64(len(batch))
			}
			run("encode", func() time.Duration {
				_, took := encodeInto(b, code.c, content.memory, 0, room)
				return took
			}, out)
			target := make([]byte, len(content.memory))
			run("decode", func() time.Duration { return decodeAll(b, code.c, target, batches) }, out)
		}
	}
}
