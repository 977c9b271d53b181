package rtnl_test

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netns"

	"github.com/vpclab/vpclab/emu/fabric/rtnl"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
)

// inside runs fn on a thread in the namespace; the thread ends with it.
func inside(t *testing.T, ns netns.NsHandle, fn func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := netns.Set(ns)
		if err == nil {
			err = fn()
		}
		done <- err
	}()
	require.NoError(t, <-done)
}

// box is a namespace and the batch for it.
type box struct {
	ns   netns.NsHandle
	conn *rtnl.Conn
	rtnl.Batch
}

func newBox(t *testing.T) *box {
	t.Helper()
	b := &box{ns: namespace(t)}
	var err error
	b.conn, err = rtnl.DialNS(int(b.ns))
	require.NoError(t, err)
	t.Cleanup(func() { b.conn.Close() })
	b.LinkSet(rtnl.LinkChange{Index: 1, Up: &yes})
	return b
}

var yes = true

func (b *box) do(t *testing.T) {
	t.Helper()
	require.NoError(t, b.conn.Do(&b.Batch))
	b.Reset()
}

// up gives an interface an address and lets it go.
func (b *box) up(index int, addr string) {
	b.LinkSet(rtnl.LinkChange{Index: index, Up: &yes})
	b.Addr(rtnl.Address{Index: index, Prefix: netip.MustParsePrefix(addr)})
}

func (b *box) sysctl(t *testing.T, values map[string]string) {
	t.Helper()
	inside(t, b.ns, func() error {
		for path, v := range values {
			if err := os.WriteFile("/proc/sys/net/"+path, []byte(v), 0); err != nil {
				return err
			}
		}
		return nil
	})
}

func (b *box) run(t *testing.T, args ...string) string {
	t.Helper()
	var out []byte
	inside(t, b.ns, func() (err error) {
		out, err = exec.Command(args[0], args[1:]...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%v: %w: %s", args, err, out)
		}
		return nil
	})
	return string(out)
}

// Indexes and labels of the test. The pseudowire is pw1–pw2 with service
// labels 20101 (given out by PE 1) and 20102, on LSPs 12102 (P's label for PE
// 2) and 12101.
const (
	core, access, bridge = 20, 30, 40
	pwPort, pwFar        = 1 << 20, 1<<20 + 1
	coreBlock            = 1
)

// pe programs one provider edge: a bridge with the host's port and the
// pseudowire, and nothing that this package does not say.
func (b *box) pe(t *testing.T, lsp, out, in, loc uint32, nextHop string) {
	t.Helper()
	b.sysctl(t, map[string]string{"mpls/platform_labels": "30000", "mpls/conf/lo/input": "1", "mpls/conf/core/input": "1", "ipv4/conf/all/arp_announce": "2"})
	b.Bridge(rtnl.Bridge{Link: rtnl.Link{Name: "vsi", Index: bridge, Up: true}})
	b.Veth(rtnl.Veth{Link: rtnl.Link{Name: "pw", Index: pwPort, MTU: 1500}, Peer: rtnl.Link{Name: "pwx", Index: pwFar, MTU: 1500}})
	master := bridge
	b.LinkSet(rtnl.LinkChange{Index: access, Master: &master, Up: &yes})
	b.LinkSet(rtnl.LinkChange{Index: pwPort, Master: &master})
	b.PortSet(rtnl.PortChange{Index: pwPort, Isolated: &yes})
	b.LinkSet(rtnl.LinkChange{Index: pwFar, Up: &yes})
	b.LinkSet(rtnl.LinkChange{Index: pwPort, Up: &yes})
	b.Clsact(pwPort, "pw", 0)
	b.Clsact(core, "core", coreBlock)
	b.Filter(rtnl.Filter{DevIndex: pwPort, Dev: "pw", Parent: rtnl.Egress, Prio: 10, Handle: 1, Actions: []rtnl.Action{
		rtnl.PushLabel{Label: loc}, rtnl.PushEth{Dst: [6]byte{2, 0, 0, 0, 0, 2}, Src: [6]byte{2, 0, 0, 0, 0, 1}},
		rtnl.ToHost{}, rtnl.Redirect{DevIndex: 1, Ingress: true}}})
	b.MPLSReplace(rtnl.MPLSRoute{In: loc, Out: []uint32{lsp, out}, Via: netip.MustParseAddr(nextHop), DevIndex: core})
	b.Filter(rx(in))
	b.do(t)
}

func rx(in uint32) rtnl.Filter {
	return rtnl.Filter{Block: coreBlock, Prio: 10, Handle: in, Protocol: rtnl.EtherMPLS, Flower: &rtnl.Flower{Label: in, Bottom: true},
		Actions: []rtnl.Action{rtnl.PopEth{}, rtnl.PopLabel{Protocol: rtnl.EtherTEB}, rtnl.Redirect{DevIndex: pwFar}}}
}

// TestPseudowire builds one between two hosts by messages of this package
// alone, over two PEs and a P that swaps and pops, and uses it.
func TestPseudowire(t *testing.T) {
	kerneltest.Need(t)
	h1, pe1, p, pe2, h2 := newBox(t), newBox(t), newBox(t), newBox(t), newBox(t)
	for _, b := range []*box{h1, h2, p} {
		b.do(t)
	}
	wire := func(a *box, name string, index int, far *box, farName string, farIndex, mtu int) {
		a.Veth(rtnl.Veth{Link: rtnl.Link{Name: name, Index: index, MTU: mtu}, Peer: rtnl.Link{Name: farName, Index: farIndex, MTU: mtu}, PeerNS: int(far.ns)})
	}
	wire(pe1, "ac", access, h1, "eth0", 20, 1500)
	wire(pe2, "ac", access, h2, "eth0", 20, 1500)
	wire(pe1, "core", core, p, "c1", 21, 1600)
	wire(pe2, "core", core, p, "c2", 22, 1600)
	pe1.up(core, "10.0.1.0/31")
	pe2.up(core, "10.0.2.0/31")
	pe1.do(t)
	pe2.do(t)
	h1.up(20, "192.168.7.1/24")
	h2.up(20, "192.168.7.2/24")
	h1.do(t)
	h2.do(t)
	p.sysctl(t, map[string]string{"mpls/platform_labels": "30000", "mpls/conf/c1/input": "1", "mpls/conf/c2/input": "1"})
	p.up(21, "10.0.1.1/31")
	p.up(22, "10.0.2.1/31")
	p.MPLSReplace(rtnl.MPLSRoute{In: 12102, Via: netip.MustParseAddr("10.0.2.0"), DevIndex: 22})
	p.MPLSReplace(rtnl.MPLSRoute{In: 12101, Via: netip.MustParseAddr("10.0.1.0"), DevIndex: 21})
	p.do(t)
	pe1.pe(t, 12102, 20102, 20101, 29002, "10.0.1.1")
	pe2.pe(t, 12101, 20101, 20102, 29001, "10.0.2.1")
	h1.run(t, "ping", "-c", "3", "-i", "0.05", "-W", "5", "192.168.7.2")
	// A full frame needs all the room that the core gives; the largest may not
	// be cut on the way.
	h1.run(t, "ping", "-c", "2", "-i", "0.05", "-W", "5", "-s", "1472", "-M", "do", "192.168.7.2")

	t.Run("reads back", func(t *testing.T) { readsBack(t, pe1) })
	t.Run("learned and flushed", func(t *testing.T) { learnedAndFlushed(t, pe1, h2) })
	t.Run("replaced and deleted", func(t *testing.T) { replacedAndDeleted(t, pe1, h1) })
}

func readsBack(t *testing.T, pe *box) {
	links, err := pe.conn.Links()
	require.NoError(t, err)
	by := map[int]rtnl.LinkInfo{}
	for _, l := range links {
		by[l.Index] = l
	}
	require.True(t, by[pwPort].Isolated)
	require.False(t, by[access].Isolated)
	require.Equal(t, rtnl.PortForwarding, by[pwPort].Port)
	require.Equal(t, "forwarding", by[access].Port.String())
	require.Equal(t, pwFar, by[pwPort].Peer)
	require.Equal(t, "5m0s", by[bridge].Ageing.String())
	filters, err := pe.conn.Filters(coreBlock, 0, 0)
	require.NoError(t, err)
	want := rx(20101)
	want.Flower.Depth = 1
	require.Equal(t, []rtnl.Filter{want}, filters)
	filters, err = pe.conn.Filters(0, pwPort, rtnl.Egress)
	require.NoError(t, err)
	require.Len(t, filters, 1)
	require.Equal(t, rtnl.PushLabel{Label: 29002, TTL: 255}, filters[0].Actions[0])
	require.Equal(t, rtnl.Redirect{DevIndex: 1, Ingress: true}, filters[0].Actions[3])
	for _, nothing := range []struct {
		block uint32
		index int
	}{{77, 0}, {0, access}} {
		filters, err = pe.conn.Filters(nothing.block, nothing.index, rtnl.Egress)
		require.NoError(t, err)
		require.Empty(t, filters)
	}
	qdiscs, err := pe.conn.Qdiscs()
	require.NoError(t, err)
	blocks := map[int]uint32{}
	for _, q := range qdiscs {
		if q.Kind == "clsact" {
			blocks[q.Index] = q.Block
		}
	}
	require.Equal(t, map[int]uint32{pwPort: 0, core: coreBlock}, blocks)
	// What ip and tc make of it is what was proven by hand.
	require.Contains(t, pe.run(t, "bridge", "-d", "link", "show", "dev", "pw"), "isolated on")
	shown := pe.run(t, "tc", "filter", "show", "block", "1")
	for _, part := range []string{"mpls_label 20101", "mpls_bos 1", "vlan  pop_eth", "mpls  pop protocol teb", "Egress Redirect to device pwx"} {
		require.Contains(t, shown, part)
	}
}

func learnedAndFlushed(t *testing.T, pe, far *box) {
	links, err := far.conn.Links()
	require.NoError(t, err)
	mac := links[len(links)-1].MAC
	behind := func() (port int) {
		fdb, err := pe.conn.FDB()
		require.NoError(t, err)
		for _, e := range fdb {
			require.Equal(t, bridge, e.Bridge)
			if e.MAC == mac && !e.Local {
				port = e.Port
			}
		}
		return port
	}
	require.Equal(t, pwPort, behind())
	pe.PortSet(rtnl.PortChange{Index: access, Flush: true})
	pe.do(t)
	require.Equal(t, pwPort, behind(), "another port was flushed")
	pe.PortSet(rtnl.PortChange{Index: pwPort, Flush: true})
	pe.do(t)
	require.Zero(t, behind())
	far.run(t, "ping", "-c", "1", "-W", "5", "192.168.7.1")
	require.Equal(t, pwPort, behind())
	pe.BridgeSet(rtnl.BridgeChange{Name: "vsi", Flush: true, Ageing: 1230000000})
	pe.do(t)
	require.Zero(t, behind())
	links, err = pe.conn.Links()
	require.NoError(t, err)
	for _, l := range links {
		if l.Name == "vsi" {
			require.Equal(t, "1.23s", l.Ageing.String())
		}
	}
}

func replacedAndDeleted(t *testing.T, pe, host *box) {
	lost := func(to string) bool { // one probe, which a cut wire loses
		return strings.Contains(host.run(t, "sh", "-c", "ping -c 1 -W 1 "+to+" || true"), "100% packet loss")
	}
	wrong := rx(20101)
	wrong.Flower.Label = 20777
	pe.Filter(wrong)
	pe.do(t)
	require.True(t, lost("192.168.7.2"), "the filter was replaced in place")
	pe.Filter(rx(20101))
	pe.do(t)
	require.False(t, lost("192.168.7.2"))
	pe.FilterDel(rx(20101))
	pe.FilterDel(rx(20101), rtnl.IgnoreMissing)
	pe.FilterDel(rtnl.Filter{DevIndex: pwPort, Parent: rtnl.Egress})
	pe.do(t)
	for _, at := range []rtnl.Filter{{Block: coreBlock}, {DevIndex: pwPort, Parent: rtnl.Egress}} {
		filters, err := pe.conn.Filters(at.Block, at.DevIndex, at.Parent)
		require.NoError(t, err)
		require.Empty(t, filters)
	}
	pe.Filter(rtnl.Filter{Block: 99, Prio: 4, Protocol: rtnl.EtherMPLS, Flower: &rtnl.Flower{Label: 5}})
	require.ErrorContains(t, pe.conn.Do(&pe.Batch), "set filter prio 4 label 5 of block 99: invalid argument (Block")
	pe.Reset()
	// A port that ends takes its hooks and filters along, and a block its filters.
	pe.Filter(rx(20101))
	pe.ClsactDel(core, "core")
	pe.LinkDel(pwPort, "")
	pe.Clsact(core, "core", coreBlock)
	pe.do(t)
	filters, err := pe.conn.Filters(coreBlock, 0, 0)
	require.NoError(t, err)
	require.Empty(t, filters)
}
