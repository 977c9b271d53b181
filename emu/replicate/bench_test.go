package replicate

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	workloads "github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/migrate/codec"
	"github.com/vpclab/vpclab/emu/migrate/wire"
)

// What one checkpoint costs, on the traces of calibrated workloads: how long the
// VM stands, what the encoders take and what they give. Beside the stop stands
// what it takes to copy, at the speed of memory, all that changed: a checkpoint
// that copies while the VM stands cannot be shorter. The VM runs on a clock of its
// own, so that nothing but the checkpoint is measured; a link is not there. Times
// are medians: the machine stalls now and then.
//
//	go test -run '^$' -bench Checkpoint -benchtime 60x ./emu/replicate

// benchScale is a sixteenth of the published workloads' 1 GiB.
const benchScale = 1.0 / 16

// nowhere is a session that takes everything at once.
type nowhere struct {
	wire.Session
	bytes int64
}

func (n *nowhere) Send(_ context.Context, _ wire.Type, b []byte) error {
	n.bytes += int64(len(b)) + 24 // a frame's header
	return nil
}
func (n *nowhere) Waiting() time.Duration { return 0 }
func (n *nowhere) Stats() wire.Stats      { return wire.Stats{Out: n.bytes} }
func (n *nowhere) Close() error           { return nil }

// replayed is a workload as a primary.
type replayed struct {
	*workloads.Replay
	b     testing.TB
	began event.Mono // of the copying before the stop, then of the stop
	stops []time.Duration
}

func (r *replayed) Disk() Disk { return nil }

// Checkpoint lets the VM write first what it would have written while pages were
// copied.
func (r *replayed) Checkpoint(context.Context, bool) (event.Mono, []byte, error) {
	if err := r.Advance(event.Now().Sub(r.began)); err != nil {
		r.b.Fatal(err)
	}
	r.began = event.Now()
	return r.began, make([]byte, 512), nil
}

func (r *replayed) Resume(context.Context) error {
	r.stops = append(r.stops, event.Now().Sub(r.began))
	return nil
}

// bandwidth is how fast this machine copies memory page by page, in bytes a second.
func bandwidth(b testing.TB) float64 {
	const pages = 8192
	from, to := mapMemory(b, pages), mapMemory(b, pages)
	for i := range from {
		from[i], to[i] = byte(i), 1
	}
	best := time.Hour
	for range 5 {
		began := time.Now()
		for i := 0; i < len(from); i += pageSize {
			copy(to[i:i+pageSize], from[i:i+pageSize])
		}
		best = min(best, time.Since(began))
	}
	return float64(len(from)) / best.Seconds()
}

func BenchmarkCheckpoint(b *testing.B) {
	speed := bandwidth(b)
	b.Logf("memory is copied at %.1f GB/s", speed/1e9)
	for _, w := range []string{workloads.TPCW, workloads.KernelBuild, workloads.Idle} {
		for _, rate := range []int{10, 20, 30, 40} {
			for _, enc := range [][]string{{"vpclab"}, {"zero", "delta"}, {"raw"}} {
				b.Run(fmt.Sprintf("%s/%d/%s", w, rate, enc[len(enc)-1]), func(b *testing.B) {
					benchCheckpoint(b, w, time.Second/time.Duration(rate), enc, speed)
				})
			}
		}
	}
}

func benchCheckpoint(b *testing.B, workload string, epoch time.Duration, encoders []string, speed float64) {
	ctx := context.Background()
	spec := workloads.Spec{Name: "vm", Memory: int64(benchScale * (1 << 30)), Workload: workload, Seed: 1, Scale: benchScale}
	replay, err := workloads.NewReplay(spec, b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer replay.Close()
	vm := &replayed{Replay: replay, b: b}
	p, err := NewPrimary(vm, nil, Options{Mode: Async, Epoch: epoch, Encoders: encoders}, Tell{})
	if err == nil {
		err = p.begin()
	}
	if err != nil {
		b.Fatal(err)
	}
	defer p.finish()
	out := &nowhere{}
	s := benchSender(b, p, out)
	defer s.close()
	// The memory is there, and so are two seconds of the VM's life.
	p.owed.fill(p.pages)
	for i := range 5 {
		if i > 0 {
			if err := replay.Advance(500 * time.Millisecond); err != nil {
				b.Fatal(err)
			}
		}
		benchOne(b, ctx, s, vm)
	}
	vm.stops, out.bytes = nil, 0
	var pages, late int
	var sending []time.Duration
	cpu := s.encoded
	runtime.GC()
	b.ResetTimer()
	for range b.N {
		b.StopTimer()
		if err := replay.Advance(epoch); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		took := benchOne(b, ctx, s, vm)
		sending = append(sending, took)
		pages += len(p.pagesOf.units)
		late += len(p.pagesOf.units) - p.pagesOf.early
	}
	b.StopTimer()
	n := float64(b.N)
	raw := float64(pages) * pageSize
	stop, all := median(vm.stops).Seconds(), raw/speed/n
	b.ReportMetric(float64(pages)/n, "pages/epoch")
	b.ReportMetric(float64(late)/n, "late/epoch")
	b.ReportMetric(float64(out.bytes)/1e3/n, "kB/epoch")
	b.ReportMetric(raw/float64(max(out.bytes, 1)), "raw/sent")
	b.ReportMetric(stop*1e6, "stop-µs")
	b.ReportMetric(all*1e6, "copy-µs")
	b.ReportMetric(stop/all, "stop/copy")
	b.ReportMetric(median(sending).Seconds()*1e3, "encode-ms")
	if c := s.encoded - cpu; c > 0 {
		b.ReportMetric(raw/1e6/c.Seconds(), "encode-MB/s")
	}
	b.ReportMetric(0, "ns/op")
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

func benchSender(b testing.TB, p *PrimaryEnd, out wire.Session) *sender {
	t, err := newTie(out)
	if err != nil {
		b.Fatal(err)
	}
	s := &sender{PrimaryEnd: p, tie: t}
	cfg, err := p.opt.codec(p.pages)
	if err == nil {
		s.enc, err = codec.NewEncoder(cfg)
	}
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// benchOne takes one checkpoint and sends it; took is the sending.
func benchOne(b testing.TB, ctx context.Context, s *sender, vm *replayed) (took time.Duration) {
	f := &flight{}
	vm.began = event.Now()
	state, err := s.take(ctx, f)
	if err == nil {
		f.pages = s.pagesOf.units
		s.depart(f)
		began := time.Now()
		err = s.send(ctx, f, state)
		took = time.Since(began)
	}
	if err != nil {
		b.Fatal(err)
	}
	s.way = nil // it is acknowledged
	return took
}

// BenchmarkAnswer is how long clients wait for an answer, by mode and round trip,
// of a program that writes to its disk a number of times before, each time waiting
// until that is done. Its own part is nothing, so all of it is the price of the
// mode.
//
//	go test -run '^$' -bench Answer -benchtime 1x ./emu/replicate
func BenchmarkAnswer(b *testing.B) {
	for _, rtt := range []time.Duration{time.Millisecond, 20 * time.Millisecond, 80 * time.Millisecond} {
		for i := range 2 * len(modes) {
			mode, writes := modes[i/2], 1+4*(i%2)
			b.Run(fmt.Sprintf("%s/rtt=%v/writes=%d", mode, rtt, writes), func(b *testing.B) {
				p := newPair(b, Options{Mode: mode, Silence: 10 * time.Second}, 60e6, rtt/2)
				p.vm.serial = writes
				p.vm.run(1, 4*time.Millisecond)
				p.startStandby()
				p.startPrimary()
				await(b, "the standby to be in sync", p.synced)
				p.gate.mu.Lock()
				p.gate.began = map[uint64]time.Time{}
				p.gate.mu.Unlock()
				p.flows(400 * b.N)
				p.gate.mu.Lock()
				took := slices.Clone(p.gate.took)
				p.gate.mu.Unlock()
				slices.Sort(took)
				b.ReportMetric(took[len(took)/2].Seconds()*1e3, "p50-ms")
				b.ReportMetric(took[len(took)*95/100].Seconds()*1e3, "p95-ms")
				commits := p.primary.Report().Commits
				slices.Sort(commits)
				b.ReportMetric(commits[len(commits)/2].Seconds()*1e3, "commit-p50-ms")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}
