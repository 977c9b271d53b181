package bgp

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/vpclab/vpclab/emu/fabric/rtnl"
)

// Prefix independent convergence (draft-ietf-rtgwg-bgp-pic). All prefixes of
// the lab's VRFs that have the same best and second path share two routes' ways:
//
//	10.0.2.0/24              nhid 1048576 ──▶ next hop 1048576: the way in use
//	10.0.2.0/24 metric 4096  nhid 1048577 ──▶ next hop 1048577: the spare, by another link
//
// What is found out by packets that are missed (a PE or a link that is down and
// has a carrier) moves the way in use: one message. A link that loses its
// carrier takes the kernel by itself off the table: it marks all routes of the
// next hop as dead in one stroke, and lookups fall to the spare, before any
// process has heard of it. Both cost the same for one prefix and for thousands.

// spareMetric is that of the routes behind those in use.
const spareMetric = 4096

// pair is what prefixes have in common that share a next hop: the best path and
// the second, whose Egress is zero where there is none.
type pair struct{ best, second target }

// nexthop is a shared next hop. It is comparable: a changed one is moved.
type nexthop struct {
	ID  uint32
	Way way
}

// choice is where the routes of a pair lead now; a way without a device is not
// there.
type choice struct{ use, spare way }

func (w way) isZero() bool { return w.Dev == "" }

// choose picks the way in use, which is the first that nobody says is down, and
// the spare, which is the first by another link. A spare that cannot be by
// another link for a while repeats the way in use, and where the kernel has
// taken the way in use off the table it stays off as long as there is a spare:
// each of the two goes and comes by one message a prefix.
func (im *importer) choose(p pair, up *reach) (c choice) {
	all := append(im.ways(p.best), im.ways(p.second)...)
	alive := slices.DeleteFunc(slices.Clone(all), func(w way) bool {
		return up.peers[w.Egress] || up.silent[w.Dev] && !up.dark[w.Dev]
	})
	if len(alive) == 0 {
		alive = all // nothing is better: BGP decides
	}
	lit := func(w way) bool { return !up.dark[w.Dev] }
	apart := func(w way) bool { return lit(w) && w.Dev != alive[0].Dev }
	if i := slices.IndexFunc(alive, apart); i >= 0 {
		c.spare = alive[i]
	}
	switch {
	case lit(alive[0]):
		c.use = alive[0]
		if c.spare.isZero() && slices.ContainsFunc(all, apart) {
			c.spare = c.use
		}
	case c.spare.isZero():
		if i := slices.IndexFunc(all, lit); i >= 0 {
			c.use = all[i]
		}
	}
	return c
}

// nexthops are the shared next hops of a speaker.
type nexthops struct {
	slots map[pair]uint32    // number of each pair
	taken map[uint32]bool    // numbers in use
	have  map[uint32]nexthop // what the kernel acknowledged, by ID
	users map[uint32]int     // routes of the kernel that refer to each ID
}

func newNexthops() *nexthops {
	return &nexthops{slots: map[pair]uint32{}, taken: map[uint32]bool{}, have: map[uint32]nexthop{}, users: map[uint32]int{}}
}

// ids are the numbers of a pair's next hops, in use and spare. A new pair gets
// the lowest that are free.
func (n *nexthops) ids(p pair) (use, spare uint32) {
	slot, ok := n.slots[p]
	if !ok {
		for n.taken[slot] {
			slot++
		}
		n.slots[p], n.taken[slot] = slot, true
	}
	return rtnl.FirstSpeakerNexthop + 2*slot, rtnl.FirstSpeakerNexthop + 2*slot + 1
}

// count books that one route more, or less, refers to a next hop.
func (n *nexthops) count(id uint32, by int) {
	if id == 0 {
		return
	}
	if n.users[id] += by; n.users[id] <= 0 {
		delete(n.users, id)
	}
}

// lost forgets what the kernel removed.
func (n *nexthops) lost(id uint32) {
	delete(n.have, id)
	delete(n.users, id)
}

// changes are what leads from the next hops that are there to those that
// choose wants: new ones, and those that move. What is not wanted any more
// stays until no route refers to it.
func (n *nexthops) changes(choose func(pair) choice) (add, move []nexthop) {
	for p := range n.slots {
		use, spare := n.ids(p)
		c := choose(p)
		for _, w := range []nexthop{{use, c.use}, {spare, c.spare}} {
			switch h, there := n.have[w.ID]; {
			case w.Way.isZero() || h == w:
			case there:
				move = append(move, w)
			default:
				add = append(add, w)
			}
		}
	}
	slices.SortFunc(add, compareNexthops)
	slices.SortFunc(move, compareNexthops)
	return add, move
}

// fits says whether there is just what choose wants, each by whatever way: then
// no route has to be set.
func (n *nexthops) fits(choose func(pair) choice) bool {
	for p := range n.slots {
		use, spare := n.ids(p)
		c := choose(p)
		_, used := n.have[use]
		_, spared := n.have[spare]
		if used == c.use.isZero() || spared == c.spare.isZero() {
			return false
		}
	}
	return true
}

// idle are next hops that no route refers to; their pairs are forgotten.
func (n *nexthops) idle() (ids []uint32) {
	for p, slot := range n.slots {
		use, spare := n.ids(p)
		if n.users[use]+n.users[spare] == 0 {
			delete(n.slots, p)
			delete(n.taken, slot)
		}
	}
	for id := range n.have {
		if n.users[id] == 0 {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

func compareNexthops(a, b nexthop) int { return cmp.Compare(a.ID, b.ID) }

// wantShared adds to out the routes of prefix in each VRF that should have one,
// by shared next hops.
func (im *importer) wantShared(r rib, prefix netip.Prefix, n *nexthops, chosen map[pair]choice, up *reach, out map[routeKey]vrfRoute) {
	im.each(r, prefix, nil, func(v *VRF, best, second path) {
		p := pair{best.target(), second.target()}
		c, ok := chosen[p]
		if !ok {
			c = im.choose(p, up)
			chosen[p] = c
		}
		use, spare := n.ids(p)
		route := vrfRoute{VRF: v.Name, Table: v.Table, Prefix: prefix, Way: way{Egress: best.NextHop}}
		if !c.use.isZero() {
			route.Nexthop = use
			out[route.key()] = route
		}
		if !c.spare.isZero() {
			route.Metric, route.Nexthop = spareMetric, spare
			out[route.key()] = route
		}
	})
}
