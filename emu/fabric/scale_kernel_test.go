package fabric_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/topo"
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

// library builds n nodes of a star as a plain user of the netlink library
// does, one request after the other, and says how long a node took. It is the
// yardstick of the same kernel at the same moment; figures of another boot are
// none.
func library(b *testing.B, n int) time.Duration {
	b.Helper()
	took := time.Duration(0)
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: the namespaces go with the thread
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			hub, err := netns.Get()
			if err != nil {
				return err
			}
			defer hub.Close()
			br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "lan"}}
			if err := errors.Join(netlink.LinkAdd(br), netlink.LinkSetUp(br)); err != nil {
				return err
			}
			from := time.Now()
			for i := range n {
				if err := libraryNode(hub, br, i); err != nil {
					return err
				}
			}
			took = time.Since(from)
			return nil
		}()
	}()
	require.NoError(b, <-done)
	return took / time.Duration(n)
}

func libraryNode(hub netns.NsHandle, br *netlink.Bridge, i int) error {
	host, err := netns.New()
	if err != nil {
		return err
	}
	defer host.Close()
	port := fmt.Sprintf("p%d", i)
	v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0", MTU: 1500}, PeerName: port, PeerNamespace: netlink.NsFd(hub)}
	if err := netlink.LinkAdd(v); err != nil {
		return err
	}
	ip := net.IPv4(10, 0, byte(i>>8), byte(i+1))
	err = errors.Join(
		netlink.AddrAdd(v, &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: net.CIDRMask(16, 32)}}),
		netlink.LinkSetUp(v),
		netlink.RouteAdd(&netlink.Route{LinkIndex: v.Index, Gw: net.IPv4(10, 0, 255, 254)}),
		netns.Set(hub))
	if err != nil {
		return err
	}
	p, err := netlink.LinkByName(port)
	if err != nil {
		return err
	}
	return errors.Join(netlink.LinkSetMaster(p, br), netlink.LinkSetUp(p))
}

func measure(b *testing.B, lab string, st fabric.State) {
	kerneltest.Need(b)
	yardstick := library(b, 50)
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
	b.ReportMetric(up.Seconds()/n*1e3, "ms/node")
	b.ReportMetric(yardstick.Seconds()*1e3, "library-ms/node")
	b.ReportMetric(float64(up)/n/float64(yardstick), "of-library")
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
