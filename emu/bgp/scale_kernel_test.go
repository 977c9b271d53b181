package bgp_test

import (
	"context"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/bgp"
	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/emu/mpls/vpntest"
	"github.com/vpclab/vpclab/topo"
)

// scaleNetwork: 8 PEs, 4 Ps, 20 tenants at 8 sites each, all with the same
// prefixes.
const scaleNetwork = `
name: scale
generate: {backbone: ring, pe: 8, p: 4, sites: 8, tenants: 20, overlap: true}
`

// BenchmarkProvider measures in the lab kernel, with routes in it: from the
// first speaker to the last of 1120 routes, and one site's leave and join by
// policy, from the request to the last kernel's acknowledgement.
func BenchmarkProvider(b *testing.B) {
	kerneltest.Need(b)
	sc, err := topo.Parse("scale.vpclab.yml", []byte(scaleNetwork))
	require.NoError(b, err)
	plan, err := topo.Expand(sc)
	require.NoError(b, err)
	for range b.N {
		var mu sync.Mutex
		var programmed, removed int
		var last event.Mono
		changed := make(chan struct{}, 1)
		sink := func(e event.Event) {
			mu.Lock()
			defer mu.Unlock()
			switch e.Kind {
			case "route.programmed":
				programmed, last = programmed+1, e.T
			case "route.removed":
				removed, last = removed+1, e.T
			}
			select {
			case changed <- struct{}{}:
			default:
			}
		}
		wait := func(what string, ok func() bool) event.Mono {
			deadline := time.After(2 * time.Minute)
			for {
				mu.Lock()
				done, at := ok(), last
				mu.Unlock()
				if done {
					return at
				}
				select {
				case <-changed:
				case <-deadline:
					b.Fatalf("wait for %s: %d programmed, %d removed", what, programmed, removed)
				}
			}
		}
		built := event.Now()
		l := vpntest.New(b, plan, sink)
		began := event.Now()
		b.ReportMetric(began.Sub(built).Seconds(), "s/fabric")

		cfgs := bgp.Configs(plan)
		speakers := map[string]*bgp.Speaker{}
		for node := range cfgs {
			s, err := bgp.Start(context.Background(), l.Fabric, node, sink, bgp.WithCommand(os.Args[0], bgp.SpeakerArg))
			require.NoError(b, err)
			defer s.Kill()
			speakers[node] = s
		}
		var wg sync.WaitGroup
		for node, cfg := range cfgs {
			wg.Go(func() {
				if err := speakers[node].Configure(context.Background(), cfg); err != nil {
					b.Error(err)
				}
			})
		}
		wg.Wait()
		b.ReportMetric(event.Now().Sub(began).Seconds(), "s/configured")
		all := 20 * 8 * 7
		b.ReportMetric(wait("all routes", func() bool { return programmed == all }).Sub(began).Seconds(), "s/routes")

		less := bgp.Configs(plan.Detach(func(a topo.Attachment) bool {
			return a.VPC == plan.VPCs[7].Name && a.Site == plan.VPCs[7].Attachments[3].Site
		}))["rr"]
		began = event.Now()
		require.NoError(b, speakers["rr"].Configure(context.Background(), less))
		b.ReportMetric(wait("leave", func() bool { return removed == 7 }).Sub(began).Seconds()*1e3, "ms/leave")
		began = event.Now()
		require.NoError(b, speakers["rr"].Configure(context.Background(), cfgs["rr"]))
		b.ReportMetric(wait("join", func() bool { return programmed == all+7 }).Sub(began).Seconds()*1e3, "ms/join")
		for _, s := range speakers {
			require.NoError(b, s.Kill())
		}
	}
	b.ReportMetric(0, "ns/op")
}
