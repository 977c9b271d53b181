package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/migrate"
	"github.com/vpclab/vpclab/emu/migrate/wire"
	"github.com/vpclab/vpclab/emu/vmm"
)

// Sessions of a migration; see wire.Config.
const (
	channelBulk   = 0
	channelUrgent = 1
	channelDisk   = 2
)

// moving is a migration that this host has a part in.
type moving struct {
	Move
	agent  *agent
	vm     *vm
	ctx    context.Context
	cancel context.CancelCauseFunc

	mu                sync.Mutex
	wireOut, wireBack int64         // of the connections that were closed
	hold              chan struct{} // of the last round, or of a step; closed by release
	seen              map[string]int

	done    chan struct{} // closed when outcome and err are there
	outcome *Outcome
	err     error
}

// begin enters a migration; one that is there already under the same ID has
// ended or is refused.
func (a *agent) begin(move Move) (*moving, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if old := a.moves[move.ID]; old != nil && !isClosed(old.done) {
		return nil, fmt.Errorf("migration %x of %s is under way here", move.ID[:4], move.VM)
	}
	for id, old := range a.moves {
		if isClosed(old.done) && id != move.ID && old.VM == move.VM {
			delete(a.moves, id)
		}
	}
	m := &moving{Move: move, agent: a, hold: make(chan struct{}), seen: map[string]int{}, done: make(chan struct{}), outcome: &Outcome{}}
	m.ctx, m.cancel = context.WithCancelCause(context.Background())
	a.moves[move.ID] = m
	return m, nil
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// end notes how the migration went.
func (m *moving) end(rep *migrate.Report, err error) {
	if rep != nil {
		m.outcome.Report = *rep
	}
	m.mu.Lock()
	m.outcome.WireOut, m.outcome.WireBack = m.wireOut, m.wireBack
	m.mu.Unlock()
	m.err = err
	m.cancel(errors.New("the migration has ended"))
	close(m.done)
}

// wait waits for the end.
func (m *moving) wait(ctx context.Context) (*Outcome, error) {
	select {
	case <-m.done:
		return m.outcome, m.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// release lets what is held go on.
func (m *moving) release() {
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.hold)
	m.hold = make(chan struct{})
}

// held is what the next release closes.
func (m *moving) held() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.hold
}

// options are those of the engine.
func (m *moving) options() migrate.Options {
	o := m.Move.Memory
	o.Reuse = o.Reuse || m.Reuse
	o.Step = m.step
	if m.Hold {
		o.HoldPause = m.held()
	}
	return o
}

// config is what the wire is told.
func (m *moving) config(channel uint8) wire.Config {
	c := wire.Config{ID: m.ID, Channel: channel}
	if channel == channelBulk {
		// How much of the memory is under way is the engine's business, and nothing
		// urgent goes by here: a sender that wakes up seldom is what counts.
		c.Unsent = 512 << 10
	}
	return c
}

// ownership asks the lab on behalf of one migration.
func (m *moving) ask(ctx context.Context, op string, at event.Mono) error {
	return m.agent.channel.call(ctx, op, ownership{VM: m.VM, ID: m.ID, At: at}, nil)
}

// Paused, Commit and Abort make a moving the engine's Arbiter.
func (m *moving) Paused(ctx context.Context, at event.Mono) {
	_ = m.ask(ctx, opPaused, at) // if the lab does not hear it, the network moves at Commit
}
func (m *moving) Commit(ctx context.Context) error { return m.ask(ctx, opCommit, 0) }
func (m *moving) Abort(ctx context.Context) error  { return m.ask(ctx, opAbort, 0) }

// send is Agent.Send.
func (a *agent) send(ctx context.Context, move Move, to netip.AddrPort) (*Outcome, error) {
	if err := move.Check(); err != nil {
		return nil, err
	}
	m, err := a.begin(move)
	if err != nil {
		return nil, err
	}
	m.vm = a.vm(move.VM)
	stop := context.AfterFunc(ctx, func() { m.cancel(context.Cause(ctx)) })
	defer stop()
	rep, err := m.send(m.ctx, to)
	m.end(rep, err)
	if err != nil {
		err = fmt.Errorf("send VM %s: %w", move.VM, err)
	}
	return m.outcome, err
}

func (m *moving) send(ctx context.Context, to netip.AddrPort) (*migrate.Report, error) {
	if m.native() {
		return m.sendNative(ctx, to)
	}
	s := &source{moving: m}
	defer s.close()
	var err error
	if !m.Rest {
		// Before its memory is looked at: a guest that is started anew has another
		// memory and not this connection, over which it is paused.
		if s.remote, err = guest.Connect(ctx, m.vm.socket(), m.vm.folder()); err != nil {
			return nil, err
		}
	}
	if s.memory, err = guest.OpenMemory(m.vm.folder()); err != nil {
		return nil, err
	}
	if err := s.memory.Populate(); err != nil { // or each page costs a fault when it is sent
		return nil, err
	}
	opt := m.options()
	link, err := m.open(ctx, to, opt.Urgent())
	if err != nil {
		return nil, err
	}
	defer closeLink(link)
	link.Again = func(ctx context.Context) (migrate.Link, error) { return m.open(ctx, to, true) }
	if m.Rest {
		return migrate.SendRest(ctx, link, s.memory.Bytes(), opt)
	}
	if m.Disk {
		if s.disk, err = m.sendDisk(ctx, to); err != nil {
			return nil, fmt.Errorf("disk: %w", err)
		}
	}
	vm, done, err := s.engine(ctx)
	if err != nil {
		return nil, err
	}
	rep, err := migrate.Send(ctx, link, vm, m, opt)
	err = errors.Join(err, done())
	if s.disk != nil {
		err = errors.Join(err, s.proveDisk(ctx, rep, err))
	}
	return rep, err
}

// proveDisk compares both disks when the VM has been handed over.
func (s *source) proveDisk(ctx context.Context, rep *migrate.Report, sent error) error {
	err := s.disk.settled(sent != nil)
	if sent != nil {
		s.outcome.Disk = s.disk.move.Report()
		return nil
	}
	d := s.disk.move.Report()
	if err == nil {
		d, err = s.disk.move.Prove(ctx)
	}
	s.outcome.Disk = d
	if err != nil {
		return fmt.Errorf("%w; its disk: %w", migrate.ErrCommitted, err)
	}
	rep.DiskHash = d.Hash
	return nil
}

// open opens the sessions to the other host.
func (m *moving) open(ctx context.Context, to netip.AddrPort, urgent bool) (link migrate.Link, err error) {
	if link.Bulk, err = m.dial(ctx, to, channelBulk); err != nil || !urgent {
		return link, err
	}
	if link.Urgent, err = m.dial(ctx, to, channelUrgent); err != nil {
		closeLink(link)
	}
	return link, err
}

func (m *moving) dial(ctx context.Context, to netip.AddrPort, channel uint8) (wire.Session, error) {
	cfg := m.config(channel)
	cfg.Dial = m.counting(wire.DialTCP(to))
	return wire.Open(ctx, cfg)
}

func closeLink(l migrate.Link) {
	for _, s := range []wire.Session{l.Bulk, l.Urgent} {
		if s != nil {
			_ = s.Close() // what had to arrive was flushed
		}
	}
}

// source is the VM at the host that it leaves.
type source struct {
	*moving
	memory *guest.Memory
	remote *guest.Remote
	disk   *diskSource // nil: it does not move
}

func (s *source) close() {
	if s.disk != nil {
		s.disk.close()
	}
	if s.remote != nil {
		s.remote.Close()
	}
	if s.memory != nil {
		s.memory.Close() // what fails leaves a mapping behind, and no more
	}
}

func (s *source) Memory() []byte            { return s.memory.Bytes() }
func (s *source) Collect(into []uint64) int { return s.memory.Collect(into) }
func (s *source) Dirty(page int) bool       { return s.memory.Dirty(page) }

// Pause stops the VM. From here on it is not restarted if it dies: that depends
// on whose it will be.
func (s *source) Pause(ctx context.Context) (event.Mono, []byte, error) {
	s.vm.disown()
	ctx, cancel := guestAnswers(ctx)
	defer cancel()
	at, state, err := s.remote.Pause(ctx)
	if err == nil && s.disk != nil {
		// The last writes follow beside the last pages. The target takes the VM
		// when it has both; if it never does, that is its error.
		s.disk.settle(s.ctx)
	}
	return at, state, err
}

// Resume lets it go on here, over a new connection: the former may be what has
// failed.
func (s *source) Resume(ctx context.Context) error {
	if s.disk != nil {
		_ = s.disk.settled(true) // the VM stays, and needs no mirror
		s.disk.move.Close()
	}
	r, err := guest.Connect(ctx, s.vm.socket(), s.vm.folder())
	if err != nil {
		return err
	}
	defer r.Close()
	if _, err := r.Resume(ctx); err != nil {
		return err
	}
	s.vm.watched()
	return nil
}

// receive is Agent.Receive.
func (a *agent) receive(ctx context.Context, move Move) (netip.AddrPort, error) {
	if !a.addr.IsValid() {
		return netip.AddrPort{}, fmt.Errorf("host %s is not in the network of the hosts", a.host)
	}
	if err := move.Check(); err != nil {
		return netip.AddrPort{}, err
	}
	m, err := a.begin(move)
	if err != nil {
		return netip.AddrPort{}, err
	}
	m.vm = a.vm(move.VM)
	ready, cancel := guestAnswers(ctx)
	defer cancel()
	t, err := m.prepare(ready)
	if err != nil {
		m.end(nil, err)
		return netip.AddrPort{}, fmt.Errorf("receive VM %s: %w", move.VM, err)
	}
	at := t.listener.Addr().(*net.TCPAddr).AddrPort()
	go func() {
		rep, err := t.receive(m.ctx)
		if err != nil {
			t.forsake(m.ctx, err)
		} else {
			err = t.verify(m.ctx)
		}
		err = errors.Join(err, t.close())
		if err != nil {
			err = fmt.Errorf("receive VM %s: %w", move.VM, err)
		}
		m.end(rep, err)
	}()
	return at, nil
}

// guestIn is how long a guest may take to do what it is told: map a memory, end
// its steps to stand, go on elsewhere. One that is stopped answers nothing.
const guestIn = 30 * time.Second

func guestAnswers(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, guestIn, fmt.Errorf("waited %v for the guest to answer", guestIn))
}

// target is a place for the VM at the host that it comes to.
type target struct {
	*moving
	memory   *guest.Memory
	listener *wire.Listener
	remote   *guest.Remote
	faulting *guest.FaultListener // nil: no page will be missing
	faults   *guest.Faults
	disk     *diskTarget
	scratch  []uint64
}

// prepare makes room and listens.
func (m *moving) prepare(ctx context.Context) (_ *target, err error) {
	t := &target{moving: m}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.close())
		}
	}()
	if err := os.MkdirAll(m.vm.folder(), 0o700); err != nil {
		return nil, err
	}
	if err := t.makeRoom(); err != nil {
		return nil, err
	}
	if t.remote, err = guest.Connect(ctx, m.vm.socket(), ""); err != nil {
		return nil, err
	}
	if err := t.attach(ctx); err != nil {
		return nil, err
	}
	l, err := wire.ListenTCP(ctx, netip.AddrPortFrom(m.agent.addr, 0))
	if err != nil {
		return nil, err
	}
	t.listener = wire.Listen(l, m.config(0))
	return t, nil
}

// makeRoom has memory and disk, of an earlier stay where that is wanted.
func (t *target) makeRoom() (err error) {
	if t.Rest || t.options().Reuse {
		t.memory, err = guest.OpenMemory(t.vm.folder())
		if err == nil && int64(len(t.memory.Bytes())) != t.Spec.Memory {
			err = errors.Join(t.memory.Close(), os.ErrNotExist)
			t.memory = nil
		}
		if t.Rest || err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := t.makeDisk(); err != nil || t.memory != nil {
		return err
	}
	// Pages that come before the hand-over are placed by this process: they are
	// put in place ahead. Those that come after it are holes until then.
	populate := t.Move.Memory.Algorithm != migrate.PostCopy && !vmm.Late(t.mode())
	t.memory, err = guest.CreateMemory(t.vm.folder(), t.Spec.Memory, populate)
	return err
}

// attach has the guest map this memory ahead of time, so that mapping it costs
// no time while the guest stands. Where pages will be missing it hands over the
// means to place them.
func (t *target) attach(ctx context.Context) error {
	opt := t.options()
	if !opt.Urgent() {
		if t.Rest {
			return nil
		}
		adopt := t.agent.adopting()
		adopt.Incoming = t.native()
		return t.remote.Prepare(ctx, t.vm.folder(), adopt)
	}
	if t.Rest {
		absent := make([]uint64, (t.memory.Pages()+63)/64)
		if n, err := t.memory.Absent(absent); err != nil || n == 0 {
			return err
		}
	}
	path := t.missingSocket()
	var err error
	if t.faulting, err = guest.ListenFaults(path); err != nil {
		return err
	}
	accepted := make(chan error, 1)
	go func() {
		var err error
		t.faults, err = t.faulting.Accept(ctx, t.memory)
		accepted <- err
	}()
	err = t.remote.Prepare(ctx, t.vm.folder(), guest.AdoptOptions{Missing: path})
	if err != nil {
		_ = t.faulting.Close() // ends the wait for the guest
	}
	return errors.Join(err, <-accepted)
}

func (t *target) missingSocket() string { return filepath.Join(t.vm.folder(), "missing") }

func (t *target) close() error {
	var errs []error
	if t.listener != nil {
		errs = append(errs, t.listener.Close())
	}
	if t.faulting != nil {
		errs = append(errs, t.faulting.Close())
	}
	if t.faults != nil { // before the memory, in which it looks for what is missing
		errs = append(errs, t.faults.Close())
	}
	if t.remote != nil {
		t.remote.Close()
	}
	if t.disk != nil {
		errs = append(errs, t.disk.close())
	}
	if t.memory != nil {
		errs = append(errs, t.memory.Close())
	}
	return errors.Join(errs...)
}

// receive takes what comes.
func (t *target) receive(ctx context.Context) (*migrate.Report, error) {
	if t.native() {
		return t.receiveNative(ctx)
	}
	opt := t.options()
	link, err := t.accept(ctx, opt.Urgent())
	if err != nil {
		return nil, err
	}
	defer closeLink(link)
	link.Again = func(ctx context.Context) (migrate.Link, error) { return t.accept(ctx, true) }
	if t.Rest {
		return t.rest(ctx, link, opt)
	}
	if t.disk != nil {
		if err := t.receiveDisk(ctx); err != nil {
			return nil, fmt.Errorf("disk: %w", err)
		}
	}
	rep, err := migrate.Receive(ctx, link, t, t, opt)
	if err == nil && t.disk != nil {
		if _, err = t.disk.receiver.Wait(ctx); err != nil {
			err = fmt.Errorf("%w; its disk: %w", migrate.ErrCommitted, err)
		}
	}
	return rep, err
}

func (t *target) accept(ctx context.Context, urgent bool) (link migrate.Link, err error) {
	if link.Bulk, err = t.listener.Accept(ctx, channelBulk); err != nil || !urgent {
		return link, err
	}
	if link.Urgent, err = t.listener.Accept(ctx, channelUrgent); err != nil {
		closeLink(link)
	}
	return link, err
}

// rest goes on where a process before this one was killed.
func (t *target) rest(ctx context.Context, link migrate.Link, opt migrate.Options) (*migrate.Report, error) {
	s, err := t.remote.Status(ctx)
	if err != nil {
		return nil, err
	}
	var faults migrate.Faults
	var resumed event.Mono
	missing := make([]uint64, (t.memory.Pages()+63)/64)
	n, err := t.memory.Absent(missing)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		missing = nil
	}
	k, err := t.vm.unkept()
	if err != nil {
		return nil, err
	}
	if s.Folder == t.vm.folder() {
		if k == nil {
			return nil, ErrAnew // see vm.start: whatever its memory is equal to, it is not what was sent
		}
		if t.faults != nil {
			faults = t.faults
		}
		t.vm.adopted(t.Spec, t.NetNS)
	} else {
		if k == nil {
			return nil, errors.New("what the VM held when it was handed over was not received here")
		}
		if faults, resumed, err = migrate.RecoverTarget(ctx, t, t, k.State, missing); err != nil {
			return nil, err
		}
	}
	rep, err := migrate.ReceiveRest(ctx, link, t, faults, missing, opt)
	if rep != nil && resumed != 0 {
		rep.ResumedAt = resumed
	}
	return rep, err
}

func (t *target) Memory() []byte { return t.memory.Bytes() }

// Written adds to into; see migrate.Target.
func (t *target) Written(into []uint64) int {
	if t.Spec.Kind == guest.KindQEMU { // nobody knows: what was placed is proven by what was hashed then
		return all(into, t.memory.Pages())
	}
	if len(t.scratch) != len(into) {
		t.scratch = make([]uint64, len(into))
	}
	t.memory.Written(t.scratch)
	return or(into, t.scratch)
}

// or adds the bits of more to into and tells how many there are then.
func or(into, more []uint64) (n int) {
	for i, w := range more {
		into[i] |= w
		n += bits.OnesCount64(into[i])
	}
	return n
}

// Keep implements migrate.Keeper: it is the last before the VM becomes this
// host's, so the disk has to be here.
func (t *target) Keep(ctx context.Context, state []byte, missing []uint64) error {
	if t.disk != nil {
		if err := t.disk.receiver.AwaitSettled(ctx); err != nil {
			return fmt.Errorf("disk: %w", err)
		}
	}
	return t.vm.keep(kept{State: state, Missing: missing != nil})
}

// Start implements migrate.Target.
func (t *target) Start(ctx context.Context, state []byte) (event.Mono, error) {
	ctx, cancel := guestAnswers(ctx)
	defer cancel()
	at, err := t.remote.Adopt(ctx, t.vm.folder(), state, t.agent.adopting())
	if err == nil {
		t.vm.adopted(t.Spec, t.NetNS)
	}
	return at, err
}

// StartMissing implements migrate.Target.
func (t *target) StartMissing(ctx context.Context, state []byte, missing []uint64) (migrate.Faults, event.Mono, error) {
	if err := t.memory.Discard(missing); err != nil {
		return nil, 0, err
	}
	ctx, cancel := guestAnswers(ctx)
	defer cancel()
	at, err := t.remote.Adopt(ctx, t.vm.folder(), state, guest.AdoptOptions{Missing: t.missingSocket()})
	if err != nil {
		return nil, 0, err
	}
	t.vm.adopted(t.Spec, t.NetNS)
	return t.faults, at, nil
}
