package audit

import (
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/traffic"
	"github.com/vpclab/vpclab/topo"
)

// stations are where an audit listens: every machine, the customer's and the
// provider's end of every circuit, both ends of every backbone link, and the
// routers, and hypervisor hosts with an address, themselves.
func (g *ground) stations() (stations []traffic.Station) {
	for _, m := range g.machines {
		stations = append(stations, traffic.Station{Node: m.Name, Ifname: m.ifname})
	}
	for _, l := range g.plan.Links {
		if l.AC || l.Core {
			stations = append(stations, traffic.Station{Node: l.A.Node, Ifname: l.A.Ifname}, traffic.Station{Node: l.B.Node, Ifname: l.B.Ifname})
		}
	}
	return append(stations, g.computers()...)
}

// computers are the stations of the provider's computers themselves.
func (g *ground) computers() (stations []traffic.Station) {
	for _, n := range slices.Concat(g.plan.Routers(), g.hosts) {
		stations = append(stations, traffic.Station{Node: n.Name})
	}
	return stations
}

// place says what it means that a probe of a VPC is seen somewhere.
type place int

const (
	placeNone  place = iota // nothing
	placeOwn                // within the sender's own VPC
	placeEntry              // at the PE's end of the sender's own circuit
	placeCore               // on the backbone, as its own VPC's
	placeLeak
)

// sighting is what it means that a probe is seen at a station.
type sighting struct {
	place   place
	station traffic.Station
	// Of a leak: the VPC that it came to, or "" for the provider, and where it
	// is, where that is no machine.
	vpc, where string
}

// judge tells what it means that what one VPC sent is seen at a station.
func (g *ground) judge(vpc string, s traffic.Station, frame []byte) sighting {
	seen := sighting{station: s}
	e := g.ends[s.Node+":"+s.Ifname]
	switch {
	case s.Ifname == "":
		g.judgeDelivered(vpc, &seen, frame)
	case e.core:
		g.judgeCore(vpc, &seen, frame)
	case e.vpc != vpc:
		seen.place, seen.vpc = placeLeak, e.vpc
	case g.kinds[s.Node] == topo.KindPE:
		seen.place = placeEntry
	default:
		seen.place = placeOwn
	}
	return seen
}

// judgeDelivered is for packets that a router takes to be for itself. They
// begin with the IP header.
func (g *ground) judgeDelivered(vpc string, seen *sighting, packet []byte) {
	dst, ok := destination(packet)
	if !ok {
		return
	}
	seen.place, seen.where = placeLeak, fmt.Sprintf("delivered to %s, which has %s", seen.station.Node, dst)
	if g.own(vpc, seen.station.Node, dst) {
		seen.place = placeOwn
	}
}

// judgeCore goes by the label at the bottom of the stack: the VPN's,
// pseudowire's or reservation's. Labels that the plan does not know are a
// foreign control plane's, and say nothing.
func (g *ground) judgeCore(vpc string, seen *sighting, frame []byte) {
	stack := outerLabels(frame)
	if len(stack) == 0 {
		seen.place, seen.where = placeLeak, "on the backbone without a label"
		return
	}
	switch owner, known := g.labels[stack[len(stack)-1]]; {
	case !known:
	case owner.vpc == vpc:
		seen.place = placeCore
	case owner.vpc == "":
		seen.place, seen.where = placeLeak, fmt.Sprintf("on the backbone with %s and none of a VPC", labelWords(stack))
	default:
		seen.place, seen.vpc = placeLeak, owner.vpc
		seen.where = fmt.Sprintf("on the backbone with %s (%s)", labelWords(stack), owner.what)
	}
}

// deepest is the sighting that is farthest inside: what comes to a machine has
// passed the CE and the circuit before.
func (g *ground) deepest(all ...sighting) (best sighting) {
	depth := func(s sighting) int {
		switch kind := g.kinds[s.station.Node]; {
		case kind == topo.KindMachine:
			return 5
		case kind == topo.KindCE:
			return 4
		case s.station.Ifname == "":
			return 3
		case !g.ends[s.station.String()].core:
			return 2
		}
		return 1
	}
	for _, s := range all {
		if s.place != placeNone && (best.place == placeNone || depth(s) > depth(best)) {
			best = s
		}
	}
	return best
}

// What became of a probe; bits.
const (
	entered = 1 << iota // the PE, by the sender's circuit
	stayed              // seen in the sender's own VPC
	leaked
	refused // by the sender's own kernel
)

// assault is attacks under way.
type assault struct {
	g        *ground
	e        *traffic.Ether
	stations []traffic.Station
	at       map[string]int // station by node:interface
	sources  []source
	of       [][]probe // by source
	first    []uint32  // number of of[i][0]
	state    []uint8   // by number - first[0]
	leaks    map[uint32][]sighting
	waiting  int // probes of this wave that have not entered yet
	thinned  int // every how many-th was tried
	transit  time.Duration
	frames   [][]byte
	store    []byte
}

// newAssault prepares the attacks, at most about budget of them.
func newAssault(g *ground, e *traffic.Ether, stations []traffic.Station, budget int) *assault {
	a := &assault{g: g, e: e, stations: stations, at: index(stations), sources: g.hostile(), leaks: map[uint32][]sighting{}, transit: g.transit(),
		store: make([]byte, 0, batch*longestLen)}
	all := &collector{}
	for i := range a.sources {
		g.attacks(&a.sources[i], all)
	}
	a.thinned = 1 + all.seen/max(1, budget)
	total := 0
	for i := range a.sources {
		c := &collector{every: a.thinned, seen: i}
		g.attacks(&a.sources[i], c)
		a.of = append(a.of, c.kept)
		a.first = append(a.first, e.Numbers(len(c.kept)))
		total += len(c.kept)
	}
	a.state = make([]uint8, total)
	return a
}

func index(stations []traffic.Station) map[string]int {
	at := make(map[string]int, len(stations))
	for i, s := range stations {
		at[s.Node+":"+s.Ifname] = i
	}
	return at
}

const (
	batch   = 64 // frames of a source in a wave: a system call's worth
	resends = 4  // waves more for what has not entered the PE
)

// run sends everything. In a wave each source sends as many frames as the
// shortest queue on its way to the PE holds for sure, and the next wave waits
// until those that go into a circuit as they are have been seen at its other
// end. Those that a link has lost are sent again.
func (a *assault) run(ctx context.Context) error {
	todo := make([][]int, len(a.sources)) // indexes into of, still to send
	for i, probes := range a.of {
		for k := range probes {
			todo[i] = append(todo[i], k)
		}
	}
	for try := 0; ; try++ {
		if err := a.waves(ctx, todo); err != nil {
			return err
		}
		lost := 0
		for i := range a.sources {
			todo[i] = todo[i][:0]
			for k := range a.of[i] {
				if a.sources[i].wire && *a.flags(i, k)&(entered|refused) == 0 {
					todo[i] = append(todo[i], k)
					lost++
				}
			}
		}
		if lost == 0 || try == resends {
			break
		}
	}
	return a.listen(ctx, a.transit, func() bool { return false })
}

// flags are what became of a probe.
func (a *assault) flags(source, k int) *uint8 {
	return &a.state[a.first[source]-a.first[0]+uint32(k)]
}

func (a *assault) waves(ctx context.Context, todo [][]int) error {
	size := a.sizes()
	for at := make([]int, len(todo)); ; {
		a.waiting = 0
		sent := 0
		for i := range a.sources {
			n := min(size[i], len(todo[i])-at[i])
			if n == 0 {
				continue
			}
			if err := a.send(i, todo[i][at[i]:at[i]+n]); err != nil {
				return err
			}
			at[i] += n
			sent += n
		}
		if sent == 0 {
			return nil
		}
		if err := a.listen(ctx, a.pause(), func() bool { return a.waiting <= 0 }); err != nil {
			return err
		}
	}
}

// pause is how long a wave waits for its frames.
func (a *assault) pause() time.Duration {
	if a.waiting == 0 {
		return 0
	}
	return a.transit
}

// sizes are how many frames each source may have under way.
func (a *assault) sizes() []int {
	sharers := map[*lan]int{}
	for _, s := range a.sources {
		sharers[s.lan]++
	}
	sizes := make([]int, len(a.sources))
	for i, s := range a.sources {
		sizes[i] = batch
		if s.lan.queue > 0 {
			sizes[i] = min(batch, max(1, s.lan.queue/2/sharers[s.lan]))
		}
	}
	return sizes
}

func (a *assault) send(i int, which []int) error {
	s := &a.sources[i]
	a.frames, a.store = a.frames[:0], a.store[:0]
	for _, k := range which {
		at := len(a.store)
		a.store = a.of[i][k].frame(a.e, a.store, a.first[i]+uint32(k))
		a.frames = append(a.frames, a.store[at:])
	}
	station, ok := a.at[s.node+":"+s.ifname]
	if !ok {
		return fmt.Errorf("attack from %s: %s is no station", s.node, s.ifname)
	}
	lost, why, err := a.e.Send(station, a.frames)
	if err != nil {
		return fmt.Errorf("attack from %s: %w", s.node, err)
	}
	if lost == len(which) && why != unix.ENOBUFS { // nothing can be sent here: the link is down
		for _, k := range which {
			*a.flags(i, k) |= refused
		}
		return nil
	}
	if s.wire {
		a.waiting += len(which)
	}
	return nil
}

// listen reads until done or so long.
func (a *assault) listen(ctx context.Context, long time.Duration, done func() bool) error {
	for until := time.Now().Add(long); ; {
		n, err := a.e.Read(max(0, time.Until(until)), a.take)
		if err != nil {
			return fmt.Errorf("attacks: %w", err)
		}
		if err := context.Cause(ctx); err != nil {
			return fmt.Errorf("attacks: %w", err)
		}
		if n == 0 || done() {
			return nil
		}
	}
}

// take books a sighting.
func (a *assault) take(f *traffic.Frame) {
	number, _, ok := a.e.Marked(f.Data)
	if !ok || len(a.first) == 0 || number < a.first[0] || int(number-a.first[0]) >= len(a.state) {
		return
	}
	i, _ := a.find(number)
	flags := &a.state[number-a.first[0]]
	switch seen := a.g.judge(a.sources[i].vpc, a.stations[f.Station], f.Data); seen.place {
	case placeEntry:
		if *flags&entered == 0 && a.sources[i].wire {
			a.waiting--
		}
		*flags |= entered
	case placeOwn:
		*flags |= stayed
	case placeLeak:
		*flags |= leaked
		a.leaks[number] = append(a.leaks[number], seen)
	}
}

// find is the source and the index of a number.
func (a *assault) find(number uint32) (source, k int) {
	lo, hi := 0, len(a.first)
	for hi-lo > 1 {
		if mid := (lo + hi) / 2; a.first[mid] <= number {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo, int(number - a.first[lo])
}
