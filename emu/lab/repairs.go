package lab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/repair"
)

// repairs are the reflexes of a lab's routers: a process each (package repair),
// where the plan has a way to recover that asks for them.
type repairs struct {
	sink event.Sink
	log  *slog.Logger
	// down says of a router that it is to stay without its processes.
	down func(node string) bool
	wg   sync.WaitGroup // the goroutines that watch each process

	mu      sync.Mutex
	members map[string]*repairer
}

// repairer is one router's process and what it is supposed to do.
type repairer struct {
	node string

	mu       sync.Mutex // held while the process is started or configured
	proc     *repair.Process
	cfg      *repair.Config // what it was last told, or nil
	restarts int
	fault    string // why it last died; "" when it never did
	dead     bool   // given up, or its router is down
	stopping bool
}

func newRepairs(sink event.Sink, down func(string) bool, log *slog.Logger) *repairs {
	return &repairs{sink: sink, log: log, down: down, members: map[string]*repairer{}}
}

func (r *repairs) member(node string) *repairer {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.members[node]
}

func (r *repairs) all() []*repairer {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]*repairer, 0, len(r.members))
	for _, node := range keys(r.members) {
		out = append(out, r.members[node])
	}
	return out
}

// get is the process of a router, if it has one that runs.
func (r *repairs) get(node string) (*repair.Process, bool) {
	m := r.member(node)
	if m == nil {
		return nil, false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.proc, !m.dead
}

// calm stops the processes of the routers that are to have none. Their own
// routes are put back.
func (r *repairs) calm(ctx context.Context, wanted map[string]repair.Config) error {
	var gone []*repairer
	for _, m := range r.all() {
		if _, stays := wanted[m.node]; !stays {
			gone = append(gone, m)
		}
	}
	return r.stop(ctx, gone)
}

// ensure starts the processes that are missing, all at the same time.
func (r *repairs) ensure(ctx context.Context, f *fabric.Fabric, wanted map[string]repair.Config) error {
	g, gctx := errgroup.WithContext(ctx)
	for node := range wanted {
		if _, runs := r.get(node); !runs && !r.down(node) {
			g.Go(func() error { return r.start(gctx, f, node) })
		}
	}
	return g.Wait()
}

// start begins a process and the goroutine that watches it.
func (r *repairs) start(ctx context.Context, f *fabric.Fabric, node string) error {
	proc, err := repair.Start(ctx, f, node, r.sink)
	if err != nil {
		return err
	}
	m := &repairer{node: node, proc: proc}
	r.mu.Lock()
	r.members[node] = m
	r.mu.Unlock()
	r.wg.Go(func() { r.watch(f, m) })
	return nil
}

// watch waits for a process to end and brings it back, as often as maxRestarts,
// unless it was stopped.
func (r *repairs) watch(f *fabric.Fabric, m *repairer) {
	for {
		m.mu.Lock()
		proc := m.proc
		m.mu.Unlock()
		<-proc.Done()
		m.mu.Lock()
		if m.stopping {
			m.mu.Unlock()
			return
		}
		m.fault = exitWords(proc.Err())
		r.log.Error("repair process died", "node", m.node, "error", m.fault, "restarts", m.restarts)
		again := r.revive(f, m)
		m.mu.Unlock()
		if !again {
			return
		}
	}
}

// revive replaces m's dead process by one with the same configuration, which
// finds in the kernel what its predecessor had switched. The caller holds m.mu.
func (r *repairs) revive(f *fabric.Fabric, m *repairer) bool {
	ctx, cancel := context.WithTimeoutCause(context.Background(), restartDeadline, fmt.Errorf("waited %v for a new one", restartDeadline))
	defer cancel()
	for m.restarts < maxRestarts && ctx.Err() == nil {
		if r.down(m.node) {
			m.dead = true
			return false // whoever brings the router back has it started
		}
		m.restarts++
		proc, err := repair.Start(ctx, f, m.node, r.sink)
		if err == nil && m.cfg != nil {
			if err = proc.Configure(ctx, *m.cfg); err != nil {
				_ = proc.Kill()
			}
		}
		if err == nil {
			m.proc = proc
			r.sink(event.New(m.node, "repair.restarted", map[string]string{"restarts": strconv.Itoa(m.restarts)}))
			return true
		}
		m.fault = err.Error()
		r.log.Error("repair process could not be brought back", "node", m.node, "error", err, "restarts", m.restarts)
	}
	m.dead = true
	r.sink(event.New(m.node, "repair.given-up", map[string]string{"error": m.fault, "restarts": strconv.Itoa(m.restarts)}))
	return false
}

// boot starts the process of a router that a fault has kept without one, with
// what it was told last.
func (r *repairs) boot(f *fabric.Fabric, node string) {
	m := r.member(node)
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.dead || m.stopping || !isDone(m.proc.Done()) {
		return // whoever watches it sees to it
	}
	m.dead, m.restarts = false, 0
	r.wg.Go(func() {
		m.mu.Lock()
		again := !m.stopping && r.revive(f, m)
		m.mu.Unlock()
		if again {
			r.watch(f, m)
		}
	})
}

// configure tells every process what to do, all at the same time. They are told
// again what they know already: the fabric may have put a router's own routes
// where prepared ones are needed.
func (r *repairs) configure(ctx context.Context, wanted map[string]repair.Config) error {
	g, gctx := errgroup.WithContext(ctx)
	for node, cfg := range wanted {
		switch m := r.member(node); {
		case m == nil:
		case r.down(node): // it is told when it is there again
			m.mu.Lock()
			m.cfg = &cfg
			m.mu.Unlock()
		default:
			g.Go(func() error { return m.configure(gctx, cfg) })
		}
	}
	return g.Wait()
}

func (m *repairer) configure(ctx context.Context, cfg repair.Config) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cfg = &cfg
	if m.dead {
		return fmt.Errorf("configure repair process of %s: it died %d times and was given up (%s)", m.node, m.restarts+1, m.fault)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, configureDeadline, fmt.Errorf("waited %v for it to be configured", configureDeadline))
	defer cancel()
	return m.proc.Configure(ctx, cfg)
}

// stop ends processes in order and forgets them.
func (r *repairs) stop(ctx context.Context, gone []*repairer) error {
	var (
		wg   sync.WaitGroup
		errs = make([]error, len(gone))
	)
	for i, m := range gone {
		wg.Go(func() {
			m.mu.Lock()
			m.stopping = true
			proc, dead := m.proc, m.dead
			m.mu.Unlock()
			if !dead {
				errs[i] = proc.Stop(ctx)
			}
		})
	}
	wg.Wait()
	r.mu.Lock()
	for _, m := range gone {
		if r.members[m.node] == m {
			delete(r.members, m.node)
		}
	}
	r.mu.Unlock()
	return errors.Join(errs...)
}

// killAll ends every process at once, where nothing of their routers will be
// left, and waits for the goroutines that watched them.
func (r *repairs) killAll() error {
	var errs []error
	for _, m := range r.all() {
		m.mu.Lock()
		m.stopping = true
		if !m.dead {
			errs = append(errs, m.proc.Kill())
		}
		m.mu.Unlock()
	}
	r.wg.Wait()
	r.mu.Lock()
	clear(r.members)
	r.mu.Unlock()
	return errors.Join(errs...)
}

// calm ends the reflexes that the plan does not want.
func (a *application) calm(ctx context.Context) error {
	return a.lab.repairs.calm(ctx, repair.Configs(a.plan, a.state))
}

// reflexes tells the routers which links and neighbours to watch, and what to do
// when one fails.
func (a *application) reflexes(ctx context.Context) error {
	wanted := a.watchful()
	if err := a.lab.repairs.ensure(ctx, a.fabric, wanted); err != nil {
		return err
	}
	return a.lab.repairs.configure(ctx, wanted)
}

// watchful is what the routers are told that are not spared.
func (a *application) watchful() map[string]repair.Config {
	wanted := repair.Configs(a.plan, a.state)
	for node := range a.spared {
		if a.lab.repairs.member(node) != nil {
			delete(wanted, node)
		}
	}
	return wanted
}

// Awake waits until every BFD session that the plan asks for is up, ctx's
// deadline at the longest: from then on failures are noticed. An Apply does not
// wait for that, as sessions begin with a packet a second.
func (l *Lab) Awake(ctx context.Context) error {
	for {
		changed := l.alive.changed()
		missing, err := l.asleep(ctx)
		if err != nil || len(missing) == 0 {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for the BFD sessions of lab %s: %d are not up (%s): %w", l.Name(), len(missing), missing[0], context.Cause(ctx))
		}
	}
}

// asleep names the sessions that are not up.
func (l *Lab) asleep(ctx context.Context) (missing []string, err error) {
	for _, m := range l.repairs.all() {
		proc, runs := l.repairs.get(m.node)
		if !runs {
			continue
		}
		st, err := proc.Status(ctx)
		if err != nil {
			return nil, err
		}
		for _, s := range st.Sessions {
			if s.State != "up" {
				missing = append(missing, fmt.Sprintf("BFD session of %s with %v: %s", m.node, s.Peer, s.State))
			}
		}
	}
	slices.Sort(missing)
	return missing, nil
}

// changes lets goroutines wait for something to happen.
type changes struct {
	mu sync.Mutex
	ch chan struct{}
}

// changed is closed at the next change.
func (c *changes) changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ch == nil {
		c.ch = make(chan struct{})
	}
	return c.ch
}

// observe takes the lab's events: those of sessions are changes.
func (c *changes) observe(e event.Event) {
	switch e.Kind {
	case "bfd.up", "bfd.down", "repair.exit", "repair.restarted":
	default:
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ch != nil {
		close(c.ch)
		c.ch = nil
	}
}

// RepairInfo is what one router knows of its links and neighbours.
type RepairInfo struct {
	Node     string `json:"node"`
	PID      int    `json:"pid"`
	Restarts int    `json:"restarts"`
	Fault    string `json:"fault,omitempty"` // why its process last died
	Running  bool   `json:"running"`
	repair.Status
}

// recovery asks each router's process what it knows.
func (i *inspection) recovery(ctx context.Context) error {
	for _, m := range i.lab.repairs.all() {
		if !i.req.wantsNode(m.node) {
			continue
		}
		m.mu.Lock()
		info := RepairInfo{Node: m.node, PID: m.proc.Pid(), Restarts: m.restarts, Fault: m.fault, Running: !m.dead}
		proc := m.proc
		m.mu.Unlock()
		if info.Running {
			st, err := proc.Status(ctx)
			if err != nil {
				return err
			}
			info.Status = *st
		}
		i.report.Recovery = append(i.report.Recovery, info)
	}
	return nil
}
