package bgp_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/vpclab/vpclab/emu/bgp"
	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/fabric/rtnl"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/emu/liveness"
	"github.com/vpclab/vpclab/emu/mpls"
	"github.com/vpclab/vpclab/emu/mpls/vpntest"
	"github.com/vpclab/vpclab/topo"
)

// twoWays has a site at two PEs, to each of which pe1's packets go by a link of
// its own.
//
//	          p1 -- pe2 --.
//	         / |           s2
//	s1 -- pe1  |          /
//	         \ |         /
//	          p2 -- pe3 -
const twoWays = `
name: twoways
topology:
  backbone:
    pe: [pe1, pe2, pe3]
    p: [p1, p2]
    rr: p2
    links:
      - {between: [pe1, p1]}
      - {between: [pe1, p2]}
      - {between: [p1, p2], cost: 50}
      - {between: [p1, pe2]}
      - {between: [p2, pe3]}
  sites:
    s1: {kind: enterprise, pe: pe1, machines: 1}
    s2: {kind: enterprise, pe: pe2, backup-pe: pe3, machines: 1}
vpcs:
  red: {service: l3vpn, subnets: {s1: 10.0.1.0/24, s2: 10.0.2.0/24}, prefixes: {s2: 10000}}
`

// twoPEs is that network. Behind s2 are n of its prefixes.
type twoPEs struct {
	*network
	live *liveSocket
	n    int
}

// liveSocket takes the place of pe1's repair process.
type liveSocket struct {
	t    *testing.T
	l    net.Listener
	conn chan net.Conn
	c    net.Conn
}

func newTwoPEs(t *testing.T) *twoPEs {
	kerneltest.Need(t)
	plan := vpntest.Expand(t, twoWays)
	bare := vpntest.Expand(t, strings.Replace(twoWays, ", prefixes: {s2: 10000}", "", 1))
	w := &twoPEs{network: newNetwork(t, bare)}
	w.Plan = plan
	w.Converge(vpntest.State(plan)) // the routes to s2 and in it; who tells of them is the tests' matter
	w.live = &liveSocket{t: t, conn: make(chan net.Conn, 1)}
	w.In("pe1", func() (err error) {
		w.live.l, err = net.Listen("unix", liveness.Socket)
		return err
	})
	t.Cleanup(func() { // a connection holds the namespace
		w.live.l.Close()
		if w.live.c != nil {
			w.live.c.Close()
		}
	})
	go func() {
		for {
			c, err := w.live.l.Accept()
			if err != nil {
				return
			}
			w.live.conn <- c
		}
	}()
	return w
}

// say tells pe1 that a peer or a link is up or down, and when.
func (l *liveSocket) say(s liveness.State) event.Mono {
	l.t.Helper()
	if l.c == nil {
		select {
		case l.c = <-l.conn:
		case <-time.After(5 * time.Second):
			l.t.Fatal("pe1 did not connect to the liveness socket within 5 s")
		}
	}
	s.At = event.Now()
	line, err := json.Marshal(s)
	require.NoError(l.t, err)
	_, err = l.c.Write(append(line, '\n'))
	require.NoError(l.t, err)
	return s.At
}

// behind has n prefixes behind s2 and waits until pe1's kernel has them.
func (w *twoPEs) behind(n int, pic bool) (took time.Duration) {
	w.t.Helper()
	w.n = n
	mark, began := w.Mark(), event.Now()
	for _, pe := range []string{"pe2", "pe3"} {
		c := w.configs[pe]
		c.VRFs = slices.Clone(c.VRFs)
		c.VRFs[0].Circuits = slices.Clone(c.VRFs[0].Circuits)
		c.VRFs[0].Circuits[0].More = topo.Run{First: netip.PrefixFrom(behindS2, 32), Count: n}
		w.configs[pe] = c
	}
	c := w.configs["pe1"]
	c.PIC, c.Liveness = pic, true
	w.configs["pe1"] = c
	w.configureAll()
	if !pic {
		return 0 // they were there, and converged with the configuration
	}
	took = w.programmed(mark, "pe2").Sub(began)
	w.eventually("a spare for each prefix, and two next hops for all", func() bool { return w.spares() == n && len(w.nexthops()) == 2 })
	return took
}

// behindS2 is the first of the addresses behind s2.
var behindS2 = netip.MustParseAddr("100.64.64.0")

// echoed says whether who has an address behind s2 answers s1's machine, by
// ICMP and within wait.
func (w *twoPEs) echoed(wait time.Duration) (ok bool) {
	w.t.Helper()
	src, _ := w.Machine(w.t, "red", "s1")
	var conn net.PacketConn
	w.In(src, func() (err error) {
		conn, err = net.ListenPacket("ip4:icmp", "0.0.0.0")
		return err
	})
	defer conn.Close()
	ask := []byte{8, 0, 0, 0, 0, 7, 0, 9}
	binary.BigEndian.PutUint16(ask[2:], ^uint16(8<<8+7+9))
	_, err := conn.WriteTo(ask, &net.IPAddr{IP: behindS2.AsSlice()})
	require.NoError(w.t, err)
	require.NoError(w.t, conn.SetReadDeadline(time.Now().Add(wait)))
	for buf := make([]byte, 100); ; {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return false
		}
		if n >= 8 && buf[0] == 0 && from.String() == behindS2.String() {
			return true
		}
	}
}

// programmed waits until pe1's kernel has said of each prefix that it leads to
// a PE, and says when it did of the last.
func (w *twoPEs) programmed(mark int, pe string) (last event.Mono) {
	w.t.Helper()
	egress := loopback(w.Plan, pe).String()
	seen := map[netip.Prefix]bool{}
	w.Until(w.t, mark, "all prefixes lead to "+pe, func(e event.Event) bool {
		first, err := netip.ParsePrefix(e.Attr["prefix"])
		if err != nil || e.Node != "pe1" || e.Kind != "route.programmed" || e.Attr["egress"] != egress || !first.Addr().Is4() || first.Bits() != 32 {
			return false
		}
		for p := range (topo.Run{First: first, Count: counted(e)}).All() {
			seen[p] = true
		}
		last = e.T
		return len(seen) >= w.n
	})
	return last
}

func counted(e event.Event) int {
	n, err := strconv.Atoi(e.Attr["count"])
	if err != nil {
		return 1
	}
	return n
}

// labelled counts pe1's routes to the prefixes by the last label that they
// push, which says which PE they lead to.
func (w *twoPEs) labelled() map[uint32]int {
	out := map[uint32]int{}
	for _, r := range w.routes() {
		if r.Metric == 0 {
			out[r.Labels[len(r.Labels)-1]]++
		}
	}
	return out
}

// spares counts those that stand behind others.
func (w *twoPEs) spares() (n int) {
	for _, r := range w.routes() {
		if r.Metric != 0 {
			n++
		}
	}
	return n
}

func (w *twoPEs) routes() []mpls.Route {
	w.t.Helper()
	tables, err := mpls.Read(w.NSPath("pe1"))
	require.NoError(w.t, err)
	return slices.DeleteFunc(tables.VRFs[0].Routes, func(r mpls.Route) bool { return !strings.HasPrefix(r.Prefix, "100.") })
}

func (w *twoPEs) vpnLabel(pe string) uint32 {
	v, _ := w.Plan.VPC("red")
	r, _ := v.VRF(pe)
	return r.Label
}

// floor is what the kernel alone takes to move a next hop, and to replace n
// routes: one socket, messages made beforehand.
func (w *twoPEs) floor(n int) (move, routes time.Duration) {
	const table, id = 4242, 77
	w.In("pe1", func() error {
		conn, err := rtnl.Dial()
		if err != nil {
			return err
		}
		defer conn.Close()
		links, err := conn.Links()
		if err != nil {
			return err
		}
		index := map[string]int{}
		for _, l := range links {
			index[l.Name] = l.Index
		}
		way := func(pe string) (netip.Addr, int) {
			lsp, _ := w.Plan.LSP(pe)
			h, _ := lsp.Hop("pe1")
			return h.Via, index[h.Dev]
		}
		run := topo.Run{First: netip.MustParsePrefix("100.64.0.0/32"), Count: n}
		fill := func(b *rtnl.Batch, pe string) {
			via, dev := way(pe)
			for p := range run.All() {
				b.RouteReplace(rtnl.Route{Table: table, Dst: p, Via: via, DevIndex: dev, Labels: []uint32{17, 18}, Protocol: 200})
			}
		}
		var first, again, hop, gone rtnl.Batch
		fill(&first, "pe2")
		if err := conn.Do(&first); err != nil {
			return err
		}
		fill(&again, "pe3")
		began := event.Now()
		if err := conn.Do(&again); err != nil {
			return err
		}
		routes = event.Now().Sub(began)
		via, dev := way("pe2")
		hop.NexthopAdd(rtnl.Nexthop{ID: id, Via: via, DevIndex: dev, Labels: []uint32{17, 18}})
		if err := conn.Do(&hop); err != nil {
			return err
		}
		via, dev = way("pe3")
		hop.Reset()
		hop.NexthopMove(rtnl.Nexthop{ID: id, Via: via, DevIndex: dev, Labels: []uint32{17, 18}})
		began = event.Now()
		if err := conn.Do(&hop); err != nil {
			return err
		}
		move = event.Now().Sub(began)
		gone.NexthopDel(id)
		for p := range run.All() {
			gone.RouteDel(rtnl.Route{Table: table, Dst: p, Protocol: 200})
		}
		return conn.Do(&gone)
	})
	return move, routes
}

// TestPrefixIndependent: what a PE that is down costs with one prefix and with
// ten thousand, by shared next hops and route by route, from the word of the
// repair process to the kernel's acknowledgement of the last route.
func TestPrefixIndependent(t *testing.T) {
	w := newTwoPEs(t)
	pe2 := loopback(w.Plan, "pe2")
	t.Logf("%8s %12s %12s %12s %8s %12s %13s", "prefixes", "announced", "shared", "one by one", "ratio", "kernel: hop", "kernel: routes")
	for _, n := range []int{1, 100, 1000, 10000} {
		set := w.behind(n, true)
		require.Equal(t, map[uint32]int{w.vpnLabel("pe2"): n}, w.labelled())
		require.True(t, w.echoed(vpntest.Patience))
		shared := w.thrice(func(up bool, _ string) time.Duration {
			mark := w.Mark()
			w.live.say(liveness.State{Peer: pe2, By: "bfd-multihop", Up: up})
			e := w.Wait(t, mark, "pe1", "pic.switched", "peer="+pe2.String())
			require.Zero(t, w.Count(mark, "pe1", "route.programmed"), "no route is touched")
			took, err := time.ParseDuration(e.Attr["took"])
			require.NoError(t, err)
			return took
		})
		w.behind(n, false)
		require.Empty(t, w.nexthops())
		single := w.thrice(func(up bool, to string) time.Duration {
			mark := w.Mark()
			at := w.live.say(liveness.State{Peer: pe2, By: "bfd-multihop", Up: up})
			return w.programmed(mark, to).Sub(at)
		})
		move, routes := w.floor(n)
		t.Logf("%8d %12v %12v %12v %8.0f %12v %13v", n, set.Round(time.Millisecond), shared, single.Round(time.Microsecond),
			single.Seconds()/shared.Seconds(), move.Round(time.Microsecond), routes.Round(time.Microsecond))
		if n == 10000 {
			require.Greater(t, single, 3*shared, "one message against ten thousand")
		}
	}
}

// thrice has pe2 go down and come up three times and gives the median of how
// long what follows took. Each time all prefixes lead to where they should.
func (w *twoPEs) thrice(say func(up bool, to string) time.Duration) time.Duration {
	w.t.Helper()
	var took []time.Duration
	for range 3 {
		took = append(took, say(false, "pe3"))
		require.Equal(w.t, map[uint32]int{w.vpnLabel("pe3"): w.n}, w.labelled())
		require.True(w.t, w.echoed(vpntest.Patience))
		took = append(took, say(true, "pe2"))
		require.Equal(w.t, map[uint32]int{w.vpnLabel("pe2"): w.n}, w.labelled())
	}
	slices.Sort(took)
	return took[len(took)/2]
}

// looksUp is the last label that pe1 pushes on a packet from s1 to what is
// behind s2.
func (w *twoPEs) looksUp() (label uint32) {
	w.t.Helper()
	w.In("pe1", func() error {
		routes, err := netlink.RouteGetWithOptions(behindS2.AsSlice(), &netlink.RouteGetOptions{VrfName: "vrf-red"})
		if err != nil {
			return err
		}
		if push, ok := routes[0].Encap.(*netlink.MPLSEncap); ok {
			label = uint32(push.Labels[len(push.Labels)-1])
		}
		return nil
	})
	return label
}

// nexthops are the shared next hops of pe1's speaker.
func (w *twoPEs) nexthops() (ids []uint32) {
	w.In("pe1", func() error {
		conn, err := rtnl.Dial()
		if err != nil {
			return err
		}
		defer conn.Close()
		all, err := conn.Nexthops(rtnl.ProtocolBGP)
		for _, n := range all {
			ids = append(ids, n.ID)
		}
		return err
	})
	slices.Sort(ids)
	return ids
}

// TestSharedNexthops: what happens to them otherwise.
func TestSharedNexthops(t *testing.T) {
	w := newTwoPEs(t)
	w.behind(200, true)
	// One pair for s2 and what is behind it, in use and spare.
	both := w.nexthops()
	require.Equal(t, both[0]+1, both[1])
	usual := func() bool {
		return slices.Equal(both, w.nexthops()) && reflect.DeepEqual(w.labelled(), map[uint32]int{w.vpnLabel("pe2"): 200})
	}
	t.Run("the kernel goes to the spare when a carrier is lost", func(t *testing.T) {
		mark := w.Mark()
		w.In("p1", func() error { return setLink("pe1", false) })
		w.eventually("another link, when the kernel has looked at the carrier", func() bool { return w.looksUp() == w.vpnLabel("pe3") })
		require.Empty(t, w.labelled(), "the kernel has removed the routes in use")
		require.Equal(t, both[1:], w.nexthops())
		require.Zero(t, w.Count(mark, "pe1", "pic.switched"))
		w.In("p1", func() error { return setLink("pe1", true) })
		w.eventually("the usual next hops", usual)
	})
	t.Run("a link that is set down and up", func(t *testing.T) {
		w.In("pe1", func() error { return setLink("p1", false) })
		require.Equal(t, w.vpnLabel("pe3"), w.looksUp())
		w.In("pe1", func() error { return setLink("p1", true) })
		w.eventually("the usual next hops", usual)
	})
	w.Converge(vpntest.State(w.Plan)) // the core's own routes are the fabric's
	require.True(t, w.echoed(vpntest.Patience))
	t.Run("a silent link whose tunnel has a backup", func(t *testing.T) {
		c := w.configs["pe1"]
		usual := c.Tunnels
		c.Tunnels = slices.Clone(usual)
		i := slices.IndexFunc(c.Tunnels, func(x bgp.Tunnel) bool { return x.Egress == loopback(w.Plan, "pe2") })
		j := slices.IndexFunc(c.Tunnels, func(x bgp.Tunnel) bool { return x.Egress == loopback(w.Plan, "pe3") })
		// By p2, which is told the way to p1, and on with p1's label.
		const toP1 = 5999
		lsp, _ := w.Plan.LSP("pe2")
		h, _ := lsp.Hop("p1")
		w.In("p2", func() error {
			conn, err := rtnl.Dial()
			if err != nil {
				return err
			}
			defer conn.Close()
			dev, err := netlink.LinkByName("p1")
			if err != nil {
				return err
			}
			links := w.Plan.LinksOf("p2")
			k := links[slices.IndexFunc(links, func(l topo.Link) bool { return l.A.Node == "p1" })]
			var b rtnl.Batch
			b.MPLSReplace(rtnl.MPLSRoute{In: toP1, Via: k.A.Addr.Addr(), DevIndex: dev.Attrs().Index})
			return conn.Do(&b)
		})
		c.Tunnels[i].Backup = &bgp.Backup{Labels: []uint32{toP1, h.InLabel}, Via: c.Tunnels[j].Via, Dev: c.Tunnels[j].Dev}
		w.configs["pe1"] = c
		w.configure("pe1")
		mark := w.Mark()
		w.live.say(liveness.State{Dev: c.Tunnels[i].Dev, Peer: c.Tunnels[i].Via, By: "bfd"})
		e := w.Wait(t, mark, "pe1", "pic.switched", "peer="+c.Tunnels[i].Dev)
		require.Equal(t, "201", e.Attr["prefixes"], "and s2's own subnet")
		require.True(t, w.echoed(vpntest.Patience))
		require.Equal(t, map[uint32]int{w.vpnLabel("pe2"): 200}, w.labelled(), "another way to the same PE")
		w.live.say(liveness.State{Dev: c.Tunnels[i].Dev, Peer: c.Tunnels[i].Via, By: "bfd", Up: true})
		c.Tunnels = usual
		w.configs["pe1"] = c
		w.configure("pe1")
	})
	t.Run("the tunnel goes", func(t *testing.T) {
		c := w.configs["pe1"]
		usualTunnels := c.Tunnels
		c.Tunnels = slices.DeleteFunc(slices.Clone(c.Tunnels), func(x bgp.Tunnel) bool { return x.Egress == loopback(w.Plan, "pe2") })
		w.configs["pe1"] = c
		mark := w.Mark()
		w.configure("pe1")
		require.NotZero(t, w.Count(mark, "pe1", "pic.switched", "peer=tunnels"))
		require.Equal(t, map[uint32]int{w.vpnLabel("pe3"): 200}, w.labelled())
		c.Tunnels = usualTunnels
		w.configs["pe1"] = c
		w.configure("pe1")
		require.Equal(t, map[uint32]int{w.vpnLabel("pe2"): 200}, w.labelled())
	})
	t.Run("a killed speaker's are swept", func(t *testing.T) {
		require.NoError(t, w.s["pe1"].Kill())
		require.NotEmpty(t, w.nexthops(), "a crash leaves the kernel as it is")
		mark := w.Mark()
		w.start("pe1")
		w.live.c = nil
		w.configure("pe1")
		for _, pe := range []string{"pe2", "pe3"} {
			w.Wait(t, mark, pe, "route.programmed", "prefix=10.0.1.0/24")
		}
		w.eventually("the usual next hops", func() bool { return len(w.nexthops()) == 2 && len(w.labelled()) == 1 })
		require.True(t, w.echoed(vpntest.Patience))
	})
	t.Run("a stop removes all", func(t *testing.T) {
		require.NoError(t, w.s["pe1"].Stop(context.Background()))
		require.Empty(t, w.nexthops())
		require.Empty(t, w.labelled())
	})
}

func setLink(dev string, up bool) error {
	link, err := netlink.LinkByName(dev)
	if err != nil {
		return err
	}
	if up {
		return netlink.LinkSetUp(link)
	}
	return netlink.LinkSetDown(link)
}

// eventually waits for what no event tells of.
func (w *twoPEs) eventually(what string, ok func() bool) {
	w.t.Helper()
	require.Eventually(w.t, ok, 10*time.Second, 20*time.Millisecond, what)
}
