package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/hypervisor"
	"github.com/vpclab/vpclab/topo"
)

// vmsDir holds a folder a lab: memories and disks of its guests, by host, their
// control sockets, and the record whose they are. It is on a tmpfs, as guests do
// not survive their kernel.
var vmsDir = "/run/vpclab-vms"

// maxAgentRestarts is how often a host's agent is started again within
// agentWindow.
const (
	maxAgentRestarts = 20
	agentWindow      = time.Minute
	ownDeadline      = 60 * time.Second
)

// hypervisors are the agents of a lab's hypervisor hosts: each is started when
// its host first has to do with a guest, and again when it dies.
type hypervisors struct {
	lab *Lab
	wg  sync.WaitGroup // the goroutines that watch the agents

	// halting is held by whoever ends a guest until the record says so, and by
	// whoever has an agent bring back the guests that the record has there.
	halting sync.Mutex

	mu     sync.Mutex
	dir    string
	owners *owners // nil until the first guest
	hosts  map[string]*hypervisorHost
	specs  map[string]guest.Spec // of the guests that have files at a host
	begun  map[string]bool       // those that were started there, and not halted since
}

// hypervisorHost is one host's agent.
type hypervisorHost struct {
	name string

	turn     sync.Mutex // held by whoever starts the agent
	proc     *hypervisor.Process
	deaths   []time.Time
	stopping bool
}

func newHypervisors(l *Lab) *hypervisors {
	return &hypervisors{lab: l, hosts: map[string]*hypervisorHost{}, specs: map[string]guest.Spec{}, begun: map[string]bool{}}
}

// open makes the lab's folder and its record.
func (h *hypervisors) open() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.owners != nil {
		return nil
	}
	h.dir = filepath.Join(vmsDir, h.lab.Name())
	if err := os.RemoveAll(h.dir); err != nil { // of a lab that was killed, with its guests
		return fmt.Errorf("folder of VMs: %w", err)
	}
	o, err := openOwners(h.dir)
	if err != nil {
		return fmt.Errorf("folder of VMs: %w", err)
	}
	h.owners = o
	return nil
}

// record is whose the guests are; nil: there are none.
func (h *hypervisors) record() *owners {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.owners
}

func (h *hypervisors) host(name string) *hypervisorHost {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.hosts[name] == nil {
		h.hosts[name] = &hypervisorHost{name: name}
	}
	return h.hosts[name]
}

// agent is the agent of a host, started if there is none.
func (h *hypervisors) agent(ctx context.Context, plan *topo.Plan, name string) (*hypervisor.Process, error) {
	if plan == nil {
		return nil, ErrNotBuilt
	}
	host := h.host(name)
	host.turn.Lock()
	defer host.turn.Unlock()
	if host.proc != nil && !ended(host.proc) {
		return host.proc, nil
	}
	if host.stopping {
		return nil, errDestroyed
	}
	if h.lab.held(name, agentProcess) {
		return nil, &DownError{name}
	}
	now := time.Now()
	for len(host.deaths) > 0 && now.Sub(host.deaths[0]) > agentWindow {
		host.deaths = host.deaths[1:]
	}
	if len(host.deaths) > maxAgentRestarts {
		return nil, fmt.Errorf("the hypervisor agent of %s died %d times within %v (%w)", name, len(host.deaths), agentWindow, host.proc.Err())
	}
	addr, err := plan.HostAddr(name)
	if err != nil {
		addr = netip.Addr{} // it can keep guests all the same
	}
	f := h.lab.Fabric()
	if f == nil {
		return nil, ErrNotBuilt
	}
	again := host.proc != nil
	proc, err := hypervisor.Start(ctx, f, name, addr, h.dir, f.NSPath(name), arbiter{h.lab}, h.lab.observe)
	if err != nil {
		return nil, err
	}
	host.proc = proc
	kind := "agent.started"
	if again {
		kind = "agent.restarted"
	}
	h.lab.observe(event.New(name, kind, map[string]string{"pid": strconv.Itoa(proc.Pid())}))
	h.wg.Add(1)
	go func() {
		defer h.wg.Done()
		h.watch(host, proc)
	}()
	return proc, nil
}

func ended(p *hypervisor.Process) bool {
	select {
	case <-p.Done():
		return true
	default:
		return false
	}
}

// watch waits for the end of an agent and starts another, which finds the
// host's guests again.
func (h *hypervisors) watch(host *hypervisorHost, proc *hypervisor.Process) {
	<-proc.Done()
	host.turn.Lock()
	stopping := host.stopping
	host.deaths = append(host.deaths, time.Now())
	host.turn.Unlock()
	if stopping {
		return
	}
	why := "killed"
	if err := proc.Err(); err != nil {
		why = err.Error()
	}
	h.lab.observe(event.New(host.name, "agent.died", map[string]string{"error": why}))
	ctx, cancel := context.WithTimeoutCause(context.Background(), ownDeadline, fmt.Errorf("waited %v for a new agent", ownDeadline))
	defer cancel()
	if err := h.own(ctx, host.name); err != nil {
		h.lab.log.Error("hypervisor agent not brought back", "host", host.name, "error", err)
		h.lab.observe(event.New(host.name, "agent.given-up", map[string]string{"error": err.Error()}))
	}
}

// own tells the agent of a host which guests are its, but for those about whom
// is being decided.
func (h *hypervisors) own(ctx context.Context, host string) error {
	plan := h.lab.planOrPending()
	if plan == nil || h.lab.held(host, agentProcess) {
		return nil
	}
	agent, err := h.agent(ctx, plan, host)
	if err != nil {
		return err
	}
	var errs []error
	for vm, at := range h.record().all() {
		if _, paired := h.lab.pairs.of(vm); paired || at != host || h.lab.migrationOf(vm) != nil || h.lab.held(vm, guestProcess) {
			continue
		}
		errs = append(errs, h.bringBack(ctx, agent, vm, host))
	}
	if f := h.lab.Fabric(); f != nil {
		errs = append(errs, h.lab.pairs.keep(ctx, f, plan, host))
	}
	return errors.Join(errs...)
}

// bringBack has an agent keep a guest that is still its.
func (h *hypervisors) bringBack(ctx context.Context, agent *hypervisor.Process, vm, host string) error {
	h.halting.Lock()
	defer h.halting.Unlock()
	spec, known := h.spec(vm)
	f := h.lab.Fabric()
	if !known || f == nil || h.record().of(vm) != host || h.lab.migrationOf(vm) != nil {
		return nil
	}
	return agent.Own(ctx, spec, f.NSPath(vm))
}

// abandon has the host of a guest not start it again when it ends; own has it do
// that again.
func (h *hypervisors) abandon(ctx context.Context, vm string) error {
	record := h.record()
	if record == nil {
		return nil
	}
	agent := h.running(record.of(vm))
	if agent == nil {
		return nil
	}
	return agent.Disown(ctx, vm)
}

func (h *hypervisors) spec(vm string) (guest.Spec, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s, ok := h.specs[vm]
	return s, ok
}

// specOf is a guest of the plan in the words of package guest.
func specOf(n topo.Node) guest.Spec {
	g := n.Guest
	return guest.Spec{
		Name: n.Name, Kind: g.Kind, Image: g.Image, Kernel: g.Kernel, Work: int64(g.Work), Memory: int64(g.Memory), Disk: int64(g.Disk), Workload: g.Workload, Scale: g.Scale,
		Seed: g.Seed, Port: g.Port, Trace: g.Trace,
	}
}

// halt ends the guests that plan does not have as they are: those that have
// gone, with all that they had; those of another make likewise; and those that
// are to run on another host, whose disk then is there.
func (h *hypervisors) halt(ctx context.Context, plan *topo.Plan) error {
	record := h.record()
	if record == nil {
		return nil
	}
	var errs []error
	for vm, host := range record.all() {
		if _, paired := h.lab.pairs.of(vm); paired || h.lab.migrationOf(vm) != nil {
			continue
		}
		n, stays := plan.Node(vm)
		stays = stays && n.Guest != nil
		spec, _ := h.spec(vm)
		switch {
		case stays && n.Host == host && n.Pair != nil: // its seats start it anew, from its disk
			errs = append(errs, h.end(ctx, vm, host))
		case stays && n.Host == host && specOf(*n) == spec:
		case stays && specOf(*n) == spec:
			errs = append(errs, h.carry(ctx, vm, host, n.Host))
		default:
			errs = append(errs, h.remove(ctx, vm))
		}
	}
	return errors.Join(errs...)
}

// carry stops a guest and brings its disk to another host, as by hand.
func (h *hypervisors) carry(ctx context.Context, vm, from, to string) error {
	h.halting.Lock()
	defer h.halting.Unlock()
	if err := h.end(ctx, vm, from); err != nil {
		return err
	}
	there := filepath.Join(h.dir, "hosts", to, vm)
	err := errors.Join(os.RemoveAll(there), os.MkdirAll(filepath.Dir(there), 0o700))
	if err == nil {
		err = os.Rename(filepath.Join(h.dir, "hosts", from, vm), there)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("bring the disk of %s from %s to %s: %w", vm, from, to, err)
	}
	return h.record().set(vm, to)
}

// remove ends a guest and removes what every host has of it.
func (h *hypervisors) remove(ctx context.Context, vm string) error {
	h.halting.Lock()
	defer h.halting.Unlock()
	if err := h.end(ctx, vm, h.record().of(vm)); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(h.dir, "hosts", "*", vm))
	for _, f := range files {
		err = errors.Join(err, os.RemoveAll(f))
	}
	h.mu.Lock()
	delete(h.specs, vm)
	h.mu.Unlock()
	return errors.Join(err, h.record().set(vm, ""))
}

// end ends a guest. An agent that has just died is brought back for that: its
// guests run on without it.
func (h *hypervisors) end(ctx context.Context, vm, host string) error {
	h.mu.Lock()
	_, had := h.hosts[host]
	h.mu.Unlock()
	if !had {
		return nil
	}
	agent, err := h.agent(ctx, h.lab.planOrPending(), host)
	if err == nil {
		err = agent.Halt(ctx, vm)
	}
	if err != nil {
		return fmt.Errorf("end the guest %s at %s: %w", vm, host, err)
	}
	h.mu.Lock()
	delete(h.begun, vm)
	h.mu.Unlock()
	return nil
}

// running is the agent of a host if there is one.
func (h *hypervisors) running(name string) *hypervisor.Process {
	h.mu.Lock()
	host := h.hosts[name]
	h.mu.Unlock()
	if host == nil {
		return nil
	}
	host.turn.Lock()
	defer host.turn.Unlock()
	if host.proc == nil || ended(host.proc) {
		return nil
	}
	return host.proc
}

// ensure has the guests of plan run.
func (h *hypervisors) ensure(ctx context.Context, f *fabric.Fabric, plan *topo.Plan) error {
	guests := plan.Guests()
	if len(guests) == 0 {
		return nil
	}
	if err := h.open(); err != nil {
		return err
	}
	var idle []topo.Node
	for _, n := range guests {
		if n.Pair != nil || h.lab.migrationOf(n.Name) != nil {
			continue
		}
		spec := specOf(n)
		if was, there := h.spec(n.Name); there && was == spec && h.record().of(n.Name) == n.Host && h.runs(n.Name) {
			continue
		}
		idle = append(idle, n)
	}
	if err := roomToStart(idle); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, n := range idle {
		g.Go(func() error { return h.begin(gctx, f, plan, n) })
	}
	return g.Wait()
}

// begin starts a guest where the plan has it; where a fault keeps its host down,
// the host starts it when it boots.
func (h *hypervisors) begin(ctx context.Context, f *fabric.Fabric, plan *topo.Plan, n topo.Node) error {
	agent, err := h.agent(ctx, plan, n.Host)
	var down *DownError
	if err != nil && !errors.As(err, &down) {
		return err
	}
	if err := h.record().set(n.Name, n.Host); err != nil {
		return err
	}
	spec := specOf(n)
	h.mu.Lock()
	h.specs[n.Name] = spec
	h.mu.Unlock()
	if down == nil {
		if err := agent.Own(ctx, spec, f.NSPath(n.Name)); err != nil {
			return err // the next change of the lab tries again
		}
	}
	h.mu.Lock()
	h.begun[n.Name] = true
	h.mu.Unlock()
	return nil
}

// runs tells whether a guest was started, and not halted since.
func (h *hypervisors) runs(vm string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.begun[vm]
}

// stopAll ends the agents. Their guests end with their namespaces.
func (h *hypervisors) stopAll() error {
	h.mu.Lock()
	hosts := h.hosts
	h.mu.Unlock()
	var errs []error
	for _, host := range hosts {
		host.turn.Lock()
		host.stopping = true
		if host.proc != nil {
			errs = append(errs, host.proc.Kill())
		}
		host.turn.Unlock()
	}
	h.wg.Wait()
	return errors.Join(errs...)
}

// forget removes what is left when the guests have ended.
func (h *hypervisors) forget() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.hosts, h.specs, h.begun = map[string]*hypervisorHost{}, map[string]guest.Spec{}, map[string]bool{}
	if h.owners == nil {
		return nil
	}
	err := errors.Join(h.owners.close(), os.RemoveAll(h.dir))
	h.owners = nil
	_ = os.Remove(vmsDir) // not while another lab has a folder
	return err
}

// cleanVMs removes what labs that were killed left of their guests.
func cleanVMs(alive func(lab string) bool) (labs []string, err error) {
	entries, err := os.ReadDir(vmsDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	for _, e := range entries {
		if !alive(e.Name()) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(vmsDir, e.Name())))
			labs = append(labs, e.Name())
		}
	}
	return labs, err
}
