package topo

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func reservation(t testing.TB, p *Plan, name string) ReservationPlan {
	t.Helper()
	i := slices.IndexFunc(p.Reservations, func(r ReservationPlan) bool { return r.Name == name })
	if i < 0 {
		t.Fatalf("there is no reservation %s", name)
	}
	return p.Reservations[i]
}

// TestReservedPathsByEye holds the ways, labels and depths of a file.
func TestReservedPathsByEye(t *testing.T) {
	p := samples()["reservations.vpclab.yml"]
	for _, want := range []struct {
		name, path string
		label      uint32
		stack      []uint32
		depths     []int
	}{
		{"first", "pe1 p1 pe2", 6001, []uint32{10402}, []int{2, 1}}, // by the LSP: the last router but one pops
		{"second", "pe1 p2 pe2", 6003, []uint32{5002}, []int{2, 1}}, // p2 pops the label that says: on to router 2
		{"video", "pe1 p1 pe2 p2 pe3", 6005, []uint32{5002, 5005, 5003}, []int{4, 3, 2, 1}},
		{"near", "pe1 pe3", 6007, nil, []int{1}},
	} {
		r := reservation(t, p, want.name)
		d := r.Directions[0]
		var depths []int
		for _, h := range d.Hops {
			depths = append(depths, h.Depth)
		}
		if strings.Join(d.Path, " ") != want.path || d.Label != want.label || !slices.Equal(d.Stack, want.stack) || !slices.Equal(depths, want.depths) {
			t.Errorf("%s: %+v", want.name, d)
		}
		if back := r.Directions[1]; back.Label != want.label+1 || back.From != d.To || back.To != d.From {
			t.Errorf("%s back: %+v", want.name, back)
		}
	}
	if r := reservation(t, p, "home"); len(r.Directions) != 0 || r.Unmet != "" {
		t.Errorf("a reservation within a PE: %+v", r)
	}
	first, video := reservation(t, p, "second").Directions[0], reservation(t, p, "video").Directions[1]
	if first.Src.String() != "10.1.1.12/32" || first.Dst.String() != "10.1.2.0/24" || first.Table != 6003 || !slices.Equal(first.In, []string{"acme-1"}) {
		t.Errorf("what traffic is meant at pe1: %+v", first)
	}
	if !video.SrcMAC.IsZero() || video.DstMAC != (MAC{2, 0, 2, 1, 0, 2}) || video.Table != 0 || video.Src.IsValid() || !slices.Equal(video.In, []string{"globex-3"}) {
		t.Errorf("what traffic is meant at pe3: %+v", video)
	}
	if p.Adjacencies[0].Node != "pe2" || len(p.Adjacencies) != 7 {
		t.Errorf("adjacencies %+v", p.Adjacencies)
	}
}

func TestReservedPaths(t *testing.T) { eachPlan(t, reservedPaths) }

// reservedPaths follows each reserved packet by labels alone and holds that
// its label is where the lines look for it, that the far PE gets it without
// anything above it, and that no line is promised to more than it has.
func reservedPaths(t *testing.T, p *Plan) {
	ends := coreEndsOf(p)
	taken := map[[2]string]Rate{}
	labels := map[uint32]bool{}
	used := map[Adjacency]bool{}
	for _, r := range p.Reservations {
		if r.Unmet != "" && len(r.Directions) > 0 {
			t.Errorf("%s is unmet and has a way", r.Name)
		}
		if len(r.Directions) == 2 {
			there, back := r.Directions[0].Path, slices.Clone(r.Directions[1].Path)
			slices.Reverse(back)
			if !slices.Equal(there, back) {
				t.Errorf("%s goes %v and comes back %v", r.Name, there, back)
			}
		}
		for _, d := range r.Directions {
			if labels[d.Label] {
				t.Errorf("%s: label %d is another's too", r.Name, d.Label)
			}
			labels[d.Label] = true
			stack := append(slices.Clone(d.Stack), d.Label)
			at, dev := d.From, d.Dev
			for i, h := range d.Hops {
				if h.Node != at || h.Ifname != dev {
					t.Fatalf("%s: hop %d is %+v, the packet leaves %s by %s", r.Name, i, h, at, dev)
				}
				if h.Depth < 1 || h.Depth > len(stack) || stack[h.Depth-1] != d.Label || h.Depth != len(stack) || h.Depth > maxExplicit {
					t.Errorf("%s at %s: label %d is not at depth %d of %v", r.Name, at, d.Label, h.Depth, stack)
				}
				taken[[2]string{h.Node, h.Ifname}] += r.Rate
				at = ends[h.Node+" "+h.Ifname].Node
				if at == "" {
					t.Fatalf("%s: no core link at %s", r.Name, h.Ifname)
				}
				if at != d.Path[i+1] {
					t.Errorf("%s is at %s, the path is %v", r.Name, at, d.Path)
				}
				if at != d.To {
					stack, dev = forward(t, p, at, stack, used)
				}
			}
			if at != d.To || len(stack) != 1 {
				t.Errorf("%s ends at %s with %v", r.Name, at, stack)
			}
		}
	}
	for _, b := range p.Bypasses {
		for i, label := range b.Stack {
			j := slices.IndexFunc(p.Adjacencies, func(a Adjacency) bool { return a.Node == b.Path[i+1] && a.Label == label })
			if j < 0 || p.Adjacencies[j].Next != b.Path[i+2] {
				t.Errorf("bypass %v: %s does not know label %d", b.Path, b.Path[i+1], label)
			} else {
				used[p.Adjacencies[j]] = true
			}
		}
	}
	for _, a := range p.Adjacencies {
		if !used[a] {
			t.Errorf("nothing uses %+v", a)
		}
	}
	for _, l := range p.Links {
		for _, e := range []struct {
			Endpoint
			Rate
		}{{l.A, l.AtoB.Rate}, {l.B, l.BtoA.Rate}} {
			if sum := taken[[2]string{e.Node, e.Ifname}]; e.Rate > 0 && sum > reservable(e.Rate) {
				t.Errorf("%s of %s is promised, more than %s", sum, l.Name(), reservable(e.Rate))
			}
		}
	}
}

// forward is what a router does with a packet: the stack that leaves, and by
// which interface.
func forward(t *testing.T, p *Plan, router string, stack []uint32, used map[Adjacency]bool) ([]uint32, string) {
	t.Helper()
	for _, a := range p.Adjacencies {
		if a.Node == router && a.Label == stack[0] {
			used[a] = true
			return stack[1:], a.Dev
		}
	}
	for _, lsp := range p.LSPs {
		if hop, ok := lsp.Hop(router); ok && hop.InLabel == stack[0] {
			if hop.OutLabel == 0 {
				return stack[1:], hop.Dev
			}
			return append([]uint32{hop.OutLabel}, stack[1:]...), hop.Dev
		}
	}
	t.Fatalf("%s gave out no label %d", router, stack[0])
	return nil, ""
}

// TestRefusalNamesTheLink holds that a refused reservation would fit if it
// were smaller by what the refusal says.
func TestRefusalNamesTheLink(t *testing.T) {
	whole := samples()["reservations.vpclab.yml"]
	ask := ReservationPlan{Name: "more", Index: 6, VPC: "acme", Between: [2]string{"acme-texas-1", "db"}, Rate: 40e6}
	p := *whole
	err := p.reserve(ask)
	var full *NoRoomError
	if !errors.As(error(err), &full) {
		t.Fatalf("%v", err)
	}
	if diff := cmp.Diff(&NoRoomError{"more", 40e6, "pe1--p1", 100e6, 80e6, []string{"first", "video"}}, full); diff != "" {
		t.Error(diff)
	}
	if want := "link pe1--p1: 100mbit, of which 90mbit can be reserved and 80mbit are, by first, video; 40mbit more would be 30mbit too much"; full.Error() != want {
		t.Errorf("%s", full)
	}
	ask.Rate = full.Room()
	if err := p.reserve(ask); err != nil {
		t.Errorf("what has room is refused: %v", err)
	}
	reservedPaths(t, &p)
	if len(whole.Reservations) != 5 {
		t.Error("reserve changed another plan")
	}
}

// TestReservationsOfRandomBackbones compares the admission with a search of
// all paths, on backbones small enough for it.
func TestReservationsOfRandomBackbones(t *testing.T) {
	for seed := range uint64(60) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		p := mustExpand(t, mustParse(t, randomBackbone(rnd)))
		for n := 1; n <= 8; n++ {
			r := ReservationPlan{
				Name: fmt.Sprint("r", n), Index: len(p.Reservations) + 1, VPC: fmt.Sprint("v", n), Between: [2]string{"a", "b"},
				Rate: Rate(1+rnd.IntN(60)) * 1e6,
			}
			best := cheapestByHand(p, r.Rate)
			err := p.reserve(r)
			if (err == nil) != (best >= 0) {
				t.Fatalf("seed %d, %s: %v, a path of cost %d has room", seed, r.Name, err, best)
			}
			if err != nil {
				var full *NoRoomError
				if !errors.As(error(err), &full) || cheapestByHand(p, full.Room()) < 0 || cheapestByHand(p, full.Room()+1) >= 0 {
					t.Fatalf("seed %d, %s: %v is not by how much", seed, r.Name, err)
				}
				continue
			}
			if cost := costOf(p, reservation(t, p, r.Name).Directions[0].Path); cost != best {
				t.Fatalf("seed %d, %s: cost %d, there is a path of cost %d", seed, r.Name, cost, best)
			}
		}
		reservedPaths(t, p)
	}
}

// randomBackbone is two sites with eight VPCs over a ring with chords.
func randomBackbone(rnd *rand.Rand) string {
	var b strings.Builder
	b.WriteString("name: random\ntopology:\n  backbone:\n    pe: [pe1, pe2]\n    p: [p1, p2, p3, p4]\n    links:\n")
	routers := []string{"pe1", "p1", "p2", "pe2", "p3", "p4"}
	for i := range routers {
		for j := i + 1; j < len(routers); j++ {
			if ring := j == i+1 || i == 0 && j == len(routers)-1; ring || rnd.IntN(3) == 0 {
				fmt.Fprintf(&b, "      - {between: [%s, %s], rate: %dmbit, cost: %d, backward: {rate: %dmbit}}\n",
					routers[i], routers[j], 20+rnd.IntN(100), 1+rnd.IntN(4), 20+rnd.IntN(100))
			}
		}
	}
	b.WriteString("  sites: {a: {kind: enterprise, pe: pe1}, b: {kind: enterprise, pe: pe2}}\nvpcs:\n")
	for v := range 8 {
		fmt.Fprintf(&b, "  v%d: {service: %s, sites: [a, b]}\n", v+1, []string{ServiceL3VPN, ServiceVPLS}[v%2])
	}
	return b.String()
}

// cheapestByHand tries all paths from pe1 to pe2: the cost of the cheapest
// with room both ways, or -1.
func cheapestByHand(p *Plan, rate Rate) int {
	left := map[[2]string]Rate{}
	cost := map[[2]string]int{}
	for _, l := range p.Links {
		if l.Core && l.B.Node != reflector {
			left[[2]string{l.A.Node, l.B.Node}], left[[2]string{l.B.Node, l.A.Node}] = reservable(l.AtoB.Rate), reservable(l.BtoA.Rate)
			cost[[2]string{l.A.Node, l.B.Node}], cost[[2]string{l.B.Node, l.A.Node}] = l.Cost, l.Cost
		}
	}
	for _, r := range p.Reservations {
		for _, d := range r.Directions {
			for i := range d.Path[1:] {
				left[[2]string{d.Path[i], d.Path[i+1]}] -= r.Rate
			}
		}
	}
	best := -1
	var walk func(path []string, sum int)
	walk = func(path []string, sum int) {
		at := path[len(path)-1]
		if at == "pe2" {
			if best < 0 || sum < best {
				best = sum
			}
			return
		}
		for _, next := range p.Neighbors(at) {
			there, back := [2]string{at, next}, [2]string{next, at}
			if _, link := cost[there]; link && !slices.Contains(path, next) && left[there] >= rate && left[back] >= rate {
				walk(append(slices.Clone(path), next), sum+cost[there])
			}
		}
	}
	walk([]string{"pe1"}, 0)
	return best
}

func costOf(p *Plan, path []string) int {
	sum := 0
	for i := range path[1:] {
		for _, l := range p.LinksOf(path[i]) {
			if l.Core && (l.A.Node == path[i+1] || l.B.Node == path[i+1]) {
				sum += l.Cost
			}
		}
	}
	return sum
}

// TestReservationsFollowTheirEnds holds that ends which leave need nothing,
// and have the same way again when they are back.
func TestReservationsFollowTheirEnds(t *testing.T) {
	whole := samples()["reservations.vpclab.yml"]
	less := whole.Detach(func(a Attachment) bool { return a.VPC == "globex" && a.Site == "hq" })
	for _, name := range []string{"video", "near"} {
		if r := reservation(t, less, name); len(r.Directions) > 0 || r.Unmet != "" {
			t.Errorf("without its end %s has %+v", name, r)
		}
	}
	reservedPaths(t, less)
	if diff := cmp.Diff(reservation(t, whole, "first"), reservation(t, less, "first"), cmpAddrs); diff != "" {
		t.Errorf("first has changed: %s", diff)
	}
	few := whole.Restrict(func(a Attachment) bool { return a.VPC == "globex" })
	if len(few.Reservations) != 2 || len(few.Adjacencies) != 6 {
		t.Errorf("reservations of other VPCs stay: %+v", few.Reservations)
	}
	frr := whole.WithRouting(RoutingFRR)
	reservedPaths(t, frr)
	if d := reservation(t, frr, "first").Directions[0]; !slices.Equal(d.Stack, []uint32{5002}) {
		t.Errorf("where FRR gives out the labels of LSPs, first is to go by adjacencies: %+v", d)
	}
}

// crowded has two sites at pe1, of which one has a narrow circuit.
const crowded = `
name: crowded
topology:
  backbone:
    pe: [pe1, pe2]
    links: [{between: [pe1, pe2], rate: 100mbit}]
  sites:
    texas: {kind: cloud, pe: pe1, hosts: 1, machines: 1}
    nevada: {kind: cloud, pe: pe1, hosts: 1, machines: 1, access: {rate: 20mbit}}
    utah: {kind: enterprise, pe: pe1}
    hq: {kind: enterprise, pe: pe2}
    branch: {kind: enterprise, pe: pe2}
vpcs:
  lan: {service: vpls, sites: [texas, nevada, utah, hq, branch]}
  net: {service: l3vpn, sites: [texas, nevada, utah, hq, branch]}
`

// TestSitesOfOnePE holds that two reservations of a vpls never mean the same
// frames at a pseudowire, which shows the PEs of sites alone.
func TestSitesOfOnePE(t *testing.T) {
	p := mustExpand(t, mustParse(t, crowded))
	reserve := func(name, vpc, a, b string) Operation {
		return Operation{Do: "reserve", Name: name, VPC: vpc, Between: []string{a, b}, Rate: 1e6}
	}
	p = do(t, p, reserve("one", "lan", "texas", "hq"), reserve("two", "lan", "lan-texas-1", "hq"), reserve("three", "lan", "lan-texas-1", "lan-hq-1"),
		reserve("here", "lan", "texas", "utah"), reserve("near", "lan", "nevada", "utah"), reserve("net", "net", "texas", "hq"), reserve("net-2", "net", "nevada", "hq"))
	for _, op := range []Operation{reserve("more", "lan", "nevada", "hq"), reserve("more", "lan", "branch", "texas"), reserve("more", "lan", "branch", "lan-texas-1")} {
		if _, err := p.Do(op); err == nil || !strings.Contains(err.Error(), "means the same frames") {
			t.Errorf("%s: %v", op, err)
		}
	}
	flows := map[string]string{}
	for _, r := range p.Reservations {
		for _, d := range r.Directions {
			key := fmt.Sprint(r.VPC, d.From, d.To, d.SrcMAC, d.DstMAC, d.Src, d.Dst)
			if other, twice := flows[key]; twice {
				t.Errorf("%s and %s mean the same traffic", r.Name, other)
			}
			flows[key] = r.Name
		}
	}
}

// TestMoveToANarrowCircuit holds that a VM which moves to another site of the
// same PE is asked for room on the circuit there.
func TestMoveToANarrowCircuit(t *testing.T) {
	p := do(t, mustExpand(t, mustParse(t, crowded)),
		Operation{Do: "reserve", Name: "wide", Between: []string{"lan-texas-1", "hq"}, Rate: 50e6},
		Operation{Do: "move", VM: "lan-texas-1", Host: "nevada/1"})
	if r := reservation(t, p, "wide"); len(r.Directions) > 0 || !strings.Contains(r.Unmet, "lan-nevada-ce--pe1: 20mbit") {
		t.Errorf("%+v", r)
	}
	back := do(t, p, Operation{Do: "move", VM: "lan-texas-1", Host: "texas/1"})
	if r := reservation(t, back, "wide"); len(r.Directions) != 2 || r.Unmet != "" || r.VPC != "lan" {
		t.Errorf("it is back, and has %+v", r)
	}
}
