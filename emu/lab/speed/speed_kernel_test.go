package speed

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/metrics"
)

// Where the guard barks: twice what the kernel itself costs. docs/performance.md
// has what is really reached; the room is for machines that are busy.
const guardRatio = 2

// A guard of few rounds can be unlucky: it goes on while it is.
const (
	guardMachines = 100
	guardRounds   = 5
	guardPatience = 20
)

// TestBuildNearFloor fails when building or destroying a lab costs more than
// guardRatio times the floor, measured in turns with it.
func TestBuildNearFloor(t *testing.T) {
	kerneltest.Need(t)
	c := newContest(guardMachines, []contestant{{name: "floor", build: floor}, {name: "vpclab", build: ours}})
	require.NoError(t, c.warmUp())
	var up, down metrics.Summary
	for i := range guardPatience {
		require.NoError(t, c.round())
		up, down = metrics.Summarize(c.ratios("vpclab", lap.up)), metrics.Summarize(c.ratios("vpclab", lap.down))
		if i+1 >= guardRounds && up.Median <= guardRatio && down.Median <= guardRatio {
			break
		}
	}
	t.Logf("times the floor: build %v, destroy %v", up, down)
	if up.Median > guardRatio || down.Median > guardRatio {
		t.Errorf("a lab of %d machines costs more than %d times the floor: build %v, destroy %v", guardMachines, guardRatio, up, down)
	}
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
			return upTo(n, []limit{{100, 3}})
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
