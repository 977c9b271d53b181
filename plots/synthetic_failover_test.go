package plots

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/metrics"
)

// syntheticFailures are trials of the experiments about faults, made up to test
// drawing with. None of them was measured.
type syntheticFailures struct{ trials int }

func (f syntheticFailures) write(t testing.TB, s *metrics.Store) {
	rng := rand.New(rand.NewPCG(3, 5))
	for n := 1; n <= f.trials; n++ {
		for _, fault := range []string{"link-down", "link-silent", "node-crash"} {
			for _, r := range []string{"none", "carrier+reroute", "bfd+reroute", "bfd+backup-lsp", "bfd+backup-lsp+reroute"} {
				f.reconvergence(t, s, rng, "network", n, map[string]string{"fault": fault, "recovery": r, "interval": "10ms", "multiplier": "3", "hold": "9s"})
			}
		}
		for _, interval := range []string{"20ms", "50ms", "100ms", "300ms"} {
			for _, r := range []string{"bfd+reroute", "bfd+backup-lsp"} {
				f.reconvergence(t, s, rng, "timers", n, map[string]string{"fault": "link-silent", "recovery": r, "interval": interval, "multiplier": "3", "hold": "9s"})
			}
		}
		for _, prefixes := range []string{"1", "100", "10000"} {
			for _, r := range []string{"bfd-multihop", "bfd-multihop+pic"} {
				f.reconvergence(t, s, rng, "prefixes", n, map[string]string{"fault": "node-crash", "recovery": r, "interval": "50ms", "multiplier": "3", "hold": "9s", "prefixes": prefixes})
			}
		}
		for _, mode := range []string{"async", "checkpoint", "pipelined", "sync"} {
			for _, fault := range []string{"host-crash", "partition", "planned"} {
				f.failover(t, s, rng, "failover", n, map[string]string{"fault": fault, "mode": mode, "rtt": "10ms"})
			}
			for _, rtt := range []string{"1ms", "10ms", "27ms", "100ms"} {
				f.failover(t, s, rng, "distance", n, map[string]string{"fault": "host-crash", "mode": mode, "rtt": rtt})
			}
			f.availability(t, s, rng, n, mode)
		}
		f.availability(t, s, rng, n, "alone")
		for _, epoch := range []string{"100ms", "50ms", "33ms", "25ms"} {
			for _, mode := range []string{"async", "checkpoint"} {
				f.failover(t, s, rng, "cost", n, map[string]string{"fault": "host-crash", "mode": mode, "epoch": epoch, "rtt": "10ms"})
			}
		}
	}
}

func (f syntheticFailures) reconvergence(t testing.TB, s *metrics.Store, rng *rand.Rand, exp string, n int, pt map[string]string) {
	tr, err := s.Begin(exp, pt, n)
	require.NoError(t, err)
	interval, _ := parseTime(pt["interval"])
	detect, act := 3*interval*(0.7+0.3*rng.Float64()), 0.004+0.003*rng.Float64()
	if strings.Contains(pt["recovery"], "reroute") && !strings.Contains(pt["recovery"], "backup") {
		act += 0.15
	}
	if n, err := strconv.ParseFloat(pt["prefixes"], 64); err == nil && !strings.Contains(pt["recovery"], "pic") {
		act += n * 40e-6
	}
	if strings.Contains(pt["recovery"], "carrier") {
		detect = 0.001
	}
	outage := detect + act
	if pt["recovery"] == "none" {
		outage = 5
	} else {
		tr.Add("reconvergence.detect", "s", detect, nil)
		tr.Add("reconvergence.switch", "s", act, nil)
	}
	tr.Add("reconvergence.outage", "s", outage, nil)
	if pt["prefixes"] != "" {
		tr.Add("reconvergence.prefix_outage", "s", outage, map[string]string{"quantile": "max"})
	}
	var goodput, marks strings.Builder
	goodput.WriteString("t_s,there_bps,back_bps\n")
	for at := -0.5; at < outage+1; at += 0.02 {
		there, back := 8e6, 8e6
		if at > 0 && at < outage+0.2 {
			there, back = 0, 0
		}
		fmt.Fprintf(&goodput, "%.4f,%.0f,%.0f\n", at, there*(0.95+0.1*rng.Float64()), back)
	}
	fmt.Fprintf(&marks, "t_s,mark\n0,fault\n%.6f,packets flow\n", outage)
	if pt["recovery"] != "none" {
		fmt.Fprintf(&marks, "%.6f,found out\n%.6f,repair.switched p1\n", detect, outage-0.001)
	}
	require.NoError(t, tr.WriteFile("goodput.csv", []byte(goodput.String())))
	require.NoError(t, tr.WriteFile("marks.csv", []byte(marks.String())))
	require.NoError(t, tr.Commit(metrics.StatusOK, nil))
}

func (f syntheticFailures) failover(t testing.TB, s *metrics.Store, rng *rand.Rand, exp string, n int, pt map[string]string) {
	tr, err := s.Begin(exp, pt, n)
	require.NoError(t, err)
	noise := func(v float64) float64 { return v * math.Exp(0.1*rng.NormFloat64()) }
	rtt, _ := parseTime(pt["rtt"])
	rto, gap := 0.0, noise(0.05)
	var phases strings.Builder
	phases.WriteString("phase,from_s,to_s\n")
	if pt["fault"] != "planned" {
		activate := 0.02
		if pt["mode"] == "pipelined" || pt["mode"] == "sync" {
			activate = 0.4 // it boots
		}
		for _, p := range []struct {
			name string
			took float64
		}{{"detect", 0.2}, {"decide", 0.1}, {"activate", activate}, {"redirect", 0.005}, {"client", 0.2}} {
			took := noise(p.took)
			tr.Add("failover."+p.name, "s", took, nil)
			fmt.Fprintf(&phases, "%s,%.6f,%.6f\n", p.name, rto, rto+took)
			rto += took
		}
		tr.Add("failover.rto", "s", rto, nil)
		gap = rto
	}
	tr.Add("failover.gap", "s", gap, nil)
	lost := 0.0
	if pt["mode"] == "async" && pt["fault"] != "planned" {
		lost = float64(3 + rng.IntN(9))
	}
	tr.Add("failover.lost", "count", lost, nil)
	tr.Add("failover.rpo_time", "s", lost*0.01, nil)
	tr.Add("client.resets", "count", map[bool]float64{true: 0, false: 8}[pt["mode"] == "checkpoint"], nil)
	wait := map[string]float64{"async": 0.02, "checkpoint": 0.05 + rtt, "pipelined": 0.02 + rtt, "sync": 0.02 + 3*rtt}[pt["mode"]]
	if epoch, ok := parseTime(pt["epoch"]); ok && pt["mode"] == "checkpoint" {
		wait = epoch + rtt
	}
	quantile := map[string]string{"phase": "protected", "quantile": "p50"}
	tr.Add("client.response", "s", noise(wait), quantile)
	tr.Add("client.rate", "1/s", noise(8/(0.1+wait)), map[string]string{"phase": "protected"})
	if epoch, ok := parseTime(pt["epoch"]); ok {
		tr.Add("guest.overhead", "ratio", noise(0.025/epoch), nil)
		tr.Add("replica.rate", "bit/s", noise(4e5/epoch), nil)
		tr.Add("replica.pause", "s", noise(0.003), map[string]string{"quantile": "p50"})
	}
	var responses strings.Builder
	responses.WriteString("t_s,response_s,user\n")
	for at := -1.0; at < gap+1; at += 0.01 {
		took := noise(wait)
		if at > 0 && at < gap {
			took = gap - at + 0.01
			at += gap / 8
		}
		fmt.Fprintf(&responses, "%.6f,%.6f,0\n", at, took)
	}
	require.NoError(t, tr.WriteFile("responses.csv", []byte(responses.String())))
	require.NoError(t, tr.WriteFile("phases.csv", []byte(phases.String())))
	require.NoError(t, tr.Commit(metrics.StatusOK, nil))
}

func (f syntheticFailures) availability(t testing.TB, s *metrics.Store, rng *rand.Rand, n int, mode string) {
	tr, err := s.Begin("chaos", map[string]string{"mode": mode}, n)
	require.NoError(t, err)
	down, lost := 1+rng.Float64(), 0.0
	switch mode {
	case "alone":
		down = 20
	case "async":
		lost = 40
	}
	tr.Add("availability.ratio", "ratio", 1-down/60, nil)
	tr.Add("availability.down", "s", down, nil)
	tr.Add("availability.lost", "count", lost, nil)
	tr.Add("availability.violations", "count", 0, nil)
	tr.Add("availability.faults", "count", 8, map[string]string{"fault": "host-crash"})
	require.NoError(t, tr.Commit(metrics.StatusOK, nil))
}
