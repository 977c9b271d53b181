package plots

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/metrics"
)

// syntheticMoves are trials of experiments of the kind migration, made up by a
// simple model of memory, to test drawing with. None of them was measured.
type syntheticMoves struct {
	scale      float64
	trials     int
	workloads  []string
	algorithms []string
	rates      []string
	rtts       []string // of an experiment of its own, at 100 Mb/s
	slow       string   // RTT of the others
	extras     bool     // group, disk, encoders, redundancy, deltas, hashes
	timelines  bool
	noScale    bool // the label
	memoryOnly bool // disks of groups stay, and caches are as usual
}

// memoryModel is a workload's memory at full size.
type memoryModel struct {
	zero, duplicate float64 // shares
	hot, cold       float64 // bytes, bytes a second
	tau             float64 // seconds until most of the hot set is written
}

var memoryModels = map[string]memoryModel{
	"tpcw":        {0.11, 0.15, 45e6, 1.2e6, 2.2},
	"kernelbuild": {0.05, 0.07, 68e6, 2.0e6, 2.5},
	"specjbb":     {0.63, 0.03, 88e6, 0.3e6, 0.8},
	"mmuncher":    {0.02, 0.01, 250e6, 0.1e6, 0.4},
	"idle":        {0.40, 0.10, 1e6, 0.01e6, 5},
}

// madeUp is one migration of the model.
type madeUp struct {
	total, pause, join, disk, cpu   float64
	memory                          float64 // until the VM stands
	bytes                           float64
	left, sent, dirty, final, took  []float64
	demanded, prepaged, wait, delta float64
}

func (m syntheticMoves) migrate(rng *rand.Rand, algorithm, workload, rate, rtt string) madeUp {
	noise := func(v, by float64) float64 { return v * math.Exp(by*rng.NormFloat64()) }
	w := memoryModels[workload]
	bit, _ := parseRate(rate)
	trip, _ := parseTime(rtt)
	speed, s := bit/8*0.92, m.scale
	mem, hot, tau := s*float64(1<<30), s*w.hot, s*w.tau
	unique := func(t float64) float64 { return noise(hot*(1-math.Exp(-t/tau))+w.cold*t*s, 0.07) }
	rounds, smart := 30, false
	first, again := 1.0, 1.0 // of a page's bytes, on the wire
	switch algorithm {
	case "vpclab":
		rounds, smart, first, again, speed = 30, true, (1-w.zero)*0.33, 0.22, math.Min(speed, 90e6)
	case "cloudnet":
		rounds, smart, first, again, speed = 30, true, 1-w.zero-w.duplicate, 0.6, math.Min(speed, 60e6)
	case "smart-stop":
		smart = true
	case "cbr":
		first, again = 1-w.zero-w.duplicate, 0.75
	case "deltas":
		again = 0.62
	case "xen5":
		rounds = 5
	case "stop-and-copy":
		rounds = 1
	case "hybrid", "post-copy":
		rounds = 1
		first = 1 - w.zero
	}
	var out madeUp
	todo, best := mem, math.Inf(1)
	for n := 1; ; n++ {
		k := again
		if n == 1 {
			k = first
		}
		paused := n == rounds || n > 1 && todo < 50*4096*s || smart && n > 5 && todo < best
		sent := todo * k
		skipped := 0.0
		if n > 2 && !paused && (rounds == 30 || rounds == 5) {
			skipped = 0.6 * todo // pages that are dirty again
			sent -= skipped * k
		}
		took := noise(sent/speed+3*trip, 0.02)
		dirty := math.Min(unique(took)+skipped, unique(tau*4))
		if n > 2 {
			best = math.Min(best, todo)
		}
		final := sent
		if !paused {
			final = math.Max(0, sent-dirty*0.95)
		}
		out.left, out.sent, out.dirty = append(out.left, todo/4096), append(out.sent, sent), append(out.dirty, dirty/4096)
		out.final, out.took = append(out.final, final), append(out.took, took)
		out.total += took
		out.bytes += sent * 1.05
		out.delta += todo * (1 - again)
		if paused {
			out.pause = took + 0.004 + 2*trip
			break
		}
		todo = math.Max(dirty, 4096*8*s)
		if n == 1 {
			todo = unique(math.Max(took, tau))
		}
	}
	if algorithm == "post-copy" || algorithm == "hybrid" {
		out.demanded, out.prepaged = noise(0.06*hot/4096, 0.1), noise(mem*(1-w.zero)/4096*0.9, 0.02)
		out.pause, out.wait = noise(0.012+2*trip, 0.1), noise(trip*1.6+0.003+4096*40/speed, 0.1)
		if algorithm == "hybrid" {
			out.demanded, out.prepaged, out.total, out.bytes = out.demanded/4, hot/4096, out.total+hot/speed, out.bytes+hot
		}
	}
	if out.memory = out.total - out.pause; algorithm == "post-copy" {
		out.memory = 0.05 * out.total
	}
	out.join, out.disk, out.cpu = noise(0.05+trip, 0.1), noise(1.2, 0.05), out.total*0.3
	return out
}

func (m syntheticMoves) write(t testing.TB, s *metrics.Store) {
	for _, rate := range m.rates {
		for _, w := range m.workloads {
			for _, a := range m.algorithms {
				m.experiment(t, s, "bandwidth", a, w, rate, m.slow)
			}
		}
	}
	for _, rtt := range m.rtts {
		for _, w := range m.workloads[:1] {
			for _, a := range m.algorithms[:3] {
				m.experiment(t, s, "latency", a, w, "100mbit", rtt)
			}
		}
	}
	if m.extras {
		m.parts(t, s)
		m.group(t, s)
		m.disks(t, s)
		m.encoders(t, s)
		m.analysis(t, s)
		m.realVMs(t, s)
	}
}

// realVMs are ways to move QEMU guests, and process guests at some of them.
func (m syntheticMoves) realVMs(t testing.TB, s *metrics.Store) {
	for _, w := range []string{"tpcw", "mmuncher"} {
		for _, rate := range []string{"100mbit", "465mbit"} {
			for i, a := range []string{"vpclab", "cloudnet", "xen30", "wanopt", "qemu-pre-copy", "qemu-multifd-zstd", "qemu-post-copy"} {
				for _, guest := range []string{"qemu", "process"} {
					if i > 2 && guest == "process" {
						continue
					}
					labels := m.labels(a, w, rate, "27ms")
					labels["guest"] = guest
					for n := 1; n <= m.trials; n++ {
						tr, err := s.Begin("real", labels, n)
						require.NoError(t, err)
						rng := rand.New(rand.NewPCG(uint64(n), uint64(len(a+guest))))
						one := m.migrate(rng, a, w, rate, "27ms")
						if guest == "qemu" {
							one.pause, one.bytes, one.total = one.pause+0.08, 1.3*one.bytes, 1.3*one.total
						}
						m.add(tr, one)
						tr.Add("migration.payload", "bytes", one.bytes*0.97, nil)
						require.NoError(t, tr.Commit(metrics.StatusOK, nil))
					}
				}
			}
		}
	}
}

func (m syntheticMoves) labels(algorithm, workload, rate, rtt string) map[string]string {
	scale := strconv.FormatFloat(m.scale, 'g', -1, 64)
	if m.scale == 1.0/16 {
		scale = "mini"
	}
	if m.noScale {
		scale = ""
	}
	return map[string]string{"algorithm": algorithm, "workload": workload, "rate": rate, "rtt": rtt, "scale": scale, "block": "1024", "cache": "10%"}
}

// parts are all the algorithms at 100 Mb/s and the paper's RTT.
func (m syntheticMoves) parts(t testing.TB, s *metrics.Store) {
	rtt := strconv.FormatFloat(20*m.scale, 'f', -1, 64) + "ms"
	for _, w := range []string{"tpcw", "kernelbuild", "specjbb"} {
		for _, a := range []string{"xen30", "xen5", "smart-stop", "cbr", "deltas", "cloudnet", "vpclab"} {
			m.experiment(t, s, "parts", a, w, "100mbit", rtt)
		}
	}
	for _, a := range []string{"xen30", "xen5", "smart-stop", "vpclab"} {
		m.experiment(t, s, "iterations", a, "kernelbuild", "622mbit", rtt)
	}
}

func (m syntheticMoves) experiment(t testing.TB, s *metrics.Store, name, algorithm, workload, rate, rtt string) {
	labels := m.labels(algorithm, workload, rate, rtt)
	for n := 1; n <= m.trials; n++ {
		tr, err := s.Begin(name, labels, n)
		require.NoError(t, err)
		rng := rand.New(rand.NewPCG(uint64(n), uint64(len(algorithm+workload+rate+rtt))))
		one := m.migrate(rng, algorithm, workload, rate, rtt)
		m.add(tr, one)
		if name == "parts" || name == "iterations" || !m.extras {
			m.rounds(tr, one)
		}
		if m.timelines {
			m.timeline(t, tr, rng, one)
		}
		require.NoError(t, tr.Commit(metrics.StatusOK, nil))
	}
}

// with are labels and some more.
func with(labels ...string) map[string]string {
	out := map[string]string{}
	for i := 0; i+1 < len(labels); i += 2 {
		out[labels[i]] = labels[i+1]
	}
	return out
}

func (m syntheticMoves) add(tr *metrics.Trial, one madeUp) {
	tr.Add("migration.total", "s", one.total, nil)
	tr.Add("migration.pause", "s", one.pause, nil)
	tr.Add("migration.gap", "s", one.pause+0.02, nil)
	tr.Add("migration.join", "s", one.join, nil)
	tr.Add("migration.disk", "s", one.disk, nil)
	tr.Add("migration.sync", "s", 0.1*one.disk, nil)
	tr.Add("migration.memory", "s", one.memory, nil)
	tr.Add("migration.handover", "s", 0.004, nil)
	tr.Add("migration.bytes", "bytes", one.bytes, with("direction", "out"))
	tr.Add("migration.bytes", "bytes", one.bytes/60, with("direction", "back"))
	tr.Add("migration.rounds", "count", float64(len(one.left)), nil)
	tr.Add("migration.verified", "count", 1, nil)
	tr.Add("migration.cpu", "s", one.cpu, with("side", "source"))
	tr.Add("client.resets", "count", 0, nil)
	tr.Add("client.lost", "count", 0, nil)
	if len(one.left) > 1 {
		tr.Add("encoder.in", "bytes", one.delta*1.4, with("encoder", "delta"))
		tr.Add("encoder.out", "bytes", one.delta*0.4, with("encoder", "delta"))
	}
	if one.wait > 0 {
		tr.Add("faults.demanded", "count", one.demanded, nil)
		tr.Add("faults.prepaged", "count", one.prepaged, nil)
		tr.Add("faults.wait", "s", one.wait, with("quantile", "p50"))
		tr.Add("faults.wait", "s", one.wait*2.5, with("quantile", "p99"))
	}
}

// rounds adds the iterations of one migration.
func (m syntheticMoves) rounds(tr *metrics.Trial, one madeUp) {
	for i := range one.left {
		round := with("round", strconv.Itoa(i+1))
		tr.Add("round.to_send", "pages", one.left[i], round)
		tr.Add("round.dirtied", "pages", one.dirty[i], round)
		tr.Add("round.bytes", "bytes", one.sent[i], round)
		tr.Add("round.final_bytes", "bytes", one.final[i], round)
		tr.Add("round.took", "s", one.took[i], round)
	}
}

// timeline writes what clients saw: thirty requests a second.
func (m syntheticMoves) timeline(t testing.TB, tr *metrics.Trial, rng *rand.Rand, one madeUp) {
	begin := one.join + 1.1*one.disk
	stop := begin + one.memory
	start := stop + one.pause
	var text strings.Builder
	text.WriteString("t_s,response_s\n")
	for at := -2.0; at < begin+one.total+2; at += 0.033 * math.Exp(0.3*rng.NormFloat64()) {
		v := 0.012
		switch {
		case at > stop && at < start:
			v = start - at + 0.012
			if rng.Float64() < 0.7 {
				continue
			}
		case at > begin && at < begin+one.total:
			v = 0.03
		case at > 0 && at < begin:
			v = 0.014
		}
		fmt.Fprintf(&text, "%.4f,%.5f\n", at, v*math.Exp(0.35*rng.NormFloat64()))
	}
	require.NoError(t, os.WriteFile(filepath.Join(tr.Dir(), responsesName), []byte(text.String()), 0o600))
	phases := fmt.Sprintf("phase,from_s,to_s\njoin,0,%.4f\ndisk,%.4f,%.4f\nsync,%.4f,%.4f\nmemory,%.4f,%.4f\npause,%.4f,%.4f\nhandover,%.4f,%.4f\n",
		one.join, one.join, one.join+one.disk, one.join+one.disk, begin, begin, stop, stop, start, stop, stop+0.004)
	if rest := begin + one.total; rest > start+0.001 {
		phases += fmt.Sprintf("rest,%.4f,%.4f\n", start, rest)
	}
	require.NoError(t, os.WriteFile(filepath.Join(tr.Dir(), phasesName), []byte(phases), 0o600))
}

// group adds four VMs that move at once.
func (m syntheticMoves) group(t testing.TB, s *metrics.Store) {
	for _, a := range []string{"xen30", "cloudnet", "vpclab"} {
		labels := m.labels(a, "kernelbuild", "465mbit", "1.6875ms")
		for _, way := range []string{"each", "synchronized"} {
			labels["group"] = way
			for n := 1; n <= m.trials; n++ {
				tr, err := s.Begin("four", labels, n)
				require.NoError(t, err)
				rng := rand.New(rand.NewPCG(uint64(n), uint64(len(a))))
				one := m.migrate(rng, a, "kernelbuild", "117mbit", "1.6875ms")
				share := map[string]float64{"xen30": 1, "cloudnet": 0.6, "vpclab": 0.42}[a]
				disk := 24.1e9 * m.scale * share
				for i := range 4 {
					vm := with("vm", fmt.Sprint("vm", i+1))
					tr.Add("migration.total", "s", one.total*(1+0.1*float64(i)), vm)
					tr.Add("migration.pause", "s", one.pause*(1+0.1*float64(i)), vm)
					tr.Add("migration.payload", "bytes", one.bytes*1.6, vm)
					if !m.memoryOnly {
						tr.Add("migration.disk_bytes", "bytes", disk/4, vm)
					}
				}
				tr.Add("group.total", "s", one.total*1.7, nil)
				tr.Add("group.pause", "s", one.pause*1.2, nil)
				tr.Add("group.bytes", "bytes", one.bytes*6*1.04+disk*1.04, with("direction", "out"))
				tr.Add("group.bytes", "bytes", one.bytes*0.1, with("direction", "back"))
				require.NoError(t, tr.Commit(metrics.StatusOK, nil))
			}
		}
	}
}

// disks adds disks that move, and move again.
func (m syntheticMoves) disks(t testing.TB, s *metrics.Store) {
	for _, c := range []struct {
		algorithm, cache string
		first, again     float64
	}{{"xen30", "1%", 66, 66}, {"cloudnet", "1%", 49, 31}, {"cloudnet", "10%", 36, 22}, {"vpclab", "10%", 24, 0.8}} {
		labels := m.labels(c.algorithm, "tpcw", "100mbit", m.slow)
		if labels["cache"] = c.cache; m.memoryOnly {
			if c.cache == "1%" && c.algorithm != "xen30" {
				continue
			}
			delete(labels, "cache")
		}
		for n := 1; n <= m.trials; n++ {
			tr, err := s.Begin("disk", labels, n)
			require.NoError(t, err)
			k := 1e6 * (1 + 0.01*float64(n))
			tr.Add("migration.disk_bytes", "bytes", c.first*k, with("leg", "out-1"))
			tr.Add("migration.disk_bytes", "bytes", c.again*k, with("leg", "back-1"))
			require.NoError(t, tr.Commit(metrics.StatusOK, nil))
		}
	}
}

// encoders adds one encoder after the other in the same algorithm.
func (m syntheticMoves) encoders(t testing.TB, s *metrics.Store) {
	for _, w := range []string{"kernelbuild", "specjbb"} {
		for i, c := range []struct {
			name             string
			data, total, cpu float64
		}{{"raw", 1100, 94, 5}, {"zero+zip", 210, 61, 59}, {"zero+zstd-1", 240, 22, 9}, {"zero+lz4", 420, 37, 3}, {"zero+cbr", 700, 60, 8}, {"zero+cbr+zstd-1", 205, 19, 10}} {
			labels := m.labels("xen30", w, "100mbit", "1.25ms")
			labels["encoders"] = c.name
			for n := 1; n <= m.trials; n++ {
				tr, err := s.Begin("encoders", labels, n)
				require.NoError(t, err)
				k := m.scale * (1 + 0.02*float64((n*7+i*3)%5))
				tr.Add("migration.bytes", "bytes", c.data*1e6*k, with("direction", "out"))
				tr.Add("migration.total", "s", c.total*k, nil)
				tr.Add("migration.cpu", "s", c.cpu*k, with("side", "source"))
				require.NoError(t, tr.Commit(metrics.StatusOK, nil))
			}
		}
	}
}

// analysis adds what is measured without a migration: redundancy, sizes of
// deltas, false matches.
func (m syntheticMoves) analysis(t testing.TB, s *metrics.Store) {
	for n := 1; n <= m.trials; n++ {
		tr, err := s.Begin("redundancy", nil, n)
		require.NoError(t, err)
		wobble := 1 + 0.01*float64(n%4)
		for _, w := range []string{"tpcw", "kernelbuild", "specjbb"} {
			model := memoryModels[w]
			for i, block := range []string{"4096", "2048", "1024", "512", "256", "128", "64"} {
				v := model.zero + model.duplicate*(0.5+0.25*float64(i)) + 0.02*float64(i)
				tr.Add("redundancy.share", "share", v*wobble, with("workload", w, "block", block, "cache", "100%", "chunking", "fixed"))
				tr.Add("redundancy.share", "share", (v+0.05)*wobble, with("workload", w, "block", block, "cache", "100%", "chunking", "cdc"))
			}
			for i, cache := range []string{"1%", "2%", "5%", "10%", "25%", "50%", "100%"} {
				if cache == "100%" {
					continue // among the blocks
				}
				v := model.zero + model.duplicate*(0.2+0.8*(1-math.Exp(-float64(i))))
				tr.Add("redundancy.share", "share", v*wobble, with("workload", w, "block", "1024", "cache", cache, "chunking", "fixed"))
			}
			tr.Add("redundancy.zero", "share", model.zero, with("workload", w))
			tr.Add("redundancy.duplicate", "share", model.duplicate*wobble, with("workload", w))
			for _, size := range []int{50, 100, 200, 500, 1000, 1500, 2000, 3000, 3500, 3750, 4000, 4096} {
				tr.Add("delta.cdf", "share", math.Min(1, deltaShare(w, float64(size)/4096)), with("workload", w, "size", strconv.Itoa(size)))
			}
		}
		for _, bits := range []int{8, 12, 16, 20, 24, 28, 32, 40, 48, 64} {
			wanted := 1.5e6 * m.scale * 1.02e5 * m.scale / math.Exp2(float64(bits))
			b := strconv.Itoa(bits)
			tr.Add("encoder.wanted", "count", wanted, with("bits", b))
			for _, mode := range []string{"unverified", "verified", "keyed"} {
				tr.Add("encoder.false", "count", math.Round(wanted*wobble), with("bits", b, "mode", mode))
				corrupt := 0.0
				if mode != "verified" {
					corrupt = math.Round(math.Min(wanted, 2e5*m.scale) * wobble)
				}
				tr.Add("encoder.corrupt", "count", corrupt, with("bits", b, "mode", mode))
			}
		}
		require.NoError(t, tr.Commit(metrics.StatusOK, nil))
	}
}

// deltaShare is a made-up distribution of the sizes of deltas.
func deltaShare(w string, x float64) float64 {
	small, sharp := map[string]float64{"tpcw": 0.3, "kernelbuild": 0.5, "specjbb": 0.4}[w], map[string]float64{"tpcw": 14, "kernelbuild": 4, "specjbb": 7}[w]
	return small*(1-math.Exp(-25*x)) + 0.1*x + (0.9-small)*math.Pow(x, sharp)
}

// quickMoves is what a short reproduction measures.
func quickMoves() *syntheticMoves {
	return &syntheticMoves{scale: 1.0 / 16, trials: 2, slow: "1.25ms", extras: true, timelines: true, memoryOnly: true,
		workloads: []string{"tpcw", "specjbb"}, algorithms: []string{"xen30", "cloudnet", "vpclab"}, rates: []string{"310mbit"}}
}

// allMoves is every algorithm with every workload, once, at full size.
func allMoves() *syntheticMoves {
	m := &syntheticMoves{scale: 1, trials: 1, slow: "27ms", timelines: true, rates: []string{"100mbit", "10gbit"}, rtts: []string{"1ms", "300ms"}}
	for _, w := range workloads[:5] {
		m.workloads = append(m.workloads, w.id)
	}
	for _, a := range algorithms {
		m.algorithms = append(m.algorithms, a.id)
	}
	return m
}

// paperMoves is the usual set.
func paperMoves() *syntheticMoves {
	return &syntheticMoves{scale: 1.0 / 16, trials: 6, slow: "625us", extras: true, timelines: true,
		workloads: []string{"tpcw", "kernelbuild", "specjbb"}, algorithms: []string{"vpclab", "cloudnet", "xen30", "xen5", "post-copy", "hybrid"},
		rates: []string{"50mbit", "100mbit", "310mbit", "622mbit", "1gbit"}, rtts: []string{"312.5us", "625us", "1.25ms", "2.5ms", "5ms"}}
}
