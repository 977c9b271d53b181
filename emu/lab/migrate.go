package lab

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/hypervisor"
	"github.com/vpclab/vpclab/emu/migrate"
	"github.com/vpclab/vpclab/emu/vmm"
	"github.com/vpclab/vpclab/emu/wanopt"
	"github.com/vpclab/vpclab/topo"
)

// MigrateRequest asks for a live migration.
type MigrateRequest struct {
	VM string `json:"vm"`
	// To is the host, as in files (site/number) or by the name of its node.
	To string `json:"to"`
	// Memory says how; see migrate.Options. The zero value is vpclab's own way.
	Memory migrate.Options `json:"memory"`
	// Disk says how the disk is copied; see migrate.DiskOptions.
	Disk migrate.DiskOptions `json:"disk"`
	// SharedDisk leaves the disk where it is: both hosts reach it.
	SharedDisk bool `json:"shared_disk,omitempty"`
	// Reuse counts what the destination still holds of an earlier stay.
	Reuse bool `json:"reuse,omitempty"`
	// QEMU are parameters of a migration by QEMU itself, and Within how long it may
	// copy memory while the VM runs; see hypervisor.Move.
	QEMU   vmm.Parameters `json:"qemu,omitzero"`
	Within time.Duration  `json:"within_ns,omitempty"`
	// FailAt makes an end fail at a step; see hypervisor.Move.
	FailAt string `json:"fail_at,omitempty"`
	// Verbose puts each step on the time line.
	Verbose bool `json:"verbose,omitempty"`
	// Ready is called when the VM could take its last round, which then waits
	// until GoAhead is closed: VMs that arrive together. Both or neither.
	Ready   func()          `json:"-"`
	GoAhead <-chan struct{} `json:"-"`
}

// Migration is what a live migration was. Times are of the lab's clock.
type Migration struct {
	VM   string `json:"vm"`
	From string `json:"from"` // nodes of the hosts
	To   string `json:"to"`

	Requested event.Mono          `json:"requested_ns"`
	Joined    event.Mono          `json:"joined_ns"`            // the destination's site is in the VPC
	Reached   event.Mono          `json:"reached_ns,omitempty"` // the network has the VM at its new host
	Replug    event.Mono          `json:"replug_ns,omitempty"`  // moving its port began
	Disk      *migrate.DiskReport `json:"disk,omitempty"`       // nil: it does not move
	Committed bool                `json:"committed"`            // it runs at its new host
	CarriedOn int                 `json:"carried_on,omitempty"` // how often it was carried on after an end had died
	WireOut   int64               `json:"wire_out"`             // bytes on the wire, headers included, from the source
	WireBack  int64               `json:"wire_back"`            // and towards it
	// Counted are the bytes of its own connections, as the kernel counts those:
	// what WireOut and WireBack are where others use the host's link at the same
	// time. Else they are what the host's interface has counted.
	Counted struct {
		Out, Back int64
	} `json:"counted"`
	migrate.Report `json:"report"`
	// QEMU is what QEMU says of a migration by itself; nil: it was none.
	QEMU *vmm.Stats `json:"qemu,omitempty"`
	// Stream is what the WAN optimiser at the source has counted, with the hash that
	// both ends have of QEMU's stream; nil: there was none.
	Stream *wanopt.Stats `json:"stream,omitempty"`
	// Checked is what a VM with a kernel of its own found at its new host; see
	// hypervisor.Outcome.
	Checked *guest.Verification `json:"checked,omitempty"`
}

// Phase is a part of a migration and how long it took.
type MigrationPhase struct {
	Name string        `json:"phase"`
	Took time.Duration `json:"took_ns"`
}

// Phases are join, disk, sync, memory and handover: joining the site, copying
// the disk, mirroring it while memory moves, copying memory while the VM runs,
// and the time that the VM stands.
func (m *Migration) Phases() []MigrationPhase {
	var all []MigrationPhase
	add := func(name string, from, to event.Mono) {
		if from != 0 && to > from {
			all = append(all, MigrationPhase{name, to.Sub(from)})
		}
	}
	add("join", m.Requested, m.Joined)
	if d := m.Disk; d != nil {
		add("disk", d.Began, d.InStep)
		add("sync", d.Mirrored, d.Settled)
	}
	add("memory", m.Began, m.PausedAt)
	add("handover", m.PausedAt, m.ResumedAt)
	add("rest", m.ResumedAt, m.Done)
	return all
}

// ErrMigrating refuses what would get in the way of a migration.
var ErrMigrating = errors.New("it is being migrated")

// Bounds of a migration's parts, beside those that package migrate has.
const (
	carryOnMost     = 5
	carryOnDeadline = 2 * time.Minute
	// An attempt to carry on that took so long found no way to the other host. A
	// VM that lacks pages waits for the WAN to come back; it could do nothing else.
	awayFor  = 10 * time.Second
	awayMost = 30 * time.Minute
)

// migration is one under way.
type migration struct {
	lab      *Lab
	req      MigrateRequest
	from, to string
	move     hypervisor.Move
	takes    topo.Size // of memory, beside what the VM takes where it is; 0: nobody counts it
	record   *owners
	report   *Migration

	// life is that of the migration, whoever gives up waiting for it; Destroy
	// ends it, and waits until ended is closed.
	life  context.Context
	end   context.CancelCauseFunc
	ended chan struct{}

	// port holds one while somebody moves the VM's port; it is taken before
	// Lab.plugging and before any mutex, none of which is held while waiting for it.
	port chan struct{}
	tell context.CancelFunc // ends the announcements; for whoever has the port
	told chan struct{}      // closed when they have ended

	mu      sync.Mutex // nothing else is waited for while it is held
	shared  bool       // another one used the same link meanwhile
	ids     [][16]byte // of its attempts
	plugged bool       // at the destination
	// pausedAt is when the VM stood, by what the Arbiter was told, and resumedAt
	// when it ran again, by what the target says: for a source that is gone.
	pausedAt, resumedAt event.Mono
}

// Migrate moves a guest to another host while it runs, and returns when nothing
// of it is left to be done. An error of which the Migration says Committed is
// about a VM that runs at its new host; else it runs where it was. ctx gives the
// migration up as long as it is not committed.
func (l *Lab) Migrate(ctx context.Context, req MigrateRequest) (*Migration, error) {
	if err := l.trusted(ctx, req); err != nil {
		return nil, fmt.Errorf("migrate %s: %w", req.VM, err)
	}
	requested := event.Now()
	m, err := l.beginMigration(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("migrate %s: %w", req.VM, err)
	}
	m.report.Requested = requested
	defer close(m.ended)
	defer l.endMigration(m)
	l.observe(event.New(req.VM, "migration.begun", map[string]string{"from": m.from, "to": m.to, "algorithm": m.move.Memory.Algorithm}))
	err = m.run(ctx)
	kind, attr := "migration.done", map[string]string{"host": m.to}
	if err != nil {
		attr["error"] = err.Error()
	}
	if !m.report.Committed {
		kind, attr["host"] = "migration.failed", m.from
	}
	l.observe(event.New(req.VM, kind, attr))
	if err != nil {
		return m.report, fmt.Errorf("migrate %s to %s: %w", req.VM, m.to, err)
	}
	return m.report, nil
}

// beginMigration checks what is asked for and enters it. It waits for a change
// of the lab that is under way, which may be about this VM; one that comes later
// sees what was entered.
func (l *Lab) beginMigration(ctx context.Context, req MigrateRequest) (*migration, error) {
	if err := l.take(ctx); err != nil {
		return nil, err
	}
	defer l.give()
	m, err := l.newMigration(req)
	if err != nil {
		return nil, err
	}
	m.life, m.end = context.WithCancelCause(context.WithoutCancel(ctx))
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, other := range l.migrations {
		if other.from == m.from || other.to == m.from || other.from == m.to {
			other.mu.Lock()
			other.shared, m.shared = true, true
			other.mu.Unlock()
		}
	}
	l.migrations[req.VM] = m
	return m, nil
}

// Algorithms move memory, by the names of scenario files: package migrate's, and
// QEMU's own ways of moving its guests.
var Algorithms = hypervisor.Algorithms

// QEMUParameters are those of a file, as QEMU is told them; nil: QEMU's own.
func QEMUParameters(q *topo.QEMU) vmm.Parameters {
	if q == nil {
		return vmm.Parameters{}
	}
	return vmm.Parameters{
		MaxBandwidth: int64(q.MaxBandwidth) / 8, DowntimeLimit: q.DowntimeLimit.Std(),
		Channels: q.MultifdChannels, ZstdLevel: q.MultifdZstdLevel, XBZRLECache: int64(q.XBZRLECacheSize),
		ThrottleBegin: q.CPUThrottleInitial, ThrottleStep: q.CPUThrottleIncrement, PostCopyRounds: q.Rounds,
	}
}

// CanMove tells why guests of a kind cannot be moved by an algorithm; nil: they
// can.
func CanMove(kind, algorithm string) error { return hypervisor.CanMove(kind, algorithm) }

// ByQEMU tells whether QEMU itself moves the memory, straight or by way of a pair.
func ByQEMU(algorithm string) bool { return hypervisor.ByQEMU(algorithm) }

// newMigration is what is asked for, if that can be done.
func (l *Lab) newMigration(req MigrateRequest) (*migration, error) {
	plan, f := l.Plan(), l.Fabric()
	if plan == nil || f == nil {
		return nil, ErrNotBuilt
	}
	if _, err := hypervisor.ParseFailAt(req.FailAt); err != nil {
		return nil, fmt.Errorf("%w: %w", errBadRequest, err)
	}
	n, err := guestOf(plan, req.VM)
	if err != nil {
		return nil, err
	}
	moved, err := plan.Do(topo.Operation{Do: "move", VM: req.VM, Host: plan.HostName(req.To)})
	if err != nil {
		return nil, err
	}
	there, _ := moved.Node(req.VM)
	if there.Addr != n.Addr {
		return nil, fmt.Errorf("%w: in an l3vpn a VM has another address at another site, and its connections would break: migrate within a site, or use a vpls", errBadRequest)
	}
	if req.Memory.Algorithm == "" {
		req.Memory.Algorithm = migrate.Own
	}
	if err := hypervisor.CanMove(n.Guest.Kind, req.Memory.Algorithm); err != nil {
		return nil, fmt.Errorf("%w: %w", errBadRequest, err)
	}
	for _, host := range []string{n.Host, there.Host} {
		if _, err := plan.HostAddr(host); err != nil {
			return nil, fmt.Errorf("%w: %w", errBadRequest, err)
		}
	}
	if l.migrationOf(req.VM) != nil {
		return nil, ErrMigrating
	}
	record := l.hypers.record()
	if record == nil {
		return nil, ErrNotBuilt
	}
	if at := record.of(req.VM); at != n.Host {
		return nil, fmt.Errorf("%w: the plan has it at %s and it is at %q: a change of the lab has failed half way, make it again", errBadRequest, n.Host, at)
	}
	takes, err := l.roomToMove(n, req.Memory.Algorithm)
	if err != nil {
		return nil, err
	}
	m := &migration{
		lab: l, req: req, takes: takes, from: n.Host, to: there.Host, record: record, report: &Migration{VM: req.VM, From: n.Host, To: there.Host},
		ended: make(chan struct{}), port: make(chan struct{}, 1),
	}
	m.move = hypervisor.Move{
		VM: req.VM, Spec: specOf(*n), From: m.from, NetNS: f.NSPath(req.VM), Memory: req.Memory,
		Disk: n.Guest.Disk > 0 && !req.SharedDisk, DiskHow: req.Disk, Reuse: req.Reuse, FailAt: req.FailAt, Verbose: req.Verbose, Hold: req.GoAhead != nil,
		QEMU: req.QEMU, Within: req.Within,
	}
	if err := m.move.Check(); err != nil {
		return nil, fmt.Errorf("%w: %w", errBadRequest, err)
	}
	m.move.ID = m.newID()
	return m, nil
}

// newID is the ID of an attempt.
func (m *migration) newID() (id [16]byte) {
	_, _ = rand.Read(id[:]) // does not fail on Linux
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ids = append(m.ids, id)
	return id
}

// is tells whether an ID is that of one of its attempts.
func (m *migration) is(id [16]byte) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Contains(m.ids, id)
}

// endMigration takes it out, if it is there still: the VM's next one may be.
func (l *Lab) endMigration(m *migration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.migrations[m.req.VM] == m {
		delete(l.migrations, m.req.VM)
	}
}

// endMigrations gives all of them up, and waits until nothing of them is under
// way.
func (l *Lab) endMigrations(ctx context.Context, why error) error {
	l.mu.Lock()
	all := slices.Collect(maps.Values(l.migrations))
	l.mu.Unlock()
	for _, m := range all {
		m.end(why)
	}
	for _, m := range all {
		select {
		case <-m.ended:
		case <-ctx.Done():
			return fmt.Errorf("waiting for the migration of %s to be given up: %w", m.req.VM, context.Cause(ctx))
		}
	}
	return nil
}

// migrationOf is the migration of a VM that is under way, or nil.
func (l *Lab) migrationOf(vm string) *migration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.migrations[vm]
}

// guestOf is the VM of that name, which must have a guest.
func guestOf(plan *topo.Plan, vm string) (*topo.Node, error) {
	n, ok := plan.Node(vm)
	var have []string
	for _, g := range plan.Guests() {
		have = append(have, g.Name)
	}
	switch {
	case !ok || n.Kind != topo.KindMachine:
		return nil, &NoSuchError{What: "VM", Name: vm, Have: have}
	case n.Guest == nil:
		return nil, fmt.Errorf("%w: nothing runs in %s: give it memory in the scenario file, or move it cold by `vpclab vm move`", errBadRequest, vm)
	}
	return n, nil
}

// run goes through the phases.
func (m *migration) run(ctx context.Context) error {
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	defer context.AfterFunc(m.life, func() { giveUp(context.Cause(m.life)) })()
	if err := m.join(ctx); err != nil {
		return fmt.Errorf("join: %w", err)
	}
	m.report.Joined = event.Now()
	m.phase("join")
	if err := m.keepNeighbours(); err != nil {
		return err
	}
	before := m.count()
	err := m.hand(ctx)
	// From here on the VM has to run somewhere, whoever gives up waiting.
	ctx, cancel := context.WithTimeoutCause(m.life, carryOnDeadline, fmt.Errorf("waited %v for the VM to run at the host that it belongs to", carryOnDeadline))
	defer cancel()
	if m.record.decided(m.move.ID) == "" {
		err = errors.Join(err, m.Abort(ctx))
	}
	if m.record.decided(m.move.ID) == committed {
		m.report.Committed = true
		err = m.arrive(ctx, err)
	} else {
		err = errors.Join(err, m.stay(ctx))
	}
	m.report.WireOut, m.report.WireBack = m.count().since(before)
	m.mu.Lock()
	if r := m.report; r.Committed && r.PausedAt == 0 { // the source has taken its report with it
		r.Algorithm, r.Began, r.PausedAt = m.move.Memory.Algorithm, r.Joined, m.pausedAt
	}
	if r := m.report; r.Committed && r.Disk == nil && m.move.Disk {
		r.Disk = &migrate.DiskReport{} // it moved, and nobody is left who could prove it
	}
	if r := m.report; r.Committed && r.ResumedAt == 0 {
		r.ResumedAt = m.resumedAt
	}
	if r := m.report; r.Committed { // nothing was missing, where nobody says when it came
		r.Done = max(r.Done, r.ResumedAt)
	}
	if m.shared { // what the host has sent was not for this one alone
		m.report.WireOut, m.report.WireBack = m.report.Counted.Out, m.report.Counted.Back
	}
	m.mu.Unlock()
	return err
}

// phase puts the end of a phase on the time line.
func (m *migration) phase(name string) {
	m.lab.observe(event.New(m.req.VM, "migration.phase", map[string]string{"phase": name}))
}

// join has the destination's site join the VPC, if it has not.
func (m *migration) join(ctx context.Context) error {
	plan := m.lab.Plan()
	if plan == nil {
		return ErrNotBuilt
	}
	n, host := node(plan, m.req.VM), node(plan, m.to)
	v, _ := plan.VPC(n.VPC)
	if slices.ContainsFunc(v.Attachments, func(a topo.Attachment) bool { return a.Site == host.Site && a.Joined }) {
		return nil
	}
	_, err := m.lab.Operate(ctx, topo.Operation{Do: "join", VPC: v.Name, Site: host.Site}, ApplyOptions{Trust: true})
	return err
}

func node(plan *topo.Plan, name string) topo.Node {
	n, _ := plan.Node(name)
	return *n
}

// keepNeighbours has the VM's kernel keep what it knows of its neighbours while
// its port moves and has no carrier (Linux 5.16; on older kernels its first
// packet afterwards waits for an ARP request).
func (m *migration) keepNeighbours() error {
	return m.lab.Fabric().Do(m.req.VM, func() error {
		err := os.WriteFile("/proc/sys/net/ipv4/conf/"+machineIf+"/arp_evict_nocarrier", []byte("0"), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("keep what the VM knows of its neighbours: %w", err)
		}
		return nil
	})
}

// hand has the two agents move the VM.
func (m *migration) hand(ctx context.Context) error {
	source, target, err := m.agents(ctx)
	if err != nil {
		return err
	}
	return m.between(ctx, source, target, m.move)
}

func (m *migration) agents(ctx context.Context) (source, target *hypervisor.Process, err error) {
	plan := m.lab.Plan()
	if source, err = m.lab.hypers.agent(ctx, plan, m.from); err == nil {
		target, err = m.lab.hypers.agent(ctx, plan, m.to)
	}
	return source, target, err
}

// between is one attempt: both ends at the same time, each of which ends the
// other when it fails.
func (m *migration) between(ctx context.Context, source, target *hypervisor.Process, move hypervisor.Move) error {
	at, err := target.Receive(ctx, move)
	if err != nil {
		return err
	}
	if move.Hold {
		defer m.holding(ctx, source)()
	}
	defer m.lab.hypers.attend(source, target)()
	type end struct {
		side    string
		outcome *hypervisor.Outcome
		err     error
	}
	ends := make(chan end, 2)
	go func() {
		o, err := source.Send(ctx, move, at)
		ends <- end{"source", o, err}
	}()
	go func() {
		o, err := target.Received(ctx, move)
		ends <- end{"target", o, err}
	}()
	var errs []error
	for range 2 {
		e := <-ends
		switch {
		case e.outcome == nil:
		case e.side == "source":
			m.account(e.outcome)
		default:
			m.resumedAt = cmp.Or(m.resumedAt, e.outcome.ResumedAt)
			m.report.Checked = cmp.Or(e.outcome.Checked, m.report.Checked)
		}
		if e.err != nil {
			errs = append(errs, e.err)
			quick, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			_, _ = source.Cancel(quick, move), target.Cancel(quick, move) // one of them may be gone
			cancel()
		}
	}
	return errors.Join(errs...)
}

// account takes over what the source has measured. What was carried on adds to
// what came before.
func (m *migration) account(o *hypervisor.Outcome) {
	m.mu.Lock()
	m.report.Counted.Out, m.report.Counted.Back = m.report.Counted.Out+o.WireOut, m.report.Counted.Back+o.WireBack
	m.mu.Unlock()
	r := m.report
	if r.CarriedOn == 0 {
		r.Report, r.Disk, r.QEMU, r.Stream = o.Report, o.Disk, o.QEMU, o.Stream
		return
	}
	r.Rounds = append(r.Rounds, o.Rounds...)
	r.BytesOut, r.BytesBack = r.BytesOut+o.BytesOut, r.BytesBack+o.BytesBack
	r.Reconnects += o.Reconnects
	r.Hash, r.Verify = o.Hash, o.Verify
	r.Faults.Demanded, r.Faults.Prepaged = r.Faults.Demanded+o.Faults.Demanded, r.Faults.Prepaged+o.Faults.Prepaged
	r.Faults.Waits = append(r.Faults.Waits, o.Faults.Waits...)
	r.ResumedAt, r.Done = cmp.Or(r.ResumedAt, o.ResumedAt), max(r.Done, o.Done, r.ResumedAt)
}

// holding has a VM that is to arrive with others wait for them. The function
// that it returns ends that.
func (m *migration) holding(ctx context.Context, source *hypervisor.Process) (stop func()) {
	sub := m.lab.bus.subscribe(0)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case e := <-sub.C:
				if e.Kind != "migration.ready" || e.Node != m.req.VM {
					continue
				}
			case <-ctx.Done():
				return
			}
			break
		}
		if m.req.Ready != nil {
			m.req.Ready()
		}
		select {
		case <-m.req.GoAhead:
			_ = source.Release(ctx, m.move) // if it is gone the migration fails by itself
		case <-ctx.Done():
		}
	}()
	return func() {
		cancel()
		<-done
		sub.Close()
	}
}

// arrive sees to it that a VM that is the target's runs there whole. cause is
// what went wrong so far.
func (m *migration) arrive(ctx context.Context, cause error) error {
	l := m.lab
	m.plug(ctx) // if nobody told that it was paused
	cause = m.carryOn(cause)
	ctx, cancel := context.WithTimeoutCause(m.life, carryOnDeadline, fmt.Errorf("waited %v for the VM to run at the host that it belongs to", carryOnDeadline))
	defer cancel()
	agent, err := l.hypers.agent(ctx, l.Plan(), m.to)
	if err == nil {
		err = agent.Own(ctx, m.move.Spec, m.move.NetNS)
	}
	err = errors.Join(cause, err, m.settle(ctx))
	m.phase("done")
	return err
}

// carryOn tries until nothing is missing at the target and all is proven, or no
// further attempt can help.
func (m *migration) carryOn(cause error) error {
	within := carryOnDeadline
	if m.move.Memory.Urgent() {
		within = awayMost
	}
	ctx, cancel := context.WithTimeoutCause(m.life, within, fmt.Errorf("tried for %v to carry the migration on", within))
	defer cancel()
	for tries := 0; tries < carryOnMost && cause != nil; {
		m.report.CarriedOn++
		m.lab.observe(event.New(m.req.VM, "migration.carried-on", map[string]string{"after": cause.Error()}))
		began := time.Now()
		next := m.rest(ctx)
		if next == nil {
			return nil
		}
		if errors.Is(next, hypervisor.ErrAnew) || ctx.Err() != nil {
			return errors.Join(cause, next)
		}
		cause = next
		if time.Since(began) < awayFor {
			tries++
		}
	}
	return cause
}

// rest carries on after an end has died: what the target lacks comes, and both
// memories are proven equal.
func (m *migration) rest(ctx context.Context) error {
	source, target, err := m.agents(ctx)
	if err != nil {
		return err
	}
	if _, err := target.Status(ctx, m.req.VM); err != nil {
		return fmt.Errorf("%w: %w", hypervisor.ErrAnew, err)
	}
	move := m.move
	move.Rest, move.FailAt, move.Hold = true, "", false
	move.ID = m.newID() // no connection of the former attempt is taken for one of this
	if err := m.record.commit(m.req.VM, move.ID, m.to); err != nil {
		return err
	}
	return m.between(ctx, source, target, move)
}

// stay sees to it that a VM that stays runs where it was.
func (m *migration) stay(ctx context.Context) error {
	agent, err := m.lab.hypers.agent(ctx, m.lab.Plan(), m.from)
	if err == nil {
		err = agent.Own(ctx, m.move.Spec, m.move.NetNS)
	}
	m.phase("stayed")
	return err
}

// settle makes the plan say where the VM is.
func (m *migration) settle(ctx context.Context) error {
	l := m.lab
	if err := l.take(ctx); err != nil {
		return err
	}
	defer l.give()
	plan := l.Plan()
	if plan == nil {
		return ErrNotBuilt
	}
	moved, err := plan.Do(m.operation())
	if err != nil {
		return err
	}
	l.endMigration(m)
	if agent := l.hypers.running(m.from); agent != nil {
		_ = agent.Disown(ctx, m.req.VM) // it has let go of it by itself, unless it died
	}
	_, err = l.apply(ctx, moved, ApplyOptions{Trust: true, Announce: true}, event.Now())
	return err
}

func (m *migration) operation() topo.Operation {
	host := m.to
	if plan := m.lab.Plan(); plan != nil {
		host = plan.HostName(m.to)
	}
	return topo.Operation{Do: "move", VM: m.req.VM, Host: host}
}

// relocate is a plan with the VMs where migrations have plugged them in.
func (l *Lab) relocate(plan *topo.Plan) (*topo.Plan, error) {
	plan = l.seated(plan)
	l.mu.Lock()
	var all []*migration
	for _, m := range l.migrations {
		all = append(all, m)
	}
	l.mu.Unlock()
	slices.SortFunc(all, func(a, b *migration) int {
		if a.req.VM < b.req.VM {
			return -1
		}
		return 1
	})
	for _, m := range all {
		n, ok := plan.Node(m.req.VM)
		if !ok || n.Guest == nil || n.Host != m.from {
			return nil, fmt.Errorf("%s would be changed or removed: %w", m.req.VM, ErrMigrating)
		}
		if !m.isPlugged() {
			continue
		}
		var err error
		if plan, err = plan.Do(topo.Operation{Do: "move", VM: m.req.VM, Host: plan.HostName(m.to)}); err != nil {
			return nil, err
		}
	}
	return plan, nil
}

// arbiter answers the agents.
type arbiter struct{ *Lab }

var _ hypervisor.Manager = arbiter{}

var errNoMigration = errors.New("no such migration is under way")

func (a arbiter) find(vm string, id [16]byte) (*migration, error) {
	m := a.migrationOf(vm)
	if m == nil || !m.is(id) {
		return nil, fmt.Errorf("VM %s, migration %x: %w", vm, id[:4], errNoMigration)
	}
	return m, nil
}

// Paused implements hypervisor.Manager.
func (a arbiter) Paused(ctx context.Context, vm string, id [16]byte, at event.Mono) {
	m, err := a.find(vm, id)
	if err != nil {
		return
	}
	m.mu.Lock()
	m.pausedAt = at
	m.mu.Unlock()
	a.observe(event.Event{T: at, Wall: time.Now(), Node: vm, Kind: "migration.paused"})
	m.plug(ctx)
}

// Commit implements hypervisor.Manager.
func (a arbiter) Commit(ctx context.Context, vm string, id [16]byte) error {
	m, err := a.find(vm, id)
	if err != nil {
		return err
	}
	if err := m.record.commit(vm, id, m.to); err != nil {
		return err
	}
	m.awaitPort(ctx)
	a.observe(event.New(vm, "migration.committed", map[string]string{"host": m.to}))
	return nil
}

// Abort implements hypervisor.Manager.
func (a arbiter) Abort(ctx context.Context, vm string, id [16]byte) error {
	m, err := a.find(vm, id)
	if err != nil {
		return err
	}
	return m.Abort(ctx)
}

// Abort keeps the VM at the source, and has its network there again before the
// source lets it go on.
func (m *migration) Abort(ctx context.Context) error {
	if err := m.record.abort(m.req.VM, m.move.ID); err != nil {
		return err
	}
	m.lab.observe(event.New(m.req.VM, "migration.aborted", map[string]string{"host": m.from}))
	m.unplug(ctx)
	return nil
}

// plug has the network lead to the destination host: the VM's port moves there,
// and the host announces it, from when the VM stands (CloudNet, section
// IV-A3). It returns when the first announcement is on its way. If it fails,
// settle makes up for it.
func (m *migration) plug(ctx context.Context) {
	m.port <- struct{}{}
	defer func() { <-m.port }()
	if m.isPlugged() || m.record.decided(m.move.ID) == aborted {
		return
	}
	m.report.Replug = event.Now()
	if err := m.replug(ctx, m.to); err != nil {
		m.lab.observe(event.New(m.req.VM, "migration.not-plugged", map[string]string{"host": m.to, "error": err.Error()}))
		return
	}
	m.report.Reached = event.Now()
}

// unplug takes that back.
func (m *migration) unplug(ctx context.Context) {
	m.port <- struct{}{}
	defer func() { <-m.port }()
	if !m.isPlugged() {
		return
	}
	if err := m.replug(ctx, m.from); err != nil {
		m.lab.observe(event.New(m.req.VM, "migration.not-plugged", map[string]string{"host": m.from, "error": err.Error()}))
	}
}

// portIn bounds how long the VM is kept from starting while its port moves.
const portIn = time.Second

// awaitPort lets a move of the port that is under way end, so that the VM's first
// packets are not lost. A change of the lab may hold it up for longer than a VM
// should stand for that.
func (m *migration) awaitPort(ctx context.Context) {
	timer := time.NewTimer(portIn)
	defer timer.Stop()
	select {
	case m.port <- struct{}{}:
		<-m.port
	case <-timer.C:
	case <-ctx.Done():
	}
}

// isPlugged tells whether the port is at the destination.
func (m *migration) isPlugged() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.plugged
}

// replug moves the port to a host and begins to announce the VM there. The
// caller has the port.
func (m *migration) replug(ctx context.Context, host string) error {
	l := m.lab
	if m.tell != nil {
		m.tell() // what is announced holds no longer
		<-m.told
	}
	plan := l.Plan()
	if plan == nil {
		return ErrNotBuilt
	}
	l.plugging.Lock()
	defer l.plugging.Unlock()
	there, err := plan.Do(topo.Operation{Do: "move", VM: m.req.VM, Host: plan.HostName(m.to)})
	if err != nil {
		return err
	}
	from, to := wire(plan, m.req.VM), wire(there, m.req.VM)
	if host == m.from {
		from, to = to, from
	}
	f := l.Fabric()
	if f == nil {
		return ErrNotBuilt
	}
	link := fabric.CompileLink(to)
	if err := f.Replug(ctx, from.Name(), link); err != nil {
		return err
	}
	m.mu.Lock()
	m.plugged = host == m.to
	m.mu.Unlock()
	first := make(chan struct{})
	tellCtx, cancel := context.WithCancel(context.Background())
	m.tell, m.told = cancel, make(chan struct{})
	go func(told chan struct{}) {
		defer close(told)
		err := f.AnnounceThen(tellCtx, to.B.Node, to.B.Ifname, to.A.MAC, to.A.Addr.Addr(), func() { close(first) })
		if err != nil && tellCtx.Err() == nil {
			l.observe(event.New(m.req.VM, "migration.not-announced", map[string]string{"host": host, "error": err.Error()}))
			select {
			case <-first:
			default:
				close(first)
			}
		}
	}(m.told)
	select {
	case <-first:
	case <-m.told:
	case <-ctx.Done():
	}
	return nil
}

// wire is the link that a machine is plugged in by.
func wire(plan *topo.Plan, machine string) topo.Link {
	for _, k := range plan.Links {
		if k.A.Node == machine {
			return k
		}
	}
	return topo.Link{}
}
