package hypervisor

import (
	"context"
	"net/netip"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/migrate"
)

// Agent is what the lab asks of a host; a client of the agent process's control
// channel implements it.
type Agent interface {
	// Start makes memory and disk and starts the guest in namespace netns.
	Start(ctx context.Context, spec guest.Spec, netns string) error
	// Stop ends the guest and removes its memory and disk here.
	Stop(ctx context.Context, vm string) error
	// Receive makes room for a VM that comes and listens on the host's address.
	Receive(ctx context.Context, move Move) (netip.AddrPort, error)
	// Send moves a VM to where Receive listens. It returns when nothing of the
	// VM is needed here any more, or when the migration has failed.
	Send(ctx context.Context, move Move, to netip.AddrPort) (*Outcome, error)
	Status(ctx context.Context, vm string) (guest.Status, error)
}

// Move is one migration, as both ends are told it.
type Move struct {
	VM      string
	ID      [16]byte
	Spec    guest.Spec
	Memory  migrate.Options
	Disk    bool // the disk goes too; else both hosts share it
	Reuse   bool // what the target still holds of an earlier stay counts
	FailAt  string
	Verbose bool
}

// Outcome is what one migration was.
type Outcome struct {
	migrate.Report
	DiskBegan, DiskSynced event.Mono // asynchronous phase begun, mirror in step
	DiskBytes             int64
}
