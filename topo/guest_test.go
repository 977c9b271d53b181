package topo

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const guestsFile = `
name: guests
topology:
  backbone:
    pe: [pe1, pe2, pe3]
    links: [{between: [pe1, pe2]}, {between: [pe2, pe3]}]
    routers: {pe3: {routing: frr}}
  sites:
    texas: {kind: cloud, pe: pe1, hosts: 2}
    illinois: {kind: cloud, pe: pe2}
    hq: {kind: enterprise, pe: pe2}
    oregon: {kind: cloud, pe: pe3}
vpcs:
  acme: {service: vpls, sites: [texas, illinois, hq]}
vms:
  plain: {vpc: acme, host: texas/2}
  shop: {vpc: acme, host: texas/1, scale: mini, disk: 16MiB, workload: tpcw}
`

func guestsPlan(t *testing.T) *Plan {
	t.Helper()
	sc, err := Parse("guests.vpclab.yml", []byte(guestsFile))
	if err != nil {
		t.Fatal(err)
	}
	p, err := Expand(sc)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestGuest(t *testing.T) {
	p := guestsPlan(t)
	shop, _ := p.Node("shop")
	want := &Guest{Kind: GuestProcess, Memory: 64 << 20, Work: 64 << 20, Disk: 16 << 20, Workload: "tpcw", Scale: 1. / 16, Port: 80, Seed: shop.Guest.Seed}
	if diff := cmp.Diff(want, shop.Guest); diff != "" || want.Seed == 0 {
		t.Errorf("-want +got\n%s", diff)
	}
	if plain, _ := p.Node("plain"); plain.Guest != nil {
		t.Errorf("a VM without memory has a guest: %v", plain.Guest)
	}
	if got := len(p.Guests()); got != 1 {
		t.Errorf("%d guests, want 1", got)
	}
}

// TestHostsNetwork has the hosts of all clouds in a network of their own, but
// for those at a PE that knows no VPLS.
func TestHostsNetwork(t *testing.T) {
	p := guestsPlan(t)
	for host, want := range map[string]string{"texas-h1": "10.251.1.1", "texas-h2": "10.251.1.2", "illinois-h1": "10.251.2.1"} {
		if got, err := p.HostAddr(host); err != nil || got.String() != want {
			t.Errorf("%s has %v (%v), want %s", host, got, err, want)
		}
	}
	for _, host := range []string{"oregon-h1", "pe1", "nobody"} {
		if got, err := p.HostAddr(host); err == nil {
			t.Errorf("%s has %v", host, got)
		}
	}
	bare := p.WithoutGuests()
	if _, there := bare.VPC(Infra); there || len(bare.Guests()) > 0 {
		t.Error("a plan without guests has guests, or their hosts' network")
	}
	if _, err := bare.HostAddr("texas-h1"); err == nil {
		t.Error("a host has an address without guests")
	}
	if len(p.Guests()) != 1 {
		t.Error("the plan itself lost its guests")
	}
}

// TestGuestOperations moves, replicates and removes a guest, and refuses what
// would break the hosts' network.
func TestGuestOperations(t *testing.T) {
	p := guestsPlan(t)
	do := func(p *Plan, op Operation) *Plan {
		t.Helper()
		q, err := p.Do(op)
		if err != nil {
			t.Fatal(err)
		}
		return q
	}
	guest := func(p *Plan, vm string) *Guest {
		n, _ := p.Node(vm)
		return n.Guest
	}
	there := do(p, Operation{Do: "move", VM: "shop", Host: "illinois/1"})
	if guest(there, "shop") == nil || *guest(there, "shop") != *guest(p, "shop") {
		t.Error("a guest that moves is another one afterwards")
	}
	back := do(there, Operation{Do: "move", VM: "shop", Host: "texas/1"})
	if diff := cmp.Diff(p, back, cmpAddrs); diff != "" {
		t.Errorf("there and back is not as it was: -before +after\n%s", diff)
	}
	twice := do(p, Operation{Do: "replicate", VM: "shop", Host: "illinois/1"})
	replica := guest(twice, "shop-r1")
	if replica == nil || replica.Seed == guest(p, "shop").Seed || replica.Memory != guest(p, "shop").Memory {
		t.Errorf("the replica has %v", replica)
	}
	if diff := cmp.Diff(p, do(twice, Operation{Do: "remove", VM: "shop-r1"}), cmpAddrs); diff != "" {
		t.Errorf("after the replica is gone: -before +after\n%s", diff)
	}
	for _, op := range []Operation{
		{Do: "delete", VPC: Infra}, {Do: "leave", VPC: Infra, Site: "texas"}, {Do: "create", VPC: Infra, Service: ServiceVPLS},
		{Do: "add", VPC: Infra, Host: "texas/1"}, {Do: "move", VM: "shop", Site: "hq"},
	} {
		if _, err := p.Do(op); err == nil {
			t.Errorf("%s is done", op)
		}
	}
	created := do(p, Operation{Do: "create", VPC: "late", Service: ServiceL3VPN, Sites: []string{"hq"}})
	if v, _ := created.VPC("late"); v.Index != 2 {
		t.Errorf("a VPC that comes later is number %d, want 2", v.Index)
	}
}

// TestRealGuest has room for a kernel beside the workload of its scale, and
// refuses what only one kind of guest has at the other.
func TestRealGuest(t *testing.T) {
	const file = "name: x\ntopology:\n  backbone: {pe: [pe1]}\n  sites: {texas: {kind: cloud, pe: pe1, hosts: 1}}\nvpcs:\n  acme: {service: vpls, subnet: 10.0.0.0/24, sites: [texas]}\nvms:\n  shop: {vpc: acme, host: texas/1, "
	sc, err := Parse("x.yml", []byte(file+"guest: qemu, scale: mini, workload: tpcw}\n"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := Expand(sc)
	if err != nil {
		t.Fatal(err)
	}
	shop, _ := p.Node("shop")
	if g := shop.Guest; g.Kind != GuestQEMU || g.Work != 64<<20 || g.Memory != 162<<20 || besideKernel(g.Memory) < g.Work || g.Scale != 1./16 {
		t.Errorf("got %+v", g)
	}
	for text, want := range map[string]string{
		"guest: qemu, memory: 64MiB}":                                 "64MiB is too little for a QEMU guest, whose kernel takes 96MiB; expected at least 113MiB",
		"guest: process, memory: 64MiB, image: a.img}":                "only a QEMU guest has image",
		"memory: 64MiB, kernel: vmlinuz}":                             "only a QEMU guest has kernel",
		"image: a.img}":                                               "only a VM with a guest has image",
		"guest: qemu, scale: mini, image: a.img, workload: mmuncher}": "expected no workload",
		"guest: qemu, memory: 512MiB, image: a.img}":                  "is copied onto the VM's disk, and there is none; expected disk",
	} {
		_, err := Parse("x.yml", []byte(file+text+"\n"))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "x.yml:8:") {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}
