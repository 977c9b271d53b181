package migrate

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"sync"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/migrate/codec"
	"github.com/vpclab/vpclab/emu/migrate/wire"
)

// Receive is the other end of Send. It returns when the VM runs here, nothing
// is missing and both memories are proven equal. With ErrCommitted in its
// error the VM is this side's, and what has not been done for it is done by
// RecoverTarget or ReceiveRest; with ErrInDoubt nobody's until the Arbiter
// answers; with any other error it is the source's.
func Receive(ctx context.Context, link Link, vm Target, arb Arbiter, opt Options) (*Report, error) {
	memory := vm.Memory()
	pages := len(memory) / PageSize
	p, err := opt.plan(pages)
	if err != nil {
		return nil, err
	}
	dec, err := codec.NewDecoder(p.codec)
	if err != nil {
		return nil, fmt.Errorf("decoder of %s: %w", opt.Algorithm, err)
	}
	defer dec.Close()
	t := &target{
		link: link, vm: vm, arb: arb, opt: &opt, plan: p, dec: dec,
		memory: memory, pages: pages, proof: newProof(pages), marks: newProof(pages), late: newLate(pages),
		rep: &Report{Algorithm: opt.Algorithm, Began: event.Now()}, cpu: cpu(),
	}
	defer t.late.close()
	err = t.run(ctx)
	t.account()
	return t.rep, err
}

// target is the other end of a migration under way.
type target struct {
	link   Link
	vm     Target
	arb    Arbiter
	opt    *Options
	plan   plan
	dec    codec.Decoder
	memory []byte
	pages  int
	rep    *Report
	cpu    time.Duration

	sending sync.Mutex // of what goes back by Bulk
	batches uint64
	proof   *proof // of the pages as they were placed
	marks   *proof // the same, fast
	seed    uint64 // of fingerprints
	late    *late  // pages that are not in proof yet
	unknown bitmap // pages that a predecessor placed: not hashed yet; nil: none
	mine    bool   // the Arbiter has given the VM to this side
	running bool
	checked bool   // the memory has been read again
	holes   *holes // post-copy
	faults  Faults
	before  int64 // bytes that went out by sessions that were replaced
}

func (t *target) run(ctx context.Context) error {
	err := t.receive(ctx)
	if err == nil {
		err = t.finish(ctx, t.holes != nil)
	}
	for range againMost {
		if err == nil || !t.running || !t.again(ctx, err) {
			break
		}
		err = t.rest(ctx)
	}
	if err == nil || killed(err) {
		return err
	}
	// The source takes the VM back at once if it can be told, and may; else when
	// it sees the session end.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = t.tell(ctx, msgFailed, []byte(err.Error()))
	if t.mine {
		return fmt.Errorf("%w: %w", ErrCommitted, err)
	}
	return err
}

// again replaces the sessions after an error that may be theirs.
func (t *target) again(ctx context.Context, cause error) bool {
	if !carriesOn(ctx, cause) || t.link.Again == nil {
		return false
	}
	t.tally()
	t.link.shut()
	link, err := t.link.Again(ctx)
	if err != nil {
		return false
	}
	link.Again = t.link.Again
	t.link = link
	return true
}

// finish does what is left when the VM runs here.
func (t *target) finish(ctx context.Context, lacking bool) error {
	if lacking {
		if err := t.fill(ctx); err != nil {
			return err
		}
	}
	if !t.checked {
		if err := t.check(ctx); err != nil {
			return err
		}
		t.checked = true
	}
	return t.prove(ctx)
}

// tell sends a message to the source.
func (t *target) tell(ctx context.Context, ty wire.Type, payload []byte) error {
	t.sending.Lock()
	defer t.sending.Unlock()
	if err := t.link.Bulk.Send(ctx, ty, payload); err != nil {
		return fmt.Errorf("send %q: %w", messageName(ty), err)
	}
	return nil
}

// next is what the source says next by Bulk.
func (t *target) next(ctx context.Context, what string) (wire.Message, error) {
	m, err := t.link.Bulk.Receive(ctx)
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("the source has closed the session")
		}
		return m, fmt.Errorf("waiting for %s: %w", what, err)
	}
	if m.Type == msgAbort {
		return m, fmt.Errorf("the source has the VM back: %s", m.Payload)
	}
	return m, nil
}

func unexpected(m wire.Message, what string) error {
	return fmt.Errorf("waiting for %s: the source sent %q", what, messageName(m.Type))
}

// receive places all that comes, takes the VM and starts it.
func (t *target) receive(ctx context.Context) error {
	if err := t.open(ctx); err != nil {
		return err
	}
	post := newPost(ctx, t)
	defer post.close()
	for {
		m, err := post.next(ctx)
		if err != nil {
			return err
		}
		switch m.Type {
		case msgPages:
			err = t.place(ctx, m.Payload)
		case msgRound:
			t.marks.root() // what is known now need not be computed in the pause
			err = t.opt.step(StepTargetRound)
		case msgFinal:
			return t.final(ctx, m.Payload)
		case msgMissing:
			if !t.plan.post {
				return unexpected(m, "pages")
			}
			return t.missing(ctx, m.Payload)
		default:
			return unexpected(m, "pages")
		}
		if err != nil {
			return err
		}
	}
}

// open compares what the source is about to do with what this end was told.
func (t *target) open(ctx context.Context) error {
	m, err := t.next(ctx, "what comes")
	if err != nil {
		return err
	}
	if m.Type != msgBegin {
		return unexpected(m, "what comes")
	}
	var theirs begin
	if err := json.Unmarshal(m.Payload, &theirs); err != nil {
		return fmt.Errorf("what the source says that comes: %w", err)
	}
	ours := begin{Algorithm: t.opt.Algorithm, Pages: t.pages, Codec: t.plan.codec, Verify: t.opt.Verify, Reuse: t.opt.Reuse, Seed: theirs.Seed}
	t.seed = theirs.Seed
	if !reflect.DeepEqual(ours, theirs) {
		return fmt.Errorf("the two ends were told different migrations: source %+v, target %+v", theirs, ours)
	}
	if err := t.opt.step(StepTargetBegin); err != nil {
		return err
	}
	if err := t.opt.step(StepTargetReady); err != nil {
		return err
	}
	if t.opt.Reuse {
		if err := t.hold(ctx); err != nil {
			return err
		}
	}
	return t.tell(ctx, msgReady, nil)
}

// hold says what this end's memory holds of an earlier stay. Pages of zeros
// are left out: to send them costs less.
func (t *target) hold(ctx context.Context) error {
	var list []byte
	for page := range t.pages {
		data := t.memory[page*PageSize : (page+1)*PageSize]
		d := leaf(data)
		t.proof.set(page, d)
		t.marks.set(page, fingerprint(data, t.seed))
		if d == zeroLeaf {
			continue
		}
		list = append(binary.BigEndian.AppendUint32(list, uint32(page)), d[:]...)
		if len(list) >= holdsAtOnce*holdSize {
			if err := t.tell(ctx, msgHolds, list); err != nil {
				return err
			}
			list = list[:0]
		}
	}
	return t.tell(ctx, msgHolds, list)
}

// place decodes a batch into memory, and takes the fingerprint of each page where it lies now.
func (t *target) place(ctx context.Context, batch []byte) error {
	if err := t.opt.step(StepTargetBatch); err != nil {
		return err
	}
	err := t.dec.Decode(t.memory, batch, func(page int) {
		t.marks.set(page, fingerprint(t.memory[page*PageSize:(page+1)*PageSize], t.seed))
		t.late.add(page)
	})
	if err != nil {
		return fmt.Errorf("batch %d: %w", t.batches+1, err)
	}
	t.batches++
	if err := t.tell(ctx, msgPlaced, u64(t.batches)); err != nil {
		return err
	}
	for t.late.full() {
		t.prove1()
	}
	return nil
}

// prove1 hashes the page that has waited longest for it.
func (t *target) prove1() {
	if page := t.late.oldest(); page >= 0 {
		t.proof.set(page, leaf(t.memory[page*PageSize:(page+1)*PageSize]))
	}
}

// final is the hand-over when all has come. It is this end that takes the VM:
// asking the source for it would make the VM stand for another round trip.
func (t *target) final(ctx context.Context, payload []byte) error {
	sent, state, err := parseFinal(payload)
	if err != nil {
		return err
	}
	if err := t.opt.step(StepTargetFinal); err != nil {
		return err
	}
	agreed := t.marks
	if t.opt.Verify == "pause" {
		began := event.Now()
		t.proof.over(t.memory)
		t.late.clear()
		agreed = t.proof
		t.rep.Verify.InPause = event.Now().Sub(began)
	}
	if root := agreed.root(); root != sent {
		return t.refuse(ctx, agreed, sent)
	}
	if err := t.whole(nil); err != nil {
		return err
	}
	t.late.keep(t.memory)
	if err := t.take(ctx, state, nil); err != nil {
		return err
	}
	at, err := t.vm.Start(ctx, state)
	if err != nil {
		return fmt.Errorf("start the VM at the target: %w", err)
	}
	return t.started(ctx, at)
}

// whole checks that each page that is not missing has come.
func (t *target) whole(missing bitmap) error {
	for page, d := range t.marks.leaves {
		if d == (digest{}) && (missing == nil || !missing.has(page)) {
			return fmt.Errorf("the source hands over a VM whose page %d it has not sent", page)
		}
	}
	return nil
}

// refuse does not take a VM whose pages are not those that the source says that
// it sent: the source can tell from the hashes which.
func (t *target) refuse(ctx context.Context, placed *proof, sent digest) error {
	err := t.confess(ctx, placed, sent)
	return fmt.Errorf("before the hand-over: %w", err)
}

// started tells the source that the VM runs here.
func (t *target) started(ctx context.Context, at event.Mono) error {
	t.running = true
	t.rep.ResumedAt, t.rep.Done = at, at
	if err := t.opt.step(StepTargetStarted); err != nil {
		return err
	}
	if err := t.tell(ctx, msgRunning, u64(uint64(at))); err != nil {
		return err
	}
	t.late.kept(func(page int, data []byte) { t.proof.set(page, leaf(data)) })
	return nil
}

// take makes the VM this side's.
func (t *target) take(ctx context.Context, state []byte, missing bitmap) error {
	if k, ok := t.vm.(Keeper); ok {
		if err := k.Keep(ctx, state, missing); err != nil {
			return fmt.Errorf("keep the VM's state for a successor: %w", err)
		}
	}
	if err := t.opt.step(StepTargetKept); err != nil {
		return err
	}
	// The source may give up waiting and Abort meanwhile; then this fails.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), t.opt.patience())
	defer cancel()
	if err := resolve(ctx, t.arb.Commit, ErrAborted); err != nil {
		if errors.Is(err, ErrAborted) {
			return fmt.Errorf("take the VM: %w", err)
		}
		return fmt.Errorf("%w: %w", ErrInDoubt, err)
	}
	t.mine = true
	return t.opt.step(StepTargetCommitted)
}

const (
	// checkAtOnce is how many pages are read between two looks at what the VM
	// has written.
	checkAtOnce = 128
)

// check reads the memory again after the hand-over. A page that the VM has not
// written since it started, neither before nor while it was read, must be what
// was placed; the others are proven by what was hashed when they were placed.
func (t *target) check(ctx context.Context) error {
	if err := t.opt.step(StepTargetCheck); err != nil {
		return err
	}
	began := event.Now()
	written, now := newBitmap(t.pages), newBitmap(t.pages)
	look := func() {
		clear(now)
		t.vm.Written(now)
		written.or(now)
	}
	seen := make([]digest, checkAtOnce)
	v := &t.rep.Verify
	var doubtful []int
	for first := 0; first < t.pages; first += checkAtOnce {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("read the memory again: %w", context.Cause(ctx))
		}
		end := min(first+checkAtOnce, t.pages)
		for page := first; page < end; page++ {
			if !written.has(page) {
				seen[page-first] = leaf(t.memory[page*PageSize : (page+1)*PageSize])
			}
		}
		look()
		for page := first; page < end; page++ {
			switch unknown := t.unknown != nil && t.unknown.has(page); {
			case written.has(page):
			case unknown:
				// Taken as what was placed; the source's hash is the judge.
				t.proof.set(page, seen[page-first])
				t.unknown.unset(page)
				v.AfterStart++
			case seen[page-first] != t.proof.leaves[page]:
				doubtful = append(doubtful, page)
			default:
				v.AfterStart++
			}
		}
	}
	if t.unknown != nil {
		v.Unproven = t.unknown.count()
		t.proof.omit(t.unknown)
	}
	v.Pages = t.pages - v.Unproven
	v.AtPlacing = v.Pages - v.AfterStart
	v.Took += event.Now().Sub(began)
	if len(doubtful) > 0 {
		return &DiffersError{Pages: doubtful, What: "memory of the target changed after it was placed, and not by the VM"}
	}
	return nil
}

// prove answers the source's hash of the memory that stayed there.
func (t *target) prove(ctx context.Context) error {
	m, err := t.next(ctx, "the source's hash")
	if err != nil {
		return err
	}
	if m.Type != msgProof || len(m.Payload) != len(digest{}) {
		return unexpected(m, "the source's hash")
	}
	var theirs digest
	copy(theirs[:], m.Payload)
	if err := t.opt.step(StepTargetProof); err != nil {
		return err
	}
	root := t.proof.root()
	answer := proven{
		Root: root.String(), Verify: t.rep.Verify, CPU: int64(cpu() - t.cpu),
		Encoders: t.usage(), Faults: t.rep.Faults, Bytes: t.sent(),
	}
	if t.rep.Verify.Unproven > 0 {
		answer.Unproven = t.unknown
	}
	if err := t.tell(ctx, msgProven, encodeJSON(answer)); err != nil {
		return err
	}
	if m, err = t.next(ctx, "the source's verdict"); err != nil {
		return err
	}
	switch {
	case m.Type == msgAsk:
		return t.confess(ctx, t.proof, theirs)
	case m.Type != msgOver:
		return unexpected(m, "the source's verdict")
	case root != theirs && t.rep.Verify.Unproven == 0:
		return fmt.Errorf("the source says that both memories are equal: %w", &DiffersError{What: fmt.Sprintf("its hash %v, the target's %v", theirs, root)})
	}
	t.rep.Hash = root.String()
	return t.opt.step(StepTargetOver)
}

// confess sends the hashes of all pages, so that the source can tell which
// differ.
func (t *target) confess(ctx context.Context, ours *proof, theirs digest) error {
	all := ours.bytes()
	for len(all) > 0 {
		n := min(len(all), leavesAtOnce*len(digest{}))
		if err := t.tell(ctx, msgLeaves, all[:n]); err != nil {
			return err
		}
		all = all[n:]
	}
	if err := t.link.Bulk.Flush(ctx); err != nil {
		return fmt.Errorf("waiting for the source to hear which pages differ: %w", err)
	}
	return &DiffersError{What: fmt.Sprintf("hash of the source's memory %v, of the target's %v; the source's error names the pages", theirs, ours.root())}
}

func (t *target) usage() []codec.Use {
	if t.dec == nil {
		return nil
	}
	return t.dec.Usage()
}

// tally adds what the sessions in use have carried.
func (t *target) tally() {
	out, _, reconnects := t.link.carried()
	t.before += out
	t.rep.Reconnects += reconnects
}

func (t *target) sent() int64 {
	out, _, _ := t.link.carried()
	return t.before + out
}

func (t *target) account() {
	t.tally()
	t.rep.BytesBack = t.before
	t.rep.CPU.Target = cpu() - t.cpu
	t.rep.Encoders = uses(nil, t.usage())
}
