package bgp

import (
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netns"

	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/fabric/rtnl"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/emu/mpls"
	"github.com/vpclab/vpclab/topo"
)

// bareFIB is a kernelFIB in a namespace of its own, with a bridge vsi-x, a
// core interface and its filter block, as the fabric makes them. The test keeps
// its thread.
func bareFIB(t testing.TB, labels int) (*kernelFIB, *inbox) {
	kerneltest.Need(t)
	runtime.LockOSThread() // and never unlock: the thread ends with the test
	ns, err := netns.New()
	require.NoError(t, err)
	t.Cleanup(func() { ns.Close() })
	for name, value := range map[string]string{"platform_labels": strconv.Itoa(labels + 1), "conf/lo/input": "1"} {
		require.NoError(t, os.WriteFile("/proc/sys/net/mpls/"+name, []byte(value), 0))
	}
	up := true
	var b rtnl.Batch
	b.LinkSet(rtnl.LinkChange{Index: lo, Up: &up})
	b.Bridge(rtnl.Bridge{Link: rtnl.Link{Name: "vsi-x", Index: 10, Up: true}})
	b.Dummy(rtnl.Link{Name: "core", Index: 20, MTU: 1600})
	b.LinkSet(rtnl.LinkChange{Index: 20, Up: &up})
	b.Addr(rtnl.Address{Index: 20, Dev: "core", Prefix: netip.MustParsePrefix("10.254.0.2/31")})
	b.Clsact(20, "core", mpls.PseudowireBlock)
	conn, err := rtnl.Dial()
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.Do(&b))
	box := newInbox()
	f, err := openKernelFIB(box.put)
	require.NoError(t, err)
	t.Cleanup(f.close)
	return f.(*kernelFIB), box
}

// wires are n pseudowires with labels from 1000 on.
func wires(n int) (out []pseudowire) {
	for i := range n {
		out = append(out, pseudowire{VSI: "vsi-x", VE: i + 2, Egress: netip.MustParseAddr("10.255.0.2"), In: uint32(1000 + i), MTU: 1500,
			Out: uint32(5000 + i), Labels: fabric.Stack{17, uint32(5000 + i)}, Via: netip.MustParseAddr("10.254.0.3"), Dev: "core"})
	}
	return out
}

func all(do wireVerb, pws []pseudowire) (ops []wireOp) {
	for _, w := range pws {
		ops = append(ops, wireOp{do: do, pw: w})
	}
	return ops
}

// held is all that the kernel holds of pseudowires: ports, labels and filters.
func held(t testing.TB, f *kernelFIB) (out []string) {
	ports, err := f.ports()
	require.NoError(t, err)
	for label := range ports {
		out = append(out, "port "+strconv.Itoa(int(label)))
	}
	routes, err := f.conn.MPLSRoutes(rtnl.ProtocolBGP)
	require.NoError(t, err)
	for _, r := range routes {
		out = append(out, "label "+strconv.Itoa(int(r.In)))
	}
	filters, err := f.conn.Filters(mpls.PseudowireBlock, 0, 0)
	require.NoError(t, err)
	for _, x := range filters {
		out = append(out, "filter "+strconv.Itoa(int(x.Flower.Label)))
	}
	slices.Sort(out)
	return out
}

func requireAll(t testing.TB, errs []error) {
	t.Helper()
	for _, err := range errs {
		require.NoError(t, err)
	}
}

// TestNothingStaysOfWhatIsRefused refuses at each step of a pseudowire and of a
// flow.
func TestNothingStaysOfWhatIsRefused(t *testing.T) {
	f, _ := bareFIB(t, 2000)
	good := wires(3)
	noBridge, noCore, noLabel := good[1], good[1], good[1]
	noBridge.VSI = "vsi-y"
	noCore.Dev = "core9"
	noLabel.In = 3000 // beyond platform_labels: the kernel refuses the route
	for _, c := range []struct {
		pw   pseudowire
		want string
	}{
		{noBridge, "add pw1001: bridge: device vsi-y: no such device"},
		{noCore, "add pw1001: way to 10.255.0.2: device core9: no such device"},
		{noLabel, "set label 3000 as [17 5001] via 10.254.0.3 dev core: invalid argument"},
	} {
		flow := reserved{VSI: "vsi-x", Name: "gold", Port: c.pw.In, Labels: fabric.Stack{30001, 1900}, Via: good[0].Via, Dev: "core", In: 1901}
		errs := f.wire([]wireOp{{do: addPW, pw: good[0]}, {do: addPW, pw: c.pw}, {do: setFlow, flow: flow}})
		require.NoError(t, errs[0])
		require.ErrorContains(t, errs[1], c.want)
		require.Error(t, errs[2], "a flow without its pseudowire")
		require.Equal(t, []string{"filter 1000", "label 1000", "port 1000"}, held(t, f), c.want)
		requireAll(t, f.wire(all(dropPW, good[:1])))
		require.Empty(t, held(t, f))
	}
	// Without the block: all of it goes, and to remove what is gone is fine.
	requireAll(t, f.wire(all(addPW, good[:1])))
	var b rtnl.Batch
	b.ClsactDel(20, "core")
	require.NoError(t, f.conn.Do(&b))
	errs := f.wire(all(addPW, good[1:2]))
	require.ErrorContains(t, errs[0], "filter 1001 prio 10 label 1001 of block 1")
	requireAll(t, f.wire(all(dropPW, good[:1])))
	require.Empty(t, held(t, f))
	ports, err := f.sweep()
	require.NoError(t, err)
	require.Empty(t, ports)
}

// TestFlowsChooseByMAC programs each kind of flow, changes it in place, and
// removes it.
func TestFlowsChooseByMAC(t *testing.T) {
	f, _ := bareFIB(t, 2000)
	pw := wires(1)[0]
	requireAll(t, f.wire(all(addPW, []pseudowire{pw})))
	a, b := topo.MAC{2, 0, 0, 0, 0, 1}, topo.MAC{2, 0, 0, 0, 0, 2}
	var flows []reserved
	for i, m := range [][2]topo.MAC{{a, b}, {{}, b}, {a, {}}, {}} {
		flows = append(flows, reserved{VSI: "vsi-x", Name: strconv.Itoa(i), Port: pw.In, Src: m[0], Dst: m[1],
			Labels: fabric.Stack{30001, uint32(1900 + i)}, Via: pw.Via, Dev: "core", In: uint32(1950 + i)})
	}
	ops := func(do wireVerb) (out []wireOp) {
		for _, r := range flows {
			out = append(out, wireOp{do: do, flow: r})
		}
		return out
	}
	requireAll(t, f.wire(ops(setFlow)))
	for i := range flows {
		flows[i].Labels = fabric.Stack{30002, 30001, uint32(1900 + i)}
	}
	requireAll(t, f.wire(ops(setFlow)))
	got, err := f.conn.Filters(0, portIndex(pw.In), rtnl.Egress)
	require.NoError(t, err)
	slices.SortFunc(got, func(x, y rtnl.Filter) int { return int(x.Prio) - int(y.Prio) })
	require.Len(t, got, 5)
	for i, want := range []*rtnl.Flower{{Src: a, Dst: b}, {Dst: b}, {Src: a}, nil, nil} {
		require.Equal(t, want, got[i].Flower, i)
		label := uint32(1900 + i)
		if i == 4 {
			label = pw.In
		}
		require.Equal(t, rtnl.PushLabel{Label: label, TTL: 255}, got[i].Actions[0])
	}
	require.Len(t, held(t, f), 3+2*len(flows))
	requireAll(t, f.wire(ops(dropFlow)))
	require.Equal(t, []string{"filter 1000", "label 1000", "port 1000"}, held(t, f))
	requireAll(t, f.wire(ops(setFlow)))
	requireAll(t, f.wire(append(ops(dropFlow), wireOp{do: dropPW, pw: pw})))
	require.Empty(t, held(t, f))
}

// TestManyPseudowires goes beyond what one sendmsg and one receive buffer hold,
// and sees each port come up.
func TestManyPseudowires(t *testing.T) {
	f, box := bareFIB(t, 2000)
	const n = 150
	pws := wires(n)
	requireAll(t, f.wire(all(addPW, pws)))
	up := map[uint32]bool{}
	deadline := time.After(10 * time.Second)
	for len(up) < n {
		select {
		case <-box.signal:
		case <-deadline:
			t.Fatalf("wait for %d ports to forward: %d do", n, len(up))
		}
		for _, m := range box.take() {
			switch m := m.(type) {
			case portUp:
				up[m.label] = true
			case linkUp:
				t.Errorf("%+v: of a speaker's own device, or notifications were lost", m)
			}
		}
	}
	require.Len(t, held(t, f), 3*n)
	ports, err := f.sweep()
	require.NoError(t, err)
	require.Len(t, ports, n)
	require.Empty(t, held(t, f))
}

// BenchmarkPseudowires is the cost of one pseudowire: in batches as large as a
// PE with 20 VPLS of 8 sites makes when it comes up, until all ports forward;
// and one by one, as when a site joins. Beside it what cannot be less: bare veth
// pairs, up, in one batch.
func BenchmarkPseudowires(b *testing.B) {
	f, box := bareFIB(b, 2000)
	const n = 140
	pws := wires(n)
	other := slices.Clone(pws)
	for i := range other {
		other[i].Out++
	}
	forwarding := func(want int) {
		up := map[uint32]bool{}
		for len(up) < want {
			<-box.signal
			for _, m := range box.take() {
				if m, ok := m.(portUp); ok {
					up[m.label] = true
				}
			}
		}
	}
	var floor, add, route, drop, one, oneDrop time.Duration
	took := func(d *time.Duration, do func()) {
		began := time.Now()
		do()
		*d += time.Since(began)
	}
	up := true
	for b.Loop() {
		took(&floor, func() {
			var bare rtnl.Batch
			for _, w := range pws {
				port := portIndex(w.In)
				bare.Veth(rtnl.Veth{Link: rtnl.Link{Name: w.port(), Index: port, Group: rtnl.GroupSpeaker}, Peer: rtnl.Link{Name: w.port() + "x", Index: port + 1}})
				bare.LinkSet(rtnl.LinkChange{Index: port + 1, Up: &up})
				bare.LinkSet(rtnl.LinkChange{Index: port, Up: &up})
			}
			require.NoError(b, f.conn.Do(&bare))
		})
		_, err := f.sweep()
		require.NoError(b, err)
		box.take()
		took(&add, func() { requireAll(b, f.wire(all(addPW, pws))); forwarding(n) })
		took(&route, func() { requireAll(b, f.wire(all(routePW, other))) })
		took(&drop, func() { requireAll(b, f.wire(all(dropPW, pws))) })
		for _, w := range pws[:20] {
			took(&one, func() { requireAll(b, f.wire(all(addPW, []pseudowire{w}))); forwarding(1) })
		}
		for _, w := range pws[:20] {
			took(&oneDrop, func() { requireAll(b, f.wire(all(dropPW, []pseudowire{w}))) })
		}
	}
	per := func(d time.Duration, n int) float64 { return float64(d.Microseconds()) / float64(b.N*n) }
	b.ReportMetric(per(floor, n), "us/bare-veth")
	b.ReportMetric(per(add, n), "us/add")
	b.ReportMetric(per(route, n), "us/reroute")
	b.ReportMetric(per(drop, n), "us/drop")
	b.ReportMetric(per(one, 20), "us/add-one")
	b.ReportMetric(per(oneDrop, 20), "us/drop-one")
	b.ReportMetric(0, "ns/op")
}
