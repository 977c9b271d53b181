package bgp_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/bgp"
	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/emu/mpls"
	"github.com/vpclab/vpclab/emu/mpls/vpntest"
	"github.com/vpclab/vpclab/topo"
)

// network is vpntest's network with a speaker at each PE and the reflector.
type network struct {
	*vpntest.Lab
	*bgp.Recorder
	t       *testing.T
	s       map[string]*bgp.Speaker
	configs map[string]bgp.Config
}

func newNetwork(t *testing.T, plan *topo.Plan) *network {
	n := &network{Recorder: bgp.NewRecorder(), t: t, s: map[string]*bgp.Speaker{}}
	n.Lab = vpntest.New(t, plan, n.Sink)
	n.Answer()
	n.configs = bgp.Configs(plan)
	began := event.Now()
	for node := range n.configs {
		n.start(node)
	}
	n.configureAll()
	require.NoError(t, n.s["rr"].WaitEstablished(context.Background(), 3))
	t.Logf("4 speakers: sessions %v after the first start", event.Now().Sub(began))
	n.settle(0, plan)
	t.Logf("4 speakers: routes %v after the first start", event.Now().Sub(began))
	return n
}

func (n *network) start(node string) {
	n.t.Helper()
	s, err := bgp.Start(context.Background(), n.Fabric, node, n.Sink, bgp.WithCommand(os.Args[0], bgp.SpeakerArg))
	require.NoError(n.t, err)
	n.s[node] = s
	n.t.Cleanup(func() { s.Kill() })
}

func (n *network) configureAll() {
	n.t.Helper()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for node, cfg := range n.configs {
		wg.Go(func() {
			err := n.s[node].Configure(ctx, cfg)
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(n.t, err)
	}
}

func (n *network) configure(node string) {
	n.t.Helper()
	require.NoError(n.t, n.s[node].Configure(context.Background(), n.configs[node]))
}

// settle waits until each PE was told by the kernel that it has every route
// and pseudowire of plan.
func (n *network) settle(mark int, plan *topo.Plan) {
	n.t.Helper()
	for _, v := range plan.VPCs {
		for _, at := range v.VRFs {
			for _, to := range v.Attachments {
				if _, here := to.At(at.PE); !here && to.Joined {
					n.Wait(n.t, mark, at.PE, "route.programmed", "vrf="+at.Name, "prefix="+to.Subnet.String())
				}
			}
		}
		for _, at := range v.VSIs {
			for _, to := range v.VSIs {
				if to.PE != at.PE {
					n.Wait(n.t, mark, at.PE, "pw.up", "vsi="+at.Name, "ve="+strconv.Itoa(to.VEID))
				}
			}
		}
	}
}

// kernel lists the BGP routes of a VRF as the kernel has them.
func (n *network) kernel(pe, vrf string) map[string][]uint32 {
	n.t.Helper()
	tables, err := mpls.Read(n.NSPath(pe))
	require.NoError(n.t, err)
	out := map[string][]uint32{}
	for _, v := range tables.VRFs {
		for _, r := range v.Routes {
			if v.Name == vrf && r.Proto == "bgp" {
				out[r.Prefix] = r.Labels
			}
		}
	}
	return out
}

// reaches asks from one tenant's site to a prefix and compares who answers.
func (n *network) reaches(vpc, from, to string, want bool) {
	n.t.Helper()
	src, _ := n.Machine(n.t, vpc, from)
	name, dst := n.Machine(n.t, vpc, to)
	wait := vpntest.Patience
	if !want {
		name, wait = "", vpntest.Silence
	}
	got := n.Ask(vpntest.Question{From: src, To: dst, Wait: wait})
	require.Equal(n.t, name, got.Name, "%s: %s to %s: %+v", vpc, from, to, got)
}

func TestSpeakersProgramTheKernel(t *testing.T) {
	kerneltest.Need(t)
	n := newNetwork(t, vpntest.Plan(t, "bgp", vpntest.CoreMTU))
	lsp := func(from, to string) uint32 {
		l, _ := n.Plan.LSP(to)
		i := slices.IndexFunc(l.Hops, func(h topo.LSPHop) bool { return h.Node == from })
		return l.Hops[i].OutLabel
	}
	vpn := func(vpc, pe string) uint32 {
		v, _ := n.Plan.VPC(vpc)
		r, _ := v.VRF(pe)
		return r.Label
	}
	require.Equal(t, map[string][]uint32{"10.0.2.0/24": {lsp("pe1", "pe2"), vpn("red", "pe2")}, "10.0.3.0/24": {lsp("pe1", "pe3"), vpn("red", "pe3")}},
		n.kernel("pe1", "vrf-red"))
	require.Equal(t, map[string][]uint32{"10.0.2.0/24": {lsp("pe1", "pe2"), vpn("blue", "pe2")}}, n.kernel("pe1", "vrf-blue"))
	for _, x := range []string{"s1 s2", "s2 s1", "s1 s3", "s3 s1", "s2 s3", "s3 s2"} {
		from, to, _ := strings.Cut(x, " ")
		n.reaches("red", from, to, true)
	}
	n.reaches("blue", "s1", "s2", true)
	n.reaches("blue", "s2", "s1", true)
	for pe, s := range n.s {
		t.Logf("%s: %s", pe, memory(s.Pid()))
	}

	// Subtests put the network back as they found it.
	t.Run("leave and join by policy alone", func(t *testing.T) { leaveAndJoin(t, n) })
	t.Run("detach and attach a site", func(t *testing.T) { detachAndAttach(t, n) })
	t.Run("fabric converges beside the speakers", func(t *testing.T) {
		n.Converge(vpntest.State(n.Plan))
		require.Len(t, n.kernel("pe1", "vrf-red"), 2)
	})
	t.Run("core link down and up", func(t *testing.T) { linkFlap(t, n) })
	t.Run("kill and come back", func(t *testing.T) { killAndComeBack(t, n) })
	t.Run("routes of a killed predecessor", func(t *testing.T) { predecessor(t, n) })
	t.Run("stop removes routes", func(t *testing.T) { stopRemoves(t, n) })
}

func memory(pid int) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	var out []string
	for _, line := range strings.Split(string(b), "\n") {
		if strings.HasPrefix(line, "VmRSS") || strings.HasPrefix(line, "Threads") {
			out = append(out, strings.Join(strings.Fields(line), " "))
		}
	}
	return strings.Join(out, ", ")
}

func leaveAndJoin(t *testing.T, n *network) {
	full := n.configs["rr"]
	defer func() { n.configs["rr"] = full }()
	red, _ := n.Plan.VPC("red")
	s3 := red.Attachments[slices.IndexFunc(red.Attachments, func(a topo.Attachment) bool { return a.Site == "s3" })]

	// Its routes are reflected no longer. What the others announce stays as it
	// is, so it goes on hearing of them; nothing comes back from there.
	less := full
	less.Policy = nil
	for _, r := range full.Policy {
		r.From = slices.DeleteFunc(slices.Clone(r.From), func(rt string) bool { return rt == s3.ExportRT })
		less.Policy = append(less.Policy, r)
	}
	m := n.Mark()
	n.configs["rr"] = less
	asked := event.Now()
	n.configure("rr")
	applied := n.Wait(t, m, "rr", "policy.applied")
	last := applied.T
	for _, pe := range []string{"pe1", "pe2"} {
		last = max(last, n.Wait(t, m, pe, "route.removed", "prefix=10.0.3.0/24").T)
	}
	t.Logf("leave: policy in force after %v, last kernel route gone after %v", applied.T.Sub(asked), last.Sub(asked))
	require.NotContains(t, n.kernel("pe1", "vrf-red"), "10.0.3.0/24")
	n.reaches("red", "s1", "s3", false)
	n.reaches("red", "s3", "s2", false)
	n.reaches("red", "s1", "s2", true)
	n.reaches("blue", "s1", "s2", true)

	m = n.Mark()
	n.configs["rr"] = full
	asked = event.Now()
	n.configure("rr")
	last = 0
	for _, pe := range []string{"pe1", "pe2"} {
		last = max(last, n.Wait(t, m, pe, "route.programmed", "prefix=10.0.3.0/24").T)
	}
	require.Zero(t, n.Count(m, "pe3", "bgp.received"), "a join is one announcement to each other PE")
	t.Logf("join: last kernel route set after %v", last.Sub(asked))
	n.reaches("red", "s1", "s3", true)
}

// detachAndAttach takes red's site 3 off its PE: plan, fabric and speakers,
// in the order of a deploy.
func detachAndAttach(t *testing.T, n *network) {
	full := n.Plan
	gone := full.Detach(func(a topo.Attachment) bool { return a.VPC == "red" && a.Site == "s3" })
	m := n.Mark()
	n.configs = bgp.Configs(gone)
	n.configureAll()
	n.Wait(t, m, "pe1", "route.removed", "prefix=10.0.3.0/24")
	n.Wait(t, m, "pe2", "route.removed", "prefix=10.0.3.0/24")
	require.Empty(t, n.kernel("pe3", "vrf-red"), "routes of a VRF that goes must go before it")
	n.Converge(vpntest.State(gone))
	n.reaches("red", "s1", "s2", true)

	m = n.Mark()
	n.Converge(vpntest.State(full))
	n.configs = bgp.Configs(full)
	n.configureAll()
	n.Wait(t, m, "pe1", "route.programmed", "prefix=10.0.3.0/24")
	n.Wait(t, m, "pe2", "route.programmed", "prefix=10.0.3.0/24")
	n.Wait(t, m, "pe3", "route.programmed", "prefix=10.0.1.0/24")
	n.reaches("red", "s3", "s1", true)
}

// linkFlap: the kernel drops the routes of a device that goes down; the
// speaker must set them again.
func linkFlap(t *testing.T, n *network) {
	m := n.Mark()
	var dev netlink.Link
	n.In("pe1", func() (err error) {
		if dev, err = netlink.LinkByName("p1"); err != nil {
			return err
		}
		return netlink.LinkSetDown(dev)
	})
	require.Empty(t, n.kernel("pe1", "vrf-red"))
	// A tenant comes while the link is down: its routes are refused now.
	full := n.configs["pe1"]
	less := full
	less.VRFs = full.VRFs[:1]
	require.NoError(t, n.s["pe1"].Configure(context.Background(), less))
	require.Error(t, n.s["pe1"].Configure(context.Background(), full))
	n.Wait(t, m, "pe1", "route.failed", "vrf=vrf-blue")
	n.In("pe1", func() error { return netlink.LinkSetUp(dev) })
	n.Wait(t, m, "pe1", "route.programmed", "vrf=vrf-red", "prefix=10.0.2.0/24")
	n.Wait(t, m, "pe1", "route.programmed", "vrf=vrf-red", "prefix=10.0.3.0/24")
	n.Wait(t, m, "pe1", "route.programmed", "vrf=vrf-blue", "prefix=10.0.2.0/24")
	require.Len(t, n.kernel("pe1", "vrf-red"), 2)
	// The core's own routes are the fabric's.
	n.Converge(vpntest.State(n.Plan))
	n.reaches("red", "s1", "s2", true)
}

func killAndComeBack(t *testing.T, n *network) {
	m := n.Mark()
	began := event.Now()
	require.NoError(t, n.s["pe3"].Kill())
	e := n.Wait(t, m, "pe1", "route.removed", "prefix=10.0.3.0/24")
	t.Logf("withdrawn %v after the kill", e.T.Sub(began))
	n.reaches("red", "s1", "s3", false)
	n.reaches("red", "s1", "s2", true)
	require.Len(t, n.kernel("pe3", "vrf-red"), 2, "a crash leaves the kernel's routes")

	m = n.Mark()
	began = event.Now()
	n.start("pe3")
	n.configure("pe3")
	e = n.Wait(t, m, "pe1", "route.programmed", "prefix=10.0.3.0/24")
	t.Logf("back %v after its successor's start", e.T.Sub(began))
	n.Wait(t, m, "pe3", "route.programmed", "prefix=10.0.1.0/24")
	n.reaches("red", "s1", "s3", true)
}

// predecessor: routes with BGP's mark that nobody wants go at the start, a
// route of another origin stays.
func predecessor(t *testing.T, n *network) {
	require.NoError(t, n.s["pe2"].Kill())
	v, _ := n.Plan.VPC("blue")
	vrf, _ := v.VRF("pe2")
	stale := func(dst string, proto netlink.RouteProtocol) *netlink.Route {
		_, ipnet, _ := net.ParseCIDR(dst)
		return &netlink.Route{Table: vrf.Table, Dst: ipnet, Protocol: proto, Scope: netlink.SCOPE_LINK}
	}
	n.In("pe2", func() error {
		dev, err := netlink.LinkByName("p2")
		if err != nil {
			return err
		}
		for dst, proto := range map[string]netlink.RouteProtocol{"10.77.0.0/16": unix.RTPROT_BGP, "10.78.0.0/16": unix.RTPROT_STATIC} {
			r := stale(dst, proto)
			r.LinkIndex = dev.Attrs().Index
			if err := netlink.RouteAdd(r); err != nil {
				return err
			}
		}
		return nil
	})
	require.Contains(t, n.kernel("pe2", "vrf-blue"), "10.77.0.0/16")
	m := n.Mark()
	n.start("pe2")
	n.configure("pe2")
	n.Wait(t, m, "pe2", "route.removed", "prefix=10.77.0.0/16")
	require.NotContains(t, n.kernel("pe2", "vrf-blue"), "10.77.0.0/16")
	tables, err := mpls.Read(n.NSPath("pe2"))
	require.NoError(t, err)
	require.True(t, slices.ContainsFunc(tables.VRFs[1].Routes, func(r mpls.Route) bool { return r.Prefix == "10.78.0.0/16" && r.Proto == "static" }))
	n.In("pe2", func() error { return netlink.RouteDel(stale("10.78.0.0/16", unix.RTPROT_STATIC)) })
	n.Wait(t, m, "pe2", "route.programmed", "vrf=vrf-blue", "prefix=10.0.1.0/24")
	n.Wait(t, m, "pe1", "route.programmed", "vrf=vrf-blue", "prefix=10.0.2.0/24")
	n.reaches("blue", "s1", "s2", true)
}

func stopRemoves(t *testing.T, n *network) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	m := n.Mark()
	require.NoError(t, n.s["pe3"].Stop(ctx))
	require.Empty(t, n.kernel("pe3", "vrf-red"))
	n.Wait(t, m, "pe1", "route.removed", "prefix=10.0.3.0/24")
	n.Wait(t, m, "rr", "bgp.down", "neighbor="+loopback(n.Plan, "pe3").String())
}

func loopback(plan *topo.Plan, node string) netip.Addr {
	n, _ := plan.Node(node)
	return n.Loopback
}
