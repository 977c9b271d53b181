package codec_test

import (
	"flag"
	"math/bits"
	"testing"
	"time"

	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/migrate/codec"
)

var workloadMemory = flag.Int64("workload.memory", 8, "MiB of the workloads' memories")

// sent is what an encoder made of a workload's memory, pass by pass: all of it,
// and then what was written while the pass before was on its way.
type sent struct {
	pages, bytes [6]int
	cpu          time.Duration
}

func (s sent) later() (n int) {
	for _, b := range s.bytes[1:] {
		n += b
	}
	return n
}

// passes sends a workload's memory by one encoder. Each has the same writes: as
// many as fit the times that a migration over about 100 Mb/s takes.
func passes(t *testing.T, workload string, memory int64, c codec.Config, pressure float64) (s sent) {
	t.Helper()
	r, err := guest.NewReplay(guest.Spec{Name: "vm", Memory: memory, Workload: workload, Seed: 7}, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c.Pages = len(r.Memory()) / codec.PageSize
	e, err := codec.NewEncoder(c)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	for range 30 {
		e.Pressure(pressure)
	}
	pages := make([]uint32, c.Pages)
	for i := range pages {
		pages[i] = uint32(i)
	}
	var data, out []byte
	for pass, lasted := range [len(s.bytes)]time.Duration{2000, 700, 500, 400, 300, 300} {
		s.pages[pass] = len(pages)
		const batch = 256
		for len(pages) > 0 {
			now := pages[:min(batch, len(pages))]
			pages = pages[len(now):]
			data = data[:0]
			for _, p := range now {
				data = append(data, r.Memory()[int(p)*codec.PageSize:][:codec.PageSize]...)
			}
			out = e.Encode(out[:0], now, data)
			s.bytes[pass] += len(out)
		}
		share := float64(memory) / (64 << 20)
		if err := r.Advance(time.Duration(float64(lasted*time.Millisecond) * share)); err != nil {
			t.Fatal(err)
		}
		written := make([]uint64, (c.Pages+63)/64)
		r.Collect(written)
		for i, w := range written {
			for ; w != 0; w &= w - 1 {
				pages = append(pages, uint32(i*64+bits.TrailingZeros64(w)))
			}
		}
	}
	for _, u := range e.Usage() {
		s.cpu += u.CPU
	}
	return s
}

// TestOwnBeatsCloudNetOnWorkloads sends the memory of each workload and what it
// writes. Our own takes fewer bytes than CloudNet's redundancy elimination and
// deltas, in the first pass, in later ones, and in the last, which a VM's pause
// waits for; at any pressure of the link. The table of docs/performance.md is of
// 64 MiB:
//
//	go test -v -run Workloads ./emu/migrate/codec -args -workload.memory 64
func TestOwnBeatsCloudNetOnWorkloads(t *testing.T) {
	memory := *workloadMemory << 20
	ways := []struct {
		name     string
		c        codec.Config
		pressure float64
	}{
		{"CloudNet", codec.Config{CBR: true, Delta: true}, 0},
		{"CloudNet, zip", codec.Config{CBR: true, Delta: true, Compress: "zip"}, 0},
		{"zip", codec.Config{Zero: true, Compress: "zip"}, 0},
		{"vpclab, link waits", codec.Config{Own: true, Zero: true}, 0},
		{"vpclab, pressure 0.5", codec.Config{Own: true, Zero: true}, 0.5},
		{"vpclab, pressure 1", codec.Config{Own: true, Zero: true}, 1},
	}
	for _, workload := range []string{guest.TPCW, guest.KernelBuild, guest.SPECjbb, guest.MMuncher, guest.Idle} {
		var base sent
		for i, way := range ways {
			s := passes(t, workload, memory, way.c, way.pressure)
			all := 0
			for _, n := range s.pages {
				all += n * codec.PageSize
			}
			last := len(s.bytes) - 1
			t.Logf("| %s | %s | %.2f of %.2f | %.2f of %.2f | %.3f of %.2f | %.0f |", workload, way.name,
				float64(s.bytes[0])/1e6, float64(s.pages[0]*codec.PageSize)/1e6,
				float64(s.later())/1e6, float64(all-s.pages[0]*codec.PageSize)/1e6,
				float64(s.bytes[last])/1e6, float64(s.pages[last]*codec.PageSize)/1e6,
				float64(all)/1e6/s.cpu.Seconds())
			switch {
			case i == 0:
				base = s
			case !way.c.Own:
			case s.bytes[0] >= base.bytes[0], s.later() > base.later(), s.bytes[last] > base.bytes[last]:
				t.Errorf("%s: %s takes %d bytes at first, %d later, %d in the end; CloudNet %d, %d, %d", workload, way.name,
					s.bytes[0], s.later(), s.bytes[last], base.bytes[0], base.later(), base.bytes[last])
			}
		}
	}
}
