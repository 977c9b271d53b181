package audit

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vpclab/vpclab/emu/bgp"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/emu/mpls"
	"github.com/vpclab/vpclab/topo"
)

// TestMain lets this test binary be the speaker that a lab starts in each
// router.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "speaker" {
		conn, err := bgp.ControlConn()
		if err == nil {
			err = bgp.RunSpeaker(context.Background(), conn)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// twins are two customers with the same addresses, at an enterprise's site and
// in a cloud.
const twins = `name: twins
topology:
  backbone:
    pe: [pe1, pe2]
    p: [p1]
    links: [{between: [pe1, p1], delay: 1ms}, {between: [p1, pe2], delay: 1ms}]
  sites:
    hq:    {kind: enterprise, pe: pe1, machines: 2}
    cloud: {kind: cloud, pe: pe2, hosts: 2, machines: 2}
vpcs:
  red:  {service: l3vpn, subnets: {hq: 10.0.1.0/24, cloud: 10.0.2.0/24}}
  blue: {service: l3vpn, subnets: {hq: 10.0.1.0/24, cloud: 10.0.2.0/24}}
`

// strangers are the same with addresses of their own.
var strangers = strings.ReplaceAll(twins, "blue: {service: l3vpn, subnets: {hq: 10.0.1.0/24, cloud: 10.0.2.0/24}}", "blue: {service: l3vpn, sites: [hq, cloud]}")

func planOf(t *testing.T, text string) *topo.Plan {
	t.Helper()
	sc, err := topo.Parse("t.vpclab.yml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	plan, err := topo.Expand(sc)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// deployed is a lab that is destroyed at the end of the test.
func deployed(t *testing.T, plan *topo.Plan) *lab.Lab {
	t.Helper()
	kerneltest.Need(t)
	l := lab.New(lab.Config{Name: plan.Lab})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := l.Destroy(ctx); err != nil {
			t.Error(err)
		}
	})
	if _, err := l.Apply(limit(t), plan); err != nil {
		t.Fatal(err)
	}
	return l
}

func limit(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// audited asks the lab, and prints what was found.
func audited(t *testing.T, l *lab.Lab) *Report {
	t.Helper()
	var r *Report
	ctx := limit(t)
	if err := l.Still(ctx, func(ctx context.Context, plan *topo.Plan) (err error) {
		r, err = Run(ctx, Config{Plan: plan, Enter: l.Fabric().Do, Deadline: time.Second})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	r.Text(&b)
	t.Logf("\n%s", &b)
	return r
}

// in runs a command in a node.
func in(t *testing.T, l *lab.Lab, node string, command ...string) {
	t.Helper()
	cmd := exec.Command(command[0], command[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := l.Fabric().Start(node, cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		t.Fatalf("%s: %v: %v\n%s", node, command, err, &out)
	}
}

// setting sets a sysctl of a node.
func setting(t *testing.T, l *lab.Lab, node, path, value string) {
	t.Helper()
	if err := l.Fabric().Do(node, func() error { return os.WriteFile("/proc/sys/"+path, []byte(value), 0) }); err != nil {
		t.Fatal(err)
	}
}

func wantClean(t *testing.T, r *Report) {
	t.Helper()
	if !r.Clean() || len(r.Notes) > 0 {
		t.Errorf("leaks %+v, unreached %v, doubled %v, notes %v", r.Leaks, r.Unreached, r.Doubled, r.Notes)
	}
	for _, a := range r.Attacks {
		if a.Tried == 0 || a.Leaked > 0 {
			t.Errorf("attacks %+v", a)
		}
	}
}

// wantLeak wants leaks of a kind from one VPC to another, all of which cross
// at a node in the same way, and gives one.
func wantLeak(t *testing.T, r *Report, kind Kind, vpc, to, node, entered, left string) Leak {
	t.Helper()
	var found []Leak
	for _, l := range r.Leaks {
		if l.Kind != kind || l.VPC != vpc || l.ToVPC != to {
			continue
		}
		found = append(found, l)
		if c := l.Crossed; c.Node != node || !strings.Contains(c.Entered, entered) || !strings.Contains(c.Left, left) {
			t.Errorf("%s leak from %s to %s (%s) crossed at %q, entered %q, left %q (%s); want %q, %q, %q", kind, vpc, to, l.What, c.Node, c.Entered, c.Left, c.Why, node, entered, left)
		}
	}
	if len(found) == 0 {
		t.Fatalf("no %s leak from %s to %q in %+v", kind, vpc, to, r.Leaks)
	}
	return found[0]
}

// noLeaks wants none of a kind.
func noLeaks(t *testing.T, r *Report, kinds ...Kind) {
	t.Helper()
	for _, l := range r.Leaks {
		if slices.Contains(kinds, l.Kind) {
			t.Errorf("a leak that is none: %+v", l)
		}
	}
}

// sameMACs gives blue's machines the MAC addresses of red's.
func sameMACs(plan *topo.Plan) *topo.Plan {
	mac := map[string]topo.MAC{}
	for i, l := range plan.Links {
		if n, ok := plan.Node(l.A.Node); ok && n.Kind == topo.KindMachine {
			name := strings.TrimPrefix(strings.TrimPrefix(n.Name, "red"), "blue")
			if _, known := mac[name]; !known {
				mac[name] = l.A.MAC
			}
			plan.Links[i].A.MAC = mac[name]
		}
	}
	return plan
}

func TestACleanLabIsClean(t *testing.T) {
	plan := sameMACs(planOf(t, twins)) // not only the same addresses: the same MACs too
	r := audited(t, deployed(t, plan))
	if !r.Clean() || len(r.Notes) > 0 {
		t.Errorf("%+v", r)
	}
	if r.IP.Reached != 24 || r.IP.Forbidden != 24 || r.Frames.Reached != 8 || r.Frames.Forbidden != 48 {
		t.Errorf("IP %+v, frames %+v", r.IP, r.Frames)
	}
	for _, a := range r.Attacks {
		if a.Leaked > 0 || a.Tried == 0 != (a.Kind == KindSpoofedMAC) { // every address is the sender's own VPC's too
			t.Errorf("%+v", a)
		}
	}
}

func TestSlowLinksAndAbsentSitesAreNoLeak(t *testing.T) {
	text := strings.ReplaceAll(strangers, "machines: 2}", "machines: 2, access: {rate: 10mbit, delay: 5ms, queue: 20}}")
	plan := planOf(t, text).Detach(func(a topo.Attachment) bool { return a.VPC == "blue" && a.Site == "cloud" })
	r := audited(t, deployed(t, plan))
	wantClean(t, r)
	if r.IP.Reached != 12+4 {
		t.Errorf("IP %+v; the two halves of blue are apart", r.IP)
	}
	for _, a := range r.Attacks {
		if a.Kind == KindLabelStack && a.Entered != a.Tried {
			t.Errorf("%+v: all are sent by CEs and must have entered", a)
		}
	}
}

func TestAWrongRouteTargetIsFound(t *testing.T) {
	plan := planOf(t, strangers)
	l := deployed(t, plan)
	// At pe1, blue imports what red exports.
	red, _ := plan.VPC("red")
	cfg := l.Configs()["pe1"]
	cfg.VRFs = slices.Clone(cfg.VRFs)
	for i, v := range cfg.VRFs {
		if v.Name == "vrf-blue" {
			wrong := v.Circuits[0]
			wrong.Site, wrong.Prefix, wrong.ImportRT = "wrong", netip.MustParsePrefix("10.99.0.0/24"), red.Attachments[0].ImportRT
			cfg.VRFs[i].Circuits = append(slices.Clone(v.Circuits), wrong)
		}
	}
	pe1, _ := l.Speaker("pe1")
	if err := pe1.Configure(limit(t), cfg); err != nil {
		t.Fatal(err)
	}
	waitRoutes(t, l, "pe1", "vrf-blue", 2)
	r := audited(t, l)
	wantLeak(t, r, KindIP, "blue", "red", "pe1", "pe1:blue-1 (circuit of blue at hq) unlabelled", "pe1:p1 (backbone) with label 10302/20102 (red at pe2)")
	noLeaks(t, r, KindFrame, KindLabel, KindLabelStack, KindProvider)
}

// waitRoutes waits for so many labelled routes in a VRF.
func waitRoutes(t *testing.T, l *lab.Lab, pe, vrf string, want int) {
	t.Helper()
	ctx := limit(t)
	sub := l.Subscribe()
	defer sub.Close()
	for {
		tables, err := mpls.Read(l.Fabric().NSPath(pe))
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, v := range tables.VRFs {
			for _, r := range v.Routes {
				if v.Name == vrf && len(r.Labels) > 0 {
					n++
				}
			}
		}
		if n == want {
			return
		}
		select {
		case <-sub.C:
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("waited for %d VPN routes in %s of %s, there are %d", want, vrf, pe, n)
		}
	}
}

func TestALabelThatLeadsIntoTheWrongVRFIsFound(t *testing.T) {
	l := deployed(t, planOf(t, twins))
	in(t, l, "pe2", "ip", "-f", "mpls", "route", "replace", "20102", "dev", "vrf-blue")
	r := audited(t, l)
	wantLeak(t, r, KindIP, "red", "blue", "pe2", "pe2:p1 (backbone) with label 20102 (red at pe2)", "pe2:blue-2 (circuit of blue at cloud) unlabelled")
	if len(r.Unreached) == 0 {
		t.Error("red's pairs to the cloud cannot reach, and that is not reported")
	}
}

func TestAPEThatTakesLabelsFromACustomerIsFound(t *testing.T) {
	l := deployed(t, planOf(t, strangers))
	setting(t, l, "pe1", "net/mpls/conf/red-1/input", "1")
	r := audited(t, l)
	wantLeak(t, r, KindLabel, "red", "blue", "pe1", "pe1:red-1 (circuit of red at hq) with label 20201 (blue at pe1)", "pe1:blue-1 (circuit of blue at hq) unlabelled")
	noLeaks(t, r, KindIP, KindFrame, KindSpoofedIP, KindSpoofedMAC, KindProvider)
	for _, leak := range r.Leaks {
		if leak.VPC != "red" || leak.From != "red-hq-ce" {
			t.Errorf("only red's CE can have a way in: %+v", leak)
		}
	}
}

func TestAPEThatAnswersItsTenantsIsFound(t *testing.T) {
	l := deployed(t, planOf(t, strangers))
	in(t, l, "pe1", "ip", "rule", "add", "pref", "0", "table", "local")
	r := audited(t, l)
	for _, vpc := range []string{"red", "blue"} {
		leak := wantLeak(t, r, KindProvider, vpc, "", "pe1", "pe1:"+vpc+"-1 (circuit of "+vpc+" at hq) unlabelled", "pe1 itself, which has 10.25")
		if !strings.Contains(leak.Seen, "delivered to pe1") {
			t.Errorf("%+v", leak)
		}
	}
	noLeaks(t, r, KindIP, KindFrame, KindSpoofedIP, KindSpoofedMAC, KindLabel, KindLabelStack)
}

func TestATableWithoutAnEndIsFound(t *testing.T) {
	l := deployed(t, planOf(t, strangers))
	// Without the route that ends it, a lookup in the VRF goes on in main, and
	// packets go out unlabelled.
	in(t, l, "pe1", "ip", "route", "del", "unreachable", "default", "table", "1001")
	r := audited(t, l)
	leak := wantLeak(t, r, KindProvider, "red", "", "pe1", "pe1:red-1 (circuit of red at hq) unlabelled", "")
	if !strings.Contains(leak.Crossed.Left, "backbone") && !strings.Contains(leak.Crossed.Left, "itself") {
		t.Errorf("%+v", leak)
	}
}

func TestACableBetweenTwoBridgesOfAHostIsFound(t *testing.T) {
	l := deployed(t, planOf(t, strangers))
	in(t, l, "cloud-h1", "ip", "link", "add", "j1", "type", "veth", "peer", "name", "j2")
	in(t, l, "cloud-h1", "ip", "link", "set", "j1", "master", "br-red", "up")
	in(t, l, "cloud-h1", "ip", "link", "set", "j2", "master", "br-blue", "up")
	r := audited(t, l)
	for _, at := range [][2]string{{"red", "blue"}, {"blue", "red"}} {
		wantLeak(t, r, KindFrame, at[0], at[1], "cloud-h1", "cloud-h1:", "cloud-h1:")
		wantLeak(t, r, KindSpoofedMAC, at[0], at[1], "cloud-h1", "of "+at[0]+"'s LAN at cloud", "of "+at[1]+"'s LAN at cloud")
	}
}

// lans are two customers with the same addresses whose LANs are one, and one
// with an IP VPN, on the same backbone.
const lans = `name: lans
topology:
  backbone:
    pe: [pe1, pe2, pe3]
    p: [p1]
    links: [{between: [pe1, p1], delay: 1ms}, {between: [p1, pe2], delay: 1ms}, {between: [p1, pe3], delay: 1ms}]
  sites:
    hq:    {kind: enterprise, pe: pe1, machines: 2}
    cloud: {kind: cloud, pe: pe2, hosts: 2, machines: 2}
    lab:   {kind: enterprise, pe: pe3, machines: 1}
    shop:  {kind: enterprise, pe: pe1, machines: 1}
vpcs:
  red:   {service: vpls, subnet: 10.0.0.0/24, sites: [hq, cloud, lab, shop]}
  blue:  {service: vpls, subnet: 10.0.0.0/24, sites: [hq, cloud, lab]}
  green: {service: l3vpn, sites: [hq, cloud, lab]}
`

func TestCleanVPLSsAreClean(t *testing.T) {
	r := audited(t, deployed(t, sameMACs(planOf(t, lans))))
	wantClean(t, r)
	if r.IP.Reached != 70 || r.Frames.Reached != 30+20+4 {
		t.Errorf("IP %+v, frames %+v", r.IP, r.Frames)
	}
	for _, a := range r.Attacks {
		if a.Kind == KindLabelStack && a.Entered != a.Tried {
			t.Errorf("%+v: all are sent by CEs and must have entered", a)
		}
	}
}

func TestAPseudowireInTheWrongBridgeIsFound(t *testing.T) {
	l := deployed(t, planOf(t, lans))
	in(t, l, "pe2", "ip", "link", "set", "pw20101", "master", "vsi-blue", "type", "bridge_slave", "isolated", "on")
	r := audited(t, l)
	wantLeak(t, r, KindFrame, "red", "blue", "pe2", "pe2:p1 (backbone) with label 20101 (pseudowire of red)", "pe2:blue-2 (circuit of blue at cloud) unlabelled")
	if len(r.Unreached) == 0 {
		t.Error("red's frames to the cloud go elsewhere, and that is not reported")
	}
}

func TestACircuitThatTakesPseudowireLabelsIsFound(t *testing.T) {
	l := deployed(t, planOf(t, lans))
	in(t, l, "pe1", "tc", "qdisc", "add", "dev", "red-1", "ingress_block", "1", "clsact")
	r := audited(t, l)
	wantLeak(t, r, KindLabel, "red", "blue", "pe1", "pe1:red-1 (circuit of red at hq) with label 2020", "pe1:blue-1 (circuit of blue at hq) unlabelled")
	noLeaks(t, r, KindIP, KindFrame, KindProvider, KindSpoofedIP, KindSpoofedMAC)
}

func TestABridgeThatHandsPacketsToItsPEIsFound(t *testing.T) {
	l := deployed(t, planOf(t, lans))
	setting(t, l, "pe1", "net/ipv4/conf/vsi-red/rp_filter", "0")
	setting(t, l, "pe1", "net/ipv4/conf/vsi-red/forwarding", "1")
	r := audited(t, l)
	wantLeak(t, r, KindProvider, "red", "", "pe1", "pe1:red-", "")
	noLeaks(t, r, KindIP, KindFrame, KindLabel, KindLabelStack)
	for _, leak := range r.Leaks {
		if leak.VPC != "red" {
			t.Errorf("only red's bridge is open: %+v", leak)
		}
	}
}

// TestAHostThatAnswersItsTenantsIsFound: a hypervisor host has an address in the
// network of the hosts, and takes no packet to it from a tenant's LAN.
func TestAHostThatAnswersItsTenantsIsFound(t *testing.T) {
	plan := planOf(t, `name: hosted
topology:
  backbone: {pe: [pe1, pe2], links: [{between: [pe1, pe2]}]}
  sites:
    cloud: {kind: cloud, pe: pe1}
    away: {kind: cloud, pe: pe2}
    hq: {kind: enterprise, pe: pe2}
vpcs:
  red: {service: vpls, sites: [cloud, away, hq]}
vms:
  shop: {vpc: red, host: cloud/1, memory: 1MiB}
`)
	for i := range plan.Nodes {
		plan.Nodes[i].Guest = nil // what would run in it does not matter, and its host has an address all the same
	}
	l := deployed(t, plan)
	in(t, l, "cloud-h1", "ping", "-c", "1", "-W", "5", "10.251.2.1")
	if r := audited(t, l); len(r.Leaks) > 0 || r.VPCs != 1 {
		t.Errorf("%d leaks in %d VPCs", len(r.Leaks), r.VPCs)
	}
	setting(t, l, "cloud-h1", "net/ipv4/conf/br-red/rp_filter", "0")
	r := audited(t, l)
	leak := wantLeak(t, r, KindProvider, "red", "", "cloud-h1", "cloud-h1:shop (port of red's LAN at cloud) unlabelled", "cloud-h1 itself, which has 10.251.1.1")
	if leak.From != "shop" {
		t.Errorf("only who is plugged into the host can reach it: %+v", leak)
	}
}
