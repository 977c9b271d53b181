package migrate

import (
	"context"
	"errors"
	"time"

	"github.com/vpclab/vpclab/emu/event"
)

// Algorithms of memory migration, by the names of scenario files.
const (
	StopAndCopy = "stop-and-copy" // pause, send everything
	Xen30       = "xen30"         // Xen 3/4: at most 30 iterations, 3x memory, 50 pages; skips what is dirty again
	Xen5        = "xen5"          // Xen since 4.7: at most 5 iterations
	SmartStop   = "smart-stop"    // CloudNet's stop rule alone
	CBR         = "cbr"           // xen30 with content-based redundancy elimination
	Deltas      = "deltas"        // xen30 with page deltas
	CloudNet    = "cloudnet"      // smart stop, CBR and page deltas
	PostCopy    = "post-copy"     // hand over first, pages follow on demand and by prepaging
	Hybrid      = "hybrid"        // one round of pre-copy, then post-copy
	Own         = "vpclab"        // ours
)

// Options of one migration. Zero values are those of the algorithm.
type Options struct {
	Algorithm string
	// Encoders in place of those of the algorithm, for experiments: zero, cbr,
	// delta, zip, zstd-1, lz4 …; see codec.
	Encoders []string
	Block    int   // bytes of a CBR block; default 1024
	Cache    int64 // bytes of the CBR cache; default a tenth of the memory
	// HashBits narrows the hash by which CBR finds blocks, and Unverified takes
	// its word without comparing bytes: experiments on what collisions do.
	HashBits   int
	Unverified bool
	Window     int // Smart Stop's sliding window in rounds; default 3
	// Verify says when the 256-bit hashes of both memories are compared: at
	// the pause (which lengthens it; the report says by how much), or, with
	// "online", page by page as they are placed and again after the hand-over.
	Verify string
	// HoldPause, where it is not nil, delays the final round until it is
	// closed: VMs that arrive together (synchronized arrival).
	HoldPause <-chan struct{} `json:"-"`
	// Few is how many pages Xen's rules count as none; default 50 for a memory
	// of 1 GiB, scaled with the memory, and at least 4.
	Few int
	// Reuse lets the target say what its memory holds already, of an earlier
	// stay of this VM: pages with the same 256-bit hash are not sent.
	Reuse bool
	// Patience is how long an answer of the Arbiter or of the other end is waited
	// for; default 30 s.
	Patience time.Duration
	// Step, where it is not nil, is called before each step that this end
	// takes, with its name from Steps. An error makes the migration fail there;
	// ErrKilled makes it end there with nothing undone, as a killed process
	// does. It is called from several goroutines.
	Step func(name string) error `json:"-"`
}

var (
	// ErrCommitted is what Abort fails with after Commit: the VM is the target's.
	ErrCommitted = errors.New("the VM was given to the target")
	// ErrAborted is what Commit fails with after Abort: the VM is the source's.
	ErrAborted = errors.New("the VM was kept at the source")
	// ErrInDoubt is in an error after which this end does not know who owns the
	// VM, because the Arbiter did not answer: it stands until that is known.
	ErrInDoubt = errors.New("not known whether the VM was given to the target")
	// ErrKilled is what a Step returns to end an end as a kill would.
	ErrKilled = errors.New("killed")
)

// Source is a VM at the host that it leaves.
type Source interface {
	// Memory is what the VM's memory holds, byte for byte; it changes while it
	// is read. A page that changes has its bit set after the change.
	Memory() []byte
	// Collect moves the bits of pages written since the last Collect into
	// into (one bit a page, 64 a word) and tells how many there are.
	Collect(into []uint64) int
	// Dirty tells without taking it whether a page's bit is set.
	Dirty(page int) bool
	// Pause stops the VM; see guest.Control.
	Pause(ctx context.Context) (at event.Mono, state []byte, err error)
	// Resume lets it go on here: the migration has failed.
	Resume(ctx context.Context) error
}

// Glancer is a Source for which Collect is dear, as it has to look at all of the
// memory. Glance is Collect as far as it costs little: it may leave pages that were
// written to a later call of either.
type Glancer interface {
	Glance(into []uint64) int
}

// Stayer is a Source whose Memory is a copy of the VM's. Stayed is the VM's own,
// which nobody changes once the VM runs at the target: it is what the target's is
// proven equal to.
type Stayer interface {
	Stayed() []byte
}

// Stater is a Source whose Pause returns no state: what the VM's devices hold is
// still being written down when it stands, while the last pages are sent. State
// waits for it.
type Stater interface {
	State(ctx context.Context) ([]byte, error)
}

// Target is a place for the VM at the host that it comes to.
type Target interface {
	// Memory is where pages are placed.
	Memory() []byte
	// Start lets the VM run here on what Memory holds. It is called once, and
	// only after the Arbiter has given the VM to this side.
	Start(ctx context.Context, state []byte) (at event.Mono, err error)
	// StartMissing lets it run while the pages set in missing are not there;
	// see Faults.
	StartMissing(ctx context.Context, state []byte, missing []uint64) (Faults, event.Mono, error)
	// Written adds to into the pages that the VM has written here since Start:
	// they cannot be compared with the source any more. A page's bit is set
	// before the page is changed: who has read a page and then finds no bit has
	// read what was placed. Unlike Collect it takes no bit away, so that a
	// successor of this process sees them too.
	Written(into []uint64) int
}

// Keeper is a Target that outlives its process: what Keep is given is there
// when a new process asks, so that a VM that was given to this side starts even
// if the process that received it is gone. Keep is called before Commit; missing
// is nil when all pages are there.
type Keeper interface {
	Keep(ctx context.Context, state []byte, missing []uint64) error
}

// Faults is the memory of a VM that runs while pages are missing.
type Faults interface {
	// Next waits for the next page that the VM stands at. A page may be
	// reported more than once.
	Next(ctx context.Context) (page int, err error)
	// Place puts a whole page in, in one step, and lets whoever waits for it
	// go on. A page that is there is left alone: placed is false.
	Place(page int, data []byte) (placed bool, err error)
	Close() error
}

// Arbiter decides which host a VM belongs to: the cloud manager's record, which
// both hosts can ask by a way other than the WAN that the VM moves over.
type Arbiter interface {
	// Paused tells that the VM stands: the network may be moved.
	Paused(ctx context.Context, at event.Mono)
	// Commit gives the VM to the target, for good. It fails with ErrAborted, for
	// good, when Abort came first; both are safe to repeat and to call from
	// either end. Any other error of either means: not known, ask again.
	Commit(ctx context.Context) error
	// Abort keeps it at the source. It fails with ErrCommitted, for good, when
	// Commit came first.
	Abort(ctx context.Context) error
}

// Report is what a migration measured, as one end or both saw it.
type Report struct {
	Algorithm string
	Began     event.Mono // of the memory phase
	PausedAt  event.Mono // the VM's last step at the source
	ResumedAt event.Mono // its first at the target
	Done      event.Mono // nothing is left at the source
	Rounds    []Round
	// Bytes handed to TCP by the source and by the target (frames with their
	// headers); what crossed the wire is counted by whoever owns the network.
	BytesOut, BytesBack int64
	Encoders            []EncoderUse
	CPU                 struct{ Source, Target time.Duration }
	Verify              Verification
	Faults              FaultUse // post-copy
	Reconnects          int
	Hash                string // 256 bits over the whole memory at the pause, both ends equal
	DiskHash            string
}

// Round is one iteration. The last one is sent while the VM stands.
type Round struct {
	Began, Ended event.Mono
	ToSend       int   // pages dirty at its beginning
	Sent         int   // pages sent
	Skipped      int   // pages left for later because they were dirty again
	Dirtied      int   // pages dirtied during it
	Final        int   // pages sent in it that were never sent again
	Bytes        int64 // on TCP
	FinalBytes   int64 // of the Final pages, as shares of the batches that they came in
	Paused       bool
}

// EncoderUse accounts for one encoder.
type EncoderUse struct {
	Name  string
	Units int64         // pages or blocks that it took
	In    int64         // bytes of them
	Out   int64         // bytes that stand for them
	CPU   time.Duration // that it took, on both sides where known
	False int64         // hits of a hash whose bytes turned out to differ
}

// Verification says how the memories were compared.
type Verification struct {
	Pages, AfterStart, AtPlacing int // compared at the target: in all, after the hand-over, when placed
	// Unproven pages had been written by the VM before a target that took over
	// from a killed one could hash them; they are not in the Hash.
	Unproven      int
	Took, InPause time.Duration
}

// FaultUse accounts for pages that the VM had to wait for.
type FaultUse struct {
	Demanded, Prepaged int
	Waits              []time.Duration
}
