package fidelity

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/vpclab/vpclab/emu/traffic"
	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/topo"
)

const (
	graphSeed  = 5 // of all graphs: another calibration has the same
	pathBar    = 0.1
	pathHosts  = 6
	leastDelay = 100 * time.Microsecond
	mostDelay  = 10 * time.Millisecond
	pingPace   = 2 * time.Millisecond
	pingWait   = time.Second
)

// graph is a random network: a tree of routers and half as many links more,
// and hosts at some of them, each by a link that takes no time.
type graph struct {
	routers int
	links   []hop
	hosts   []int // the router of each
}

// hop is a link of a graph.
type hop struct {
	a, b  int
	delay time.Duration // one way
}

func randomGraph(routers, hosts int, seed uint64) *graph {
	rnd := rand.New(rand.NewPCG(seed, uint64(routers)))
	g := &graph{routers: routers}
	joined := map[[2]int]bool{}
	join := func(a, b int) {
		if a == b || joined[[2]int{min(a, b), max(a, b)}] {
			return
		}
		joined[[2]int{min(a, b), max(a, b)}] = true
		const step = 10 * time.Microsecond
		d := leastDelay + step*time.Duration(rnd.Int64N(int64((mostDelay-leastDelay)/step)+1))
		g.links = append(g.links, hop{a, b, d})
	}
	for i := 1; i < routers; i++ {
		join(i, rnd.IntN(i))
	}
	for range routers / 2 {
		join(rnd.IntN(routers), rnd.IntN(routers))
	}
	g.hosts = append(g.hosts, rnd.Perm(routers)[:hosts]...)
	return g
}

// towards are, for each router, the link by which it reaches a router soonest,
// -1 at that one itself, and how long that takes (Dijkstra 1959).
func (g *graph) towards(to int) (by []int, took []time.Duration) {
	by, took = make([]int, g.routers), make([]time.Duration, g.routers)
	at := make([][]int, g.routers)
	for i, l := range g.links {
		at[l.a] = append(at[l.a], i)
		at[l.b] = append(at[l.b], i)
	}
	for i := range took {
		by[i], took[i] = -1, math.MaxInt64
	}
	took[to] = 0
	for q := (distances{{to, 0}}); len(q) > 0; {
		next := heap.Pop(&q).(distance)
		if next.took > took[next.router] {
			continue
		}
		for _, i := range at[next.router] {
			l := g.links[i]
			other := l.a + l.b - next.router
			if d := next.took + l.delay; d < took[other] {
				by[other], took[other] = i, d
				heap.Push(&q, distance{other, d})
			}
		}
	}
	return by, took
}

type distance struct {
	router int
	took   time.Duration
}

type distances []distance

func (d distances) Len() int           { return len(d) }
func (d distances) Less(i, j int) bool { return d[i].took < d[j].took }
func (d distances) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }
func (d *distances) Push(x any)        { *d = append(*d, x.(distance)) }
func (d *distances) Pop() any {
	last := (*d)[len(*d)-1]
	*d = (*d)[:len(*d)-1]
	return last
}

func routerNode(i int) string { return fmt.Sprintf("r%d", i+1) }

func hostNode(i int) string { return fmt.Sprintf("h%d", i+1) }

// ends of link i, 172.16.0.0 + 4i and on.
func linkEnds(i int) [2]topo.Prefix {
	n := 172<<24 | 16<<16 | i<<2
	at := func(k int) topo.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(k >> 24), byte(k >> 16), byte(k >> 8), byte(k)}), 30)
	}
	return [2]topo.Prefix{at(n + 1), at(n + 2)}
}

// plan makes the graph a lab; without slow its links take no time.
func (g *graph) plan(slow bool) (*topo.Plan, error) {
	sc := &topo.Scenario{Name: labName}
	routes := make([][]topo.PlainRoute, g.routers)
	for h, router := range g.hosts {
		by, _ := g.towards(router)
		for r, i := range by {
			if i < 0 {
				continue
			}
			ends, l := linkEnds(i), g.links[i]
			via := ends[1].Addr()
			if l.b == r {
				via = ends[0].Addr()
			}
			routes[r] = append(routes[r], topo.PlainRoute{To: netip.PrefixFrom(g.addr(h), 32), Via: via})
		}
	}
	for r := range g.routers {
		sc.Topology.Nodes = append(sc.Topology.Nodes, topo.Entry[topo.Plain]{Name: routerNode(r), Value: topo.Plain{Forward: true, Routes: routes[r]}})
	}
	link := func(i int, a, b string, d time.Duration) {
		ends := linkEnds(i)
		l := topo.PlainLink{Endpoints: []string{fmt.Sprintf("%s:l%d", a, i), fmt.Sprintf("%s:l%d", b, i)}, IPv4: ends[:]}
		if slow {
			l.Delay = topo.Duration(d)
		}
		sc.Topology.Links = append(sc.Topology.Links, l)
	}
	for i, l := range g.links {
		link(i, routerNode(l.a), routerNode(l.b), l.delay)
	}
	for h, r := range g.hosts {
		i := len(g.links) + h
		all := topo.PlainRoute{To: netip.MustParsePrefix("0.0.0.0/0"), Via: linkEnds(i)[0].Addr()}
		sc.Topology.Nodes = append(sc.Topology.Nodes, topo.Entry[topo.Plain]{Name: hostNode(h), Value: topo.Plain{Routes: []topo.PlainRoute{all}}})
		link(i, routerNode(r), hostNode(h), 0)
	}
	plan, err := topo.Expand(sc)
	if err != nil {
		return nil, fmt.Errorf("plan a graph of %d routers: %w", g.routers, err)
	}
	return plan, nil
}

// addr of a host.
func (g *graph) addr(h int) netip.Addr { return linkEnds(len(g.links) + h)[1].Addr() }

// hostIf is the interface of a host.
func (g *graph) hostIf(h int) string { return fmt.Sprintf("l%d", len(g.links)+h) }

// paths is F5: round trips through graphs against the sum of their links.
func (r *run) paths(ctx context.Context) error {
	sizes := []int{20, 50, 200}
	if r.Quick {
		sizes = []int{20}
	}
	for _, n := range sizes {
		r.say("F5", nil, fmt.Sprintf("%d routers", n))
		out, err := r.path(ctx, randomGraph(n, pathHosts, graphSeed))
		if err != nil {
			return fmt.Errorf("F5, %d routers: %w", n, err)
		}
		r.add(out)
	}
	return nil
}

func (r *run) path(ctx context.Context, g *graph) (out metrics.Calibrated, err error) {
	rounds := 11
	if r.Quick {
		rounds = 5
	}
	base, err := r.trips(ctx, g, false, rounds)
	if err != nil {
		return out, fmt.Errorf("without delays: %w", err)
	}
	slow, err := r.trips(ctx, g, true, rounds)
	if err != nil {
		return out, err
	}
	return judgePaths(g, base, slow), nil
}

// trips builds the graph and measures the round trips between all hosts, in
// ms: by the pair, those that came back.
func (r *run) trips(ctx context.Context, g *graph, slow bool, rounds int) ([][]float64, error) {
	plan, err := g.plan(slow)
	if err != nil {
		return nil, err
	}
	if _, err := r.lab.Apply(ctx, plan); err != nil {
		return nil, err
	}
	p := &pings{}
	defer p.close()
	for a := range g.hosts {
		if err := p.from(r.lab.Fabric().Do, hostNode(a), g.hostIf(a)); err != nil {
			return nil, err
		}
		for b := range g.hosts {
			if a != b {
				p.pair(a, g.addr(b))
			}
		}
	}
	if err := p.greet(ctx); err != nil {
		return nil, err
	}
	return p.rounds(ctx, rounds, pingPace)
}

// judgePaths holds each pair's median against twice its way, one way.
func judgePaths(g *graph, base, slow [][]float64) metrics.Calibrated {
	out := metrics.Calibrated{Test: "F5", System: systemVPCLab, What: "round trip against the sum of links", Set: fmt.Sprintf("%d routers, %d links, %v to %v", g.routers, len(g.links), leastDelay, mostDelay), Unit: "ms², mean square"}
	var bases, errs, all []float64
	k, lost := 0, 0
	for a := range g.hosts {
		_, took := g.towards(g.hosts[a])
		for b := range g.hosts {
			if a == b {
				continue
			}
			want := 2 * float64(took[g.hosts[b]]) / 1e6
			if len(base[k]) == 0 || len(slow[k]) == 0 {
				lost++
			} else {
				bases = append(bases, median(base[k]))
				errs = append(errs, median(slow[k])-want)
				for _, t := range slow[k] {
					all = append(all, t-want)
				}
			}
			k++
		}
	}
	out.N = len(errs)
	if lost > 0 {
		out.Grade, out.Note = metrics.FidelityVoid, fmt.Sprintf("%d pairs do not reach each other", lost)
		return out
	}
	zero := meanSquare(bases)
	out.Error, out.Bar = meanSquare(errs), pathBar+zero
	s := sorted(errs)
	out.Measured = fmt.Sprintf("off by %+.3f ms median, %+.3f at most; %.2g ms² without delays", quantile(s, 0.5), s[len(s)-1], zero)
	out.Values = map[string]float64{"mse_ms2": out.Error, "base_mse_ms2": zero, "mse_all_ms2": meanSquare(all), "median_error_ms": quantile(s, 0.5), "max_error_ms": s[len(s)-1], "probes": float64(len(all))}
	return out.Judge()
}

// pings are echo requests between nodes, timed where they leave the sender's
// interface and where the answer comes to it.
type pings struct {
	guns  []*gun
	taps  []*tap
	pairs []pinged
}

type pinged struct {
	gun int
	to  netip.Addr
}

func (p *pings) from(enter traffic.Enter, node, ifname string) error {
	t, err := openTap(enter, node, ifname, 4096)
	if err != nil {
		return err
	}
	p.taps = append(p.taps, t)
	g, err := openPinger(enter, node)
	if err != nil {
		return err
	}
	p.guns = append(p.guns, g)
	return nil
}

func (p *pings) pair(gun int, to netip.Addr) { p.pairs = append(p.pairs, pinged{gun, to}) }

func (p *pings) close() {
	closeTaps(p.taps)
	for _, g := range p.guns {
		g.close()
	}
}

// greet pings until every pair has answered once, so that all neighbours know
// each other.
func (p *pings) greet(ctx context.Context) error {
	for until := time.Now().Add(2 * greetLimit); ; {
		ms, err := p.rounds(ctx, 1, 0)
		if err != nil {
			return err
		}
		silent := 0
		for _, m := range ms {
			if len(m) == 0 {
				silent++
			}
		}
		if silent == 0 {
			return nil
		}
		if time.Now().After(until) {
			return fmt.Errorf("%d of %d pairs do not answer after %v", silent, len(p.pairs), 2*greetLimit)
		}
	}
}

// rounds pings every pair so often, one after the other, and gives the round
// trips of each in ms.
func (p *pings) rounds(ctx context.Context, n int, pace time.Duration) ([][]float64, error) {
	for _, t := range p.taps {
		t.forget()
	}
	total := n * len(p.pairs)
	asked, answered := make([]int64, total), make([]int64, total)
	came := 0
	see := func(_ int, f *frame) {
		s, ok := parse(f.Data)
		switch {
		case !ok || !s.icmp || int(s.number) >= total:
		case f.Out && s.echo == echoAsk:
			asked[s.number] = f.At
		case !f.Out && s.echo == echoReply && answered[s.number] == 0:
			answered[s.number] = f.At
			came++
		}
	}
	ticker := time.NewTicker(max(pace, time.Nanosecond))
	defer ticker.Stop()
	for i := range total {
		if pace > 0 {
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
		to := p.pairs[i%len(p.pairs)]
		p.guns[to.gun].load(to.to, uint32(i), icmpHeader+markLen)
		if err := p.guns[to.gun].fire(); err != nil {
			return nil, err
		}
	}
	if err := await(ctx, pingWait, p.taps, see, func() bool { return came == total }); err != nil && !errors.Is(err, errLate) {
		return nil, err
	}
	ms := make([][]float64, len(p.pairs))
	for i, at := range answered {
		if at != 0 && asked[i] != 0 {
			ms[i%len(ms)] = append(ms[i%len(ms)], float64(at-asked[i])/1e6)
		}
	}
	return ms, nil
}
