package fabric_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/topo"
)

// The floor that raw netlink reached in User Mode Linux for a node (namespace,
// veth, address, route), and what the netlink library used plainly needs there.
const (
	libraryNode = 8300 * time.Microsecond
)

// portsPerHub keeps a hub's bridge below the kernel's 1023 ports.
const portsPerHub = 1000

// star is n hosts on one bridge: the smallest real lab of a size. Rates and
// delays only where asked for.
func star(n int, i topo.Impairment) fabric.State {
	s := fabric.State{Nodes: map[string]fabric.Node{}, Links: map[string]fabric.Link{}}
	for h := 0; h <= (n-1)/portsPerHub; h++ {
		hub := fmt.Sprintf("hub%d", h+1)
		s.Nodes[hub] = fabric.Node{Name: hub, Bridges: []fabric.Bridge{{Name: "lan", MAC: topo.MAC{2, 0xb, 0, 0, 0, byte(h)}, Addr: netip.MustParsePrefix("10.0.255.254/16")}}}
	}
	for i1 := range n {
		name, hub, port := fmt.Sprintf("h%d", i1+1), fmt.Sprintf("hub%d", i1/portsPerHub+1), fmt.Sprintf("p%d", i1+1)
		addr := netip.AddrFrom4([4]byte{10, 0, byte(i1 >> 8), byte(i1)}).Next()
		s.Nodes[name] = fabric.Node{Name: name, Kind: topo.KindMachine,
			Routes: []fabric.Route{{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.0.255.254"), Dev: "eth0"}}}
		l := fabric.Link{MTU: 1500,
			A: fabric.End{Node: name, Ifname: "eth0", MAC: topo.MAC{2, 1, 0, 0, byte(i1 >> 8), byte(i1)}, Addr: netip.PrefixFrom(addr, 16), Egress: i},
			B: fabric.End{Node: hub, Ifname: port, MAC: topo.MAC{2, 2, 0, 0, byte(i1 >> 8), byte(i1)}, Master: "lan", Egress: i},
		}
		s.Links[name+":eth0--"+hub+":"+port] = l
	}
	return s
}

// vpc is a lab of the shape that vpclab is for: PEs, tenants, sites, machines.
func vpc(t testing.TB, lab string, pe, tenants, machines int) fabric.State {
	src := fmt.Sprintf("name: %s\ngenerate: {backbone: ring, pe: %d, p: 4, sites: %d, tenants: %d, machines: %d, overlap: true, link: {rate: 1gbit, delay: 1ms}}\n",
		lab, pe, pe, tenants, machines)
	st := fabric.Compile(plan(t, src))
	for name, l := range st.Links { // VRFs are another package's
		if len(l.A.Master) > 4 && l.A.Master[:4] == "vrf-" {
			l.A.Master = ""
			st.Links[name] = l
		}
	}
	return st
}

func measure(b *testing.B, lab string, st fabric.State) {
	kerneltest.Need(b)
	n := float64(len(st.Nodes))
	var up, again, trust, down time.Duration
	for b.Loop() {
		f, err := fabric.New(lab, nil)
		require.NoError(b, err)
		lap := func(d *time.Duration, fn func() error) {
			from := time.Now()
			require.NoError(b, fn())
			*d += time.Since(from)
		}
		lap(&up, func() error { _, err := f.Apply(context.Background(), st); return err })
		lap(&again, func() error {
			ch, err := f.Apply(context.Background(), st)
			require.Empty(b, ch.String())
			return err
		})
		lap(&trust, func() error { _, err := f.Apply(context.Background(), st, fabric.Trust); return err })
		lap(&down, func() error { return f.Destroy(context.Background()) })
	}
	rounds := time.Duration(b.N)
	up, again, trust, down = up/rounds, again/rounds, trust/rounds, down/rounds
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(up.Seconds(), "build-s")
	b.ReportMetric(down.Seconds(), "destroy-s")
	b.ReportMetric(again.Seconds(), "check-s")
	b.ReportMetric(trust.Seconds(), "trust-s")
	b.ReportMetric(n/up.Seconds(), "nodes/s")
	b.ReportMetric(float64(up)/n/float64(libraryNode), "of-library")
}

func BenchmarkStar100(b *testing.B)  { measure(b, "star", star(100, topo.Impairment{})) }
func BenchmarkStar320(b *testing.B)  { measure(b, "star", star(320, topo.Impairment{})) }
func BenchmarkStar1000(b *testing.B) { measure(b, "star", star(1000, topo.Impairment{})) }

func BenchmarkStar100Impaired(b *testing.B) {
	measure(b, "star", star(100, topo.Impairment{Rate: 1e8, Delay: topo.Duration(time.Millisecond)}))
}

// BenchmarkVPC320 is 8 PEs, 4 Ps, 20 tenants at 8 sites, 2 machines each.
func BenchmarkVPC320(b *testing.B) {
	kerneltest.Need(b)
	measure(b, "vpcs", vpc(b, "vpcs", 8, 20, 2))
}
