package bgp

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/vpclab/vpclab/emu/event"
)

// homingState is what the loop knows of sites at two PEs.
type homingState struct {
	open map[string]bool    // ports by which we forward, or not; others have to be set
	site map[string]homeKey // of each port
	// forwards are the other PEs that forward for a site, as heard last.
	forwards map[homeKey][]netip.Addr
	met      map[homeKey]bool // sites of which another PE has spoken in this session
	since    event.Mono       // when BGP got a session; 0: it has none
	cut      event.Mono       // when we were cut off; 0: we are not
	stale    event.Mono       // until when what is known of others may be old
}

func newHomingState() homingState {
	return homingState{open: map[string]bool{}, site: map[string]homeKey{}, forwards: map[homeKey][]netip.Addr{}, met: map[homeKey]bool{}}
}

// homingWait is how long who hears nobody else waits until it forwards: others
// may begin at the same time (as with EVPN, RFC 7432 section 8.5).
const homingWait = 3 * time.Second

// staleWait is how long who was cut off waits, besides as long as that was, until
// it takes over by what it knows: TCP's first timeout is 200 ms, and a way there.
const staleWait = 500 * time.Millisecond

// gate is a change of a port to a site: what it is to be. A port that closes
// forgets the addresses behind it.
type gate struct {
	port string
	open bool
}

// convergeHomes decides for which sites we forward, sets the ports and says so,
// and forgets what was learned by way of PEs that forward no longer. An opening
// is said after it is done, and so is a closing.
func (p *process) convergeHomes() error {
	if p.fib == nil || p.daemon == nil {
		return nil
	}
	now := event.Now()
	homes := p.importer.homes(p.l2.paths, p.reach)
	here := p.standing(now)
	for k := range homes {
		p.homing.met[k] = true
	}
	var gates []gate
	known := map[string]bool{}
	for i := range p.importer.vsis {
		v := &p.importer.vsis[i]
		for _, h := range v.Homed {
			was, set := p.homing.open[h.Port]
			known[h.Port] = true
			s := here
			s.open, s.able = was, s.able && !p.reach.dark[h.Port]
			k := homeKey{v.Name, h.ID}
			s.settled = s.settled || p.homing.met[k]
			g := gate{h.Port, s.forwards(home{PE: p.importer.self, Pref: h.Preference}, homes[k])}
			p.homing.site[h.Port] = k
			if !set || g.open != was {
				gates = append(gates, g)
			}
		}
	}
	for port, open := range p.homing.open {
		if !known[port] && open {
			gates = append(gates, gate{port, false}) // nobody decides about it any more
		}
	}
	if len(known)+len(homes)+len(p.homing.forwards)+len(p.homing.open) == 0 {
		return nil
	}
	err := p.setGates(gates, p.forgotten(homes))
	for port, open := range p.homing.open {
		if known[port] {
			continue
		}
		if open { // the port could not be closed, since it is gone
			p.emit("port.closed", p.portAttr(port))
		}
		delete(p.homing.open, port)
		delete(p.homing.site, port)
	}
	return errors.Join(err, p.setVPLSExports(p.cfg.vplsExports(p.reach, p.homing.open)))
}

// setGates sends one batch and books the kernel's answers.
func (p *process) setGates(gates []gate, forget map[uint32]netip.Addr) error {
	if len(gates)+len(forget) == 0 {
		return nil
	}
	errs := p.fib.gates(gates, slices.Sorted(maps.Keys(forget)))
	done := event.Now()
	for i, g := range gates {
		attr := p.portAttr(g.port)
		if err := errs[i]; err != nil {
			attr["error"] = err.Error()
			p.emitAt(done, "port.failed", attr)
			p.retry()
			continue
		}
		p.homing.open[g.port] = g.open
		kind := "port.closed"
		if g.open {
			kind = "port.opened"
		}
		p.emitAt(done, kind, attr)
	}
	for port, egress := range forget {
		p.emitAt(done, "mac.flushed", map[string]string{"dev": pseudowire{In: port}.port(), "egress": egress.String()})
	}
	return errors.Join(errs...)
}

func (p *process) portAttr(port string) map[string]string {
	k := p.homing.site[port]
	return map[string]string{"vsi": k.VSI, "site": strconv.Itoa(k.ID), "dev": port}
}

// standing is what holds for all sites here. It has the loop look again when
// time alone changes it.
func (p *process) standing(now event.Mono) standing {
	h := &p.homing
	switch cut := p.importer.cutOff(p.reach); {
	case cut && h.cut == 0:
		h.cut = now
	case !cut && h.cut != 0:
		// What others said meanwhile is sent again by TCP after at most as long
		// as it could not be, and its first timeout.
		h.stale = now + event.Mono(staleWait+now.Sub(h.cut))
		h.cut = 0
	}
	s := standing{able: h.cut == 0, hears: h.since != 0, settled: h.since != 0 && now >= h.since+event.Mono(homingWait), stale: now < h.stale}
	if len(p.importer.vsis) > 0 {
		if s.stale {
			p.lookAgain(h.stale.Sub(now))
		}
		if s.hears && !s.settled {
			p.lookAgain(h.since.Sub(now) + homingWait)
		}
	}
	return s
}

// lookAgain has VPLS converged after a while.
func (p *process) lookAgain(after time.Duration) {
	time.AfterFunc(after, func() { p.inbox.put(lookAgain{}) })
}

// lookAgain is posted when time alone may have changed what is wanted.
type lookAgain struct{}

// forgotten are the ports of pseudowires behind which addresses of a site were
// learned for which the PE at the other end forwards no longer.
func (p *process) forgotten(homes map[homeKey][]home) map[uint32]netip.Addr {
	out := map[uint32]netip.Addr{}
	now := map[homeKey][]netip.Addr{}
	for k, all := range homes {
		for _, h := range all {
			if h.Forwards {
				now[k] = append(now[k], h.PE)
			}
		}
	}
	for k, was := range p.homing.forwards {
		for _, pe := range was {
			if slices.Contains(now[k], pe) {
				continue
			}
			for _, w := range p.l2.wired.pws {
				if w.VSI == k.VSI && w.Egress == pe {
					out[w.In] = pe
				}
			}
		}
	}
	p.homing.forwards = now
	return out
}

// hearing follows whether BGP has a session.
func (p *process) hearing() {
	switch hears := p.daemon.anyEstablished(); {
	case hears && p.homing.since == 0:
		p.homing.since = event.Now()
	case !hears:
		p.homing.since = 0
		clear(p.homing.met)
	}
	p.l2.dirty = true
}

// doubtPort has a port set again that was made anew, or whose carrier changed.
func (p *process) doubtPort(dev string) {
	for i := range p.importer.vsis {
		for _, h := range p.importer.vsis[i].Homed {
			if h.Port == dev || dev == "" {
				delete(p.homing.open, h.Port)
				p.l2.dirty = true
			}
		}
	}
}

// closeAll closes the ports to sites that others can forward for.
func (p *process) closeAll() error {
	var gates []gate
	for _, port := range slices.Sorted(maps.Keys(p.homing.open)) {
		if p.homing.open[port] {
			gates = append(gates, gate{port, false})
		}
	}
	if len(gates) == 0 {
		return nil
	}
	return p.setGates(gates, nil)
}
