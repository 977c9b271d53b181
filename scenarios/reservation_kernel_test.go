package scenarios

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	emulab "github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/metrics"
)

// TestReservedFlowBesideGreedyOnes runs one trial of the library's scenario.
// The bars are for a busy machine: that the reserved flow gets its rate is one
// half of what it offers, and that is more than its fair share.
func TestReservedFlowBesideGreedyOnes(t *testing.T) {
	kerneltest.Need(t)
	ctx, cancel := context.WithTimeout(t.Context(), 150*time.Second)
	defer cancel()
	sc, plan, err := Load("reserved-link")
	require.NoError(t, err)
	sc.Claims, sc.Experiments[0].Expect = nil, nil
	sc.Experiments[0].Vary[0].Value = sc.Experiments[0].Vary[0].Value[1:] // flows: 8
	store, err := metrics.Create(t.TempDir(), metrics.RunInfo{Scenario: sc.Name, Seed: sc.Seed})
	require.NoError(t, err)
	l := emulab.New(emulab.Config{})
	t.Cleanup(func() { _ = l.Destroy(context.Background()) })
	v, err := Run(ctx, RunConfig{Lab: l, Scenario: sc, Plan: plan, Store: store, Trials: 1, VoidRetries: 2, Progress: func(p Progress) {
		t.Logf("%.2f %s %v %d %s %s", p.ElapsedS, p.Phase, p.Point, p.Trial, p.Message, p.Error)
	}})
	require.NoError(t, err)
	require.True(t, v.Pass, "%v", v.Lines)

	got := readReservation(t, store)
	require.Greater(t, got["system=with reservation.share"], 0.4)
	require.Greater(t, got["system=with reservation.share"], got["system=without reservation.share"])
	require.Less(t, got["class=reserved quantile=p50 system=with reservation.latency"], got["class=other quantile=p50 system=with reservation.latency"])
	require.Greater(t, got["class=reserved quantile=p50 system=with reservation.latency"], 0.009, "it takes the longer way")
	require.Greater(t, got["system=with reservation.spare"], 0.3, "what nobody uses is there for the others: without it they have 0.2")
	require.Positive(t, got["system=with reservation.rate_after"])
	require.Equal(t, 1.0, got["reservation.rerouted"])
	require.Equal(t, 1.0, got["reservation.refused"])
	require.Equal(t, 38e6, got["reservation.short"], "40 Mbit/s are asked for where 18 can be reserved and 16 are")
	checkWays(t, store)
	checkFlows(t, store)
}

// readReservation reads the samples by labels and name, and checks that each
// is in the list that expectations are checked by.
func readReservation(t *testing.T, store *metrics.Store) map[string]float64 {
	t.Helper()
	samples, err := store.Samples()
	require.NoError(t, err)
	known := map[string]bool{}
	for _, m := range reservationKind().metrics {
		for _, set := range append(m.labels, nil) {
			known[metrics.PointText(set)+" "+m.name+" "+m.unit] = true
		}
	}
	values := map[string]float64{}
	for _, s := range samples {
		if s.Experiment == labExperiment {
			continue
		}
		delete(s.Labels, "flows")
		require.True(t, known[metrics.PointText(s.Labels)+" "+s.Metric+" "+s.Unit], "%v", s)
		key := strings.TrimSpace(metrics.PointText(s.Labels) + " " + s.Metric)
		values[key] = s.Value
		t.Log(key, metrics.FormatValue(s.Value), s.Unit)
	}
	return values
}

// checkWays checks what the events say of the ways and of the refusal.
func checkWays(t *testing.T, store *metrics.Store) {
	t.Helper()
	dirs, _ := store.TrialDirs("reservation")
	data, err := os.ReadFile(filepath.Join(dirs[0], "events.jsonl"))
	require.NoError(t, err)
	text := string(data)
	for _, part := range []string{
		`{"by":"reservation","path":"pe-tx p1 p3 p2 pe-ma","system":"with","when":"before the failure"}`,
		`{"by":"reservation","path":"pe-tx p1 p4 p2 pe-ma","system":"with","when":"after the failure"}`,
		`{"by":"reservation","path":"pe-tx p1 p3 p2 pe-ma","system":"with","when":"after the repair"}`,
		`{"by":"shortest path","path":"pe-tx p1 p2 pe-ma","system":"without","when":"before the failure"}`,
		`{"by":"shortest path","path":"pe-tx p1 p3 p2 pe-ma","system":"without","when":"after the failure"}`,
		`link pe-tx--p1: 20mbit, of which 18mbit can be reserved and 16mbit are, by nightly, video; 40mbit more would be 38mbit too much`,
	} {
		require.Contains(t, text, part)
	}
}

// checkFlows checks that the evidence says the same as the samples.
func checkFlows(t *testing.T, store *metrics.Store) {
	t.Helper()
	dirs, _ := store.TrialDirs("reservation")
	for _, system := range []string{systemWith, systemWithout} {
		data, err := os.ReadFile(filepath.Join(dirs[0], "flows-"+system+".json"))
		require.NoError(t, err)
		var f metrics.Flows
		require.NoError(t, json.Unmarshal(data, &f))
		require.Len(t, f.Flows, 9)
		require.Equal(t, 10e6, f.Reserved)
		require.Equal(t, 20e6, f.Line)
		require.Equal(t, 8e6, f.Flows[0].Offered)
		names := map[string]float64{}
		for _, m := range f.Marks {
			names[m.Name] = m.T
		}
		for _, n := range []string{"others begin", "reserved flow begins", "link failed", "repaired", "link restored", "restored"} {
			require.Contains(t, names, n)
		}
		sum := func(from, to float64) (bits float64) {
			for i, v := range f.Flows[0].Goodput {
				if at := float64(i) * f.BinS; at >= from && at < to {
					bits += v * f.BinS
				}
			}
			return bits
		}
		require.Zero(t, sum(0, names["reserved flow begins"]-0.1), "it has sent before it began")
		require.Positive(t, sum(names["reserved flow begins"], names["link failed"]))
		require.Greater(t, len(f.Delays[0].Probes), 100)
	}
}
