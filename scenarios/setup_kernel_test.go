package scenarios

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/bgp"
	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/hypervisor"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	emulab "github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/metrics"
)

// TestMain lets this test program be what a lab starts in its namespaces.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		body, is := map[string]func(ctx context.Context) error{"speaker": speakerBody, hypervisor.Verb: hypervisorBody, guest.Verb: guestBody}[os.Args[1]]
		if is {
			if err := body(context.Background()); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

func speakerBody(ctx context.Context) error {
	conn, err := bgp.ControlConn()
	if err != nil {
		return err
	}
	return bgp.RunSpeaker(ctx, conn)
}

func hypervisorBody(ctx context.Context) error {
	conn, err := hypervisor.ControlConn()
	if err != nil {
		return err
	}
	return hypervisor.Run(ctx, conn, os.Args[2], os.Args[3], os.Args[4], os.Args[5])
}

func guestBody(ctx context.Context) error {
	c, err := guest.ParseConfig(os.Args[2])
	if err != nil {
		return err
	}
	return guest.Run(ctx, c, os.Stdout)
}

const smallLab = `name: small
generate: {backbone: star, pe: 3, sites: 4, tenants: 2, machines: 2, overlap: true, link: {delay: 2ms}}
experiments:
  - {kind: vpc-setup, vary: {sites: [2, 3], tenants: 2}, trials: 2, warmup: 0, expect: [setup.leaks == 0]}
`

func TestWholeTrial(t *testing.T) {
	kerneltest.Need(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	sc, plan, err := Parse("small.vpclab.yml", []byte(smallLab))
	require.NoError(t, err)
	store, err := metrics.Create(t.TempDir(), metrics.RunInfo{Scenario: sc.Name, Source: smallLab, Seed: sc.Seed})
	require.NoError(t, err)
	l := emulab.New(emulab.Config{})
	t.Cleanup(func() { _ = l.Destroy(context.Background()) })
	v, err := Run(ctx, RunConfig{Lab: l, Scenario: sc, Plan: plan, Store: store, VoidRetries: 2, Progress: func(p Progress) {
		t.Logf("%.2f %s %s %v %d %s %s", p.ElapsedS, p.Phase, p.Experiment, p.Point, p.Trial, p.Message, p.Error)
	}})
	require.NoError(t, err)
	require.True(t, v.Pass, "%v", v.Lines)
	require.Zero(t, v.Failed)
	require.Nil(t, l.Plan(), "the run leaves no lab behind")

	got := read(t, store)
	for _, sites := range []int{2, 3} {
		at := fmt.Sprintf("sites=%d ", sites)
		// Two tenants with two machines at each site.
		machines := 2 * 2 * sites
		own := 2 * sites // machines of a tenant
		allowed := machines * (own - 1)
		for _, system := range []string{systemVPN, systemFW, systemSets} {
			require.Equal(t, float64(allowed), got.value(at+"system="+system+" setup.pairs_reached"))
			forbidden := machines*(machines-1) - allowed
			if system == systemVPN {
				forbidden -= machines // each has one of the other tenant's with its own address: nothing can be asked
			}
			require.Equal(t, float64(forbidden), got.value(at+"system="+system+" setup.pairs_forbidden"))
			require.Zero(t, got.value(at+"system="+system+" setup.leaks"))
		}
		// One rule a peer and direction, in every machine.
		require.Equal(t, float64(machines*(own-1)*2), got.value(at+"kind=state system=firewall rules"))
		require.Equal(t, got.value(at+"kind=config system=firewall rules"), got.value(at+"kind=state system=firewall rules"))
		require.Equal(t, float64(machines*(own-1+2)), got.value(at+"kind=state system=firewall-sets rules"))
		// A circuit and a route target a site and tenant, one more a tenant, and the VRFs.
		require.Equal(t, float64(2*sites*2+2+2*min(3, sites)), got.value(at+"kind=config system=vpn rules"))
		// A machine more: 2 rules at it and 1 at each peer, in each direction.
		require.Equal(t, float64(4*own), got.value(at+"system=firewall touched.add_vm"))
		require.Equal(t, float64(2*own), got.value(at+"system=firewall touched.move_vm"))
		require.Zero(t, got.value(at+"system=vpn touched.add_vm"))
		require.Zero(t, got.value(at+"system=vpn touched.move_vm"))
		require.Zero(t, got.value(at+"system=vpn where=machine vm_commands"))
		require.Zero(t, got.value(at+"system=vpn where=ce vm_commands"))
		require.Zero(t, got.value(at+"system=vpn join.probes_lost"))
		require.Positive(t, got.value(at+"system=vpn join.probes_sent"))
		// The stages overlap: a route may be in a kernel before the
		// reflector's word that its policy is set has come back. But nothing
		// is announced before it is programmed elsewhere, and the matrix is
		// asked last.
		for _, of := range []string{"setup", "join"} {
			require.Less(t, got.value(at+"system=vpn "+of+".announced"), got.value(at+"system=vpn "+of+".programmed"))
		}
		for _, stage := range []string{"configured", "policy", "announced", "programmed", "first_packet"} {
			require.Positive(t, got.value(at+"system=vpn setup."+stage))
			require.Less(t, got.value(at+"system=vpn setup."+stage), got.value(at+"system=vpn setup.matrix"))
		}
	}
	matrices, err := filepath.Glob(filepath.Join(store.Dir(), "trials", "vpc-setup", "*", "*", "matrix*.json"))
	require.NoError(t, err)
	require.Len(t, matrices, 2*3+2*2, "the evidence of each system in each trial")
}

// readings are the samples of the first trial, by labels and name.
type readings struct {
	t      *testing.T
	values map[string]float64
}

func read(t *testing.T, store *metrics.Store) readings {
	t.Helper()
	samples, err := store.Samples()
	require.NoError(t, err)
	r := readings{t, map[string]float64{}}
	known := map[string]bool{}
	for _, m := range vpcSetup().metrics {
		known[m.name+" "+m.unit] = true
	}
	for _, s := range samples {
		if s.Experiment == labExperiment || s.Trial != 1 {
			continue
		}
		require.True(t, known[s.Metric+" "+s.Unit], "metric %s in %s is not in the list that expectations are checked by", s.Metric, s.Unit)
		var key []string
		for _, l := range []string{"sites", "kind", "system", "where"} {
			if v, ok := s.Labels[l]; ok {
				key = append(key, l+"="+v)
			}
		}
		r.values[strings.Join(append(key, s.Metric), " ")] = s.Value
		t.Log(strings.Join(key, " "), s.Metric, strconv.FormatFloat(s.Value, 'g', 4, 64), s.Unit)
	}
	return r
}

func (r readings) value(key string) float64 {
	r.t.Helper()
	v, ok := r.values[key]
	require.True(r.t, ok, "no sample %s", key)
	return v
}
