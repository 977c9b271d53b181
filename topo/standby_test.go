package topo

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const standbyFile = `
name: pairs
topology:
  backbone:
    pe: [pe1, pe2, pe3, pe4]
    links: [{between: [pe1, pe2]}, {between: [pe2, pe3]}, {between: [pe3, pe4]}]
    routers: {pe4: {routing: frr}}
  sites:
    texas: {kind: cloud, pe: pe1, hosts: 2}
    illinois: {kind: cloud, pe: pe2}
    hq: {kind: enterprise, pe: pe2, machines: 2}
    mars: {kind: cloud, pe: pe4}
    oregon: {kind: cloud, pe: pe3}
vpcs:
  acme: {service: SERVICE, sites: [texas, illinois, hq]}
vms:
  web: {vpc: acme, host: illinois/1, memory: 4MiB}
  shop: {vpc: acme, host: texas/1, memory: 4MiB, disk: 4MiB, standby: {host: illinois/1, epoch: 20ms}}
  late: {vpc: acme, host: texas/2, memory: 4MiB, disk: 4MiB, standby: {host: illinois/1, mode: sync}}
`

func standbyPlan(t *testing.T, service string) *Plan {
	t.Helper()
	sc, err := Parse("pairs.vpclab.yml", []byte(strings.Replace(standbyFile, "SERVICE", service, 1)))
	if err != nil {
		t.Fatal(err)
	}
	return mustExpand(t, sc)
}

func TestStandbyIsTheMachineOnceMore(t *testing.T) {
	for _, service := range []string{ServiceVPLS, ServiceL3VPN} {
		p := standbyPlan(t, service)
		pairs := p.Pairs()
		if len(pairs) != 2 || pairs[0].Index == pairs[1].Index {
			t.Fatalf("%s: pairs %v, want two with numbers of their own", service, pairs)
		}
		shop, _ := p.PairOf("shop-standby")
		want := Pair{VM: "shop", Standby: "shop-standby", Index: 1, Mode: ModeCheckpoint, Epoch: 20e6, Hosts: [2]string{"texas-h1", "illinois-h1"}, Witness: "oregon-h1"}
		if diff := cmp.Diff(want, shop); diff != "" {
			t.Errorf("%s: -want +got\n%s", service, diff)
		}
		first, _ := p.Port("shop")
		second, _ := p.Port("shop-standby")
		if first.A.MAC != second.A.MAC || first.A.Addr != second.A.Addr || first.MTU != second.MTU {
			t.Errorf("%s: seats differ: %+v and %+v", service, first.A, second.A)
		}
		if first.Seat != SeatUp || second.Seat != SeatDark || second.B.Node != "illinois-h1" || second.B.Bridge != "br-acme" {
			t.Errorf("%s: ports %+v and %+v", service, first, second)
		}
		other, _ := p.Port("late-standby")
		web, _ := p.Port("web")
		if second.B.MAC == web.B.MAC || second.B.MAC == other.B.MAC {
			t.Errorf("%s: two ports of one segment have one MAC", service)
		}
		for _, n := range append(p.Machines(), p.Guests()...) {
			if strings.HasSuffix(n.Name, standbySuffix) {
				t.Errorf("%s: %s counts as a machine", service, n.Name)
			}
		}
		if a := attachmentAt(t, p, "acme", "illinois"); len(a.Machines) != 1 {
			t.Errorf("%s: machines at the standby's site: %v", service, a.Machines)
		}
		if bare := p.WithoutGuests(); len(bare.Pairs())+len(bare.OfKind(KindStandby)) > 0 {
			t.Errorf("%s: a plan without guests has pairs", service)
		} else if port, _ := bare.Port("shop"); port.Seat != NoSeat {
			t.Errorf("%s: a port without an agent waits for one", service)
		}
	}
}

func attachmentAt(t *testing.T, p *Plan, vpc, site string) Attachment {
	t.Helper()
	for _, a := range p.Attachments() {
		if a.VPC == vpc && a.Site == site {
			return a
		}
	}
	t.Fatalf("VPC %s is not at %s", vpc, site)
	return Attachment{}
}

func TestSeatedLeadsAnL3VPN(t *testing.T) {
	p := standbyPlan(t, ServiceL3VPN)
	home := p.Seated(func(vm string) string { return vm })
	if home != p {
		t.Error("a VM at home changes the plan")
	}
	away := p.Seated(func(vm string) string { return map[string]string{"shop": "shop-standby"}[vm] })
	shop, _ := p.Node("shop")
	alone := netip.PrefixFrom(shop.Addr, 32)
	there := attachmentAt(t, away, "acme", "illinois")
	if diff := cmp.Diff([]netip.Prefix{alone}, there.Seats, cmpAddrs); diff != "" {
		t.Errorf("announced at the standby's site: -want +got\n%s", diff)
	}
	for ce, want := range map[string]Route{
		there.CE:                               {Dst: alone, Dev: "lan"},
		attachmentAt(t, p, "acme", "texas").CE: {Dst: alone, Via: attachmentAt(t, p, "acme", "texas").PEAddr.Addr(), Dev: "wan"},
	} {
		n, _ := away.Node(ce)
		if got := n.Routes[len(n.Routes)-1]; got != want {
			t.Errorf("%s leads to the VM by %+v, want %+v", ce, got, want)
		}
		if !n.bridge("lan").Proxy {
			t.Errorf("%s does not answer for neighbours that are elsewhere", ce)
		}
	}
	if n, _ := p.Node(there.CE); len(n.Routes) != 1 {
		t.Error("the plan itself was changed")
	}
}

// TestOperationsOnPairs: what cannot be done to a protected VM is refused; what
// can takes its standby along.
func TestOperationsOnPairs(t *testing.T) {
	p := standbyPlan(t, ServiceVPLS)
	for op, want := range map[*Operation]string{
		{Do: "move", VM: "shop", Host: "texas/2"}:        "protected by a standby at illinois-h1",
		{Do: "move", VM: "shop-standby", Host: "mars/1"}: `no VM or machine "shop-standby"`,
		{Do: "leave", VPC: "acme", Site: "illinois"}:     "a seat of",
		{Do: "leave", VPC: "acme", Site: "texas"}:        "a seat of",
	} {
		if _, err := p.Do(*op); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", *op, err, want)
		}
	}
	q, err := p.Do(Operation{Do: "remove", VM: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	if _, there := q.Node("shop-standby"); there || len(q.Pairs()) != 1 {
		t.Error("the standby of a VM that was removed is there still")
	}
	if late, _ := q.PairOf("late"); late.Index != 2 {
		t.Errorf("the number of another pair has become %d", late.Index)
	}
	r, err := p.Do(Operation{Do: "replicate", VM: "shop", Host: "illinois/1"})
	if err != nil {
		t.Fatal(err)
	}
	if n, _ := r.Node("shop-r1"); n.Pair != nil {
		t.Error("a replica has a standby that nobody asked for")
	}
	if _, err := p.Do(Operation{Do: "delete", VPC: "acme"}); err != nil {
		t.Error(err)
	}
}
