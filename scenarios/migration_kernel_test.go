package scenarios

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	emulab "github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/metrics"
)

// Two VMs of 8 MiB with their users move there together and back each by
// itself; the first one's site joins the VPC for it.
const movingVMs = `name: moving
topology:
  backbone:
    pe: [pe1, pe2]
    links: [{between: [pe1, pe2], rate: 100mbit, delay: 1ms}]
  sites:
    texas:    {kind: cloud, pe: pe1}
    illinois: {kind: cloud, pe: pe2}
    hq:       {kind: enterprise, pe: pe1}
vpcs:
  acme: {service: vpls, sites: [texas, hq]}
vms:
  shop: {vpc: acme, host: texas/1, memory: 8MiB, disk: 4MiB, workload: tpcw}
  db:   {vpc: acme, host: texas/1, memory: 8MiB, disk: 4MiB, workload: specjbb}
experiments:
  - kind: migration
    vms: [shop, db]
    to: illinois/1
    disk: true
    return: 1
    synchronized: true
    clients: {from: hq, users: 2, think: 50ms}
    warm: 300ms
    vary: {rate: [60mbit], rtt: [4ms], algorithm: [cloudnet, vpclab]}
    trials: 1
    warmup: 0
    expect:
      - migration.verified == 1
      - client.resets == 0
      - client.errors == 0
      - client.lost == 0
      - client.done > 10
      - migration.pause < 5s
`

func TestMigrationAsAnExperiment(t *testing.T) {
	kerneltest.Need(t)
	ctx, cancel := context.WithTimeout(t.Context(), 150*time.Second)
	defer cancel()
	sc, plan, err := Parse("moving.vpclab.yml", []byte(movingVMs))
	require.NoError(t, err)
	store, err := metrics.Create(t.TempDir(), metrics.RunInfo{Scenario: sc.Name, Source: movingVMs, Seed: sc.Seed})
	require.NoError(t, err)
	l := emulab.New(emulab.Config{})
	t.Cleanup(func() { _ = l.Destroy(context.Background()) })
	v, err := Run(ctx, RunConfig{Lab: l, Scenario: sc, Plan: plan, Store: store, VoidRetries: 2, Progress: func(p Progress) {
		t.Logf("%.2f %s %s %v %d %s %s", p.ElapsedS, p.Phase, p.Experiment, p.Point, p.Trial, p.Message, p.Error)
	}})
	require.NoError(t, err)
	require.True(t, v.Pass, "%v", v.Lines)
	require.Zero(t, v.Failed)

	samples, err := store.Samples()
	require.NoError(t, err)
	known, seen := map[string]bool{}, map[string]bool{}
	for _, m := range migrationMetrics(plan, sc.Experiments[0]) {
		known[m.name+" "+m.unit] = true
	}
	for _, s := range samples {
		if s.Experiment == labExperiment {
			continue
		}
		require.True(t, known[s.Metric+" "+s.Unit], "metric %s in %s is not in the list that expectations are checked by", s.Metric, s.Unit)
		// A short pause may hide between two answers: a gap of nothing is one.
		if s.Value > 0 || s.Metric == "migration.gap" {
			seen[s.Labels["algorithm"]+" "+s.Labels["leg"]+" "+s.Labels["vm"]+" "+s.Metric] = true
		}
	}
	for _, algorithm := range []string{"cloudnet", "vpclab"} {
		for _, leg := range []string{"out-1", "back-1"} {
			for _, vm := range []string{"shop", "db"} {
				for _, metric := range []string{"migration.total", "migration.pause", "migration.disk", "migration.bytes", "migration.gap", "round.sent"} {
					require.True(t, seen[algorithm+" "+leg+" "+vm+" "+metric], "%s of %s, %s by %s", metric, vm, leg, algorithm)
				}
			}
		}
		require.True(t, seen[algorithm+" out-1  group.total"])
	}
	files, err := filepath.Glob(filepath.Join(store.Dir(), "trials", "migration", "*", "1", "responses-shop.csv"))
	require.NoError(t, err)
	require.Len(t, files, 2)
	text, err := os.ReadFile(files[0])
	require.NoError(t, err)
	require.Contains(t, string(text), "t_s,response_s,user\n")
}
