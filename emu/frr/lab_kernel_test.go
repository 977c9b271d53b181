package frr_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/bgp"
	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/frr"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/emu/mpls"
	"github.com/vpclab/vpclab/emu/mpls/vpntest"
	"github.com/vpclab/vpclab/emu/repair"
	"github.com/vpclab/vpclab/emu/traffic"
	"github.com/vpclab/vpclab/topo"
)

// TestMain lets this test binary be what a lab starts in each router.
func TestMain(m *testing.M) {
	verb := ""
	if len(os.Args) > 1 {
		verb = os.Args[1]
	}
	var err error
	switch verb {
	case frr.Verb, "speaker":
		var conn net.Conn
		if conn, err = bgp.ControlConn(); err != nil {
			break
		}
		if verb == frr.Verb {
			err = frr.RunRouter(context.Background(), conn, os.Args[2], os.Args[3])
		} else {
			err = bgp.RunSpeaker(context.Background(), conn)
		}
	case repair.Verb:
		err = repair.Run(context.Background())
	case frr.BFDVerb:
		err = frr.RunBFDD(context.Background(), os.Args[2], os.Args[3], os.Stdin, os.Stdout)
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// limit bounds a test that waits for a lab.
func limit(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// needFRR skips where there is no FRR.
func needFRR(t *testing.T) {
	t.Helper()
	kerneltest.Need(t)
	if _, err := frr.Find(); err != nil {
		t.Skip(err)
	}
}

// matrix is who of the lab reaches whom, row by row.
func matrix(t *testing.T, l *lab.Lab, plan *topo.Plan) []string {
	t.Helper()
	var eps []traffic.Endpoint
	for _, n := range plan.Machines() {
		eps = append(eps, traffic.Endpoint{Name: n.Name, VPC: n.VPC, Site: n.Site, Addr: n.Addr})
	}
	p, err := traffic.Open(l.Fabric().Do, eps)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	m, err := p.Matrix(limit(t), traffic.MatrixConfig{Seed: 1, Allowed: func(from, to traffic.Endpoint) bool { return from.VPC == to.VPC }})
	if err != nil {
		t.Errorf("the matrix is not what it should be: %v", err)
	}
	if m == nil {
		return nil
	}
	return m.Cells
}

// without is plan with one site of a VPC not joined.
func without(plan *topo.Plan, vpc, site string) *topo.Plan {
	return plan.Detach(func(a topo.Attachment) bool { return a.VPC == vpc && a.Site == site })
}

// applied applies and tells the times.
func applied(t *testing.T, l *lab.Lab, plan *topo.Plan, what string) *lab.Timeline {
	t.Helper()
	tl, err := l.Apply(limit(t), plan)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	t.Logf("%s: %v, %v", what, tl.Total().Round(time.Millisecond), tl.Stages())
	return tl
}

// TestFRREverywhere has the same network run by us and by FRR alone: OSPF, LDP
// and bgpd at all PEs and Ps, in one boot.
func TestFRREverywhere(t *testing.T) {
	needFRR(t)
	plan := vpntest.Plan(t, "f", vpntest.CoreMTU)
	l := lab.New(lab.Config{Name: plan.Lab})
	defer destroyed(t, l)
	applied(t, l, plan, "ours: all routes")
	want := matrix(t, l, plan)
	less := without(plan, "red", "s3")
	applied(t, l, less, "ours: a site leaves")
	applied(t, l, plan, "ours: a site joins")

	theirs := plan.WithRouting(topo.RoutingFRR)
	applied(t, l, theirs, "FRR in our place: all routes")
	if diff := cmp.Diff(want, matrix(t, l, plan)); diff != "" {
		t.Errorf("FRR's matrix is another than ours: %s", diff)
	}
	for node, st := range l.Fabric().Current().Nodes {
		if len(st.MPLS) > 0 {
			t.Errorf("%s has labels of the controller: %v", node, st.MPLS)
		}
	}
	less = less.WithRouting(topo.RoutingFRR)
	for range 3 { // FRR's threads race for what the kernel tells of a new circuit
		left := applied(t, l, less, "FRR: a site leaves")
		if left.Removed != 4 || left.Added != 0 || vpnRoutes(t, l, "pe3") != 0 {
			t.Errorf("four routes were to go: %+v, %d are left at pe3", left, vpnRoutes(t, l, "pe3"))
		}
		back := applied(t, l, theirs, "FRR: a site joins")
		if back.Added != 4 || back.Removed != 0 {
			t.Errorf("four routes were to come: %+v", back)
		}
	}
	if diff := cmp.Diff(want, matrix(t, l, plan)); diff != "" {
		t.Errorf("after a site has left and joined, FRR's matrix is another than ours: %s", diff)
	}
	checkRIB(t, l)

	applied(t, l, plan, "ours again: all routes")
	if diff := cmp.Diff(want, matrix(t, l, plan)); diff != "" {
		t.Errorf("after FRR was there our matrix is another: %s", diff)
	}
	again, err := l.Apply(limit(t), plan)
	if err != nil || again.Changes != 0 {
		t.Errorf("FRR left something in the kernel: %d changes, %v", again.Changes, err)
	}
}

// vpnRoutes counts the routes with labels in a PE's VRFs, as the kernel has
// them.
func vpnRoutes(t *testing.T, l *lab.Lab, pe string) (n int) {
	t.Helper()
	tables, err := mpls.Read(l.Fabric().NSPath(pe))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range tables.VRFs {
		for _, r := range v.Routes {
			if len(r.Labels) > 0 {
				n++
			}
		}
	}
	return n
}

// checkRIB compares what a bgpd knows with the plan's numbers.
func checkRIB(t *testing.T, l *lab.Lab) {
	t.Helper()
	s, ok := l.Speaker("pe1")
	if !ok {
		t.Fatal("pe1 has no control plane")
	}
	rib, err := s.RIB(limit(t))
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, r := range rib {
		from := "own"
		if r.From.IsValid() {
			from = r.From.String()
		}
		lines = append(lines, strings.Join([]string{r.RD, r.Prefix.String(), strconv.Itoa(int(r.Label)), r.NextHop.String(), strings.Join(r.RTs, " "), from, strconv.FormatBool(r.Best)}, " | "))
	}
	for _, want := range []string{
		"65000:1002 | 10.0.2.0/24 | 20102 | 10.255.0.2 | 65000:1001000 | 10.255.2.1 | true",
		"65000:1003 | 10.0.3.0/24 | 20103 | 10.255.0.3 | 65000:1001000 | 10.255.2.1 | true",
		"65000:2002 | 10.0.2.0/24 | 20202 | 10.255.0.2 | 65000:1002000 | 10.255.2.1 | true",
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("bgpd of pe1 lacks %s; it has\n%s", want, strings.Join(lines, "\n"))
		}
	}
}

// destroyed removes the lab and looks for remains, FRR's too.
func destroyed(t *testing.T, l *lab.Lab) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	began := time.Now()
	if err := l.Destroy(ctx); err != nil {
		t.Error(err)
	}
	t.Logf("destroyed in %v", time.Since(began).Round(time.Millisecond))
	if labs, err := fabric.List(); err != nil || len(labs) > 0 {
		t.Errorf("left in the kernel: %+v (%v)", labs, err)
	}
	if left := processes(t, "", ""); len(left) > 0 {
		t.Errorf("FRR's processes are left: %v", left)
	}
	if left, _ := filepath.Glob("/run/vpclab-frr*"); len(left) > 0 {
		t.Errorf("FRR's folders are left: %v", left)
	}
}

// processes are the FRR processes of a node of lab f, by a part of their
// command line; "": of all.
func processes(t *testing.T, node, what string) (pids []int) {
	t.Helper()
	args, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range args {
		b, err := os.ReadFile(path)
		line := strings.ReplaceAll(string(b), "\x00", " ")
		if err != nil || !strings.Contains(line, "/run/vpclab-frr/f/"+node) || !strings.Contains(line, what) {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		pids = append(pids, pid)
	}
	return pids
}

// mixed is a backbone with one FRR router, pe2: it is the neighbour of one
// other PE, which takes no label for itself, and has a P before the other; and
// it is on the way between those two.
//
//	s1 -- pe1 -- pe2 -- p1 -- pe3 -- s3
//	              |\      |
//	             s2 s4   rr
const mixed = `
name: f
topology:
  backbone:
    pe: [pe1, pe2, pe3]
    p: [p1]
    mtu: 1600
    rr: p1
    links: [{between: [pe1, pe2]}, {between: [pe2, p1]}, {between: [p1, pe3]}]
    routers:
      pe2: {routing: frr}
  sites:
    s1: {kind: enterprise, pe: pe1, machines: 1}
    s2: {kind: enterprise, pe: pe2, machines: 1}
    s3: {kind: enterprise, pe: pe3, machines: 1}
    s4: {kind: enterprise, pe: pe2, machines: 1}
vpcs:
  red: {service: l3vpn, subnets: {s1: 10.0.1.0/24, s2: 10.0.2.0/24, s3: 10.0.3.0/24, s4: 10.0.4.0/24}}
  blue: {service: l3vpn, subnets: {s1: 10.0.1.0/24, s2: 10.0.2.0/24, s3: 10.0.3.0/24}}
`

// TestFRRBesideUs exchanges VPN routes between GoBGP's PEs and one of FRR's,
// over the controller's labels.
func TestFRRBesideUs(t *testing.T) {
	needFRR(t)
	sc, err := topo.Parse("mixed.vpclab.yml", []byte(mixed))
	if err != nil {
		t.Fatal(err)
	}
	plan, err := topo.Expand(sc)
	if err != nil {
		t.Fatal(err)
	}
	l := lab.New(lab.Config{Name: plan.Lab})
	defer destroyed(t, l)
	less := without(plan, "red", "s4")
	applied(t, l, less, "mixed: all routes")
	back := applied(t, l, plan, "mixed: a second site joins a VRF of FRR's")
	if back.Added != 2 || back.Removed != 0 {
		t.Errorf("two routes were to come: %+v", back)
	}
	matrix(t, l, plan)
	checkStacks(t, l, plan)
	checkDeaths(t, l, plan)
	applied(t, l, less, "mixed: a site leaves a VRF of FRR's that has another")
	applied(t, l, plan, "mixed: and joins again")
	matrix(t, l, plan)
}

// checkStacks looks at what is on the wire on both sides of pe2.
func checkStacks(t *testing.T, l *lab.Lab, plan *topo.Plan) {
	t.Helper()
	net := vpntest.On(t, l.Fabric(), plan)
	for _, c := range []struct{ from, to, on, stack string }{
		{"s1", "s2", "pe1", "20102"},       // GoBGP's PE to its neighbour FRR
		{"s2", "s1", "pe1", "10101 20101"}, // and back: FRR pushes its neighbour's own label too
		{"s2", "s3", "p1", "10403 20103"},  // FRR's PE by way of p1
		{"s3", "s2", "p1", "20102"},        // and back, popped by p1
		{"s1", "s3", "pe1", "10203 20103"}, // through FRR's PE
		{"s1", "s3", "p1", "10403 20103"},
	} {
		from, src := net.Machine(t, "red", c.from)
		_, dst := net.Machine(t, "red", c.to)
		wire := net.Tap("pe2", c.on)
		if !net.Ping(from, dst, 5*time.Second) {
			t.Errorf("%s does not reach %s", c.from, c.to)
			continue
		}
		f, _ := wire.Next(time.Second, func(f vpntest.Frame) bool { return f.Src == src && f.Dst == dst })
		var labels []string
		for _, e := range f.Stack {
			labels = append(labels, strconv.Itoa(int(e.Label)))
		}
		if got := strings.Join(labels, " "); got != c.stack {
			t.Errorf("from %s to %s, at pe2 on the way to %s, the labels are %q, want %q", c.from, c.to, c.on, got, c.stack)
		}
	}
}

// waitDaemon reads events until one of kind comes about a daemon of pe2; "":
// about all of them.
func waitDaemon(t *testing.T, sub *lab.Subscription, kind, daemon string) (e event.Event) {
	t.Helper()
	ctx := limit(t)
	for {
		select {
		case e = <-sub.C:
		case <-ctx.Done():
			t.Fatalf("no event %s of pe2's %s came", kind, daemon)
		}
		if e.Node == "pe2" && e.Kind == kind && e.Attr["daemon"] == daemon {
			return e
		}
	}
}

// checkDeaths kills the parts of pe2's control plane, by hand.
func checkDeaths(t *testing.T, l *lab.Lab, plan *topo.Plan) {
	t.Helper()
	sub := l.Subscribe()
	defer sub.Close()
	kill := func(what string) {
		t.Helper()
		pids := processes(t, "pe2", what)
		if len(pids) != 1 {
			t.Fatalf("pe2 has %d processes like %q", len(pids), what)
		}
		if err := unix.Kill(pids[0], unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	before := processes(t, "pe2", "")

	kill("/bgpd ") // it alone is started again
	if e := waitDaemon(t, sub, "speaker.exit", "bgpd"); !strings.Contains(e.Attr["status"], "killed") {
		t.Errorf("the event does not say how bgpd ended: %v", e.Attr)
	}
	waitDaemon(t, sub, "speaker.restarted", "bgpd")
	applied(t, l, plan, "mixed: bgpd was killed")
	if after := processes(t, "pe2", ""); len(after) != len(before) || !slices.Contains(after, before[0]) {
		t.Errorf("processes of pe2: %v, after the death of bgpd %v", before, after)
	}

	kill("/zebra ") // the others cannot do without
	waitDaemon(t, sub, "speaker.exit", "zebra")
	waitDaemon(t, sub, "speaker.restarted", "")
	applied(t, l, plan, "mixed: zebra was killed")

	before = processes(t, "pe2", "")
	kill(" frr ") // the parent of them all
	waitDaemon(t, sub, "speaker.restarted", "")
	applied(t, l, plan, "mixed: the parent of the daemons was killed")
	for _, pid := range processes(t, "pe2", "") {
		if slices.Contains(before, pid) {
			t.Errorf("process %d of pe2 has outlived its parent", pid)
		}
	}
	matrix(t, l, plan)
}
