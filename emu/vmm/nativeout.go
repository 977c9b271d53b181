package vmm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/migrate"
	"github.com/vpclab/vpclab/emu/qmp"
)

// OutgoingOptions of one migration.
type OutgoingOptions struct {
	Mode string
	Parameters
	// Limit is how long memory may be copied while the VM runs; then the migration
	// is cancelled, and the error is ErrDiverged. 0: as long as it takes.
	Limit time.Duration
	// Hold, where it is not nil, delays the end of pre-copy until it is closed.
	// Its stream rests meanwhile, near the end of its first round.
	Hold <-chan struct{}
	// Switch, where it is not nil, is called while the VM stands and the last of
	// its memory waits, which goes when it has returned: so a disk can be brought
	// to its end. Configure was told so.
	Switch func(ctx context.Context) error
	// Paused is told that the VM stands. It does not keep the migration waiting:
	// whoever needs time for it takes it elsewhere.
	Paused func(at event.Mono)
	// Step is as in migrate.Options; OutgoingSteps has the names. nil: nobody
	// looks on.
	Step func(name string) error
}

// OutgoingSteps are those of migrate.Steps that Step is called with.
var OutgoingSteps = []string{
	migrate.StepSourceBegin, migrate.StepSourceRound, migrate.StepSourceHeld, migrate.StepSourcePause, migrate.StepSourcePaused, migrate.StepSourceFinal,
}

// Outgoing is a migration by QEMU itself, at the host that the VM leaves.
type Outgoing struct {
	OutgoingOptions
	monitor *qmp.Client
	events  *qmp.Subscription
	limit   *time.Timer // nil: there is none

	began    event.Mono
	book     ledger
	status   string
	pausedAt event.Mono // 0: it runs
	ended    event.Mono // of the migration
	late     bool       // it was told to go on with post-copy
	switched bool       // Switch was called
	last     migrationInfo
}

// Begin has a QEMU that Configure was told the mode send the VM to uri:
// tcp:ADDRESS:PORT, unix:PATH … Run and Finish see it to its end, and Close must
// be called in any case.
func Begin(ctx context.Context, m *qmp.Client, uri string, opt OutgoingOptions) (*Outgoing, error) {
	o := &Outgoing{OutgoingOptions: opt, monitor: m}
	if err := o.step(migrate.StepSourceBegin); err != nil {
		return nil, err
	}
	if o.Hold != nil {
		if err := m.Execute(ctx, "migrate-set-parameters", neverSwitch, nil); err != nil {
			return nil, err
		}
	}
	o.events = m.Subscribe("MIGRATION", "MIGRATION_PASS", "STOP", "RESUME")
	o.began = event.Now()
	if err := m.Execute(ctx, "migrate", map[string]any{"uri": uri}, nil); err != nil {
		o.Close()
		return nil, err
	}
	return o, nil
}

// neverSwitch has QEMU end pre-copy only when no page at all is left: what would
// take less than a millisecond at a page a millisecond. With a limit of none it
// would not even look again which pages are dirty.
var neverSwitch = map[string]any{"downtime-limit": 1, "avail-switchover-bandwidth": 1000 * pageSize}

// crawl has it send a page or two each tenth of a second, which is how often it
// looks at its limits: long enough for a VM that writes to leave some.
var crawl = map[string]any{"max-bandwidth": 64 << 10}

const pageSize = migrate.PageSize

// Close stops watching.
func (o *Outgoing) Close() { o.events.Close() }

func (o *Outgoing) step(name string) error {
	if o.Step == nil {
		return nil
	}
	if err := o.Step(name); err != nil {
		return &migrate.StepError{Step: name, Err: err}
	}
	return nil
}

// Run returns when the VM stands and this QEMU will never let it go on by itself:
// all has been sent, or, in Late modes, all but pages. From then on the other
// QEMU may go on. With an error the other must not: the migration has been given
// up, and the VM goes on here, if it can, as soon as it is told to.
func (o *Outgoing) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if o.Limit > 0 {
		o.limit = time.AfterFunc(o.Limit, func() { cancel(fmt.Errorf("%s %w within %v", o.Mode, ErrDiverged, o.Limit)) })
		defer o.limit.Stop()
	}
	if o.Hold != nil {
		held := make(chan struct{})
		defer func() { <-held }()
		defer cancel(nil)
		go func() {
			defer close(held)
			if err := o.holding(ctx); err != nil {
				cancel(err)
			}
		}()
	}
	err := o.until(ctx, func() bool {
		return o.status == statusCompleted || o.late && o.pausedAt != 0 && (o.Switch == nil || o.switched)
	})
	if err == nil {
		err = o.handedOver(ctx)
	}
	if err == nil {
		err = o.step(migrate.StepSourceFinal)
	}
	if err != nil && !errors.Is(err, migrate.ErrKilled) {
		err = errors.Join(err, o.giveUp(ctx))
	}
	return err
}

// until looks on until something is so.
func (o *Outgoing) until(ctx context.Context, so func() bool) error {
	for !so() {
		e, err := o.events.Next(ctx)
		if err != nil {
			return err
		}
		switch e.Name {
		case "MIGRATION":
			err = o.turned(ctx, e)
		case "MIGRATION_PASS":
			err = o.passed(ctx, e)
		case "STOP":
			err = o.stopped(e)
		case "RESUME":
			o.pausedAt = 0
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// turned notes what becomes of the migration.
func (o *Outgoing) turned(ctx context.Context, e qmp.Event) error {
	var d struct{ Status string }
	if err := e.Decode(&d); err != nil {
		return err
	}
	o.status = d.Status
	switch d.Status {
	case statusCompleted:
		o.ended = e.T
	case statusFailed, statusCancelled, statusPaused:
		i, err := query(ctx, o.monitor)
		if err != nil {
			return err
		}
		i.Status = d.Status
		return i.failure("send the VM")
	case statusSwitch:
		if o.Switch != nil {
			if err := o.Switch(ctx); err != nil {
				return err
			}
		}
		o.switched = true
		return o.monitor.Execute(ctx, "migrate-continue", map[string]any{"state": statusSwitch}, nil)
	}
	return nil
}

// stopped notes that the VM stands.
func (o *Outgoing) stopped(e qmp.Event) error {
	if o.limit != nil {
		o.limit.Stop()
	}
	o.pausedAt = e.T
	if o.Paused != nil {
		o.Paused(e.T)
	}
	return o.step(migrate.StepSourcePaused)
}

// passed begins a round: QEMU has just gathered which pages are dirty.
func (o *Outgoing) passed(ctx context.Context, e qmp.Event) error {
	i, err := query(ctx, o.monitor)
	if err != nil {
		return err
	}
	o.last = i
	o.book.pass(e.T, i, o.pausedAt != 0)
	if o.pausedAt != 0 {
		return nil
	}
	if err := o.step(migrate.StepSourceRound); err != nil {
		return err
	}
	if Late(o.Mode) && !o.late && len(o.book.rounds) > o.rounds() {
		return o.goLate(ctx)
	}
	return nil
}

// lookAgain is how often QEMU is asked how much is left of the first round of a
// migration that is to be held.
const lookAgain = 20 * time.Millisecond

// holding has the stream rest before its first round is over, until Hold is
// closed: afterwards QEMU might take no more than a moment to its end.
func (o *Outgoing) holding(ctx context.Context) error {
	near := max(8<<20, o.MaxBandwidth/8) // of the end: twice what goes meanwhile, and more
	for {
		i, err := query(ctx, o.monitor)
		if err != nil {
			return err
		}
		if i.RAM.Passes > 1 || i.RAM.Passes == 1 && i.RAM.Remaining < near {
			break
		}
		if err := rest(ctx, lookAgain); err != nil {
			return err
		}
	}
	if err := o.monitor.Execute(ctx, "migrate-set-parameters", crawl, nil); err != nil {
		return err
	}
	if err := o.step(migrate.StepSourceHeld); err != nil {
		return err
	}
	select {
	case <-o.Hold:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return o.mayStop(ctx)
}

// mayStop lets QEMU go on as its parameters have it.
func (o *Outgoing) mayStop(ctx context.Context) error {
	return o.monitor.Execute(ctx, "migrate-set-parameters", o.parameters(o.Mode), nil)
}

// goLate has QEMU hand the VM over without the rest of its memory.
func (o *Outgoing) goLate(ctx context.Context) error {
	if err := o.step(migrate.StepSourcePause); err != nil {
		return err
	}
	o.late = true
	return o.monitor.Execute(ctx, "migrate-start-postcopy", nil, nil)
}

// handedOver waits until QEMU has sent the devices of a VM whose pages follow:
// until then an error would have it go on here. That it sends pages is how it
// shows.
func (o *Outgoing) handedOver(ctx context.Context) error {
	if o.status == statusCompleted {
		return nil
	}
	for {
		i, err := query(ctx, o.monitor)
		switch {
		case err != nil:
			return err
		case i.Status == statusFailed, i.Status == statusCancelled, i.Status == statusPaused:
			return i.failure("send the VM's devices")
		case i.Status == statusCompleted, i.RAM.Postcopy > 0:
			return nil
		}
		if err := rest(ctx, askAgain); err != nil {
			return fmt.Errorf("wait until QEMU has sent the VM's devices: %w", err)
		}
	}
}

// Finish waits until nothing of the VM is needed here any more. In modes that are
// not Late that is so already.
func (o *Outgoing) Finish(ctx context.Context) error {
	return o.until(ctx, func() bool { return o.status == statusCompleted })
}

// giveUpIn bounds how long QEMU takes to give a migration up.
const giveUpIn = 20 * time.Second

// giveUp has QEMU cancel the migration, and waits until it has: then its VM runs,
// or goes on when it is told to. QEMU cannot give up post-copy.
func (o *Outgoing) giveUp(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	if i, err := query(ctx, o.monitor); err == nil && i.RAM.Total > 0 {
		o.last = i // QEMU says nothing of one that was cancelled
	}
	err := CancelOutgoing(ctx, o.monitor)
	if o.ended == 0 {
		o.ended = event.Now()
	}
	return err
}

// CancelOutgoing ends a migration that this QEMU has begun, if there is one that
// has not ended: whoever wants its VM to go on here does this first.
func CancelOutgoing(ctx context.Context, m *qmp.Client) error {
	ctx, cancel := context.WithTimeoutCause(ctx, giveUpIn, fmt.Errorf("waited %v for QEMU to give its migration up", giveUpIn))
	defer cancel()
	told := false
	for {
		i, err := query(ctx, m)
		if err != nil {
			return err
		}
		switch i.Status {
		case "", "none", statusCompleted, statusFailed, statusCancelled:
			var s struct{ Status string }
			err := m.Execute(ctx, "query-status", nil, &s)
			if err != nil || s.Status != "finish-migrate" {
				return err
			}
		case statusLate, statusPaused, statusRecover, statusSetup:
			return i.failure("the VM stands, and QEMU cannot let it go on, as it has handed it over")
		default:
			if !told {
				if err := m.Execute(ctx, "migrate_cancel", nil, nil); err != nil {
					return err
				}
				told = true
			}
		}
		if err := rest(ctx, askAgain); err != nil {
			return err
		}
	}
}

// Report is what was measured until now, and Stats what QEMU says beside it. It
// asks QEMU; one that is gone leaves what was known before.
func (o *Outgoing) Report(ctx context.Context) (*migrate.Report, *Stats) {
	r := &migrate.Report{Algorithm: o.Mode, Began: o.began, PausedAt: o.pausedAt, Done: o.ended}
	i, err := query(ctx, o.monitor)
	if err != nil || i.RAM.Total == 0 {
		i = o.last
	}
	if i.RAM.Total > 0 {
		at := o.ended
		if at == 0 {
			at = event.Now()
		}
		o.book.close(at, i)
		r.BytesOut = i.RAM.Transferred
		r.Faults.Demanded = int(i.RAM.Requests)
		r.Faults.Prepaged = o.book.prepaged()
	}
	r.Rounds = o.book.rounds
	stats := o.book.stats
	return r, &stats
}
