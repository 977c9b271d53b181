package bgp

import (
	"context"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/topo"
)

// BenchmarkPrefixes measures, control plane alone (routes go nowhere), how long
// a PE needs to tell another of 10,000 prefixes behind a site, by way of the
// reflector, and to take them back.
func BenchmarkPrefixes(b *testing.B) {
	const n = 10000
	var there, back time.Duration
	for range b.N {
		c := &prefixCounter{changed: make(chan struct{}, 1)}
		cfgs := scaleConfigs(freePort(b))
		rr, one, two := cfgs["rr"], cfgs["pe1"], cfgs["pe2"]
		rr.Neighbors = rr.Neighbors[:2]
		for _, cfg := range []*Config{&one, &two} {
			cfg.VRFs = cfg.VRFs[:1]
			cfg.Tunnels = cfg.Tunnels[:2]
		}
		speakers := map[string]*Speaker{}
		for _, cfg := range []Config{rr, one, two} {
			s, err := Start(context.Background(), here{[]string{fakeFIBEnv + "=1"}}, cfg.Node, c.sink, WithCommand(os.Args[0], speakerArg))
			require.NoError(b, err)
			defer s.Kill()
			speakers[cfg.Node] = s
			require.NoError(b, s.Configure(context.Background(), cfg))
		}
		require.NoError(b, speakers["rr"].WaitEstablished(context.Background(), 2))
		c.wait(b, 1)
		more := one
		more.VRFs = append([]VRF(nil), one.VRFs...)
		more.VRFs[0].Circuits = append([]Circuit(nil), one.VRFs[0].Circuits...)
		more.VRFs[0].Circuits[0].More = topo.Run{First: prefix("100.64.0.0/32"), Count: n}
		began := event.Now()
		require.NoError(b, speakers["pe1"].Configure(context.Background(), more))
		b.Logf("handed over after %v", event.Now().Sub(began))
		there += c.wait(b, n+1).Sub(began)
		began = event.Now()
		require.NoError(b, speakers["pe1"].Configure(context.Background(), one))
		back += c.wait(b, 1).Sub(began)
		for _, s := range speakers {
			s.Kill()
		}
	}
	b.ReportMetric(there.Seconds()*1e3/float64(b.N), "ms/announce")
	b.ReportMetric(back.Seconds()*1e3/float64(b.N), "ms/withdraw")
	b.ReportMetric(0, "ns/op")
}

// prefixCounter counts what pe2 has.
type prefixCounter struct {
	mu      sync.Mutex
	have    int
	last    event.Mono
	changed chan struct{}
}

func (c *prefixCounter) sink(e event.Event) {
	n, err := strconv.Atoi(e.Attr["count"])
	if err != nil {
		n = 1
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case e.Node != "pe2":
		return
	case e.Kind == "route.programmed":
		c.have += n
	case e.Kind == "route.removed":
		c.have -= n
	default:
		return
	}
	c.last = e.T
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

func (c *prefixCounter) wait(b *testing.B, n int) event.Mono {
	b.Helper()
	deadline := time.After(time.Minute)
	for {
		c.mu.Lock()
		have, last := c.have, c.last
		c.mu.Unlock()
		if have == n {
			return last
		}
		select {
		case <-c.changed:
		case <-deadline:
			b.Fatalf("wait for %d prefixes at pe2: %d after a minute", n, have)
		}
	}
}
