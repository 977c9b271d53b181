package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/lease"
	"github.com/vpclab/vpclab/emu/plug"
	"github.com/vpclab/vpclab/emu/replicate"
)

// seat is one of the two places of a protected VM, at this host. What it does
// follows from its role by the lease, which one goroutine looks at: an active
// runs the VM and replicates it, all others receive.
type seat struct {
	Pair
	agent *agent
	vm    *vm
	lease *lease.Seat
	port  *fabric.Port

	end   context.CancelCauseFunc
	ended chan struct{} // closed when the goroutine has

	mu       sync.Mutex
	changed  chan struct{} // closed when state is another
	leash    *guest.Leash  // of the guest that is here, if any
	replica  func() replicate.Report
	failure  error
	hand     chan chan error // for an active: somebody wants it to hand over
	handing  chan error      // who is to be answered when it has
	suspects bool            // the standby has said that it hears nothing
	synced   bool            // an active has said that its standby may take over

	// For run alone:
	left  lease.Have // what a former process of this agent left
	begun bool       // it was gone on with
	taken bool       // the VM was taken over, and runs here
}

// newSeat begins a seat, with what a former process may have left of it.
func (a *agent) newSeat(p Pair) (_ *seat, err error) {
	s := &seat{Pair: p, agent: a, vm: a.vm(p.Seat), ended: make(chan struct{}), changed: make(chan struct{}), hand: make(chan chan error)}
	s.vm.spec, s.vm.netns = p.Spec, p.NetNS
	if err := os.MkdirAll(s.vm.folder(), 0o700); err != nil {
		return nil, err
	}
	if s.port, err = fabric.OpenPort(p.Port); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.port.Close()
		}
	}()
	if s.left, err = s.have(); err != nil {
		return nil, err
	}
	if s.lease, err = a.leases.Join(p.Lease, s.left, s.learn); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	s.end = cancel
	go s.run(ctx)
	return s, nil
}

// activeFile says that the VM ran at this seat when it last did anywhere that
// this seat knows of.
const activeFile = "active"

// have is what is here of the VM: the VM itself, if a former process of this
// agent ran it and the guest has not ended since; a standby's image; or no more
// than a disk.
func (s *seat) have() (lease.Have, error) {
	if _, err := os.Stat(s.file(activeFile)); err == nil {
		if r, err := guest.Connect(context.Background(), s.vm.socket(), s.vm.folder()); err == nil {
			r.Close()
			return lease.Machine, nil
		}
		return lease.Disk, nil
	}
	return s.inherited()
}

func (s *seat) file(name string) string { return filepath.Join(s.vm.folder(), name) }

// learn is told that the state of the lease is another.
func (s *seat) learn(lease.State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
}

// known is the state of the lease, and what is closed when it is another.
func (s *seat) known() (lease.State, <-chan struct{}) {
	s.mu.Lock()
	changed := s.changed
	s.mu.Unlock()
	return s.lease.State(), changed
}

// until waits for a state that pleases.
func (s *seat) until(ctx context.Context, pleases func(lease.State) bool) (lease.State, error) {
	for {
		state, changed := s.known()
		if pleases(state) {
			return state, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return state, context.Cause(ctx)
		}
	}
}

// tell puts something that happened to the VM on the lab's time line.
func (s *seat) tell(kind string, attr map[string]string) {
	if attr == nil {
		attr = map[string]string{}
	}
	attr["seat"] = s.Seat
	s.agent.tell(s.VM, kind, attr)
}

// tellAt is tell of a moment that is past.
func (s *seat) tellAt(at event.Mono, kind string, attr map[string]string) {
	if attr == nil {
		attr = map[string]string{}
	}
	attr["seat"], attr["host"] = s.Seat, s.agent.host
	e := event.New(s.VM, kind, attr)
	e.Wall, e.T = e.Wall.Add(at.Sub(e.T)), at
	s.agent.channel.emit(e)
}

func gen(state lease.State) string { return strconv.FormatUint(state.Record.Gen, 10) }

// seatRest is how long a seat rests that could not do its part, before it tries
// again.
const seatRest = 250 * time.Millisecond

// run does what the role asks for, until ctx ends.
func (s *seat) run(ctx context.Context) {
	defer close(s.ended)
	for ctx.Err() == nil {
		state, changed := s.known()
		var err error
		switch state.Role {
		case lease.Active, lease.Handing, lease.Lapsed:
			err = s.active(ctx)
		case lease.Fenced, lease.Standby, lease.Taking, lease.Forgotten:
			err = s.standBy(ctx)
		default: // not known yet
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		if ctx.Err() != nil {
			return
		}
		s.fail(err)
		if err == nil {
			continue
		}
		s.tell("pair.failed", map[string]string{"role": string(state.Role), "error": err.Error()})
		timer := time.NewTimer(seatRest)
		select {
		case <-timer.C:
		case <-changed:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// fail notes why the seat does not do its part; nil: it does.
func (s *seat) fail(err error) {
	s.mu.Lock()
	s.failure = err
	s.mu.Unlock()
}

// holds tells whether a role is that of the seat that has the VM.
func holds(r lease.Role) bool { return r == lease.Active || r == lease.Handing || r == lease.Lapsed }

// errRole ends what a role did when the seat has another.
var errRole = errors.New("the seat has another role")

// within gives a context that ends with errRole when the seat has the VM no
// more, or comes to have it.
func (s *seat) within(ctx context.Context, having bool) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		if _, err := s.until(ctx, func(state lease.State) bool { return holds(state.Role) != having }); err == nil {
			cancel(errRole)
		}
	}()
	return ctx, func() { cancel(context.Canceled) }
}

// newLeash is the leash of a guest that is about to be started: it gets as long
// as the lease, without anybody having to do anything.
func (s *seat) newLeash() error {
	l, err := guest.CreateLeash(s.vm.folder())
	if err != nil {
		return err
	}
	s.holdLeash(l)
	return nil
}

// holdLeash has the leash follow the lease.
func (s *seat) holdLeash(l *guest.Leash) {
	s.lease.Follow(l.End())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leash = l // the former is mapped until this process ends: the lease may still write to it
}

// ran is when the guest here last took a step.
func (s *seat) ran() event.Mono {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leash == nil {
		return 0
	}
	return s.leash.Ran()
}

// endGuest ends the guest that is here, if any.
func (s *seat) endGuest(ctx context.Context) error {
	s.vm.turn.Lock()
	defer s.vm.turn.Unlock()
	s.vm.disown()
	ctx, cancel := context.WithTimeoutCause(ctx, leaveWithin, fmt.Errorf("waited %v for the guest to end", leaveWithin))
	defer cancel()
	return s.vm.kill(ctx)
}

// leave ends the seat, and the guest.
func (s *seat) leave(ctx context.Context) error {
	s.end(errGone)
	s.lease.Leave()
	err := s.port.Down()
	<-s.ended
	s.port.Close()
	return errors.Join(err, s.endGuest(ctx), plug.Remove(s.NetNS, guestIf))
}

// switchOver is Agent.SwitchOver.
func (s *seat) switchOver(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, switchOverWithin, fmt.Errorf("waited %v for %s to be given to its standby", switchOverWithin, s.VM))
	defer cancel()
	answer := make(chan error, 1)
	select {
	case s.hand <- answer:
	case <-ctx.Done():
		return fmt.Errorf("switch %s over: no replication is under way at %s: %w", s.VM, s.agent.host, context.Cause(ctx))
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return fmt.Errorf("switch %s over: %w", s.VM, context.Cause(ctx))
	}
}

// status is Agent.SeatStatus.
func (s *seat) status(ctx context.Context) (SeatStatus, error) {
	state, _ := s.known()
	s.mu.Lock()
	replica, failure := s.replica, s.failure
	s.mu.Unlock()
	out := SeatStatus{
		Seat: s.Seat, Host: s.agent.host, Role: state.Role, Gen: state.Record.Gen,
		InSync: state.Record.InSync, Alone: state.Unprotected, Ran: s.ran(),
	}
	if failure != nil {
		out.Failure = failure.Error()
	}
	if replica != nil {
		r := replica()
		out.Replica = &r
	}
	var err error
	if out.Port, err = s.port.IsUp(); err != nil {
		return out, err
	}
	ask, cancel := context.WithTimeoutCause(ctx, statusIn, fmt.Errorf("waited %v for the guest's status", statusIn))
	defer cancel()
	if r, err := guest.Connect(ask, s.vm.socket(), ""); err == nil {
		defer r.Close()
		if g, err := r.Status(ask); err == nil {
			out.Guest = &g
		}
	}
	return out, nil
}

// note writes down that the VM is active here, or not.
func (s *seat) note(active bool) error {
	if !active {
		err := os.Remove(s.file(activeFile))
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	return os.WriteFile(s.file(activeFile), nil, 0o600)
}
