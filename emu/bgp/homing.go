package bgp

import (
	"cmp"
	"net/netip"
	"slices"
)

// A site that a VPLS reaches by two PEs (draft-ietf-bess-vpls-multihoming). Each
// of them says so by a path of its own, whose VE ID is the site's number and
// whose label block is empty: a preference, and by a flag whether it is the one
// that forwards. Of those that can be reached the best is the designated
// forwarder; the other has closed its port to the site. One who takes over opens
// its port when the other has said that it has closed: with both open, the
// site's bridge closes a loop around the backbone.
//
// Whoever learned addresses by way of the one that forwards no longer forgets
// them, and floods until it learns the new way.

// flagForwards is the flag F of a Layer2 Info community: this PE forwards.
const flagForwards = 1 << 5

// homeKey is a site in a VSI.
type homeKey struct {
	VSI string
	ID  int
}

// home is a PE that says it can forward for a site.
type home struct {
	PE       netip.Addr
	Pref     int
	Forwards bool
}

// before orders those that can forward for a site.
func (h home) before(o home) bool {
	return cmp.Or(cmp.Compare(o.Pref, h.Pref), h.PE.Compare(o.PE)) < 0
}

// isHome says that p is about a site at two PEs, and no label block.
func (p vplsPath) isHome() bool { return p.Size == 0 }

// homes are the other PEs that are known to be able to forward, for each site in
// each VSI; those that are down, as found out without BGP, are not.
func (im *importer) homes(paths map[vplsNLRI]vplsPath, up *reach) map[homeKey][]home {
	out := map[homeKey][]home{}
	for i := range im.vsis {
		v := &im.vsis[i]
		for _, p := range paths {
			_, resolved := im.tunnels[p.NextHop]
			if p.isHome() && p.NextHop != im.self && resolved && !up.peers[p.NextHop] && imported(p.RTs, im.vsiImports[i]) {
				k := homeKey{v.Name, p.VEID}
				out[k] = append(out[k], home{p.NextHop, p.Pref, p.Layer2.Flags&flagForwards != 0})
			}
		}
	}
	for _, all := range out {
		slices.SortFunc(all, func(a, b home) int {
			if a.before(b) {
				return -1
			}
			return 1
		})
	}
	return out
}

// cutOff says that no other PE can be reached: whoever forwards for our sites,
// we do not.
func (im *importer) cutOff(up *reach) bool {
	for _, t := range im.tunnels {
		if !up.peers[t.Egress] && slices.ContainsFunc(im.ways(target{Egress: t.Egress}), func(w way) bool { return !up.downDev(w.Dev) && !up.dark[w.Dev] }) {
			return false
		}
	}
	return len(im.tunnels) > 0
}

// standing is what a PE knows of itself when it decides whether it forwards.
type standing struct {
	able    bool // the circuit has a carrier, and others can be reached
	hears   bool // BGP has a session
	settled bool // and others have spoken, or would have
	stale   bool // what it knows of others may be from before it was cut off
	open    bool // it forwards now
}

// forwards decides whether this PE is to forward for a site that others can
// forward for as well.
func (s standing) forwards(self home, others []home) bool {
	switch {
	case !s.able:
		return false
	case !s.hears:
		return s.open // what is not heard is no reason to take over
	case len(others) > 0 && others[0].before(self):
		return false
	case s.open:
		return true
	case s.stale:
		return false
	case slices.ContainsFunc(others, func(o home) bool { return o.Forwards }):
		return false // until it has heard of us and closed
	}
	return s.settled || len(others) > 0
}
