package bgp

import (
	"errors"
	"maps"
	"net/netip"
	"strconv"
	"time"

	"github.com/vpclab/vpclab/emu/event"
)

// converge brings the kernel's VRF routes to what the RIB and the
// configuration want, for the prefixes in scope (nil: all).
func (p *process) converge(scope map[netip.Prefix]bool) error {
	if p.fib == nil || (scope != nil && len(scope) == 0) {
		return nil
	}
	want := p.wantRoutes(scope)
	var errs []error
	if p.cfg.PIC {
		add, move := p.shared.changes(p.choose)
		errs = append(errs, p.setShared(add, move))
	}
	set, del := diffRoutes(p.kernel, want, scope, p.importer.tables())
	errs = append(errs, p.program(set, del))
	p.clearShared()
	err := errors.Join(errs...)
	if err == nil && scope == nil && !p.resync {
		p.tookRoutes()
	}
	return err
}

func (p *process) wantRoutes(scope map[netip.Prefix]bool) map[routeKey]vrfRoute {
	want := map[routeKey]vrfRoute{}
	chosen := map[pair]choice{}
	one := func(prefix netip.Prefix) {
		if p.cfg.PIC {
			p.importer.wantShared(p.rib, prefix, p.shared, chosen, p.reach, want)
		} else {
			p.importer.want(p.rib, prefix, p.reach, want)
		}
	}
	if scope == nil {
		for prefix := range p.rib {
			one(prefix)
		}
	}
	for prefix := range scope {
		one(prefix)
	}
	return want
}

// slice is how many routes are programmed before the loop looks for something
// urgent: a few milliseconds' worth.
const slice = 256

// program sends routes in batches and reports them after the kernel's answers.
// It ends early where something urgent has changed what is wanted; the loop
// then converges anew.
func (p *process) program(set, del []vrfRoute) error {
	var errs []error
	for len(set)+len(del) > 0 {
		d := min(len(del), slice)
		s := min(len(set), slice-d)
		errs = append(errs, p.programSome(set[:s], del[:d]))
		set, del = set[s:], del[d:]
		if p.attend(); p.resync {
			break
		}
	}
	return errors.Join(errs...)
}

func (p *process) programSome(set, del []vrfRoute) error {
	var errs []error
	setErrs, delErrs := p.fib.apply(set, del)
	now := event.Now()
	failed := func(r vrfRoute, err error) {
		errs = append(errs, err)
		p.refuseRoute(now, r, err)
	}
	var removed, programmed []vrfRoute
	for i, r := range del {
		if err := delErrs[i]; err != nil {
			failed(r, err)
			continue
		}
		p.book(r.key(), nil)
		if !p.stands(r) {
			removed = append(removed, r)
		}
	}
	for i, r := range set {
		_, shared := p.shared.have[r.Nexthop]
		switch err := setErrs[i]; {
		case err == nil:
			stood := p.stands(r)
			was, there := p.kernel[r.key()]
			p.book(r.key(), &r)
			switch {
			case r.Metric != 0 && stood:
			case there && was.Nexthop != 0 && r.Nexthop != 0 && p.wayOf(was) == p.wayOf(r): // among others now
			default:
				programmed = append(programmed, r)
			}
		case r.Nexthop != 0 && !shared:
			// The kernel removed its next hop meanwhile, and all are looked at again
			// at once; or it refused that, which has been reported.
			p.tryLater()
		default:
			failed(r, err)
		}
	}
	p.emitRoutes(now, removed, programmed)
	return errors.Join(errs...)
}

// stands says whether the kernel has a route to r's prefix, in use or spare.
func (p *process) stands(r vrfRoute) bool {
	_, use := p.kernel[routeKey{r.Table, r.Prefix, 0}]
	_, spare := p.kernel[routeKey{r.Table, r.Prefix, spareMetric}]
	return use || spare
}

// book notes what the kernel has at k; nil: nothing.
func (p *process) book(k routeKey, r *vrfRoute) {
	if was, there := p.kernel[k]; there {
		p.shared.count(was.Nexthop, -1)
		delete(p.kernel, k)
	}
	if r != nil {
		p.shared.count(r.Nexthop, 1)
		p.kernel[k] = *r
	}
}

func (r vrfRoute) run() netip.Prefix { return r.Prefix }

func (r vrfRoute) alike(o vrfRoute) bool {
	o.Prefix = r.Prefix
	return r == o
}

// emitRoutes reports routes, which are in table order.
func (p *process) emitRoutes(now event.Mono, removed, programmed []vrfRoute) {
	for r, n := range spans(removed, vrfRoute.run, vrfRoute.alike) {
		p.emitAt(now, "route.removed", counted(n, map[string]string{"vrf": r.VRF, "table": strconv.Itoa(r.Table), "prefix": r.Prefix.String()}))
	}
	for r, n := range spans(programmed, vrfRoute.run, vrfRoute.alike) {
		w := p.wayOf(r)
		p.emitAt(now, "route.programmed", counted(n, map[string]string{"vrf": r.VRF, "table": strconv.Itoa(r.Table), "prefix": r.Prefix.String(),
			"egress": r.Way.Egress.String(), "labels": w.stack()}))
	}
}

// wayOf is the way of a route that the kernel has.
func (p *process) wayOf(r vrfRoute) way {
	if r.Nexthop == 0 {
		return r.Way
	}
	return p.shared.have[r.Nexthop].Way
}

// choose is where the routes of a pair lead now.
func (p *process) choose(q pair) choice { return p.importer.choose(q, p.reach) }

// setShared adds and moves shared next hops, and books the kernel's answers.
func (p *process) setShared(add, move []nexthop) error {
	if len(add)+len(move) == 0 {
		return nil
	}
	var errs []error
	addErrs, moveErrs := p.fib.nexthops(add, move, nil)
	for i, n := range add {
		if err := addErrs[i]; err != nil {
			errs = append(errs, err)
			p.emit("bgp.log", map[string]string{"level": "error", "text": err.Error()})
			continue
		}
		p.shared.have[n.ID] = n
	}
	for i, n := range move {
		switch err := moveErrs[i]; {
		case err == nil:
			p.shared.have[n.ID] = n
		case errors.Is(err, errGone):
			p.loseShared(func(h nexthop) bool { return h.ID == n.ID })
		default:
			errs = append(errs, err)
			p.emit("bgp.log", map[string]string{"level": "error", "text": err.Error()})
		}
	}
	return errors.Join(errs...)
}

// moveShared moves the next hops whose way has changed: one message for all
// prefixes of each. since is when what moves them was found out.
func (p *process) moveShared(peer string, since event.Mono) {
	if !p.cfg.PIC || p.fib == nil {
		return
	}
	_, move := p.shared.changes(p.choose)
	if len(move) == 0 {
		return
	}
	_ = p.setShared(nil, move) // reported
	now, prefixes := event.Now(), 0
	for _, n := range move {
		prefixes += p.shared.users[n.ID]
	}
	p.emitAt(now, "pic.switched", map[string]string{"peer": peer, "objects": strconv.Itoa(len(move)), "prefixes": strconv.Itoa(prefixes),
		"took": now.Sub(since).Round(time.Microsecond).String()})
}

// loseShared forgets next hops that the kernel has removed, with the routes
// that referred to them; converging makes them again, where they can be.
func (p *process) loseShared(gone func(nexthop) bool) {
	lost := map[uint32]bool{}
	for id, n := range p.shared.have {
		if gone(n) {
			lost[id] = true
			p.shared.lost(id)
		}
	}
	if len(lost) == 0 {
		return
	}
	maps.DeleteFunc(p.kernel, func(_ routeKey, r vrfRoute) bool { return lost[r.Nexthop] })
	p.resync = true
}

// clearShared removes the next hops that no route refers to.
func (p *process) clearShared() {
	if idle := p.shared.idle(); len(idle) > 0 {
		p.fib.nexthops(nil, nil, idle)
		for _, id := range idle {
			p.shared.lost(id)
		}
	}
}

// onLinkLit follows the carriers, with which shared next hops go.
func (p *process) onLinkLit(m linkLit) {
	p.l2.dirty = true // a site at two PEs may hang on it
	if !m.lit {
		p.reach.dark[m.dev] = true
		p.loseShared(func(n nexthop) bool { return n.Way.Dev == m.dev })
		return
	}
	if p.reach.dark[m.dev] {
		delete(p.reach.dark, m.dev)
		p.resync = p.resync || p.cfg.PIC
	}
}

// attend does what is urgent.
func (p *process) attend() {
	for _, m := range p.inbox.takeUrgent() {
		p.onLiveness(m)
	}
}

// onLiveness acts on what the router's repair process says: shared next hops
// and pseudowires at once, single routes one after the other.
func (p *process) onLiveness(m livenessMsg) {
	var changed bool
	what := "liveness"
	if m.deaf {
		changed = p.reach.deaf()
	} else {
		changed = p.reach.hear(m.state)
		what = m.state.Peer.String()
		if m.state.Dev != "" {
			what = m.state.Dev
		}
	}
	if !changed {
		return
	}
	p.moveShared(what, m.state.At)
	p.convergeVPLS()
	// To look at thousands of routes that are as they should be takes longer than
	// to move them, and the next word may come meanwhile.
	p.resync = p.resync || !p.cfg.PIC || !p.shared.fits(p.choose)
}
