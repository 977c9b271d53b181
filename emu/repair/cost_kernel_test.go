package repair_test

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/repair"
)

// star has a router with so many neighbours.
func star(leaves int) string {
	var b strings.Builder
	b.WriteString("name: star\ntopology:\n  backbone:\n    p: [hub]\n    recovery: {detect: [bfd]}\n    pe: [pe1")
	for i := range leaves - 1 {
		fmt.Fprintf(&b, ", pe%d", i+2)
	}
	b.WriteString("]\n    links:\n")
	for i := range leaves {
		fmt.Fprintf(&b, "      - {between: [pe%d, hub]}\n", i+1)
	}
	return b.String()
}

// spin is how much a program gets done that only computes, in rounds a second:
// what others take of the only processor is missing. The kernel's own accounts
// are by ticks of 10 ms, between which these processes run.
func spin(d time.Duration) float64 {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	began, rounds, x := event.Now(), 0, uint32(1)
	for event.Now().Sub(began) < d {
		for range 10_000 {
			x = x*1664525 + 1013904223
		}
		rounds++
	}
	if x == 0 {
		rounds++ // so that the loop is not optimized away
	}
	return float64(rounds) / event.Now().Sub(began).Seconds()
}

// watching is how long each way of watching is measured, times; VPCLAB_WATCH
// makes it more.
func watching() int {
	n := 3
	_, _ = fmt.Sscan(os.Getenv("VPCLAB_WATCH"), &n)
	return n
}

// TestWhatSessionsCost measures what is left of a processor by routers that watch
// their neighbours, and whether any of them is taken for dead meanwhile. The
// ways take turns, so that each meets the same noise.
func TestWhatSessionsCost(t *testing.T) {
	const window = 500 * time.Millisecond
	r := begin(t, star(10))
	fast, slow := repair.Timers{Interval: 10 * time.Millisecond, Multiplier: 3}, repair.Timers{Interval: 50 * time.Millisecond, Multiplier: 3}
	ways := []struct {
		what   string
		links  int
		timers repair.Timers
	}{{"nobody watches", 0, repair.Timers{}}, {"2 routers, 1 link, 10 ms x 3", 1, fast}, {"11 routers, 10 links, 10 ms x 3", 10, fast}, {"11 routers, 10 links, 50 ms x 3", 10, slow}}
	left, dead, packets := make([][]float64, len(ways)), make([]int, len(ways)), make([]float64, len(ways))
	for range watching() {
		for i, w := range ways {
			r.watch(w.links, w.timers)
			mark, before := r.now(), r.sent()
			left[i] = append(left[i], spin(window))
			packets[i] += float64(r.sent()-before) / window.Seconds() / float64(watching())
			dead[i] += r.count(mark, "liveness.down")
		}
	}
	alone := middle(left[0])
	for i, w := range ways[1:] {
		t.Logf("%s: %.1f %% of the processor, %.0f packets a second; %d taken for dead in %v", w.what,
			100*(1-middle(left[i+1])/alone), packets[i+1], dead[i+1], time.Duration(watching())*window)
	}
}

func middle(list []float64) float64 {
	sorted := slices.Sorted(slices.Values(list))
	return sorted[len(sorted)/2]
}

// watch has the first links of the hub be watched from both ends.
func (r *routers) watch(links int, timers repair.Timers) {
	r.t.Helper()
	for node, cfg := range r.configs {
		cfg.BFD = timers
		if node == "hub" {
			cfg.Links = cfg.Links[:links]
		} else if !slices.ContainsFunc(r.configs["hub"].Links[:links], func(l repair.Link) bool { return l.Dev == node }) {
			cfg.Links = nil
		}
		if err := r.procs[node].Configure(r.limit(), cfg); err != nil {
			r.t.Fatal(err)
		}
	}
	r.awake()
}

// sent is how many packets all routers have sent.
func (r *routers) sent() (n uint64) {
	for _, p := range r.procs {
		st, err := p.Status(r.limit())
		if err != nil {
			r.t.Fatal(err)
		}
		for _, s := range st.Sessions {
			n += s.Sent
		}
	}
	return n
}
