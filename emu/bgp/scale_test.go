package bgp

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/event"
)

// The scale that a lab must carry: 20 tenants at 8 sites each, one PE a site.
const (
	scalePEs     = 8
	scaleTenants = 20
)

// scaleConfigs are the speakers' configurations on loopback addresses.
func scaleConfigs(port uint16) map[string]Config {
	loop := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 2, byte(i)}) }
	rr := Config{Node: "rr", ASN: 65000, RouterID: loop(100), Reflector: true, Port: port}
	out := map[string]Config{}
	for t := 1; t <= scaleTenants; t++ {
		r := RTRule{Name: fmt.Sprint("t", t), To: []string{fmt.Sprintf("65000:%d", 1000000+1000*t)}}
		for s := 1; s <= scalePEs; s++ {
			r.From = append(r.From, fmt.Sprintf("65000:%d", 1000*t+s))
		}
		rr.Policy = append(rr.Policy, r)
	}
	for i := 1; i <= scalePEs; i++ {
		c := Config{Node: fmt.Sprint("pe", i), ASN: 65000, RouterID: loop(i), Port: port, Neighbors: []netip.Addr{loop(100)}}
		for j := 1; j <= scalePEs; j++ {
			if j != i {
				c.Tunnels = append(c.Tunnels, Tunnel{Egress: loop(j), Label: uint32(100 + j), Via: loop(200), Dev: "core"})
			}
		}
		for t := 1; t <= scaleTenants; t++ {
			c.VRFs = append(c.VRFs, VRF{Name: fmt.Sprint("vrf-t", t), Table: 1000 + t, RD: fmt.Sprintf("65000:%d", 1000*t+i),
				Label: uint32(20000 + 100*t + i), Circuits: []Circuit{{Site: fmt.Sprint("s", i), Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i), 0}), 24),
					ExportRT: fmt.Sprintf("65000:%d", 1000*t+i), ImportRT: fmt.Sprintf("65000:%d", 1000000+1000*t)}}})
		}
		out[c.Node] = c
		rr.Neighbors = append(rr.Neighbors, loop(i))
	}
	out["rr"] = rr
	return out
}

// counter counts route events and lets a benchmark wait for a number of them.
type counter struct {
	mu         sync.Mutex
	programmed int
	removed    int
	applied    event.Mono
	last       event.Mono
	changed    chan struct{}
}

func (c *counter) sink(e event.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch e.Kind {
	case "route.programmed":
		c.programmed++
		c.last = e.T
	case "route.removed":
		c.removed++
		c.last = e.T
	case "policy.applied":
		c.applied = e.T
	default:
		return
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *counter) wait(b testing.TB, what string, done func() bool) event.Mono {
	b.Helper()
	deadline := time.After(time.Minute)
	for {
		c.mu.Lock()
		ok, last, changed := done(), c.last, c.changed
		c.mu.Unlock()
		if ok {
			return last
		}
		select {
		case <-changed:
		case <-deadline:
			b.Fatalf("wait for %s: %d programmed, %d removed after a minute", what, c.programmed, c.removed)
		}
	}
}

// BenchmarkReflector measures at that scale, control plane alone (routes go
// nowhere): from the first process to the last of all routes, and one site's
// leave and join by policy, from the request to the last PE's last route.
func BenchmarkReflector(b *testing.B) {
	var total, leave, join time.Duration
	for range b.N {
		c := &counter{changed: make(chan struct{})}
		cfgs := scaleConfigs(freePort(b))
		speakers := map[string]*Speaker{}
		began := event.Now()
		for node := range cfgs {
			s, err := Start(context.Background(), here{[]string{fakeFIBEnv + "=1"}}, node, c.sink, WithCommand(os.Args[0], speakerArg))
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
		all := scaleTenants * scalePEs * (scalePEs - 1)
		total += c.wait(b, "all routes", func() bool { return c.programmed == all }).Sub(began)

		rr := cfgs["rr"]
		less := rr
		less.Policy = append([]RTRule(nil), rr.Policy...)
		r := less.Policy[7]
		r.From = r.From[:scalePEs-1]
		less.Policy[7] = r
		began = event.Now()
		require.NoError(b, speakers["rr"].Configure(context.Background(), less))
		one := scalePEs - 1
		leave += c.wait(b, "the site's leave", func() bool { return c.removed == one }).Sub(began)
		began = event.Now()
		require.NoError(b, speakers["rr"].Configure(context.Background(), rr))
		join += c.wait(b, "the site's join", func() bool { return c.programmed == all+one }).Sub(began)
		for _, s := range speakers {
			s.Kill()
		}
	}
	n := float64(b.N)
	b.ReportMetric(total.Seconds()*1e3/n, "ms/all")
	b.ReportMetric(leave.Seconds()*1e3/n, "ms/leave")
	b.ReportMetric(join.Seconds()*1e3/n, "ms/join")
	b.ReportMetric(0, "ns/op")
}
