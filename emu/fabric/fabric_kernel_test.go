package fabric_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/fabric/rtnl"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/topo"
)

const twoHosts = `
name: %s
topology:
  nodes:
    a: {routes: [{to: 10.9.0.0/24, via: 10.1.0.2}]}
    r: {forward: true}
    b: {routes: [{to: 10.1.0.0/24, via: 10.9.0.1}]}
  links:
    - {endpoints: ["a:eth1", "r:eth1"], ipv4: [10.1.0.1/24, 10.1.0.2/24]%s}
    - {endpoints: ["r:eth2", "b:eth1"], ipv4: [10.9.0.1/24, 10.9.0.2/24]}
`

func plan(t testing.TB, src string) *topo.Plan {
	t.Helper()
	sc, err := topo.Parse("test.vpclab.yml", []byte(src))
	require.NoError(t, err)
	p, err := topo.Expand(sc)
	require.NoError(t, err)
	return p
}

func start(t testing.TB, lab string) *fabric.Fabric {
	t.Helper()
	f, err := fabric.New(lab, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.Destroy(context.Background())) })
	return f
}

// ping sends n echo requests and returns ping's own summary.
func ping(t testing.TB, f *fabric.Fabric, node, to string, n int) (string, error) {
	t.Helper()
	var out strings.Builder
	cmd := exec.Command("ping", "-n", "-q", "-c", fmt.Sprint(n), "-i", "0.05", "-W", "2", to)
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, f.Start(node, cmd))
	err := cmd.Wait()
	return out.String(), err
}

func TestLabForwards(t *testing.T) {
	kerneltest.Need(t)
	f := start(t, "fwd")
	want := fabric.Compile(plan(t, fmt.Sprintf(twoHosts, "fwd", "")))
	ch, err := f.Apply(context.Background(), want)
	require.NoError(t, err)
	require.Contains(t, ch.String(), "+ link a:eth1--r:eth1")
	out, err := ping(t, f, "a", "10.9.0.2", 3)
	require.NoError(t, err, out)

	l := netlinkIn(t, f, "a", "eth1")
	require.Equal(t, "vpclab:fwd:a", l.Attrs().Alias, "owner tag")
}

func netlinkIn(t testing.TB, f *fabric.Fabric, node, dev string) (l netlink.Link) {
	t.Helper()
	require.NoError(t, f.Do(node, func() (err error) { l, err = netlink.LinkByName(dev); return err }))
	return l
}

func TestSecondApplyChangesNothing(t *testing.T) {
	kerneltest.Need(t)
	f := start(t, "twice")
	want := fabric.Compile(plan(t, fmt.Sprintf(twoHosts, "twice", ", delay: 5ms")))
	_, err := f.Apply(context.Background(), want)
	require.NoError(t, err)
	before := netlinkIn(t, f, "a", "eth1").Attrs().Index
	ch, err := f.Plan(want)
	require.NoError(t, err)
	require.Empty(t, ch.String())
	ch, err = f.Apply(context.Background(), want)
	require.NoError(t, err)
	require.Empty(t, ch.String())
	require.Equal(t, before, netlinkIn(t, f, "a", "eth1").Attrs().Index, "the link was made anew")
}

func TestApplyRepairsWhatWasRemovedByHand(t *testing.T) {
	kerneltest.Need(t)
	f := start(t, "repair")
	want := fabric.Compile(plan(t, fmt.Sprintf(twoHosts, "repair", ", delay: 1ms")))
	_, err := f.Apply(context.Background(), want)
	require.NoError(t, err)
	for name, damage := range map[string]func() error{
		"link": func() error {
			return f.Do("r", func() error {
				l, err := netlink.LinkByName("eth1")
				if err != nil {
					return err
				}
				return netlink.LinkDel(l)
			})
		},
		"route": func() error {
			return f.Do("a", func() error {
				rs, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: rtnl.ProtocolFabric}, netlink.RT_FILTER_PROTOCOL)
				if err != nil || len(rs) != 1 {
					return fmt.Errorf("%d routes: %w", len(rs), err)
				}
				return netlink.RouteDel(&rs[0])
			})
		},
		"address": func() error {
			return f.Do("b", func() error {
				l, err := netlink.LinkByName("eth1")
				if err != nil {
					return err
				}
				as, err := netlink.AddrList(l, netlink.FAMILY_V4)
				if err != nil {
					return err
				}
				return netlink.AddrDel(l, &as[0])
			})
		},
		"namespace": func() error {
			return exec.Command("ip", "netns", "del", "vpclab-repair-r").Run()
		},
	} {
		require.NoError(t, damage(), name)
		ch, err := f.Plan(want)
		require.NoError(t, err, name)
		require.NotEmpty(t, ch.String(), name)
		_, err = f.Apply(context.Background(), want)
		require.NoError(t, err, name)
		out, err := ping(t, f, "a", "10.9.0.2", 2)
		require.NoError(t, err, "%s: %s", name, out)
		ch, err = f.Plan(want)
		require.NoError(t, err, name)
		require.Empty(t, ch.String(), name)
	}
}

func TestChangeTouchesOnlyTheDifference(t *testing.T) {
	kerneltest.Need(t)
	f := start(t, "diff")
	_, err := f.Apply(context.Background(), fabric.Compile(plan(t, fmt.Sprintf(twoHosts, "diff", ", delay: 5ms"))))
	require.NoError(t, err)
	ch, err := f.Apply(context.Background(), fabric.Compile(plan(t, fmt.Sprintf(twoHosts, "diff", ", delay: 20ms"))))
	require.NoError(t, err)
	require.Len(t, ch, 2, "both ends' impairment: %s", ch)
	for _, c := range ch {
		require.Equal(t, "~", c.Op)
		require.Contains(t, c.String(), "impairment")
	}
	smaller := plan(t, fmt.Sprintf(twoHosts, "diff", ", delay: 20ms"))
	smaller.Nodes, smaller.Links = smaller.Nodes[:2], smaller.Links[:1]
	ch, err = f.Apply(context.Background(), fabric.Compile(smaller))
	require.NoError(t, err)
	require.Contains(t, ch.String(), "- node b")
	require.NoFileExists(t, f.NSPath("b"))
	require.FileExists(t, f.NSPath("a"))
}

func TestSecondOwnerIsRefused(t *testing.T) {
	kerneltest.Need(t)
	f := start(t, "held")
	_, err := f.Apply(context.Background(), fabric.Compile(plan(t, fmt.Sprintf(twoHosts, "held", ""))))
	require.NoError(t, err)
	_, err = fabric.New("held", nil)
	var h *fabric.HeldError
	require.ErrorAs(t, err, &h)
	require.Equal(t, os.Getpid(), h.PID)
}

// rtt is the round trip's minimum that ping saw: the link's truth, without
// the stalls of a busy machine.
func rtt(t testing.TB, f *fabric.Fabric, n int) time.Duration {
	t.Helper()
	out, err := ping(t, f, "a", "10.9.0.2", n)
	require.NoError(t, err, out)
	_, s, ok := strings.Cut(out, "min/avg/max/mdev = ")
	require.True(t, ok, out)
	d, err := time.ParseDuration(strings.Split(s, "/")[0] + "ms")
	require.NoError(t, err)
	return d
}

func TestDelayIsTrue(t *testing.T) {
	kerneltest.Need(t)
	f := start(t, "delay")
	for _, c := range []struct {
		text string
		want time.Duration
	}{{"", 0}, {", delay: 5ms", 10 * time.Millisecond}, {", delay: 25ms, rate: 100mbit", 50 * time.Millisecond}} {
		_, err := f.Apply(context.Background(), fabric.Compile(plan(t, fmt.Sprintf(twoHosts, "delay", c.text))))
		require.NoError(t, err)
		got := rtt(t, f, 10)
		require.InDelta(t, c.want.Seconds(), got.Seconds(), 0.002, "link with %q", c.text)
	}
}
