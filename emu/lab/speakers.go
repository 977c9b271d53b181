package lab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sort"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vpclab/vpclab/emu/bgp"
	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/frr"
	"github.com/vpclab/vpclab/topo"
)

// maxRestarts is how often one speaker is brought back before the lab leaves
// it dead: a speaker that dies again and again is a fault to look at, not to
// hide.
const maxRestarts = 5

// restartDeadline bounds the start and configuration of a replacement, and
// configureDeadline one configuration, which is the start of FRR's daemons
// too: half a dozen processes for each router, on one CPU.
const (
	restartDeadline   = 60 * time.Second
	configureDeadline = 120 * time.Second
)

// speakers are the control planes of a lab's routers: BGP speaker processes,
// and where a router has FRR the processes that run its daemons.
type speakers struct {
	sink   event.Sink
	forget func(node string) // what a dead speaker reported holds no longer
	log    *slog.Logger
	// held says of a router that a fault keeps it from having a speaker.
	held func(node string) bool
	wg   sync.WaitGroup // the goroutines that watch each process

	mu      sync.Mutex
	members map[string]*member
	onDeath func(error) // told of a speaker that died by itself; may be nil
}

// member is one router's speaker: the process that runs now and what it is
// supposed to say.
type member struct {
	node    string
	routing topo.Routing // which kind of process

	mu       sync.Mutex // held while the process is started or configured
	proc     *bgp.Speaker
	cfg      *bgp.Config // what it was last told, or nil
	doubtful bool        // it did not say that it has done that
	restarts int
	fault    string // why it last died; "" when it never did
	dead     bool   // given up, or
	off      bool   // waiting for a fault to be over: see boot
	stopping bool
}

func newSpeakers(sink event.Sink, forget func(string), log *slog.Logger) *speakers {
	return &speakers{sink: sink, forget: forget, log: log, held: func(string) bool { return false }, members: map[string]*member{}}
}

func (s *speakers) member(node string) *member {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.members[node]
}

func (s *speakers) get(node string) (*bgp.Speaker, bool) {
	m := s.member(node)
	if m == nil {
		return nil, false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.proc, m.proc != nil && !m.dead && !m.off
}

// configs are what the speakers were last told.
func (s *speakers) configs() map[string]bgp.Config {
	out := map[string]bgp.Config{}
	for _, m := range s.all() {
		m.mu.Lock()
		if m.cfg != nil {
			out[m.node] = *m.cfg
		}
		m.mu.Unlock()
	}
	return out
}

func (s *speakers) all() []*member {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*member, 0, len(s.members))
	for _, m := range s.members {
		out = append(out, m)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].node < out[j].node })
	return out
}

// ensure starts a speaker of the kind that is configured at each node that
// lacks one, all at the same time, and brings back the ones given up.
func (s *speakers) ensure(ctx context.Context, f *fabric.Fabric, configs map[string]bgp.Config) error {
	g, gctx := errgroup.WithContext(ctx)
	for node, cfg := range configs {
		m := s.member(node)
		if m != nil && !m.isDead() || s.held(node) {
			continue
		}
		g.Go(func() error { return s.start(gctx, f, node, cfg.Routing) })
	}
	return g.Wait()
}

func (m *member) isDead() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.dead
}

// launch starts the process of a router's control plane. All are told the same
// way what to do.
func (s *speakers) launch(ctx context.Context, f *fabric.Fabric, node string, routing topo.Routing) (*bgp.Speaker, error) {
	if routing == topo.RoutingFRR {
		return frr.Start(ctx, f, node, s.sink)
	}
	return bgp.Start(ctx, f, node, s.sink)
}

// start begins a speaker and the goroutine that watches it.
func (s *speakers) start(ctx context.Context, f *fabric.Fabric, node string, routing topo.Routing) error {
	proc, err := s.launch(ctx, f, node, routing)
	if err != nil {
		return fmt.Errorf("start BGP speaker of %s: %w", node, err)
	}
	m := &member{node: node, routing: routing, proc: proc}
	s.mu.Lock()
	s.members[node] = m
	s.mu.Unlock()
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		s.watch(f, m)
	}()
	return nil
}

// watch waits for a speaker to end and brings it back, as often as
// maxRestarts, unless it was stopped.
func (s *speakers) watch(f *fabric.Fabric, m *member) {
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
		err := fmt.Errorf("the BGP speaker of %s died (%s)", m.node, m.fault)
		s.forget(m.node)
		if s.held(m.node) {
			m.off = true
			m.mu.Unlock()
			return // boot goes on
		}
		s.log.Error("speaker died", "node", m.node, "error", m.fault, "restarts", m.restarts)
		s.tell(err)
		again := s.revive(f, m)
		m.mu.Unlock()
		if !again {
			return
		}
	}
}

// boot starts the speaker of a router that a fault has kept without one, with
// what it was told last.
func (s *speakers) boot(f *fabric.Fabric, node string) {
	m := s.member(node)
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.off || m.stopping {
		return // whoever watches it sees to it
	}
	m.off, m.restarts = false, 0
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		m.mu.Lock()
		again := !m.stopping && s.revive(f, m)
		m.mu.Unlock()
		if again {
			s.watch(f, m)
		}
	}()
}

// exitWords says how a process ended that was not stopped: a Speaker that was
// killed by way of its handle has no error.
func exitWords(err error) string {
	if err == nil {
		return "killed"
	}
	return err.Error()
}

// tell hands a death to the Apply that is running, if one is.
func (s *speakers) tell(err error) {
	s.mu.Lock()
	f := s.onDeath
	s.mu.Unlock()
	if f != nil {
		f(err)
	}
}

func (s *speakers) watchDeaths(f func(error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onDeath = f
}

// revive replaces m's dead process by one with the same configuration. The
// caller holds m.mu.
func (s *speakers) revive(f *fabric.Fabric, m *member) bool {
	ctx, cancel := context.WithTimeout(context.Background(), restartDeadline)
	defer cancel()
	for m.restarts < maxRestarts {
		if s.held(m.node) {
			m.off = true
			return false // boot goes on
		}
		m.restarts++
		proc, err := s.launch(ctx, f, m.node, m.routing)
		if err == nil && m.cfg != nil {
			if err = proc.Configure(ctx, *m.cfg); err != nil {
				_ = proc.Kill()
				<-proc.Done()
			}
		}
		if err == nil {
			m.proc, m.doubtful = proc, false
			s.sink(event.New(m.node, "speaker.restarted", map[string]string{"restarts": strconv.Itoa(m.restarts)}))
			return true
		}
		m.fault = err.Error()
		s.log.Error("speaker could not be brought back", "node", m.node, "error", err, "restarts", m.restarts)
		if ctx.Err() != nil {
			break
		}
	}
	m.dead = true
	s.sink(event.New(m.node, "speaker.given-up", map[string]string{"error": m.fault, "restarts": strconv.Itoa(m.restarts)}))
	return false
}

// configure tells a speaker cfg, unless it was told the same before and has
// done it. The configuration is kept, so that a replacement says the same.
func (s *speakers) configure(ctx context.Context, node string, cfg bgp.Config) (told bool, err error) {
	m := s.member(node)
	if m == nil {
		return false, fmt.Errorf("configure BGP speaker of %s: it has none", node)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return false, fmt.Errorf("configure BGP speaker of %s: it died %d times and was given up (%s)", node, m.restarts+1, m.fault)
	}
	if m.off || s.held(node) { // it is told when it is there again
		m.cfg, m.doubtful = &cfg, true
		return false, nil
	}
	if m.cfg != nil && !m.doubtful && same(*m.cfg, cfg) {
		return false, nil
	}
	m.cfg, m.doubtful = &cfg, true
	ctx, cancel := context.WithTimeoutCause(ctx, configureDeadline, fmt.Errorf("waited %v for it to be configured", configureDeadline))
	defer cancel()
	if err := m.proc.Configure(ctx, cfg); err != nil {
		return true, fmt.Errorf("configure BGP speaker of %s: %w", node, err)
	}
	m.doubtful = false
	return true, nil
}

// stop ends the speakers of nodes in order, all at the same time, and waits
// for them.
func (s *speakers) stop(ctx context.Context, nodes []string) error {
	return s.end(nodes, func(_ *member, proc *bgp.Speaker) error { return proc.Stop(ctx) })
}

// end ends the speakers of nodes by way of how.
func (s *speakers) end(nodes []string, how func(*member, *bgp.Speaker) error) error {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	for _, node := range nodes {
		m := s.member(node)
		if m == nil {
			continue
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			m.mu.Lock()
			m.stopping = true
			proc, dead := m.proc, m.dead || m.off
			m.mu.Unlock()
			if dead {
				return
			}
			if err := how(m, proc); err != nil {
				mu.Lock()
				errs = append(errs, fmt.Errorf("stop BGP speaker of %s: %w", node, err))
				mu.Unlock()
			}
		}()
	}
	wg.Wait()
	s.mu.Lock()
	for _, node := range nodes {
		delete(s.members, node)
	}
	s.mu.Unlock()
	return errors.Join(errs...)
}

// stopAll ends every speaker and waits for the goroutines that watched them.
// FRR's daemons are not let say farewell, which costs them seconds and which
// nobody would be there to hear.
func (s *speakers) stopAll(ctx context.Context) error {
	var nodes []string
	for _, m := range s.all() {
		nodes = append(nodes, m.node)
	}
	err := s.end(nodes, func(m *member, proc *bgp.Speaker) error {
		if m.routing == topo.RoutingFRR {
			return proc.Kill()
		}
		return proc.Stop(ctx)
	})
	s.wg.Wait()
	return err
}
