package frr

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/vpclab/vpclab/emu/bgp"
	"github.com/vpclab/vpclab/emu/event"
)

// maxRestarts is how often a router brings daemons back before it gives up
// and ends: one that dies again and again is a fault to look at.
const maxRestarts = 5

// RunRouter is the body of the hidden verb `vpclab frr`: the parent of one
// router's FRR daemons, in the router's network namespace and in PID and mount
// namespaces of its own, told what to do over conn. root is the Install's; dir
// takes sockets and files, and is removed at the end. All daemons end with
// this process, which is process 1 of their PID namespace.
func RunRouter(ctx context.Context, conn io.ReadWriteCloser, root, dir string) error {
	in := at(root)
	if in == nil {
		return &Missing{"its daemons are not below " + root}
	}
	if err := furnish(in, dir); err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := settleIn(root, dir); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var r *router
	err := bgp.Serve(ctx, conn, func(sink event.Sink) bgp.Body {
		r = &router{install: in, dir: dir, sink: sink, fail: cancel, running: map[string]*daemon{}, up: map[netip.Addr]bool{}}
		return r
	})
	r.end()
	return err
}

// router is the state of one router's control plane.
type router struct {
	install *Install
	dir     string
	sink    event.Sink
	fail    context.CancelCauseFunc // ends this process
	wg      sync.WaitGroup          // the goroutines that wait for daemons
	bgpd    atomic.Pointer[daemon]  // the one that runs, for questions

	// Set by the first Configure, before any daemon runs.
	node  string
	watch *watch

	mu       sync.Mutex // held while daemons are started, told and stopped
	cfg      bgp.Config // in force
	want     map[string][]block
	running  map[string]*daemon
	restarts int
	stopping bool

	sessions sync.Mutex
	up       map[netip.Addr]bool // neighbours with a session
}

func (r *router) emit(kind string, attr map[string]string) {
	r.sink(event.New(r.node, kind, attr))
}

// Configure starts the daemons that cfg needs and have not been started, and
// tells each what has changed.
func (r *router) Configure(ctx context.Context, cfg bgp.Config) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.watch == nil {
		if err := r.begin(cfg.Node); err != nil {
			return fmt.Errorf("FRR of %s: %w", cfg.Node, err)
		}
	} else if cfg.Identity() != r.cfg.Identity() {
		return fmt.Errorf("FRR of %s: node, asn, router id, port, timers and who gives out labels cannot change: start another", r.node)
	}
	r.cfg, r.want = cfg, render(&cfg)
	r.watch.setTables(cfg.VRFs)
	if err := r.startMissing(ctx); err != nil {
		return fmt.Errorf("FRR of %s: %w", cfg.Node, err)
	}
	var errs []error
	for _, name := range daemons {
		if d := r.running[name]; d != nil {
			errs = append(errs, d.tell(ctx, r.want[name]))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("FRR of %s: %w", cfg.Node, err)
	}
	return nil
}

// begin clears what a killed predecessor left in the kernel and starts to
// watch it.
func (r *router) begin(node string) error {
	if err := sweep(); err != nil {
		return err
	}
	w, err := startWatch(node, r.sink, r.nextHops, func(err error) { r.fail(fmt.Errorf("%s: %w", node, err)) })
	r.node, r.watch = node, w
	return err
}

// startMissing starts the daemons that are wanted and do not run: zebra first,
// because the others, when they do not find it, ask again only after ten
// seconds; then all the others at once.
func (r *router) startMissing(ctx context.Context) error {
	if r.running[zebra] == nil {
		if err := r.start(ctx, zebra); err != nil {
			return err
		}
	}
	var (
		mu    sync.Mutex
		fresh []*daemon
	)
	g, gctx := errgroup.WithContext(ctx)
	for name := range r.want {
		if r.running[name] != nil {
			continue
		}
		g.Go(func() error {
			d, err := startDaemon(gctx, r.install, r.dir, name, r.heed)
			if err == nil {
				mu.Lock()
				fresh = append(fresh, d)
				mu.Unlock()
			}
			return err
		})
	}
	err := g.Wait()
	for _, d := range fresh {
		r.adopt(d)
	}
	return err
}

// start starts one daemon. The caller holds r.mu.
func (r *router) start(ctx context.Context, name string) error {
	d, err := startDaemon(ctx, r.install, r.dir, name, r.heed)
	if err == nil {
		r.adopt(d)
	}
	return err
}

// adopt takes a daemon that runs and watches for its end. The caller holds
// r.mu.
func (r *router) adopt(d *daemon) {
	r.running[d.name] = d
	if d.name == bgpd {
		r.bgpd.Store(d)
	}
	r.wg.Go(func() {
		<-d.done
		r.buried(d)
	})
}

// buried brings back a daemon that died by itself. Without zebra all others
// have lost their footing: then the whole router is started again, by the
// parent.
func (r *router) buried(d *daemon) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d.hangUp()
	if r.stopping || r.running[d.name] != d {
		return
	}
	delete(r.running, d.name)
	r.emit("speaker.exit", map[string]string{"daemon": d.name, "status": d.ending()})
	if d.name == bgpd {
		r.sessionsLost(d.name + " ended")
	}
	r.restarts++
	if d.name == zebra || r.restarts > maxRestarts {
		r.fail(fmt.Errorf("%s of %s died: %s", d.name, r.node, d.ending()))
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), startDeadline)
	defer cancel()
	err := r.start(ctx, d.name)
	if err == nil {
		err = r.running[d.name].tell(ctx, r.want[d.name])
	}
	if err != nil {
		r.fail(fmt.Errorf("%s of %s died and could not be brought back: %w", d.name, r.node, err))
		return
	}
	r.emit("speaker.restarted", map[string]string{"daemon": d.name, "restarts": strconv.Itoa(r.restarts)})
}

// Stop ends the daemons in order: bgpd and the others say farewell to their
// neighbours, then zebra takes their routes out of the kernel.
func (r *router) Stop(context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopping = true
	var g errgroup.Group
	for name, d := range r.running {
		if name != zebra {
			g.Go(d.terminate)
		}
	}
	errs := []error{g.Wait()}
	if d := r.running[zebra]; d != nil {
		errs = append(errs, d.terminate())
	}
	if r.watch != nil {
		errs = append(errs, sweep(), r.watch.finish())
	}
	return errors.Join(errs...)
}

// end kills what is left and waits for it.
func (r *router) end() {
	r.mu.Lock()
	r.stopping = true
	for _, d := range r.running {
		d.kill()
	}
	r.mu.Unlock()
	r.wg.Wait()
	if r.watch != nil {
		r.watch.close()
	}
}

// RIB is bgpd's VPN table. Its list of all routes has no labels, so each
// prefix is asked for by itself.
func (r *router) RIB(ctx context.Context) ([]bgp.RouteInfo, error) {
	d := r.bgpd.Load()
	if d == nil {
		return nil, nil
	}
	list, err := d.question(ctx, vpnTable)
	if err != nil {
		return nil, err
	}
	prefixes, err := parseVPNPrefixes([]byte(list[0]))
	if err != nil {
		return nil, err
	}
	commands := make([]string, len(prefixes))
	for i, p := range prefixes {
		commands[i] = vpnPrefix(p)
	}
	texts, err := d.question(ctx, commands...)
	if err != nil {
		return nil, err
	}
	var out []bgp.RouteInfo
	for i, p := range prefixes {
		routes, err := parseVPN([]byte(texts[i]), p)
		if err != nil {
			return nil, err
		}
		out = append(out, routes...)
	}
	return out, nil
}

// Reset has bgpd end the session with a neighbor, or all of them (zero), with a
// notification.
func (r *router) Reset(ctx context.Context, neighbor netip.Addr) error {
	d := r.bgpd.Load()
	if d == nil {
		return errors.New("reset BGP sessions: bgpd does not run")
	}
	whose := "*"
	if neighbor.IsValid() {
		whose = neighbor.String()
	}
	_, err := d.question(ctx, "clear bgp "+whose)
	return err
}

// nextHops are the BGP next hops of a VRF's routes, as bgpd has them now.
func (r *router) nextHops(ctx context.Context, vrf string) (map[netip.Prefix]netip.Addr, error) {
	d := r.bgpd.Load()
	if d == nil {
		return nil, errors.New("bgpd does not run")
	}
	texts, err := d.question(ctx, vrfTable(vrf))
	if err != nil {
		return nil, err
	}
	return parseVRF([]byte(texts[0]))
}

// sessionsLost reports every session as gone.
func (r *router) sessionsLost(reason string) {
	r.sessions.Lock()
	gone := slices.SortedFunc(maps.Keys(r.up), netip.Addr.Compare)
	clear(r.up)
	r.sessions.Unlock()
	for _, n := range gone {
		r.emit("bgp.down", map[string]string{"neighbor": n.String(), "reason": reason})
	}
}

// heed reads a daemon's log for what the lab wants to know.
func (r *router) heed(line string) {
	c, ok := parseAdjacency(line)
	if !ok {
		return
	}
	r.sessions.Lock()
	was := r.up[c.neighbor]
	if c.up {
		r.up[c.neighbor] = true
	} else {
		delete(r.up, c.neighbor)
	}
	r.sessions.Unlock()
	switch {
	case c.up:
		r.emit("bgp.established", map[string]string{"neighbor": c.neighbor.String()})
	case was:
		r.emit("bgp.down", map[string]string{"neighbor": c.neighbor.String(), "reason": c.reason})
	}
}
