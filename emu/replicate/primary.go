package replicate

import (
	"context"
	crand "crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/migrate"
	"github.com/vpclab/vpclab/emu/migrate/codec"
	"github.com/vpclab/vpclab/emu/migrate/wire"
)

// PrimaryEnd is the primary's end of a pair.
type PrimaryEnd struct {
	vm     Primary
	gate   Gate // nil: nothing is held
	opt    Options
	tell   Tell
	memory []byte
	pages  int
	disk   Disk  // nil: none
	size   int64 // of it
	blocks int

	run     sync.Mutex // held by Run
	closing sync.WaitGroup
	number  [16]byte // of the run
	tree    *tree    // nil: nobody asks
	seed    uint64
	log     *writes // nil: Async, Checkpoint
	spare   *migrate.Spare

	// What the standby may lack, and no epoch under way has.
	owed, owedBlocks     bitmap
	looked, lookedBlocks bitmap // what Collect has given last
	pagesOf, blocksOf    *staging
	epoch                uint64 // the last that was taken
	whole                bool   // of this run, one was said to be whole: the standby need not be copied to again

	mu     sync.Mutex // of the rest
	way    []*flight  // epochs under way, oldest first
	acked  uint64
	synced bool
	trip   time.Duration // the shortest from the end of an epoch to its acknowledgement
	press  float64       // share of the time of an epoch in which the link is what is waited for
	rep    Report
	first  event.Mono // epoch
	taken  int64      // epochs
	news   chan struct{}
	asked  *switching
	runs   bool // Run does
}

// flight is an epoch under way.
type flight struct {
	epoch  uint64
	closed uint64     // epoch of the gate that may go when this one is acknowledged
	at     event.Mono // when the VM stood, or the batch was closed
	final  bool
	pages  []uint32
	blocks []uint32
	batch  []byte     // extents (modes without memory)
	probe  *probe     // blocks as they are at its end; nil: none
	acks   []func()   // of the writes in it that wait (Sync)
	sentAt event.Mono // 0: not yet
	took   time.Duration
}

// switching is a planned switch-over that was asked for.
type switching struct {
	ctx   context.Context
	taken bool
	done  chan error
}

// mostTimes is how many pauses and commits a Report keeps.
const mostTimes = 1 << 16

// NewPrimary makes an end; nothing is done before Run.
func NewPrimary(vm Primary, gate Gate, opt Options, tell Tell) (*PrimaryEnd, error) {
	opt, err := opt.complete()
	if err != nil {
		return nil, err
	}
	p := &PrimaryEnd{vm: vm, opt: opt, tell: tell, disk: vm.Disk(), rep: Report{Mode: opt.Mode}, news: make(chan struct{}, 1)}
	if opt.gated() {
		if p.gate = gate; gate == nil {
			return nil, fmt.Errorf("replication in mode %s holds what the VM sends: expected a gate", opt.Mode)
		}
	}
	if p.disk != nil {
		p.size = p.disk.Size()
		p.blocks = int(p.size / pageSize)
	}
	if opt.remembers() {
		p.memory = vm.Memory()
		p.pages = len(p.memory) / pageSize
		if _, err := opt.codec(p.pages); err != nil {
			return nil, fmt.Errorf("replication: %w", err)
		}
	} else if p.disk == nil {
		return nil, fmt.Errorf("replication in mode %s is of the disk alone, and the VM has none", opt.Mode)
	}
	return p, nil
}

// Report is what was measured so far.
func (p *PrimaryEnd) Report() Report {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.rep
	r.Pauses = append([]time.Duration(nil), r.Pauses...)
	r.Commits = append([]time.Duration(nil), r.Commits...)
	return r
}

// Run keeps a standby until ctx ends, SwitchOver has handed the VM over
// (ErrHandedOver), or the standby is lost (ErrLost, or the verdict of Tell.Lost).
// The VM runs then, except after ErrHandedOver. What else ends it leaves the gate as
// it is, to be opened or shut by whoever runs this end: the standby may hold the VM and
// be able to take over.
func (p *PrimaryEnd) Run(ctx context.Context, connect Connect) (err error) {
	p.run.Lock()
	defer p.run.Unlock()
	if err := p.begin(); err != nil {
		return err
	}
	defer p.finish()
	alive, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w := &watch{silence: p.opt.Silence, tell: &p.tell}
	w.silent = func() { cancel(fmt.Errorf("the standby has given no sign of life for %v", p.opt.Silence)) }
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel(nil)
	for met := false; ; {
		session, err := connect(alive)
		if err != nil {
			rest(alive)
		} else {
			if !met {
				met = true
				watching.Go(func() { w.run(alive) })
			}
			err = p.serve(alive, session, w)
		}
		var own *ownError
		switch {
		case errors.Is(err, ErrHandedOver), errors.Is(err, migrate.ErrKilled):
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.As(err, &own):
			return err
		case alive.Err() != nil:
			return p.lost(ctx, context.Cause(alive))
		case !met || given(err):
			return p.lost(ctx, err)
		}
		p.mu.Lock()
		p.rep.Reconnects++
		p.mu.Unlock()
	}
}

// ownError is one of the VM, its gate or its disk: no standby would do better.
type ownError struct{ error }

func (e *ownError) Unwrap() error { return e.error }

// given says that a standby must be given up after an error.
func given(err error) bool {
	var failed failedError
	return lasting(err) || errors.As(err, &failed)
}

// begin makes a run of its own.
func (p *PrimaryEnd) begin() error {
	if _, err := crand.Read(p.number[:]); err != nil {
		return fmt.Errorf("draw the number of a run: %w", err)
	}
	p.seed = rand.Uint64()
	p.whole, p.tree = false, nil
	p.spare = migrate.NewSpare()
	p.mu.Lock()
	p.way, p.synced, p.trip, p.press, p.runs = nil, false, 0, 0, true
	p.rep.Began = event.Now()
	p.mu.Unlock()
	if !p.opt.remembers() {
		p.log = newWrites(p)
		return nil
	}
	p.owed, p.looked = newBitmap(p.pages), newBitmap(p.pages)
	p.owedBlocks, p.lookedBlocks = newBitmap(p.blocks), newBitmap(p.blocks)
	if p.opt.Verify > 0 {
		p.tree = newTree(p.pages+p.blocks, p.seed)
	}
	var err error
	if p.pagesOf, err = newStaging(p.pages); err == nil {
		p.blocksOf, err = newStaging(p.blocks)
	}
	return err
}

// finish gives back what the run had.
func (p *PrimaryEnd) finish() {
	p.spare.Close()
	for _, s := range []*staging{p.pagesOf, p.blocksOf} {
		if s != nil {
			s.close()
		}
	}
	if p.log != nil {
		p.log.stop()
	}
	p.mu.Lock()
	asked := p.asked
	p.asked, p.runs = nil, false
	p.mu.Unlock()
	if asked != nil {
		asked.done <- fmt.Errorf("hand the VM over: %w", ErrLost)
	}
}

// lost has it decided how the VM goes on without its standby.
func (p *PrimaryEnd) lost(ctx context.Context, cause error) error {
	err := fmt.Errorf("%w: %w", ErrLost, cause)
	if p.tell.Lost != nil {
		if no := p.tell.Lost(ctx, cause); no != nil {
			if p.gate != nil {
				no = errors.Join(no, p.gate.Shut())
			}
			return fmt.Errorf("%w; and the VM may not run without it: %w", cause, no)
		}
	}
	if p.gate != nil {
		if no := p.gate.Open(); no != nil {
			return errors.Join(err, &ownError{fmt.Errorf("open the gate: %w", no)})
		}
	}
	if p.log != nil {
		p.mu.Lock()
		way := p.way
		p.way = nil
		p.mu.Unlock()
		p.log.free(way)
	}
	return err
}

// SwitchOver has the VM stopped, and its last epoch taken to the standby. When it
// returns nil the VM stands, the standby holds all of it, and Run ends with
// ErrHandedOver; what the VM sent and was not let go is sent again by its
// connections there. With an error the VM runs on here.
func (p *PrimaryEnd) SwitchOver(ctx context.Context) error {
	s := &switching{ctx: ctx, done: make(chan error, 1)}
	p.mu.Lock()
	var err error
	switch {
	case !p.runs:
		err = errors.New("hand the VM over: it has no standby")
	case p.asked != nil:
		err = errors.New("hand the VM over: it was asked for already")
	default:
		p.asked = s
	}
	p.mu.Unlock()
	if err != nil {
		return err
	}
	p.wake()
	select {
	case err := <-s.done:
		return err
	case <-ctx.Done():
	}
	p.mu.Lock()
	if p.asked == s && !s.taken {
		p.asked = nil
		p.mu.Unlock()
		return fmt.Errorf("hand the VM over: %w", context.Cause(ctx))
	}
	p.mu.Unlock()
	return <-s.done // it sees ctx end, too
}

// Close waits for sessions to end; Run must have ended.
func (p *PrimaryEnd) Close() { p.closing.Wait() }

// wake has the pace look around.
func (p *PrimaryEnd) wake() {
	select {
	case p.news <- struct{}{}:
	default:
	}
}

// claim is the switch-over that was asked for, if any: whoever gets it answers it.
func (p *PrimaryEnd) claim() *switching {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.asked != nil {
		p.asked.taken = true
	}
	return p.asked
}

// answered ends a switch-over. The session of one that has failed is given up:
// what was to be sent by it may not have been.
func (p *PrimaryEnd) answered(s *switching, err error) error {
	p.mu.Lock()
	p.asked = nil
	for _, f := range p.way {
		f.final = false
	}
	p.mu.Unlock()
	s.done <- err
	if err == nil {
		return ErrHandedOver
	}
	return err
}

// serve keeps the standby over one session.
func (p *PrimaryEnd) serve(ctx context.Context, session wire.Session, w *watch) error {
	t, err := newTie(session)
	if err != nil {
		return err
	}
	defer t.close(&p.closing)
	w.on(t)
	defer w.on(nil)
	s := &sender{PrimaryEnd: p, tie: t}
	defer s.close()
	if err := s.open(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var listening sync.WaitGroup
	defer listening.Wait()
	listening.Go(func() { cancel(s.listen(ctx)) })
	defer cancel(nil)
	if p.log != nil {
		err = s.batches(ctx)
	} else {
		err = s.epochs(ctx)
	}
	var own *ownError
	if cause := context.Cause(ctx); cause != nil && !errors.As(err, &own) && !errors.Is(err, ErrHandedOver) {
		return cause // what the sender met is what came of it
	}
	return err
}

// sender is the primary's end of one session.
type sender struct {
	*PrimaryEnd
	tie     *tie
	enc     codec.Encoder // nil: no memory
	encoded time.Duration // CPU of it, as far as reported
	buf     []byte
	extents []byte
	perPage int // bytes of a page in the last batch
	sent    int64
	waited  time.Duration // for the link, until the last batch
	batchAt event.Mono

	closedAt event.Mono // of the last batch of writes
}

func (s *sender) close() {
	s.count()
	if s.enc != nil {
		s.enc.Close()
	}
}

// count adds to the report what this session has carried since the last time.
func (s *sender) count() {
	stats := s.tie.Stats()
	var cpu time.Duration
	if s.enc != nil {
		for _, u := range s.enc.Usage() {
			cpu += u.CPU
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rep.Bytes += stats.Out - s.sent
	s.rep.EncodeCPU += cpu - s.encoded
	s.sent, s.encoded = stats.Out, cpu
}

// open agrees with the standby on where to begin.
func (s *sender) open(ctx context.Context) (err error) {
	b := begin{Mode: s.opt.Mode, Pages: s.pages, Disk: s.size, Verify: s.opt.Verify, Run: s.number, Seed: s.seed}
	if s.pages > 0 {
		if b.Codec, err = s.opt.codec(s.pages); err != nil {
			return &ownError{err}
		}
		if s.enc, err = codec.NewEncoder(b.Codec); err != nil {
			return &ownError{err}
		}
	}
	if err := s.opt.step(StepPrimaryBegin); err != nil {
		return err
	}
	if err := s.tie.tell(ctx, msgBegin, encodeJSON(b)); err != nil {
		return err
	}
	payload, err := s.tie.expect(ctx, msgReady)
	if err != nil {
		return err
	}
	var r ready
	if err := decodeJSON(payload, &r); err != nil {
		return &neverError{err}
	}
	if err := s.opt.step(StepPrimaryReady); err != nil {
		return err
	}
	if !s.whole {
		s.epoch = max(s.epoch, r.Epoch)
		return s.sync(ctx)
	}
	return s.resume(ctx, r)
}

// resume goes on with a standby that was in sync: what it does not hold of the
// epochs that were under way comes with the next one, or once more.
func (s *sender) resume(ctx context.Context, r ready) error {
	if r.Run != s.number || !r.Synced || r.Epoch > s.epoch || r.Epoch < s.acked {
		return &neverError{fmt.Errorf("the standby holds epoch %d of run %x (in sync: %v), and not %d to %d of %x", r.Epoch, r.Run, r.Synced, s.acked, s.epoch, s.number)}
	}
	if err := s.arrived(r.Epoch); err != nil {
		return err
	}
	if s.log == nil {
		s.mu.Lock()
		for _, f := range s.way {
			s.owed.add(f.pages)
			s.owedBlocks.add(f.blocks)
		}
		s.way = nil
		s.mu.Unlock()
	}
	return s.tie.tell(ctx, msgStart, []byte{howResume})
}

// listen takes what the standby says, until there is no more: it always ends with
// an error.
func (s *sender) listen(ctx context.Context) error {
	for {
		m, err := s.tie.next(ctx)
		switch {
		case err != nil:
		case m.Type == msgAcked && len(m.Payload) == 8:
			err = s.arrived(binary.BigEndian.Uint64(m.Payload))
		case m.Type == msgDiffer && s.log != nil:
			err = s.log.differed(m.Payload)
		default:
			err = &neverError{fmt.Errorf("the standby sent %q of %d bytes", messageName(m.Type), len(m.Payload))}
		}
		if err != nil {
			return err
		}
	}
}

// arrived lets go what rests on epochs that the standby holds.
func (s *sender) arrived(epoch uint64) error {
	if err := s.opt.step(StepPrimaryAcked); err != nil {
		return err
	}
	now := event.Now()
	s.mu.Lock()
	if epoch > s.epochOnWay() {
		s.mu.Unlock()
		return &neverError{fmt.Errorf("the standby says that it holds epoch %d, of %d", epoch, s.acked)}
	}
	var done []*flight
	for len(s.way) > 0 && s.way[0].epoch <= epoch {
		f := s.way[0]
		s.way = s.way[1:]
		done = append(done, f)
		s.account(f, now)
	}
	first := len(done) > 0 && !s.synced
	if first {
		s.synced = true
		s.rep.FirstSync = now
	}
	s.mu.Unlock()
	if err := s.release(done); err != nil {
		return err
	}
	if first && s.tell.Synced != nil {
		s.tell.Synced(epoch)
	}
	s.wake()
	return s.opt.step(StepPrimaryReleased)
}

// epochOnWay is the newest epoch that may be acknowledged; the caller holds the
// lock.
func (p *PrimaryEnd) epochOnWay() uint64 {
	if n := len(p.way); n > 0 {
		return p.way[n-1].epoch
	}
	return p.acked
}

// account notes an acknowledgement; the caller holds the lock.
func (s *sender) account(f *flight, now event.Mono) {
	s.acked = f.epoch
	s.rep.Epochs++
	s.rep.Last, s.rep.LastAt = f.epoch, f.at
	if len(s.rep.Commits) == mostTimes {
		s.rep.Commits = append(s.rep.Commits[:0], s.rep.Commits[mostTimes/2:]...)
	}
	s.rep.Commits = append(s.rep.Commits, now.Sub(f.at))
	if f.sentAt == 0 {
		return // it is acknowledged before this end knows that it was sent, or after a session that broke
	}
	trip := now.Sub(f.sentAt)
	if s.trip == 0 || trip < s.trip {
		s.trip = trip
	} else {
		s.trip += (trip - s.trip) / 256 // a way that has become longer is noticed in time
	}
	if drain := trip - s.trip; f.took+drain > 0 {
		s.press += (float64(drain)/float64(f.took+drain) - s.press) / 4
	}
}

// release opens the gate for what rests on epochs, and lets writes count.
func (s *sender) release(done []*flight) error {
	closed := uint64(0)
	for _, f := range done {
		closed = max(closed, f.closed)
	}
	if s.gate != nil && closed > 0 {
		if err := s.gate.Release(closed); err != nil {
			return &ownError{fmt.Errorf("let go what was sent up to epoch %d of the gate: %w", closed, err)}
		}
	}
	if s.log != nil {
		s.log.arrived(done)
	}
	return nil
}

// mark closes the epoch of the gate that is open.
func (s *sender) mark(ctx context.Context) (closed uint64, err error) {
	if s.gate == nil {
		return 0, nil
	}
	for {
		open, err := s.gate.Mark()
		if err == nil {
			return open - 1, nil
		}
		s.mu.Lock()
		none := len(s.way) == 0
		s.mu.Unlock()
		if none {
			return 0, &ownError{fmt.Errorf("have what the VM sends belong to another epoch: %w", err)}
		}
		select {
		case <-s.news:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

// depart puts an epoch on the way.
func (s *sender) depart(f *flight) {
	s.epoch++
	f.epoch = s.epoch
	s.mu.Lock()
	defer s.mu.Unlock()
	s.way = append(s.way, f)
	if s.taken++; s.taken == 1 {
		s.first = f.at
	} else {
		s.rep.Interval = f.at.Sub(s.first) / time.Duration(s.taken-1)
	}
}

// underway is how many epochs are.
func (s *sender) underway() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.way)
}

// settle waits until all epochs are acknowledged.
func (s *sender) settle(ctx context.Context) error {
	for s.underway() > 0 {
		select {
		case <-s.news:
		case <-ctx.Done():
			return fmt.Errorf("waiting for the standby to hold epoch %d: %w", s.epoch, context.Cause(ctx))
		}
	}
	return nil
}

// finishing says that an epoch is whole.
func (s *sender) finishing(ctx context.Context, f *flight, began event.Mono) error {
	if err := s.opt.step(StepPrimaryWhole); err != nil {
		return err
	}
	w := whole{epoch: f.epoch, at: f.at, final: f.final}
	if s.tree != nil && (f.final || f.epoch%uint64(s.opt.Verify) == 0) {
		w.compare, w.root = true, s.tree.root()
	}
	first := !s.whole
	s.whole = true // from here on, whatever becomes of the message
	now := event.Now()
	s.mu.Lock()
	f.sentAt, f.took = now, now.Sub(began)
	if w.compare {
		s.rep.Verified++
	}
	s.mu.Unlock()
	if err := s.tie.tell(ctx, msgWhole, w.encode()); err != nil {
		return err
	}
	s.count()
	if first {
		s.mu.Lock()
		s.rep.SyncBytes = s.rep.Bytes
		s.mu.Unlock()
	}
	return nil
}
