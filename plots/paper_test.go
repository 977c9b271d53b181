package plots

import (
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/metrics"
)

func TestPublishedValues(t *testing.T) {
	p, ok := Paper(Table1, "migration.total", "workload", "tpcw", "algorithm", "xen30")
	require.True(t, ok)
	require.Equal(t, 135.0, p.Value)
	require.False(t, p.ReadOff, "the table is printed in numbers")
	require.InDelta(t, 135.0/16, p.At(1.0/16), 1e-9, "times shrink with the memory")

	p, ok = Paper(Fig2, "migration.pause", "workload", "specjbb", "rate", "100mbit")
	require.True(t, ok)
	require.Equal(t, 7.8, p.Value)
	require.True(t, p.ReadOff)

	p, ok = Paper(Fig11, "cut.pause", "workload", "kernelbuild", "algorithm", "cbr")
	require.True(t, ok)
	require.InDelta(t, 0.40, p.At(0.25), 1e-9, "shares stay")

	p, ok = Paper(Fig10, "client.response", "phase", "memory")
	require.True(t, ok)
	require.Equal(t, 0.052, p.At(0.25), "answers of users do not scale")

	_, ok = Paper(Table1, "migration.total", "workload", "tpcw")
	require.False(t, ok, "two algorithms: it is open which")
	_, ok = Paper("", "migration.total", "workload", "nobody")
	require.False(t, ok)

	found := Papers(Fig2, "migration.pause", "workload", "tpcw")
	require.Len(t, found, len(PaperRates))
	found[0].Labels["workload"] = "changed"
	require.Len(t, Papers(Fig2, "migration.pause", "workload", "tpcw"), len(PaperRates), "a caller's changes are its own")
}

// Nothing of the table may be ambiguous, negative or without a source.
func TestPublishedValuesAreWhole(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range published() {
		key := p.Source + "\x00" + p.Metric + "\x00" + metrics.PointText(p.Labels)
		require.False(t, seen[key], "twice: %v", p)
		seen[key] = true
		require.NotEmpty(t, p.Source)
		require.Contains(t, []string{"s", "bytes", "pages", "share", "count"}, p.Unit, "%v", p)
		require.GreaterOrEqual(t, p.Value, 0.0, "%v", p)
		if p.Unit == "share" {
			require.LessOrEqual(t, p.Value, 1.0, "%v", p)
		}
		require.Positive(t, p.Memory)
		if rate := p.Labels["rate"]; rate != "" {
			_, ok := parseRate(rate)
			require.True(t, ok, rate)
		}
		if rtt := p.Labels["rtt"]; rtt != "" {
			_, ok := parseTime(rtt)
			require.True(t, ok, rtt)
		}
	}
}

// What the paper says in a table and in a figure is nearly the same.
func TestPublishedValuesAgree(t *testing.T) {
	for _, w := range []string{"tpcw", "kernelbuild", "specjbb"} {
		for _, cut := range []string{"cut.bytes", "cut.total", "cut.pause"} {
			a, ok := Paper(Table1, cut, "workload", w, "algorithm", "cloudnet")
			require.True(t, ok)
			b, ok := Paper(Fig11, cut, "workload", w, "algorithm", "cloudnet")
			require.True(t, ok)
			require.InDelta(t, a.Value, b.Value, 0.065, "%s %s: the paper's own tolerance is six points", w, cut)
		}
	}
	// Goodput of 85 to 94 Mb/s at 100 Mb/s: the values fit each other.
	for _, w := range []string{"tpcw", "kernelbuild", "specjbb"} {
		for _, a := range []string{"xen30", "cloudnet"} {
			data, _ := Paper(Table1, "migration.bytes", "workload", w, "algorithm", a)
			total, _ := Paper(Table1, "migration.total", "workload", w, "algorithm", a)
			require.InDelta(t, 89e6, 8*data.Value/total.Value, 5e6, "%s %s", w, a)
		}
	}
}

func TestLabelsAreRead(t *testing.T) {
	read := func(parse func(string) (float64, bool), want map[string]float64, bad ...string) {
		t.Helper()
		for _, text := range slices.Sorted(maps.Keys(want)) {
			v, ok := parse(text)
			require.True(t, ok, text)
			require.InEpsilon(t, want[text], v, 1e-9, text)
		}
		for _, text := range bad {
			_, ok := parse(text)
			require.False(t, ok, text)
		}
	}
	read(parseRate, map[string]float64{"100mbit": 1e8, "1gbit": 1e9, "512kbit": 512e3, "1.5gbit": 1.5e9}, "", "mbit", "100", "0mbit", "-1mbit")
	read(parseTime, map[string]float64{"1.25ms": 1.25e-3, "625us": 625e-6, "2s": 2}, "", "ms", "0s", "12")
	read(parseBytes, map[string]float64{"1024": 1024, "64KiB": 65536, "6.25MB": 6.25e6, "1GiB": 1 << 30}, "", "10%", "0")
	read(parseShare, map[string]float64{"10%": 0.1, "0.5%": 0.005}, "10", "", "%", "0%")
	read(parseScale, map[string]float64{"full": 1, "quarter": 0.25, "mini": 1.0 / 16, "1/8": 0.125, "0.10625": 0.10625}, "", "big", "1/0", "0", "-1")
	require.Equal(t, "1/16", scaleText(1.0/16))
	require.Equal(t, "0.106", scaleText(0.10625))
	require.Equal(t, "1", scaleText(1))
	require.Equal(t, "100 Mb/s", rateText("100mbit"))
	require.Equal(t, "1 Gb/s", rateText("1gbit"))
	require.Equal(t, "0.625 ms", timeText(625e-6))
	require.Equal(t, "cbr+zstd-1", plainEncoders("zero+cbr+zstd-1"))
	require.Equal(t, "raw", plainEncoders("raw"))
	require.Equal(t, "zero", plainEncoders("zero"))
}

func TestTrips(t *testing.T) {
	for leg, n := range map[string]int{"": 1, "out-1": 1, "back-1": 2, "out-2": 3, "back-2": 4, "odd": 1} {
		require.Equal(t, n, tripOf(metrics.PointSummary{Labels: map[string]string{"leg": leg}}), leg)
	}
}
