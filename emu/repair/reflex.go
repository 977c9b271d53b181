package repair

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vpclab/vpclab/emu/bfd"
	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/liveness"
)

// What found something out (liveness.State.By).
const (
	byCarrier  = "carrier"
	byBFD      = "bfd"
	byMultihop = "bfd-multihop"
)

// reflexes are what a router knows of its links and peers, and which of its
// routes have been switched. It is told what happened and says what is to be
// told and done.
type reflexes struct {
	cfg   Config
	links map[string]*link             // by device
	peers map[netip.Addr]*acquaintance // multihop
	// switched are the routes in whose place the prepared ones are.
	switched map[slot]bool
	// left are routes that nobody protects any more and that are still the
	// prepared ones, because the router's own would lead to a dead link: better
	// where it leads than nowhere.
	left []Protection
	news []liveness.State // since they were last taken
}

// link is one link of the router's.
type link struct {
	Link
	carrier bool // as the kernel has its interface
	lost    bool // its BFD session went down and is not up again
	dead    bool // what follows from it, as was last told
}

// acquaintance is a router further away.
type acquaintance struct{ lost bool }

// slot is where a route stands in its table.
type slot struct {
	in     uint32 // a label, or
	table  int
	dst    netip.Prefix
	metric int
}

func (p Protection) slot() slot {
	if p.MPLS != nil {
		return slot{in: p.MPLS.In}
	}
	return slotOf(*p.IP)
}

func slotOf(r fabric.Route) slot { return slot{table: r.Table, dst: r.Dst, metric: r.Metric} }

// by is the device that the prepared route uses.
func (p Protection) by() string {
	if p.MPLSBy != nil {
		return p.MPLSBy.Dev
	}
	return p.IPBy.Dev
}

func newReflexes() *reflexes {
	return &reflexes{links: map[string]*link{}, peers: map[netip.Addr]*acquaintance{}, switched: map[slot]bool{}}
}

// configure takes a new Config. What is known of links and peers that stay is
// kept; what is known of interfaces comes by interface.
func (x *reflexes) configure(cfg Config, now event.Mono) {
	x.cfg = cfg
	links := map[string]*link{}
	for _, l := range cfg.Links {
		k := &link{Link: l, carrier: true}
		if was := x.links[l.Dev]; was != nil && was.Link == l {
			*k = *was
		}
		k.lost = k.lost && cfg.BFD.Interval != 0
		links[l.Dev] = k
	}
	x.links = links
	peers := map[netip.Addr]*acquaintance{}
	for _, m := range cfg.Multihop {
		peers[m.Peer] = &acquaintance{}
		if was := x.peers[m.Peer]; was != nil {
			peers[m.Peer] = was
		}
	}
	x.peers = peers
	kept := map[slot]bool{}
	for _, p := range cfg.Protect {
		if s := p.slot(); x.switched[s] {
			kept[s] = true
		}
	}
	x.switched = kept
	for _, dev := range slices.Sorted(maps.Keys(links)) {
		x.judge(links[dev], byCarrier, now)
	}
}

// device is told what the kernel has of an interface.
func (x *reflexes) device(dev string, carrier bool, at event.Mono) {
	l := x.links[dev]
	if l == nil {
		return
	}
	l.carrier = carrier
	x.judge(l, byCarrier, at)
}

// session is told that a BFD session changed. A peer that ended it on purpose
// has not failed.
func (x *reflexes) session(t bfd.Told) {
	failed := t.From == bfd.Up && t.To == bfd.Down && !t.Admin
	if !failed && t.To != bfd.Up {
		return
	}
	if t.Peer.Multihop() {
		if p := x.peers[t.Peer.Remote]; p != nil && p.lost != failed {
			p.lost = failed
			x.news = append(x.news, liveness.State{At: t.At, Peer: t.Peer.Remote, Up: !failed, By: byMultihop})
		}
		return
	}
	if l := x.links[t.Peer.Dev]; l != nil {
		l.lost = failed
		x.judge(l, byBFD, t.At)
	}
}

// judge draws the conclusion for a link and makes it news if it is.
func (x *reflexes) judge(l *link, by string, at event.Mono) {
	dead := l.lost || x.cfg.Carrier && !l.carrier
	if dead == l.dead {
		return
	}
	l.dead = dead
	x.news = append(x.news, liveness.State{At: at, Dev: l.Dev, Peer: l.Peer, Up: !dead, By: by})
}

// take returns the news since it was last called.
func (x *reflexes) take() []liveness.State {
	n := x.news
	x.news = nil
	return n
}

// all is the state of everything, as for one who has heard nothing yet.
func (x *reflexes) all(now event.Mono) (states []liveness.State) {
	for _, l := range x.links {
		by := byCarrier
		if l.lost {
			by = byBFD
		}
		states = append(states, liveness.State{At: now, Dev: l.Dev, Peer: l.Peer, Up: !l.dead, By: by})
	}
	for addr, p := range x.peers {
		states = append(states, liveness.State{At: now, Peer: addr, Up: !p.lost, By: byMultihop})
	}
	slices.SortFunc(states, func(a, b liveness.State) int { return cmp.Or(cmp.Compare(a.Dev, b.Dev), a.Peer.Compare(b.Peer)) })
	return states
}

// dead says whether a device is a link that is known to be dead.
func (x *reflexes) dead(dev string) bool { return x.links[dev] != nil && x.links[dev].dead }

// change is one route to be written: a Protection's own, or the prepared one.
type change struct {
	Protection
	prepared bool
}

// changes are the routes that are not as the links ask for, and counts them as
// done. A prepared route whose own link is dead would help nobody; then what
// is there stays.
func (x *reflexes) changes() []change { return x.differ(false) }

// assert is changes with the prepared routes that should be there already: a
// change of the lab may have overwritten them.
func (x *reflexes) assert() []change { return x.differ(true) }

func (x *reflexes) differ(again bool) (list []change) {
	x.left = slices.DeleteFunc(x.left, func(p Protection) bool {
		if !x.dead(p.Dev) {
			list = append(list, change{p, false})
		}
		return !x.dead(p.Dev)
	})
	for _, p := range x.cfg.Protect {
		s := p.slot()
		want := x.switched[s]
		switch {
		case !x.dead(p.Dev):
			want = false
		case !x.dead(p.by()):
			want = true
		}
		if want != x.switched[s] || want && again {
			list = append(list, change{p, want})
			x.mark(s, want)
		}
	}
	return list
}

func (x *reflexes) mark(s slot, switched bool) {
	if switched {
		x.switched[s] = true
	} else {
		delete(x.switched, s)
	}
}

// undo are the changes that put all of a router's own routes back.
func (x *reflexes) undo() (list []change) {
	for _, p := range x.cfg.Protect {
		if s := p.slot(); x.switched[s] {
			list = append(list, change{p, false})
			x.mark(s, false)
		}
	}
	for _, p := range x.left {
		list = append(list, change{p, false})
	}
	x.left = nil
	return list
}

// forgotten are the routes that the kernel dropped when an interface was taken
// down, but for those in whose place others are.
func (x *reflexes) forgotten(dev string) (list []fabric.Route) {
	for _, r := range x.cfg.Routes {
		if r.Dev == dev && !x.switched[slotOf(r)] {
			list = append(list, r)
		}
	}
	return list
}

// tables are the routes of a router as its kernel has them.
type tables struct {
	labels map[uint32]fabric.MPLSRoute
	routes map[slot]fabric.Route
}

// prepared says whether the kernel has the prepared route of a Protection.
func (t tables) prepared(p Protection) bool {
	if p.MPLS != nil {
		return t.labels[p.MPLS.In] == *p.MPLSBy && *p.MPLSBy != *p.MPLS
	}
	return t.routes[p.slot()] == *p.IPBy && *p.IPBy != *p.IP
}

// recognize compares the kernel's routes with the Config: those that a
// predecessor switched are switched. Why it did is not known, so that where
// neighbours are asked a link of theirs counts as dead until its neighbour has
// answered. IP routes that are in no table are returned.
func (x *reflexes) recognize(t tables, now event.Mono) (missing []fabric.Route) {
	for _, p := range x.cfg.Protect {
		if !t.prepared(p) {
			continue
		}
		x.mark(p.slot(), true)
		if l := x.links[p.Dev]; l != nil && x.cfg.BFD.Interval != 0 {
			l.lost = true
			x.judge(l, byBFD, now)
		}
	}
	for _, r := range x.cfg.Routes {
		if _, there := t.routes[slotOf(r)]; !there {
			missing = append(missing, r)
		}
	}
	return missing
}

// orphans are the switched routes that the next Config does not protect any
// more, though nobody else has replaced them. Where what was prepared is just
// what is now the router's own, nothing is left behind.
func (x *reflexes) orphans(next Config, t tables) (list []change) {
	stays := map[slot]bool{}
	for _, p := range next.Protect {
		stays[p.slot()] = true
	}
	orphan := func(p Protection) bool { return !stays[p.slot()] && t.prepared(p) && !next.has(p) }
	left := slices.DeleteFunc(x.left, func(p Protection) bool { return !orphan(p) })
	for _, p := range x.cfg.Protect {
		switch {
		case !x.switched[p.slot()] || !orphan(p):
		case x.dead(p.Dev):
			left = append(left, p)
		default:
			list = append(list, change{p, false})
		}
	}
	x.left = left
	return list
}

// has says whether what is prepared is the router's own.
func (c *Config) has(p Protection) bool {
	if p.MPLS != nil {
		return slices.Contains(c.Labels, *p.MPLSBy)
	}
	return slices.Contains(c.Routes, *p.IPBy)
}

func (c change) String() string {
	what := "put back"
	if c.prepared {
		what = "switch"
	}
	if c.MPLS != nil {
		return fmt.Sprintf("%s label %d of %s", what, c.MPLS.In, c.Dev)
	}
	return fmt.Sprintf("%s route %v of %s", what, c.IP.Dst, c.Dev)
}
