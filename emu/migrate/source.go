package migrate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/migrate/codec"
	"github.com/vpclab/vpclab/emu/migrate/wire"
)

// Link is one end of a migration's sessions.
type Link struct {
	Bulk   wire.Session // all but what is urgent
	Urgent wire.Session // pages that a VM stands at; only where Options.Urgent says so
	// Again opens both anew, for a post-copy whose sessions have ended while
	// pages were missing; nil: such a migration is carried on by SendRest and
	// ReceiveRest.
	Again func(ctx context.Context) (Link, error)
}

// Urgent tells whether the algorithm needs the urgent session.
func (o *Options) Urgent() bool { return o.Algorithm == PostCopy || o.Algorithm == Hybrid }

const (
	answerIn   = 30 * time.Second // for the target to answer
	recoverIn  = 30 * time.Second // to take a VM back, or to learn whose it is
	retryEvery = 100 * time.Millisecond
)

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
		link: link, vm: vm, arb: arb, opt: &opt, plan: p, enc: enc,
		flow: newFlow(link.Bulk, enc), inbox: make(chan message, 16),
		rep: &Report{Algorithm: opt.Algorithm}, cpu: cpu(),
	}
	s.copier = newCopier(vm, s.flow, &opt, p)
	err = s.run(ctx)
	s.account()
	enc.Close()
	return s.rep, err
}

// source is one end of a migration under way.
type source struct {
	link   Link
	vm     Source
	arb    Arbiter
	opt    *Options
	plan   plan
	enc    codec.Encoder
	flow   *flow
	copier *copier
	inbox  chan message
	rep    *Report
	cpu    time.Duration

	paused  bool          // the VM stands, or may
	offered bool          // the target may commit
	told    chan struct{} // closed when Paused has been told to the Arbiter
}

// message is a copy of what came.
type message struct {
	wire.Type
	payload []byte
}

func (s *source) run(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	listened := make(chan struct{})
	go func() {
		defer close(listened)
		s.listen(ctx)
	}()
	defer func() {
		cancel(errors.New("the migration has ended"))
		<-listened
	}()
	committed, err := s.hand(ctx)
	if err != nil && !committed {
		return s.back(ctx, err)
	}
	if err == nil {
		err = s.prove(ctx)
	}
	if err != nil {
		if killed(err) {
			return err
		}
		return fmt.Errorf("%w: %w", ErrCommitted, err)
	}
	return nil
}

// listen sorts what the target says until the session or the migration ends.
func (s *source) listen(ctx context.Context) {
	defer close(s.inbox)
	for {
		m, err := s.link.Bulk.Receive(ctx)
		if err != nil {
			s.flow.fail(fmt.Errorf("receive from the target: %w", err))
			return
		}
		if m.Type == msgPlaced {
			n, err := parseU64(m.Payload)
			if err == nil {
				err = s.flow.arrived(n)
			}
			if err != nil {
				s.flow.fail(err)
				return
			}
			continue
		}
		if m.Type == msgFailed {
			s.flow.fail(fmt.Errorf("the target: %s", m.Payload))
		}
		select {
		case s.inbox <- message{m.Type, append([]byte{}, m.Payload...)}:
		case <-ctx.Done():
			return
		}
	}
}

// expect waits for the target's next message, which must be of type t.
func (s *source) expect(ctx context.Context, t wire.Type, within time.Duration) ([]byte, error) {
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case m, ok := <-s.inbox:
		switch {
		case !ok:
			return nil, fmt.Errorf("waiting for %q: %w", messageName(t), s.flow.cause())
		case m.Type == msgFailed:
			return nil, fmt.Errorf("the target: %s", m.payload)
		case m.Type != t:
			return nil, fmt.Errorf("waiting for %q: the target sent %q", messageName(t), messageName(m.Type))
		}
		return m.payload, nil
	case <-timer.C:
		return nil, fmt.Errorf("waiting for %q of the target: nothing in %v", messageName(t), within)
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for %q of the target: %w", messageName(t), context.Cause(ctx))
	}
}

// tell sends a message of control.
func (s *source) tell(ctx context.Context, t wire.Type, payload []byte) error {
	if err := s.link.Bulk.Send(ctx, t, payload); err != nil {
		return fmt.Errorf("send %q: %w", messageName(t), err)
	}
	return nil
}

// hand sends the VM and hands it over. committed tells that the target has it
// for certain; before that an error leaves it to the Arbiter.
func (s *source) hand(ctx context.Context) (committed bool, err error) {
	s.rep.Began = event.Now()
	if err := s.opt.step(StepSourceBegin); err != nil {
		return false, err
	}
	toSend := newBitmap(s.copier.pages)
	toSend.fill(s.copier.pages)
	// From here on written pages are noted.
	s.copier.collect(newBitmap(s.copier.pages))
	if err := s.open(ctx, toSend); err != nil {
		return false, err
	}
	if err := s.copier.live(ctx, toSend); err != nil {
		return false, err
	}
	if err := s.pause(ctx, toSend); err != nil {
		return false, err
	}
	payload, err := s.expect(ctx, msgRunning, answerIn)
	if err != nil {
		return false, err
	}
	if s.rep.ResumedAt, err = parseMono(payload); err != nil {
		return true, err
	}
	s.rep.Done = s.rep.ResumedAt
	return true, s.opt.step(StepSourceRunning)
}

// open tells the target what comes and waits until it has made room.
func (s *source) open(ctx context.Context, toSend bitmap) error {
	b := begin{Algorithm: s.opt.Algorithm, Pages: s.copier.pages, Codec: s.plan.codec, Verify: s.opt.Verify, Reuse: s.opt.Reuse}
	if err := s.tell(ctx, msgBegin, encodeJSON(b)); err != nil {
		return err
	}
	if _, err := s.expect(ctx, msgReady, answerIn); err != nil {
		return err
	}
	return s.opt.step(StepSourceReady)
}

// pause stops the VM, sends what is left and offers the VM to the target.
func (s *source) pause(ctx context.Context, toSend bitmap) error {
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
	s.rep.PausedAt = at
	s.told = make(chan struct{})
	go func() {
		defer close(s.told)
		s.arb.Paused(ctx, at)
	}()
	if err := s.opt.step(StepSourcePaused); err != nil {
		return err
	}
	c := s.copier
	c.paused = true
	c.collect(toSend)
	if err := c.round(ctx, toSend, false); err != nil {
		return err
	}
	if s.opt.Verify == "pause" {
		began := event.Now()
		c.proof.over(c.memory)
		s.rep.Verify.InPause += event.Now().Sub(began)
	}
	s.offered = true
	if err := s.tell(ctx, msgFinal, finalMessage(c.proof.root(), state)); err != nil {
		return err
	}
	return s.opt.step(StepSourceFinal)
}

// prove compares the memory that stayed here with what the target holds.
func (s *source) prove(ctx context.Context) error {
	if err := s.opt.step(StepSourceProof); err != nil {
		return err
	}
	stayed := newProof(s.copier.pages)
	stayed.over(s.copier.memory)
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
	s.rep.Faults = theirs.Faults
	s.rep.BytesBack = theirs.Bytes
	s.rep.Encoders = uses(s.enc.Usage(), theirs.Encoders)
	if theirs.Root != root.String() {
		return s.differ(ctx, stayed)
	}
	s.rep.Hash = theirs.Root
	if err := s.tell(ctx, msgOver, nil); err != nil {
		return err
	}
	if err := s.link.Bulk.Flush(ctx); err != nil {
		return fmt.Errorf("waiting for the target to hear that all is proven: %w", err)
	}
	return s.opt.step(StepSourceOver)
}

// differ finds out which pages do.
func (s *source) differ(ctx context.Context, stayed *proof) error {
	if err := s.tell(ctx, msgAsk, nil); err != nil {
		return err
	}
	var list []byte
	for len(list) < len(stayed.leaves)*len(digest{}) {
		b, err := s.expect(ctx, msgLeaves, answerIn)
		if err != nil {
			return err
		}
		if len(b) == 0 {
			return errors.New("the target sent an empty list of hashes")
		}
		list = append(list, b...)
	}
	pages, err := stayed.differs(list)
	if err != nil {
		return err
	}
	return &DiffersError{Pages: pages, What: "the target's memory is not what the source's was at the pause"}
}

// back takes the VM back after an error before the target was known to have it.
func (s *source) back(ctx context.Context, cause error) error {
	if killed(cause) {
		return cause
	}
	// The migration's context may be what has ended.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recoverIn)
	defer cancel()
	if s.told != nil {
		<-s.told // the network must not be moved after it has been moved back
	}
	if err := s.opt.step(StepSourceAbort); err != nil {
		return err
	}
	if err := resolve(ctx, s.arb.Abort, ErrCommitted); err != nil {
		if errors.Is(err, ErrCommitted) {
			return fmt.Errorf("%w; the source learned it from the arbiter: %w", ErrCommitted, cause)
		}
		if !s.offered {
			// The target was never told that it has all: it cannot commit.
			return errors.Join(cause, s.resume(ctx), err)
		}
		return fmt.Errorf("%w: %w; the VM stands at the source: %w", ErrInDoubt, err, cause)
	}
	// So that the target need not find out by waiting; if it cannot be told,
	// its session ends or its Commit fails.
	quick, cancelQuick := context.WithTimeout(ctx, time.Second)
	defer cancelQuick()
	_ = s.tell(quick, msgAbort, []byte(cause.Error()))
	return errors.Join(cause, s.resume(ctx))
}

// resume lets the VM go on here, if it may stand.
func (s *source) resume(ctx context.Context) error {
	if !s.paused {
		return nil
	}
	if err := s.opt.step(StepSourceResume); err != nil {
		return err
	}
	if err := s.vm.Resume(ctx); err != nil {
		return fmt.Errorf("resume at the source: %w", err)
	}
	return nil
}

// account fills in what the report says whether or not the migration has
// succeeded.
func (s *source) account() {
	r := s.rep
	r.Rounds = s.copier.rounds
	for _, session := range []wire.Session{s.link.Bulk, s.link.Urgent} {
		if session != nil {
			stats := session.Stats()
			r.BytesOut += stats.Out
			r.Reconnects += stats.Reconnects
		}
	}
	if r.Encoders == nil {
		r.Encoders = uses(s.enc.Usage(), nil)
	}
	r.CPU.Source = cpu() - s.cpu
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
