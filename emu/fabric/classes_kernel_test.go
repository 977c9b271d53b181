package fabric_test

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/fabric/rtnl"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/topo"
)

// Labels of the backbone below. What s sends to precious has one label, what
// it sends to common the other.
const (
	lspLabel, reservedLabel, commonLabel = 12102, 40001, 20102
	linePort                             = "p:c2--b:core"
)

var (
	precious = netip.MustParseAddr("10.9.0.1")
	common   = netip.MustParseAddr("10.9.0.2")
)

// backbone is a sender s behind a router a that pushes two labels, a router p
// that pops the outer one, and b, which has both addresses. The line is p's
// towards b, where the inner label is on top.
func backbone(line topo.Impairment, classes ...fabric.Class) fabric.State {
	p, a := netip.MustParsePrefix, netip.MustParseAddr
	mac := func(n byte) topo.MAC { return topo.MAC{2, 0, 0, 0, 1, n} }
	router := map[string]string{"net.ipv4.ip_forward": "1", "net.mpls.platform_labels": "50000", "net.ipv4.conf.all.arp_announce": "2"}
	link := func(a, b fabric.End) fabric.Link { return fabric.Link{A: a, B: b, MTU: 1600} }
	push := func(to netip.Addr, label uint32) fabric.Route {
		return fabric.Route{Dst: netip.PrefixFrom(to, 32), Via: a("10.7.2.2"), Dev: "core", Labels: fabric.Stack{lspLabel, label}}
	}
	back := topo.Impairment{Delay: topo.Duration(2 * time.Millisecond)}
	return fabric.State{
		Nodes: map[string]fabric.Node{
			"s": {Name: "s", Routes: []fabric.Route{{Dst: p("0.0.0.0/0"), Via: a("10.7.1.1")}}},
			"a": {Name: "a", Sysctls: router, Routes: []fabric.Route{push(precious, reservedLabel), push(common, commonLabel)}},
			"p": {Name: "p", Sysctls: router, Routes: []fabric.Route{{Dst: p("10.7.1.0/30"), Via: a("10.7.2.1")}},
				MPLS: []fabric.MPLSRoute{{In: lspLabel, Via: a("10.7.3.2"), Dev: "c2"}}},
			"b": {Name: "b", Sysctls: router, Lo: []netip.Prefix{netip.PrefixFrom(precious, 32), netip.PrefixFrom(common, 32)},
				Routes: []fabric.Route{{Dst: p("10.7.1.0/30"), Via: a("10.7.3.1")}},
				MPLS:   []fabric.MPLSRoute{{In: reservedLabel, Dev: "lo"}, {In: commonLabel, Dev: "lo"}}},
		},
		Links: map[string]fabric.Link{
			"s:eth0--a:ac": link(fabric.End{Node: "s", Ifname: "eth0", MAC: mac(1), Addr: p("10.7.1.2/30")},
				fabric.End{Node: "a", Ifname: "ac", MAC: mac(2), Addr: p("10.7.1.1/30")}),
			"a:core--p:c1": link(fabric.End{Node: "a", Ifname: "core", MAC: mac(3), Addr: p("10.7.2.1/30")},
				fabric.End{Node: "p", Ifname: "c1", MAC: mac(4), Addr: p("10.7.2.2/30"), MPLSInput: true}),
			linePort: link(fabric.End{Node: "p", Ifname: "c2", MAC: mac(5), Addr: p("10.7.3.1/30"), Egress: line, Classes: classes},
				fabric.End{Node: "b", Ifname: "core", MAC: mac(6), Addr: p("10.7.3.2/30"), MPLSInput: true, Egress: back}),
		},
	}
}

func lineOf(mbit int64) topo.Impairment {
	return topo.Impairment{Rate: topo.Rate(mbit * 1e6), Delay: topo.Duration(2 * time.Millisecond)}
}

func reserve(mbit int64) fabric.Class {
	return fabric.Class{Label: reservedLabel, Depth: 1, Rate: topo.Rate(mbit * 1e6)}
}

// crowd is greedy flows to common.
type crowd []*pump

func startCrowd(t testing.TB, f *fabric.Fabric, n int) (c crowd) {
	for i := range n {
		c = append(c, startPump(t, f, "s", "b", netip.AddrPortFrom(common, uint16(9001+i))))
	}
	return c
}

func (c crowd) stop() {
	for _, p := range c {
		p.stop()
	}
}

// rates measures a reserved flow and the crowd over the same time, in Mbit/s
// on the wire.
func (c crowd) rates(one *pump, d time.Duration) (reserved, others float64) {
	pumps := append(crowd{}, c...)
	if one != nil {
		pumps = append(pumps, one)
	}
	from := make([]int64, len(pumps))
	start := time.Now()
	for i, p := range pumps {
		from[i] = p.got.Load()
	}
	timer := time.NewTimer(d) // the length of the measurement
	<-timer.C
	took := time.Since(start).Seconds()
	for i, p := range pumps {
		rate := float64(p.got.Load()-from[i]) * 8 / took / payload / 1e6
		if p == one {
			reserved = rate
		} else {
			others += rate
		}
	}
	return reserved, others
}

// TestReservationHolds sends one flow beside eight greedy ones over a P's line
// of 100 Mbit/s, and reserves 40 for it while they run. The stalls of a busy
// machine hit the whole line, so a part is judged by what the line carried.
func TestReservationHolds(t *testing.T) {
	kerneltest.Need(t)
	f := start(t, "hold")
	const line, own = 100, 40
	apply(t, f, backbone(lineOf(line)))
	one := startPump(t, f, "s", "b", netip.AddrPortFrom(precious, 9000))
	defer func() { one.stop() }()
	others := startCrowd(t, f, 8)
	defer others.stop()
	measure := func(what string, p *pump) (reserved, rest float64) { // shares of the line
		others.rates(p, time.Second) // let TCP find it
		r, o := others.rates(p, 3*time.Second)
		t.Logf("%s: %.1f of its own, %.1f the others, %.1f in all", what, r, o, r+o)
		require.Less(t, r+o, line*1.06, "%s: the line is too fast", what)
		// A line that would not lend what is reserved and not used carried 30.
		require.Greater(t, r+o, line*0.6, "%s: the line is too slow, or does not work though there is work", what)
		return r / (r + o), o / (r + o)
	}
	without, _ := measure("nothing reserved", one)
	require.Less(t, without, 0.4*0.7, "one of nine")

	ch := apply(t, f, backbone(lineOf(line), reserve(own)))
	require.Equal(t, "+ p:c2: shared line (rate 100mbit, 60mbit of it not reserved, queue 246 KiB)\n"+
		"+ p:c2: reserved for label 40001 at depth 1 (rate 40mbit, queue 187 KiB)\n", ch.String())
	with, rest := measure("40 reserved", one)
	require.Greater(t, with, 0.4*0.9)
	require.Greater(t, rest, 0.6*0.9)
	view, err := f.Inspect("p")
	require.NoError(t, err)
	i := view.Interfaces[len(view.Interfaces)-1]
	require.Len(t, i.Reserved, 1)
	require.Greater(t, i.Reserved[0].Bytes, uint64(3*own*1e6/8/2), "counted at the class")

	apply(t, f, backbone(lineOf(line), reserve(70)))
	with, _ = measure("70 reserved", one)
	require.Greater(t, with, 0.7*0.9)
	require.Nil(t, one.err.Load(), "the connection broke")
	one.stop()
	measure("reserved and not used: the others have it", nil)

	one = startPump(t, f, "s", "b", netip.AddrPortFrom(precious, 9000))
	apply(t, f, backbone(lineOf(line)))
	without, _ = measure("given back", one)
	require.Less(t, without, 0.4*0.7)
	for _, p := range others {
		require.Nil(t, p.err.Load(), "a connection broke")
	}
}

// TestReservationsComeAndGo walks through all forms of a divided line, each of
// which the next Apply must recognise, and mends each part by hand damaged.
func TestReservationsComeAndGo(t *testing.T) {
	kerneltest.Need(t)
	f := start(t, "parts")
	at := func(label uint32, depth int, mbit int64) fabric.Class {
		return fabric.Class{Label: label, Depth: depth, Rate: topo.Rate(mbit * 1e6)}
	}
	same := func(s fabric.State, what string) {
		t.Helper()
		ch, err := f.Plan(s)
		require.NoError(t, err, what)
		require.Empty(t, ch.String(), what)
	}
	ms := topo.Duration(time.Millisecond)
	for i, s := range []fabric.State{
		backbone(lineOf(100)),
		backbone(lineOf(100), at(40001, 1, 10)),
		backbone(lineOf(100), at(40001, 1, 10), at(40002, 2, 20), at(1048575, 7, 1)),
		backbone(lineOf(200), at(40001, 1, 10), at(40002, 2, 20), at(1048575, 7, 1)),
		backbone(topo.Impairment{Rate: 2e8, Delay: 9 * ms, Jitter: ms, Loss: 1, Queue: 50}, at(40002, 2, 100), at(40003, 1, 100)),
		backbone(lineOf(100), at(40003, 1, 33)),
		backbone(topo.Impairment{Delay: ms}, at(40003, 1, 33)),
		backbone(lineOf(100), at(40003, 1, 33)),
		backbone(topo.Impairment{}),
		backbone(lineOf(50), at(16, 1, 50)),
		backbone(lineOf(50)),
	} {
		for _, opts := range [][]fabric.Option{nil, {fabric.Trust}} {
			if i > 0 {
				_, err := f.Apply(t.Context(), s, opts...)
				require.NoError(t, err, "form %d", i)
			} else {
				apply(t, f, s)
			}
			same(s, fmt.Sprintf("form %d", i))
		}
	}
	view, err := f.Inspect("p")
	require.NoError(t, err)
	last := view.Interfaces[len(view.Interfaces)-1]
	require.Equal(t, []string{"netem 1:0 parent root", "hfsc 10:0 parent 1:1", "bfifo 20:0 parent 10:1"}, last.Qdiscs, "as without reservations")

	want := backbone(lineOf(100), at(40001, 1, 10), at(40002, 2, 20))
	apply(t, f, want)
	for _, c := range []struct{ damage, named string }{
		{"tc filter del dev c2 parent 10: prio 1", "+ p:c2: reserved for label 40001 at depth 1"},
		{"tc filter add dev c2 parent 10: prio 1 handle 77 protocol mpls_uc flower mpls lse depth 1 label 77 classid 10:3", "- p:c2: stray filter 77"},
		{"tc class add dev c2 parent 10:ffff classid 10:9 hfsc ls rate 1mbit", "- p:c2: stray class 10:9"},
		{"tc class change dev c2 parent 10:ffff classid 10:3 hfsc rt m2 1mbit", "~ p:c2: reserved for label 40001 at depth 1"},
		{"tc class change dev c2 parent 10:ffff classid 10:3 hfsc ls m2 1mbit", "~ p:c2: reserved for label 40001 at depth 1"},
		{"tc class change dev c2 parent 10: classid 10:ffff hfsc ul m2 1mbit ls m2 1mbit", "~ p:c2: shared line (rate 1mbit"},
		{"tc class change dev c2 parent 10:ffff classid 10:2 hfsc ls m2 1mbit", "~ p:c2: shared line (rate 100mbit, 1mbit of it"},
		{"tc qdisc del dev c2 parent 10:4", "~ p:c2: reserved for label 40002 at depth 2 (rate 20mbit, queue 0 KiB"},
		{"tc qdisc change dev c2 parent 1:1 handle 10: hfsc default 1", "~ p:c2: shared line (rate 100mbit, 70mbit of it not reserved, queue 246 KiB, not in use -> "},
		{"tc qdisc change dev c2 parent 1:1 handle 10: hfsc default 7", "~ p:c2: impairment"},
		{"tc qdisc del dev c2 root", "+ p:c2: shared line"},
		{"tc qdisc replace dev c2 root handle 5: pfifo limit 9", "+ p:c2: shared line"},
	} {
		args := append([]string{"netns", "exec", "vpclab-parts-p"}, strings.Fields(c.damage)...)
		out, err := exec.Command("ip", args...).CombinedOutput()
		require.NoError(t, err, "%s: %s", c.damage, out)
		ch, err := f.Plan(want)
		require.NoError(t, err, c.damage)
		require.Contains(t, ch.String(), c.named, c.damage)
		done := apply(t, f, want)
		require.Equal(t, ch.String(), done.String(), c.damage)
		same(want, "after "+c.damage)
	}
}

// TestReservedByInnerLabel reserves on the link where the label is under the
// LSP's, and counts what goes by its class.
func TestReservedByInnerLabel(t *testing.T) {
	kerneltest.Need(t)
	f := start(t, "inner")
	s := backbone(topo.Impairment{})
	l := s.Links["a:core--p:c1"]
	l.A.Egress = lineOf(100)
	l.A.Classes = []fabric.Class{{Label: reservedLabel, Depth: 2, Rate: 20e6}, {Label: commonLabel, Depth: 1, Rate: 10e6}}
	s.Links["a:core--p:c1"] = l
	apply(t, f, s)
	for _, to := range []netip.Addr{precious, common} {
		out, err := ping(t, f, "s", to.String(), 4)
		require.NoError(t, err, out)
	}
	v, err := f.Inspect("a")
	require.NoError(t, err)
	for _, i := range v.Interfaces {
		if i.Name == "core" {
			require.Equal(t, []fabric.ReservedView{
				{Label: commonLabel, Depth: 1, Rate: 10e6}, // it is under another there
				{Label: reservedLabel, Depth: 2, Rate: 20e6, Bytes: 4 * (14 + 8 + 84)},
			}, i.Reserved)
		}
	}
}

// TestOverbookedLineIsRefused: HFSC would make the line faster than it is.
func TestOverbookedLineIsRefused(t *testing.T) {
	kerneltest.Need(t)
	f := start(t, "full")
	_, err := f.Apply(t.Context(), backbone(lineOf(100), reserve(60), fabric.Class{Label: 40003, Depth: 1, Rate: 41e6}))
	require.EqualError(t, err, "apply to lab full: link p:c2--b:core: p:c2: 101mbit reserved on a line of 100mbit")
}

// htbLine makes a line at p of token buckets: the form that the field uses.
func htbLine(t testing.TB, f *fabric.Fabric, line, reserved int64) {
	mbit, own := uint64(line), uint64(reserved)
	index := netlinkIn(t, f, "p", "c2").Attrs().Index
	at := func(parent, handle rtnl.Handle) rtnl.Qdisc {
		return rtnl.Qdisc{DevIndex: index, Dev: "c2", Parent: parent, Handle: handle}
	}
	h := func(minor uint16) rtnl.Handle { return rtnl.MakeHandle(0x10, minor) }
	const burst = 64<<10 + 1514 // a super frame
	require.NoError(t, f.Do("p", func() error {
		conn, err := rtnl.Dial()
		if err != nil {
			return err
		}
		defer conn.Close()
		var b rtnl.Batch
		b.Netem(at(rtnl.Root, rtnl.MakeHandle(1, 0)), rtnl.Netem{Delay: 2 * time.Millisecond, Limit: 1 << 20})
		b.HTB(at(rtnl.MakeHandle(1, 1), h(0)), 2)
		b.HTBClass(at(h(0), h(1)), rtnl.HTBClass{Rate: mbit * 1e6, Burst: burst})
		b.HTBClass(at(h(1), h(2)), rtnl.HTBClass{Rate: (mbit - own) * 1e6, Ceil: mbit * 1e6, Burst: burst})
		b.HTBClass(at(h(1), h(3)), rtnl.HTBClass{Rate: own * 1e6, Ceil: mbit * 1e6, Burst: burst})
		queue := func(mbit uint64) int { return int(mbit*1000) + 100*1514 } // as fabric's: 4 x 2 ms, and spare
		b.ByteFIFO(at(h(2), rtnl.MakeHandle(0x1002, 0)), queue(mbit))
		b.ByteFIFO(at(h(3), rtnl.MakeHandle(0x1003, 0)), queue(own))
		b.Filter(rtnl.Filter{DevIndex: index, Dev: "c2", Parent: h(0), Prio: 1, Handle: 1, Protocol: rtnl.EtherMPLS,
			Flower: &rtnl.Flower{Label: reservedLabel}, Class: h(3)})
		return conn.Do(&b)
	}))
}

// BenchmarkReservation measures what a flow with 40 % of a line reserved and
// eight greedy ones carry, by HFSC as it is used and by HTB, in turns, on a
// quiet machine and on one with a process that computes.
func BenchmarkReservation(b *testing.B) {
	kerneltest.Need(b)
	f := start(b, "bench")
	apply(b, f, backbone(lineOf(100), reserve(40)))
	one := startPump(b, f, "s", "b", netip.AddrPortFrom(precious, 9000))
	defer one.stop()
	others := startCrowd(b, f, 8)
	defer others.stop()
	for _, line := range []int64{100, 465} {
		for _, busy := range []bool{false, true} {
			for round := range 6 {
				kind := []string{"hfsc", "htb"}[round%2]
				b.Run(fmt.Sprintf("%s/line=%d/busy=%v", kind, line, busy), func(b *testing.B) {
					apply(b, f, backbone(topo.Impairment{}))
					if kind == "hfsc" {
						apply(b, f, backbone(lineOf(line), reserve(line*2/5)))
					} else {
						htbLine(b, f, line, line*2/5)
					}
					if busy {
						burner := exec.Command("sh", "-c", "while :; do :; done")
						require.NoError(b, burner.Start())
						defer func() { _ = burner.Process.Kill(); _ = burner.Wait() }()
					}
					others.rates(one, time.Second)
					for b.Loop() {
						r, o := others.rates(one, 3*time.Second)
						b.ReportMetric(r, "reserved-Mbit/s")
						b.ReportMetric(r+o, "total-Mbit/s")
					}
				})
			}
		}
	}
}
