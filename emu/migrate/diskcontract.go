package migrate

import (
	"context"
	"io"
	"time"

	"github.com/vpclab/vpclab/emu/event"
)

// BlockSize is the unit of a disk that is moved, in bytes.
const BlockSize = PageSize

// DiskSource is a VM's disk at the host that it leaves. It changes while it is
// read.
type DiskSource interface {
	io.ReaderAt
	Size() int64 // bytes, a multiple of BlockSize
	// Extents are where the image holds data: offsets and lengths in bytes,
	// ascending. What lies between reads as zeros. FileExtents knows a file's.
	Extents() ([][2]int64, error)
	// Collect moves the bits of blocks written since the last Collect into into
	// (one bit a block, 64 a word, overwritten) and tells how many there are. A
	// block's bit is set after it was written, and before the write is reported
	// to a mirror.
	Collect(into []uint64) int
	// Mirror has the VM report each write from now on: every write that it does
	// not report has set its bit when Mirror returns.
	Mirror(ctx context.Context) (DiskMirror, error)
}

// DiskMirror is what a VM reports its writes to, and waits at.
type DiskMirror interface {
	// Next waits for writes and gives all that were reported: offsets and
	// lengths in bytes, and the number of the last of them, counted from 1.
	// The error is io.EOF when the VM has ended the mirror. Waiting takes no
	// longer than ctx.
	Next(ctx context.Context) (number uint64, extents [][2]int64, err error)
	// Ack tells the VM that the writes up to number are on the other host's
	// disk. It is called by another goroutine than Next.
	Ack(number uint64) error
	// Close lets the VM go on without the mirror.
	Close() error
}

// DiskTarget is a place for the disk at the host that the VM comes to.
type DiskTarget interface {
	io.ReaderAt
	io.WriterAt
	Size() int64
	// Extents are where the image holds data. Unless DiskOptions.Reuse says that
	// it may hold anything, it must read as zeros.
	Extents() ([][2]int64, error)
	// Written adds to into, once the VM runs here, the blocks that it has
	// written here: they cannot be compared with the source any more. A block's
	// bit is set before the block is changed.
	Written(into []uint64) int
}

// DiskOptions of the migration of one disk; both ends are told the same.
type DiskOptions struct {
	// Encoders in the path, for the asynchronous phase and for mirrored writes:
	// zero, cbr and a compressor; see codec.Parse. Default: zero, cbr, zstd-1.
	Encoders []string
	Block    int   // bytes of a CBR block; default 1024
	Cache    int64 // bytes of the CBR cache; default a tenth of the disk
	// Reuse sends only blocks that differ, by their 256-bit hashes, from what the
	// target's image holds already, of an earlier stay of this VM.
	Reuse bool
	// Few is how many blocks may be dirty for writes to be mirrored from then
	// on; default 64.
	Few int
	// Step is as in Options; DiskSteps has the names.
	Step func(name string) error `json:"-"`
}

// DiskReport is what the migration of a disk measured.
type DiskReport struct {
	Began    event.Mono // of the asynchronous phase
	Mirrored event.Mono // writes are mirrored, but not all older ones are there yet
	InStep   event.Mono // they are: the synchronous phase
	Settled  event.Mono // after the pause: the target has all
	Done     event.Mono // both images were read again and are equal

	Blocks int // of the image
	Same   int // not sent in the first round, as the target held them: holes, zeros, an earlier stay
	Sent   int // in rounds, and
	Synced int // for mirrored writes: blocks
	Last   int // of these, between pause and Settled
	Rounds []DiskRound

	Writes int // that were reported to the mirror
	// Waits are what mirrored writes waited for their acknowledgement, from
	// report to acknowledgement: a fair sample of at most 65536 of them.
	Waits []time.Duration

	BytesOut, BytesBack int64 // handed to TCP by the source and by the target
	HashBytes           int64 // of BytesBack, those that told what the target held
	Encoders            []EncoderUse
	Reconnects          int
	Verify              Verification // in blocks
	Hash                string       // 256 bits over the whole image at the pause, both ends equal
}

// DiskRound is one round over the blocks that were dirty when it began.
type DiskRound struct {
	Began, Ended event.Mono
	ToSend       int   // blocks
	Same         int   // of them not sent: the target has what they hold
	Bytes        int64 // on TCP
}

// Asynchronous is how long the disk was copied without being in step.
func (r *DiskReport) Asynchronous() time.Duration { return r.InStep.Sub(r.Began) }

// Synchronous is how long the VM's writes waited for the WAN.
func (r *DiskReport) Synchronous() time.Duration { return r.Settled.Sub(r.Mirrored) }

// DiskSteps are the names that DiskOptions.Step is called with, as Steps are.
var DiskSteps = []string{
	StepDiskBegin, StepDiskHeld, StepDiskRound, StepDiskBatch, StepDiskMirror, StepDiskLate, StepDiskInStep,
	StepDiskWrite, StepDiskAck, StepDiskSettle, StepDiskFinal, StepDiskSettled, StepDiskProof, StepDiskOver,
	StepDiskTargetBegin, StepDiskTargetReady, StepDiskTargetHeld, StepDiskTargetBatch, StepDiskTargetPlaced,
	StepDiskTargetFinal, StepDiskTargetSettled, StepDiskTargetCheck, StepDiskTargetProof, StepDiskTargetOver,
}

// Names of steps of the source and the target of a disk.
const (
	StepDiskBegin   = "disk-begin"   // tell the target what comes
	StepDiskHeld    = "disk-held"    // compare with what the target held before
	StepDiskRound   = "disk-round"   // a round of the asynchronous phase
	StepDiskBatch   = "disk-batch"   // a batch of it
	StepDiskMirror  = "disk-mirror"  // have writes reported
	StepDiskLate    = "disk-late"    // a batch of what was written before they were
	StepDiskInStep  = "disk-in-step" // the synchronous phase has begun
	StepDiskWrite   = "disk-write"   // send what was reported
	StepDiskAck     = "disk-ack"     // let the VM go on
	StepDiskSettle  = "disk-settle"  // the VM stands
	StepDiskFinal   = "disk-final"   // all is sent
	StepDiskSettled = "disk-settled" // all is there
	StepDiskProof   = "disk-proof"   // the hash of the image that stayed
	StepDiskOver    = "disk-over"    // both agree

	StepDiskTargetBegin   = "disk-target-begin"   // the source has said what comes
	StepDiskTargetReady   = "disk-target-ready"   // say that there is room
	StepDiskTargetHeld    = "disk-target-held"    // say what this side holds
	StepDiskTargetBatch   = "disk-target-batch"   // write a batch
	StepDiskTargetPlaced  = "disk-target-placed"  // acknowledge it
	StepDiskTargetFinal   = "disk-target-final"   // all has come
	StepDiskTargetSettled = "disk-target-settled" // say so
	StepDiskTargetCheck   = "disk-target-check"   // read the image again
	StepDiskTargetProof   = "disk-target-proof"   // say what this side's hash is
	StepDiskTargetOver    = "disk-target-over"    // both agree
)
