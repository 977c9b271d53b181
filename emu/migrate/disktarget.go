package migrate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/migrate/codec"
	"github.com/vpclab/vpclab/emu/migrate/wire"
)

// DiskReceiver is the target's end of the migration of a disk.
type DiskReceiver struct {
	s    wire.Session
	disk DiskTarget
	opt  *DiskOptions
	plan diskPlan
	dec  codec.Decoder
	rep  *DiskReport

	proof   *proof // of what was written
	scratch []byte // blocks of a batch
	runs    []blockRun
	batches uint64

	settled chan struct{} // closed when all that the source had is here
	done    chan struct{} // closed when err is there
	err     error
}

// ReceiveDisk takes what SendDisk sends, in the background, until ctx ends.
func ReceiveDisk(ctx context.Context, s wire.Session, d DiskTarget, opt DiskOptions) *DiskReceiver {
	r := &DiskReceiver{
		s: s, disk: d, opt: &opt, rep: &DiskReport{Began: event.Now()},
		settled: make(chan struct{}), done: make(chan struct{}),
	}
	go func() {
		defer close(r.done)
		r.err = r.run(ctx)
	}()
	return r
}

// AwaitSettled waits until everything is here that the source's disk held when
// the VM was paused. Only then may the VM be started here.
func (r *DiskReceiver) AwaitSettled(ctx context.Context) error {
	select {
	case <-r.settled:
		return nil
	case <-r.done:
		select {
		case <-r.settled:
			return nil // what comes after is the proof
		default:
		}
		if r.err == nil {
			return errors.New("the disk was not settled")
		}
		return r.err
	case <-ctx.Done():
		return fmt.Errorf("waiting for the rest of the disk: %w", context.Cause(ctx))
	}
}

// Wait waits until the source has seen that both disks are equal.
func (r *DiskReceiver) Wait(ctx context.Context) (*DiskReport, error) {
	select {
	case <-r.done:
		return r.rep, r.err
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the disk to be proven: %w", context.Cause(ctx))
	}
}

func (r *DiskReceiver) run(ctx context.Context) error {
	err := r.receive(ctx)
	stats := r.s.Stats()
	r.rep.BytesOut, r.rep.BytesBack, r.rep.Reconnects = stats.In, stats.Out, stats.Reconnects
	if r.dec != nil {
		r.rep.Encoders = uses(nil, r.dec.Usage())
		r.dec.Close()
	}
	if err == nil || killed(err) {
		return err
	}
	// So that the source need not find out by waiting.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = r.tell(ctx, diskFailed, []byte(err.Error()))
	return err
}

func (r *DiskReceiver) receive(ctx context.Context) (err error) {
	if r.plan, err = r.opt.plan(r.disk.Size()); err != nil {
		return err
	}
	if r.dec, err = codec.NewDecoder(r.plan.Codec); err != nil {
		return fmt.Errorf("decoder of a disk: %w", err)
	}
	r.rep.Blocks = r.plan.Blocks
	r.proof, r.scratch = newProof(r.plan.Blocks), blockBuffer(mostBlocks)
	if err := r.open(ctx); err != nil {
		return err
	}
	for {
		m, err := r.next(ctx, "blocks of the disk")
		if err != nil {
			return err
		}
		switch m.Type {
		case diskBlocks:
			err = r.place(ctx, m.Payload)
		case diskFinal:
			if err = r.final(ctx, m.Payload); err == nil {
				return r.prove(ctx)
			}
		default:
			err = diskUnexpected(m, "blocks of the disk")
		}
		if err != nil {
			return err
		}
	}
}

// open compares what the source is about to do with what this end was told, and
// tells it what the image holds.
func (r *DiskReceiver) open(ctx context.Context) error {
	m, err := r.next(ctx, "what comes of the disk")
	if err != nil {
		return err
	}
	if m.Type != diskBegin {
		return diskUnexpected(m, "what comes of the disk")
	}
	var theirs diskPlan
	if err := json.Unmarshal(m.Payload, &theirs); err != nil {
		return fmt.Errorf("what the source says that comes of the disk: %w", err)
	}
	if !reflect.DeepEqual(theirs, r.plan) {
		return fmt.Errorf("the two ends were told different migrations of a disk: source %+v, target %+v", theirs, r.plan)
	}
	if err := r.opt.step(StepDiskTargetBegin); err != nil {
		return err
	}
	extents, err := r.disk.Extents()
	if err != nil {
		return fmt.Errorf("find what the disk holds: %w", err)
	}
	if err := hashBlocks(r.disk, extents, r.plan.Blocks, r.proof, ctx.Err); err != nil {
		return fmt.Errorf("hash what the disk holds: %w", err)
	}
	if r.plan.Reuse {
		err = r.compare(ctx)
	} else {
		err = r.empty()
	}
	if err != nil {
		return err
	}
	if err := r.opt.step(StepDiskTargetReady); err != nil {
		return err
	}
	return r.tell(ctx, diskReady, nil)
}

// empty says whether the image reads as zeros.
func (r *DiskReceiver) empty() error {
	for b, d := range r.proof.leaves {
		if d != zeroLeaf {
			return fmt.Errorf("the disk at the target holds data in block %d, and is not to be reused: expected zeros", b)
		}
	}
	return nil
}

// compare tells the source what the image holds.
func (r *DiskReceiver) compare(ctx context.Context) error {
	if err := r.opt.step(StepDiskTargetHeld); err != nil {
		return err
	}
	r.proof.root()
	var nodes []byte
	for _, d := range r.proof.nodes {
		nodes = append(nodes, d[:]...)
	}
	if err := r.hashes(ctx, diskNodes, nodes); err != nil {
		return err
	}
	m, err := r.next(ctx, "which hashes the source wants")
	if err != nil {
		return err
	}
	if m.Type != diskAsk {
		return diskUnexpected(m, "which hashes the source wants")
	}
	wanted, err := parseBitmap(m.Payload, len(r.proof.nodes))
	if err != nil {
		return fmt.Errorf("which hashes the source wants: %w", err)
	}
	return r.hashes(ctx, diskLeaves, r.proof.appendLeaves(nil, wanted))
}

// hashes sends a list of them.
func (r *DiskReceiver) hashes(ctx context.Context, t wire.Type, list []byte) error {
	for len(list) > 0 {
		n := min(len(list), leavesAtOnce*len(digest{}))
		if err := r.tell(ctx, t, list[:n]); err != nil {
			return err
		}
		list = list[n:]
	}
	return nil
}

// place writes a batch of blocks.
func (r *DiskReceiver) place(ctx context.Context, batch []byte) error {
	if err := r.opt.step(StepDiskTargetBatch); err != nil {
		return err
	}
	r.batches++
	ack, runs, rest, err := parseBlocks(batch, r.plan.Blocks, r.runs[:0])
	if err != nil {
		return fmt.Errorf("batch %d: %w", r.batches, err)
	}
	r.runs = runs
	count, placed := 0, 0
	for _, run := range runs {
		count += run.n
	}
	if count > 0 {
		if err := r.dec.Decode(r.scratch, rest, func(int) { placed++ }); err != nil {
			return fmt.Errorf("batch %d of blocks: %w", r.batches, err)
		}
		if placed != count {
			return fmt.Errorf("batch %d of blocks has %d of %d", r.batches, placed, count)
		}
	}
	at := r.scratch
	for _, run := range runs {
		n := run.n * BlockSize
		if _, err := r.disk.WriteAt(at[:n], int64(run.first)*BlockSize); err != nil {
			return fmt.Errorf("write blocks %d to %d: %w", run.first, run.first+run.n-1, err)
		}
		for i := range run.n {
			r.proof.set(run.first+i, leaf(at[i*BlockSize:(i+1)*BlockSize]))
		}
		at = at[n:]
	}
	r.rep.Sent += count
	if !ack {
		return nil
	}
	if err := r.opt.step(StepDiskTargetPlaced); err != nil {
		return err
	}
	return r.tell(ctx, diskPlaced, u64(r.batches))
}

// final compares what was written with what was sent.
func (r *DiskReceiver) final(ctx context.Context, payload []byte) error {
	root := r.proof.root()
	if len(payload) != len(root) {
		return fmt.Errorf("a final message of the disk of %d bytes", len(payload))
	}
	if err := r.opt.step(StepDiskTargetFinal); err != nil {
		return err
	}
	if digest(payload) != root {
		return fmt.Errorf("before the hand-over: %w", &DiffersError{What: fmt.Sprintf("the source sent a disk of hash %x and one of %v was written", payload, root)})
	}
	r.rep.Settled = event.Now()
	close(r.settled)
	if err := r.opt.step(StepDiskTargetSettled); err != nil {
		return err
	}
	return r.tell(ctx, diskSettled, root[:])
}

// prove answers the source's hash of the image that stayed there. It comes when
// the VM runs here.
func (r *DiskReceiver) prove(ctx context.Context) error {
	m, err := r.next(ctx, "the source's hash of the disk")
	if err != nil {
		return err
	}
	if m.Type != diskProof || len(m.Payload) != len(digest{}) {
		return diskUnexpected(m, "the source's hash of the disk")
	}
	theirs := digest(m.Payload)
	if err := r.check(ctx); err != nil {
		return err
	}
	if err := r.opt.step(StepDiskTargetProof); err != nil {
		return err
	}
	root := r.proof.root()
	answer := diskProvenAnswer{Root: root.String(), Verify: r.rep.Verify, Encoders: r.dec.Usage()}
	if err := r.tell(ctx, diskProven, encodeJSON(answer)); err != nil {
		return err
	}
	if root != theirs {
		return &DiffersError{What: fmt.Sprintf("the disk that stayed at the source has the hash %v, the target's %v", theirs, root)}
	}
	if m, err = r.next(ctx, "the source's verdict on the disk"); err != nil {
		return err
	}
	if m.Type != diskOver {
		return diskUnexpected(m, "the source's verdict on the disk")
	}
	r.rep.Hash, r.rep.Done = root.String(), event.Now()
	return r.opt.step(StepDiskTargetOver)
}

// check reads the image again. A block that the VM has not written since it
// started here, neither before nor while it was read, must be what was written
// by this end; the others are proven by what was hashed when they were written.
func (r *DiskReceiver) check(ctx context.Context) error {
	if err := r.opt.step(StepDiskTargetCheck); err != nil {
		return err
	}
	began := event.Now()
	extents, err := r.disk.Extents()
	if err != nil {
		return fmt.Errorf("find what the disk holds: %w", err)
	}
	now := newProof(r.plan.Blocks)
	if err := hashBlocks(r.disk, extents, r.plan.Blocks, now, ctx.Err); err != nil {
		return fmt.Errorf("read the disk again: %w", err)
	}
	written := newBitmap(r.plan.Blocks)
	r.disk.Written(written)
	var doubtful []int
	v := &r.rep.Verify
	for b := range now.leaves {
		switch {
		case written.has(b):
		case now.leaves[b] != r.proof.leaves[b]:
			doubtful = append(doubtful, b)
		default:
			v.AfterStart++
		}
	}
	v.Pages = r.plan.Blocks
	v.AtPlacing = v.Pages - v.AfterStart
	v.Took = event.Now().Sub(began)
	if len(doubtful) > 0 {
		return &DiffersError{Pages: doubtful, What: "the disk of the target changed after it was written, and not by the VM"}
	}
	return nil
}

// tell sends a message to the source.
func (r *DiskReceiver) tell(ctx context.Context, t wire.Type, payload []byte) error {
	if err := r.s.Send(ctx, t, payload); err != nil {
		return fmt.Errorf("send %q: %w", diskMessageName(t), err)
	}
	return nil
}

// next is what the source says next.
func (r *DiskReceiver) next(ctx context.Context, what string) (wire.Message, error) {
	m, err := r.s.Receive(ctx)
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("the source has closed the session")
		}
		return m, fmt.Errorf("waiting for %s: %w", what, err)
	}
	return m, nil
}

func diskUnexpected(m wire.Message, what string) error {
	return fmt.Errorf("waiting for %s: the source sent %q, %d bytes", what, diskMessageName(m.Type), len(m.Payload))
}
