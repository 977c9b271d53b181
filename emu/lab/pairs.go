package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/hypervisor"
	"github.com/vpclab/vpclab/emu/lease"
	"github.com/vpclab/vpclab/emu/replicate"
	"github.com/vpclab/vpclab/topo"
)

// Ports of the hosts' network. A host is a seat of some VMs and the witness of
// others, so those have one of their own.
const (
	witnessPort     = lease.Port + 1 // UDP
	replicationPort = 7700           // TCP, and the number of the pair
)

// Bounds of what a pair is waited for.
const (
	activeWithin = 60 * time.Second // a seat runs the VM: the guest's start on a busy machine, and a lease
	routedWithin = 60 * time.Second
)

// pairs is what the lab knows of its protected VMs. Who runs one is between its
// seats and their witness (package lease); the lab starts those, is told by
// events, and has the network follow.
type pairs struct {
	lab *Lab
	wg  sync.WaitGroup // the goroutines that have the network follow

	turn sync.Mutex // held by whoever begins or ends seats

	mu    sync.Mutex
	known map[string]*protected // by VM
	home  map[string]bool       // VMs that were away when their pair ended, and of whose return nobody was told
}

// protected is one VM.
type protected struct {
	pair     topo.Pair
	spec     topo.Guest
	instance uint64 // of its lease

	active  string // seat; "": none has run it yet
	since   event.Mono
	gen     uint64 // of the lease that it has
	synced  bool   // the other may take over
	changed chan struct{}
}

func newPairs(l *Lab) *pairs {
	return &pairs{lab: l, known: map[string]*protected{}, home: map[string]bool{}}
}

// seatOf is where a VM is active by what the seats have told; the VM's own node
// where it is no pair, or has not begun.
func (p *pairs) seatOf(vm string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if k := p.known[vm]; k != nil && k.active != "" {
		return k.active
	}
	return vm
}

// seated is a plan with its VMs where they are active.
func (l *Lab) seated(plan *topo.Plan) *topo.Plan {
	if plan == nil {
		return nil
	}
	return plan.Seated(l.pairs.seatOf)
}

// of is what is known of a VM, as it is at this moment.
func (p *pairs) of(vm string) (protected, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := p.known[vm]
	if k == nil {
		return protected{}, false
	}
	return *k, true
}

// at lists the VMs that have a seat at a host, in order.
func (p *pairs) at(host string) (all []protected) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, vm := range slices.Sorted(maps.Keys(p.known)) {
		if k := p.known[vm]; slices.Contains(k.pair.Hosts[:], host) {
			all = append(all, *k)
		}
	}
	return all
}

// witnessed lists the VMs whose witness is at a host, in order.
func (p *pairs) witnessed(host string) (all []protected) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, vm := range slices.Sorted(maps.Keys(p.known)) {
		if k := p.known[vm]; k.pair.Witness == host {
			all = append(all, *k)
		}
	}
	return all
}

// observe takes what seats tell. What an agent says that was overtaken by the
// next lease does not count.
func (p *pairs) observe(e event.Event) {
	if !strings.HasPrefix(e.Kind, "pair.") {
		return
	}
	p.mu.Lock()
	k := p.known[e.Node]
	moved := false
	if k != nil {
		switch e.Kind {
		case "pair.activated":
			gen, err := strconv.ParseUint(e.Attr["gen"], 10, 64)
			if err != nil || gen < k.gen {
				break
			}
			moved = k.active != e.Attr["seat"] && (k.active != "" || e.Attr["seat"] != k.pair.VM)
			k.active, k.since, k.gen, k.synced = e.Attr["seat"], e.T, gen, false
			p.noted(k)
		case "pair.synced":
			k.synced = e.Attr["seat"] == k.active || k.synced
			p.noted(k)
		case "pair.degraded":
			k.synced = false
			p.noted(k)
		}
	}
	p.mu.Unlock()
	if moved {
		p.wg.Go(func() { p.follow(e.Node) })
	}
}

// noted wakes up who waits for a change, and has the record say where the VM is.
// The caller has the lock.
func (p *pairs) noted(k *protected) {
	close(k.changed)
	k.changed = make(chan struct{})
	if r := p.lab.hypers.record(); r != nil && k.active != "" {
		if err := r.set(k.pair.VM, k.pair.HostOf(k.active)); err != nil {
			p.lab.log.Error("record of a pair not written", "vm", k.pair.VM, "error", err)
		}
	}
}

// follow has an l3vpn lead to where a VM is active now. In a vpls its host has
// done that, by announcing it.
func (p *pairs) follow(vm string) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), routedWithin, fmt.Errorf("waited %v for the network to lead to the VM", routedWithin))
	defer cancel()
	err := p.lab.lead(ctx, vm)
	if err == nil || errors.Is(err, ErrNotBuilt) {
		return
	}
	p.lab.log.Error("network does not follow", "vm", vm, "error", err)
	p.lab.observe(event.New(vm, "pair.not-routed", map[string]string{"error": err.Error()}))
}

// lead applies the plan with the VM where it is.
func (l *Lab) lead(ctx context.Context, vm string) error {
	if err := l.take(ctx); err != nil {
		return err
	}
	defer l.give()
	plan := l.Plan()
	if plan == nil {
		return ErrNotBuilt
	}
	n, ok := plan.Node(vm)
	if !ok || n.Pair == nil {
		return nil
	}
	if v, ok := plan.VPC(n.VPC); !ok || v.Service != topo.ServiceL3VPN {
		return nil
	}
	if _, err := l.apply(ctx, plan, ApplyOptions{Trust: true}, event.Now()); err != nil {
		return err
	}
	l.observe(event.New(vm, "pair.routed", map[string]string{"seat": l.pairs.seatOf(vm)}))
	return nil
}

// wait waits for a VM to be as pleases.
func (p *pairs) wait(ctx context.Context, vm string, pleases func(protected) bool) error {
	for {
		p.mu.Lock()
		k := p.known[vm]
		if k == nil {
			p.mu.Unlock()
			return &NoSuchError{What: "protected VM", Name: vm, Have: p.names()}
		}
		if pleases(*k) {
			p.mu.Unlock()
			return nil
		}
		changed := k.changed
		p.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (p *pairs) names() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(maps.Keys(p.known))
}

// ensure has the pairs of a plan kept: their witnesses, and both seats. It
// returns when a seat of each runs its VM.
func (p *pairs) ensure(ctx context.Context, f *fabric.Fabric, plan *topo.Plan) error {
	all := plan.Pairs()
	if len(all) == 0 {
		return nil
	}
	if err := p.lab.hypers.open(); err != nil {
		return err
	}
	if err := roomToProtect(plan, p.unknown(all)); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, pair := range all {
		p.enter(plan, pair)
		g.Go(func() error { return p.begin(gctx, f, plan, pair) })
	}
	return g.Wait()
}

// unknown are those of some pairs that are not kept yet.
func (p *pairs) unknown(all []topo.Pair) []topo.Pair {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(all), func(pair topo.Pair) bool { return p.known[pair.VM] != nil })
}

// enter notes a pair that is to be kept. One that was there before as another VM
// or with other seats has been ended by then: see halt.
func (p *pairs) enter(plan *topo.Plan, pair topo.Pair) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known[pair.VM] == nil {
		n, _ := plan.Node(pair.VM)
		p.known[pair.VM] = &protected{pair: pair, spec: *n.Guest, instance: rand.Uint64(), changed: make(chan struct{})}
	}
}

// begin has one pair kept.
func (p *pairs) begin(ctx context.Context, f *fabric.Fabric, plan *topo.Plan, pair topo.Pair) error {
	var errs []error
	if err := p.lab.witnesses.serve(ctx, f, plan, pair.Witness); err != nil {
		errs = append(errs, err)
	}
	for _, host := range pair.Hosts {
		if err := p.keep(ctx, f, plan, host); err != nil {
			errs = append(errs, err)
		}
	}
	k, _ := p.of(pair.VM)
	if k.active != "" || len(errs) > 0 {
		return errors.Join(errs...)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, activeWithin, fmt.Errorf("no seat runs %s after %v", pair.VM, activeWithin))
	defer cancel()
	return p.wait(ctx, pair.VM, func(k protected) bool { return k.active != "" })
}

// keep has the agent of a host keep the seats that it has, unless the host is
// down.
func (p *pairs) keep(ctx context.Context, f *fabric.Fabric, plan *topo.Plan, host string) error {
	if len(p.at(host)) == 0 || p.lab.held(host, agentProcess) {
		return nil
	}
	agent, err := p.lab.hypers.agent(ctx, plan, host)
	if err != nil {
		return err
	}
	p.turn.Lock()
	defer p.turn.Unlock()
	var errs []error
	for _, k := range p.at(host) { // those that are still to be kept
		order, err := p.order(f, plan, k, host)
		if err == nil {
			err = agent.Protect(ctx, order)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// order is a seat as its host's agent is told it.
func (p *pairs) order(f *fabric.Fabric, plan *topo.Plan, k protected, host string) (hypervisor.Pair, error) {
	vm, ok := plan.Node(k.pair.VM)
	if !ok {
		return hypervisor.Pair{}, fmt.Errorf("there is no VM %s", k.pair.VM)
	}
	mine := k.pair.VM
	if host == k.pair.Hosts[1] {
		mine = k.pair.Standby
	}
	port, ok := plan.Port(mine)
	if !ok {
		return hypervisor.Pair{}, fmt.Errorf("seat %s is not plugged in", mine)
	}
	cfg, err := k.lease(plan)
	if err != nil {
		return hypervisor.Pair{}, err
	}
	here, peer := cfg.Members[lease.HostA].Addr.Addr(), cfg.Members[lease.HostB].Addr.Addr()
	if host == k.pair.Hosts[1] {
		here, peer = peer, here
	}
	listen := replicationPort + uint16(k.pair.Index)
	return hypervisor.Pair{
		VM: k.pair.VM, Seat: mine, Spec: specOf(*vm), NetNS: f.NSPath(mine),
		Port: port.B.Ifname, MAC: port.A.MAC, Addr: port.A.Addr.Addr(),
		Here: netip.AddrPortFrom(here, listen), Peer: netip.AddrPortFrom(peer, listen),
		Lease:     cfg,
		Replicate: replicate.Options{Mode: k.pair.Mode, Epoch: k.pair.Epoch, Silence: k.pair.Silence},
	}, nil
}

// lease is that of a pair, the same at all three.
func (k *protected) lease(plan *topo.Plan) (lease.Config, error) {
	c := lease.Config{VM: k.pair.VM, Instance: k.instance, Silence: k.pair.Silence}
	// Who is given time to be silent is given as much and a half to renew its
	// lease: on a machine that stalls so long both come late.
	c.Term = k.pair.Silence * 3 / 2
	for i, host := range []string{k.pair.Hosts[0], k.pair.Hosts[1], k.pair.Witness} {
		at, err := plan.HostAddr(host)
		if err != nil {
			return c, err
		}
		port := uint16(lease.Port)
		if lease.Party(i) == lease.Third {
			port = witnessPort
		}
		c.Members[i] = lease.Member{Name: host, Addr: netip.AddrPortFrom(at, port)}
	}
	return c.Checked()
}

// halt ends the pairs that plan does not have as they are. A VM that stays and
// has no standby any more keeps its disk, and is started from it by whoever has
// it then.
func (p *pairs) halt(ctx context.Context, plan *topo.Plan) error {
	p.mu.Lock()
	var gone []protected
	for _, k := range p.known {
		n, there := plan.Node(k.pair.VM)
		if !there || n.Pair == nil || *n.Pair != k.pair || *n.Guest != k.spec {
			gone = append(gone, *k)
		}
	}
	p.mu.Unlock()
	var errs []error
	for _, k := range gone {
		errs = append(errs, p.end(ctx, plan, k))
	}
	return errors.Join(errs...)
}

// end ends one.
func (p *pairs) end(ctx context.Context, plan *topo.Plan, k protected) error {
	p.turn.Lock()
	defer p.turn.Unlock()
	var errs []error
	for _, host := range k.pair.Hosts {
		if agent := p.lab.hypers.running(host); agent != nil {
			errs = append(errs, agent.Unprotect(ctx, k.pair.VM))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("end the seats of %s: %w", k.pair.VM, err)
	}
	if w := p.lab.witnesses.running(k.pair.Witness); w != nil {
		if err := w.Forget(ctx, k.pair.VM); err != nil {
			return err
		}
	}
	k = p.forget(k)
	if k.active == k.pair.Standby {
		p.lab.unannounced[k.pair.VM] = true // bridges know it at the other seat
	}
	dir := func(seat string) string { return filepath.Join(p.lab.hypers.dir, "hosts", k.pair.HostOf(seat), seat) }
	n, stays := plan.Node(k.pair.VM)
	stays = stays && n.Guest != nil && *n.Guest == k.spec
	record := p.lab.hypers.record()
	if !stays {
		return errors.Join(os.RemoveAll(dir(k.pair.VM)), os.RemoveAll(dir(k.pair.Standby)), record.set(k.pair.VM, ""))
	}
	if k.active == k.pair.Standby { // its disk is the one that counts
		p.mu.Lock()
		p.home[k.pair.VM] = true
		p.mu.Unlock()
		if err := errors.Join(os.RemoveAll(dir(k.pair.VM)), os.Rename(dir(k.pair.Standby), dir(k.pair.VM))); err != nil {
			return fmt.Errorf("bring the disk of %s to %s: %w", k.pair.VM, k.pair.Hosts[0], err)
		}
	}
	return errors.Join(os.RemoveAll(dir(k.pair.Standby)), record.set(k.pair.VM, k.pair.Hosts[0]))
}

// announce tells the LANs of VMs that are no pairs any more, and at home again.
func (p *pairs) announce(ctx context.Context, f *fabric.Fabric, plan *topo.Plan) error {
	p.mu.Lock()
	all := slices.Sorted(maps.Keys(p.home))
	clear(p.home)
	p.mu.Unlock()
	var errs []error
	for _, vm := range all {
		if port, ok := plan.Port(vm); ok {
			errs = append(errs, f.Announce(ctx, port.B.Node, port.B.Ifname, port.A.MAC, port.A.Addr.Addr()))
		}
	}
	return errors.Join(errs...)
}

// forget takes a pair out of the record, as it is by now: its seats may have said
// more while they were ended. Who waits for it hears that it is gone.
func (p *pairs) forget(k protected) protected {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := p.known[k.pair.VM]; now != nil {
		k = *now
		close(now.changed)
		delete(p.known, k.pair.VM)
	}
	return k
}

// reset forgets all when the lab is gone.
func (p *pairs) reset() {
	p.wg.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.known)
	clear(p.home)
}
