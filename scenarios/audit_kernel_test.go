package scenarios

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	emulab "github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/plots"
)

const auditedLab = `name: audited
topology:
  backbone: {pe: [pe1, pe2], p: [p1], links: [{between: [pe1, p1], delay: 1ms}, {between: [p1, pe2], delay: 1ms}]}
  sites:
    hq:    {kind: enterprise, pe: pe1, machines: 2}
    cloud: {kind: cloud, pe: pe2, machines: 1}
vpcs:
  red:   {service: vpls, subnet: 10.0.0.0/24, sites: [hq, cloud]}
  blue:  {service: vpls, subnet: 10.0.0.0/24, sites: [hq, cloud]}
  green: {service: l3vpn, subnets: {hq: 10.0.1.0/24, cloud: 10.0.2.0/24}}
experiments:
  - kind: audit
    trials: 2
    warmup: 0
    expect:
      - audit.leaks == 0
      - audit.doubled == 0
      - audit.pairs_reached == audit.pairs_allowed
      - audit.attacks_leaked == 0
      - audit.time < 60s
`

func TestAuditAsAnExperiment(t *testing.T) {
	kerneltest.Need(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	sc, plan, err := Parse("audited.vpclab.yml", []byte(auditedLab))
	require.NoError(t, err)
	store, err := metrics.Create(t.TempDir(), metrics.RunInfo{Scenario: sc.Name, Source: auditedLab, Seed: sc.Seed})
	require.NoError(t, err)
	l := emulab.New(emulab.Config{})
	t.Cleanup(func() { _ = l.Destroy(context.Background()) })
	v, err := Run(ctx, RunConfig{Lab: l, Scenario: sc, Plan: plan, Store: store, VoidRetries: 2, Progress: func(p Progress) {
		t.Logf("%.2f %s %s %s", p.ElapsedS, p.Phase, p.Message, p.Error)
	}})
	require.NoError(t, err)
	require.True(t, v.Pass, "%v", v.Lines)
	t.Log(v.Lines)

	samples, err := store.Samples()
	require.NoError(t, err)
	got := map[string]float64{}
	known := map[string]bool{}
	for _, m := range isolationAudit().metrics {
		known[m.name+" "+m.unit] = true
	}
	for _, s := range samples {
		if s.Experiment == labExperiment || s.Trial != 1 {
			continue
		}
		require.True(t, known[s.Metric+" "+s.Unit], "metric %s in %s is not in the list that expectations are checked by", s.Metric, s.Unit)
		got[s.Labels["layer"]+s.Labels["attack"]+" "+s.Metric] = s.Value
	}
	require.Equal(t, 72.0, got[" audit.pairs"])
	require.Equal(t, 18.0, got["ip audit.pairs_allowed"])
	require.Equal(t, 14.0, got["frame audit.pairs_allowed"], "green's LAN ends at the site")
	require.Positive(t, got["label audit.attacks"])
	require.Positive(t, got[" audit.pair_rate"])

	for _, name := range []string{"audit.json", "matrix.json", "matrix-frames.json"} {
		found, err := filepath.Glob(filepath.Join(store.Dir(), "trials", "audit", "*", "*", name))
		require.NoError(t, err)
		require.Len(t, found, 2, name)
	}
	figures, err := plots.Draw(store.Dir(), []string{"reachability"})
	require.NoError(t, err)
	require.True(t, figures[0].Drawn(), figures[0].Reason)
}
