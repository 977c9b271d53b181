package topo

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const operationsSource = `
name: operations
topology:
  backbone:
    pe: [pe1, pe2, pe3]
    p: [p1, p2]
    links:
      - {between: [pe1, p1], rate: 100mbit}
      - {between: [p1, pe2], rate: 100mbit}
      - {between: [pe1, p2], rate: 100mbit, cost: 20}
      - {between: [p2, pe2], rate: 100mbit, cost: 20}
      - {between: [p2, pe3], rate: 100mbit}
  sites:
    texas: {kind: cloud, pe: pe1, hosts: 2, machines: 2}
    illinois: {kind: cloud, pe: pe2, hosts: 2}
    hq: {kind: enterprise, pe: pe3, machines: 2}
    branch: {kind: enterprise, pe: pe3}
vpcs:
  acme: {service: vpls, sites: [texas, hq]}
  globex: {service: l3vpn, sites: [texas, hq]}
  initech: {service: vpls, sites: [texas, illinois], subnet: 10.0.0.0/24}
vms:
  shop: {vpc: acme, host: texas/1, address: 10.1.0.9, mac: "02:aa:00:00:00:09"}
  db: {vpc: globex, host: texas/2}
reservations:
  video: {vpc: acme, between: [shop, hq], rate: 30mbit}
  bulk: {vpc: globex, between: [db, hq], rate: 30mbit}
`

func operationsPlan(t testing.TB) *Plan { return mustExpand(t, mustParse(t, operationsSource)) }

// do applies operations; each must be taken.
func do(t testing.TB, p *Plan, ops ...Operation) *Plan {
	t.Helper()
	for _, op := range ops {
		q, err := p.Do(op)
		if err != nil {
			t.Fatal(err)
		}
		p = q
	}
	return p
}

func sound(t *testing.T, p *Plan) {
	t.Helper()
	uniqueNames(t, p)
	interfaceNames(t, p)
	uniqueMACs(t, p)
	addresses(t, p)
	if highest := labelsAndTargets(t, p); p.MaxLabel() < highest {
		t.Errorf("MaxLabel is %d, the highest label is %d", p.MaxLabel(), highest)
	}
	lspsByLabels(t, p)
	reservedPaths(t, p)
}

func same(t testing.TB, what string, want, got *Plan) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpAddrs); diff != "" {
		t.Errorf("%s: -before +after\n%s", what, diff)
	}
}

func TestLeaveAndJoin(t *testing.T) {
	p := operationsPlan(t)
	for _, a := range p.Attachments() {
		away := do(t, p, Operation{Do: "leave", VPC: a.VPC, Site: a.Site})
		same(t, "leave is what Detach does", p.Detach(func(o Attachment) bool { return o.VPC == a.VPC && o.Site == a.Site }), away)
		same(t, "leave and join", p, do(t, away, Operation{Do: "join", VPC: a.VPC, Site: a.Site}))
		sound(t, away)
	}
}

// TestThereAndBack holds that what undoes an operation leaves the plan as it
// was.
func TestThereAndBack(t *testing.T) {
	p := operationsPlan(t)
	p.TopLabel = 1 << 19 // it would rise and stay
	subnet := netip.MustParsePrefix("10.7.0.0/24")
	for _, pair := range [][2]Operation{
		{{Do: "create", VPC: "new", Service: ServiceVPLS, Sites: []string{"illinois", "branch"}, Subnet: &subnet}, {Do: "delete", VPC: "new"}},
		{{Do: "create", VPC: "new", Service: ServiceL3VPN}, {Do: "delete", VPC: "new"}},
		{{Do: "add", VPC: "acme", Host: "texas/2", VM: "extra"}, {Do: "remove", VM: "extra"}},
		{{Do: "add", VPC: "globex", Site: "hq"}, {Do: "remove", VM: "globex-hq-3"}},
		{{Do: "replicate", VM: "db", Host: "texas/1"}, {Do: "remove", VM: "db-r1"}},
		{{Do: "reserve", Name: "more", VPC: "initech", Between: []string{"texas", "illinois"}, Rate: 10e6}, {Do: "release", Name: "more"}},
		{{Do: "fail", Link: []string{"p2", "pe1"}}, {Do: "restore", Link: []string{"pe1", "p2"}}},
		{{Do: "fail", Link: []string{"pe3", "p2"}}, {Do: "restore", Link: []string{"pe3", "p2"}}},
		{{Do: "fail", Link: []string{"p1", "rr"}}, {Do: "restore", Link: []string{"p1", "rr"}}},
	} {
		there := do(t, p, pair[0])
		sound(t, there)
		if reflect.DeepEqual(p, there) {
			t.Errorf("%s changes nothing", pair[0])
		}
		same(t, pair[0].String()+" and "+pair[1].String(), p, do(t, there, pair[1]))
	}
}

// TestReplicate: a replica is in its VPC at once, with an address and a MAC of
// its own, at a site that had never been part of it.
func TestReplicate(t *testing.T) {
	p := do(t, operationsPlan(t), Operation{Do: "replicate", VM: "shop", Host: "illinois/2"})
	sound(t, p)
	n, wire := mustNode(t, p, "shop-r1"), p.LinksOf("shop-r1")[0]
	if n.VPC != "acme" || n.Host != "illinois-h2" || n.Addr.String() != "10.1.2.11" || wire.A.MAC != (MAC{2, 0, 1, 2, 0, 1}) || wire.B.Bridge != "br-acme" {
		t.Errorf("%+v by %+v", n, wire)
	}
	acme, _ := p.VPC("acme")
	if v, ok := acme.VSI("pe2"); !ok || v.RD != "65000:1002" {
		t.Errorf("illinois has not joined: %+v", acme.VSIs)
	}
	again := do(t, p, Operation{Do: "replicate", VM: "shop-r1", Host: "illinois/2"}, Operation{Do: "replicate", VM: "shop", Host: "texas/2"})
	if mustNode(t, again, "shop-r1-r1").Addr.String() != "10.1.2.12" || mustNode(t, again, "shop-r2").Addr.String() != "10.1.1.14" {
		t.Errorf("replicas of replicas: %v", names(again.Machines()))
	}
}

// TestMove: in a vpls only the port moves; in an l3vpn the VM gets an address
// where it comes to; a site that left joins for it.
func TestMove(t *testing.T) {
	p := operationsPlan(t)
	before := p.LinksOf("shop")[0]
	moved := do(t, p, Operation{Do: "move", VM: "shop", Host: "illinois/1"})
	sound(t, moved)
	after := moved.LinksOf("shop")[0]
	if after.A != before.A || after.B.Node != "illinois-h1" || after.Site != "illinois" {
		t.Errorf("in a vpls %+v becomes %+v", before, after)
	}
	if r := reservation(t, moved, "video"); r.Directions[0].From != "pe2" || r.Directions[0].SrcMAC != before.A.MAC {
		t.Errorf("its reservation stays behind: %+v", r)
	}
	back := do(t, moved, Operation{Do: "move", VM: "shop", Host: "texas/1"}, Operation{Do: "leave", VPC: "acme", Site: "illinois"})
	if got := back.LinksOf("shop")[0]; got != before {
		t.Errorf("there and back: %+v, was %+v", got, before)
	}

	routed := do(t, p, Operation{Do: "leave", VPC: "globex", Site: "hq"}, Operation{Do: "move", VM: "db", Site: "hq"})
	sound(t, routed)
	if n := mustNode(t, routed, "db"); n.Addr.String() != "10.2.3.13" || n.Host != "" || n.Routes[0].Via.String() != "10.2.3.1" {
		t.Errorf("in an l3vpn: %+v", n)
	}
	if r := reservation(t, routed, "bulk"); len(r.Directions) != 0 || r.Unmet != "" {
		t.Errorf("both ends are at one site now: %+v", r)
	}
	beside := do(t, p, Operation{Do: "move", VM: "db", Host: "texas/1"})
	if was, is := p.LinksOf("db")[0], beside.LinksOf("db")[0]; was.A != is.A || is.B.Node != "texas-h1" {
		t.Errorf("within a site %+v becomes %+v", was, is)
	}

	// Who comes later must not be given what the VM that moved still has.
	auto := do(t, p, Operation{Do: "move", VM: "acme-texas-2", Host: "illinois/1"}, Operation{Do: "add", VPC: "acme", Host: "texas/1"}, Operation{Do: "add", VPC: "acme", Host: "illinois/1"})
	sound(t, auto)
	if mustNode(t, auto, "acme-texas-2").Addr.String() != "10.1.1.12" {
		t.Error("it lost its address")
	}
}

// TestNumbersAreUsedAgain: the lowest free number of a VPC, of a machine and of
// a reservation.
func TestNumbersAreUsedAgain(t *testing.T) {
	p := do(t, operationsPlan(t),
		Operation{Do: "delete", VPC: "globex"},
		Operation{Do: "remove", VM: "acme-texas-1"},
		Operation{Do: "create", VPC: "new", Service: ServiceL3VPN, Sites: []string{"branch"}},
		Operation{Do: "add", VPC: "acme", Host: "texas/1"},
		Operation{Do: "add", VPC: "initech", Host: "illinois/1", VM: "one"},
		Operation{Do: "reserve", Name: "later", VPC: "acme", Between: []string{"texas", "hq"}, Rate: 10e6},
	)
	sound(t, p)
	v, _ := p.VPC("new")
	if v.Index != 2 || v.Attachments[0].Subnet.String() != "10.2.4.0/24" || p.VPCs[1].Name != "new" {
		t.Errorf("the new VPC is %+v", v)
	}
	if n := mustNode(t, p, "acme-texas-1"); n.Number != 1 || n.Addr.String() != "10.1.1.11" {
		t.Errorf("the new machine is %+v", n)
	}
	if n := mustNode(t, p, "one"); n.Addr.String() != "10.0.0.13" || n.Number != 1 {
		t.Errorf("in a subnet numbered through: %+v", n)
	}
	if len(p.Reservations) != 2 || reservation(t, p, "later").Index != 2 {
		t.Errorf("reservations %+v", p.Reservations)
	}
}

// TestFailure: LSPs, core routes and reservations go around a failed link; what
// finds no room is told, and has it again when the link is back.
func TestFailure(t *testing.T) {
	p := operationsPlan(t)
	down := do(t, p, Operation{Do: "fail", Link: []string{"p2", "pe3"}})
	sound(t, down)
	if lsp, _ := down.LSP("pe3"); len(lsp.Hops) != 0 {
		t.Errorf("pe3 is out of reach, and has %+v", lsp)
	}
	if r := reservation(t, down, "video"); len(r.Directions) != 0 || r.Unmet != "no way leads from pe1 to pe3 since p2--pe3 failed" {
		t.Errorf("%+v", r)
	}
	for _, c := range down.CoreRoutes {
		if c.Node == "pe3" {
			t.Errorf("a route leads nowhere: %+v", c)
		}
	}
	around := do(t, p, Operation{Do: "fail", Link: []string{"pe1", "p2"}})
	sound(t, around)
	if d := reservation(t, around, "video").Directions[0]; strings.Join(d.Path, " ") != "pe1 p1 pe2 p2 pe3" {
		t.Errorf("%+v", d)
	}
	full := do(t, p, Operation{Do: "reserve", Name: "wide", VPC: "initech", Between: []string{"texas", "illinois"}, Rate: 60e6, Path: []string{"pe1", "p1", "pe2"}},
		Operation{Do: "fail", Link: []string{"pe1", "p2"}})
	if first, second := reservation(t, full, "video"), reservation(t, full, "bulk"); first.Unmet != "" || !strings.Contains(second.Unmet, "link pe1--p1: 100mbit, of which 90mbit can be reserved and 90mbit are, by wide, video") {
		t.Errorf("%+v\n%+v", first, second)
	}
	back := do(t, full, Operation{Do: "restore", Link: []string{"pe1", "p2"}}, Operation{Do: "release", Name: "wide"})
	back.TopLabel = p.TopLabel
	same(t, "all as before", p, back)
}

// TestLongNames: the longest name that vpclab gives can be said, and a replica
// of it has one that a user may write.
func TestLongNames(t *testing.T) {
	const longest = "long-vpc-na-san-francisco-west-12"
	p := do(t, samples()["long-names.vpclab.yml"], Operation{Do: "replicate", VM: longest, Host: "san-francisco-west/1"}, Operation{Do: "remove", VM: longest})
	sound(t, p)
	mustNode(t, p, "long-vpc-na-san-francisco-we-r1")
}

func TestRefusedOperations(t *testing.T) {
	p := operationsPlan(t)
	for _, c := range []struct {
		op   Operation
		want string
	}{
		{Operation{Do: "jion", VPC: "acme"}, `jion acme: there is no operation "jion"; expected one of create, delete, join, leave, add, remove, replicate, move, reserve, release, fail, restore; did you mean join?`},
		{Operation{Do: "join", VPC: "acme"}, "join acme: site is missing; expected vpc, site; add for example `site: texas`"},
		{Operation{Do: "join", VPC: "acme", Site: "branch", Host: "texas/1"}, "join acme branch texas/1: join takes no host; expected vpc, site"},
		{Operation{Do: "join", VPC: "acmee", Site: "branch"}, `join acmee branch: there is no VPC "acmee"; expected one of acme, globex, initech; did you mean acme?`},
		{Operation{Do: "join", VPC: "acme", Site: "hq"}, "join acme hq: site hq is in VPC acme already"},
		{Operation{Do: "join", VPC: "acme", Site: "brunch"}, `join acme brunch: there is no site "brunch"; expected one of texas, illinois, hq, branch; did you mean branch?`},
		{Operation{Do: "leave", VPC: "acme", Site: "branch"}, `leave acme branch: site "branch" is not in VPC acme; expected one of texas, hq`},
		{Operation{Do: "create", VPC: "acme", Service: "vpls"}, "create acme: VPC acme is there already; choose another name"},
		{Operation{Do: "create", VPC: "New", Service: "vpls"}, `create New: "New" cannot be the name of a VPC; expected a lower-case letter, then lower-case letters, digits and dashes, at most 11 in all; did you mean new?`},
		{Operation{Do: "create", VPC: "new", Service: "vpsl"}, `create new: "vpsl" is not known; expected one of l3vpn, vpls; did you mean vpls?`},
		{Operation{Do: "create", VPC: "new", Service: "vpls", Sites: []string{"hq", "hq"}}, `create new: site "hq" is here twice`},
		{Operation{Do: "add", VPC: "acme"}, "add acme: a machine goes to one place; expected host (of a cloud) or site (an enterprise); add for example `host: texas/1`"},
		{Operation{Do: "add", VPC: "acme", Host: "texas/3"}, "add acme texas/3: site texas has 2 hosts; expected one of texas/1, texas/2, illinois/1, illinois/2"},
		{Operation{Do: "add", VPC: "acme", Host: "hq/1"}, "add acme hq/1: site hq is no cloud and has no hosts; expected one of texas/1, texas/2, illinois/1, illinois/2"},
		{Operation{Do: "add", VPC: "acme", Site: "texas"}, "add acme texas: site texas is a cloud, and its machines run on hosts; expected host; such as host: texas/1"},
		{Operation{Do: "add", VPC: "acme", Host: "texas"}, `add acme texas: "texas" is not the host of a cloud as site/number, such as texas/1; did you mean texas/1?`},
		{Operation{Do: "add", VPC: "acme", Host: "texas/1", VM: "db"}, "add acme db texas/1: the VM would be named db, which is the name of a machine of VPC globex at site texas"},
		{Operation{Do: "add", VPC: "acme", Host: "texas/1", VM: "p1"}, "add acme p1 texas/1: the VM would be named p1, which is the name of a p"},
		{Operation{Do: "remove", VM: "acme-hq-ce"}, `remove acme-hq-ce: there is no VM or machine "acme-hq-ce"; expected one of acme-texas-1, acme-texas-2, shop, globex-texas-1, globex-texas-2, db, initech-texas-1, initech-texas-2, acme-hq-1, acme-hq-2, globex-hq-1, globex-hq-2; did you mean acme-hq-1?`},
		{Operation{Do: "replicate", VM: "acme-hq-1", Host: "texas/1"}, "replicate acme-hq-1 texas/1: acme-hq-1 is a machine of an enterprise; expected a VM"},
		{Operation{Do: "move", VM: "shop", Host: "texas/1"}, "move shop texas/1: shop is there already"},
		{Operation{Do: "reserve", Name: "video", VPC: "acme", Between: []string{"shop", "hq"}, Rate: 1}, "reserve acme video shop--hq: reservation video is there already; choose another name, or release it first"},
		{Operation{Do: "reserve", Name: "new", VPC: "acme", Between: []string{"shop"}, Rate: 1}, "reserve acme new shop: the list has one item; expected 2"},
		{Operation{Do: "reserve", Name: "new", VPC: "acme", Between: []string{"shop", "hq"}}, "reserve acme new shop--hq: rate is missing; expected name, between, rate, vpc, path; add for example `rate: 50mbit`"},
		{Operation{Do: "reserve", Name: "new", VPC: "acme", Between: []string{"acme-texas-1", "hq"}, Rate: 40e6}, "reserve acme new acme-texas-1--hq: link pe1--p2: 100mbit, of which 90mbit can be reserved and 60mbit are, by video, bulk; 40mbit more would be 10mbit too much"},
		{Operation{Do: "reserve", Name: "new", Between: []string{"texas", "hq"}, Rate: 1}, "reserve new texas--hq: neither texas nor hq is a machine that would tell the VPC; expected vpc; add for example `vpc: acme`"},
		{Operation{Do: "release", Name: "vidio"}, `release vidio: there is no reservation "vidio"; expected one of video, bulk; did you mean video?`},
		{Operation{Do: "fail", Link: []string{"pe1", "pe2"}}, "fail pe1--pe2: no link joins pe1 and pe2; from pe1 links lead to p1, p2, acme-texas-ce, globex-texas-ce, initech-texas-ce"},
		{Operation{Do: "fail", Link: []string{"pe1", "p3"}}, `fail pe1--p3: there is no router "p3"; expected one of pe1, pe2, pe3, p1, p2, rr; did you mean pe3?`},
		{Operation{Do: "restore", Link: []string{"pe1", "p1"}}, "restore pe1--p1: link pe1--p1 is up already"},
	} {
		q, err := p.Do(c.op)
		var typed *OperationError
		if q != nil || !errors.As(err, &typed) || err.Error() != c.want {
			t.Errorf("%+v gives\n%v, want\n%s", c.op, err, c.want)
		}
	}
	same(t, "what is refused changes nothing", operationsPlan(t), p)
	_, err := p.Do(Operation{Do: "reserve", Name: "new", VPC: "acme", Between: []string{"texas", "hq"}, Rate: 40e6})
	if full, ok := errors.AsType[*NoRoomError](err); !ok || full.Room() != 30e6 {
		t.Errorf("no NoRoomError in %v", err)
	}
}

// TestRandomOperations: whatever is done in whatever order, the plan stays
// sound, nothing that is there gets another number, and no earlier plan
// changes.
func TestRandomOperations(t *testing.T) {
	done := 0
	for seed := range uint64(25) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		p := operationsPlan(t)
		if seed%2 == 1 {
			p = homedPlan(t)
		}
		for range 60 {
			op := randomOperation(rnd, p)
			before := p.clone()
			q, err := p.Do(op)
			if !reflect.DeepEqual(before, p) {
				t.Fatalf("seed %d: %s changed the plan it was done to: %s", seed, op, cmp.Diff(before, p, cmpAddrs))
			}
			if err != nil {
				if _, typed := errors.AsType[*OperationError](err); !typed {
					t.Fatalf("seed %d: %s: %v", seed, op, err)
				}
				continue
			}
			done++
			sound(t, q)
			untouched(t, op, p, q)
			if t.Failed() {
				t.Fatalf("seed %d: after %s", seed, op)
			}
			p = q
		}
	}
	if done < 600 {
		t.Errorf("only %d operations were taken", done)
	}
}

func randomOperation(rnd *rand.Rand, p *Plan) Operation {
	pick := func(list ...string) string {
		if len(list) == 0 {
			return "none"
		}
		return list[rnd.IntN(len(list))]
	}
	vpc := func() string { return pick(p.vpcNames()...) }
	site := func() string { return pick("texas", "illinois", "hq", "branch") }
	vm := func() string { return pick(names(p.Machines())...) }
	op := Operation{Do: operations[rnd.IntN(len(operations))].name}
	place := func() {
		if op.Host = pick("texas/1", "texas/2", "illinois/1", "illinois/2", ""); op.Host == "" {
			op.Site = pick("hq", "branch")
		}
	}
	switch op.Do {
	case "create":
		op.VPC, op.Service, op.Sites = fmt.Sprint("v", rnd.IntN(4)), pick(ServiceL3VPN, ServiceVPLS), []string{site()}
		if op.Service == ServiceVPLS && rnd.IntN(2) == 0 {
			subnet := netip.MustParsePrefix("10.9.0.0/27")
			op.Subnet = &subnet
		}
	case "delete":
		op.VPC = vpc()
	case "join", "leave":
		op.VPC, op.Site = vpc(), site()
	case "add":
		op.VPC = vpc()
		place()
	case "remove":
		op.VM = vm()
	case "replicate":
		op.VM, op.Host = vm(), pick("texas/1", "illinois/2")
	case "move":
		op.VM = vm()
		place()
	case "reserve":
		op.Name, op.VPC, op.Rate = fmt.Sprint("r", rnd.IntN(4)), vpc(), Rate(1+rnd.IntN(40))*1e6
		v, _ := p.VPC(op.VPC)
		if v == nil {
			v = &VPCPlan{}
		}
		op.Between = []string{pick(v.ends()...), pick(v.ends()...)}
	case "release":
		op.Name = fmt.Sprint("r", rnd.IntN(4))
	case "fail", "restore":
		l := p.Links[rnd.IntN(5)]
		op.Link = []string{l.A.Node, l.B.Node}
	}
	return op
}

// untouched holds that what is in both plans, and not what the operation is
// about, has the same numbers in both.
func untouched(t *testing.T, op Operation, p, q *Plan) {
	t.Helper()
	links := map[string]Link{}
	for _, l := range p.Links {
		links[l.Name()] = l
	}
	for _, l := range q.Links {
		old, both := links[l.Name()]
		l.Failed, old.Failed = false, false
		if both && l != old && l.A.Node != op.VM {
			t.Errorf("%s is changed:\n%+v\n%+v", l.Name(), old, l)
		}
	}
	for _, n := range q.Nodes {
		old, both := p.Node(n.Name)
		if !both || n.Name == op.VM {
			continue
		}
		was, is := *old, n
		was.Bridges, is.Bridges, was.Routes, is.Routes = nil, nil, nil, nil
		if !reflect.DeepEqual(was, is) {
			t.Errorf("%s is changed:\n%+v\n%+v", n.Name, was, is)
		}
		for _, b := range n.Bridges {
			if i := slices.IndexFunc(old.Bridges, func(o Bridge) bool { return o.Name == b.Name }); i >= 0 && old.Bridges[i] != b {
				t.Errorf("%s: %s is changed", n.Name, b.Name)
			}
		}
	}
	for _, v := range q.VPCs {
		old, both := p.VPC(v.Name)
		if !both {
			continue
		}
		if old.Index != v.Index || old.Subnet != v.Subnet {
			t.Errorf("VPC %s was %d, is %d", v.Name, old.Index, v.Index)
		}
		for _, f := range v.VRFs {
			if was, both := old.VRF(f.PE); both && was != f {
				t.Errorf("VRF %+v was %+v", f, was)
			}
		}
		for _, s := range v.VSIs {
			if was, both := old.VSI(s.PE); both && was != s {
				t.Errorf("VSI %+v was %+v", s, was)
			}
		}
	}
	for _, r := range q.Reservations {
		i := slices.IndexFunc(p.Reservations, func(o ReservationPlan) bool { return o.Name == r.Name })
		if i >= 0 && p.Reservations[i].Index != r.Index {
			t.Errorf("reservation %s was %d, is %d", r.Name, p.Reservations[i].Index, r.Index)
		}
	}
}
