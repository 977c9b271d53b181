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
	"strings"
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
func yieldToOthers() {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	for _, t := range tasks {
		if tid, err := strconv.Atoi(t.Name()); err == nil {
			_ = unix.SchedSetAttr(tid, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_BATCH}, 0)
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
	l2       vplsState

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
		kernel: map[routeKey]vrfRoute{}, dirty: map[netip.Prefix]bool{}, l2: newVPLSState(),
		mono: event.Now(), wall: time.Now(),
	}
	var reader sync.WaitGroup
	reader.Go(func() { readLines(conn, p.inbox.put) })
	err := p.loop(ctx)
	if p.daemon != nil {
		p.daemon.stop()
	}
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
		for _, m := range p.inbox.take() {
			done, err := p.handle(ctx, m)
			if done || err != nil {
				p.flush() // fails where the parent is gone: nobody to tell
				return err
			}
		}
		if p.resync {
			p.converge(nil)
		} else {
			p.converge(p.dirty)
		}
		p.resync = false
		clear(p.dirty)
		if p.l2.dirty {
			p.convergeVPLS()
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
	case portUp:
		p.onPortUp(m)
	case retryVPLS:
		p.l2.retrying = false
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
		errs = append(errs, p.setExports(cfg.exports()), p.setVPLSExports(cfg.vplsExports()))
		p.importer = newImporter(&cfg)
		p.cfg = cfg
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
		if err := p.sweep(cfg.Node); err != nil {
			return fmt.Errorf("speaker %s: %w", cfg.Node, err)
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
	for _, e := range withdraw {
		if err := p.daemon.withdraw(e); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(p.exports, e.key())
		p.emit("bgp.withdrawn", map[string]string{"vrf": e.VRF, "site": e.Site, "rd": e.RD, "prefix": e.Prefix.String()})
	}
	for _, e := range announce {
		if err := p.daemon.announce(e); err != nil {
			errs = append(errs, err)
			continue
		}
		p.exports[e.key()] = e
		if p.daemon.anyEstablished() {
			p.emitAnnounced(e)
		}
	}
	return errors.Join(errs...)
}

func (p *process) emitAnnounced(e export) {
	p.emit("bgp.announced", map[string]string{"vrf": e.VRF, "site": e.Site, "rd": e.RD, "prefix": e.Prefix.String(),
		"label": strconv.FormatUint(uint64(e.Label), 10), "rt": e.RT})
}

func (p *process) onSession(e sessionEvent) {
	peer, change, err := p.daemon.onSession(e)
	if err != nil {
		p.emit("bgp.log", map[string]string{"level": "error", "text": err.Error()})
	}
	switch change {
	case sessionUp:
		p.emit("bgp.established", map[string]string{"neighbor": e.addr.String()})
		_, announce := difference(nil, p.exports, compareExports)
		for _, x := range announce {
			p.emitAnnounced(x) // sent now, by GoBGP
		}
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
			p.emit("bgp.lost", map[string]string{"rd": got.RD, "prefix": got.Prefix.String()})
		}
		return
	}
	if got.NextHop == p.daemon.cfg.RouterID {
		return // our own
	}
	p.rib.put(got)
	p.dirty[got.Prefix] = true
	p.emit("bgp.received", map[string]string{"rd": got.RD, "prefix": got.Prefix.String(),
		"label": strconv.FormatUint(uint64(got.Label), 10), "next_hop": got.NextHop.String(), "rts": strings.Join(got.RTs, " ")})
}

// onLinkUp programs the routes through a device again: the kernel dropped
// them when it went down, and refused those that came meanwhile.
func (p *process) onLinkUp(m linkUp) {
	for k, r := range p.kernel {
		if r.Dev == m.dev || m.dev == "" {
			delete(p.kernel, k)
		}
	}
	p.resync = true
	p.l2.doubt(m.dev)
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

// converge brings the kernel's VRF routes to what the RIB and the
// configuration want, for the prefixes in scope (nil: all).
func (p *process) converge(scope map[netip.Prefix]bool) error {
	if p.fib == nil || (scope != nil && len(scope) == 0) {
		return nil
	}
	want := map[routeKey]vrfRoute{}
	if scope == nil {
		for prefix := range p.rib {
			p.importer.want(p.rib, prefix, want)
		}
	}
	for prefix := range scope {
		p.importer.want(p.rib, prefix, want)
	}
	set, del := diffRoutes(p.kernel, want, scope)
	return p.program(set, del)
}

// program sends one batch and reports each route after the kernel's answer.
func (p *process) program(set, del []vrfRoute) error {
	if len(set)+len(del) == 0 {
		return nil
	}
	var errs []error
	setErrs, delErrs := p.fib.apply(set, del)
	now := event.Now()
	for i, r := range del {
		if err := delErrs[i]; err != nil {
			errs = append(errs, err)
			p.emitAt(now, "route.failed", map[string]string{"vrf": r.VRF, "table": strconv.Itoa(r.Table), "prefix": r.Prefix.String(), "error": err.Error()})
			continue
		}
		delete(p.kernel, r.key())
		p.emitAt(now, "route.removed", map[string]string{"vrf": r.VRF, "table": strconv.Itoa(r.Table), "prefix": r.Prefix.String()})
	}
	for i, r := range set {
		if err := setErrs[i]; err != nil {
			errs = append(errs, err)
			p.emitAt(now, "route.failed", map[string]string{"vrf": r.VRF, "table": strconv.Itoa(r.Table), "prefix": r.Prefix.String(), "error": err.Error()})
			continue
		}
		p.kernel[r.key()] = r
		p.emitAt(now, "route.programmed", map[string]string{"vrf": r.VRF, "table": strconv.Itoa(r.Table), "prefix": r.Prefix.String(),
			"egress": r.Egress.String(), "labels": r.stack()})
	}
	return errors.Join(errs...)
}

// stack is the label stack as in `ip route`: outermost first.
func (r vrfRoute) stack() string {
	vpn := strconv.FormatUint(uint64(r.Label), 10)
	if r.LSP == 0 {
		return vpn
	}
	return strconv.FormatUint(uint64(r.LSP), 10) + "/" + vpn
}

// removeAll takes our routes out of the kernel.
func (p *process) removeAll() error {
	if p.fib == nil {
		return nil
	}
	_, del := diffRoutes(p.kernel, nil, nil)
	return errors.Join(p.program(nil, del), p.wire(newWiring()))
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

// inbox is an unbounded queue: GoBGP's watcher and log must never wait for
// the loop, which itself waits for GoBGP.
type inbox struct {
	mu     sync.Mutex
	items  []any
	signal chan struct{}
}

func newInbox() *inbox { return &inbox{signal: make(chan struct{}, 1)} }

func (b *inbox) put(m any) {
	b.mu.Lock()
	b.items = append(b.items, m)
	b.mu.Unlock()
	select {
	case b.signal <- struct{}{}:
	default:
	}
}

// take empties the queue.
func (b *inbox) take() []any {
	b.mu.Lock()
	defer b.mu.Unlock()
	items := b.items
	b.items = nil
	return items
}

func equalRules(a, b []RTRule) bool {
	return slices.EqualFunc(a, b, func(x, y RTRule) bool {
		return x.Name == y.Name && x.VPLS == y.VPLS && slices.Equal(x.From, y.From) && slices.Equal(x.To, y.To)
	})
}
