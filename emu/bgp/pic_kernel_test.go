package bgp_test

import (
	"encoding/json"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/bgp"
	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/fabric/rtnl"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/emu/liveness"
	"github.com/vpclab/vpclab/emu/mpls"
	"github.com/vpclab/vpclab/emu/mpls/vpntest"
	"github.com/vpclab/vpclab/topo"
)

// twoWays has two PEs that can bring pe1's packets to the same prefixes, each
// by a link of its own. s2 and s3 stand for the two circuits of one site.
//
//	          p1 -- pe2 -- s2
//	         / |
//	s1 -- pe1  |
//	         \ |
//	          p2 -- pe3 -- s3
const twoWays = `
name: twoways
topology:
  backbone:
    pe: [pe1, pe2, pe3]
    p: [p1, p2]
    links:
      - {between: [pe1, p1]}
      - {between: [pe1, p2]}
      - {between: [p1, p2], cost: 50}
      - {between: [p1, pe2]}
      - {between: [p2, pe3]}
  sites:
    s1: {kind: enterprise, pe: pe1, machines: 1}
    s2: {kind: enterprise, pe: pe2, machines: 1}
    s3: {kind: enterprise, pe: pe3, machines: 1}
vpcs:
  red: {service: l3vpn, subnets: {s1: 10.0.1.0/24, s2: 10.0.2.0/24, s3: 10.0.3.0/24}}
`

// twoPEs is that network. Behind s2 and s3 are the same prefixes.
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
	w := &twoPEs{network: newNetwork(t, vpntest.Expand(t, twoWays))}
	w.live = &liveSocket{t: t, conn: make(chan net.Conn, 1)}
	w.In("pe1", func() (err error) {
		w.live.l, err = net.Listen("unix", liveness.Socket)
		return err
	})
	t.Cleanup(func() { w.live.l.Close() })
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

// behind has n prefixes behind s2 and s3, the first preferred, and waits until
// pe1's kernel has them.
func (w *twoPEs) behind(n int, pic bool) (took time.Duration) {
	w.t.Helper()
	w.n = n
	mark, began := w.Mark(), event.Now()
	for pe, pref := range map[string]int{"pe2": 200, "pe3": 150} {
		c := w.configs[pe]
		c.VRFs = append([]bgp.VRF(nil), c.VRFs...)
		c.VRFs[0].Circuits = append([]bgp.Circuit(nil), c.VRFs[0].Circuits...)
		c.VRFs[0].Circuits[0].More = topo.Run{First: netip.MustParsePrefix("100.64.0.0/32"), Count: n}
		c.VRFs[0].Circuits[0].Preference = pref
		w.configs[pe] = c
	}
	c := w.configs["pe1"]
	c.PIC, c.Liveness = pic, true
	w.configs["pe1"] = c
	w.configureAll()
	if !pic {
		return 0 // they were there, and converged with the configuration
	}
	return w.programmed(mark, "pe2").Sub(began)
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
	w.t.Helper()
	tables, err := mpls.Read(w.NSPath("pe1"))
	require.NoError(w.t, err)
	out := map[uint32]int{}
	for _, r := range tables.VRFs[0].Routes {
		if r.Prefix[:3] == "100" && r.Metric == 0 {
			out[r.Labels[len(r.Labels)-1]]++
		}
	}
	return out
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
	t.Logf("%8s %12s %12s %12s %12s %12s %12s", "prefixes", "announced", "pic", "one by one", "ratio", "floor: hop", "floor: routes")
	for _, n := range []int{1, 100, 1000, 10000} {
		set := w.behind(n, true)
		require.Equal(t, map[uint32]int{w.vpnLabel("pe2"): n}, w.labelled())
		mark := w.Mark()
		w.live.say(liveness.State{Peer: pe2, By: "bfd-multihop"})
		e := w.Wait(t, mark, "pe1", "pic.switched", "peer="+pe2.String())
		shared, err := time.ParseDuration(e.Attr["took"])
		require.NoError(t, err)
		require.Equal(t, map[uint32]int{w.vpnLabel("pe3"): n}, w.labelled())
		require.Zero(t, w.Count(mark, "pe1", "route.programmed"), "no route is touched")
		mark = w.Mark()
		w.live.say(liveness.State{Peer: pe2, By: "bfd-multihop", Up: true})
		w.Wait(t, mark, "pe1", "pic.switched", "peer="+pe2.String())
		require.Equal(t, map[uint32]int{w.vpnLabel("pe2"): n}, w.labelled())

		w.behind(n, false)
		mark = w.Mark()
		at := w.live.say(liveness.State{Peer: pe2, By: "bfd-multihop"})
		single := w.programmed(mark, "pe3").Sub(at)
		require.Equal(t, map[uint32]int{w.vpnLabel("pe3"): n}, w.labelled())
		mark = w.Mark()
		w.live.say(liveness.State{Peer: pe2, By: "bfd-multihop", Up: true})
		w.programmed(mark, "pe2")

		move, routes := w.floor(n)
		t.Logf("%8d %12v %12v %12v %12.0f %12v %12v", n, set.Round(time.Millisecond), shared, single.Round(time.Microsecond),
			single.Seconds()/shared.Seconds(), move.Round(time.Microsecond), routes.Round(time.Microsecond))
	}
}
