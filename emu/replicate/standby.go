package replicate

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/migrate"
	"github.com/vpclab/vpclab/emu/migrate/codec"
	"github.com/vpclab/vpclab/emu/migrate/wire"
	"github.com/vpclab/vpclab/emu/warm"
)

// StandbyEnd is the standby's end of a pair.
type StandbyEnd struct {
	place  Place
	opt    Options
	tell   Tell
	memory []byte
	pages  int
	disk   Image // nil: none
	size   int64 // of it

	rec  *records
	undo *undo  // nil: no memory
	redo []byte // extents of the epoch that is held, which are not in the image
	tree *tree  // nil: not known yet, or nobody asks
	seed uint64

	run     sync.Mutex // held by Run, and by what must not be done beside it
	closing sync.WaitGroup

	mu     sync.Mutex // of the rest
	held   Held
	rep    Report
	end    context.CancelCauseFunc // of Run
	active bool

	session context.CancelCauseFunc // of the session that is served; nil: none
}

// NewStandby opens what is at a place, also what a predecessor left that was
// killed: an epoch that was not whole is taken back, and what the last whole one
// wrote is on the disk when it returns. Both may be asked for by Held.
func NewStandby(place Place, opt Options, tell Tell) (*StandbyEnd, error) {
	opt, err := opt.complete()
	if err != nil {
		return nil, err
	}
	s := &StandbyEnd{place: place, opt: opt, tell: tell, disk: place.Disk(), rep: Report{Mode: opt.Mode}}
	if s.disk != nil {
		s.size = s.disk.Size()
	}
	if opt.remembers() {
		s.memory = place.Memory()
		s.pages = len(s.memory) / pageSize
		if s.undo, err = openUndo(place.Folder(), s.pages); err != nil {
			return nil, fmt.Errorf("open the standby in %s: %w", place.Folder(), err)
		}
	}
	if s.rec, s.held, s.redo, err = openRecords(place.Folder()); err == nil && s.held.Synced {
		err = s.settle()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the standby in %s: %w", place.Folder(), err), s.Close())
	}
	return s, nil
}

// Held is what this end could go on with now.
func (s *StandbyEnd) Held() Held {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held
}

// Report is what was measured so far.
func (s *StandbyEnd) Report() Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rep
}

// Close lets logs go; Run must have ended. It waits for sessions to end.
func (s *StandbyEnd) Close() error {
	s.closing.Wait()
	var err error
	if s.undo != nil {
		err = s.undo.close()
	}
	if s.rec != nil {
		err = errors.Join(err, s.rec.close())
	}
	return err
}

// Run receives, over one session after the other, until ctx ends, or with
// ErrActivated after Activate, or because something is wrong that another
// session would not mend.
func (s *StandbyEnd) Run(ctx context.Context, connect Connect) error {
	s.run.Lock()
	defer s.run.Unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.mu.Lock()
	s.end = cancel
	active := s.active
	s.mu.Unlock()
	if active {
		return ErrActivated
	}
	// A session that is silent is given up, so that a primary that was started
	// anew finds this end ready for another.
	w := &watch{silence: s.opt.Silence, tell: &s.tell, silent: s.giveUp}
	var watching sync.WaitGroup
	watching.Go(func() { w.run(ctx) })
	defer watching.Wait()
	defer cancel(nil)
	for {
		session, err := connect(ctx)
		if err != nil {
			rest(ctx)
		} else {
			err = s.serve(ctx, session, w)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if lasting(err) {
			return fmt.Errorf("standby: %w", err)
		}
		s.mu.Lock()
		s.rep.Reconnects++
		s.mu.Unlock()
	}
}

// lasting says that another session would not help against an error.
func lasting(err error) bool {
	var differs *migrate.DiffersError
	var step *migrate.StepError
	var never *neverError
	return errors.As(err, &differs) || errors.As(err, &step) || errors.As(err, &never)
}

// neverError is one that another session would not mend.
type neverError struct{ error }

func (e *neverError) Unwrap() error { return e.error }

// serve receives over one session.
func (s *StandbyEnd) serve(ctx context.Context, session wire.Session, w *watch) error {
	t, err := newTie(session)
	if err != nil {
		return err
	}
	defer t.close(&s.closing)
	w.on(t)
	defer w.on(nil)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.setSession(cancel)
	defer s.setSession(nil)
	r := &receiver{StandbyEnd: s, tie: t}
	defer r.close()
	if err = r.receive(ctx); errors.Is(err, migrate.ErrKilled) || ctx.Err() != nil {
		return err
	}
	if lasting(err) {
		_ = t.tell(ctx, msgFailed, []byte(err.Error())) // it sees the session end, too
	}
	return err
}

// setSession notes how the session that is served is given up.
func (s *StandbyEnd) setSession(cancel context.CancelCauseFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.session = cancel
}

func (s *StandbyEnd) giveUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session != nil {
		s.session(errSilent)
	}
}

var errSilent = errors.New("the primary gives no sign of life")

// Activate ends receiving for good, takes back what has come of an epoch that is
// not whole, and gives what is held: memory and disk are as of its epoch. It
// acknowledges nothing any more. It is safe to repeat. Whoever calls it has
// the lease.
func (s *StandbyEnd) Activate(ctx context.Context) (Held, error) {
	s.mu.Lock()
	s.active = true
	end := s.end
	s.mu.Unlock()
	if end != nil {
		end(ErrActivated)
	}
	s.run.Lock() // Run ends in a moment: it waits for nothing but its session
	defer s.run.Unlock()
	if err := ctx.Err(); err != nil {
		return Held{}, fmt.Errorf("take over: %w", context.Cause(ctx))
	}
	h := s.Held()
	if !h.Synced {
		return h, ErrNothing
	}
	if err := s.opt.step(StepStandbyActivate); err != nil {
		return h, err
	}
	if err := s.settle(); err != nil {
		return h, err
	}
	return h, s.opt.step(StepStandbyBack)
}

// settle makes memory and disk what they were at the epoch that is held.
func (s *StandbyEnd) settle() error {
	s.takeBack()
	err := s.write(s.redo)
	if err == nil {
		s.redo = s.redo[:0]
	}
	return err
}

// takeBack makes memory what it was at the epoch that is held.
func (s *StandbyEnd) takeBack() {
	if s.undo != nil && s.undo.count() > 0 && s.undo.base() == s.held.Epoch {
		pages := s.undo.back(s.memory)
		for _, p := range pages {
			s.note(int(p), s.memory[int(p)*pageSize:int(p+1)*pageSize])
		}
	}
}

// write puts extents into the image.
func (s *StandbyEnd) write(extents []byte) error {
	return eachExtent(extents, s.size, func(off int64, data []byte) error {
		if _, err := s.disk.WriteAt(data, off); err != nil {
			return &neverError{fmt.Errorf("write %d bytes at %d of the standby's disk: %w", len(data), off, err)}
		}
		if s.opt.remembers() && off%pageSize == 0 && len(data)%pageSize == 0 {
			for i := 0; i < len(data); i += pageSize {
				s.note(s.pages+int(off+int64(i))/pageSize, data[i:i+pageSize])
			}
		}
		return nil
	})
}

// note has the root hash take in a page or a block.
func (s *StandbyEnd) note(unit int, page []byte) {
	if s.tree != nil {
		s.tree.set(unit, page)
	}
}

// receiver is the standby's end of one session.
type receiver struct {
	*StandbyEnd
	tie   *tie
	run   [16]byte // of the primary
	fresh bool     // a copy is under way, and not whole

	counted int64 // bytes that are in the report
	dec     codec.Decoder
	list    []uint32
	in      bitmap // pages of the batch at hand
	begun   bool   // undo is that of the epoch under way
	state   []byte // of the epoch under way
	disk    []byte // extents of it
	probe   []byte // hashes of blocks, as of its end
	// suspect are blocks that differed, and how often.
	suspect map[uint32]int
}

func (r *receiver) close() {
	if r.dec != nil {
		r.dec.Close()
	}
}

// receive agrees on where to begin, and then takes epochs, until there is an
// error.
func (r *receiver) receive(ctx context.Context) error {
	if err := r.open(ctx); err != nil {
		return err
	}
	for {
		m, err := r.tie.next(ctx)
		if err != nil {
			return err
		}
		switch m.Type {
		case msgPages:
			err = r.place(m.Payload)
		case msgBlocks:
			err = r.blocks(m.Payload)
		case msgSums:
			err = r.sums(m.Payload)
		case msgState:
			r.state = append(r.state, m.Payload...)
		case msgWhole:
			err = r.whole(ctx, m.Payload)
		default:
			err = fmt.Errorf("the primary sent %q", messageName(m.Type))
		}
		if err != nil {
			return err
		}
	}
}

// open hears what the primary is, and says what is held of it.
func (r *receiver) open(ctx context.Context) error {
	b, err := r.tie.expect(ctx, msgBegin)
	if err != nil {
		return err
	}
	var theirs begin
	if err := decodeJSON(b, &theirs); err != nil {
		return &neverError{err}
	}
	ours := begin{Mode: r.opt.Mode, Pages: r.pages, Disk: r.size, Verify: r.opt.Verify, Run: theirs.Run, Seed: theirs.Seed}
	if r.pages > 0 {
		if ours.Codec, err = r.opt.codec(r.pages); err != nil {
			return &neverError{err}
		}
	}
	if ours != theirs {
		return &neverError{fmt.Errorf("the primary was told %+v, and the standby %+v", theirs, ours)}
	}
	if err := r.opt.step(StepStandbyBegin); err != nil {
		return err
	}
	if err := r.settle(); err != nil { // after the session before
		return err
	}
	if r.pages > 0 {
		r.in = newBitmap(r.pages)
		if r.dec, err = codec.NewDecoder(ours.Codec); err != nil {
			return &neverError{err}
		}
	}
	if r.seed != theirs.Seed {
		r.seed, r.StandbyEnd.tree = theirs.Seed, nil
	}
	if err := r.opt.step(StepStandbyReady); err != nil {
		return err
	}
	h := r.Held()
	if err := r.tie.tell(ctx, msgReady, encodeJSON(ready{Run: h.Run, Epoch: h.Epoch, Synced: h.Synced})); err != nil {
		return err
	}
	how, err := r.tie.expect(ctx, msgStart)
	switch {
	case err != nil:
		return err
	case len(how) == 1 && how[0] == howResume && h.Synced && h.Run == theirs.Run:
		r.run = h.Run
		return r.recount()
	case len(how) == 1 && how[0] == howSync:
		return r.resync(ctx, theirs.Run)
	}
	return &neverError{fmt.Errorf("the primary goes on by %x where epoch %d of run %x is held", how, h.Epoch, h.Run)}
}

// mostRedo is how many bytes of the disk a copy may change before what was held is
// given up for it.
const mostRedo = 64 << 20

// resync says of each page and block what it is. All that differs is one epoch:
// what is held is held until that is whole.
func (r *receiver) resync(ctx context.Context, run [16]byte) error {
	r.run, r.fresh = run, true
	r.mu.Lock()
	r.rep.Resyncs++
	r.rep.Began = event.Now()
	r.mu.Unlock()
	if !r.synced() {
		if err := r.forget(); err != nil {
			return err
		}
	}
	if r.opt.Verify > 0 && r.opt.remembers() {
		r.StandbyEnd.tree = newTree(r.pages+int(r.size/pageSize), r.seed)
	}
	if err := r.each(func(first int, data []byte) error {
		return r.tie.pack(ctx, msgHolds, r.leaves(first, data))
	}); err != nil {
		return err
	}
	return r.tie.tell(ctx, msgHolds, nil)
}

// forget has nothing held any more: what comes goes to its place, until an epoch is
// whole.
func (r *receiver) forget() error {
	if r.tell.Forgets != nil {
		r.tell.Forgets()
	}
	h := Held{Run: r.run}
	if err := r.rec.write(&h, nil); err != nil {
		return &neverError{err}
	}
	r.mu.Lock()
	r.held = h
	r.mu.Unlock()
	if r.undo != nil {
		r.undo.begin(^uint64(0)) // of no epoch
	}
	disk := r.disk
	r.disk = r.disk[:0]
	return r.write(disk)
}

// leaves is what resync says of units.
func (r *receiver) leaves(first int, data []byte) []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(data)/pageSize*len(root{})), uint32(first))
	for i := 0; i < len(data); i += pageSize {
		page := data[i : i+pageSize]
		l := leaf(page)
		b = append(b, l[:]...)
		r.note(first+i/pageSize, page)
	}
	return b
}

// each goes through all pages, and then blocks, a MiB at a time. Memory comes to
// be present by it.
func (r *receiver) each(do func(first int, data []byte) error) error {
	const step = 1 << 20
	for at := 0; at < len(r.memory); at += step {
		part := r.memory[at:min(at+step, len(r.memory))]
		_ = warm.Range(part) // a kernel that cannot lets pages come one by one
		if err := do(at/pageSize, part); err != nil {
			return err
		}
	}
	buf := make([]byte, step)
	for at := int64(0); at < r.size; at += step {
		part := buf[:min(step, r.size-at)]
		if _, err := r.StandbyEnd.disk.ReadAt(part, at); err != nil {
			return &neverError{fmt.Errorf("read %d bytes at %d of the standby's disk: %w", len(part), at, err)}
		}
		if err := do(r.pages+int(at/pageSize), part); err != nil {
			return err
		}
	}
	return nil
}

// recount makes the tree of a standby that was started anew.
func (r *receiver) recount() error {
	if r.opt.Verify == 0 || !r.opt.remembers() || r.StandbyEnd.tree != nil {
		return nil
	}
	r.StandbyEnd.tree = newTree(r.pages+int(r.size/pageSize), r.seed)
	return r.each(func(first int, data []byte) error {
		for i := 0; i < len(data); i += pageSize {
			r.note(first+i/pageSize, data[i:i+pageSize])
		}
		return nil
	})
}

// synced says that what comes belongs to an epoch after one that is held.
func (r *receiver) synced() bool { return r.held.Synced } // changed by this goroutine alone

// place puts a batch of pages into memory.
func (r *receiver) place(b []byte) error {
	if err := r.opt.step(StepStandbyPages); err != nil {
		return err
	}
	list, batch, err := parseList(b, r.list[:0], r.pages)
	if err == nil && r.dec == nil {
		err = errors.New("none was expected, as the mode has no memory")
	}
	if err != nil {
		return &neverError{fmt.Errorf("a batch of pages: %w", err)}
	}
	r.list = list
	if r.synced() {
		if !r.begun {
			r.undo.begin(r.held.Epoch)
			r.begun = true
		}
		r.undo.save(list, r.memory)
	}
	if err := r.opt.step(StepStandbyUndo); err != nil {
		return err
	}
	r.in.add(list)
	stray := -1
	err = r.dec.Decode(r.memory, batch, func(page int) {
		if !r.in.has(page) {
			stray = page
		}
		r.note(page, r.memory[page*pageSize:(page+1)*pageSize])
	})
	for _, p := range list {
		r.in[p>>6] = 0
	}
	if err == nil && stray >= 0 {
		err = fmt.Errorf("page %d is not in the list before it", stray)
	}
	if err != nil {
		return &neverError{fmt.Errorf("place a batch of pages: %w", err)}
	}
	return r.opt.step(StepStandbyPlaced)
}

// blocks takes extents of the disk: to be kept with their epoch, or into the
// image as long as nothing is whole.
func (r *receiver) blocks(b []byte) error {
	if err := r.opt.step(StepStandbyBlocks); err != nil {
		return err
	}
	b, err := r.tie.unpack(b)
	if err == nil && r.StandbyEnd.disk == nil {
		err = errExtents
	}
	if err == nil && !r.synced() {
		return r.write(b)
	}
	if err == nil {
		err = eachExtent(b, r.size, func(int64, []byte) error { return nil })
	}
	if err != nil {
		return &neverError{fmt.Errorf("blocks: %w", err)}
	}
	r.disk = append(r.disk, b...)
	if len(r.disk) > mostRedo && r.run != r.held.Run {
		return r.forget()
	}
	return nil
}

// whole keeps an epoch and acknowledges it.
func (r *receiver) whole(ctx context.Context, b []byte) error {
	w, err := parseWhole(b)
	if err == nil && r.synced() && w.epoch <= r.held.Epoch {
		err = fmt.Errorf("epoch %d comes after %d", w.epoch, r.held.Epoch)
	}
	if err != nil {
		return &neverError{err}
	}
	if err := r.opt.step(StepStandbyWhole); err != nil {
		return err
	}
	if w.compare {
		if err := r.compare(w); err != nil {
			return err
		}
	}
	if err := r.keep(ctx, w); err != nil {
		return err
	}
	if err := r.opt.step(StepStandbyAcked); err != nil {
		return err
	}
	if err := r.settle(); err != nil {
		return err
	}
	if err := r.opt.step(StepStandbyApplied); err != nil {
		return err
	}
	return r.scrub(ctx)
}

// compare holds the root hash of what is here against the primary's.
func (r *receiver) compare(w whole) error {
	if r.StandbyEnd.tree == nil {
		return &neverError{errors.New("a root hash that nobody asked for")}
	}
	// The blocks of this epoch are not in the image yet, but in its hash.
	if err := eachExtent(r.disk, r.size, func(off int64, data []byte) error {
		for i := 0; i+pageSize <= len(data); i += pageSize {
			r.note(r.pages+int(off+int64(i))/pageSize, data[i:i+pageSize])
		}
		return nil
	}); err != nil {
		return &neverError{err}
	}
	if ours := r.StandbyEnd.tree.root(); ours != w.root {
		return &migrate.DiffersError{What: fmt.Sprintf("epoch %d: root %x at the primary, %x at the standby", w.epoch, w.root, ours)}
	}
	return nil
}

// keep notes an epoch and acknowledges it. Activate waits for Run to end, so what it
// gives is this or later, or this is not acknowledged.
func (r *receiver) keep(ctx context.Context, w whole) error {
	first := r.fresh
	h := Held{Epoch: w.epoch, Run: r.run, At: w.at, Final: w.final, Synced: true}
	if len(r.state) > 0 {
		h.State = append([]byte(nil), r.state...)
	}
	if err := r.rec.write(&h, r.disk); err != nil {
		return &neverError{err}
	}
	// From here on it is held, also where it cannot be acknowledged.
	r.redo, r.disk = r.disk, r.redo[:0]
	r.state, r.begun, r.fresh = r.state[:0], false, false
	r.mu.Lock()
	r.held = h
	r.rep.Epochs++
	r.rep.Last, r.rep.LastAt = h.Epoch, h.At
	if w.compare {
		r.rep.Verified++
	}
	if first {
		r.rep.FirstSync = event.Now()
	}
	in := r.tie.Stats().In
	r.rep.Bytes += in - r.counted
	r.counted = in
	r.mu.Unlock()
	if err := r.opt.step(StepStandbyKept); err != nil {
		return err
	}
	if first && r.tell.Synced != nil {
		r.tell.Synced(w.epoch) // before the primary relies on it
	}
	return r.tie.tell(ctx, msgAcked, binary.BigEndian.AppendUint64(nil, w.epoch))
}
