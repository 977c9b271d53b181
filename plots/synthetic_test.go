package plots

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/metrics"
)

// syntheticRun writes a run whose numbers are made up by a formula, to test
// drawing with. None of them was measured.
type syntheticRun struct {
	sites, tenants, machines []int
	trials                   int
	largestMatrix            int  // no matrices for labs with more machines
	faults                   bool // one leak and one failure in one matrix
	train                    bool
	noFirewall               bool
	flows                    []int // of an experiment reservation
	raceTrials               int
	services                 bool // trials of lan, vpc-operations and routing-peer too
	moves                    *syntheticMoves
	failures                 int // trials of the experiments about faults
}

func (r syntheticRun) write(t testing.TB) *metrics.Store {
	t.Helper()
	return r.writeTo(t, t.TempDir())
}

func (r syntheticRun) writeTo(t testing.TB, root string) *metrics.Store {
	t.Helper()
	s, err := metrics.Create(root, metrics.RunInfo{
		Scenario: "synthetic", File: "synthetic.vpclab.yml", ID: "20260502T101112.345Z-3f9c",
		Source:  "name: synthetic   # made-up <numbers> & no measurement\nexperiments:\n  - kind: vpc-setup\n",
		Seed:    7,
		Started: time.Date(2026, 5, 2, 10, 11, 12, 0, time.UTC), Version: "v0.0.0-test",
		Versions: map[string]string{"go": "go1.26", "gobgp": "v3.37.0"},
		Kernel:   metrics.KernelInfo{Substrate: "uml", Release: "6.1.176", Clock: "monotonic", CPUs: 1, MemoryMiB: 2048},
		Host:     metrics.HostInfo{OS: "Debian 12", Kernel: "6.8.0", CPU: "a test CPU", CPUs: 2, LoadMin: 0.31, LoadEnd: 1.07},
		Args:     []string{"run", "synthetic"},
	})
	require.NoError(t, err)
	rng := rand.New(rand.NewPCG(7, 7))
	for _, sites := range r.sites {
		for _, tenants := range r.tenants {
			for _, machines := range r.machines {
				for n := 1; n <= r.trials; n++ {
					r.trial(t, s, rng, sites, tenants, machines, n)
				}
			}
		}
	}
	for _, flows := range r.flows {
		for n := 1; n <= r.raceTrials; n++ {
			r.race(t, s, rng, flows, n)
		}
	}
	if r.services {
		r.operations(t, s)
		r.lan(t, s)
		r.peers(t, s)
	}
	if r.moves != nil {
		r.moves.write(t, s)
	}
	if r.failures > 0 {
		syntheticFailures{r.failures}.write(t, s)
	}
	return s
}

// race is a trial of the experiment reservation.
func (r syntheticRun) race(t testing.TB, s *metrics.Store, rng *rand.Rand, flows, n int) {
	tr, err := s.Begin("reservation", map[string]string{"flows": strconv.Itoa(flows)}, n)
	require.NoError(t, err)
	for _, system := range []string{"with", "without"} {
		share, queue := 0.8, 0.004
		if system == "without" {
			share, queue = 0.8/(0.3*float64(flows)+0.8), 0.04
		}
		tr.Add("reservation.rate", "bit/s", share*15e6, map[string]string{"system": system})
		for i, q := range []string{"p50", "p95", "p99"} {
			v := 0.009 + queue*(1+0.4*float64(i))*math.Exp(0.1*rng.NormFloat64())
			for _, class := range []string{"reserved", "other"} {
				tr.Add("reservation.latency", "s", v, map[string]string{"system": system, "class": class, "quantile": q})
			}
		}
		require.NoError(t, tr.WriteJSON("flows-"+system+".json", syntheticFlows(rng, flows, share)))
	}
	require.NoError(t, tr.Commit(metrics.StatusOK, nil))
}

func syntheticFlows(rng *rand.Rand, flows int, share float64) metrics.Flows {
	const begin, fail, repaired, back, end = 0.9, 2.7, 2.95, 4.35, 4.85
	f := metrics.Flows{Reserved: 15e6, Line: 30e6, BinS: 0.05}
	shift := 0.05 * rng.Float64()
	for i := range flows + 1 {
		one := metrics.FlowSeries{From: "a", To: "b", Class: "other"}
		if i == 0 {
			one.Class, one.Offered = "reserved", 12e6
		}
		for b := range int((end + shift) / f.BinS) {
			at := float64(b) * f.BinS
			own, rest := 0.0, 28.5e6
			switch {
			case at > fail && at < repaired+0.2:
				rest = 0
			case at > begin:
				own = share * 15e6
				rest -= own
			}
			v := rest / float64(flows)
			if i == 0 {
				v = own
			}
			one.Goodput = append(one.Goodput, v*math.Exp(0.08*rng.NormFloat64()))
		}
		f.Flows = append(f.Flows, one)
	}
	f.Marks = []metrics.TrainMark{{T: 0, Name: "others begin"}, {T: begin, Name: "reserved flow begins"}, {T: fail + shift, Name: "link failed"},
		{T: fail + shift + 0.01, Name: "outage begins"}, {T: repaired + shift - 0.03, Name: "outage ends"}, {T: repaired + shift, Name: "repaired"}, {T: back + shift, Name: "link restored"}}
	return f
}

func (r syntheticRun) trial(t testing.TB, s *metrics.Store, rng *rand.Rand, sites, tenants, machines, n int) {
	tr, err := s.Begin("vpc-setup", map[string]string{"sites": strconv.Itoa(sites), "tenants": strconv.Itoa(tenants), "machines": strconv.Itoa(machines)}, n)
	require.NoError(t, err)
	noise := func(v float64) float64 { return v * math.Exp(0.06*rng.NormFloat64()) }
	vpn := map[string]string{"system": "vpn"}
	fw := map[string]string{"system": "firewall"}
	S, T, M := float64(sites), float64(tenants), float64(machines)
	vms := S * T * M

	at := 0.0
	stage := func(name string, cost float64, labels map[string]string) {
		at += noise(cost)
		tr.Add("setup."+name, "s", at, labels)
	}
	stage("configured", 0.02+0.012*S*T, vpn)
	stage("policy", 0.01+0.002*T, vpn)
	stage("announced", 0.03+0.004*S, vpn)
	stage("programmed", 0.02+0.003*S*T, vpn)
	stage("first_packet", 0.008, vpn)
	stage("matrix", 0.03+0.00002*vms*vms, vpn)
	if !r.noFirewall {
		at = 0
		stage("configured", 0.01+0.004*vms, fw)
		stage("programmed", 0.02+0.0012*vms*S*M, fw)
		stage("first_packet", 0.009, fw)
		stage("matrix", 0.03+0.00002*vms*vms, fw)
	}
	tr.Add("setup.pairs_allowed", "count", vms*(S*M-1), vpn)
	tr.Add("setup.leaks", "count", 0, vpn)
	with := func(sys, kind string) map[string]string { return map[string]string{"system": sys, "kind": kind} }
	tr.Add("rules", "count", T*S*3+T, with("vpn", "config"))
	tr.Add("rules", "count", T*S*(S-1)+T*S, with("vpn", "state"))
	tr.Add("touched.add_vm", "count", 0, vpn)
	tr.Add("touched.move_vm", "count", 0, vpn)
	if !r.noFirewall {
		tr.Add("rules", "count", vms*(S*M-1)+vms, with("firewall", "config"))
		tr.Add("touched.add_vm", "count", 2*(S*M-1)+1, fw)
		tr.Add("touched.move_vm", "count", 4*(S*M-1)+2, fw)
		tr.Add("rules", "count", vms*(S*M-1)+vms, with("firewall", "state"))
		sets := map[string]string{"system": "firewall-sets"}
		at = 0
		stage("configured", 0.01+0.002*vms, sets)
		stage("programmed", 0.02+0.0004*vms*S*M, sets)
		stage("first_packet", 0.009, sets)
		stage("matrix", 0.03+0.00002*vms*vms, sets)
		tr.Add("rules", "count", 2*vms, with("firewall-sets", "config"))
		tr.Add("rules", "count", vms*(S*M-1)+2*vms, with("firewall-sets", "state"))
		tr.Add("touched.add_vm", "count", S*M+1, sets)
		tr.Add("touched.move_vm", "count", 2*S*M, sets)
	}
	for i, m := range joinMetrics {
		tr.Add(m.metric, "s", noise(0.03*float64(i+1)), nil)
	}
	if int(vms) <= r.largestMatrix {
		require.NoError(t, tr.WriteJSON("matrix.json", syntheticMatrix(sites, tenants, machines, r.faults && n == 2)))
	}
	if r.train && n == 1 {
		require.NoError(t, tr.WriteJSON("train.json", syntheticTrain()))
	}
	require.NoError(t, tr.Commit(metrics.StatusOK, nil))
}

// operations adds trials of an experiment vpc-operations.
func (r syntheticRun) operations(t testing.TB, s *metrics.Store) {
	rng := rand.New(rand.NewPCG(7, 8))
	for n := 1; n <= r.trials; n++ {
		tr, err := s.Begin("vpc-operations", nil, n)
		require.NoError(t, err)
		for _, o := range []struct {
			name          string
			cost          float64
			packet, outed bool
		}{
			{"create", 0.3, true, false}, {"join", 0.05, true, false}, {"add", 0.04, true, false}, {"replicate", 0.045, true, false},
			{"move", 0.06, false, true}, {"reserve", 0.02, false, false}, {"fail", 0.03, false, true}, {"restore", 0.03, false, true},
			{"leave", 0.02, false, false}, {"join-2", 0.05, true, false}, {"delete", 0.08, false, false},
		} {
			set, at := map[string]string{"operation": o.name}, 0.0
			stage := func(name string, share float64) {
				at += o.cost * share * math.Exp(0.1*rng.NormFloat64())
				tr.Add("operation."+name, "s", at, set)
			}
			stage("configured", 1)
			stage("policy", 0.02)
			stage("announced", 0.2)
			stage("programmed", 0.4)
			if o.packet {
				stage("first_packet", 0.2)
			}
			if o.outed {
				tr.Add("operation.outage", "s", 0.006*math.Exp(0.4*rng.NormFloat64()), set)
			}
		}
		if r.train && n == 1 {
			require.NoError(t, tr.WriteJSON("train.json", syntheticTrain()))
		}
		tr.Add("operations.probes_sent", "count", 2000+float64(n), nil)
		tr.Add("operations.probes_lost", "count", 0, nil)
		require.NoError(t, tr.Commit(metrics.StatusOK, nil))
	}
}

// lan adds trials of an experiment lan.
func (r syntheticRun) lan(t testing.TB, s *metrics.Store) {
	rng := rand.New(rand.NewPCG(7, 9))
	noise := func(v, by float64) float64 { return v * math.Exp(by*rng.NormFloat64()) }
	for n := 1; n <= r.trials; n++ {
		tr, err := s.Begin("lan", nil, n)
		require.NoError(t, err)
		for i, sys := range []string{"vpls", "l3vpn", "ip"} {
			set := map[string]string{"system": sys}
			with := func(kind string) map[string]string { return map[string]string{"system": sys, "kind": kind} }
			tr.Add("lan.rtt", "s", noise(0.0065+0.0001*float64(i), 0.01), set)
			tr.Add("lan.rtt_p95", "s", noise(0.0075, 0.05), set)
			tr.Add("lan.throughput", "bit/s", noise(3.6e9+1e8*float64(i), 0.06), set)
			if sys == "ip" {
				continue
			}
			tr.Add("lan.rtt_ratio", "ratio", noise(1.02-0.01*float64(i), 0.01), set)
			tr.Add("lan.throughput_ratio", "ratio", noise(0.96+0.02*float64(i), 0.03), set)
			heard := 1.0 - float64(i)
			for kind, most := range map[string]float64{"arp": 60, "broadcast": 12, "multicast": 12, "nd": 60} {
				tr.Add("lan."+kind+"_possible", "count", most, set)
				tr.Add("lan."+kind+"_expected", "count", most*heard, set)
				tr.Add("lan."+kind+"_received", "count", most*heard, set)
			}
			tr.Add("lan.arp_asked", "count", 12, set)
			tr.Add("lan.arp_answered", "count", 12*heard, set)
			tr.Add("lan.nd_asked", "count", 12, set)
			tr.Add("lan.nd_answered", "count", 12*heard, set)
			tr.Add("lan.duplicates", "count", 0, set)
			tr.Add("lan.mtu", "bytes", 1500, set)
			if sys == "l3vpn" {
				continue
			}
			tr.Add("lan.bystanders", "count", 4, set)
			tr.Add("lan.overheard", "count", 4, with("unknown"))
			tr.Add("lan.overheard", "count", 0, with("learned"))
			tr.Add("lan.overheard", "count", 4, with("aged"))
			tr.Add("lan.overheard", "count", 4, with("flushed"))
			tr.Add("lan.move_outage", "s", noise(0.012, 0.3), with("announced"))
			tr.Add("lan.move_outage", "s", noise(0.015, 0.3), with("talking"))
			tr.Add("lan.move_known", "s", noise(0.05, 0.1), with("announced"))
			tr.Add("lan.move_recovery", "s", noise(0.009, 0.2), with("spoke"))
			tr.Add("lan.move_recovery", "s", noise(0.014, 0.2), with("flushed"))
			tr.Add("lan.silent_sent", "count", 150, with("spoke"))
			tr.Add("lan.silent_arrived", "count", 0, with("spoke"))
			tr.Add("lan.silent_sent", "count", 150, with("flushed"))
			tr.Add("lan.silent_arrived", "count", 0, with("flushed"))
		}
		require.NoError(t, tr.Commit(metrics.StatusOK, nil))
	}
}

// peers adds trials of an experiment routing-peer.
func (r syntheticRun) peers(t testing.TB, s *metrics.Store) {
	rng := rand.New(rand.NewPCG(3, 5))
	noise := func(v float64) float64 { return v * math.Exp(0.15*rng.NormFloat64()) }
	for n := 1; n <= r.trials; n++ {
		tr, err := s.Begin("routing-peer", nil, n)
		require.NoError(t, err)
		for i, sys := range []string{"controller", "mixed", "frr"} {
			set := map[string]string{"system": sys}
			tr.Add("peer.start", "s", noise(2+4*float64(i)), set)
			tr.Add("peer.join", "s", noise(0.06+0.4*float64(i)), set)
			tr.Add("peer.outage", "s", noise(0.02+0.6*float64(i)), set)
			tr.Add("peer.pairs_allowed", "count", 12, set)
			tr.Add("peer.pairs_reached", "count", 12, set)
			tr.Add("peer.leaks", "count", 0, set)
			if i > 0 {
				tr.Add("peer.different", "count", 0, set)
			}
		}
		require.NoError(t, tr.Commit(metrics.StatusOK, nil))
	}
}

func syntheticMatrix(sites, tenants, machines int, faults bool) metrics.Matrix {
	var m metrics.Matrix
	for s := range sites { // by site first, so that grouping by tenant has work to do
		for v := range tenants {
			for k := range machines {
				m.Endpoints = append(m.Endpoints, metrics.MatrixEndpoint{
					Name: fmt.Sprintf("t%d-s%d-m%d", v+1, s+1, k+1), VPC: fmt.Sprintf("t%d", v+1), Site: fmt.Sprintf("s%d", s+1), Addr: "10.0.0.1",
				})
			}
		}
	}
	for i, a := range m.Endpoints {
		row := make([]byte, len(m.Endpoints))
		for j, b := range m.Endpoints {
			switch {
			case i == j:
				row[j] = cellSelf
			case a.VPC == b.VPC:
				row[j] = cellReached
			default:
				row[j] = cellBlocked
			}
			if faults && row[j] == cellBlocked && i == 3 && j < 10 {
				row[j] = cellLeak
			}
			if faults && row[j] == cellReached && i == len(m.Endpoints)-2 {
				row[j] = cellFailed
			}
		}
		m.Cells = append(m.Cells, string(row))
	}
	return m
}

func syntheticTrain() metrics.Train {
	var t metrics.Train
	pairs := [][2]string{{"acme-hq-1", "acme-new-1"}, {"acme-new-1", "acme-hq-1"}, {"acme-hq-1", "acme-east-1"}, {"acme-east-1", "acme-new-1"}}
	for i := range 800 {
		at := float64(i) * 0.005
		for k, p := range pairs {
			ok := k == 2 || at > 0.95+0.02*float64(k) && at < 3.02+0.01*float64(k)
			t.Probes = append(t.Probes, metrics.TrainProbe{T: at, From: p[0], To: p[1], OK: ok})
		}
	}
	for _, m := range []struct {
		at   float64
		name string
	}{
		{0.5, "join requested"}, {0.62, "join configured"}, {0.64, "join policy"}, {0.71, "join announced"}, {0.93, "join programmed"}, {0.955, "join first packet"},
		{3.0, "leave requested"}, {3.02, "leave withdrawn"}, {3.05, "leave last packet"},
	} {
		t.Marks = append(t.Marks, metrics.TrainMark{T: m.at, Name: m.name})
	}
	return t
}

// paperRun is the usual grid.
func paperRun() syntheticRun {
	return syntheticRun{sites: []int{2, 4, 8, 16}, tenants: []int{1, 4, 16}, machines: []int{2}, trials: 6, largestMatrix: 160, faults: true, train: true, flows: []int{1, 4, 8}, raceTrials: 6, services: true, moves: paperMoves(), failures: 6}
}
