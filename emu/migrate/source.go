package migrate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/migrate/codec"
)

const (
	answerIn   = 30 * time.Second // for the other end, or the Arbiter, to answer
	retryEvery = 100 * time.Millisecond
)

func (o *Options) patience() time.Duration {
	if o.Patience > 0 {
		return o.Patience
	}
	return answerIn
}

// Send moves a VM to where Receive is called with the other end of the link.
// It returns when nothing of the VM is needed here any more, with both
// memories proven equal; or with an error that says whose the VM is: with
// ErrCommitted in it the target's, with ErrInDoubt nobody's until the Arbiter
// answers, and else it runs here as before. The report has what was measured
// until then.
func Send(ctx context.Context, link Link, vm Source, arb Arbiter, opt Options) (*Report, error) {
	memory := vm.Memory()
	pages := len(memory) / PageSize
	p, err := opt.plan(pages)
	if err != nil {
		return nil, err
	}
	enc, err := codec.NewEncoder(p.codec)
	if err != nil {
		return nil, fmt.Errorf("encoder of %s: %w", opt.Algorithm, err)
	}
	s := &source{
		link: link, vm: vm, memory: memory, arb: arb, opt: &opt, plan: p, enc: enc,
		rep: &Report{Algorithm: opt.Algorithm, Began: event.Now()}, cpu: cpu(),
	}
	s.line = newLine(ctx, link, enc)
	s.copier = newCopier(vm, s.flow, &opt, p)
	err = s.run(ctx)
	s.account()
	enc.Close()
	return s.rep, err
}

// source is one end of a migration under way.
type source struct {
	*line
	link   Link
	vm     Source
	memory []byte
	arb    Arbiter
	opt    *Options
	plan   plan
	enc    codec.Encoder
	copier *copier
	rep    *Report
	cpu    time.Duration

	paused  bool          // the VM stands, or may
	offered bool          // the target may commit
	given   bool          // it has
	state   []byte        // of the VM at the pause
	told    chan struct{} // closed when Paused has been told to the Arbiter
}

func (s *source) run(ctx context.Context) error {
	defer func() { s.stop() }()
	defer s.heardOf()
	err := s.hand(ctx)
	if err != nil && !s.given {
		if err = s.back(ctx, err); !s.given {
			return err
		}
	}
	if err == nil {
		err = s.prove(ctx)
	}
	// The VM is the target's: what is left can be done by other sessions.
	for range againMost {
		if err == nil || !s.again(ctx, err) {
			break
		}
		err = s.rest(ctx)
	}
	if err != nil && !killed(err) {
		return fmt.Errorf("%w: %w", ErrCommitted, err)
	}
	return err
}

// again replaces the sessions after an error that may be theirs.
func (s *source) again(ctx context.Context, cause error) bool {
	if !carriesOn(ctx, cause) || s.link.Again == nil {
		return false
	}
	s.stop()
	s.tally()
	s.link.shut()
	link, err := s.link.Again(ctx)
	if err != nil {
		return false
	}
	link.Again = s.link.Again
	s.link = link
	s.line = newLine(ctx, link, nil)
	return true
}

// hand sends the VM and hands it over. Unless given is set then, an error
// leaves it to the Arbiter whose it is.
func (s *source) hand(ctx context.Context) error {
	if err := s.opt.step(StepSourceBegin); err != nil {
		return err
	}
	toSend := newBitmap(s.copier.pages)
	toSend.fill(s.copier.pages)
	// From here on written pages are noted.
	s.copier.collect(newBitmap(s.copier.pages))
	if err := s.open(ctx, toSend); err != nil {
		return err
	}
	if err := s.copier.live(ctx, toSend); err != nil {
		return err
	}
	if err := s.copier.release(ctx); err != nil {
		return err
	}
	if err := s.pause(ctx); err != nil {
		return err
	}
	s.copier.collect(toSend)
	if s.plan.post {
		return s.offerMissing(ctx, toSend)
	}
	if err := s.offer(ctx, toSend); err != nil {
		return err
	}
	return s.running(ctx)
}

// running waits until the VM runs at the target.
func (s *source) running(ctx context.Context) error {
	m, err := s.await(ctx, messageName(msgRunning), s.opt.patience())
	if err != nil {
		return err
	}
	return s.ran(ctx, m)
}

// ran notes when the VM began to run at the target, or which pages it was
// refused for.
func (s *source) ran(ctx context.Context, m message) (err error) {
	switch m.Type {
	case msgRunning:
		s.given = true
		if s.rep.ResumedAt, err = parseMono(m.payload); err != nil {
			return err
		}
		s.rep.Done = s.rep.ResumedAt
		return s.opt.step(StepSourceRunning)
	case msgLeaves:
		return s.differ(ctx, s.copier.marks, m.payload, "the target does not hold what it was sent, and did not take the VM")
	}
	return fmt.Errorf("waiting for the VM to run: the target sent %q", messageName(m.Type))
}

// open tells the target what comes and waits until it has made room. With
// Reuse, pages that are there already are taken out of toSend.
func (s *source) open(ctx context.Context, toSend bitmap) error {
	b := begin{Algorithm: s.opt.Algorithm, Pages: s.copier.pages, Codec: s.plan.codec, Verify: s.opt.Verify, Reuse: s.opt.Reuse, Seed: s.copier.seed}
	if err := s.tell(ctx, msgBegin, encodeJSON(b)); err != nil {
		return err
	}
	for {
		m, err := s.await(ctx, messageName(msgReady), s.opt.patience())
		if err != nil {
			return err
		}
		switch {
		case m.Type == msgReady:
			return s.opt.step(StepSourceReady)
		case m.Type == msgHolds && s.opt.Reuse:
			err = s.copier.holds(toSend, m.payload)
		default:
			err = fmt.Errorf("waiting for %q: the target sent %q", messageName(msgReady), messageName(m.Type))
		}
		if err != nil {
			return err
		}
	}
}

// pause stops the VM.
func (s *source) pause(ctx context.Context) error {
	if err := s.opt.step(StepSourceSettle); err != nil {
		return err
	}
	if err := s.flow.settle(ctx); err != nil {
		return err
	}
	if err := s.opt.step(StepSourcePause); err != nil {
		return err
	}
	s.paused = true // even if the call fails: it may have been heard
	at, state, err := s.vm.Pause(ctx)
	if err != nil {
		return fmt.Errorf("pause: %w", err)
	}
	s.rep.PausedAt, s.state = at, state
	s.told = make(chan struct{})
	go func() {
		defer close(s.told)
		s.arb.Paused(ctx, at)
	}()
	runtime.Gosched() // it is told before the last round is sent: the network's move takes longer
	s.copier.paused = true
	return s.opt.step(StepSourcePaused)
}

// offer sends what is left and offers the VM to the target.
func (s *source) offer(ctx context.Context, toSend bitmap) error {
	c := s.copier
	if err := c.round(ctx, toSend, false); err != nil {
		return err
	}
	if s.opt.Verify == "pause" {
		began := event.Now()
		c.marks.over(c.memory) // not fingerprints but the proof itself
		s.rep.Verify.InPause += event.Now().Sub(began)
	}
	if vm, ok := s.vm.(Stater); ok {
		var err error
		if s.state, err = vm.State(ctx); err != nil {
			return fmt.Errorf("pause: %w", err)
		}
	}
	s.offered = true
	if err := s.tell(ctx, msgFinal, finalMessage(c.marks.root(), s.state)); err != nil {
		return err
	}
	return s.opt.step(StepSourceFinal)
}

// prove compares the memory that stayed here with what the target holds.
func (s *source) prove(ctx context.Context) error {
	if err := s.opt.step(StepSourceProof); err != nil {
		return err
	}
	memory := s.memory
	if vm, ok := s.vm.(Stayer); ok {
		memory = vm.Stayed()
	}
	stayed := newProof(len(memory) / PageSize)
	stayed.over(memory)
	root := stayed.root()
	if err := s.tell(ctx, msgProof, root[:]); err != nil {
		return err
	}
	payload, err := s.expect(ctx, msgProven, time.Minute)
	if err != nil {
		return err
	}
	var theirs proven
	if err := json.Unmarshal(payload, &theirs); err != nil {
		return fmt.Errorf("the target's proof: %w", err)
	}
	inPause := s.rep.Verify.InPause
	s.rep.Verify = theirs.Verify
	s.rep.Verify.InPause += inPause
	s.rep.CPU.Target = time.Duration(theirs.CPU)
	prepaged := s.rep.Faults.Prepaged
	s.rep.Faults = theirs.Faults
	s.rep.Faults.Prepaged += prepaged
	s.rep.BytesBack = theirs.Bytes
	s.rep.Encoders = uses(s.usage(), theirs.Encoders)
	if len(theirs.Unproven) > 0 {
		if len(theirs.Unproven) != len(stayed.nodes) {
			return fmt.Errorf("the target's proof leaves out pages by %d words for %d pages", len(theirs.Unproven), len(stayed.leaves))
		}
		stayed.omit(theirs.Unproven)
		root = stayed.root()
	}
	if theirs.Root != root.String() {
		if err := s.tell(ctx, msgAsk, nil); err != nil {
			return err
		}
		return s.differ(ctx, stayed, nil, "the target's memory is not what the source's was at the pause")
	}
	s.rep.Hash = theirs.Root
	if err := s.tell(ctx, msgOver, nil); err != nil {
		return err
	}
	if err := s.bulk.Flush(ctx); err != nil {
		return fmt.Errorf("waiting for the target to hear that all is proven: %w", err)
	}
	return s.opt.step(StepSourceOver)
}

// differ finds out which pages do, from the hashes of the target's, of which
// list is the beginning.
func (s *source) differ(ctx context.Context, ours *proof, list []byte, what string) error {
	for len(list) < len(ours.leaves)*len(digest{}) {
		b, err := s.expect(ctx, msgLeaves, s.opt.patience())
		if err != nil {
			return err
		}
		if len(b) == 0 {
			return errors.New("the target sent an empty list of hashes")
		}
		list = append(list, b...)
	}
	pages, err := ours.differs(list)
	if err != nil {
		return err
	}
	return &DiffersError{Pages: pages, What: what}
}

// heardOf waits until the Arbiter has been told that the VM stands, or for as
// long as an answer may take: it may be away.
func (s *source) heardOf() {
	if s.told == nil {
		return
	}
	timer := time.NewTimer(s.opt.patience())
	defer timer.Stop()
	select {
	case <-s.told:
	case <-timer.C:
	}
}

// back takes the VM back after an error before the target was known to have it.
// If the target does have it, given is set.
func (s *source) back(ctx context.Context, cause error) error {
	if killed(cause) {
		return cause
	}
	ctx = context.WithoutCancel(ctx) // it may be what has ended
	s.heardOf()                      // the network must not be moved after it has been moved back
	if err := s.opt.step(StepSourceAbort); err != nil {
		return err
	}
	asking, cancel := context.WithTimeout(ctx, s.opt.patience())
	defer cancel()
	if err := resolve(asking, s.arb.Abort, ErrCommitted); err != nil {
		if errors.Is(err, ErrCommitted) {
			s.given = true
			return cause
		}
		if s.offered {
			return fmt.Errorf("%w: %w; the VM stands at the source: %w", ErrInDoubt, err, cause)
		}
		// The target was never told that it has all: it cannot commit.
		cause = errors.Join(cause, err)
	}
	if err := s.resume(ctx); err != nil {
		return errors.Join(cause, err)
	}
	// So that the target need not find out by waiting; if it cannot be told,
	// its session ends or its Commit fails.
	quick, cancelQuick := context.WithTimeout(ctx, time.Second)
	defer cancelQuick()
	_ = s.tell(quick, msgAbort, []byte(cause.Error()))
	return cause
}

// resume lets the VM go on here, if it may stand.
func (s *source) resume(ctx context.Context) error {
	if !s.paused {
		return nil
	}
	if err := s.opt.step(StepSourceResume); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.opt.patience())
	defer cancel()
	if err := s.vm.Resume(ctx); err != nil {
		return fmt.Errorf("resume at the source: %w", err)
	}
	return nil
}

func (s *source) usage() []codec.Use {
	if s.enc == nil {
		return nil
	}
	return s.enc.Usage()
}

// tally adds what the sessions in use have carried.
func (s *source) tally() {
	out, _, reconnects := s.link.carried()
	s.rep.BytesOut += out
	s.rep.Reconnects += reconnects
}

// account fills in what the report says whether or not the migration has
// succeeded.
func (s *source) account() {
	s.tally()
	if s.copier != nil {
		s.rep.Rounds = append(s.copier.rounds, s.rep.Rounds...)
	}
	if s.rep.Encoders == nil {
		s.rep.Encoders = uses(s.usage(), nil)
	}
	s.rep.CPU.Source = cpu() - s.cpu
}

// resolve repeats a question to the Arbiter until it is answered: by nil, or by
// final.
func resolve(ctx context.Context, ask func(context.Context) error, final error) error {
	for {
		err := ask(ctx)
		if err == nil || errors.Is(err, final) {
			return err
		}
		select {
		case <-time.After(retryEvery):
		case <-ctx.Done():
			return fmt.Errorf("the arbiter does not answer: %w", err)
		}
	}
}
