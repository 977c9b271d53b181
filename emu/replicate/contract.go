// Package replicate keeps a standby of a VM in another cloud, and takes over
// there: what one host sends and the other receives. Like package migrate it
// knows pages, blocks and connections, and neither hosts nor networks: it runs
// in a test over a pipe.
package replicate

import (
	"context"
	"time"

	"github.com/vpclab/vpclab/emu/event"
)

// Modes of replication, by the names of scenario files.
const (
	// Async: checkpoints of memory and disk, and nobody waits for them. What
	// clients were told since the last one that arrived is lost with the
	// primary, and so are their connections.
	Async = "async"
	// Checkpoint: as Remus (NSDI'08). What the VM sends is held until the
	// checkpoint that it rests on is at the standby; memory, disk and TCP
	// connections go on there.
	Checkpoint = "checkpoint"
	// Pipelined: as PipeCloud (SoCC'11). Writes to the disk are sent as they
	// come and the VM never stands; what it sends is held until the writes before
	// it have been acknowledged, many batches being under way at once. The
	// standby boots from its disk.
	Pipelined = "pipelined"
	// Sync: as DRBD's protocol C. Each write waits for the standby's disk, and
	// the program that wrote with it. The standby boots from its disk.
	Sync = "sync"
)

// Options of a pair. Zero values are those of the mode.
type Options struct {
	Mode string
	// Epoch is from one checkpoint, or batch of writes, to the next; default
	// 50 ms (Pipelined: 2 ms). A checkpoint that takes longer delays the next.
	Epoch time.Duration
	// Encoders as in migrate.Options; default those of vpclab's own.
	Encoders []string
	// Window is how many epochs may be under way unacknowledged; default 1
	// (Checkpoint), 14 (Pipelined).
	Window int
	// Silence is how long an end waits for a sign of life of the other before it
	// suspects it; default 200 ms, and at least three epochs.
	Silence time.Duration
	// Step as in migrate.Options, with the names of Steps of this package.
	Step func(name string) error `json:"-"`
}

// Primary is a VM at the host that it runs at.
type Primary interface {
	Memory() []byte
	Collect(into []uint64) int // see migrate.Source
	Dirty(page int) bool
	// Checkpoint stops the VM between two steps, and tells what its virtual
	// CPUs, devices and (where connections is set) TCP connections hold.
	Checkpoint(ctx context.Context, connections bool) (at event.Mono, state []byte, err error)
	Resume(ctx context.Context) error
	Disk() Disk // nil: it has none
}

// Disk is what replication needs of the primary's disk.
type Disk interface {
	Size() int64
	ReadAt(b []byte, off int64) (int, error)
	Collect(into []uint64) int // blocks written since the last Collect
	// Mirror has each write reported from now on, in order; see guest.Disk.
	// acked is called when the guest may count the write as done.
	Mirror(ctx context.Context, report func(off int64, data []byte, acked func())) (stop func(), err error)
}

// Gate holds what the VM sends (output commit).
type Gate interface {
	// Mark has what the VM sends from now on belong to the next epoch, and
	// tells which. It fails when no more epochs can be told apart until one is
	// released.
	Mark() (epoch uint64, err error)
	// Release lets go what belongs to epochs up to and including epoch.
	Release(epoch uint64) error
	// Open lets everything go, now and from now on: the VM runs unprotected.
	Open() error
	// Shut lets nothing go any more, for good: the VM has lost its lease.
	Shut() error
}

// Standby is the place that takes over.
type Standby interface {
	Memory() []byte
	WriteDisk(b []byte, off int64) error
	// Keep is told each epoch that is whole here, with its state, before it is
	// acknowledged: a successor of this process begins there. See
	// migrate.Keeper.
	Keep(ctx context.Context, epoch uint64, state []byte) error
}

// Report is what a pair measured so far, at either end.
type Report struct {
	Mode      string
	Epochs    uint64 // acknowledged
	Last      uint64 // epoch that the standby holds
	LastAt    event.Mono
	FirstSync event.Mono // when the standby first held everything
	Pages     int64
	Blocks    int64
	Bytes     int64         // on TCP, to the standby
	Stood     time.Duration // VM-stopped clock, in all
	Pauses    []time.Duration
	Commits   []time.Duration // checkpoint taken → acknowledged
	EncodeCPU time.Duration
}
