package bgp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/event"
)

// RunSpeaker is the body of the hidden verb `vpclab speaker`: a BGP speaker
// in this process and this network namespace, told what to do over conn. It
// returns nil when it was asked to stop or when conn ends, because then the
// parent is gone and nobody would end this process. Routes of the kernel are
// removed on a stop and left alone otherwise, as by a router whose BGP crashed.
func RunSpeaker(ctx context.Context, conn io.ReadWriter) error {
	yieldToOthers()
	return runSpeaker(ctx, conn, openKernelFIB)
}

// yieldToOthers makes this process SCHED_BATCH: it gets its share of the CPU,
// but a message that wakes it does not interrupt the process that sent it. On
// one CPU the reflector then sends what it has to say to all PEs, and each PE
// handles its share at one go, instead of taking turns for every message (a
// fifth of the context switches when a site joins). It is a hint: an error
// changes nothing that matters.
func yieldToOthers() { schedule(unix.SCHED_BATCH) }

// beInTime takes that back where this process is to act at once on what is down:
// others may be busy with thousands of routes.
func beInTime() { schedule(unix.SCHED_NORMAL) }

func schedule(policy uint32) {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	for _, t := range tasks {
		if tid, err := strconv.Atoi(t.Name()); err == nil {
			_ = unix.SchedSetAttr(tid, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: policy}, 0)
		}
	}
}

// process is the speaker's state; one goroutine owns it.
type process struct {
	conn    io.ReadWriter
	inbox   *inbox
	openFIB func(post func(any)) (fib, error)

	cfg      Config // in force; Node is empty before the first
	daemon   *daemon
	fib      fib
	rib      rib
	importer *importer
	exports  map[exportKey]export
	kernel   map[routeKey]vrfRoute // what the kernel acknowledged
	dirty    map[netip.Prefix]bool // prefixes to converge at the end of this round
	resync   bool                  // or all of them
	reach    *reach
	deafen   context.CancelFunc // ends listener; nil: there is none
	listener sync.WaitGroup
	shared   *nexthops
	refused  refusedRoutes
	heard    []news // of BGP, in this round, to be told
	l2       vplsState
	homing   homingState

	out  []byte // lines not yet written
	mono event.Mono
	wall time.Time // at mono: the wall clock costs a system call of its own
}

// Messages of the inbox besides those of the daemon and the log.
type (
	lineMsg  struct{ line []byte }
	closeMsg struct{ err error }
)

func runSpeaker(ctx context.Context, conn io.ReadWriter, openFIB func(post func(any)) (fib, error)) error {
	p := &process{
		conn: conn, inbox: newInbox(), openFIB: openFIB,
		rib: rib{}, importer: newImporter(&Config{}), exports: map[exportKey]export{},
		kernel: map[routeKey]vrfRoute{}, dirty: map[netip.Prefix]bool{}, reach: newReach(), shared: newNexthops(), refused: refusedRoutes{why: map[routeKey]string{}}, l2: newVPLSState(), homing: newHomingState(),
		mono: event.Now(), wall: time.Now(),
	}
	var reader sync.WaitGroup
	reader.Go(func() { readLines(conn, p.inbox.put) })
	err := p.loop(ctx)
	if p.daemon != nil {
		p.daemon.stop()
	}
	p.stopListening()
	if p.fib != nil {
		p.fib.close()
	}
	if c, ok := conn.(io.Closer); ok {
		c.Close() // ends the reader
		reader.Wait()
	}
	return err
}

// readLines posts each line of r, then the end.
func readLines(r io.Reader, post func(any)) {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 64<<10), maxLine)
	for s.Scan() {
		post(lineMsg{append([]byte(nil), s.Bytes()...)})
	}
	post(closeMsg{s.Err()})
}

// loop handles whatever came in, converges once, writes once, and waits.
func (p *process) loop(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.inbox.signal:
		}
		p.attend()
		for _, m := range p.inbox.take() {
			done, err := p.handle(ctx, m)
			if done || err != nil {
				p.flush() // fails where the parent is gone: nobody to tell
				return err
			}
		}
		p.tell()
		if p.l2.dirty {
			p.convergeVPLS()
		}
		for p.resync || len(p.dirty) > 0 {
			scope := p.dirty
			if p.resync {
				scope = nil
			}
			p.dirty, p.resync = map[netip.Prefix]bool{}, false
			p.converge(scope)
		}
		if err := p.flush(); err != nil {
			return nil // the parent is gone
		}
	}
}

// handle does one message; done ends the process in order.
func (p *process) handle(ctx context.Context, m any) (done bool, err error) {
	switch m := m.(type) {
	case lineMsg:
		return p.request(ctx, m.line)
	case closeMsg:
		if m.err != nil {
			return true, fmt.Errorf("speaker: read control channel: %w", m.err)
		}
		return true, nil
	case pathEvent:
		p.onPaths(m)
	case sessionEvent:
		p.onSession(m)
	case handshakeOver:
		if err := p.daemon.onHandshakeOver(m); err != nil {
			p.emit("bgp.log", map[string]string{"level": "error", "text": err.Error()})
		}
	case downReason:
		if addr, err := netip.ParseAddr(m.neighbor); err == nil && p.daemon.peers[addr] != nil {
			p.daemon.peers[addr].reason = m.reason
		}
	case logLine:
		p.emit("bgp.log", map[string]string{"level": m.level, "text": m.text})
	case linkUp:
		p.onLinkUp(m)
	case linkGone:
		p.onLinkGone(m)
	case linkLit:
		p.onLinkLit(m)
	case portUp:
		p.onPortUp(m)
	case retryVPLS:
		p.l2.retrying = false
		p.l2.dirty = true
	case retryRoutes:
		p.refused.retrying = false
		p.resync = true
	case lookAgain:
		p.l2.dirty = true
	}
	return false, nil
}

// request answers one request of the parent.
func (p *process) request(ctx context.Context, line []byte) (done bool, err error) {
	r, err := decodeRequest(line)
	if err != nil {
		if r.ID == 0 {
			return true, fmt.Errorf("speaker: %w", err) // nobody to answer
		}
		p.reply(reply{ID: r.ID, Error: err.Error()})
		return false, nil
	}
	answer := reply{ID: r.ID}
	switch r.Op {
	case opConfigure:
		err = p.configure(ctx, *r.Config)
	case opRIB:
		if p.daemon != nil {
			answer.RIB, err = p.daemon.list(ctx)
		}
	case opReset:
		if p.daemon == nil {
			err = errors.New("it is not configured yet")
		} else {
			err = p.daemon.reset(r.Neighbor)
		}
	case opStop:
		err = p.removeAll()
		done = true
	}
	if err != nil {
		answer.Error = err.Error()
	}
	p.reply(answer)
	return done, nil
}

// configure converges to cfg. What changes for others goes out first: routes
// withdrawn, then announced, then what this router imports.
func (p *process) configure(ctx context.Context, cfg Config) error {
	if p.daemon == nil {
		if err := p.start(ctx, cfg); err != nil {
			return err
		}
	} else if cfg.Identity() != p.cfg.Identity() {
		return fmt.Errorf("speaker %s: node, asn, router id, role, port and timers cannot change: start another speaker", p.cfg.Node)
	}
	var errs []error
	if cfg.Reflector {
		// Before the neighbors: nothing is reflected without a policy.
		errs = append(errs, p.setPolicy(cfg.Policy))
	}
	gone, err := p.daemon.setNeighbors(cfg.Neighbors)
	errs = append(errs, err)
	for _, addr := range gone {
		p.emit("bgp.down", map[string]string{"neighbor": addr.String(), "reason": "neighbor removed"})
	}
	if !cfg.Reflector {
		p.importer = newImporter(&cfg)
		p.reach.told(cfg.Tunnels)
		p.cfg = cfg
		// Before we say anything of a site at two PEs its port is closed, until
		// it is clear who forwards.
		errs = append(errs, p.convergeHomes())
		errs = append(errs, p.setExports(cfg.exports()), p.setVPLSExports(cfg.vplsExports(p.reach, p.homing.open)))
		p.listen(cfg.Liveness)
		p.moveShared("tunnels", event.Now())
		errs = append(errs, p.converge(nil), p.convergeVPLS())
	}
	p.cfg = cfg
	return errors.Join(errs...)
}

// start brings GoBGP up, and at a PE takes over what a killed predecessor
// left in the kernel.
func (p *process) start(ctx context.Context, cfg Config) error {
	if !cfg.Reflector && p.fib == nil {
		f, err := p.openFIB(p.inbox.put)
		if err != nil {
			return fmt.Errorf("speaker %s: %w", cfg.Node, err)
		}
		p.fib = f
		if err := p.sweep(cfg.Node); err != nil { // first: routes go with their next hops
			return fmt.Errorf("speaker %s: %w", cfg.Node, err)
		}
		left, err := f.leftovers()
		if err != nil {
			return fmt.Errorf("speaker %s: %w", cfg.Node, err)
		}
		for _, r := range left {
			for _, v := range cfg.VRFs {
				if v.Table == r.Table {
					r.VRF = v.Name
				}
			}
			// Without an egress it equals no wanted route: converge replaces
			// or removes it.
			p.kernel[r.key()] = r
		}
	}
	d, err := startDaemon(ctx, cfg, p.inbox.put)
	if err != nil {
		return fmt.Errorf("speaker %s: %w", cfg.Node, err)
	}
	p.daemon = d
	p.cfg.Node = cfg.Node
	return nil
}

func (p *process) setPolicy(rules []RTRule) error {
	if !p.daemon.first && equalRules(rules, p.cfg.Policy) {
		return nil
	}
	if err := p.daemon.policy(rules); err != nil {
		return err
	}
	p.emit("policy.applied", map[string]string{"rules": strconv.Itoa(len(rules))})
	return nil
}

// setExports converges the routes that this PE originates.
func (p *process) setExports(want map[exportKey]export) error {
	var errs []error
	withdraw, announce := difference(p.exports, want, compareExports)
	var gone, told []export
	for _, e := range withdraw {
		p.attend()
		if err := p.daemon.withdraw(e); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(p.exports, e.key())
		gone = append(gone, e)
	}
	for e, n := range spans(gone, export.run, export.alike) {
		p.emit("bgp.withdrawn", counted(n, map[string]string{"vrf": e.VRF, "site": e.Site, "rd": e.RD, "prefix": e.Prefix.String()}))
	}
	for _, e := range announce {
		p.attend()
		if err := p.daemon.announce(e); err != nil {
			errs = append(errs, err)
			continue
		}
		p.exports[e.key()] = e
		told = append(told, e)
	}
	if p.daemon.anyEstablished() {
		p.emitAnnounced(told)
	}
	return errors.Join(errs...)
}

// emitAnnounced reports routes that have been sent, in order.
func (p *process) emitAnnounced(told []export) {
	for e, n := range spans(told, export.run, export.alike) {
		p.emit("bgp.announced", counted(n, map[string]string{"vrf": e.VRF, "site": e.Site, "rd": e.RD, "prefix": e.Prefix.String(),
			"label": strconv.FormatUint(uint64(e.Label), 10), "rt": e.RT}))
	}
}

func (p *process) onSession(e sessionEvent) {
	peer, change, err := p.daemon.onSession(e)
	if err != nil {
		p.emit("bgp.log", map[string]string{"level": "error", "text": err.Error()})
	}
	p.hearing()
	switch change {
	case sessionUp:
		p.emit("bgp.established", map[string]string{"neighbor": e.addr.String()})
		_, announce := difference(nil, p.exports, compareExports)
		p.emitAnnounced(announce) // sent now, by GoBGP
		p.announcedVPLS()
	case sessionDown:
		p.emit("bgp.down", map[string]string{"neighbor": e.addr.String(), "reason": peer.reason})
		peer.reason = ""
	}
}

// onPaths takes changes of GoBGP's best paths into the RIB.
func (p *process) onPaths(e pathEvent) {
	for _, ap := range e.paths {
		got, err := parsePath(ap)
		if err != nil {
			p.emit("bgp.log", map[string]string{"level": "error", "text": err.Error()})
			continue
		}
		switch got := got.(type) {
		case path:
			p.onVPNPath(got, ap.IsWithdraw)
		case vplsPath:
			p.onVPLSPath(got, ap.IsWithdraw)
		}
	}
}

func (p *process) onVPNPath(got path, withdrawn bool) {
	if withdrawn {
		if p.rib.drop(got.RD, got.Prefix) {
			p.dirty[got.Prefix] = true
			p.heard = append(p.heard, news{event.Now(), true, got})
		}
		return
	}
	if got.NextHop == p.daemon.cfg.RouterID {
		return // our own
	}
	p.rib.put(got)
	p.dirty[got.Prefix] = true
	p.heard = append(p.heard, news{event.Now(), false, got})
}

// onLinkUp programs the routes through a device again: the kernel dropped
// them when it went down, and refused those that came meanwhile.
func (p *process) onLinkUp(m linkUp) {
	for k, r := range p.kernel {
		if r.Nexthop == 0 && (r.Way.Dev == m.dev || m.dev == "") {
			delete(p.kernel, k)
		}
	}
	if m.dev == "" {
		p.loseShared(func(nexthop) bool { return true })
	}
	p.resync = true
	p.l2.doubt(m.dev)
	p.doubtPort(m.dev)
	if m.dev == "" {
		p.auditVPLS()
	}
}

// onLinkGone looks after the pseudowires when a bridge of theirs or a port was
// removed.
func (p *process) onLinkGone(m linkGone) {
	if p.l2.uses(m.dev) {
		p.auditVPLS()
	}
}

// removeAll takes our routes out of the kernel.
func (p *process) removeAll() error {
	if p.fib == nil {
		return nil
	}
	_, del := diffRoutes(p.kernel, nil, nil, nil)
	err := errors.Join(p.closeAll(), p.program(nil, del))
	p.clearShared()
	return errors.Join(err, p.wire(newWiring()))
}

// emit queues an event of this moment.
func (p *process) emit(kind string, attr map[string]string) { p.emitAt(event.Now(), kind, attr) }

func (p *process) emitAt(t event.Mono, kind string, attr map[string]string) {
	e := event.Event{T: t, Wall: p.wall.Add(t.Sub(p.mono)), Node: p.cfg.Node, Kind: kind, Attr: attr}
	p.reply(reply{Event: &e})
}

// reply queues a line; a message that cannot be encoded is answered by its
// error.
func (p *process) reply(r reply) {
	out, err := appendLine(p.out, r)
	if err != nil {
		out, _ = appendLine(p.out, reply{ID: r.ID, Error: err.Error()})
	}
	p.out = out
}

// flush writes what is queued in one system call.
func (p *process) flush() error {
	if len(p.out) == 0 {
		return nil
	}
	_, err := p.conn.Write(p.out)
	p.out = p.out[:0]
	return err
}

func equalRules(a, b []RTRule) bool {
	return slices.EqualFunc(a, b, func(x, y RTRule) bool {
		return x.Name == y.Name && x.VPLS == y.VPLS && slices.Equal(x.From, y.From) && slices.Equal(x.To, y.To)
	})
}
