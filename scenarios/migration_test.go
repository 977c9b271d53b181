package scenarios

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/guest"
	emulab "github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/emu/migrate"
	"github.com/vpclab/vpclab/emu/traffic"
	"github.com/vpclab/vpclab/emu/vmm"
	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/topo"
)

const moveScenario = `name: move
topology:
  backbone:
    pe: [pe1, pe2]
    p: [p1]
    links: [{between: [pe1, p1], rate: 465mbit, delay: 2ms}, {between: [p1, pe2], rate: 200mbit, delay: 3ms}]
  sites:
    texas:    {kind: cloud, pe: pe1}
    illinois: {kind: cloud, pe: pe2, hosts: 2}
    hq:       {kind: enterprise, pe: pe1}
vpcs:
  acme: {service: vpls, sites: [texas, illinois, hq]}
  flat: {service: l3vpn, sites: [texas, illinois]}
vms:
  shop:  {vpc: acme, host: texas/1, scale: mini, disk: 8MiB, workload: tpcw}
  db:    {vpc: acme, host: texas/1, memory: 8MiB, workload: specjbb}
  plain: {vpc: acme, host: texas/1}
  odd:   {vpc: flat, host: texas/1, scale: mini}
experiments:
`

func movePlan(t *testing.T, experiment string) (*topo.Scenario, *topo.Plan) {
	t.Helper()
	sc, plan, err := Parse("move.vpclab.yml", []byte(moveScenario+"  - "+experiment+"\n"))
	require.NoError(t, err)
	return sc, plan
}

func TestMigrationParametersHaveForms(t *testing.T) {
	for vary, want := range map[string]string{
		"algorithm: [xen30, clowdnet]":     `"clowdnet" is not an algorithm of memory migration; expected stop-and-copy, xen30, xen5, smart-stop, cbr, deltas, cloudnet, post-copy, hybrid, vpclab, qemu-pre-copy, qemu-xbzrle, qemu-multifd, qemu-multifd-zstd, qemu-post-copy, qemu-post-copy-preempt, qemu-auto-converge, wanopt, wanopt-raw, wanopt-cre, wanopt-plain; did you mean cloudnet?`,
		"workload: tcpw":                   `did you mean tpcw?`,
		"rate: [100Mbit]":                  `did you mean 100mbit?`,
		"rate: [100mbit, 0.1gbit]":         `0.1gbit is 100mbit, which is in the list already`,
		"rate: 1kbit":                      `rate 1kbit is out of range; expected a rate of the path between the hosts, 1mbit to 100gbit`,
		"rtt: 3":                           `"3" has no unit`,
		"scale: half":                      `"half" is not a scale; expected mini, quarter, full`,
		"{scale: mini, memory: 1GiB}":      `vary has memory and scale, and each decides the other`,
		"block: 1000":                      `block 1000 is no power of two; did you mean 512?`,
		"cache: 0%":                        `cache of 0% holds nothing`,
		"cache: 5":                         `"5" has no unit`,
		"encoders: [zero+cbr, cbr+snappy]": `there is no encoder "snappy"`,
		"window: 0":                        `window 0 is out of range`,
	} {
		t.Run(vary, func(t *testing.T) {
			if !strings.HasPrefix(vary, "{") {
				vary = "{" + vary + "}"
			}
			_, _, err := Parse("move.vpclab.yml", []byte(moveScenario+"  - {kind: migration, vm: shop, to: illinois/1, vary: "+vary+"}\n"))
			require.ErrorContains(t, err, want)
			require.ErrorContains(t, err, "move.vpclab.yml:20:")
		})
	}
}

func TestMigrationsThatCannotBe(t *testing.T) {
	for experiment, want := range map[string]string{
		"{kind: migration, vm: plain, to: illinois/1}":                                                      "VM plain has no guest: nothing runs in it that could move; give it memory",
		"{kind: migration, vm: odd, to: illinois/1}":                                                        "VM odd is in VPC flat, an l3vpn",
		"{kind: migration, vm: db, to: illinois/1, disk: true}":                                             "the disk is to move too, and VM db has none",
		"{kind: migration, vm: shop, to: illinois/1, vary: {guest: qemu, algorithm: [cloudnet, hybrid]}}":   "hybrid has pages follow a VM that runs already, and only QEMU itself can have its guest wait for one: take qemu-post-copy",
		"{kind: migration, vm: shop, to: illinois/1, expect: [client.lost == 0]}":                           "no sample of client.lost",
		"{kind: migration, vm: shop, to: illinois/1, expect: [leg=out-1.migration.total < 1s]}":             "no sample of migration.total has leg=out-1",
		"{kind: migration, vm: shop, to: illinois/1, vary: {rate: 10mbit}, expect: [rate=11mbit.x < 1s]}":   "no sample of x",
		"{kind: migration, vms: [shop, db], to: illinois/1, expect: [synchronized.migration.total < 100s]}": `has a label with the value "synchronized"`,
	} {
		t.Run(experiment, func(t *testing.T) {
			_, _, err := Parse("move.vpclab.yml", []byte(moveScenario+"  - "+experiment+"\n"))
			require.ErrorContains(t, err, want)
		})
	}
}

func TestMigrationPoints(t *testing.T) {
	sc, plan := movePlan(t, "{kind: migration, vm: shop, to: illinois/2, vary: {rate: [0.1gbit, 50mbit], cache: [10%, 6.25MiB], algorithm: cloudnet, scale: mini}}")
	pts := points(plan, migrationKind(), sc.Experiments[0])
	require.Len(t, pts, 4)
	require.Equal(t, point{"algorithm": "cloudnet", "workload": "tpcw", "rate": "100mbit", "rtt": "10ms", "scale": "mini", "cache": "10%"}, pts[0])
	require.Equal(t, "6.25MiB", pts[3]["cache"])

	s := &migrating{base: plan, experiment: sc.Experiments[0], wan: wanOf(plan, sc.Experiments[0])}
	require.Equal(t, wan{[]string{"pe1", "p1", "pe2"}, 200e6, topo.Duration(10 * time.Millisecond)}, s.wan)
	at := s.planAt(point{"rate": "50mbit", "rtt": "20ms", "scale": "quarter", "workload": "specjbb"})
	for _, pair := range [][2]string{{"pe1", "p1"}, {"p1", "pe2"}} {
		out, back := between(at, pair[0], pair[1])
		require.Equal(t, topo.Impairment{Rate: 50e6, Delay: topo.Duration(5 * time.Millisecond), Queue: 183}, out)
		require.Equal(t, out, back)
	}
	n, _ := at.Node("shop")
	require.Equal(t, topo.Size(256<<20), n.Guest.Memory)
	require.Equal(t, "specjbb", n.Guest.Workload)
	require.Equal(t, 0.25, n.Guest.Scale)
	small := topo.Guest{Kind: topo.GuestProcess, Memory: 8 << 20, Work: 8 << 20, Scale: 1.0 / 128}
	real := guestAt(small, point{"guest": "qemu"}, false)
	require.Equal(t, topo.GuestQEMU, real.Kind)
	require.Equal(t, small.Work, real.Work, "the same work")
	require.Greater(t, real.Memory, real.Work, "and a kernel beside it")
	require.Equal(t, small, guestAt(real, point{"guest": "process"}, false), "and back")
	require.Equal(t, small, guestAt(small, point{"scale": scaleName(small.Scale)}, false), "a label of its own changes nothing")
	was, _ := plan.Node("shop")
	require.Equal(t, topo.Size(64<<20), was.Guest.Memory, "the plan it was made from is as it was")
	require.Equal(t, was.Guest.Seed, n.Guest.Seed, "the trace is the same")

	o := optionsAt(*was.Guest, point{"algorithm": "cbr", "cache": "10%", "block": "512", "window": "3", "encoders": "zero+cbr"})
	require.Equal(t, migrate.Options{Algorithm: "cbr", Verify: "online", Block: 512, Window: 3, Encoders: []string{"zero", "cbr"}, Cache: 64 << 20 / 10}, o)
	require.Equal(t, int64(6.25*(1<<20)), optionsAt(*was.Guest, pts[3]).Cache)
	require.Equal(t, &migrate.DiskOptions{Encoders: []string{"zero", "cbr"}, Cache: 8 << 20 / 10, Reuse: true}, diskAt(*was.Guest, pts[0], true))
	require.Equal(t, []string{"zero"}, diskAt(*was.Guest, point{"algorithm": "xen5"}, false).Encoders)
}

// testCloud moves VMs by saying so.
type testCloud struct {
	mu    sync.Mutex
	moves []move
	fault string
	fail  error
	stays string // by which algorithm no VM gets away
}

func (c *testCloud) status(context.Context, string) (guest.Status, error) {
	return guest.Status{Running: true, Fault: c.fault}, nil
}

func (c *testCloud) move(ctx context.Context, m move) (*moved, error) {
	c.mu.Lock()
	c.moves = append(c.moves, m)
	n := len(c.moves)
	c.mu.Unlock()
	if c.fail != nil {
		return nil, c.fail
	}
	if m.ready != nil {
		m.ready()
		select {
		case <-m.goAhead:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	at := event.Now()
	ms := func(n int) event.Mono { return at + event.Mono(n)*event.Mono(time.Millisecond) }
	got := &moved{requested: at, joined: ms(5), reached: ms(70), wireOut: int64(1000 * n), wireBack: 10}
	if m.disk != nil {
		got.disk = &migrate.DiskReport{Began: ms(5), Mirrored: ms(8), InStep: ms(10), Settled: ms(75), BytesOut: 1000, Hash: "def", Writes: 3, Waits: []time.Duration{time.Millisecond}}
	}
	if m.memory.Algorithm == c.stays {
		got.diverged, got.reached, got.qemu = true, 0, &vmm.Stats{Throttle: 99, DirtyRate: 5000}
		got.Report = migrate.Report{Began: ms(12), Done: ms(90), BytesOut: 900, Rounds: make([]migrate.Round, 100)}
		return got, nil
	}
	got.Report = migrate.Report{
		Began: ms(12), PausedAt: ms(60), ResumedAt: ms(80), Done: ms(90), BytesOut: 900, Hash: "abc",
		Rounds:   []migrate.Round{{Began: ms(12), Ended: ms(50), ToSend: 100, Sent: 90, Skipped: 10, Dirtied: 20, Final: 80, Bytes: 800}, {Began: ms(60), Ended: ms(80), ToSend: 20, Sent: 20, Final: 20, FinalBytes: 100, Bytes: 100, Paused: true}},
		Encoders: []migrate.EncoderUse{{Name: "zero", Units: 10, In: 40960, Out: 8, CPU: time.Millisecond}},
		Faults:   migrate.FaultUse{Demanded: 2, Waits: []time.Duration{time.Millisecond, 3 * time.Millisecond}},
	}
	return got, nil
}

// movingLab is a noLab with events.
type movingLab struct {
	noLab
	bus *emulab.Lab
}

func (l *movingLab) Subscribe() *emulab.Subscription { return l.bus.Subscribe() }

// runMigration runs an experiment with a cloud that only says so.
func runMigration(t *testing.T, experiment string, c *testCloud) (Verdict, map[string][]float64) {
	t.Helper()
	sc, plan := movePlan(t, experiment)
	sc.Experiments[0].Clients = nil // nobody is there to be used
	store, err := metrics.Create(t.TempDir(), metrics.RunInfo{Scenario: "move", ID: "run", Source: string(sc.Source)})
	require.NoError(t, err)
	l := &movingLab{bus: emulab.New(emulab.Config{Name: "move"})}
	k := migrationKind()
	k.open = func(o opening) (session, error) {
		return &migrating{lab: l, cloud: c, base: o.plan, experiment: o.experiment, wan: wanOf(o.plan, o.experiment)}, nil
	}
	r := &runner{cfg: RunConfig{Lab: l, Scenario: sc, Plan: plan, Store: store, Progress: func(Progress) {}}, kinds: map[string]kind{"migration": k}, grade: believed}
	v, err := r.do(t.Context())
	require.NoError(t, err)
	samples, err := store.Samples()
	require.NoError(t, err)
	got := map[string][]float64{}
	known := map[string]bool{}
	for _, m := range migrationMetrics(plan, sc.Experiments[0]) {
		known[m.name+" "+m.unit] = true
	}
	for _, s := range samples {
		if s.Experiment == "migration" {
			require.True(t, known[s.Metric+" "+s.Unit], "%s in %s is not among the metrics", s.Metric, s.Unit)
		}
		delete(s.Labels, "algorithm")
		for _, p := range []string{"rate", "rtt", "scale", "workload"} {
			delete(s.Labels, p)
		}
		key := strings.TrimSpace(s.Metric + " " + metrics.PointText(s.Labels))
		got[key] = append(got[key], s.Value)
	}
	for _, name := range []string{"migration.json", "rounds.csv", "phases.csv"} {
		files, err := filepath.Glob(filepath.Join(store.Dir(), "trials", "migration", "*", "1", strings.Replace(name, ".", "*.", 1)))
		require.NoError(t, err)
		if v.Failed == 0 {
			require.NotEmpty(t, files, name)
		}
	}
	return v, got
}

func TestATrialStoresWhatWasMeasured(t *testing.T) {
	c := &testCloud{}
	v, got := runMigration(t, "{kind: migration, vm: shop, to: illinois/2, disk: true, warm: 1ms, trials: 2, warmup: 0, vary: {rate: [100mbit]}, expect: [migration.verified == 1]}", c)
	require.True(t, v.Pass, v.Lines)
	require.Equal(t, "illinois-h2", c.moves[0].to)
	require.Equal(t, &migrate.DiskOptions{}, c.moves[0].disk, "ours: what the engine does by itself")
	for key, want := range map[string]float64{
		"migration.total": 0.078, "migration.pause": 0.02, "migration.join": 0.005, "migration.disk": 0.005, "migration.sync": 0.065, "disk.writes": 3, "disk.wait quantile=p95": 0.001,
		"migration.memory": 0.048, "migration.handover": 0.01, "migration.phases phase=memory": 0.048,
		"migration.bytes direction=out": 1000, "migration.bytes direction=back": 10, "migration.payload": 900, "migration.final_bytes": 100,
		"migration.rounds": 2, "migration.verified": 1, "migration.disk_bytes": 1000,
		"round.to_send round=1": 100, "round.final round=1": 80, "round.skipped round=1": 10, "round.final_bytes round=2": 100, "round.took round=2": 0.02,
		"encoder.in encoder=zero": 40960, "encoder.cpu encoder=zero": 0.001, "faults.demanded": 2, "faults.wait quantile=p50": 0.001, "faults.wait quantile=p99": 0.003,
	} {
		require.Len(t, got[key], 2, key)
		require.InDelta(t, want, got[key][0], 1e-9, key)
	}
}

func TestGroupsArriveTogetherAndGoBack(t *testing.T) {
	c := &testCloud{}
	v, got := runMigration(t, "{kind: migration, vms: [shop, db], to: illinois/1, return: 2, warm: 1ms, trials: 1, warmup: 0, vary: {group: [each, synchronized]}, expect: [group.bytes > 0]}", c)
	require.True(t, v.Pass, v.Lines)
	require.Len(t, c.moves, 2*2*3)
	to := map[string]int{}
	for i, m := range c.moves {
		require.Equal(t, i%6 >= 2, m.reuse, "from the second move of a trial on")
		to[m.to]++
	}
	require.Equal(t, map[string]int{"illinois-h1": 8, "texas-h1": 4}, to)
	require.Len(t, got["migration.total group=synchronized leg=back-1 vm=db"], 1)
	require.Len(t, got["group.total group=each leg=out-2"], 1)
	require.NotEmpty(t, got["group.bytes direction=out group=each leg=out-1"])
}

func TestATrialFailsWithItsMigration(t *testing.T) {
	v, _ := runMigration(t, "{kind: migration, vm: shop, to: illinois/1, warm: 1ms, trials: 1, warmup: 0}", &testCloud{fail: errors.New("the WAN is gone")})
	require.Equal(t, 1, v.Failed)
	v, _ = runMigration(t, "{kind: migration, vm: shop, to: illinois/1, warm: 1ms, trials: 1, warmup: 0}", &testCloud{fault: "page 7 is not what was written"})
	require.Equal(t, 1, v.Failed)
}

func TestGapsAndPhasesOfUsers(t *testing.T) {
	ms := func(n int) event.Mono { return event.Mono(n) * event.Mono(time.Millisecond) }
	var answers []traffic.Answer
	for at := 0; at < 300; at += 10 { // one answer each 10 ms, 2 ms after its question
		if at <= 100 || at > 200 {
			answers = append(answers, traffic.Answer{Asked: ms(at - 2), Answered: ms(at)})
		}
	}
	m := &moved{requested: ms(50)}
	m.Report = migrate.Report{Began: ms(60), PausedAt: ms(105), ResumedAt: ms(200)}
	require.Equal(t, 100*time.Millisecond, gap(answers, m), "110 ms of silence, of which 10 are usual")

	r := &migrationTrial{migrating: &migrating{}, legs: []leg{{moved: map[string]*moved{"shop": m}}}}
	phases := ""
	for _, at := range []int{10, 59, 60, 150, 200} {
		phases += fmt.Sprint(r.phaseAt("shop", ms(at)), " ")
	}
	require.Equal(t, "before before memory memory after ", phases)
	require.Equal(t, 3*time.Millisecond, nearestRank([]time.Duration{ms(3).Sub(0), ms(1).Sub(0), ms(2).Sub(0)}, 99))
	require.Equal(t, 2*time.Millisecond, nearestRank([]time.Duration{ms(3).Sub(0), ms(1).Sub(0), ms(2).Sub(0)}, 50))
}
