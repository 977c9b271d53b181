package topo

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// repairing is a recovery with prepared bypasses.
const repairing = "recovery: {detect: [carrier], local: backup-lsp}"

// tangle is a connected backbone of a few routers with random links
// and costs: some trees, some dense, with parts that hang on one link.
func tangle(t testing.TB, r *rand.Rand) *Plan {
	t.Helper()
	var pes, ps []string
	for i := range 2 + r.IntN(4) {
		pes = append(pes, fmt.Sprint("pe", i+1))
	}
	for i := range 1 + r.IntN(7) {
		ps = append(ps, fmt.Sprint("p", i+1))
	}
	all := slices.Concat(pes, ps)
	r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	linked := map[[2]string]bool{}
	var links strings.Builder
	link := func(a, b string) {
		if a == b || linked[[2]string{a, b}] || linked[[2]string{b, a}] {
			return
		}
		linked[[2]string{a, b}] = true
		fmt.Fprintf(&links, "      - {between: [%s, %s], cost: %d}\n", a, b, 1+r.IntN(5))
	}
	for i := 1; i < len(all); i++ {
		link(all[i], all[r.IntN(i)])
	}
	for range r.IntN(2 * len(all)) {
		link(all[r.IntN(len(all))], all[r.IntN(len(all))])
	}
	return mustExpand(t, mustParse(t, fmt.Sprintf(`
name: random
topology:
  backbone:
    pe: [%s]
    p: [%s]
    %s
    links:
%s`, strings.Join(pes, ", "), strings.Join(ps, ", "), repairing, &links)))
}

// failure is what has gone: a link, by the names of its routers, or a router.
type failure struct {
	link   [2]string
	router string
}

func (f failure) String() string {
	if f.router != "" {
		return f.router + " is gone"
	}
	return f.link[0] + "--" + f.link[1] + " is down"
}

func (f failure) takes(a, b string) bool {
	return f.router != "" && (a == f.router || b == f.router) || f.link == [2]string{a, b} || f.link == [2]string{b, a}
}

// walker follows packets through the tables of a plan whose routers have
// noticed a failure next to them and done nothing else.
type walker struct {
	plan   *Plan
	failed failure
	labels map[string]map[uint32]Forwarding
	routes map[string]map[netip.Prefix]Forwarding
	owner  map[netip.Addr]string
	far    map[[2]string]string
}

func newWalker(p *Plan, f failure) *walker {
	w := &walker{plan: p, failed: f, labels: map[string]map[uint32]Forwarding{}, routes: map[string]map[netip.Prefix]Forwarding{}, owner: map[netip.Addr]string{}, far: p.farEnds()}
	for _, n := range p.Routers() {
		w.labels[n.Name], w.routes[n.Name], w.owner[n.Loopback] = map[uint32]Forwarding{}, map[netip.Prefix]Forwarding{}, n.Name
	}
	for _, lsp := range p.LSPs {
		for _, h := range lsp.Hops {
			w.labels[h.Node][h.InLabel] = Forwarding{Via: h.Via, Dev: h.Dev}.labelled(h.OutLabel)
		}
	}
	for _, a := range p.Adjacencies {
		w.labels[a.Node][a.Label] = Forwarding{Via: a.Via, Dev: a.Dev}
	}
	for _, r := range p.CoreRoutes {
		w.routes[r.Node][r.Dst] = Forwarding{Via: r.Via, Dev: r.Dev}
	}
	for _, n := range p.Routers() {
		for _, x := range p.Protections(n.Name) {
			switch {
			case !f.takes(n.Name, w.far[[2]string{n.Name, x.Dev}]):
			case x.In != 0:
				w.labels[n.Name][x.In] = x.By
			default:
				w.routes[n.Name][x.Dst] = x.By
			}
		}
	}
	return w
}

// service is the label of a VPN: its egress takes it.
const service = 999_999

// labelled sends a packet of a VPN from one PE to another and says what became
// of it: nil when it arrived.
func (w *walker) labelled(from, to string) error {
	lsp, _ := w.plan.LSP(to)
	h, ok := lsp.Hop(from)
	if !ok {
		return fmt.Errorf("no LSP begins at %s", from)
	}
	f := Forwarding{Via: h.Via, Dev: h.Dev}.labelled(h.OutLabel)
	if w.failed.takes(from, h.Next) {
		if f, ok = w.plan.Backup(from, to); !ok {
			return fmt.Errorf("%s has no backup", from)
		}
	}
	return w.follow(from, to, f.under(service))
}

// follow sends a packet on until it is at router to, with nothing above the
// service's label if it is labelled.
func (w *walker) follow(at, to string, f Forwarding) error {
	trail, stack := []string{at}, []uint32{}
	for range 64 {
		stack = append(slices.Clone(f.Labels), stack...)
		if len(stack) > maxStack {
			return fmt.Errorf("%v: %d labels", trail, len(stack))
		}
		next := w.far[[2]string{at, f.Dev}]
		if next == "" || w.failed.takes(at, next) {
			return fmt.Errorf("%v: sent to %s, which cannot be reached", trail, next)
		}
		at = next
		trail = append(trail, at)
		ok := false
		switch {
		case len(stack) == 0 && at == to, len(stack) == 1 && stack[0] == service && at == to:
			return nil
		case len(stack) == 0:
			n, _ := w.plan.Node(to)
			f, ok = w.routes[at][host(n.Loopback)]
		default:
			f, ok = w.labels[at][stack[0]]
			stack = stack[1:]
		}
		if !ok {
			return fmt.Errorf("%v: nothing leads on, with %v", trail, stack)
		}
	}
	return fmt.Errorf("%v: it goes round in a circle", trail)
}

// unlabelled sends an IP packet from a router to another's loopback.
func (w *walker) unlabelled(from, to string) error {
	n, _ := w.plan.Node(to)
	f, ok := w.routes[from][host(n.Loopback)]
	if !ok {
		return fmt.Errorf("%s has no route", from)
	}
	return w.follow(from, to, f)
}

// failures are all that can fail alone; the reflector and its link are not
// doubled.
func singleFailures(p *Plan) (all []failure) {
	for _, l := range p.Links {
		if l.Core && l.B.Node != reflector {
			all = append(all, failure{link: [2]string{l.A.Node, l.B.Node}})
		}
	}
	for _, n := range p.OfKind(KindPE, KindP) {
		all = append(all, failure{router: n.Name})
	}
	return all
}

// connects says whether the links that are left lead from one router to
// another; only the reflector is not crossed.
func (f failure) connects(p *Plan, from, to string) bool {
	return connected(p, func(l Link) bool { return f.takes(l.A.Node, l.B.Node) }, from, to)
}

func connected(p *Plan, gone func(Link) bool, from, to string) bool {
	reached := map[string]bool{from: true}
	for again := true; again; {
		again = false
		for _, l := range p.Links {
			a, b := l.A.Node, l.B.Node
			if l.Core && !gone(l) && reached[a] != reached[b] {
				reached[a], reached[b], again = true, true, true
			}
		}
	}
	return reached[to]
}

func TestBypassesCarryAroundEveryFailure(t *testing.T) {
	walks := 0
	for seed := range uint64(150) {
		p := tangle(t, rand.New(rand.NewPCG(seed, 1)))
		for _, f := range singleFailures(p) {
			w := newWalker(p, f)
			for _, from := range p.Routers() {
				for _, to := range p.Routers() {
					if from.Name == to.Name || from.Name == f.router || to.Name == f.router || !f.connects(p, from.Name, to.Name) {
						continue
					}
					walks++
					if err := w.unlabelled(from.Name, to.Name); err != nil {
						t.Fatalf("seed %d, %s: IP from %s to %s: %s", seed, f, from.Name, to.Name, err)
					}
					if from.Kind != KindPE || to.Kind != KindPE {
						continue
					}
					if err := w.labelled(from.Name, to.Name); err != nil {
						t.Fatalf("seed %d, %s: labels from %s to %s: %s", seed, f, from.Name, to.Name, err)
					}
				}
			}
		}
	}
	if walks < 10_000 {
		t.Errorf("only %d packets were sent around a failure", walks)
	}
}

// Every link of a router is protected, or it is said why it is not.
func TestUnprotectedLinksAreNamed(t *testing.T) {
	for seed := range uint64(50) {
		p := tangle(t, rand.New(rand.NewPCG(seed, 2)))
		for _, l := range p.Links {
			if !l.Core || l.B.Node == reflector {
				continue
			}
			lost := failure{link: [2]string{l.A.Node, l.B.Node}}
			bridge := !lost.connects(p, l.A.Node, l.B.Node)
			named := slices.ContainsFunc(p.Unprotected, func(u Unprotected) bool { return lost.takes(u.Node, u.Next) })
			used := slices.ContainsFunc(p.CoreRoutes, func(r CoreRoute) bool {
				return r.Node == l.A.Node && r.Dev == l.A.Ifname || r.Node == l.B.Node && r.Dev == l.B.Ifname
			})
			if used && named != bridge {
				t.Errorf("seed %d: %s: a bridge of the graph: %v; named as unprotected: %v", seed, l.Name(), bridge, named)
			}
		}
	}
}

// ladder is a ring of so many Ps with a PE at the first and the last of them.
func ladder(t *testing.T, n int, more string) *Plan {
	var links strings.Builder
	for i := range n {
		fmt.Fprintf(&links, "{between: [p%d, p%d]}, ", i+1, (i+1)%n+1)
	}
	return mustExpand(t, mustParse(t, fmt.Sprintf(`
name: ladder
topology:
  backbone: {pe: [pe1, pe2], p: [%s], %s, %s links: [%s{between: [pe1, p1]}, {between: [pe2, p%d]}]}
  sites: {east: {kind: enterprise, pe: pe1}, west: {kind: enterprise, pe: pe2}}
vpcs: {wan: {service: vpls, sites: [east, west]}}
`, strings.Join(numbered("p", n), ", "), repairing, more, &links, n)))
}

func TestBypassThatAStackCannotHold(t *testing.T) {
	why := func(p *Plan, from, to string) string {
		for _, u := range p.Unprotected {
			if u.Node == from && u.Next == to {
				return u.Why
			}
		}
		return ""
	}
	for _, c := range []struct {
		ring int
		more string
		want string
	}{
		{8, "", ""}, // 7 links around
		{9, "", "the way around link p1--p9 crosses 8 links, and a label stack reaches over 7"},
		{6, "mtu: 1534,", "the way around link p1--p6 crosses 5 links, and a label stack reaches over 4"}, // 1514 bytes and 5 labels
		{6, "mtu: 1538,", ""},
	} {
		if got := why(ladder(t, c.ring, c.more), "p1", fmt.Sprint("p", c.ring)); got != c.want {
			t.Errorf("a ring of %d, %q: %q, want %q", c.ring, c.more, got, c.want)
		}
	}
	p := ladder(t, 4, "")
	if got := why(p, "pe1", "p1"); got != "no other way leads from pe1 to p1" {
		t.Errorf("a PE on one link: %q", got)
	}
	if got := why(p, "p1", reflector); got != "no other way leads from p1 to rr" {
		t.Errorf("the reflector: %q", got)
	}
}

func TestBypassIsReadByEye(t *testing.T) {
	p := mustExpand(t, mustParse(t, `
name: fish
topology:
  backbone:
    pe: [pe1, pe2]
    p: [p1, p2, p3]
    `+repairing+`
    links:
      - {between: [pe1, p1]}
      - {between: [p1, pe2]}
      - {between: [pe1, p2], cost: 20}
      - {between: [p2, p3]}
      - {between: [p3, pe2], cost: 20}
`))
	// pe1 is router 1, pe2 2, p1 3, p2 4, p3 5.
	by, ok := p.Backup("pe1", "pe2")
	if !ok || fmt.Sprint(by.Labels) != "[5005 5002]" {
		t.Errorf("pe1 has %v for pe2, want to go by p2, p3 (5005) and pe2 (5002) without p1", by)
	}
	found := slices.ContainsFunc(p.Protections("p1"), func(x Protection) bool {
		return x.In == 10302 && fmt.Sprint(x.By.Labels) == "[5004 5005 5002]" // back to pe1, p2, p3, pe2
	})
	if !found {
		t.Errorf("p1 does not protect the link to pe2: %v", p.Protections("p1"))
	}
	if plain := p.WithRecovery(nil); len(plain.Bypasses)+len(plain.Adjacencies)+len(plain.Protections("p1")) > 0 {
		t.Errorf("without recovery there is %v", plain.Bypasses)
	}
}

// Where nothing recovers, a plan is what it was before there was recovery; and
// a plan that does has the same numbers.
func TestRecoveryNumbersNothingAnew(t *testing.T) {
	eachPlan(t, func(t *testing.T, p *Plan) {
		with := p.WithRecovery(&Recovery{Detect: []string{DetectCarrier}, Local: LocalBackup, Reroute: true})
		sound(t, with)
		if p.AllFRR() && len(with.Bypasses) > 0 {
			t.Error("FRR's labels have bypasses of ours")
		}
		same(t, "there and back", p, with.WithRecovery(p.Recovery))
	})
}

func TestReservedPathsHaveBackups(t *testing.T) {
	base := mustExpand(t, mustParse(t, strings.Replace(operationsSource, "    links:\n", "    "+repairing+"\n    links:\n", 1)))
	p := do(t, base, Operation{Do: "reserve", Name: "round", VPC: "globex", Between: []string{"texas", "hq"}, Rate: 1e6, Path: []string{"pe1", "p1", "pe2", "p2", "pe3"}})
	sound(t, p)
	r := p.Reservations[len(p.Reservations)-1]
	d := r.Directions[0]
	by, ok := p.ReservedBackup(d)
	if want := fmt.Sprint(append([]uint32{5002, 5004}, append(slices.Clone(d.Stack), d.Label)...)); !ok || fmt.Sprint(by.Labels) != want {
		t.Errorf("pe1 sends what is reserved by %v, want %s: around to p1, and on as always", by.Labels, want)
	}
	inRoutes := slices.ContainsFunc(p.Protections("pe1"), func(x Protection) bool { return x.Table == d.Table && x.Dst == d.Dst })
	inLabels := slices.ContainsFunc(p.Protections("p1"), func(x Protection) bool { return x.In == adjacencyLabel(2) })
	if !inRoutes || !inLabels {
		t.Errorf("protected at pe1: %v, at p1: %v", inRoutes, inLabels)
	}
	if slices.ContainsFunc(base.Protections("p1"), func(x Protection) bool { return x.In == adjacencyLabel(2) }) {
		t.Error("a bypass is protected by another")
	}
}

func TestPathsAvoidWhatIsLost(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 3))
		p := tangle(t, r)
		var core []Link
		for _, l := range p.Links {
			if l.Core {
				core = append(core, l)
			}
		}
		one, two := core[r.IntN(len(core))], core[r.IntN(len(core))]
		q := p.Without(one.Name(), two.Name())
		sound(t, q)
		lost := func(l Link) bool { return l.Core && (l.Name() == one.Name() || l.Name() == two.Name()) }
		for _, lsp := range q.LSPs {
			for _, n := range q.OfKind(KindPE, KindP) {
				left := connected(q, lost, n.Name, lsp.Egress)
				if q.Reaches(n.Name, lsp.Egress) != left {
					t.Fatalf("seed %d: %s to %s without %s and %s: a way is left: %v", seed, n.Name, lsp.Egress, one.Name(), two.Name(), left)
				}
				if _, err := q.Path(n.Name, lsp.Egress); err != nil {
					t.Fatalf("seed %d: %v: what has no other way keeps its own", seed, err)
				}
			}
		}
		same(t, "lost and found", p, q.Without(one.Name()).Without())
		if p.Without() != p {
			t.Error("nothing is lost, and the plan is another")
		}
	}
}

// What operations do to a lab does not depend on what is lost meanwhile: when it
// is found again the plan is what it would have been. (Reservations that come
// meanwhile find their ways among those that are left, so there are none here.)
func TestOperationsWhileLinksAreLost(t *testing.T) {
	source, _, _ := strings.Cut(operationsSource, "reservations:")
	done := 0
	for seed := range uint64(10) {
		rnd := rand.New(rand.NewPCG(seed, 4))
		p := mustExpand(t, mustParse(t, strings.NewReplacer(
			"hq: {kind: enterprise, pe: pe3,", "hq: {kind: enterprise, pe: pe3, backup-pe: pe2,",
			"    links:\n", "    "+repairing+"\n    links:\n").Replace(source)))
		var core []string
		for _, l := range p.Links {
			if l.Core {
				core = append(core, l.Name())
			}
		}
		lost := p
		for range 30 {
			lost = lost.Without(core[rnd.IntN(len(core))], core[rnd.IntN(len(core))])
			op := randomOperation(rnd, p)
			if op.Do == "reserve" {
				continue
			}
			q, err := p.Do(op)
			r, errLost := lost.Do(op)
			if (err == nil) != (errLost == nil) {
				t.Fatalf("seed %d: %s: %v, and while links are lost: %v", seed, op, err, errLost)
			}
			if err != nil {
				continue
			}
			done++
			sound(t, r)
			same(t, fmt.Sprintf("seed %d: %s while links are lost", seed, op), q, r.Without())
			if t.Failed() {
				return
			}
			p, lost = q, r
		}
	}
	if done < 100 {
		t.Errorf("only %d operations were done", done)
	}
}
