package hypervisor

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/migrate"
	"github.com/vpclab/vpclab/emu/vmm"
	"github.com/vpclab/vpclab/emu/wanopt"
)

// Agent is what the lab asks of a host; *Process implements it.
type Agent interface {
	// Own has the VM run here, where it belongs by the lab's record: a guest that
	// stands here goes on, one that was handed over to this host takes over what
	// it received, and one that is not there is started, from its disk where it
	// has one. netns is where its namespace is mounted. Until Disown the agent
	// starts it again when it ends. It is safe to repeat.
	Own(ctx context.Context, spec guest.Spec, netns string) error
	// Disown leaves the VM alone, and its files where they are.
	Disown(ctx context.Context, vm string) error
	// Halt ends the guest if it runs on this host's memory and disk, and leaves
	// those where they are.
	Halt(ctx context.Context, vm string) error
	// Receive makes room for a VM that comes, listens on the host's address and
	// takes what comes, in the background: Received waits for its end.
	Receive(ctx context.Context, move Move) (netip.AddrPort, error)
	// Received waits until a VM has come whole, or will not.
	Received(ctx context.Context, move Move) (*Outcome, error)
	// Send moves a VM to where Receive listens. It returns when nothing of the
	// VM is needed here any more, or when the migration has failed.
	Send(ctx context.Context, move Move, to netip.AddrPort) (*Outcome, error)
	// Release lets a migration that holds its last round (Move.Hold), or that
	// stands at a step (FailAt), go on.
	Release(ctx context.Context, move Move) error
	// Cancel gives a migration up that this host has a part in.
	Cancel(ctx context.Context, move Move) error
	Status(ctx context.Context, vm string) (guest.Status, error)
}

// Manager is what an agent asks of the lab: the cloud manager's record of whose
// a VM is. See migrate.Arbiter.
type Manager interface {
	Paused(ctx context.Context, vm string, id [16]byte, at event.Mono)
	Commit(ctx context.Context, vm string, id [16]byte) error
	Abort(ctx context.Context, vm string, id [16]byte) error
}

// Move is one migration, as both ends are told it.
type Move struct {
	VM      string
	ID      [16]byte
	Spec    guest.Spec
	From    string // the host that it leaves
	NetNS   string // where the VM's namespace is mounted
	Memory  migrate.Options
	Disk    bool // the disk goes too; else both hosts share it
	DiskHow migrate.DiskOptions
	Reuse   bool // what the target still holds of an earlier stay counts
	Rest    bool // the VM runs at the target, and only what is missing there comes
	Hold    bool // the last round waits for Release
	// QEMU are parameters of a migration by QEMU itself (an algorithm of vmm.Modes),
	// and Within is how long it may copy memory while the VM runs; 0: as long as it
	// takes. One that does not come to its end in time has vmm.ErrDiverged.
	QEMU   vmm.Parameters
	Within time.Duration
	// FailAt makes this end fail at a step of migrate's Steps: STEP=ACTION, or
	// STEP#N=ACTION for the N-th time that it is come to. Actions: kill (the
	// agent), guest (kill the guest), error, and hold: report the step as an
	// event "migration.held" and wait for Release.
	FailAt  string
	Verbose bool // each step is an event "migration.step"
}

// Outcome is what one migration was, as one end saw it.
type Outcome struct {
	migrate.Report
	Disk *migrate.DiskReport // nil: it does not move
	// WireOut and WireBack are bytes on the wire of this end's connections, away
	// from it and towards it, headers and what was sent again included; of the
	// end that dials.
	WireOut, WireBack int64
	QEMU              *vmm.Stats `json:",omitempty"` // nil: QEMU has moved nothing by itself
	// Stream is what the WAN optimiser at this end has counted; nil: there was none.
	Stream *wanopt.Stats `json:",omitempty"`
	// Checked is what a VM with a kernel of its own found at the target when it looked
	// at all that it wrote; nil: it was not asked, or did not say.
	Checked *guest.Verification `json:",omitempty"`
}

// ErrNoVM is the error for a VM that an agent does not know.
var ErrNoVM = errors.New("no such VM at this host")

// ErrAnew is the error of a migration that cannot be carried on because the
// guest ended after it was handed over, and was started anew from its disk: what
// its memory held is gone.
var ErrAnew = errors.New("the guest has ended, and was started anew from its disk")
