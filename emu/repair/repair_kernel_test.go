package repair_test

import (
	"context"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/fabric/rtnl"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/emu/liveness"
	"github.com/vpclab/vpclab/emu/mpls/vpntest"
	"github.com/vpclab/vpclab/emu/repair"
	"github.com/vpclab/vpclab/emu/traffic"
)

// TestMain lets this test binary be the process that a lab starts in each
// router.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == repair.Verb {
		if err := repair.Run(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// square has two ways through the core; a fails over b.
const square = `
name: square
topology:
  backbone:
    pe: [pe1, pe2]
    p: [p1, p2, p3]
    recovery: {detect: [carrier, bfd, bfd-multihop], interval: 10ms, multiplier: 3}
    links:
      - {between: [pe1, p1]}
      - {between: [p1, p2]}
      - {between: [p2, pe2]}
      - {between: [p1, p3]}
      - {between: [p3, p2]}
  sites:
    texas: {kind: enterprise, pe: pe1}
    hq: {kind: enterprise, pe: pe2}
vpcs:
  acme: {service: l3vpn, sites: [texas, hq]}
`

// patience bounds every wait of these tests.
const patience = 20 * time.Second

// routers are those of a lab with their reflexes and what they have told.
type routers struct {
	*vpntest.Lab
	t       *testing.T
	configs map[string]repair.Config
	procs   map[string]*repair.Process

	mu     sync.Mutex
	told   []event.Event
	change chan struct{}
}

func begin(t *testing.T, scenario string) *routers {
	kerneltest.Need(t)
	plan := vpntest.Expand(t, scenario)
	r := &routers{t: t, procs: map[string]*repair.Process{}, change: make(chan struct{})}
	r.Lab = vpntest.New(t, plan, nil)
	state := vpntest.State(plan)
	r.Converge(vpntest.WithVPNRoutes(plan, state))
	r.configs = repair.Configs(plan, state)
	for node := range r.configs {
		r.start(node)
	}
	for node, cfg := range r.configs {
		if err := r.procs[node].Configure(r.limit(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for _, p := range r.procs {
			if err := p.Err(); err != nil {
				t.Error(err)
			}
			if err := p.Kill(); err != nil {
				t.Error(err)
			}
		}
	})
	return r
}

func (r *routers) start(node string) {
	p, err := repair.Start(r.limit(), r.Fabric, node, func(e event.Event) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.told = append(r.told, e)
		close(r.change)
		r.change = make(chan struct{})
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.procs[node] = p
}

func (r *routers) limit() context.Context {
	ctx, cancel := context.WithTimeoutCause(context.Background(), patience, fmt.Errorf("waited %v", patience))
	r.t.Cleanup(cancel)
	return ctx
}

// now is a mark in what is told.
func (r *routers) now() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.told)
}

// wait returns the first event after a mark that is of a kind, of a node, with
// these attributes (name, value …).
func (r *routers) wait(mark int, node, kind string, attr ...string) event.Event {
	r.t.Helper()
	e, told := r.await(patience, mark, node, kind, attr...)
	if !told {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, e := range r.told[mark:] {
			r.t.Logf("%v %s %s %v", e.T.Sub(r.told[mark].T), e.Node, e.Kind, e.Attr)
		}
		r.t.Fatalf("waited %v for %s of %s %v", patience, kind, node, attr)
	}
	return e
}

// await is wait for so long.
func (r *routers) await(long time.Duration, mark int, node, kind string, attr ...string) (event.Event, bool) {
	deadline := time.After(long)
	for {
		r.mu.Lock()
		for _, e := range r.told[mark:] {
			if e.Node == node && e.Kind == kind && has(e, attr) {
				r.mu.Unlock()
				return e, true
			}
		}
		change := r.change
		r.mu.Unlock()
		select {
		case <-change:
		case <-deadline:
			return event.Event{}, false
		}
	}
}

func has(e event.Event, attr []string) bool {
	for i := 0; i+1 < len(attr); i += 2 {
		if e.Attr[attr[i]] != attr[i+1] {
			return false
		}
	}
	return true
}

// count is how often an event of a kind was told after a mark.
func (r *routers) count(mark int, kind string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.told[mark:] {
		if e.Kind == kind {
			n++
		}
	}
	return n
}

// awake waits until all sessions are up.
func (r *routers) awake() {
	r.t.Helper()
	deadline := time.After(patience)
	for {
		r.mu.Lock()
		change := r.change
		r.mu.Unlock()
		missing := ""
		for node, p := range r.procs {
			st, err := p.Status(r.limit())
			if err != nil {
				r.t.Fatal(err)
			}
			for _, s := range st.Sessions {
				if s.State != "up" {
					missing = fmt.Sprintf("%s with %v is %s (%s)", node, s.Peer, s.State, s.Diag)
				}
			}
		}
		if missing == "" {
			return
		}
		select {
		case <-change:
		case <-deadline:
			r.t.Fatalf("waited %v for sessions: %s", patience, missing)
		}
	}
}

// ends are interfaces to be touched at the same time.
type ends []end

type end struct {
	node, dev string
	index     int
	conn      *rtnl.Conn
}

// hold opens both ends of a link.
func (r *routers) hold(pairs ...string) (list ends) {
	for i := 0; i+1 < len(pairs); i += 2 {
		e := end{node: pairs[i], dev: pairs[i+1]}
		r.In(e.node, func() (err error) {
			if e.conn, err = rtnl.Dial(); err != nil {
				return err
			}
			links, err := e.conn.Links()
			for _, l := range links {
				if l.Name == e.dev {
					e.index = l.Index
				}
			}
			return err
		})
		r.t.Cleanup(func() { e.conn.Close() })
		list = append(list, e)
	}
	return list
}

// do sends one message an end, and returns the moment before the first.
func (list ends) do(t *testing.T, message func(b *rtnl.Batch, e end)) event.Mono {
	t.Helper()
	at := event.Now()
	for _, e := range list {
		var b rtnl.Batch
		message(&b, e)
		if err := e.conn.DoDirect(&b); err != nil {
			t.Fatal(err)
		}
	}
	return at
}

// silence has all be lost that leaves by the ends; their carriers stay.
func (list ends) silence(t *testing.T) event.Mono {
	return list.do(t, func(b *rtnl.Batch, e end) {
		b.Netem(rtnl.Qdisc{DevIndex: e.index, Dev: e.dev, Parent: rtnl.Root, Handle: rtnl.MakeHandle(1, 0)}, rtnl.Netem{Loss: math.MaxUint32, Limit: 1000})
	})
}

func (list ends) heal(t *testing.T) event.Mono {
	return list.do(t, func(b *rtnl.Batch, e end) {
		b.QdiscDel(rtnl.Qdisc{DevIndex: e.index, Dev: e.dev, Parent: rtnl.Root, Handle: rtnl.MakeHandle(1, 0)})
	})
}

func (list ends) set(t *testing.T, up bool) event.Mono {
	return list.do(t, func(b *rtnl.Batch, e end) { b.LinkSet(rtnl.LinkChange{Index: e.index, Name: e.dev, Up: &up}) })
}

// tables is what the routers' kernels hold.
func (r *routers) tables() (lines []string) {
	for node := range r.configs {
		r.In(node, func() error {
			conn, err := rtnl.Dial()
			if err != nil {
				return err
			}
			defer conn.Close()
			routes, err := conn.Routes(rtnl.ProtocolFabric)
			if err != nil {
				return err
			}
			for _, x := range routes {
				lines = append(lines, fmt.Sprintf("%s %+v", node, x))
			}
			entries, err := conn.MPLSRoutes(rtnl.ProtocolFabric)
			for _, x := range entries {
				lines = append(lines, fmt.Sprintf("%s %+v", node, x))
			}
			return err
		})
	}
	slices.Sort(lines)
	return lines
}

func (r *routers) same(before []string) {
	r.t.Helper()
	if diff := cmp.Diff(before, r.tables()); diff != "" {
		r.t.Errorf("the kernels hold something else than before: -before +now\n%s", diff)
	}
}

func TestReflexes(t *testing.T) {
	r := begin(t, square)
	r.awake()
	before := r.tables()
	if !t.Run("a silent link is missed in time, and gone around", func(t *testing.T) { r.on(t).silentLink(before) }) {
		return
	}
	// The others are about what is done, not about when: a machine that has too
	// much to do is not to decide it.
	for node, cfg := range r.configs {
		cfg.BFD.Interval = 100 * time.Millisecond
		if len(cfg.Multihop) > 0 {
			cfg.MultihopBFD.Interval = 300 * time.Millisecond
		}
		r.configs[node] = cfg
		if err := r.procs[node].Configure(r.limit(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	r.on(t).settled()
	for _, c := range []struct {
		name string
		do   func(before []string)
	}{
		{"a carrier is believed at once", r.carrier},
		{"what the kernel forgets is put back", r.forgotten},
		{"a successor finds what its predecessor switched", r.successor},
		{"a change of the lab in between", r.overwritten},
		{"others in the router hear of it", func([]string) { r.heard() }},
		{"who stops leaves nothing behind", r.stops},
	} {
		if !t.Run(c.name, func(t *testing.T) { r.on(t); c.do(before) }) {
			return // the lab is in no known state
		}
	}
}

// settled waits until all sessions have come to the timers that they were given
// last.
func (r *routers) settled() {
	r.t.Helper()
	ctx := r.limit()
	for tick := time.NewTicker(20 * time.Millisecond); ; {
		missing := ""
		for node, p := range r.procs {
			st, err := p.Status(ctx)
			if err != nil {
				r.t.Fatal(err)
			}
			for _, s := range st.Sessions {
				want := r.configs[node].BFD.Interval
				if s.Dev == "" {
					want = r.configs[node].MultihopBFD.Interval
				}
				if s.State != "up" || s.Interval != want || s.Detection != 3*want {
					missing = fmt.Sprintf("%s with %v is %s, sends every %v and detects in %v", node, s.Peer, s.State, s.Interval, s.Detection)
				}
			}
		}
		if missing == "" {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			r.t.Fatalf("waited %v for timers: %s", patience, missing)
		}
	}
}

// on has the helpers fail a subtest.
func (r *routers) on(t *testing.T) *routers {
	r.t = t
	return r
}

func (r *routers) silentLink(before []string) {
	t := r.t
	link := r.hold("p1", "p2", "p2", "p1")
	p, err := traffic.Open(r.Fabric.Do, r.endpoints())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	flow := traffic.Flow{From: p.Endpoints()[0].Name, To: p.Endpoints()[1].Name}
	var found, switched, gaps []time.Duration
	for tries := 0; len(gaps) < 10; tries++ {
		if tries > 30 {
			t.Fatalf("in %d of %d tries a link was given up before it was cut", tries-len(gaps), tries)
		}
		r.awake()
		train, err := p.StartTrain(traffic.TrainConfig{Flows: []traffic.Flow{flow}, Interval: time.Millisecond, Duty: 1})
		if err == nil {
			err = train.WaitFirst(r.limit())
		}
		if err != nil {
			t.Fatal(err)
		}
		mark := r.now()
		at := link.silence(t)
		var f, s []time.Duration
		for _, e := range []struct{ node, dev string }{{"p1", "p2"}, {"p2", "p1"}} {
			if down, told := r.await(time.Second, mark, e.node, "liveness.down", "dev", e.dev, "by", "bfd"); told && down.T > at {
				done := r.wait(mark, e.node, "repair.switched", "dev", e.dev)
				f, s = append(f, down.T.Sub(at)), append(s, done.T.Sub(down.T))
			}
		}
		// The train goes on until another one has come through.
		after, err := p.StartTrain(traffic.TrainConfig{Flows: []traffic.Flow{flow}, UntilFirst: true})
		if err == nil {
			err = after.WaitFirst(r.limit())
		}
		if err != nil {
			t.Fatal(err)
		}
		res, err := train.Stop(r.limit())
		if err != nil {
			t.Fatal(err)
		}
		if len(f) == 2 {
			found, switched = append(found, f...), append(switched, s...)
			longest := time.Duration(0)
			for _, g := range res.Flows[0].Gaps {
				longest = max(longest, g.Length())
			}
			gaps = append(gaps, longest)
		}
		link.heal(t)
	}
	r.awake()
	t.Logf("found out after %v", spread(found))
	t.Logf("switched %v later", spread(switched))
	t.Logf("longest gap of a 1 ms train: %v", spread(gaps))
	// Up to an interval early: the last packet that got through. Late: a machine that
	// stalls, so that the median has to do.
	if m := median(found); m < 18*time.Millisecond || m > 42*time.Millisecond {
		t.Errorf("found out after %v (median), want 30 ms by an interval", m)
	}
	if m := median(switched); m > 10*time.Millisecond {
		t.Errorf("switched %v after it was found out (median)", m)
	}
	r.awake()
	r.same(before)
}

// endpoints are the machines of the lab.
func (r *routers) endpoints() (list []traffic.Endpoint) {
	for _, n := range r.Plan.Machines() {
		list = append(list, traffic.Endpoint{Name: n.Name, VPC: n.VPC, Site: n.Site, Addr: n.Addr})
	}
	return list
}

func median(list []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(list))
	return sorted[len(sorted)/2]
}

// spread shows a distribution.
func spread(list []time.Duration) string {
	sorted := slices.Sorted(slices.Values(list))
	at := func(share float64) time.Duration {
		return sorted[int(share*float64(len(sorted)-1))].Round(10 * time.Microsecond)
	}
	return fmt.Sprintf("%v (median of %d; %v to %v, nine of ten up to %v)", at(0.5), len(list), at(0), at(1), at(0.9))
}

// carrier: the far end of a link is taken down, and both ends notice, long before
// BFD does.
func (r *routers) carrier(before []string) {
	t := r.t
	far := r.hold("p2", "p1")
	var found []time.Duration
	for range 10 {
		mark := r.now()
		at := far.set(t, false)
		found = append(found, r.wait(mark, "p1", "liveness.down", "dev", "p2", "by", "carrier").T.Sub(at))
		r.wait(mark, "p1", "repair.switched", "dev", "p2")
		r.wait(mark, "p2", "repair.switched", "dev", "p1")
		mark = r.now()
		far.set(t, true)
		r.wait(mark, "p1", "repair.restored", "dev", "p2")
		r.wait(mark, "p2", "repair.restored", "dev", "p1")
	}
	t.Logf("found out after %v", spread(found))
	if m := median(found); m > 10*time.Millisecond {
		t.Errorf("the near end noticed after %v (median)", m)
	}
	r.awake()
	r.same(before)
}

// forgotten: pe1 has nowhere to go but p1, so that nothing is prepared for that
// link, and the kernel drops the routes that use it.
func (r *routers) forgotten(before []string) {
	t := r.t
	near := r.hold("pe1", "p1")
	mark := r.now()
	near.set(t, false)
	r.wait(mark, "pe1", "liveness.down", "dev", "p1")
	if now := len(r.tables()); now >= len(before) {
		t.Errorf("the kernel forgot nothing: %d routes and labels, %d before", now, len(before))
	}
	near.set(t, true)
	r.wait(mark, "pe1", "repair.forgotten", "dev", "p1")
	r.wait(mark, "pe1", "liveness.up", "dev", "p1")
	r.awake()
	r.same(before)
}

// successor: a process is killed while the link is silent. Its successor leaves
// the routes as they are until the neighbour answers.
func (r *routers) successor(before []string) {
	t := r.t
	link := r.hold("p1", "p2", "p2", "p1")
	mark := r.now()
	link.silence(t)
	r.wait(mark, "p1", "repair.switched", "dev", "p2")
	r.wait(mark, "p2", "repair.switched", "dev", "p1")
	during := r.tables()
	if cmp.Equal(before, during) {
		t.Fatal("nothing was switched")
	}
	if err := r.procs["p1"].Kill(); err != nil {
		t.Fatal(err)
	}
	r.start("p1")
	if err := r.procs["p1"].Configure(r.limit(), r.configs["p1"]); err != nil {
		t.Fatal(err)
	}
	st, err := r.procs["p1"].Status(r.limit())
	if err != nil || st.Switched == 0 || st.Switched == st.Protect {
		t.Errorf("the successor takes %d of %d routes for switched, %v", st.Switched, st.Protect, err)
	}
	// The neighbours may have missed it meanwhile, and gone around it.
	if diff := cmp.Diff(of("p1", during), of("p1", r.tables())); diff != "" {
		t.Errorf("the successor changed what it found: -before +now\n%s", diff)
	}
	mark = r.now()
	link.heal(t)
	r.wait(mark, "p1", "repair.restored", "dev", "p2")
	r.wait(mark, "p2", "repair.restored", "dev", "p1")
	r.awake()
	r.same(before)
}

// of are the lines of a router.
func of(router string, lines []string) []string {
	return slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return !strings.HasPrefix(l, router+" ") })
}

// overwritten: the fabric puts the router's own routes back while prepared ones
// are needed, and the process is told the Config again.
func (r *routers) overwritten(before []string) {
	t := r.t
	link := r.hold("p1", "p2", "p2", "p1")
	mark := r.now()
	link.silence(t)
	r.wait(mark, "p1", "repair.switched", "dev", "p2")
	r.wait(mark, "p2", "repair.switched", "dev", "p1")
	during := r.tables()
	var b rtnl.Batch
	for _, p := range r.configs["p1"].Protect {
		if p.MPLS != nil && p.Dev == "p2" {
			b.MPLSReplace(rtnl.MPLSRoute{In: p.MPLS.In, Out: p.MPLS.Out[:count(p.MPLS.Out[:])], Via: p.MPLS.Via, DevIndex: link[0].index})
		}
	}
	if err := link[0].conn.Do(&b); err != nil || b.Len() == 0 {
		t.Fatalf("overwrote %d labels, %v", b.Len(), err)
	}
	if err := r.procs["p1"].Configure(r.limit(), r.configs["p1"]); err != nil {
		t.Fatal(err)
	}
	r.same(during)
	// Then the plan protects nothing any more.
	bare := r.configs["p1"]
	bare.Protect = nil
	if err := r.procs["p1"].Configure(r.limit(), bare); err != nil {
		t.Fatal(err)
	}
	mark = r.now()
	link.heal(t)
	r.wait(mark, "p1", "liveness.up", "dev", "p2")
	r.wait(mark, "p2", "repair.restored", "dev", "p1")
	r.same(before)
	if err := r.procs["p1"].Configure(r.limit(), r.configs["p1"]); err != nil {
		t.Fatal(err)
	}
	r.awake()
}

func count(labels []uint32) (n int) {
	for n < len(labels) && labels[n] != 0 {
		n++
	}
	return n
}

// heard: a listener in the router's namespace hears the state, and what changes.
func (r *routers) heard() {
	t := r.t
	states := make(chan liveness.State, 100)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	var server string
	r.In("p1", func() error { // an abstract socket is found from the thread's namespace
		conn, err := liveness.Dial(ctx)
		if err != nil {
			return err
		}
		go func() {
			defer close(done)
			liveness.Read(ctx, conn, func(s liveness.State) { states <- s })
		}()
		return nil
	})
	defer func() { stop(); <-done }()
	next := func(dev string, up bool) {
		t.Helper()
		deadline := time.After(patience)
		for {
			select {
			case s := <-states:
				server += fmt.Sprintf(" %s:%t", s.Dev, s.Up)
				if s.Dev == dev && s.Up == up {
					return
				}
			case <-deadline:
				t.Fatalf("waited %v to hear of %s (up: %t); heard%s", patience, dev, up, server)
			}
		}
	}
	next("p2", true)
	far := r.hold("p2", "p1")
	far.set(t, false)
	next("p2", false)
	far.set(t, true)
	next("p2", true)
	r.awake()
}

// stops: a process that stops puts its routes back, even while the link is
// silent, and its neighbours do not take it for dead.
func (r *routers) stops(before []string) {
	t := r.t
	link := r.hold("p1", "p2", "p2", "p1")
	mark := r.now()
	link.silence(t)
	r.wait(mark, "p1", "repair.switched", "dev", "p2")
	r.wait(mark, "p2", "repair.switched", "dev", "p1")
	mark = r.now()
	if err := r.procs["p1"].Stop(r.limit()); err != nil {
		t.Fatal(err)
	}
	r.wait(mark, "p3", "bfd.down", "dev", "p1")
	if n := r.count(mark, "liveness.down"); n != 0 {
		t.Errorf("%d neighbours take it for a failure", n)
	}
	if err := r.procs["p2"].Stop(r.limit()); err != nil {
		t.Fatal(err)
	}
	r.same(before)
	link.heal(t)
}
