package scenarios

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/traffic"
)

func ms(n int64) event.Mono { return event.Mono(n * int64(time.Millisecond)) }

func TestOutageIsTheFailures(t *testing.T) {
	r := race{failed: ms(1000), repaired: ms(1080), recovered: ms(2400)}
	gap := func(from, to int64) traffic.Gap {
		return traffic.Gap{Lost: uint64((to - from) / 5), From: ms(from), To: ms(to)}
	}
	for _, c := range []struct {
		what string
		gaps []traffic.Gap
		want int64 // milliseconds
	}{
		{"none", nil, 0},
		{"a queue overflowed before and after", []traffic.Gap{gap(200, 300), gap(1900, 1950)}, 0},
		{"sent before the failure, and waiting in a queue then", []traffic.Gap{gap(940, 1010)}, 70},
		{"the longest", []traffic.Gap{gap(995, 1000), gap(1005, 1085), gap(1300, 1500)}, 80},
		{"it never ended", []traffic.Gap{gap(1000, 2900)}, 1900},
	} {
		require.Equal(t, time.Duration(c.want)*time.Millisecond, r.outage(traffic.FlowResult{Gaps: c.gaps}).Length(), c.what)
	}
}

func TestStallIsTheLongestSilence(t *testing.T) {
	r := race{failed: ms(1000), recovered: ms(1400)}
	flow := func(deliveredAt ...int64) *traffic.BulkFlow {
		var f traffic.BulkFlow
		got := map[int64]bool{}
		for _, at := range deliveredAt {
			got[at] = true
		}
		bytes := int64(0)
		for at := int64(0); at <= 2000; at += 20 {
			if got[at] {
				bytes += 1448
			}
			f.Readings = append(f.Readings, traffic.Reading{At: ms(at), Bytes: bytes})
		}
		return &f
	}
	for _, c := range []struct {
		at   []int64
		want int64
	}{
		{[]int64{960, 980, 1240, 1260, 1400, 1420}, 260}, // since the last reading before the failure
		{[]int64{980, 1020, 1040, 1360}, 320},
		{[]int64{980}, 420}, // to the end of the part
	} {
		from, to := r.stall(flow(c.at...))
		require.InDelta(t, c.want, to.Sub(from).Milliseconds(), 20, "payload at %v", c.at)
	}
	require.Equal(t, 20*time.Millisecond, pause(flow(100).Readings, ms(500), ms(900)))
	require.Equal(t, 300*time.Millisecond, pause([]traffic.Reading{{At: ms(0)}, {At: ms(200)}, {At: ms(500)}, {At: ms(900)}}, ms(300), ms(400)))
}

func TestMedianRateOfFlowsTogether(t *testing.T) {
	steady := func(rate int64) traffic.BulkFlow {
		var f traffic.BulkFlow
		for at := int64(0); at <= 1000; at += 50 {
			f.Readings = append(f.Readings, traffic.Reading{At: ms(at), Bytes: at * rate / 8 / 1000})
		}
		return f
	}
	a, b := steady(8e6), steady(4e6)
	require.InDelta(t, 12e6, medianRate([]traffic.BulkFlow{a, b}, ms(200), ms(900)), 1)
	// A stall of 200 ms, made up for afterwards, moves no median.
	for i := range b.Readings {
		if at := b.Readings[i].At; at > ms(300) && at < ms(500) {
			b.Readings[i].Bytes = b.Readings[6].Bytes
		}
	}
	require.InDelta(t, 12e6, medianRate([]traffic.BulkFlow{a, b}, ms(200), ms(900)), 1)
}
