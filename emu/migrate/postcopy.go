package migrate

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/migrate/wire"
)

// Post-copy: the VM is handed over with a list of pages that are missing, and
// they follow: those that it stands at at once, by the urgent session; then
// those around them, which it is likely to want next; then the rest (Hines,
// Deshpande and Gopalan, OSR 2009: adaptive prepaging by bubbles around each
// fault). The source keeps the memory as it was at the pause until the target
// has all of it.

const (
	// pushAtOnce is how many pages are pushed in a batch: few, for a demanded
	// page shares the link with what is on the way.
	pushAtOnce = 32
	pushGain   = 1.25
	// bubbleReach is how far, in pages, a bubble grows each way, and bubbleMost
	// how many grow at a time.
	bubbleReach = 64
	bubbleMost  = 8
	// fillIn is how long after the last page was sent all must be placed.
	fillIn = 30 * time.Second
)

var errWhole = errors.New("no page is missing any more")

// pusher says which missing page is sent next.
type pusher struct {
	mu      sync.Mutex
	left    bitmap // pages that have not been sent
	cursor  int
	bubbles []bubble // newest first
	// Pages sent in all, because they were asked for, and from bubbles.
	sent, demanded, prepaged int
}

// bubble is what has been sent around a page that the VM stood at.
type bubble struct{ centre, low, high int }

func newPusher(missing bitmap) *pusher { return &pusher{left: append(bitmap{}, missing...)} }

// demand notes that the VM stands at a page.
func (p *pusher) demand(page int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left.has(page) {
		p.left.unset(page)
		p.sent++
	}
	p.demanded++
	p.bubbles = append([]bubble{{page, page, page}}, p.bubbles[:min(len(p.bubbles), bubbleMost-1)]...)
}

// pick takes up to most pages.
func (p *pusher) pick(list []uint32, most int) []uint32 {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.bubbles) > 0 && len(list) < most {
		page := p.grow(&p.bubbles[0])
		if page < 0 {
			p.bubbles = p.bubbles[1:]
			continue
		}
		p.prepaged++
		list = append(list, uint32(page))
	}
	for len(list) < most {
		page := p.left.next(p.cursor)
		if page < 0 {
			break
		}
		p.left.unset(page)
		p.cursor = page + 1
		list = append(list, uint32(page))
	}
	p.sent += len(list)
	return list
}

// grow takes the nearest page around a bubble that is left; -1: there is none
// in reach.
func (p *pusher) grow(b *bubble) int {
	high, low := p.left.next(b.high), p.left.prev(b.low)
	if high > b.centre+bubbleReach {
		high = -1
	}
	if low < b.centre-bubbleReach {
		low = -1
	}
	page := high
	if high < 0 || low >= 0 && b.centre-low < high-b.centre {
		page = low
	}
	if page < 0 {
		return -1
	}
	b.high, b.low = max(b.high, page), min(b.low, page)
	p.left.unset(page)
	return page
}

// offerMissing offers the VM to the target without the pages of missing, and
// sends those.
func (s *source) offerMissing(ctx context.Context, missing bitmap) error {
	s.copier.marks.omit(missing)
	root := s.copier.marks.root()
	s.offered = true
	if err := s.tell(ctx, msgMissing, missingMessage(root, s.state, missing)); err != nil {
		return err
	}
	if err := s.opt.step(StepSourceFinal); err != nil {
		return err
	}
	return s.fill(ctx, missing)
}

// fill sends missing pages until the target has all.
func (s *source) fill(ctx context.Context, missing bitmap) error {
	push := newPusher(missing)
	round := Round{Began: event.Now(), ToSend: missing.count(), Bytes: -s.carriedOut()}
	ctx, cancel := context.WithCancelCause(ctx)
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := s.serve(ctx, push); err != nil {
			s.flow.fail(err)
		}
	}()
	defer func() {
		cancel(errWhole)
		<-served
		round.Ended = event.Now()
		round.Sent, round.Final = push.sent, push.sent
		round.Bytes += s.carriedOut()
		round.FinalBytes = round.Bytes
		s.rep.Rounds = append(s.rep.Rounds, round)
		s.rep.Faults.Prepaged += push.prepaged
	}()
	if err := s.pushAll(ctx, push); err != nil {
		return err
	}
	if !s.given {
		if err := s.running(ctx); err != nil {
			return err
		}
	}
	if err := s.tell(ctx, msgRound, u32(0)); err != nil {
		return err
	}
	payload, err := s.expect(ctx, msgAll, fillIn)
	if err != nil {
		return err
	}
	s.rep.Done, err = parseMono(payload)
	return err
}

// pushAll sends what nobody asks for.
func (s *source) pushAll(ctx context.Context, push *pusher) error {
	s.flow.gain = pushGain
	var buf []byte
	list := make([]uint32, 0, pushAtOnce)
	for {
		if !s.given {
			m, err := s.heard()
			if err == nil && m != nil {
				err = s.ran(ctx, *m)
			}
			if err != nil {
				return err
			}
		}
		if err := s.flow.room(ctx); err != nil {
			return err
		}
		if list = push.pick(list[:0], pushAtOnce); len(list) == 0 {
			return nil
		}
		if err := s.opt.step(StepSourcePush); err != nil {
			return err
		}
		buf = buf[:0]
		for _, page := range list {
			buf = appendRest(buf, int(page), s.page(int(page)))
		}
		if err := s.flow.ship(ctx, event.Now(), msgRest, buf, len(list)); err != nil {
			return err
		}
	}
}

// serve sends the pages that are asked for, until ctx ends.
func (s *source) serve(ctx context.Context, push *pusher) error {
	var buf []byte
	for {
		m, err := s.link.Urgent.Receive(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("waiting for what the VM stands at: %w", err)
		}
		page, err := parseU32(m.Payload)
		if m.Type != msgWant || err != nil || page >= len(s.memory)/PageSize {
			return fmt.Errorf("the target sent %q for page %d by the urgent session: %w", messageName(m.Type), page, err)
		}
		if err := s.opt.step(StepSourceDemand); err != nil {
			return err
		}
		buf = appendRest(buf[:0], page, s.page(page))
		if err := s.link.Urgent.Send(ctx, msgRest, buf); err != nil && ctx.Err() == nil {
			return fmt.Errorf("send page %d, which the VM stands at: %w", page, err)
		}
		push.demand(page)
	}
}

func (s *source) page(n int) []byte { return s.memory[n*PageSize : (n+1)*PageSize] }

func (s *source) carriedOut() int64 {
	out, _, _ := s.link.carried()
	return out
}

// rest carries on by new sessions after the VM was given to the target: the
// target says what is missing, be it nothing.
func (s *source) rest(ctx context.Context) error {
	payload, err := s.expect(ctx, msgLacks, s.opt.patience())
	if err != nil {
		return err
	}
	missing, err := parseBitmap(payload, len(s.memory)/PageSize)
	if err != nil {
		return err
	}
	s.given = true
	if missing.count() > 0 {
		if s.link.Urgent == nil {
			return fmt.Errorf("%d pages are missing at the target, and there is no urgent session to ask for them", missing.count())
		}
		if err := s.fill(ctx, missing); err != nil {
			return err
		}
	}
	return s.prove(ctx)
}

// SendRest carries on a migration whose VM was given to the target, in a
// process that succeeds the one that called Send. memory is what the VM's was at
// the pause. With ReceiveRest at the other end it sends what is missing there
// and proves both memories equal.
func SendRest(ctx context.Context, link Link, memory []byte, opt Options) (*Report, error) {
	s := &source{
		link: link, memory: memory, opt: &opt,
		rep: &Report{Algorithm: opt.Algorithm, Began: event.Now()}, cpu: cpu(), given: true,
	}
	s.line = newLine(ctx, link, nil)
	defer func() { s.stop() }()
	err := s.rest(ctx)
	for range againMost {
		if err == nil || !s.again(ctx, err) {
			break
		}
		err = s.rest(ctx)
	}
	s.account()
	return s.rep, err
}

// holes are the pages that are missing at the target.
type holes struct {
	mu     sync.Mutex
	lacks  bitmap
	n      int
	asked  map[int]event.Mono // pages that the VM stands at, since when
	use    FaultUse
	whole  chan struct{} // closed when none is missing
	doneAt event.Mono
}

func newHoles(missing bitmap) *holes {
	h := &holes{lacks: append(bitmap{}, missing...), asked: map[int]event.Mono{}, whole: make(chan struct{})}
	if h.n = h.lacks.count(); h.n == 0 {
		close(h.whole)
	}
	return h
}

// want notes that the VM stands at a page; ask tells whether that is news.
func (h *holes) want(page int) (ask bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if page < 0 || page>>6 >= len(h.lacks) || !h.lacks.has(page) {
		return false
	}
	if _, before := h.asked[page]; before {
		return false
	}
	h.asked[page] = event.Now()
	h.use.Demanded++
	return true
}

// put places a page that is missing.
func (t *target) put(page int, data []byte) error {
	h := t.holes
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.lacks.has(page) {
		return nil
	}
	placed, err := t.faults.Place(page, data)
	if err != nil {
		return fmt.Errorf("place page %d: %w", page, err)
	}
	if placed {
		t.proof.set(page, leaf(data))
		if t.unknown != nil {
			t.unknown.unset(page)
		}
	}
	h.lacks.unset(page)
	if since, was := h.asked[page]; was {
		h.use.Waits = append(h.use.Waits, event.Now().Sub(since))
		delete(h.asked, page)
	}
	if h.n--; h.n == 0 {
		h.doneAt = event.Now()
		close(h.whole)
	}
	return nil
}

// missing is the hand-over while pages are missing.
func (t *target) missing(ctx context.Context, payload []byte) error {
	sent, state, missing, err := parseMissing(payload, t.pages)
	if err != nil {
		return err
	}
	if err := t.opt.step(StepTargetFinal); err != nil {
		return err
	}
	t.marks.omit(missing)
	if root := t.marks.root(); root != sent {
		return t.refuse(ctx, t.marks, sent)
	}
	if err := t.whole(missing); err != nil {
		return err
	}
	t.late.forget(missing)
	t.late.keep(t.memory)
	if err := t.take(ctx, state, missing); err != nil {
		return err
	}
	t.holes = newHoles(missing)
	faults, at, err := t.vm.StartMissing(ctx, state, missing)
	if err != nil {
		return fmt.Errorf("start the VM at the target, with %d pages missing: %w", missing.count(), err)
	}
	t.faults = faults
	return t.started(ctx, at)
}

// fill places missing pages as they come, and asks for those that the VM
// stands at, until there are none.
func (t *target) fill(outer context.Context) error {
	ctx, cancel := context.WithCancelCause(outer)
	var helpers sync.WaitGroup
	stop := func(cause error) {
		cancel(cause)
		helpers.Wait()
	}
	defer stop(errWhole)
	for _, help := range []func(context.Context) error{t.ask, t.urgent} {
		helpers.Add(1)
		go func() {
			defer helpers.Done()
			if err := help(ctx); err != nil && ctx.Err() == nil {
				cancel(err)
			}
		}()
	}
	if err := t.bulk(ctx); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return err
	}
	stop(errWhole)
	if t.holes.doneAt == 0 { // nothing was missing when it began
		t.holes.doneAt = t.rep.ResumedAt
	}
	t.rep.Done = t.holes.doneAt
	t.rep.Faults = t.holes.use
	if err := t.opt.step(StepTargetAll); err != nil {
		return err
	}
	if err := t.tell(outer, msgAll, u64(uint64(t.holes.doneAt))); err != nil {
		return err
	}
	if err := t.faults.Close(); err != nil {
		return fmt.Errorf("end the watch for missing pages: %w", err)
	}
	return nil
}

// bulk places what is pushed, until the source says that this was all.
func (t *target) bulk(ctx context.Context) error {
	for {
		m, err := t.next(ctx, "missing pages")
		if err != nil {
			return err
		}
		switch m.Type {
		case msgRest:
			err = t.rests(m)
			if err == nil {
				t.batches++
				err = t.tell(ctx, msgPlaced, u64(t.batches))
			}
		case msgRound:
			return t.wholeIn(ctx)
		default:
			err = unexpected(m, "missing pages")
		}
		if err != nil {
			return err
		}
	}
}

// rests places one message of missing pages.
func (t *target) rests(m wire.Message) error {
	if err := t.opt.step(StepTargetPlace); err != nil {
		return err
	}
	return parseRest(m.Payload, t.pages, t.put)
}

// wholeIn waits for pages that are on the way by the urgent session.
func (t *target) wholeIn(ctx context.Context) error {
	timer := time.NewTimer(fillIn)
	defer timer.Stop()
	select {
	case <-t.holes.whole:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return fmt.Errorf("waiting for demanded pages: some were missing %v after the source had sent all", fillIn)
	}
}

// ask asks for each page that the VM stands at.
func (t *target) ask(ctx context.Context) error {
	// After sessions were replaced: what the old ones were asked for.
	t.holes.mu.Lock()
	var again []int
	for page := range t.holes.asked {
		again = append(again, page)
	}
	t.holes.mu.Unlock()
	for _, page := range again {
		if err := t.link.Urgent.Send(ctx, msgWant, u32(page)); err != nil {
			return fmt.Errorf("ask again for page %d: %w", page, err)
		}
	}
	for {
		page, err := t.faults.Next(ctx)
		if err != nil {
			return fmt.Errorf("waiting for the VM to need a page: %w", err)
		}
		if !t.holes.want(page) {
			continue
		}
		if err := t.opt.step(StepTargetFault); err != nil {
			return err
		}
		if err := t.link.Urgent.Send(ctx, msgWant, u32(page)); err != nil {
			return fmt.Errorf("ask for page %d: %w", page, err)
		}
	}
}

// urgent places what was asked for.
func (t *target) urgent(ctx context.Context) error {
	for {
		m, err := t.link.Urgent.Receive(ctx)
		if err != nil {
			return fmt.Errorf("waiting for demanded pages: %w", err)
		}
		if m.Type != msgRest {
			return unexpected(m, "demanded pages")
		}
		if err := t.rests(m); err != nil {
			return err
		}
	}
}

// ReceiveRest carries on a migration whose VM was given to this end and runs
// here, in a process that succeeds the one that called Receive. missing are the
// pages that are not there, faults how they are placed; both are nil where all
// are there. Pages that the VM has written before they could be hashed here are
// not proven: see Verification.
func ReceiveRest(ctx context.Context, link Link, vm Target, faults Faults, missing []uint64, opt Options) (*Report, error) {
	memory := vm.Memory()
	pages := len(memory) / PageSize
	t := &target{
		link: link, vm: vm, opt: &opt, memory: memory, pages: pages, proof: newProof(pages), late: newLate(0),
		rep: &Report{Algorithm: opt.Algorithm, Began: event.Now()}, cpu: cpu(),
		mine: true, running: true, faults: faults, unknown: newBitmap(pages),
	}
	t.unknown.fill(pages)
	if missing != nil {
		t.holes = newHoles(missing)
	}
	err := t.rest(ctx)
	for range againMost {
		if err == nil || !t.again(ctx, err) {
			break
		}
		err = t.rest(ctx)
	}
	t.account()
	return t.rep, err
}

// rest tells the source by new sessions what is missing, and goes on from there.
func (t *target) rest(ctx context.Context) error {
	t.batches = 0
	lacks := newBitmap(t.pages)
	if t.holes != nil {
		t.holes.mu.Lock()
		lacks.or(t.holes.lacks)
		t.holes.mu.Unlock()
	}
	if err := t.tell(ctx, msgLacks, appendBitmap(nil, lacks)); err != nil {
		return err
	}
	return t.finish(ctx, lacks.count() > 0)
}
