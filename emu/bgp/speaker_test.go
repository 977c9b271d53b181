package bgp

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/event"
)

// The speakers of these tests are this test program again: TestMain turns
// into one when it is asked to. With fakeFIBEnv set, routes go nowhere, so
// that the whole control plane runs without privilege, on loopback addresses.
const (
	speakerArg = "speaker-process"
	fakeFIBEnv = "VPCLAB_TEST_FAKE_FIB"
	panicEnv   = "VPCLAB_TEST_PANIC"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == speakerArg {
		os.Exit(speakerProcess())
	}
	os.Exit(m.Run())
}

func speakerProcess() int {
	conn, err := ControlConn()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	open := openKernelFIB
	if os.Getenv(fakeFIBEnv) != "" {
		open = func(post func(any)) (fib, error) {
			return &fakeFIB{refused: map[uint32]bool{}, post: post, bridges: map[uint32]string{}}, nil
		}
	}
	if os.Getenv(panicEnv) != "" {
		open = func(func(any)) (fib, error) { panic("as the test asked") }
	}
	yieldToOthers()
	if err := runSpeaker(context.Background(), conn, open); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// fakeFIB accepts everything but devices named "broken", and routes through one
// named "busy" only at the third try.
type fakeFIB struct {
	post    func(any)
	tries   int
	refused map[uint32]bool   // next hops
	bridges map[uint32]string // of the pseudowires' ports, by label
}

func (f *fakeFIB) apply(set, del []vrfRoute) (setErrs, delErrs []error) {
	setErrs, delErrs = make([]error, len(set)), make([]error, len(del))
	for i, r := range set {
		switch {
		case r.Way.Dev == "broken":
			setErrs[i] = errors.New("no such device")
		case r.Nexthop != 0 && f.refused[r.Nexthop]:
			setErrs[i] = errors.New("no such next hop")
		case r.Way.Dev == "busy" && f.tries < 2:
			f.tries++
			setErrs[i] = errors.New("no buffer space available")
		}
	}
	return setErrs, delErrs
}
func (f *fakeFIB) nexthops(add, move []nexthop, _ []uint32) (addErrs, moveErrs []error) {
	addErrs = make([]error, len(add))
	for i, n := range add {
		if f.refused[n.ID] = n.Way.Dev == "broken"; f.refused[n.ID] {
			addErrs[i] = errors.New("no such device")
		}
	}
	return addErrs, make([]error, len(move))
}
func (*fakeFIB) leftovers() ([]vrfRoute, error) { return nil, nil }

func (f *fakeFIB) wire(ops []wireOp) []error {
	errs := make([]error, len(ops))
	for i, op := range ops {
		switch {
		case op.pw.Dev == "broken" && op.do != dropPW, op.flow.Dev == "broken" && op.do != dropFlow:
			errs[i] = errors.New("no such device")
		case op.pw.VSI == "broken" && op.do == addPW:
			errs[i] = errors.New("no such bridge")
		case op.do == dropPW:
			delete(f.bridges, op.pw.In)
		case op.do == addPW:
			f.bridges[op.pw.In] = op.pw.VSI
			f.post(portUp{op.pw.In})
		}
	}
	return errs
}

func (f *fakeFIB) ports() (map[uint32]port, error) {
	out := map[uint32]port{}
	for label, bridge := range f.bridges {
		out[label] = port{bridge, true}
	}
	return out, nil
}

func (*fakeFIB) gates(set []gate, _ []uint32) []error { return make([]error, len(set)) }
func (*fakeFIB) sweep() ([]string, error)             { return nil, nil }
func (*fakeFIB) close()                               {}

// here starts every node's process in this namespace.
type here struct{ env []string }

func (h here) Start(_ string, cmd *exec.Cmd) error {
	cmd.Env = append(cmd.Env, h.env...)
	return cmd.Start()
}

// recorder keeps events and lets a test wait for one.
type recorder struct {
	mu     sync.Mutex
	events []event.Event
	signal chan struct{}
}

func newRecorder() *recorder { return &recorder{signal: make(chan struct{})} }

func (r *recorder) sink(e event.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
	close(r.signal)
	r.signal = make(chan struct{})
}

// mark is a position to wait from.
func (r *recorder) mark() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.events)
}

// wait returns the first event after mark that has the kind, the node and the
// attributes ("key=value").
func (r *recorder) wait(t *testing.T, mark int, node, kind string, attrs ...string) (found event.Event) {
	t.Helper()
	r.until(t, mark, fmt.Sprintf("event %s %s %v", node, kind, attrs), func(e event.Event) bool {
		found = e
		return matches(e, node, kind, attrs)
	})
	return found
}

// eventDeadline has room for thousands of routes on a loaded machine.
const eventDeadline = 30 * time.Second

// until shows done each event after mark, once, until it has seen enough.
func (r *recorder) until(t *testing.T, mark int, what string, done func(event.Event) bool) {
	t.Helper()
	deadline := time.After(eventDeadline)
	for at := mark; ; {
		r.mu.Lock()
		for ; at < len(r.events); at++ {
			if done(r.events[at]) {
				r.mu.Unlock()
				return
			}
		}
		signal := r.signal
		r.mu.Unlock()
		select {
		case <-signal:
		case <-deadline:
			t.Fatalf("no %s after %v; have:\n%s", what, eventDeadline, r.dump(mark))
		}
	}
}

// find is the position of the first such event after mark.
func (r *recorder) find(mark int, node, kind string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	for at := mark; at < len(r.events); at++ {
		if matches(r.events[at], node, kind, nil) {
			return at
		}
	}
	return len(r.events)
}

// count counts events after mark.
func (r *recorder) count(mark int, node, kind string, attrs ...string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events[mark:] {
		if matches(e, node, kind, attrs) {
			n++
		}
	}
	return n
}

func matches(e event.Event, node, kind string, attrs []string) bool {
	if e.Node != node || e.Kind != kind {
		return false
	}
	for _, a := range attrs {
		k, v, _ := strings.Cut(a, "=")
		if e.Attr[k] != v {
			return false
		}
	}
	return true
}

func (r *recorder) dump(mark int) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	for _, e := range r.events[mark:] {
		fmt.Fprintf(&b, "%12d %-4s %-16s %v\n", e.T, e.Node, e.Kind, e.Attr)
	}
	return b.String()
}

// bench is three PEs and a reflector on loopback addresses.
type bench struct {
	*recorder
	t    *testing.T
	port uint16
	s    map[string]*Speaker
	cfg  map[string]Config
}

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

var loopbacks = map[string]netip.Addr{
	"pe1": addr("127.0.1.1"), "pe2": addr("127.0.1.2"), "pe3": addr("127.0.1.3"), "rr": addr("127.0.1.9"),
}

// newBench starts the speakers and configures them with two tenants whose
// prefixes overlap: red at PE 1, 2 and 3, blue at PE 1 and 2.
func newBench(t *testing.T) *bench {
	b := &bench{recorder: newRecorder(), t: t, port: freePort(t), s: map[string]*Speaker{}, cfg: map[string]Config{}}
	for name := range loopbacks {
		b.start(name)
	}
	for name := range loopbacks {
		b.cfg[name] = b.base(name)
	}
	b.join("pe1", "red", 1)
	b.join("pe2", "red", 2)
	b.join("pe3", "red", 3)
	b.join("pe1", "blue", 1)
	b.join("pe2", "blue", 2)
	b.configureAll()
	return b
}

func (b *bench) start(name string) {
	s, err := Start(context.Background(), here{[]string{fakeFIBEnv + "=1"}}, name, b.sink, WithCommand(os.Args[0], speakerArg))
	require.NoError(b.t, err)
	b.s[name] = s
	b.t.Cleanup(func() { s.Kill() })
}

func (b *bench) base(name string) Config {
	c := Config{Node: name, ASN: 65000, RouterID: loopbacks[name], Port: b.port}
	if name == "rr" {
		c.Reflector = true
		c.Neighbors = []netip.Addr{loopbacks["pe1"], loopbacks["pe2"], loopbacks["pe3"]}
		return c
	}
	c.Neighbors = []netip.Addr{loopbacks["rr"]}
	for i, other := range []string{"pe1", "pe2", "pe3"} {
		if other != name {
			c.Tunnels = append(c.Tunnels, Tunnel{Egress: loopbacks[other], Label: uint32(100 + i + 1), Via: addr("10.0.0.1"), Dev: "core"})
		}
	}
	return c
}

var tenants = map[string]int{"red": 1, "blue": 2}

func rt(kind, tenant string, site int) string {
	base := map[string]int{"export": 10000, "import": 20000}[kind]
	return fmt.Sprintf("65000:%d", base+100*tenants[tenant]+site)
}

// join adds a tenant's site at a PE and admits it in the policy.
func (b *bench) join(pe, tenant string, site int) {
	b.provision(pe, tenant, site)
	rr := b.cfg["rr"]
	rr.Policy = append([]RTRule(nil), rr.Policy...)
	at := -1
	for i := range rr.Policy {
		if rr.Policy[i].Name == tenant {
			at = i
		}
	}
	if at < 0 {
		rr.Policy, at = append(rr.Policy, RTRule{Name: tenant}), len(rr.Policy)
	}
	r := &rr.Policy[at]
	r.From = append(append([]string(nil), r.From...), rt("export", tenant, site))
	r.To = append(append([]string(nil), r.To...), rt("import", tenant, site))
	b.cfg["rr"] = rr
}

// expel removes a site from the policy alone.
func (b *bench) expel(tenant string, site int) {
	rr := b.cfg["rr"]
	var rules []RTRule
	for _, r := range rr.Policy {
		n := RTRule{Name: r.Name}
		for i := range r.From {
			if r.Name != tenant || r.From[i] != rt("export", tenant, site) {
				n.From, n.To = append(n.From, r.From[i]), append(n.To, r.To[i])
			}
		}
		rules = append(rules, n)
	}
	rr.Policy = rules
	b.cfg["rr"] = rr
}

// provision adds the circuit at the PE.
func (b *bench) provision(pe, tenant string, site int) {
	c := b.cfg[pe]
	table := 1000 + tenants[tenant]
	circuit := Circuit{Site: fmt.Sprint("site", site), Prefix: prefix(fmt.Sprintf("10.0.%d.0/24", site)),
		ExportRT: rt("export", tenant, site), ImportRT: rt("import", tenant, site)}
	c.VRFs = append([]VRF(nil), c.VRFs...)
	for i := range c.VRFs {
		if c.VRFs[i].Table == table {
			c.VRFs[i].Circuits = append(append([]Circuit(nil), c.VRFs[i].Circuits...), circuit)
			b.cfg[pe] = c
			return
		}
	}
	n := int(pe[2] - '0')
	c.VRFs = append(c.VRFs, VRF{Name: "vrf-" + tenant, Table: table, RD: fmt.Sprintf("65000:%d", 1000*tenants[tenant]+n),
		Label: uint32(2000 + 10*tenants[tenant] + n), Circuits: []Circuit{circuit}})
	b.cfg[pe] = c
}

func (b *bench) configure(name string) {
	b.t.Helper()
	require.NoError(b.t, b.s[name].Configure(context.Background(), b.cfg[name]))
}

func (b *bench) configureAll() {
	b.t.Helper()
	var wg sync.WaitGroup
	errs := make(chan error, len(b.cfg))
	for name := range b.cfg {
		wg.Go(func() { errs <- b.s[name].Configure(context.Background(), b.cfg[name]) })
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		require.NoError(b.t, err)
	}
}

func freePort(t testing.TB) uint16 {
	// Below the ports that the kernel gives to outgoing connections: the
	// speakers' own could take one between here and its use.
	first := 10000 + rand.IntN(20000)
	for port := first; port < first+1000; port++ {
		if listens(loopbacks, port) {
			return uint16(port)
		}
	}
	t.Fatalf("no free port in %d..%d", first, first+999)
	return 0
}

// listens says whether port is free on all addresses.
func listens(addrs map[string]netip.Addr, port int) bool {
	for _, a := range addrs {
		l, err := net.Listen("tcp4", netip.AddrPortFrom(a, uint16(port)).String())
		if err != nil {
			return false
		}
		l.Close()
	}
	return true
}

func TestSpeakersExchangeRoutesWithinATenant(t *testing.T) {
	began := time.Now()
	b := newBench(t)
	require.NoError(t, b.s["rr"].WaitEstablished(context.Background(), 3))
	t.Logf("3 sessions %v after the first start", time.Since(began))

	// Red at PE 1 learns sites 2 and 3, blue site 2: same prefixes, other labels.
	b.wait(t, 0, "pe1", "route.programmed", "vrf=vrf-red", "prefix=10.0.2.0/24", "labels=102/2012", "egress=127.0.1.2")
	b.wait(t, 0, "pe1", "route.programmed", "vrf=vrf-red", "prefix=10.0.3.0/24", "labels=103/2013")
	b.wait(t, 0, "pe1", "route.programmed", "vrf=vrf-blue", "prefix=10.0.2.0/24", "labels=102/2022")
	b.wait(t, 0, "pe3", "route.programmed", "vrf=vrf-red", "prefix=10.0.1.0/24", "labels=101/2011")
	b.wait(t, 0, "pe3", "route.programmed", "vrf=vrf-red", "prefix=10.0.2.0/24")
	b.wait(t, 0, "pe2", "route.programmed", "vrf=vrf-red", "prefix=10.0.1.0/24")
	b.wait(t, 0, "pe2", "route.programmed", "vrf=vrf-red", "prefix=10.0.3.0/24")
	b.wait(t, 0, "pe2", "route.programmed", "vrf=vrf-blue", "prefix=10.0.1.0/24", "labels=101/2021")
	t.Logf("8 routes %v after the first start", time.Since(began))
	require.Zero(t, b.count(0, "pe3", "route.programmed", "vrf=vrf-blue"))
	require.Zero(t, b.count(0, "pe1", "route.programmed", "prefix=10.0.1.0/24"), "a PE must not import its own site")
	require.Equal(t, 2, b.count(0, "pe1", "bgp.announced"))
	require.Zero(t, b.count(0, "pe1", "route.failed"))

	rib, err := b.s["rr"].RIB(context.Background())
	require.NoError(t, err)
	require.Len(t, rib, 5)
	require.Equal(t, RouteInfo{RD: "65000:1001", Prefix: prefix("10.0.1.0/24"), Label: 2011, NextHop: loopbacks["pe1"],
		RTs: []string{rt("import", "red", 1), rt("import", "red", 2), rt("import", "red", 3)}, From: loopbacks["pe1"], Best: true}, rib[0])
}

// settle waits for the eight routes of newBench.
func (b *bench) settle() {
	b.t.Helper()
	for _, w := range []string{"pe1 vrf-red 2", "pe1 vrf-red 3", "pe1 vrf-blue 2", "pe2 vrf-red 1", "pe2 vrf-red 3", "pe2 vrf-blue 1", "pe3 vrf-red 1", "pe3 vrf-red 2"} {
		f := strings.Fields(w)
		b.wait(b.t, 0, f[0], "route.programmed", "vrf="+f[1], "prefix=10.0."+f[2]+".0/24")
	}
}

func TestPolicyAloneJoinsAndExpelsASite(t *testing.T) {
	b := newBench(t)
	b.settle()

	m := b.mark()
	b.expel("red", 3)
	b.configure("rr")
	applied := b.wait(t, m, "rr", "policy.applied")
	for _, pe := range []string{"pe1", "pe2"} {
		e := b.wait(t, m, pe, "route.removed", "vrf=vrf-red", "prefix=10.0.3.0/24")
		t.Logf("%s without site 3 %v after the policy", pe, e.T.Sub(applied.T))
	}
	b.wait(t, m, "pe3", "route.removed", "vrf=vrf-red", "prefix=10.0.1.0/24")
	b.wait(t, m, "pe3", "route.removed", "vrf=vrf-red", "prefix=10.0.2.0/24")
	// Sites 1 and 2 keep each other: their routes got new targets (without
	// site 3's), the kernel saw nothing.
	require.Zero(t, b.count(m, "pe1", "route.programmed"))
	require.Zero(t, b.count(m, "pe1", "route.removed", "prefix=10.0.2.0/24"))
	require.Zero(t, b.count(m, "pe2", "route.removed", "vrf=vrf-blue"))
	require.Zero(t, b.count(m, "pe1", "bgp.received", "rd=65000:2002"), "another tenant's routes were sent again")
	// Nobody announced or withdrew anything.
	for _, pe := range []string{"pe1", "pe2", "pe3"} {
		require.Zero(t, b.count(m, pe, "bgp.withdrawn")+b.count(m, pe, "bgp.announced"))
	}
	rib, err := b.s["rr"].RIB(context.Background())
	require.NoError(t, err)
	require.Len(t, rib, 4, "a route that no rule matches is not in the reflector's table")

	// Back in by policy alone.
	m = b.mark()
	rr := b.cfg["rr"]
	for i := range rr.Policy {
		if rr.Policy[i].Name == "red" {
			rr.Policy[i].From = append(rr.Policy[i].From, rt("export", "red", 3))
			rr.Policy[i].To = append(rr.Policy[i].To, rt("import", "red", 3))
		}
	}
	b.configure("rr")
	b.wait(t, m, "pe1", "route.programmed", "vrf=vrf-red", "prefix=10.0.3.0/24", "labels=103/2013")
	b.wait(t, m, "pe2", "route.programmed", "vrf=vrf-red", "prefix=10.0.3.0/24")
	b.wait(t, m, "pe3", "route.programmed", "vrf=vrf-red", "prefix=10.0.1.0/24")
	b.wait(t, m, "pe3", "route.programmed", "vrf=vrf-red", "prefix=10.0.2.0/24")

	// Sites 1 and 2 hear of each other's new targets, which no kernel shows.
	b.wait(t, m, "pe1", "bgp.received", "rd=65000:1002")
	b.wait(t, m, "pe2", "bgp.received", "rd=65000:1001")

	// The same configuration again changes nothing anywhere.
	m = b.mark()
	b.configureAll()
	require.Equal(t, m, b.mark(), b.dump(m))
}

func TestRulesOfTheWholePolicyCanGo(t *testing.T) {
	b := newBench(t)
	b.settle()
	m := b.mark()
	rr := b.cfg["rr"]
	rr.Policy = nil
	b.cfg["rr"] = rr
	b.configure("rr")
	b.wait(t, m, "pe2", "route.removed", "vrf=vrf-blue", "prefix=10.0.1.0/24")
	b.wait(t, m, "pe3", "route.removed", "prefix=10.0.1.0/24")
	b.wait(t, m, "pe3", "route.removed", "prefix=10.0.2.0/24")
}

func TestCircuitsComeAndGo(t *testing.T) {
	b := newBench(t)
	b.settle()

	// A VRF whose last site leaves: withdrawn elsewhere, its routes removed here.
	m := b.mark()
	pe3 := b.cfg["pe3"]
	gone := pe3.VRFs
	pe3.VRFs = nil
	b.cfg["pe3"] = pe3
	b.configure("pe3")
	require.Equal(t, 2, b.count(m, "pe3", "route.removed", "vrf=vrf-red"), "removed before Configure returned")
	b.wait(t, m, "pe3", "bgp.withdrawn", "prefix=10.0.3.0/24", "site=site3")
	b.wait(t, m, "pe1", "bgp.lost", "prefix=10.0.3.0/24")
	b.wait(t, m, "pe1", "route.removed", "prefix=10.0.3.0/24")
	b.wait(t, m, "pe2", "route.removed", "prefix=10.0.3.0/24")

	// Back: the RIB still holds what the VRF imports.
	m = b.mark()
	pe3.VRFs = gone
	b.cfg["pe3"] = pe3
	b.configure("pe3")
	require.Equal(t, 2, b.count(m, "pe3", "route.programmed", "vrf=vrf-red"))
	b.wait(t, m, "pe1", "route.programmed", "prefix=10.0.3.0/24")

	// Another label: announced again, replaced in the kernel.
	m = b.mark()
	pe3.VRFs = []VRF{gone[0]}
	pe3.VRFs[0].Label = 2999
	b.cfg["pe3"] = pe3
	b.configure("pe3")
	b.wait(t, m, "pe1", "route.programmed", "prefix=10.0.3.0/24", "labels=103/2999")
	require.Zero(t, b.count(m, "pe1", "route.removed"), "a changed route is replaced in place")
}

func TestSamePrefixAtTwoSitesUsesOneAndFallsBack(t *testing.T) {
	b := newBench(t)
	b.settle()
	m := b.mark()
	// PE 2 and PE 3 both announce 10.9.0.0/16 in red.
	for _, pe := range []string{"pe3", "pe2"} {
		c := b.cfg[pe]
		k := c.VRFs[0].Circuits[0]
		k.Site, k.Prefix = k.Site+"-extra", prefix("10.9.0.0/16")
		c.VRFs[0].Circuits = append(c.VRFs[0].Circuits, k)
		b.cfg[pe] = c
		b.configure(pe)
	}
	b.wait(t, m, "pe1", "route.programmed", "prefix=10.9.0.0/16", "egress=127.0.1.2")
	require.Equal(t, b.count(m, "pe2", "route.removed", "prefix=10.9.0.0/16"), b.count(m, "pe2", "route.programmed", "prefix=10.9.0.0/16"),
		"an attached site wins over a learned route")
	// What they fall back to has to be there, which no kernel shows.
	b.wait(t, m, "pe1", "bgp.received", "prefix=10.9.0.0/16", "rd=65000:1003")
	b.wait(t, m, "pe2", "bgp.received", "prefix=10.9.0.0/16", "rd=65000:1003")
	m = b.mark()
	c := b.cfg["pe2"]
	c.VRFs[0].Circuits = c.VRFs[0].Circuits[:1]
	b.configure("pe2")
	b.wait(t, m, "pe1", "route.programmed", "prefix=10.9.0.0/16", "egress=127.0.1.3", "labels=103/2013")
	require.Zero(t, b.count(m, "pe1", "route.removed"))
	b.wait(t, m, "pe2", "route.programmed", "prefix=10.9.0.0/16", "egress=127.0.1.3")
}

// What the kernel had no room for is tried again, and reported once.
func TestARefusedRouteIsTriedAgain(t *testing.T) {
	b := newBench(t)
	b.settle()
	m := b.mark()
	c := b.cfg["pe1"]
	c.Tunnels = []Tunnel{{Egress: loopbacks["pe3"], Label: 103, Via: addr("10.0.0.1"), Dev: "busy"}}
	b.cfg["pe1"] = c
	require.ErrorContains(t, b.s["pe1"].Configure(context.Background(), c), "no buffer space")
	b.wait(t, m, "pe1", "route.failed", "prefix=10.0.3.0/24", "error=no buffer space available")
	b.wait(t, m, "pe1", "route.programmed", "prefix=10.0.3.0/24")
	require.LessOrEqual(t, b.count(m, "pe1", "route.failed"), 2, "of two routes at most, each once")
}

// A shared next hop that the kernel does not take must not keep the speaker from
// hearing of one that it does.
func TestARefusedNexthopIsTriedAgain(t *testing.T) {
	b := newBench(t)
	b.settle()
	c := b.cfg["pe1"]
	c.PIC = true
	c.Tunnels = []Tunnel{{Egress: loopbacks["pe3"], Label: 777, Via: addr("10.0.0.1"), Dev: "broken"}}
	b.cfg["pe1"] = c
	require.ErrorContains(t, b.s["pe1"].Configure(context.Background(), c), "no such device")
	m := b.mark()
	c.Tunnels = []Tunnel{{Egress: loopbacks["pe3"], Label: 103, Via: addr("10.0.0.1"), Dev: "core"}}
	b.cfg["pe1"] = c
	b.configure("pe1")
	b.wait(t, m, "pe1", "route.programmed", "prefix=10.0.3.0/24")
}

func TestTunnelsDecideWhatIsProgrammed(t *testing.T) {
	b := newBench(t)
	b.settle()
	m := b.mark()
	c := b.cfg["pe1"]
	c.Tunnels = []Tunnel{{Egress: loopbacks["pe2"], Via: addr("10.0.0.9"), Dev: "direct"}, {Egress: loopbacks["pe3"], Label: 777, Via: addr("10.0.0.1"), Dev: "broken"}}
	b.cfg["pe1"] = c
	err := b.s["pe1"].Configure(context.Background(), c)
	require.ErrorContains(t, err, "no such device")
	b.wait(t, m, "pe1", "route.programmed", "vrf=vrf-red", "prefix=10.0.2.0/24", "labels=2012") // neighbor: no LSP label
	b.wait(t, m, "pe1", "route.failed", "prefix=10.0.3.0/24", "error=no such device")

	// The tunnel is mended: the route that failed is tried again.
	m = b.mark()
	c.Tunnels = []Tunnel{c.Tunnels[0], {Egress: loopbacks["pe3"], Label: 103, Via: addr("10.0.0.1"), Dev: "core"}}
	b.cfg["pe1"] = c
	b.configure("pe1")
	// Back to what the kernel still holds: nothing to do, or set again.
	require.Zero(t, b.count(m, "pe1", "route.failed"))

	// No tunnel, no route.
	m = b.mark()
	c.Tunnels = c.Tunnels[:1]
	b.cfg["pe1"] = c
	b.configure("pe1")
	require.Equal(t, 1, b.count(m, "pe1", "route.removed", "prefix=10.0.3.0/24"))
}

func TestKilledSpeakerIsWithdrawnAndComesBack(t *testing.T) {
	b := newBench(t)
	b.settle()
	m := b.mark()
	killed := event.Now()
	require.NoError(t, b.s["pe3"].Kill())
	require.NoError(t, b.s["pe3"].Err(), "a kill that was asked for is no error")
	e := b.wait(t, m, "pe1", "route.removed", "vrf=vrf-red", "prefix=10.0.3.0/24")
	t.Logf("withdrawn %v after the kill", e.T.Sub(killed))
	down := b.wait(t, m, "rr", "bgp.down", "neighbor=127.0.1.3")
	require.Equal(t, "read-failed", down.Attr["reason"])
	b.wait(t, m, "pe3", "speaker.exit")

	again := event.Now()
	b.start("pe3")
	b.configure("pe3")
	require.NoError(t, b.s["pe3"].WaitEstablished(context.Background(), 1))
	e = b.wait(t, m, "pe1", "route.programmed", "vrf=vrf-red", "prefix=10.0.3.0/24")
	t.Logf("back %v after the start of its successor", e.T.Sub(again))
	require.Less(t, e.T.Sub(again), 3*time.Second, "a session must not wait for GoBGP's timers")
}

func TestReflectorRestart(t *testing.T) {
	b := newBench(t)
	b.settle()
	m := b.mark()
	require.NoError(t, b.s["rr"].Kill())
	b.wait(t, m, "pe1", "route.removed", "vrf=vrf-red", "prefix=10.0.2.0/24")
	b.wait(t, m, "pe1", "bgp.down", "neighbor=127.0.1.9")
	again := event.Now()
	b.start("rr")
	b.configure("rr")
	require.NoError(t, b.s["rr"].WaitEstablished(context.Background(), 3))
	e := b.wait(t, m, "pe1", "route.programmed", "vrf=vrf-red", "prefix=10.0.2.0/24")
	t.Logf("routes back %v after the reflector's restart", e.T.Sub(again))
	require.Less(t, e.T.Sub(again), 3*time.Second)
	b.wait(t, m, "pe1", "bgp.announced", "vrf=vrf-blue") // sent again to the new session
}

func TestStopClosesTheSession(t *testing.T) {
	b := newBench(t)
	b.settle()
	m := b.mark()
	require.NoError(t, b.s["pe3"].Stop(context.Background()))
	require.Equal(t, 2, b.count(m, "pe3", "route.removed"))
	down := b.wait(t, m, "rr", "bgp.down", "neighbor=127.0.1.3")
	require.Contains(t, down.Attr["reason"], "notification-received")
	require.NoError(t, b.s["pe3"].Err())
	require.NoError(t, b.s["pe3"].Stop(context.Background()), "stopping twice")
	require.ErrorContains(t, b.s["pe3"].Configure(context.Background(), b.cfg["pe3"]), "speaker pe3: configure: stopped")
}

func TestResetSessionsComeBackWithTheirRoutes(t *testing.T) {
	b := newBench(t)
	b.settle()
	rr, pe2 := loopbacks["rr"].String(), loopbacks["pe2"].String()
	ctx := context.Background()
	require.ErrorContains(t, b.s["pe1"].Reset(ctx, addr("127.0.1.77")), "it is no neighbor")
	for _, c := range []struct {
		at, neighbor string
		reset        netip.Addr
		gone         []string // PEs whose routes go meanwhile
	}{
		{"pe1", rr, netip.Addr{}, []string{"pe1"}},
		{"rr", pe2, loopbacks["pe2"], []string{"pe2"}},
		{"rr", pe2, netip.Addr{}, []string{"pe1", "pe2", "pe3"}},
	} {
		m, began := b.mark(), event.Now()
		require.NoError(t, b.s[c.at].Reset(ctx, c.reset))
		b.wait(t, m, c.at, "bgp.down", "neighbor="+c.neighbor)
		up := b.wait(t, m, c.at, "bgp.established", "neighbor="+c.neighbor)
		for _, pe := range c.gone {
			b.wait(t, m, pe, "bgp.established", "neighbor="+rr)
			b.wait(t, m, pe, "route.removed")
			up = b.wait(t, b.find(m, pe, "route.removed"), pe, "route.programmed")
		}
		t.Logf("reset at %s: routes are back after %v", c.at, up.T.Sub(began))
	}
}

// A speaker that is stopped says nothing and closes nothing: the reflector
// takes it for gone when its hold time is over, and withdraws what it said.
func TestSilentSpeakerIsWithdrawnAfterItsHoldTime(t *testing.T) {
	b := &bench{recorder: newRecorder(), t: t, port: freePort(t), s: map[string]*Speaker{}, cfg: map[string]Config{}}
	for name := range loopbacks {
		b.start(name)
		c := b.base(name)
		c.Hold, c.Keepalive = 3, 1
		b.cfg[name] = c
	}
	b.join("pe1", "red", 1)
	b.join("pe3", "red", 3)
	b.configureAll()
	b.wait(t, 0, "pe1", "route.programmed", "prefix=10.0.3.0/24")
	m, began := b.mark(), event.Now()
	require.NoError(t, unix.Kill(b.s["pe3"].Pid(), unix.SIGSTOP))
	down := b.wait(t, m, "rr", "bgp.down", "neighbor="+loopbacks["pe3"].String(), "reason=hold-timer-expired")
	gone := b.wait(t, m, "pe1", "route.removed", "prefix=10.0.3.0/24")
	t.Logf("hold 3 s: the reflector says down after %v, the last route is gone %v later", down.T.Sub(began), gone.T.Sub(down.T))
	require.Greater(t, down.T.Sub(began), time.Second, "it had sent a keepalive within the last second")
	require.Less(t, down.T.Sub(began), 6*time.Second)
	m = b.mark()
	require.NoError(t, unix.Kill(b.s["pe3"].Pid(), unix.SIGCONT))
	b.wait(t, m, "pe1", "route.programmed", "prefix=10.0.3.0/24")
}

func TestRemovedNeighborIsDown(t *testing.T) {
	b := newBench(t)
	b.settle()
	rr := b.cfg["rr"]
	rr.Neighbors = rr.Neighbors[:2]
	b.cfg["rr"] = rr
	m := b.mark()
	b.configure("rr")
	b.wait(t, m, "rr", "bgp.down", "neighbor=127.0.1.3", "reason=neighbor removed")
	require.Equal(t, []netip.Addr{loopbacks["pe1"], loopbacks["pe2"]}, b.s["rr"].Established())
	b.wait(t, m, "pe1", "route.removed", "prefix=10.0.3.0/24")
}

func TestWaitsNameWhatIsMissing(t *testing.T) {
	b := &bench{recorder: newRecorder(), t: t, port: freePort(t), s: map[string]*Speaker{}, cfg: map[string]Config{}}
	b.start("rr")
	b.cfg["rr"] = b.base("rr")
	b.configure("rr")
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	err := b.s["rr"].WaitEstablished(ctx, 2)
	require.EqualError(t, err, "speaker rr: wait for 2 BGP sessions: 0 established, not with 127.0.1.1, 127.0.1.2, 127.0.1.3: context deadline exceeded")
}

func TestIdentityIsFixed(t *testing.T) {
	b := &bench{recorder: newRecorder(), t: t, port: freePort(t), s: map[string]*Speaker{}, cfg: map[string]Config{}}
	b.start("rr")
	b.cfg["rr"] = b.base("rr")
	b.configure("rr")
	c := b.cfg["rr"]
	c.ASN = 65001
	require.ErrorContains(t, b.s["rr"].Configure(context.Background(), c), "start another speaker")
}

func TestACrashIsReportedWithItsLastWords(t *testing.T) {
	rec := newRecorder()
	s, err := Start(context.Background(), here{[]string{panicEnv + "=1"}}, "pe1", rec.sink, WithCommand(os.Args[0], speakerArg))
	require.NoError(t, err)
	defer s.Kill()
	b := &bench{t: t, port: 1790}
	err = s.Configure(context.Background(), b.base("pe1"))
	require.ErrorContains(t, err, "as the test asked")
	<-s.Done()
	require.ErrorContains(t, s.Err(), "speaker pe1 ended: exit status 2")
	require.ErrorContains(t, s.WaitEstablished(context.Background(), 1), "wait for 1 BGP sessions")
	e := rec.wait(t, 0, "pe1", "speaker.exit")
	require.Contains(t, e.Attr["stderr"], "panic: as the test asked")
}

func TestSpeakerEndsWithItsParent(t *testing.T) {
	b := &bench{recorder: newRecorder(), t: t, port: freePort(t), s: map[string]*Speaker{}, cfg: map[string]Config{}}
	b.start("pe1")
	b.cfg["pe1"] = b.base("pe1")
	b.configure("pe1")
	s := b.s["pe1"]
	s.Conn.Close() // what the kernel does for a killed parent
	select {
	case <-s.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the speaker still runs 10 s after its control channel closed")
	}
	require.True(t, s.Succeeded(), "of its exit status")
}

// A connection from a client's address on which nobody speaks must not keep
// the client itself away.
func TestSilentCallerDoesNotBlockItsNeighbor(t *testing.T) {
	b := &bench{recorder: newRecorder(), t: t, port: freePort(t), s: map[string]*Speaker{}, cfg: map[string]Config{}}
	for _, name := range []string{"rr", "pe1"} {
		c := b.base(name)
		c.Keepalive, c.Hold = 1, 3
		b.cfg[name] = c
		b.start(name)
	}
	b.configure("rr")
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: loopbacks["pe1"].AsSlice()}}
	silent, err := d.Dial("tcp4", netip.AddrPortFrom(loopbacks["rr"], b.port).String())
	require.NoError(t, err)
	defer silent.Close()
	_, err = silent.Read(make([]byte, 1)) // the reflector's OPEN: its session waits for ours
	require.NoError(t, err)
	b.configure("pe1")
	require.NoError(t, b.s["pe1"].WaitEstablished(context.Background(), 1))
}

func TestGoBGPHasTheAcceptQueue(t *testing.T) {
	d, err := startDaemon(context.Background(), Config{Node: "x", ASN: 65000, RouterID: addr("127.0.1.7"), Port: freePort(t)}, func(any) {})
	require.NoError(t, err)
	defer d.stop()
	require.NotNil(t, d.queue, "GoBGP's server lost its field acceptCh: sessions would open by its timer, 1-2 s late")
}
