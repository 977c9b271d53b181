package replicate

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/migrate/wire"
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

// Options of a pair. Zero values are those of the mode. Both ends are told the
// same, Step apart.
type Options struct {
	Mode string
	// Epoch is from one checkpoint, or batch of writes, to the next; default
	// 50 ms (Pipelined: 2 ms). A checkpoint that takes longer delays the next.
	Epoch time.Duration
	// Encoders of memory as in migrate.Options; default vpclab's own.
	Encoders []string
	// Window is how many epochs may be under way unacknowledged; default 4 (Async,
	// Checkpoint: Remus has 1, with which a way longer than an Epoch makes epochs
	// longer) and 14 (Pipelined, Sync). A gate of package plug can tell 16 apart.
	Window int
	// Silence is how long an end waits for a sign of life of the other before it
	// suspects it; default 200 ms, and at least three epochs.
	Silence time.Duration
	// Backlog is how many bytes of writes may wait for the standby before the
	// guest has to (Pipelined); default 64 MiB.
	Backlog int
	// Verify has the standby compare the root hash of all that it holds with the
	// primary's every so many epochs; 0: never. In the modes that have no
	// memory, it is how often some blocks are compared.
	Verify int
	// Step as in migrate.Options, with the names of Steps of this package.
	Step func(name string) error `json:"-"`
}

// Connect makes a session with the other end: wire.Open with a new ID, or a
// Listener's Accept. It is called again after a session has ended.
type Connect func(ctx context.Context) (wire.Session, error)

// Tell is what an end tells whoever runs it. Each may be nil. All but
// Forgets and Lost must not block.
type Tell struct {
	// Synced: a copy is whole. The standby holds everything, as of that epoch, and
	// may take over from now on: the primary says so when it has heard it from the
	// standby. What the VM sends is held from the checkpoint before on.
	Synced func(epoch uint64)
	// Forgets, at the standby: from now on it holds nothing that could be taken
	// over, until Synced, because a copy begins where nothing was held, or one is so
	// different that both cannot be kept. It may block, and nothing is forgotten
	// before it returns.
	Forgets func()
	// Heard: the other end lives. It is called for each look of the watch at which
	// bytes had come, so some times in Silence.
	Heard func(at event.Mono)
	// Silent: nothing has come of the other end since then, for Silence. Heard
	// ends that. At the standby: the primary is to be suspected.
	Silent func(since event.Mono)
	// Lost, at the primary: the standby is silent, cannot be reached, or cannot
	// hold what it is sent. It is called also where no standby was in sync in this
	// run: one of a former process may have been. What the VM sends stays held where
	// it was, and so do writes that wait, while the VM runs. nil: the standby can
	// never take over any more (the witness has it recorded as stale): the gate is
	// opened, writes count, and Run returns ErrLost. An error: the gate is shut for
	// good, and Run returns that. ctx is Run's.
	Lost func(ctx context.Context, cause error) error
}

var (
	// ErrLost is what the primary's Run ends with when its standby is gone: the
	// VM runs unprotected. Another Run makes the next standby, and sends only
	// what differs.
	ErrLost = errors.New("the standby is gone")
	// ErrHandedOver is what the primary's Run ends with after SwitchOver: the VM
	// stands, and the standby holds all of it.
	ErrHandedOver = errors.New("the VM was handed over to the standby")
	// ErrActivated is what the standby's Run ends with after Activate.
	ErrActivated = errors.New("the standby has taken over")
	// ErrNothing is what Activate fails with where nothing whole is held.
	ErrNothing = errors.New("the standby does not hold the VM")
)

// Primary is a VM at the host that it runs at. Memory, Collect and Dirty are
// as in migrate.Source, and are used in the modes Async and Checkpoint alone.
type Primary interface {
	Memory() []byte
	Collect(into []uint64) int
	Dirty(page int) bool
	// Checkpoint stops the VM between two steps, and tells what its virtual
	// CPUs, devices and (where connections is set) TCP connections hold. An
	// error leaves the VM running.
	Checkpoint(ctx context.Context, connections bool) (at event.Mono, state []byte, err error)
	Resume(ctx context.Context) error
	Disk() Disk // nil: it has none
}

// Disk is what replication needs of the primary's disk. Blocks have
// migrate.BlockSize.
type Disk interface {
	Size() int64
	ReadAt(b []byte, off int64) (int, error)
	// Collect moves the bits of blocks written since the last Collect; see
	// migrate.DiskSource. It is used in the modes Async and Checkpoint alone.
	Collect(into []uint64) int
	// Mirror has each write reported from now on, in the order in which they
	// went to the image, by one goroutine at a time (Pipelined, Sync). data is
	// what was written then, not what the disk holds by now: the standby must
	// never have a write without those before it. It is the caller's again
	// when report returns. acked is called once, when the guest may count the
	// write as done: maybe before report returns. stop ends that, and returns
	// when each write that was made before has been reported.
	Mirror(ctx context.Context, report func(off int64, data []byte, acked func())) (stop func(), err error)
}

// Gate holds what the VM sends (output commit), in the modes Checkpoint and
// Pipelined; nil in the others. It is given open, and nothing is held until
// the first Mark.
type Gate interface {
	// Mark has what the VM sends from now on belong to the next epoch, and
	// tells which: one more than before. It fails when no more epochs can be told
	// apart until one is released.
	Mark() (epoch uint64, err error)
	// Release lets go what belongs to epochs up to and including epoch.
	Release(epoch uint64) error
	// Open lets everything go, now and from now on until the next Mark: the VM
	// runs unprotected.
	Open() error
	// Shut lets nothing go any more, for good: the VM has lost its lease.
	Shut() error
}

// Place is where a standby's bytes are.
type Place interface {
	// Memory is nil in the modes that have none.
	Memory() []byte
	Disk() Image // nil: the VM has none
	// Folder outlives the process, as memory and disk do: the standby keeps its
	// logs there, and a successor opens them.
	Folder() string
}

// Image is a disk that nobody uses. *os.File, with its size.
type Image interface {
	io.ReaderAt
	io.WriterAt
	Size() int64
}

// Held is what a standby could go on with.
type Held struct {
	Epoch uint64 // of the primary's run: see Run
	Run   [16]byte
	At    event.Mono // when the VM stood for it, or the batch was closed
	State []byte     // see Primary.Checkpoint; nil in the modes without memory
	Final bool       // a planned switch-over: nothing came after it
	// Synced: all of it is held. Else the standby was never in sync, or a
	// synchronisation that was under way has not ended.
	Synced bool
}

// Report is what a pair measured so far, as one end saw it.
type Report struct {
	Mode      string
	Epochs    uint64 // acknowledged
	Last      uint64 // epoch that the standby holds
	LastAt    event.Mono
	Began     event.Mono // of the first synchronisation
	FirstSync event.Mono // when the standby first held everything
	SyncBytes int64      // on TCP, until then
	SyncPages int64      // sent for it; the rest was there, or zeros
	Pages     int64      // in epochs
	Staged    int64      // of them, copied before the VM was stopped
	Blocks    int64      // of the disk, likewise; writes in Pipelined and Sync
	Bytes     int64      // on TCP, to the standby, in all
	Raw       int64      // bytes of pages and blocks in epochs, before encoding
	Verified  uint64     // epochs whose root hash was compared
	// Late epochs began more than an Epoch after they were due (Pipelined, Sync:
	// had to wait for room in the window), because the ones before were not sent or
	// not acknowledged: the WAN, or the standby, cannot keep up.
	Late       uint64
	Interval   time.Duration // from one epoch to the next, on average
	Stood      time.Duration // the VM, in all
	Pauses     []time.Duration
	Commits    []time.Duration // VM stood, or batch closed → acknowledged; the newest 65536
	EncodeCPU  time.Duration
	Reconnects int // sessions that ended and were replaced, and connections within them
	Resyncs    int // of them, such that all was compared again
}
