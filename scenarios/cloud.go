package scenarios

import (
	"context"
	"errors"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/emu/migrate"
	"github.com/vpclab/vpclab/emu/vmm"
)

// cloud is what the experiment migration needs of the hypervisor hosts, beside
// the lab as a network.
type cloud interface {
	// move migrates a VM. It returns when nothing of the VM is left to be done.
	move(ctx context.Context, m move) (*moved, error)
	// status is what a guest says of itself.
	status(ctx context.Context, vm string) (guest.Status, error)
}

// move is one migration that is asked for.
type move struct {
	vm, to string // the VM and the host's node
	memory migrate.Options
	disk   *migrate.DiskOptions // nil: it stays
	reuse  bool                 // what the target still holds of an earlier stay counts
	qemu   vmm.Parameters       // of QEMU's own way
	within time.Duration        // and how long it may take to converge; 0: as long as it takes
	// ready is called when the VM could take its last round, which then waits
	// until go ahead is closed. Both may be nil.
	ready   func()
	goAhead <-chan struct{}
}

// moved is what one migration was.
type moved struct {
	migrate.Report
	disk      *migrate.DiskReport // nil: it stays
	requested event.Mono
	joined    event.Mono // the destination's site is in the VPC
	reached   event.Mono // the network has the VM at its new host
	// wireOut and wireBack are bytes on the wire between the two hosts, headers
	// included, from the source and towards it.
	wireOut, wireBack int64
	qemu              *vmm.Stats          // nil: QEMU has moved nothing by itself
	checked           *guest.Verification // by a VM with a kernel of its own; nil: it has not said
	// diverged is a migration by QEMU itself that was given up, as it did not come
	// to its end within its time: the VM is where it was.
	diverged bool
}

// labCloud is the cloud of a running lab.
type labCloud struct{ Lab }

func (c labCloud) move(ctx context.Context, m move) (*moved, error) {
	req := lab.MigrateRequest{VM: m.vm, To: m.to, Memory: m.memory, SharedDisk: m.disk == nil, Reuse: m.reuse, QEMU: m.qemu, Within: m.within, Ready: m.ready, GoAhead: m.goAhead}
	if m.disk != nil {
		req.Disk = *m.disk
	}
	r, err := c.Migrate(ctx, req)
	diverged := errors.Is(err, vmm.ErrDiverged) && r != nil && !r.Committed
	if err != nil && !diverged {
		return nil, err
	}
	return &moved{
		Report: r.Report, disk: r.Disk, requested: r.Requested, joined: r.Joined, reached: r.Reached, wireOut: r.WireOut, wireBack: r.WireBack,
		qemu: r.QEMU, checked: r.Checked, diverged: diverged,
	}, nil
}

func (c labCloud) status(ctx context.Context, vm string) (guest.Status, error) {
	return c.GuestStatus(ctx, vm)
}
