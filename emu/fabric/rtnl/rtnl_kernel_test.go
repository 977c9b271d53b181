package rtnl_test

import (
	"net/netip"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/fabric/rtnl"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
)

// namespace gives the test a namespace of its own; the thread that made it
// ends, and what is left is a handle.
func namespace(t *testing.T) netns.NsHandle {
	t.Helper()
	var h netns.NsHandle
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		var err error
		h, err = netns.New()
		done <- err
	}()
	require.NoError(t, <-done)
	t.Cleanup(func() { h.Close() })
	return h
}

// TestKernelTakesEveryMessage sends one of each kind that emu/fabric does not
// use in its own tests, and reads the result with another library.
func TestKernelTakesEveryMessage(t *testing.T) {
	kerneltest.Need(t)
	ns := namespace(t)
	conn, err := rtnl.DialNS(int(ns))
	require.NoError(t, err)
	defer conn.Close()
	up := true
	root := rtnl.Qdisc{DevIndex: 20, Dev: "d1", Parent: rtnl.Root, Handle: rtnl.MakeHandle(1, 0)}
	below := func(q rtnl.Qdisc, parent, handle rtnl.Handle) rtnl.Qdisc {
		q.Parent, q.Handle = parent, handle
		return q
	}
	var b rtnl.Batch
	b.Dummy(rtnl.Link{Name: "d0", Index: 20, MAC: [6]byte{2, 0, 0, 0, 0, 1}, MTU: 1400})
	b.LinkSet(rtnl.LinkChange{Index: 20, Rename: "d1", Up: &up, NoIPv6Address: true})
	b.Veth(rtnl.Veth{Link: rtnl.Link{Name: "v0", Index: 30}, Peer: rtnl.Link{Name: "v1", Index: 31}})
	b.Addr(rtnl.Address{Index: 20, Dev: "d1", Prefix: netip.MustParsePrefix("10.0.0.1/24")})
	b.Addr(rtnl.Address{Index: 20, Dev: "d1", Prefix: netip.MustParsePrefix("10.0.0.1/24")}, rtnl.IgnoreExist)
	b.RouteReplace(rtnl.Route{Dst: netip.MustParsePrefix("10.9.0.0/16"), DevIndex: 20, Labels: []uint32{100}, Via: netip.MustParseAddr("10.0.0.2"), TTL: 9, Protocol: rtnl.ProtocolBGP})
	b.RouteDel(rtnl.Route{Dst: netip.MustParsePrefix("10.10.0.0/16")}, rtnl.IgnoreMissing)
	b.LinkDel(99, "", rtnl.IgnoreMissing)
	b.HTB(root, 1)
	b.HTBClass(below(root, rtnl.MakeHandle(1, 0), rtnl.MakeHandle(1, 1)), rtnl.HTBClass{Rate: 50e6, Burst: 20000})
	b.HTBClass(below(root, rtnl.MakeHandle(1, 0), rtnl.MakeHandle(1, 2)), rtnl.HTBClass{Rate: 40e9, Burst: 200000})
	b.PacketFIFO(below(root, rtnl.MakeHandle(1, 1), rtnl.MakeHandle(2, 0)), 33)
	require.NoError(t, conn.Do(&b))

	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	require.NoError(t, err)
	defer h.Close()
	d, err := h.LinkByName("d1")
	require.NoError(t, err)
	require.Equal(t, 1400, d.Attrs().MTU)
	require.Equal(t, 20, d.Attrs().Index)
	require.Equal(t, "02:00:00:00:00:01", d.Attrs().HardwareAddr.String())
	v, err := h.LinkByName("v1")
	require.NoError(t, err)
	require.Equal(t, 31, v.Attrs().Index)
	require.Equal(t, 1, v.Attrs().NumTxQueues)
	routes, err := h.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: rtnl.ProtocolBGP}, netlink.RT_FILTER_PROTOCOL)
	require.NoError(t, err)
	require.Len(t, routes, 1)
	require.Equal(t, "100", routes[0].Encap.String())
	classes, err := conn.Classes(20)
	require.NoError(t, err)
	rates := map[rtnl.Handle]uint64{}
	for _, c := range classes {
		rates[c.Handle] = c.Rate
	}
	require.Equal(t, map[rtnl.Handle]uint64{rtnl.MakeHandle(1, 1): 50e6, rtnl.MakeHandle(1, 2): 40e9}, rates)
}

// TestRefusalsAreMatched puts bad messages between good ones.
func TestRefusalsAreMatched(t *testing.T) {
	kerneltest.Need(t)
	conn, err := rtnl.DialNS(int(namespace(t)))
	require.NoError(t, err)
	defer conn.Close()
	var b rtnl.Batch
	const n = 500 // several sends
	for i := range n {
		if i%50 == 7 {
			b.LinkDel(1000+i, "")
			continue
		}
		b.RouteReplace(rtnl.Route{Dst: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24), Unreachable: true})
	}
	refused, err := conn.Run(&b)
	require.NoError(t, err)
	require.Len(t, refused, n/50)
	for i, e := range refused {
		require.Equal(t, 50*i+7, e.Index)
		require.Equal(t, unix.ENODEV, e.Errno)
	}
	routes, err := conn.Routes(rtnl.ProtocolFabric)
	require.NoError(t, err)
	require.Len(t, routes, n-n/50)
	require.NoError(t, conn.Close())
	require.ErrorContains(t, conn.Do(&b), "closed")
}

// BenchmarkRoutes sets labelled routes; 10 000 took `ip -batch` 2.0 s in a
// User Mode Linux.
func BenchmarkRoutes(b *testing.B) {
	kerneltest.Need(b)
	runtime.LockOSThread()
	_, err := netns.New()
	require.NoError(b, err)
	conn, err := rtnl.Dial()
	require.NoError(b, err)
	defer conn.Close()
	up := true
	var batch rtnl.Batch
	batch.Dummy(rtnl.Link{Name: "d", Index: 20})
	batch.LinkSet(rtnl.LinkChange{Index: 20, Up: &up})
	batch.Addr(rtnl.Address{Index: 20, Prefix: netip.MustParsePrefix("10.0.0.1/24")})
	require.NoError(b, conn.Do(&batch))
	const n = 10000
	for b.Loop() {
		batch.Reset()
		for i := range n {
			batch.RouteReplace(rtnl.Route{Dst: netip.PrefixFrom(netip.AddrFrom4([4]byte{11, byte(i >> 8), byte(i), 0}), 24),
				Via: netip.MustParseAddr("10.0.0.2"), DevIndex: 20, Labels: []uint32{1000, uint32(i + 16)}})
		}
		require.NoError(b, conn.Do(&batch))
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/n, "us/route")
}
