package guest

import (
	"fmt"
	"testing"
	"time"
)

func gib(workload string, scale float64) Spec {
	return Spec{Name: workload, Memory: int64(scale*(1<<30)) &^ (PageSize - 1), Workload: workload, Scale: scale, Seed: 1}
}

func mb(pages int, scale float64) float64 { return float64(pages) * PageSize / (1<<20) / scale }

func TestTableOfTheModel(t *testing.T) {
	scale, window := 1.0/16, 3
	fmt.Println("scale", scale)
	for _, w := range []string{SPECjbb, KernelBuild, TPCW} {
		for _, rate := range []float64{50, 100, 310, 622, 1000} {
			var a [12]float64
			const seeds = 5
			for seed := range seeds {
				spec := gib(w, scale)
				spec.Seed = uint64(seed + 1)
				x := newModel(spec, rate).migrate(29, 0)
				sm := newModel(spec, rate).migrate(29, window)
				r := x.rounds
				mid, lo, hi := 0, 1<<30, 0
				for _, y := range r[3 : len(r)-1] {
					lo, hi = min(lo, y.dirtied), max(hi, y.dirtied)
				}
				for _, y := range r[2 : len(r)-1] {
					mid += y.sent
				}
				last := r[len(r)-1]
				for i, v := range []float64{mb(r[0].sent, scale), mb(r[1].sent, scale), mb(r[1].final, scale), mb(mid, scale) / float64(max(1, len(r)-3)), mb(last.sent, scale),
					float64(x.sent) / (1 << 20) / scale, x.total.Seconds() / scale, x.pause.Seconds() / scale, float64(lo) / float64(max(1, hi)),
					float64(len(sm.rounds)), 100 - 100*float64(sm.sent)/float64(x.sent), sm.pause.Seconds() / scale} {
					a[i] += v / seeds
				}
			}
			fmt.Printf("%-12s %5.0f: it1 %4.0f it2 %4.0f(%3.0f) mid %5.1f last %5.1f | data %5.0f total %5.1fs pause %5.2fs | tail %.2f | smart n %.1f cut %.0f%% pause %.2f\n",
				w, rate, a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11])
		}
		m := newModel(gib(w, scale), 100)
		for _, d := range []time.Duration{60, 150, 260, 500, 1000, 1700, 3000, 14000, 80000} {
			n := 20
			if d >= 3000 {
				n = 2
			}
			fmt.Printf(" U(%d ms)=%.0f", d, mb(m.unique(time.Duration(float64(d)*scale)*time.Millisecond, n), scale))
		}
		fmt.Println()
	}
}
