package hypervisor

import (
	"context"
	"errors"
	"fmt"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/migrate"
	"github.com/vpclab/vpclab/emu/qmp"
)

// unmarked is the source of a VM in QEMU. Its guest marks no page that it writes:
// that is found out by comparing. And it is stopped by this agent itself, over the
// monitor: what QEMU then takes to write down what its devices hold, 15 to 40 ms,
// the last pages are on their way in, and so is the VM's port.
type unmarked struct {
	*source
	copied  *guest.Snapshot
	monitor *qmp.Client
	held    chan held // what the devices hold; nil: the VM was not stopped
}

// held is a state, or why there is none.
type held struct {
	state []byte
	err   error
}

var (
	_ migrate.Source  = (*unmarked)(nil)
	_ migrate.Glancer = (*unmarked)(nil)
	_ migrate.Stayer  = (*unmarked)(nil)
	_ migrate.Stater  = (*unmarked)(nil)
)

// engine is the source as the engine sees it.
func (s *source) engine(ctx context.Context) (vm migrate.Source, done func() error, err error) {
	if s.Spec.Kind != guest.KindQEMU {
		return s, func() error { return nil }, nil
	}
	ctx, cancel := guestAnswers(ctx)
	defer cancel()
	monitor, err := s.vm.steer(ctx)
	if err != nil {
		return nil, nil, err
	}
	copied, err := guest.NewSnapshot(s.memory.Bytes())
	if err != nil {
		return nil, nil, errors.Join(err, monitor.Close())
	}
	u := &unmarked{source: s, copied: copied, monitor: monitor}
	return u, u.end, nil
}

// end lets go of what it takes, and of the VM's state where nobody asked for it.
func (u *unmarked) end() error {
	if u.held != nil {
		u.held <- <-u.held
	}
	_ = u.monitor.Close() // its QEMU may have ended, once the VM ran elsewhere
	return u.copied.Close()
}

func (u *unmarked) Memory() []byte            { return u.copied.Bytes() }
func (u *unmarked) Collect(into []uint64) int { return u.copied.Collect(into) }
func (u *unmarked) Glance(into []uint64) int  { return u.copied.Glance(into) }
func (u *unmarked) Dirty(page int) bool       { return u.copied.Dirty(page) }
func (u *unmarked) Stayed() []byte            { return u.memory.Bytes() }

// Pause stops the VM, and begins to have its state written down.
func (u *unmarked) Pause(ctx context.Context) (event.Mono, []byte, error) {
	u.vm.disown()
	quick, cancel := guestAnswers(ctx)
	defer cancel()
	stopped := u.monitor.Subscribe("STOP")
	defer stopped.Close()
	if err := u.monitor.Execute(quick, "stop", nil, nil); err != nil {
		return 0, nil, err
	}
	e, ok := stopped.Try()
	if !ok {
		return 0, nil, errors.New("the VM stood already, and not by this migration")
	}
	u.held = make(chan held, 1)
	go func() {
		_, state, err := u.source.Pause(ctx)
		u.held <- held{state, err}
	}()
	return e.T, nil, nil
}

// State implements migrate.Stater.
func (u *unmarked) State(ctx context.Context) ([]byte, error) {
	if u.held == nil {
		return nil, errors.New("the VM was not stopped")
	}
	select {
	case h := <-u.held:
		u.held <- h // for whoever asks again
		return h.state, h.err
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for what the VM's devices hold: %w", context.Cause(ctx))
	}
}

// Resume lets the VM go on here, when nobody is about to stop it any more.
func (u *unmarked) Resume(ctx context.Context) error {
	if u.held != nil {
		_, _ = u.State(ctx) // it is of no use now
	}
	return u.source.Resume(ctx)
}

// forsake ends a QEMU that waits at this host for a VM that did not come, so that
// others have its memory. One that may have come is left alone.
func (t *target) forsake(ctx context.Context, cause error) {
	if t.Spec.Kind != guest.KindQEMU || t.Rest || errors.Is(cause, migrate.ErrCommitted) || errors.Is(cause, migrate.ErrInDoubt) {
		return
	}
	ctx, cancel := guestAnswers(context.WithoutCancel(ctx))
	defer cancel()
	if s, err := t.agent.status(ctx, t.VM); err != nil || s.Folder == t.vm.folder() {
		return // nobody knows, or it runs here
	}
	monitor, err := t.vm.steer(ctx)
	if err != nil {
		return // it has ended
	}
	defer monitor.Close()
	_ = monitor.Execute(ctx, "quit", nil, nil) // it may end before it answers
}
