package traffic

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
)

// ip runs lines of `ip -batch`.
func ip(t testing.TB, lines ...string) {
	t.Helper()
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("ip -batch: %v\n%s", err, out)
	}
}

func enter(node string, fn func() error) error {
	n, err := ns.GetNS("/run/netns/" + node)
	if err != nil {
		return err
	}
	defer n.Close()
	return n.Do(func(ns.NetNS) error { return fn() })
}

// lan makes one namespace with a bridge and n machines on it, tenant-1 …
// tenant-n with 10.0.0.1 … n. Several lans have the same addresses.
func lan(t testing.TB, tenant string, n int) []Endpoint {
	t.Helper()
	sw := "sw-" + tenant
	// One batch for the names, then one a namespace: ip -batch cannot switch.
	names := []string{"netns add " + sw}
	for i := 1; i <= n; i++ {
		names = append(names, fmt.Sprintf("netns add %s-%d", tenant, i))
	}
	ip(t, names...)
	t.Cleanup(func() {
		for _, l := range names {
			_ = exec.Command("ip", "netns", "del", strings.Fields(l)[2]).Run()
		}
	})
	inside := []string{"link add br0 type bridge mcast_snooping 0", "link set br0 up"}
	var eps []Endpoint
	for i := 1; i <= n; i++ {
		inside = append(inside,
			fmt.Sprintf("link add p%d type veth peer name eth0 netns %s-%d", i, tenant, i),
			fmt.Sprintf("link set p%d master br0 up", i))
		eps = append(eps, Endpoint{
			Name: fmt.Sprintf("%s-%d", tenant, i), VPC: tenant, Site: "here",
			Addr: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}),
		})
	}
	in(t, sw, inside...)
	for _, ep := range eps {
		in(t, ep.Name, "link set lo up", "addr add "+ep.Addr.String()+"/16 dev eth0", "link set eth0 up")
	}
	return eps
}

// in runs lines of `ip -batch` inside a namespace.
func in(t testing.TB, node string, lines ...string) {
	t.Helper()
	if err := enter(node, func() error { ip(t, lines...); return nil }); err != nil {
		t.Fatalf("%s: %v", node, err)
	}
}

func sameVPC(from, to Endpoint) bool { return from.VPC == to.VPC }

func open(t testing.TB, eps ...Endpoint) *Prober {
	t.Helper()
	p, err := Open(enter, eps)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func ask(t testing.TB, p *Prober, cfg MatrixConfig) (*Matrix, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	m, err := p.Matrix(ctx, cfg)
	if m == nil {
		t.Fatal(err)
	}
	return m, err
}

func TestMatrixTellsTenantsWithTheSameAddressesApart(t *testing.T) {
	kerneltest.Need(t)
	p := open(t, append(lan(t, "a", 3), lan(t, "b", 3)...)...)
	m, err := ask(t, p, MatrixConfig{Allowed: sameVPC})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{".AA=ff", "A.Af=f", "AA.ff=", "=ff.AA", "f=fA.A", "ff=AA."}
	for i, row := range m.Cells {
		if row != want[i] {
			t.Errorf("row %s: got %s, want %s", m.Endpoints[i].Name, row, want[i])
		}
	}
	if m.Allowed != 12 || m.Reached != 12 || m.Forbidden != 12 || m.Leaks != 0 || m.AllReached == 0 || m.RTTMax == 0 {
		t.Errorf("%+v", m)
	}
	t.Logf("rtt %v/%v/%v, grace %v, %d probes, whole %v", m.RTTMin, m.RTTMedian, m.RTTMax, m.Grace, m.Probes, m.End.Sub(m.Start))
}

func TestMatrixFindsALeak(t *testing.T) {
	kerneltest.Need(t)
	a := lan(t, "a", 2)
	b := lan(t, "b", 3)
	// A cable from a's switch to machine b-3, which has an address that a's
	// machines can reach, and that answers.
	in(t, "sw-a", "link add leak type veth peer name eth1 netns b-3", "link set leak master br0 up")
	in(t, "b-3", "link set eth0 down", "addr flush dev eth0", "addr add 10.0.0.3/16 dev eth1", "link set eth1 up")
	m, err := ask(t, open(t, append(a, b...)...), MatrixConfig{
		Allowed:  func(f, to Endpoint) bool { return sameVPC(f, to) && f.Name != "b-3" && to.Name != "b-3" },
		Deadline: 5 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{".A=fL", "A.f=L", "=f.Af", "f=A.f", "LLff."}
	for i, row := range m.Cells {
		if row != want[i] {
			t.Errorf("row %s: got %s, want %s", m.Endpoints[i].Name, row, want[i])
		}
	}
	if m.Leaks != 4 || len(m.Leaked) != 4 || !m.Leaked[0].Answered {
		t.Errorf("leaks %d: %v", m.Leaks, m.Leaked)
	}
}

func TestMatrixSeesALeakWhoseAnswerIsLost(t *testing.T) {
	kerneltest.Need(t)
	eps := lan(t, "a", 3)
	in(t, "a-3", "route add blackhole 10.0.0.1/32") // a-3 hears a-1 and cannot answer
	m, err := ask(t, open(t, eps...), MatrixConfig{
		Allowed: func(f, to Endpoint) bool { return f.Name != "a-3" && to.Name != "a-3" },
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{".AL", "A.L", "fL."}
	for i, row := range m.Cells {
		if row != want[i] {
			t.Errorf("row %s: got %s, want %s", m.Endpoints[i].Name, row, want[i])
		}
	}
	for _, l := range m.Leaked {
		if l.From == "a-1" && (l.Answered || l.Arrivals != 3) {
			t.Errorf("leak a-1 -> a-3: %+v; want 3 arrivals, one a round, and no answer", l)
		}
	}
}

func TestMatrixNamesWhatIsDropped(t *testing.T) {
	kerneltest.Need(t)
	eps := lan(t, "a", 3)
	in(t, "a-1", "route add blackhole 10.0.0.3/32")
	m, err := ask(t, open(t, eps...), MatrixConfig{Allowed: sameVPC, Deadline: 300 * time.Millisecond})
	var inc *Incomplete
	if !errors.As(err, &inc) || len(inc.Missing) != 2 {
		t.Fatalf("error %v; want the two missing pairs", err)
	}
	for _, want := range []string{"a-1 -> a-3 (10.0.0.3): the sender's kernel refused", "a-3 -> a-1 (10.0.0.1): ", "probes arrived, no answer came back"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q lacks %q", err, want)
		}
	}
	if want := ".Aa"; m.Cells[0] != want || m.AllReached != 0 {
		t.Errorf("row a-1: %s, want %s; all reached %v", m.Cells[0], want, m.AllReached)
	}
}

func TestTrainMeasuresAKnownOutage(t *testing.T) {
	kerneltest.Need(t)
	eps := lan(t, "a", 3)
	p := open(t, eps...)
	tr, err := p.StartTrain(TrainConfig{Flows: []Flow{{"a-1", "a-2"}, {"a-1", "a-3"}}, Interval: 2 * time.Millisecond, Duty: 1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := tr.WaitFirst(ctx); err != nil {
		t.Fatal(err)
	}
	<-time.After(200 * time.Millisecond)
	var down, up event.Mono
	if err := enter("sw-a", func() error { down, up = unplug(t, "p2", 300*time.Millisecond); return nil }); err != nil {
		t.Fatal(err)
	}
	<-time.After(400 * time.Millisecond)
	r, err := tr.Stop(ctx)
	if err != nil {
		t.Fatal(err)
	}
	hit, spared := r.Flows[0], r.Flows[1]
	t.Logf("interval %v, longest %v; outage made %v; seen %+v", r.Interval, r.Longest, up.Sub(down), hit.Gaps)
	if spared.Lost != 0 || spared.Sent < 100 {
		t.Errorf("the other flow: sent %d, lost %d", spared.Sent, spared.Lost)
	}
	if len(hit.Gaps) != 1 {
		t.Fatalf("gaps %+v; want one", hit.Gaps)
	}
	g := hit.Gaps[0]
	if made := up.Sub(down); g.Length() < made-2*r.Longest || g.Length() > made+2*r.Longest {
		t.Errorf("outage %v, made was %v, longest interval %v", g.Length(), made, r.Longest)
	}
	if g.Lost != hit.Lost || hit.Received+hit.Lost != hit.Sent {
		t.Errorf("counts do not add up: %+v", hit)
	}
}

// unplug takes a port out of the bridge of the namespace it is called in for
// some time. (A link taken down and up again would stay dark for up to a second
// more: the kernel's link watch is in no hurry.)
func unplug(t testing.TB, port string, long time.Duration) (down, up event.Mono) {
	t.Helper()
	p, err := netlink.LinkByName(port)
	if err != nil {
		t.Fatal(err)
	}
	br, err := netlink.LinkByName("br0")
	if err != nil {
		t.Fatal(err)
	}
	down = event.Now()
	if err := netlink.LinkSetNoMaster(p); err != nil {
		t.Fatal(err)
	}
	<-time.After(long)
	if err := netlink.LinkSetMaster(p, br); err != nil {
		t.Fatal(err)
	}
	return down, event.Now()
}

func TestTrainNamesTheSilentFlow(t *testing.T) {
	kerneltest.Need(t)
	p := open(t, append(lan(t, "a", 2), lan(t, "b", 1)...)...)
	tr, err := p.StartTrain(TrainConfig{Flows: []Flow{{"a-1", "a-2"}, {"b-1", "a-2"}}, UntilFirst: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	err = tr.WaitFirst(ctx)
	if err == nil || !strings.Contains(err.Error(), "b-1 -> a-2") || strings.Contains(err.Error(), "a-1") {
		t.Errorf("error %v; want it to name b-1 -> a-2 alone", err)
	}
	r, err := tr.Stop(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if f := r.Flows[0]; f.Received == 0 || f.Sent > 50 {
		t.Errorf("flow a-1 -> a-2 went on after its first arrival: %+v", f)
	}
}

// star makes a router with n machines around it. Not a LAN: the kernel's
// neighbour table holds 1024 entries for all namespaces together, and n
// machines on one segment need n*n.
func star(t testing.TB, n int) []Endpoint {
	t.Helper()
	names := []string{"netns add hub"}
	var eps []Endpoint
	for i := 1; i <= n; i++ {
		ep := Endpoint{Name: fmt.Sprintf("m%d", i), Site: "here", Addr: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})}
		names = append(names, "netns add "+ep.Name)
		eps = append(eps, ep)
	}
	ip(t, names...)
	var hub []string
	for i, ep := range eps {
		dev := fmt.Sprintf("p%d", i+1)
		hub = append(hub, "link add "+dev+" type veth peer name eth0 netns "+ep.Name, "link set "+dev+" up",
			"addr add 169.254.0.1/32 dev "+dev, "route add "+ep.Addr.String()+"/32 dev "+dev)
	}
	in(t, "hub", hub...)
	if err := enter("hub", func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) }); err != nil {
		t.Fatal(err)
	}
	for _, ep := range eps {
		in(t, ep.Name, "addr add "+ep.Addr.String()+"/32 dev eth0", "link set eth0 up", "route add 169.254.0.1 dev eth0", "route add default via 169.254.0.1")
	}
	return eps
}

// TestMatrixAtScale prints what 320 machines cost: 102,080 ordered pairs, all
// with addresses of their own, which is the most expensive case.
func TestMatrixAtScale(t *testing.T) {
	kerneltest.Need(t)
	if testing.Short() {
		t.Skip("builds 320 namespaces, which takes a minute")
	}
	eps := star(t, 320)
	began := time.Now()
	p := open(t, eps...)
	opened := time.Since(began)
	half := func(f, to Endpoint) bool { return f.Addr.As4()[3]%2 == to.Addr.As4()[3]%2 }
	m, err := ask(t, p, MatrixConfig{Allowed: half, Deadline: 30 * time.Second, Rounds: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("open %v; %d allowed pairs %v; whole matrix %v; %d probes, %d of %d answered; rtt %v/%v/%v",
		opened, m.Allowed, m.AllReached.Sub(m.Start), m.End.Sub(m.Start), m.Probes, m.Answered, m.Asked, m.RTTMin, m.RTTMedian, m.RTTMax)
	if m.Reached != m.Allowed || m.Leaks != m.Forbidden {
		t.Errorf("reached %d of %d; with one hub every forbidden pair must show as a leak: %d of %d", m.Reached, m.Allowed, m.Leaks, m.Forbidden)
	}
}
