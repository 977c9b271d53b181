package migrate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/migrate/codec"
	"github.com/vpclab/vpclab/emu/migrate/wire"
)

const (
	defaultFew = 64 // blocks
	// mostDiskRounds bounds the asynchronous phase: a VM that writes faster than
	// the link carries is slowed down by mirroring its writes.
	mostDiskRounds = 30
	// mostWaits is the size of the sample of a report.
	mostWaits = 1 << 16
)

// DiskMove is the source's end of the migration of a disk that is in step: what
// the VM writes is mirrored. Its calls are made one after the other.
type DiskMove struct {
	s      wire.Session
	disk   DiskSource
	mirror DiskMirror
	opt    *DiskOptions
	plan   diskPlan
	enc    codec.Encoder
	rep    *DiskReport

	// These belong to whoever sends: first SendDisk, then pump.
	proof   *proof // of what the target holds when all that was sent is written
	pending bitmap // blocks written and not sent since
	taken   bitmap // scratch of Collect
	want    bitmap // scratch of write
	batch   diskBatch
	batches uint64

	reports  chan diskReports
	settling chan chan error
	inbox    chan message
	cancel   context.CancelCauseFunc
	running  sync.WaitGroup
	failed   chan struct{} // closed when err is there

	mu      sync.Mutex
	err     error
	stands  bool      // the VM does, or did: nothing more is reported
	over    bool      // all is proven: nothing can fail any more
	unacked []unacked // oldest first
	shipped uint64    // batches: as batches above
	placed  uint64    // batches that the target has written
	waits   int       // that were measured
	news    chan struct{}
}

// diskBatch collects blocks to be sent together.
type diskBatch struct {
	blocks []uint32
	data   []byte // of blocks, and room for the most
	places []uint32
	out    []byte
}

// diskReports are writes that the VM has reported.
type diskReports struct {
	number  uint64 // of the last
	count   int
	extents [][2]int64
	at      event.Mono
}

// unacked are writes that wait until a batch is written.
type unacked struct {
	batch uint64
	diskReports
}

// SendDisk copies a disk to where ReceiveDisk is called with the other end of
// the session, and returns when it is in step: from then on each write of the
// VM waits until the target has it, until Settle, Close or a failure. ctx is for
// the whole move. After an error the VM goes on without a mirror.
func SendDisk(ctx context.Context, s wire.Session, d DiskSource, opt DiskOptions) (*DiskMove, error) {
	p, err := opt.plan(d.Size())
	if err != nil {
		return nil, err
	}
	if opt.Few == 0 {
		opt.Few = defaultFew
	}
	enc, err := codec.NewEncoder(p.Codec)
	if err != nil {
		return nil, fmt.Errorf("encoder of a disk: %w", err)
	}
	m := &DiskMove{
		s: s, disk: d, opt: &opt, plan: p, enc: enc,
		rep:   &DiskReport{Began: event.Now(), Blocks: p.Blocks},
		proof: newProof(p.Blocks), pending: newBitmap(p.Blocks), taken: newBitmap(p.Blocks), want: newBitmap(p.Blocks),
		reports: make(chan diskReports, 256), settling: make(chan chan error),
		inbox: make(chan message, 16), failed: make(chan struct{}), news: make(chan struct{}, 1),
	}
	m.batch.data = blockBuffer(2 * blocksAtOnce)[:0] // a batch, and a run that is added to it
	for i := range uint32(mostBlocks) {
		m.batch.places = append(m.batch.places, i)
	}
	ctx, m.cancel = context.WithCancelCause(ctx)
	m.running.Go(func() { m.listen(ctx) })
	if err := m.copy(ctx); err != nil {
		m.fail(err)
		m.Close()
		return nil, m.cause()
	}
	m.running.Go(func() { m.pump(ctx) })
	return m, nil
}

// fail ends the move for the first reason given: the VM goes on without it.
func (m *DiskMove) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil && !m.over {
		m.err = err
		close(m.failed)
		m.cancel(err)
	}
}

func (m *DiskMove) cause() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

// Failed is closed when the move has failed; Err says why. The VM then runs on,
// without a mirror.
func (m *DiskMove) Failed() <-chan struct{} { return m.failed }

// Err is why the move has failed; nil: it has not.
func (m *DiskMove) Err() error { return m.cause() }

// Close ends the move: a VM that runs at the source goes on without a mirror.
// It is to be called before such a VM is resumed. The session is the caller's.
func (m *DiskMove) Close() {
	err := errors.New("the migration of the disk was given up")
	m.fail(err)
	m.cancel(err)
	m.running.Wait()
	if m.mirror != nil {
		_ = m.mirror.Close() // the VM sees it, or has gone itself
	}
	if m.enc != nil {
		m.enc.Close()
		m.enc = nil
	}
}

// copy is all that is done before the disk is in step.
func (m *DiskMove) copy(ctx context.Context) error {
	m.disk.Collect(m.taken) // from here on written blocks are noted
	toSend, err := m.begin(ctx)
	if err != nil {
		return err
	}
	if err := m.asynchronous(ctx, toSend); err != nil {
		return err
	}
	if err := m.opt.step(StepDiskMirror); err != nil {
		return err
	}
	if m.mirror, err = m.disk.Mirror(ctx); err != nil {
		return fmt.Errorf("have the VM report its writes: %w", err)
	}
	m.rep.Mirrored = event.Now()
	m.running.Go(func() { m.hear(ctx) })
	if err := m.late(ctx); err != nil {
		return err
	}
	m.rep.InStep = event.Now()
	return m.opt.step(StepDiskInStep)
}

// begin tells the target what comes and finds out which blocks it lacks.
func (m *DiskMove) begin(ctx context.Context) (bitmap, error) {
	if err := m.opt.step(StepDiskBegin); err != nil {
		return nil, err
	}
	if err := m.tell(ctx, diskBegin, encodeJSON(m.plan)); err != nil {
		return nil, err
	}
	toSend := newBitmap(m.plan.Blocks)
	if m.opt.Reuse {
		return toSend, m.compare(ctx, toSend)
	}
	for b := range m.proof.leaves {
		m.proof.set(b, zeroLeaf)
	}
	extents, err := m.disk.Extents()
	if err != nil {
		return nil, fmt.Errorf("find the disk's data: %w", err)
	}
	if err := mark(toSend, extents, m.plan.Blocks); err != nil {
		return nil, fmt.Errorf("the disk's data: %w", err)
	}
	m.rep.Same = m.plan.Blocks - toSend.count()
	_, err = m.expect(ctx, diskReady, hashIn(m.plan.Blocks))
	return toSend, err
}

// compare finds the blocks that differ from what the target holds, by a tree of
// hashes: 32 bytes for each 64 blocks, and 32 for each block of those that
// differ. A block that is written while it is read here is dirty, and looked
// at again.
func (m *DiskMove) compare(ctx context.Context, toSend bitmap) error {
	ours := newProof(m.plan.Blocks)
	extents, err := m.disk.Extents()
	if err != nil {
		return fmt.Errorf("find the disk's data: %w", err)
	}
	if err := hashBlocks(m.disk, extents, m.plan.Blocks, ours, ctx.Err); err != nil {
		return fmt.Errorf("hash the disk: %w", err)
	}
	if err := m.opt.step(StepDiskHeld); err != nil {
		return err
	}
	ours.root()
	nodes := make([]byte, 0, len(ours.nodes)*len(digest{}))
	if nodes, err = m.hashes(ctx, diskNodes, nodes, hashIn(m.plan.Blocks)); err != nil {
		return err
	}
	differ := newBitmap(len(ours.nodes))
	leaves := 0
	for n := range ours.nodes {
		if digest(nodes[n*len(digest{}):]) == ours.nodes[n] {
			copy(m.proof.leaves[n*groupSize:], ours.leaves[n*groupSize:min((n+1)*groupSize, m.plan.Blocks)])
			continue
		}
		differ.set(n)
		leaves += min((n+1)*groupSize, m.plan.Blocks) - n*groupSize
	}
	if err := m.tell(ctx, diskAsk, appendBitmap(nil, differ)); err != nil {
		return err
	}
	theirs, err := m.hashes(ctx, diskLeaves, make([]byte, 0, leaves*len(digest{})), answerIn)
	if err != nil {
		return err
	}
	m.rep.HashBytes = int64(len(nodes) + len(theirs))
	for n := differ.next(0); n >= 0; n = differ.next(n + 1) {
		for b := n * groupSize; b < min((n+1)*groupSize, m.plan.Blocks); b++ {
			m.proof.set(b, digest(theirs))
			theirs = theirs[len(digest{}):]
			if m.proof.leaves[b] != ours.leaves[b] {
				toSend.set(b)
			}
		}
	}
	m.rep.Same = m.plan.Blocks - toSend.count()
	_, err = m.expect(ctx, diskReady, answerIn)
	return err
}

// hashes receives as many bytes of hashes as dst has room for.
func (m *DiskMove) hashes(ctx context.Context, t wire.Type, dst []byte, within time.Duration) ([]byte, error) {
	for len(dst) < cap(dst) {
		b, err := m.expect(ctx, t, within)
		if err != nil {
			return nil, err
		}
		if len(b) == 0 || len(b)%len(digest{}) != 0 || len(b) > cap(dst)-len(dst) {
			return nil, fmt.Errorf("%q of %d bytes: expected hashes of 32, %d bytes in all, of which %d have come", diskMessageName(t), len(b), cap(dst), len(dst))
		}
		dst = append(dst, b...)
	}
	return dst, nil
}

// asynchronous sends rounds until few blocks are dirty, or rounds do not help.
func (m *DiskMove) asynchronous(ctx context.Context, toSend bitmap) error {
	last := m.plan.Blocks
	for i := 0; ; i++ {
		if err := m.opt.step(StepDiskRound); err != nil {
			return err
		}
		if err := m.round(ctx, toSend, blocksAtOnce, StepDiskBatch, nil); err != nil {
			return err
		}
		m.collect()
		dirty := m.pending.count()
		if dirty <= m.opt.Few || i > 0 && dirty >= last || i+1 == mostDiskRounds {
			return nil
		}
		last = dirty
		copy(toSend, m.pending)
		clear(m.pending)
	}
}

// collect adds what was written since to pending.
func (m *DiskMove) collect() {
	m.disk.Collect(m.taken)
	m.pending.or(m.taken)
}

// late sends what was written before writes were reported, and between its
// batches what is reported, until the target has it all.
func (m *DiskMove) late(ctx context.Context) error {
	m.collect()
	toSend := newBitmap(m.plan.Blocks)
	copy(toSend, m.pending)
	clear(m.pending)
	err := m.round(ctx, toSend, fewAtOnce, StepDiskLate, func() error {
		select {
		case r := <-m.reports:
			return m.write(ctx, r)
		default:
			return nil
		}
	})
	if err != nil {
		return err
	}
	if err := m.send(ctx, true); err != nil { // says when all before it is written
		return err
	}
	return m.untilPlaced(ctx, m.batches)
}

// round sends the blocks of toSend; between is called after each batch.
func (m *DiskMove) round(ctx context.Context, toSend bitmap, most int, step string, between func() error) error {
	r := DiskRound{Began: event.Now(), ToSend: toSend.count()}
	before := m.s.Stats().Out
	sent := m.rep.Sent
	flush := func() error {
		if err := m.opt.step(step); err != nil {
			return err
		}
		m.rep.Sent += len(m.batch.blocks)
		if err := m.send(ctx, false); err != nil {
			return err
		}
		if between != nil {
			return between()
		}
		return nil
	}
	err := runs(toSend, most, func(first, n int) error {
		if err := m.add(first, n); err != nil {
			return err
		}
		if len(m.batch.blocks) < most {
			return nil
		}
		return flush()
	})
	if err == nil && len(m.batch.blocks) > 0 {
		err = flush()
	}
	r.Ended, r.Same = event.Now(), r.ToSend-(m.rep.Sent-sent)
	r.Bytes = m.s.Stats().Out - before
	if len(m.rep.Rounds) == 0 {
		m.rep.Same += r.Same
	}
	m.rep.Rounds = append(m.rep.Rounds, r)
	return err
}

// add reads n blocks and puts those into the batch that the target does not
// hold as they are now.
func (m *DiskMove) add(first, n int) error {
	b := &m.batch
	at := len(b.data)
	b.data = b.data[:at+n*BlockSize]
	if err := readBlocks(m.disk, b.data[at:], first, n); err != nil {
		return fmt.Errorf("read the disk: %w", err)
	}
	for i := range n {
		block := b.data[at+i*BlockSize : at+(i+1)*BlockSize]
		d := leaf(block)
		if d == m.proof.leaves[first+i] {
			continue
		}
		m.proof.set(first+i, d)
		to := len(b.blocks) * BlockSize
		copy(b.data[to:to+BlockSize], block)
		b.blocks = append(b.blocks, uint32(first+i))
	}
	b.data = b.data[:len(b.blocks)*BlockSize]
	return nil
}

// send sends the batch, which may be empty where only its acknowledgement
// counts.
func (m *DiskMove) send(ctx context.Context, ack bool) error {
	b := &m.batch
	b.out = appendBlocks(b.out[:0], ack, b.blocks)
	if len(b.blocks) > 0 {
		b.out = m.enc.Encode(b.out, b.places[:len(b.blocks)], b.data)
	}
	b.blocks, b.data = b.blocks[:0], b.data[:0]
	m.batches++
	m.mu.Lock()
	m.shipped = m.batches
	m.mu.Unlock()
	if err := m.s.Send(ctx, diskBlocks, b.out); err != nil {
		return fmt.Errorf("send batch %d of blocks: %w", m.batches, err)
	}
	return nil
}

// hear takes the VM's reports.
func (m *DiskMove) hear(ctx context.Context) {
	last := uint64(0)
	for {
		number, extents, err := m.mirror.Next(ctx)
		if err != nil {
			m.mu.Lock()
			stands := m.stands
			m.mu.Unlock()
			if errors.Is(err, io.EOF) {
				err = errors.New("the VM has ended it")
			}
			if !stands { // else it has what it was for: a VM that goes on at the target ends it, maybe before the target's word is here
				m.fail(fmt.Errorf("mirror of the disk: %w", err))
			}
			return
		}
		r := diskReports{number: number, count: int(number - last), extents: extents, at: event.Now()}
		last = number
		select {
		case m.reports <- r:
		case <-ctx.Done():
			return
		}
	}
}

// pump sends what is reported, until the VM stands.
func (m *DiskMove) pump(ctx context.Context) {
	for {
		var err error
		select {
		case r := <-m.reports:
			err = m.write(ctx, r)
		case answer := <-m.settling:
			answer <- m.settle(ctx)
			return
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		if err != nil {
			m.fail(err)
			return
		}
	}
}

// write sends the blocks of reported writes, as the image has them now: not
// older than any of the reports, and never followed by anything older.
func (m *DiskMove) write(ctx context.Context, r diskReports) error {
	if err := m.opt.step(StepDiskWrite); err != nil {
		return err
	}
	clear(m.want)
	for more := true; more; {
		if err := mark(m.want, r.extents, m.plan.Blocks); err != nil {
			return fmt.Errorf("a write of the VM: %w", err)
		}
		m.rep.Writes += r.count
		m.owe(r)
		select {
		case r = <-m.reports: // what has come meanwhile goes along
		default:
			more = false
		}
	}
	// A block's bit was set before its write was reported. It is taken before
	// the block is read: one that is written once more is dirty again.
	m.collect()
	err := runs(m.want, fewAtOnce, func(first, n int) error {
		for b := first; b < first+n; b++ {
			m.pending.unset(b)
		}
		if len(m.batch.blocks)+n > mostBlocks/2 {
			m.rep.Synced += len(m.batch.blocks)
			if err := m.send(ctx, false); err != nil {
				return err
			}
		}
		return m.add(first, n)
	})
	if err != nil {
		return err
	}
	m.rep.Synced += len(m.batch.blocks)
	m.bind(m.batches + 1)
	return m.send(ctx, true)
}

// owe notes writes that are to be acknowledged with a batch that is not known yet.
func (m *DiskMove) owe(r diskReports) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r.extents = nil
	m.unacked = append(m.unacked, unacked{^uint64(0), r})
}

// bind has those that are owed acknowledged when a batch is written.
func (m *DiskMove) bind(batch uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := len(m.unacked) - 1; i >= 0 && m.unacked[i].batch == ^uint64(0); i-- {
		m.unacked[i].batch = batch
	}
}

// arrived notes that the target has written so many batches, and lets the VM's
// writes go on that waited for it.
func (m *DiskMove) arrived(placed uint64) error {
	m.mu.Lock()
	if placed < m.placed || placed > m.shipped {
		err := fmt.Errorf("the target says that it wrote %d batches, after %d and of %d", placed, m.placed, m.shipped)
		m.mu.Unlock()
		return err
	}
	m.placed = placed
	n := 0
	for n < len(m.unacked) && m.unacked[n].batch <= placed {
		n++
	}
	done := m.unacked[:n:n]
	m.unacked = m.unacked[n:]
	m.mu.Unlock()
	select {
	case m.news <- struct{}{}:
	default:
	}
	if n == 0 {
		return nil
	}
	if err := m.opt.step(StepDiskAck); err != nil {
		return err
	}
	err := m.mirror.Ack(done[n-1].number)
	now := event.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil && !m.stands { // else there may be nobody left who waits for it
		return fmt.Errorf("mirror of the disk: %w", err)
	}
	for _, u := range done {
		for range u.count {
			m.sample(now.Sub(u.at))
		}
	}
	return nil
}

// sample keeps a fair sample of waits; the caller holds the lock.
func (m *DiskMove) sample(d time.Duration) {
	m.waits++
	if len(m.rep.Waits) < mostWaits {
		m.rep.Waits = append(m.rep.Waits, d)
	} else if i := rand.IntN(m.waits); i < mostWaits {
		m.rep.Waits[i] = d
	}
}

// untilPlaced waits until the target has written a number of batches.
func (m *DiskMove) untilPlaced(ctx context.Context, batches uint64) error {
	timer := time.NewTimer(placeIn)
	defer timer.Stop()
	for {
		m.mu.Lock()
		placed := m.placed
		m.mu.Unlock()
		if placed >= batches {
			return nil
		}
		select {
		case <-m.news:
			timer.Reset(placeIn)
		case <-m.failed:
			return m.cause()
		case <-ctx.Done():
			return fmt.Errorf("waiting until the target has written batch %d: %w", batches, context.Cause(ctx))
		case <-timer.C:
			return fmt.Errorf("waiting until the target has written batch %d: none was written in %v", batches, placeIn)
		}
	}
}

// Settle is called when the VM stands: it returns when the target has the whole
// disk, and both ends have the same hash of it. The VM's writes are not mirrored
// any more: before it is resumed at the source, Close must be called.
func (m *DiskMove) Settle(ctx context.Context) error {
	m.mu.Lock()
	m.stands = true
	m.mu.Unlock()
	answer := make(chan error, 1)
	select {
	case m.settling <- answer:
	case <-m.failed:
		return m.cause()
	case <-ctx.Done():
		return fmt.Errorf("settle the disk: %w", context.Cause(ctx))
	}
	select {
	case err := <-answer:
		if err != nil {
			m.fail(err)
		}
		return err
	case <-ctx.Done():
		err := fmt.Errorf("settle the disk: %w", context.Cause(ctx))
		m.fail(err) // it is not known how far it has come
		return err
	}
}

func (m *DiskMove) settle(ctx context.Context) error {
	if err := m.opt.step(StepDiskSettle); err != nil {
		return err
	}
	// The bitmap has every write, reported or not.
	m.collect()
	before := m.rep.Sent
	if err := m.round(ctx, m.pending, blocksAtOnce, StepDiskLate, nil); err != nil {
		return err
	}
	m.rep.Last = m.rep.Sent - before
	clear(m.pending)
	root := m.proof.root()
	if err := m.opt.step(StepDiskFinal); err != nil {
		return err
	}
	if err := m.tell(ctx, diskFinal, root[:]); err != nil {
		return err
	}
	theirs, err := m.expect(ctx, diskSettled, placeIn)
	if err != nil {
		return err
	}
	if len(theirs) != len(root) || digest(theirs) != root {
		return &DiffersError{What: fmt.Sprintf("a disk of hash %v was sent and one of %x was written", root, theirs)}
	}
	m.rep.Settled = event.Now()
	return m.opt.step(StepDiskSettled)
}

// Prove reads the image that stayed here, which nothing writes any more, and
// compares its hash with that of the target's. It is called when the VM runs
// there. The report is there, as far as it goes, with an error too.
func (m *DiskMove) Prove(ctx context.Context) (*DiskReport, error) {
	err := m.prove(ctx)
	if err == nil {
		m.rep.Done = event.Now()
	}
	return m.Report(), err
}

func (m *DiskMove) prove(ctx context.Context) error {
	if err := m.opt.step(StepDiskProof); err != nil {
		return err
	}
	extents, err := m.disk.Extents()
	if err != nil {
		return fmt.Errorf("find the disk's data: %w", err)
	}
	stayed := newProof(m.plan.Blocks)
	if err := hashBlocks(m.disk, extents, m.plan.Blocks, stayed, ctx.Err); err != nil {
		return fmt.Errorf("hash the disk that stayed: %w", err)
	}
	root := stayed.root()
	if blocks, err := stayed.differs(m.proof.bytes()); err != nil || len(blocks) > 0 {
		return errors.Join(err, &DiffersError{Pages: blocks, What: "blocks of the disk that stayed at the source are not what was sent"})
	}
	if err := m.tell(ctx, diskProof, root[:]); err != nil {
		return err
	}
	payload, err := m.expect(ctx, diskProven, hashIn(m.plan.Blocks))
	if err != nil {
		return err
	}
	var theirs diskProvenAnswer
	if err := json.Unmarshal(payload, &theirs); err != nil {
		return fmt.Errorf("the target's proof of the disk: %w", err)
	}
	if theirs.Root != root.String() {
		return &DiffersError{What: fmt.Sprintf("the disk that stayed has the hash %v and the target's has %s", root, theirs.Root)}
	}
	m.rep.Verify, m.rep.Hash = theirs.Verify, theirs.Root
	m.rep.Encoders = uses(m.enc.Usage(), theirs.Encoders)
	if err := m.tell(ctx, diskOver, nil); err != nil {
		return err
	}
	if err := m.s.Flush(ctx); err != nil {
		return fmt.Errorf("waiting for the target to hear that the disk is proven: %w", err)
	}
	m.mu.Lock()
	m.over = true
	m.mu.Unlock()
	return m.opt.step(StepDiskOver)
}

// Report is what was measured so far; it is called when no other call is under
// way, and after Settle, Close or a failure.
func (m *DiskMove) Report() *DiskReport {
	stats := m.s.Stats()
	m.rep.BytesOut, m.rep.BytesBack, m.rep.Reconnects = stats.Out, stats.In, stats.Reconnects
	if m.rep.Encoders == nil && m.enc != nil {
		m.rep.Encoders = uses(m.enc.Usage(), nil)
	}
	return m.rep
}

// listen sorts what the target says until the session or the move ends.
func (m *DiskMove) listen(ctx context.Context) {
	for {
		r, err := m.s.Receive(ctx)
		if err != nil {
			m.fail(fmt.Errorf("receive from the target of the disk: %w", err))
			return
		}
		switch r.Type {
		case diskPlaced:
			n, err := parseU64(r.Payload)
			if err == nil {
				err = m.arrived(n)
			}
			if err != nil {
				m.fail(err)
				return
			}
			continue
		case diskFailed:
			m.fail(fmt.Errorf("the target of the disk: %s", r.Payload))
			return
		}
		select {
		case m.inbox <- message{r.Type, append([]byte{}, r.Payload...)}:
		case <-ctx.Done():
			return
		}
	}
}

// expect waits for the target's next message, which must be of type t.
func (m *DiskMove) expect(ctx context.Context, t wire.Type, within time.Duration) ([]byte, error) {
	timer := time.NewTimer(within)
	defer timer.Stop()
	var r message
	select {
	case r = <-m.inbox:
	case <-m.failed:
		return nil, m.cause()
	case <-timer.C:
		return nil, fmt.Errorf("waiting for %q of the target: nothing in %v", diskMessageName(t), within)
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for %q of the target: %w", diskMessageName(t), context.Cause(ctx))
	}
	if r.Type != t {
		return nil, fmt.Errorf("waiting for %q: the target sent %q", diskMessageName(t), diskMessageName(r.Type))
	}
	return r.payload, nil
}

// tell sends a message of control.
func (m *DiskMove) tell(ctx context.Context, t wire.Type, payload []byte) error {
	if err := m.s.Send(ctx, t, payload); err != nil {
		return fmt.Errorf("send %q: %w", diskMessageName(t), err)
	}
	return nil
}
