package bgp

import (
	"errors"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/vpclab/vpclab/emu/event"
)

// vplsState is what the loop knows of VPLS.
type vplsState struct {
	exports map[vplsNLRI]vplsExport
	paths   map[vplsNLRI]vplsPath // received
	wired   wiring                // what the kernel acknowledged
	rising  map[uint32]pwKey      // of those, which port does not forward yet, by label
	refused map[pwKey]refusal     // pseudowires that are asked for and are not; already reported
	dirty   bool                  // converge at the end of this round

	retrying bool          // a retryVPLS is under way
	backoff  time.Duration // before the next one
}

func newVPLSState() vplsState {
	return vplsState{exports: map[vplsNLRI]vplsExport{}, paths: map[vplsNLRI]vplsPath{}, wired: newWiring(),
		rising: map[uint32]pwKey{}, refused: map[pwKey]refusal{}}
}

// retryVPLS is posted some time after the kernel refused a pseudowire: what
// it lacks may come without a link event (a filter block).
type retryVPLS struct{}

const (
	firstRetry = 50 * time.Millisecond // doubled up to
	lastRetry  = 5 * time.Second
)

// sweep removes what a killed predecessor left of pseudowires. The others
// withdrew theirs when its session ended, so nothing is lost by it.
func (p *process) sweep(node string) error {
	ports, err := p.fib.sweep()
	if err != nil {
		return err
	}
	p.cfg.Node = node
	for _, dev := range ports {
		p.emit("pw.down", map[string]string{"dev": dev, "reason": "left by a killed speaker"})
	}
	return nil
}

// setVPLSExports converges what this PE says of its VSIs. A changed label
// block is another path: it is announced before the old one is withdrawn, so
// that who finds the same label in both keeps the pseudowire.
func (p *process) setVPLSExports(want map[vplsNLRI]vplsExport) error {
	var errs []error
	withdraw, announce := difference(p.l2.exports, want, compareVPLSExports)
	for _, e := range announce {
		if err := p.daemon.announce(e); err != nil {
			errs = append(errs, err)
			continue
		}
		p.l2.exports[e.vplsNLRI] = e
		if p.daemon.anyEstablished() {
			p.emitVPLSAnnounced(e)
		}
	}
	for _, e := range withdraw {
		if err := p.daemon.withdraw(e); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(p.l2.exports, e.vplsNLRI)
		p.emit("bgp.withdrawn", map[string]string{"vsi": e.VSI, "rd": e.RD, "ve": strconv.Itoa(e.VEID)})
	}
	return errors.Join(errs...)
}

// announcedVPLS reports what a new session is told.
func (p *process) announcedVPLS() {
	_, announce := difference(nil, p.l2.exports, compareVPLSExports)
	for _, e := range announce {
		p.emitVPLSAnnounced(e)
	}
}

func (p *process) emitVPLSAnnounced(e vplsExport) {
	p.emit("bgp.announced", map[string]string{"vsi": e.VSI, "rd": e.RD, "ve": strconv.Itoa(e.VEID),
		"block": e.labelBlock.String(), "mtu": strconv.Itoa(e.MTU), "rt": e.RTs})
}

func (p *process) onVPLSPath(got vplsPath, withdrawn bool) {
	if withdrawn {
		if _, had := p.l2.paths[got.vplsNLRI]; had {
			delete(p.l2.paths, got.vplsNLRI)
			p.l2.dirty = true
			p.emit("bgp.lost", map[string]string{"rd": got.RD, "ve": strconv.Itoa(got.VEID)})
		}
		return
	}
	if got.NextHop == p.daemon.cfg.RouterID {
		return // our own
	}
	p.l2.paths[got.vplsNLRI] = got
	p.l2.dirty = true
	p.emit("bgp.received", map[string]string{"rd": got.RD, "ve": strconv.Itoa(got.VEID), "block": got.labelBlock.String(),
		"mtu": strconv.Itoa(got.Layer2.MTU), "next_hop": got.NextHop.String(), "rts": strings.Join(got.RTs, " ")})
}

// convergeVPLS brings pseudowires to what paths and configuration want.
func (p *process) convergeVPLS() error {
	p.l2.dirty = false
	if p.fib == nil {
		return nil
	}
	want, refused := p.importer.wants(p.l2.paths, p.reach)
	err := p.wire(want)
	for k, r := range refused {
		p.refuse(event.Now(), k, r)
	}
	maps.DeleteFunc(p.l2.refused, func(k pwKey, _ refusal) bool {
		_, still := refused[k]
		_, wanted := want.pws[k]
		return !still && !wanted
	})
	return errors.Join(err, p.convergeHomes())
}

// doubt takes the way of what leaves by dev for unset: the kernel may have
// dropped it with the device, and with the last core interface the filters for
// what comes in. Or dev is a bridge that a pseudowire waits for.
func (s *vplsState) doubt(dev string) {
	for k, w := range s.wired.pws {
		if w.Dev == dev || dev == "" {
			s.wired.pws[k] = uncertainWay(w)
		}
	}
	for k, f := range s.wired.flows {
		if f.Dev == dev || dev == "" {
			f.Dev = ""
			s.wired.flows[k] = f
		}
	}
	s.dirty = true
}

// uncertainWay is w as no configuration wants it, so that its way is set.
func uncertainWay(w pseudowire) pseudowire {
	w.Dev = ""
	return w
}

// uses says that dev is the bridge or the port of a pseudowire.
func (s *vplsState) uses(dev string) bool {
	for _, w := range s.wired.pws {
		if w.VSI == dev || w.port() == dev {
			return true
		}
	}
	return false
}

// auditVPLS compares the ports with the kernel's and has those made again that
// are not in order: somebody else removed them, or their bridge.
func (p *process) auditVPLS() {
	ports, err := p.fib.ports()
	if err != nil {
		p.emit("bgp.log", map[string]string{"level": "error", "text": err.Error()})
		return
	}
	for k, w := range p.l2.wired.pws {
		_, rises := p.l2.rising[w.In]
		is := ports[w.In] // none: no bridge
		switch {
		case is.bridge != w.VSI || !is.forwards && !rises:
			w.MTU = -1 // as no configuration wants it: removed and added
			p.l2.wired.pws[k] = w
		case rises && is.forwards:
			p.onPortUp(portUp{w.In})
		}
	}
	p.l2.dirty = true
}

// refuse reports, once, that a pseudowire is asked for and is not.
func (p *process) refuse(t event.Mono, k pwKey, r refusal) {
	if p.l2.refused[k] == r {
		return
	}
	p.l2.refused[k] = r
	p.emitAt(t, "pw.failed", map[string]string{"vsi": k.VSI, "egress": r.Egress.String(), "ve": strconv.Itoa(k.VE), "error": r.Why})
}

// wire sends one batch and reports each change after the kernel's answer.
func (p *process) wire(want wiring) error {
	if p.fib == nil {
		return nil
	}
	ops := diffWiring(p.l2.wired, want)
	if len(ops) == 0 {
		return nil
	}
	errs := p.fib.wire(ops)
	now := event.Now()
	failed := false
	for i, op := range ops {
		failed = failed || errs[i] != nil
		if op.do == dropFlow || op.do == setFlow {
			p.wiredFlow(now, op, errs[i])
		} else {
			p.wiredPW(now, op, errs[i])
		}
	}
	if failed {
		p.retry()
	} else {
		p.l2.backoff = 0
	}
	return errors.Join(errs...)
}

// retry tries again after a while.
func (p *process) retry() {
	if p.l2.retrying {
		return
	}
	p.l2.retrying = true
	p.l2.backoff = min(max(2*p.l2.backoff, firstRetry), lastRetry)
	time.AfterFunc(p.l2.backoff, func() { p.inbox.put(retryVPLS{}) })
}

// wiredPW books the kernel's answer about a pseudowire.
func (p *process) wiredPW(now event.Mono, op wireOp, err error) {
	w, k := op.pw, op.pw.key()
	switch {
	case err != nil:
		if op.do == routePW { // the port is there: set its way again next time
			p.l2.wired.pws[k] = uncertainWay(w)
		}
		p.refuse(now, k, refusal{w.Egress, err.Error()})
	case op.do == dropPW:
		delete(p.l2.wired.pws, k)
		delete(p.l2.rising, w.In)
		p.emitAt(now, "pw.down", map[string]string{"vsi": w.VSI, "egress": w.Egress.String(), "ve": strconv.Itoa(w.VE), "dev": w.port()})
	default:
		p.l2.wired.pws[k] = w
		delete(p.l2.refused, k)
		if op.do == addPW {
			p.l2.rising[w.In] = k
		}
		if _, rises := p.l2.rising[w.In]; !rises {
			p.emitPWUp(now, w)
		}
	}
}

func (p *process) emitPWUp(t event.Mono, w pseudowire) {
	p.emitAt(t, "pw.up", map[string]string{"vsi": w.VSI, "egress": w.Egress.String(), "ve": strconv.Itoa(w.VE),
		"out": words(w.Labels), "in": strconv.FormatUint(uint64(w.In), 10), "dev": w.port()})
}

// onPortUp is the last step of a pseudowire: its port forwards.
func (p *process) onPortUp(m portUp) {
	k, rises := p.l2.rising[m.label]
	w, there := p.l2.wired.pws[k]
	if !rises || !there {
		return
	}
	delete(p.l2.rising, m.label)
	p.emitPWUp(event.Now(), w)
}

// wiredFlow books the kernel's answer about a flow. One that is refused is not
// there: its frames take the pseudowire's own way.
func (p *process) wiredFlow(now event.Mono, op wireOp, err error) {
	f, k := op.flow, op.flow.key()
	attr := map[string]string{"vsi": f.VSI, "flow": f.Name, "dev": pseudowire{In: f.Port}.port()}
	switch {
	case err != nil:
		if op.do == setFlow {
			delete(p.l2.wired.flows, k)
		}
		attr["error"] = err.Error()
		p.emitAt(now, "flow.failed", attr)
	case op.do == dropFlow:
		delete(p.l2.wired.flows, k)
		p.emitAt(now, "flow.down", attr)
	default:
		p.l2.wired.flows[k] = f
		attr["out"], attr["in"] = words(f.Labels), strconv.FormatUint(uint64(f.In), 10)
		p.emitAt(now, "flow.up", attr)
	}
}
