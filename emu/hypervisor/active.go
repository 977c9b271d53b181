package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/lease"
	"github.com/vpclab/vpclab/emu/migrate/wire"
	"github.com/vpclab/vpclab/emu/plug"
	"github.com/vpclab/vpclab/emu/replicate"
)

// guestIf is the interface of a VM, as topo names it.
const guestIf = "eth0"

// active is a seat that has the VM: it runs it for as long as it has the lease,
// and replicates it to the other seat whenever that is there. It returns when the
// other has the VM, with nothing of it left here but its files.
func (s *seat) active(ctx context.Context) error {
	life, cancel := s.within(ctx, true)
	defer cancel()
	gate, err := s.openGate()
	if err != nil {
		return err
	}
	defer gate.Close()
	if err := s.runGuest(life); err != nil {
		if errors.Is(context.Cause(life), errRole) {
			return s.fence(ctx, gate)
		}
		return fmt.Errorf("run the VM: %w", err)
	}
	var beside sync.WaitGroup
	beside.Go(func() { s.reportLapses(life) })
	err = s.protectedBy(life, gate)
	cancel()
	beside.Wait()
	if errors.Is(err, errRole) {
		err = s.fence(ctx, gate)
	}
	return err
}

// runGuest has the guest run here: one that stands goes on, and where there is
// none it is started from its disk. Then the host is told that the VM is here, so
// that packets come.
func (s *seat) runGuest(ctx context.Context) error {
	state, err := s.until(ctx, func(state lease.State) bool { return state.Role == lease.Active })
	if err != nil {
		return err
	}
	if s.taken {
		return nil // it was, as a standby
	}
	s.vm.turn.Lock()
	defer s.vm.turn.Unlock()
	from := fromName(state.From)
	switch state.From {
	case lease.Image:
		return s.takeOver(ctx, state)
	case lease.Machine:
		err = s.goOn(ctx)
	}
	if state.From == lease.Disk || errors.Is(err, ErrNoVM) {
		from = fromName(lease.Disk)
		err = s.boot(ctx)
	}
	if err != nil {
		return err
	}
	s.tell("pair.activated", map[string]string{"gen": gen(state), "from": from})
	return s.redirect(ctx)
}

func fromName(h lease.Have) string {
	return map[lease.Have]string{lease.Disk: "disk", lease.Image: "image", lease.Machine: "machine"}[h]
}

// goOn has a guest that stands here go on, if it is there still.
func (s *seat) goOn(ctx context.Context) error {
	r, err := guest.Connect(ctx, s.vm.socket(), s.vm.folder())
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoVM, err)
	}
	defer r.Close()
	s.mu.Lock()
	leash := s.leash
	s.mu.Unlock()
	if leash == nil { // it was a former process's
		if leash, err = guest.OpenLeash(s.vm.folder()); err != nil {
			return err
		}
		s.holdLeash(leash)
	}
	_, err = r.Resume(ctx) // an agent that was killed may have left it stopped for a checkpoint
	return err
}

// boot starts the guest from its disk, with a fresh memory.
func (s *seat) boot(ctx context.Context) error {
	if err := s.vm.kill(ctx); err != nil { // one that waits as a standby
		return err
	}
	if err := errors.Join(s.note(true), os.RemoveAll(s.file(replicaFolder)), s.newLeash(), s.vm.furnish()); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startWithin, fmt.Errorf("waited %v for the guest to answer", startWithin))
	defer cancel()
	return s.vm.launch(ctx, guest.Config{Spec: s.Spec, Folder: s.vm.folder(), Socket: s.vm.socket(), Leash: s.vm.folder()})
}

// redirect takes the port up, and announces the VM. It returns when the first
// announcement is on its way.
func (s *seat) redirect(ctx context.Context) error {
	// It may lapse at any moment, and be had again.
	if _, err := s.until(ctx, func(state lease.State) bool { return state.Role == lease.Active }); err != nil {
		return err
	}
	if err := s.port.Up(); err != nil {
		return err
	}
	begun := make(chan error, 1)
	go func() {
		err := s.port.Announce(ctx, s.agent.host, s.MAC, s.Addr, s.agent.channel.emit, func() {
			s.tell("pair.redirected", nil)
			begun <- nil
		})
		select {
		case begun <- err:
		default: // it is about the ones that are only for certainty's sake
		}
	}()
	return <-begun
}

// reportLapses tells when the lease ends and is had again.
func (s *seat) reportLapses(ctx context.Context) {
	for {
		state, err := s.until(ctx, func(state lease.State) bool { return state.Role == lease.Lapsed })
		if err != nil {
			return
		}
		s.tell("pair.lapsed", map[string]string{"gen": gen(state)})
		if state, err = s.until(ctx, func(state lease.State) bool { return state.Role == lease.Active }); err != nil {
			return
		}
		s.tell("pair.resumed", map[string]string{"gen": gen(state)})
	}
}

// openGate is the gate of the VM's interface; in the modes that hold nothing
// there is none. A gate that a former process of this agent left is gone on with
// where the VM is what it was: what it holds rests on a state that the standby
// may not have, and so does what the VM would send again in its place.
func (s *seat) openGate() (g *gate, err error) {
	g = &gate{seat: s}
	holds := s.Replicate.Mode == replicate.Checkpoint || s.Replicate.Mode == replicate.Pipelined
	if holds && !s.begun && s.left == lease.Machine {
		s.begun = true
		if g.plug, err = plug.Adopt(s.NetNS, guestIf); err == nil || !errors.Is(err, os.ErrNotExist) {
			return g, err
		}
	}
	if err := plug.Remove(s.NetNS, guestIf); err != nil || !holds { // of an earlier time that it was here
		return g, err
	}
	g.plug, err = plug.New(s.NetNS, guestIf)
	return g, err
}

// gate is a plug of which nothing is let go without a lease.
type gate struct {
	seat *seat
	plug *plug.Plug // nil: nothing is ever held
}

// Mark implements replicate.Gate.
func (g *gate) Mark() (uint64, error) { return g.plug.Mark() }

// Release implements replicate.Gate.
func (g *gate) Release(epoch uint64) error {
	if err := g.allowed(); err != nil {
		return err
	}
	return g.plug.Release(epoch)
}

// Open implements replicate.Gate.
func (g *gate) Open() error {
	if err := g.allowed(); err != nil {
		return err
	}
	return g.plug.Open()
}

// allowed waits until the seat has the lease: it may have lapsed, and be had
// again.
func (g *gate) allowed() error {
	if g.seat.lease.Active() {
		return nil
	}
	state, err := g.seat.until(context.Background(), func(state lease.State) bool { return state.Role != lease.Lapsed })
	if err == nil && !g.seat.lease.Active() {
		err = fmt.Errorf("let go what %s sends: this host is %s", g.seat.VM, state.Role)
	}
	return err
}

// Shut implements replicate.Gate. While the VM is this seat's all stays held, and
// no more: the standby may be heard again. Who loses the VM shuts it for good.
func (g *gate) Shut() error { return nil }

// shut lets nothing go any more.
func (g *gate) shut() error {
	if g.plug == nil {
		return nil
	}
	return g.plug.Shut()
}

// Close lets go of it; it stays as it is.
func (g *gate) Close() error {
	if g.plug == nil {
		return nil
	}
	return g.plug.Close()
}

// standbyRest is from one attempt to find a standby to the next.
const standbyRest = 100 * time.Millisecond

// protectedBy replicates the VM to the other seat, over and over: whenever that
// is lost the VM goes on without, and when it is back it gets what it lacks.
func (s *seat) protectedBy(ctx context.Context, g *gate) error {
	for {
		err := s.replicated(ctx, g)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, replicate.ErrHandedOver):
			if err := s.handOver(ctx); err != nil {
				return err
			}
			continue // it stayed
		case errors.Is(err, errGuestEnded):
			if err := s.guestEnded(ctx); err != nil {
				return err
			}
			continue
		case errors.Is(err, errHeardAgain):
			continue
		case errors.Is(err, replicate.ErrLost):
			s.degraded(err)
		case err != nil:
			s.fail(err)
			s.tell("pair.failed", map[string]string{"role": string(lease.Active), "error": err.Error()})
			// Whether the standby could take over is not known: it may not any more.
			if err := s.unprotected(ctx); err != nil {
				return err
			}
			if g.plug != nil {
				if err := g.Open(); err != nil {
					return err
				}
			}
			s.degraded(err)
		}
		timer := time.NewTimer(standbyRest)
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// degraded tells that the VM goes on unprotected, if it was protected.
func (s *seat) degraded(why error) {
	s.mu.Lock()
	was := s.synced
	s.synced = false
	s.mu.Unlock()
	if was {
		s.tell("pair.degraded", map[string]string{"why": why.Error()})
	}
}

// errGuestEnded ends replication when the guest's process has ended by itself.
var errGuestEnded = errors.New("the guest has ended")

// replicated is one run of replication.
func (s *seat) replicated(ctx context.Context, g *gate) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p, err := s.openPrimary(ctx)
	if err != nil {
		return err
	}
	defer p.close()
	vm, done, err := p.replicated()
	if err != nil {
		return err
	}
	defer done()
	syncs := make(chan uint64, 1)
	var hold replicate.Gate
	if g.plug != nil {
		hold = g
	}
	end, err := replicate.NewPrimary(vm, hold, s.Replicate, replicate.Tell{
		Synced: func(epoch uint64) {
			s.fail(nil)
			s.lease.Synced()
			select {
			case syncs <- epoch:
			default: // one is being told
			}
		},
		Lost: func(ctx context.Context, _ error) error { return s.lost(ctx) },
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.replica = end.Report
	s.mu.Unlock()
	s.lease.Protect()
	var beside sync.WaitGroup
	defer beside.Wait()
	defer cancel(nil)
	beside.Go(func() {
		if s.vm.awaitEnd(ctx) {
			cancel(errGuestEnded)
		}
	})
	beside.Go(func() { s.serveSwitchOvers(ctx, end) })
	beside.Go(func() { s.reportSynced(ctx, syncs) })
	err = end.Run(ctx, s.dialStandby)
	if cause := context.Cause(ctx); errors.Is(cause, errGuestEnded) {
		err = cause
	}
	return err
}

// reportSynced tells that the standby may take over: when it holds everything,
// and the witness has recorded that.
func (s *seat) reportSynced(ctx context.Context, syncs <-chan uint64) {
	for {
		var epoch uint64
		select {
		case epoch = <-syncs:
		case <-ctx.Done():
			return
		}
		if _, err := s.until(ctx, func(state lease.State) bool { return state.Record.InSync }); err != nil {
			return
		}
		s.mu.Lock()
		s.synced = true
		s.mu.Unlock()
		s.tell("pair.synced", map[string]string{"epoch": strconv.FormatUint(epoch, 10)})
	}
}

// serveSwitchOvers has the end hand over when somebody wants it to. Whoever asked
// is answered when the lease has been given, or the VM stays.
func (s *seat) serveSwitchOvers(ctx context.Context, end *replicate.PrimaryEnd) {
	for {
		var answer chan error
		select {
		case answer = <-s.hand:
		case <-ctx.Done():
			return
		}
		err := end.SwitchOver(ctx)
		s.mu.Lock()
		if err == nil {
			s.handing = answer // handOver answers
		}
		s.mu.Unlock()
		if err != nil {
			answer <- err
		}
	}
}

// dialStandby opens a session with the other seat.
func (s *seat) dialStandby(ctx context.Context) (wire.Session, error) {
	cfg := s.wire()
	cfg.Dial = wire.DialTCP(s.Peer)
	return wire.Open(ctx, cfg)
}

// wire is how both ends speak. A session whose connection is cut is given up
// soon: the standby holds what it acknowledged, and the next session begins there.
func (s *seat) wire() wire.Config {
	return wire.Config{ID: s.session(), Patience: max(sessionPatience, 2*s.Replicate.Silence)}
}

const sessionPatience = time.Second

// errHeardAgain ends replication whose standby was silent and is not any more.
var errHeardAgain = errors.New("the standby is heard again")

// witnessFirst is how long the witness has to record that a standby was lost,
// before that is asked whether it is there after all.
const witnessFirst = 200 * time.Millisecond

// lost decides what becomes of a VM whose standby is silent: it goes on
// unprotected when the witness has recorded that. Where the witness cannot be
// reached the standby may be there, and was late; then it is gone on with, and
// what waited for it leaves when it holds all again.
func (s *seat) lost(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var beside sync.WaitGroup
	defer beside.Wait()
	defer cancel(nil)
	beside.Go(func() {
		timer := time.NewTimer(witnessFirst)
		defer timer.Stop()
		for {
			select {
			case <-timer.C:
			case <-ctx.Done():
				return
			}
			one, done := context.WithTimeout(ctx, witnessFirst)
			conn, err := wire.DialTCP(s.Peer)(one)
			done()
			if err == nil {
				_ = conn.Close() // it was to see whether somebody is there
				cancel(errHeardAgain)
				return
			}
			timer.Reset(witnessFirst)
		}
	})
	return s.unprotected(ctx)
}

// unprotected has the witness record that the standby may not take over. While
// nobody can be reached that could say so the VM is not this seat's alone, and
// what it sends waits.
func (s *seat) unprotected(ctx context.Context) error {
	s.lease.Alone()
	state, err := s.until(ctx, func(state lease.State) bool { return state.Unprotected || !holds(state.Role) })
	if err == nil && !state.Unprotected {
		err = errRole
	}
	return err
}

// handOver gives the lease away for a VM that stands, and that the standby holds
// all of. It returns errRole when that has it; nil: nobody took it, and the VM
// goes on here. Its port is down from before: what its kernel still sends for its
// connections would tell every bridge that it is here, after the other host has
// announced it.
func (s *seat) handOver(ctx context.Context) error {
	s.mu.Lock()
	answer := s.handing
	s.handing = nil
	s.mu.Unlock()
	err := s.port.Down()
	var state lease.State
	if err == nil {
		err = s.lease.Hand()
	}
	if err == nil {
		state, err = s.until(ctx, func(state lease.State) bool {
			return state.Role != lease.Handing && state.Role != lease.Active || state.Record.Holder != s.party()
		})
		if err == nil && holds(state.Role) {
			state, err = s.until(ctx, func(state lease.State) bool { return state.Role == lease.Active || !holds(state.Role) })
		}
	}
	switch {
	case errors.Is(err, errRole) || err == nil && !holds(state.Role):
		answered(answer, nil)
		return errRole
	case err == nil:
		err = errors.New("the standby did not take it in time")
	}
	answered(answer, err)
	r, bad := guest.Connect(ctx, s.vm.socket(), s.vm.folder())
	if bad == nil {
		_, bad = r.Resume(ctx)
		r.Close()
	}
	if bad == nil {
		bad = s.redirect(ctx)
	}
	return bad
}

func answered(c chan error, err error) {
	if c != nil {
		c <- err
	}
}

// party is who this host is in the lease.
func (s *seat) party() lease.Party {
	p, _ := s.Lease.Party(s.agent.host)
	return p
}

// guestEnded has a VM whose guest has ended by itself go on at the standby, where
// that holds all that anybody was told, connections included; else it starts anew
// from its disk.
func (s *seat) guestEnded(ctx context.Context) error {
	s.tell("vm.ended", map[string]string{"ran": ran(s.ran())})
	if s.Replicate.Mode != replicate.Checkpoint {
		// What it was told is on its disk; the standby's memory is older, or none.
	} else if err := s.lease.Hand(); err == nil {
		state, err := s.until(ctx, func(state lease.State) bool { return state.Role == lease.Lapsed || !holds(state.Role) })
		if err != nil || !holds(state.Role) {
			return errRole
		}
	}
	state, err := s.until(ctx, func(state lease.State) bool { return state.Role == lease.Active || !holds(state.Role) })
	if err != nil || !holds(state.Role) {
		return errRole
	}
	if err := s.unprotected(ctx); err != nil { // the image is of a machine that is gone
		return err
	}
	s.vm.turn.Lock()
	defer s.vm.turn.Unlock()
	if err := s.boot(ctx); err != nil {
		return fmt.Errorf("start it anew: %w", err)
	}
	s.tell("pair.activated", map[string]string{"gen": gen(state), "from": fromName(lease.Disk)})
	return nil
}

func ran(at event.Mono) string { return strconv.FormatInt(int64(at), 10) }

// lastStep is when the guest last ran here, also where it was a former process of
// this agent that had it on its leash; 0: nobody knows.
func (s *seat) lastStep() event.Mono {
	if at := s.ran(); at != 0 {
		return at
	}
	leash, err := guest.OpenLeash(s.vm.folder())
	if err != nil {
		return 0 // its host has crashed, and that with it
	}
	at := leash.Ran()
	_ = leash.Close()
	return at
}

// fence ends what is left of a VM that the other host has: nobody hears it any
// more, and it does nothing.
func (s *seat) fence(ctx context.Context, g *gate) error {
	err := errors.Join(g.shut(), s.port.Down())
	state, _ := s.known()
	last := s.lastStep()
	err = errors.Join(err, s.endGuest(ctx), s.note(false))
	s.mu.Lock()
	s.leash = nil
	s.mu.Unlock()
	s.tell("pair.fenced", map[string]string{"gen": gen(state), "ran": ran(last)})
	return err
}
