package speed

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/metrics"
)

// Where the guard barks: twice what the kernel itself costs, and a little that
// does not grow with the lab. docs/performance.md has what is really reached;
// the room is for machines that are busy.
const (
	guardRatio = 2
	guardFixed = 0.030 // seconds
)

// A guard of few rounds can be unlucky: it goes on while it is.
const (
	guardMachines = 200
	guardRounds   = 3
	guardPatience = 15
)

// TestBuildNearFloor fails when building or destroying a lab costs more than
// guardRatio times the floor, measured in turns with it.
func TestBuildNearFloor(t *testing.T) {
	kerneltest.Need(t)
	c := newContest(guardMachines, []contestant{{name: "floor", build: floor}, {name: "vpclab", build: ours}})
	require.NoError(t, c.warmUp())
	var bad []string
	for i := range guardPatience {
		require.NoError(t, c.round())
		if i+1 < guardRounds {
			continue
		}
		if bad = c.far(); len(bad) == 0 {
			break
		}
	}
	for _, x := range c.contestants {
		t.Logf("%s: build %s s, destroy %s s", x.name, spread(metrics.Summarize(c.seconds(x.name, lap.up))), spread(metrics.Summarize(c.seconds(x.name, lap.down))))
	}
	for _, line := range bad {
		t.Error(line)
	}
}

// far says where vpclab is too far from the floor. Medians are compared, not
// the median of ratios: one part of a small star's end is over in a hundredth
// of a second.
func (c *contest) far() (bad []string) {
	for _, x := range []struct {
		what string
		part func(lap) time.Duration
	}{{"building", lap.up}, {"destroying", lap.down}} {
		base, is := metrics.Summarize(c.seconds("floor", x.part)), metrics.Summarize(c.seconds("vpclab", x.part))
		if most := guardRatio*base.Median + guardFixed; is.Median > most {
			bad = append(bad, fmt.Sprintf("%s %d machines takes %.3f s, where the floor takes %.3f: more than %.3f (medians of %d)",
				x.what, c.n, is.Median, base.Median, most, is.N))
		}
	}
	return bad
}

// peers are the others that take part, too: they need minutes.
var peers = flag.String("peers", "library,ip,mininet", "who builds beside vpclab and the floor: some of library, ip and mininet, or none")

// contestants are all that take part in the benchmark. Who needs minutes takes
// part in few rounds.
func contestants() []contestant {
	all := []contestant{{name: "floor", build: floor}, {name: "vpclab", build: ours}}
	for _, p := range []struct {
		flag string
		contestant
	}{
		{"library", contestant{name: "netlink library", build: library, rounds: func(n int) (int, string) {
			return upTo(n, []limit{{100, -1}, {1000, 3}})
		}}},
		{"ip", contestant{name: "ip -batch", build: script, rounds: func(n int) (int, string) {
			return upTo(n, []limit{{100, 5}, {1000, 1}})
		}}},
		{"mininet", contestant{name: "Mininet", build: mininet, unable: noMininet, rounds: func(n int) (int, string) {
			return upTo(n, []limit{{100, 2}})
		}}},
	} {
		if slices.Contains(strings.Split(*peers, ","), p.flag) {
			all = append(all, p.contestant)
		}
	}
	return all
}

// limit is in how many rounds somebody takes part in contests of up to
// machines.
type limit struct{ machines, rounds int }

func upTo(n int, limits []limit) (rounds int, why string) {
	for _, l := range limits {
		if n <= l.machines {
			return l.rounds, ""
		}
	}
	return 0, fmt.Sprintf("it would need more than ten minutes for %d machines", n)
}

// BenchmarkBuild builds and destroys stars of three sizes, everybody in turns;
// -test.benchtime 10x is ten rounds. The table is the result; the figures of
// the benchmark's own line are its medians.
func BenchmarkBuild(b *testing.B) {
	kerneltest.Need(b)
	for _, n := range []int{100, 1000, 3000} {
		b.Run(fmt.Sprintf("machines=%d", n), func(b *testing.B) {
			c := newContest(n, contestants())
			require.NoError(b, c.warmUp())
			for b.Loop() {
				require.NoError(b, c.round())
			}
			c.report(b)
			c.table(os.Stdout)
		})
	}
}

// report puts the medians on the benchmark's line.
func (c *contest) report(b *testing.B) {
	b.ReportMetric(0, "ns/op")
	build := metrics.Summarize(c.seconds("vpclab", lap.up)).Median
	b.ReportMetric(build, "build-s")
	b.ReportMetric(float64(c.n)/build, "nodes/s")
	b.ReportMetric(metrics.Summarize(c.seconds("vpclab", lap.down)).Median, "destroy-s")
	b.ReportMetric(metrics.Summarize(c.ratios("vpclab", lap.up)).Median, "build-of-floor")
	b.ReportMetric(metrics.Summarize(c.ratios("vpclab", lap.down)).Median, "destroy-of-floor")
}
