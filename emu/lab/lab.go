package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vpclab/vpclab/emu/bgp"
	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/frr"
	"github.com/vpclab/vpclab/topo"
)

// Config makes a Lab. The zero value but for Name is valid.
type Config struct {
	// Name of the lab; it prefixes every kernel object. Plans given to Apply
	// must carry the same name. Empty: the name of the first plan.
	Name string
	// Deadline is how long Apply waits for VPN routes to arrive, or to go,
	// once it has told every speaker what to do; default DefaultDeadline.
	Deadline time.Duration
	// Substrate names the kernel in reports (host, uml, qemu).
	Substrate string
	// Log receives what a person debugging the lab wants to know; default
	// nothing.
	Log *slog.Logger
}

// DefaultDeadline is Config.Deadline when it is not set.
const DefaultDeadline = 30 * time.Second

// Lab is one plan made real on the kernel this process runs on. Its methods
// may be called from many goroutines; Apply and Destroy take turns.
type Lab struct {
	cfg      Config
	log      *slog.Logger
	bus      *bus
	routes   *routeTable
	sessions *sessionTable
	speakers *speakers
	repairs  *repairs
	alive    changes // of sessions between routers
	reroutes *rerouter
	since    time.Time

	hypers    *hypervisors
	pairs     *pairs
	witnesses *witnesses
	faults    *faults
	holds     *holds // what faults keep from running
	qemu      qemuTrust
	plugging  sync.Mutex // held by whoever moves a VM's port, or builds

	turn     chan struct{} // holds one token: whoever has it may change the lab
	occupied atomic.Bool   // see Occupy
	// unannounced are machines that were plugged in elsewhere and whose LANs
	// have not been told yet. It is for whoever has the turn.
	unannounced map[string]bool

	mu         sync.Mutex
	migrations map[string]*migration // by VM
	leftAtRest topo.Size             // of memory, before the first of those that count it; see roomToMove
	fabric     *fabric.Fabric
	plan       *topo.Plan // the last plan that Apply finished
	pending    *topo.Plan // what a failed Apply left half done, or an Apply is at
	lastErr    error      // of the last Apply
	lastTime   *Timeline
	abort      context.CancelCauseFunc // ends the Apply or Still that is running, if any
}

// New makes a lab that is not built yet.
func New(cfg Config) *Lab {
	if cfg.Deadline <= 0 {
		cfg.Deadline = DefaultDeadline
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	l := &Lab{cfg: cfg, log: cfg.Log, bus: newBus(), routes: newRouteTable(), sessions: newSessionTable(),
		since: time.Now(), turn: make(chan struct{}, 1), unannounced: map[string]bool{}, migrations: map[string]*migration{}}
	l.speakers = newSpeakers(l.observe, l.forget, l.log)
	l.repairs = newRepairs(l.observe, func(node string) bool { return l.held(node, repairProcess) }, l.log)
	l.hypers = newHypervisors(l)
	l.reroutes = newRerouter(l)
	l.pairs, l.witnesses = newPairs(l), newWitnesses(l)
	l.faults, l.holds = newFaults(l), newHolds()
	l.speakers.held = func(node string) bool { return l.held(node, speakerProcess) }
	l.turn <- struct{}{}
	return l
}

// ErrNotBuilt is returned by what needs a built lab.
var ErrNotBuilt = errors.New("nothing is deployed")

// Name of the lab; empty until it is known.
func (l *Lab) Name() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cfg.Name
}

// Plan is the plan that the last finished Apply made real, or nil.
func (l *Lab) Plan() *topo.Plan {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.plan
}

// Fabric is the lab's namespaces and links, or nil before the first Apply.
func (l *Lab) Fabric() *fabric.Fabric {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fabric
}

// Speaker is the BGP speaker of a router, if it has one that runs.
func (l *Lab) Speaker(node string) (*bgp.Speaker, bool) { return l.speakers.get(node) }

// Subscribe returns a view of the lab's events from now on. It never holds the
// lab up: what a subscriber does not read waits for it, a million events long, and
// it calls Refill when it has read all that there was; later ones are lost and
// counted.
func (l *Lab) Subscribe() *Subscription {
	s := l.bus.subscribe(0)
	l.bus.mu.Lock()
	s.whole = true
	l.bus.mu.Unlock()
	return s
}

// LostEvents is how many events those who called Subscribe have lost until now.
func (l *Lab) LostEvents() int {
	l.bus.mu.Lock()
	defer l.bus.mu.Unlock()
	return l.bus.missed
}

// Emit puts an event of the caller's on the lab's time line (experiments mark
// their steps with it).
func (l *Lab) Emit(e event.Event) { l.observe(e) }

// observe takes every event of the lab: the tables first, which must not miss
// one, then the bus, whose readers may.
func (l *Lab) observe(e event.Event) {
	l.routes.observe(e)
	l.sessions.observe(e)
	l.alive.observe(e)
	l.reroutes.observe(e)
	l.pairs.observe(e)
	l.bus.publish(e)
}

// forget drops what the speaker of node reported.
func (l *Lab) forget(node string) {
	l.routes.forget(node)
	l.sessions.forget(node)
}

// errDestroyed ends what is overtaken by Destroy.
var errDestroyed = errors.New("the lab is being destroyed")

// Destroy removes every process and kernel object of the lab. It is safe on a
// lab that was never built or half built; an Apply or Still under way is given
// up.
func (l *Lab) Destroy(ctx context.Context) error {
	l.mu.Lock()
	if l.abort != nil {
		l.abort(errDestroyed)
	}
	l.mu.Unlock()
	l.reroutes.halt()
	if err := l.take(ctx); err != nil {
		return fmt.Errorf("destroy lab %s: %w", l.Name(), err)
	}
	defer l.give()
	return l.destroy(ctx)
}

// destroy is Destroy for whoever has the turn.
func (l *Lab) destroy(ctx context.Context) error {
	start := time.Now()
	l.faults.end()
	l.reroutes.halt()
	err := errors.Join(l.endMigrations(ctx, errDestroyed), l.hypers.stopAll(), l.witnesses.stopAll(), l.repairs.killAll(), l.speakers.stopAll(ctx))
	if f := l.Fabric(); f != nil {
		err = errors.Join(err, f.Destroy(ctx))
	}
	err = errors.Join(err, l.hypers.forget(), frr.Clean(l.Name()))
	l.routes.reset()
	l.sessions.reset()
	l.pairs.reset()
	clear(l.unannounced)
	l.mu.Lock()
	l.plan, l.pending, l.fabric = nil, nil, nil
	l.mu.Unlock()
	if err != nil {
		return fmt.Errorf("destroy lab %s: %w", l.Name(), err)
	}
	l.observe(event.New("", "lab.destroyed", map[string]string{"took": time.Since(start).Round(time.Millisecond).String()}))
	return nil
}

// take waits for the turn to change the lab.
func (l *Lab) take(ctx context.Context) error {
	select {
	case <-l.turn:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for another change of the lab to end: %w", context.Cause(ctx))
	}
}

func (l *Lab) give() { l.turn <- struct{}{} }

// open makes sure that the lab has a name and a fabric.
func (l *Lab) open(plan *topo.Plan) (*fabric.Fabric, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cfg.Name == "" {
		l.cfg.Name = plan.Lab
	}
	if plan.Lab != l.cfg.Name {
		return nil, fmt.Errorf("the plan is for lab %q, this is lab %q", plan.Lab, l.cfg.Name)
	}
	if l.fabric != nil {
		return l.fabric, nil
	}
	f, err := fabric.New(l.cfg.Name, l.observe)
	if err != nil {
		return nil, err
	}
	l.fabric = f
	return f, nil
}

// nodeNames are the nodes that exist.
func (l *Lab) nodeNames() []string {
	f := l.Fabric()
	if f == nil {
		return nil
	}
	return keys(f.Current().Nodes)
}
