package vmm

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vpclab/vpclab/emu/qmp"
)

// Incoming is a migration by QEMU itself, at the host that the VM comes to. Its
// QEMU was started with `-incoming defer -S`: it stands when all has come.
type Incoming struct {
	monitor *qmp.Client
	events  *qmp.Subscription
	mode    string
}

// Listen has a QEMU that Configure was told the mode wait at uri: tcp:ADDRESS:0,
// unix:PATH … Close ends it, and QEMU goes on.
func Listen(ctx context.Context, m *qmp.Client, mode, uri string) (*Incoming, error) {
	in := &Incoming{monitor: m, events: m.Subscribe("MIGRATION"), mode: mode}
	if err := m.Execute(ctx, "migrate-incoming", map[string]any{"uri": uri, "exit-on-error": false}, nil); err != nil {
		in.Close()
		return nil, err
	}
	return in, nil
}

// Close stops watching.
func (in *Incoming) Close() { in.events.Close() }

// At is where it listens on TCP.
func (in *Incoming) At(ctx context.Context) (netip.AddrPort, error) {
	i, err := query(ctx, in.monitor)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return i.listensAt()
}

// Loaded waits until the VM could run here: all has come, or, with Late modes,
// the devices have. It stands still.
func (in *Incoming) Loaded(ctx context.Context) error {
	if !Late(in.mode) {
		return in.await(ctx, statusCompleted)
	}
	if err := in.await(ctx, statusLate); err != nil {
		return err
	}
	// It says so when it begins to listen for pages; its devices come after that,
	// and of their end it says nothing.
	for {
		var s struct{ Status string }
		if err := in.monitor.Execute(ctx, "query-status", nil, &s); err != nil {
			return err
		}
		if s.Status != "inmigrate" {
			return nil
		}
		if err := rest(ctx, askAgain); err != nil {
			return fmt.Errorf("wait until QEMU has loaded the VM's devices: %w", err)
		}
	}
}

// askAgain is from one question to the next where QEMU tells nothing by itself.
const askAgain = 2 * time.Millisecond

// rest waits for d.
func rest(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Whole waits until no page is missing here any more.
func (in *Incoming) Whole(ctx context.Context) error { return in.await(ctx, statusCompleted) }

// Blocktime is how long virtual CPUs have stood at missing pages, once it is
// Whole.
func (in *Incoming) Blocktime(ctx context.Context) (time.Duration, error) {
	i, err := query(ctx, in.monitor)
	return time.Duration(i.Blocktime) * time.Millisecond, err
}

// await waits for a state of the migration, or what comes after it.
func (in *Incoming) await(ctx context.Context, want string) error {
	what := "wait until QEMU has loaded the VM"
	for {
		i, err := query(ctx, in.monitor)
		if err != nil {
			return err
		}
		switch i.Status {
		case want, statusCompleted:
			return nil
		case statusPaused:
			return fmt.Errorf("%w: %w", ErrLineLost, i.failure(what))
		case statusFailed, statusCancelled:
			return i.failure(what)
		}
		if _, err := in.events.Next(ctx); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
}

// ErrLineLost is why a VM that runs here lacks pages that do not come: QEMU's
// connection is gone. Recover and Continue make another.
var ErrLineLost = errors.New("the connection between the two QEMUs is lost")

// Watch is the Incoming of a VM that runs here, which an earlier process had come
// in a Late mode.
func Watch(m *qmp.Client, mode string) *Incoming {
	return &Incoming{monitor: m, events: m.Subscribe("MIGRATION"), mode: mode}
}

// Recover has it wait at uri for the other QEMU to Continue, after ErrLineLost.
func (in *Incoming) Recover(ctx context.Context, uri string) error {
	if err := in.monitor.Execute(ctx, "migrate-recover", map[string]any{"uri": uri}, nil); err != nil {
		return err
	}
	for { // what became of earlier connections
		if _, ok := in.events.Try(); !ok {
			return nil
		}
	}
}

// continueIn bounds how long it takes from Recover to the first page: the other
// agent is told where to, gives the connection that was lost up, and the QEMUs tell
// each other which pages are there. The WAN may be slow, or away again.
const continueIn = time.Minute

// Continued waits until pages come again, or it is lost again, which Whole tells.
func (in *Incoming) Continued(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, continueIn, fmt.Errorf("waited %v", continueIn))
	defer cancel()
	for begun := false; ; {
		i, err := query(ctx, in.monitor)
		if err != nil {
			return err
		}
		switch i.Status {
		case statusLate, statusCompleted:
			return nil
		case statusFailed, statusCancelled:
			return i.failure("load the pages that are missing")
		case statusPaused: // as it was before there was a new connection
			if begun {
				return nil
			}
		}
		// That there was one may be over before anybody asks: its event stays.
		e, err := in.events.Next(ctx)
		if err != nil {
			return fmt.Errorf("wait for the other QEMU's new connection: %w", err)
		}
		var d struct{ Status string }
		if err := e.Decode(&d); err != nil {
			return err
		}
		begun = begun || d.Status == statusRecover
	}
}

// Continue has the QEMU that a VM has left in a Late mode send what is missing to
// one that waits by Recover. It may not have found out yet that the line is lost.
func Continue(ctx context.Context, m *qmp.Client, uri string) error {
	for {
		i, err := query(ctx, m)
		switch {
		case err != nil:
			return err
		case i.Status == statusPaused:
			return m.Execute(ctx, "migrate", map[string]any{"uri": uri, "resume": true}, nil)
		case i.Status == statusSetup: // connecting
		case i.Status == statusLate, i.Status == statusRecover:
			_ = m.Execute(ctx, "migrate-pause", nil, nil) // it cannot while it is finding out
		default:
			return i.failure("send the pages that are missing")
		}
		if err := rest(ctx, askAgain); err != nil {
			return fmt.Errorf("wait until QEMU has given its connection up: %w", err)
		}
	}
}
