package traffic

import (
	"context"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
)

// shape gives the way to a port of tenant a's switch a delay and a line.
func shape(t *testing.T, port string, args ...string) {
	t.Helper()
	require.NoError(t, enter("sw-a", func() error {
		out, err := exec.Command("tc", append(strings.Fields("qdisc replace dev "+port+" root netem"), args...)...).CombinedOutput()
		if err != nil {
			t.Logf("tc: %s", out)
		}
		return err
	}))
}

func openBulk(t *testing.T, p *Prober, streams ...Stream) *Bulk {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	b, err := p.OpenBulk(ctx, BulkConfig{Streams: streams})
	require.NoError(t, err)
	return b
}

func TestBulkFillsALineAndKeepsToItsRate(t *testing.T) {
	kerneltest.Need(t)
	eps := lan(t, "a", 3)
	shape(t, "p3", "rate", "40mbit", "delay", "5ms", "limit", "60")
	p := open(t, eps...)
	b := openBulk(t, p,
		Stream{Flow: Flow{"a-1", "a-3"}, Rate: 8e6},
		Stream{Flow: Flow{"a-2", "a-3"}})
	opened := event.Now()
	<-time.After(100 * time.Millisecond)
	b.Start(0)
	alone := event.Now()
	<-time.After(1500 * time.Millisecond)
	paced := event.Now()
	b.Pause(0)
	b.Start(1)
	<-time.After(1500 * time.Millisecond)
	greedy := event.Now()
	b.Pause(1)
	<-time.After(500 * time.Millisecond)
	quiet := event.Now()
	<-time.After(300 * time.Millisecond)
	end := event.Now()
	r, err := b.Close()
	require.NoError(t, err)
	again, err := b.Close()
	require.NoError(t, err)
	require.Same(t, r, again)
	for _, f := range r.Flows {
		t.Logf("%s -> %s: %d bytes in %d readings, %d resent, %s; Mbit/s %.1f", f.From, f.To, f.Bytes(), len(f.Readings), f.Resent, f.Congestion, mega(f.Series(opened, 200*time.Millisecond, 20)))
	}
	asked, full := r.Flows[0], r.Flows[1]
	half := event.Mono(500 * time.Millisecond)
	edge := event.Mono(40 * time.Millisecond) // between two readings nobody knows when it came
	require.Zero(t, asked.Goodput(opened, alone-edge), "a stream that was not started has sent")
	require.InDelta(t, 8e6, asked.Goodput(alone+half, paced), 0.6e6)
	require.Zero(t, full.Goodput(opened, paced-edge), "a stream that was not started has sent")
	line := 40e6 * 1448 / 1514
	require.Greater(t, full.Goodput(paced+half, greedy), 0.7*line) // the machine may be busy
	require.Less(t, full.Goodput(paced+half, greedy), 1.03*line)
	require.Zero(t, full.Goodput(quiet, end), "a paused stream goes on")
	require.Positive(t, full.Resent, "a greedy flow overflows a short queue")
	require.Equal(t, "cubic", full.Congestion)
}

func mega(bits []float64) []float64 {
	for i := range bits {
		bits[i] /= 1e6
	}
	return bits
}

// What arrives is counted when it arrives: an outage of the wire is one in
// the series, and TCP comes back by itself.
func TestBulkShowsAnOutage(t *testing.T) {
	kerneltest.Need(t)
	eps := lan(t, "a", 2)
	shape(t, "p2", "rate", "20mbit", "delay", "2ms", "limit", "60")
	p := open(t, eps...)
	b := openBulk(t, p, Stream{Flow: Flow{"a-1", "a-2"}, Rate: 10e6})
	b.Start(0)
	<-time.After(800 * time.Millisecond)
	var down, up event.Mono
	require.NoError(t, enter("sw-a", func() error { down, up = unplug(t, "p2", 400*time.Millisecond); return nil }))
	<-time.After(1500 * time.Millisecond)
	r, err := b.Close()
	require.NoError(t, err)
	f := r.Flows[0]
	t.Logf("Mbit/s from 400 ms before: %.1f; %d resent", mega(f.Series(down-event.Mono(400*time.Millisecond), 100*time.Millisecond, 20)), f.Resent)
	settle := event.Mono(60 * time.Millisecond)
	require.Greater(t, f.Goodput(down-event.Mono(300*time.Millisecond), down), 8e6)
	require.Zero(t, f.Goodput(down+settle, up))
	require.Greater(t, f.Goodput(up+event.Mono(700*time.Millisecond), up+event.Mono(1400*time.Millisecond)), 8e6)
}

func TestBulkNamesWhatDoesNotConnect(t *testing.T) {
	kerneltest.Need(t)
	eps := lan(t, "a", 2)
	in(t, "a-1", "route add blackhole 10.0.0.2/32")
	p := open(t, eps...)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err := p.OpenBulk(ctx, BulkConfig{Streams: []Stream{{Flow: Flow{"a-1", "a-2"}}}})
	require.ErrorContains(t, err, "bulk flow a-1 -> a-2 (10.0.0.2): connect: ")
	_, err = p.OpenBulk(ctx, BulkConfig{Streams: []Stream{{Flow: Flow{"a-1", "nobody"}}}})
	require.ErrorContains(t, err, `no machine "nobody"`)
}

func TestTrainLogsOneWayDelays(t *testing.T) {
	kerneltest.Need(t)
	eps := lan(t, "a", 2)
	p := open(t, eps...)
	least := func(delay string) time.Duration {
		shape(t, "p2", "delay", delay)
		train, err := p.StartTrain(TrainConfig{Flows: []Flow{{"a-1", "a-2"}, {"a-2", "a-1"}}, Interval: 5 * time.Millisecond, Duty: 1, Log: true})
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		require.NoError(t, train.WaitFirst(ctx))
		<-time.After(300 * time.Millisecond)
		r, err := train.Stop(ctx)
		require.NoError(t, err)
		var delays [2][]time.Duration
		for i, f := range r.Flows {
			require.Len(t, f.Arrivals, int(f.Received))
			for _, a := range f.Arrivals {
				delays[i] = append(delays[i], a.Delay())
			}
			slices.Sort(delays[i])
		}
		t.Logf("there %v, back %v", delays[0][0], delays[1][0])
		require.Less(t, delays[1][0], 3*time.Millisecond, "the other way has no delay")
		require.Positive(t, delays[1][0])
		return delays[0][0]
	}
	none, some := least("0ms"), least("20ms")
	require.InDelta(t, 20, (some-none).Seconds()*1000, 1.5)
}
