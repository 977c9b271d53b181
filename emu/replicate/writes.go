package replicate

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/vpclab/vpclab/emu/event"
)

// writes is the log of what the VM writes to its disk, in the modes without
// memory: what was reported and is not in a batch yet.
//
// While the standby is not in sync a write counts at once. From then on, it waits
// for the standby's word (Sync), or counts at once too and what the VM sends
// waits (Pipelined), until so much is under way that the guest must wait, too.
type writes struct {
	p *PrimaryEnd

	mu    sync.Mutex
	end   func()   // of the mirror; nil: there is none
	out   []byte   // extents that are in no batch
	acks  []func() // of writes in out that wait for their batch (Sync)
	later []func() // of writes that wait for room (Pipelined)
	count int64    // writes in out
	bytes int      // in out and under way
	holds bool     // the standby may be in sync
	// passing: the gate is open, because the standby holds all writes. Before the
	// next one counts it is shut.
	passing bool
	gone    bool  // there is no standby any more: all writes count
	broken  error // the gate could not be shut
	spare   [][]byte
	scrub   scrub
	kick    chan struct{} // holds one when out is not empty
}

func newWrites(p *PrimaryEnd) *writes {
	return &writes{p: p, passing: true, kick: make(chan struct{}, 1)}
}

// start has the VM report its writes.
func (l *writes) start(ctx context.Context) error {
	if l.end != nil {
		return nil
	}
	end, err := l.p.disk.Mirror(ctx, l.report)
	if err != nil {
		return &ownError{fmt.Errorf("have writes to the disk reported: %w", err)}
	}
	l.end = end
	return nil
}

// stop ends that, when all is reported.
func (l *writes) stop() {
	if l.end != nil {
		l.end()
		l.end = nil
	}
}

// report is called by the guest's mirror.
func (l *writes) report(off int64, data []byte, acked func()) {
	l.mu.Lock()
	before := len(l.out)
	l.out = appendExtent(l.out, off, data)
	l.bytes += len(l.out) - before
	l.count++
	l.touch(off, len(data))
	switch {
	case l.gone, !l.holds:
	case l.p.opt.Mode == Sync:
		l.acks = append(l.acks, acked)
		acked = nil
	case !l.shut():
		acked = nil // it never counts: nothing may be said of it
	case l.bytes > l.p.opt.Backlog || len(l.later) > 0:
		l.later = append(l.later, acked)
		acked = nil
	}
	if l.gone {
		l.out = l.out[:0]
	}
	l.mu.Unlock()
	if acked != nil {
		acked()
	}
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// shut has what the VM sends from now on held, where it was let pass. The caller
// holds the lock.
func (l *writes) shut() bool {
	if l.passing && l.p.gate != nil && l.broken == nil {
		if _, err := l.p.gate.Mark(); err != nil {
			l.broken = &ownError{fmt.Errorf("hold what the VM sends: %w", err)}
		}
	}
	l.passing = false
	return l.broken == nil
}

// pass opens the gate when the standby holds all writes, and says whether it is open.
func (l *writes) pass() (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.passing || l.p.gate == nil {
		return true, l.broken
	}
	l.p.mu.Lock()
	idle := len(l.p.way) == 0
	l.p.mu.Unlock()
	if !idle || len(l.out) > 0 || l.broken != nil {
		return false, l.broken
	}
	if err := l.p.gate.Open(); err != nil {
		return false, &ownError{fmt.Errorf("let go what the VM sends: %w", err)}
	}
	l.passing = true
	return true, nil
}

// empty says that all writes are in batches.
func (l *writes) empty() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.out) == 0
}

// between adds what is in no batch to extents, and does something before the next
// write is reported.
func (l *writes) between(extents []byte, do func()) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	extents = append(extents, l.out...)
	l.bytes -= len(l.out)
	l.out, l.count = l.out[:0], 0
	do()
	return extents
}

// hold has writes wait from now on, and what the VM sends.
func (l *writes) hold() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holds = true
	l.shut()
	return l.broken
}

// take makes a batch of what is in none.
func (l *writes) take(f *flight) (count int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f.batch, f.acks, count = l.out, l.acks, l.count
	l.out, l.acks, l.count = nil, nil, 0
	if n := len(l.spare); n > 0 {
		l.out, l.spare = l.spare[n-1], l.spare[:n-1]
	}
	return count
}

// arrived lets writes of batches that the standby has count.
func (l *writes) arrived(done []*flight) {
	var acks []func()
	l.mu.Lock()
	for _, f := range done {
		l.bytes -= len(f.batch)
		acks = append(acks, f.acks...)
		if len(l.spare) < mostWindow {
			l.spare = append(l.spare, f.batch[:0])
		}
		f.batch = nil
	}
	if l.bytes <= l.p.opt.Backlog {
		acks = append(acks, l.later...)
		l.later = nil
	}
	l.mu.Unlock()
	for _, acked := range acks {
		acked()
	}
}

// free lets all writes count, from now on: there is no standby.
func (l *writes) free(way []*flight) {
	l.mu.Lock()
	l.gone = true
	var acks []func()
	for _, f := range way {
		acks = append(acks, f.acks...)
	}
	acks = append(append(acks, l.acks...), l.later...)
	l.acks, l.later, l.out = nil, nil, nil
	l.mu.Unlock()
	for _, acked := range acks {
		acked()
	}
}

// batches sends what the VM writes: at once (Sync), or what an Epoch has brought.
func (s *sender) batches(ctx context.Context) error {
	s.mu.Lock()
	way := append([]*flight(nil), s.way...)
	s.mu.Unlock()
	for _, f := range way { // of the session before
		if err := s.sendBatch(ctx, f); err != nil {
			return err
		}
	}
	if !s.whole {
		// The first has what was written while the disk was copied: with it the
		// standby is in sync.
		if err := s.log.hold(); err != nil {
			return err
		}
		if err := s.batchOf(ctx, false); err != nil {
			return err
		}
	}
	for {
		asked, err := s.gather(ctx)
		if err != nil {
			return err
		}
		if asked == nil {
			if err := s.batchOf(ctx, false); err != nil {
				return err
			}
			continue
		}
		return s.answered(asked, s.handOverDisk(ctx, asked))
	}
}

// gather waits until there is something to send, an Epoch has passed since the
// last batch, and there is room for one in the window.
func (s *sender) gather(ctx context.Context) (*switching, error) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	late := !s.log.empty() && event.Now().Sub(s.closedAt) > 2*s.opt.Epoch
	for {
		if a := s.claim(); a != nil {
			return a, nil
		}
		if !s.log.empty() {
			wait := s.opt.Epoch - event.Now().Sub(s.closedAt)
			room := s.underway() < s.opt.Window
			switch ripe := s.opt.Mode == Sync || wait <= 0; {
			case ripe && room:
				if late {
					s.late()
				}
				return nil, nil
			case ripe:
				late = true
			default:
				timer.Reset(wait)
			}
		}
		if _, err := s.log.pass(); err != nil {
			return nil, err
		}
		select {
		case <-s.log.kick:
		case <-s.news:
		case <-timer.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// batchOf makes a batch of what was written, and sends it.
func (s *sender) batchOf(ctx context.Context, final bool) (err error) {
	f := &flight{final: final}
	if f.closed, err = s.mark(ctx); err != nil {
		return err
	}
	f.at = event.Now()
	s.closedAt = f.at
	count := s.log.take(f)
	if s.opt.Verify > 0 && s.whole && (s.epoch+1)%uint64(s.opt.Verify) == 0 {
		if f.probe, err = s.log.look(s.seed); err != nil {
			return err
		}
	}
	s.mu.Lock()
	s.rep.Blocks += count
	s.rep.Raw += int64(len(f.batch))
	s.mu.Unlock()
	s.depart(f)
	if err := s.opt.step(StepPrimaryClosed); err != nil {
		return err
	}
	return s.sendBatch(ctx, f)
}

func (s *sender) sendBatch(ctx context.Context, f *flight) error {
	began := event.Now()
	err := parts(f.batch, func(part []byte) error {
		if err := s.opt.step(StepPrimaryBatch); err != nil {
			return err
		}
		return s.tie.pack(ctx, msgBlocks, part)
	})
	if err == nil {
		err = s.probing(ctx, f)
	}
	if err != nil {
		return err
	}
	return s.finishing(ctx, f, began)
}

// handOverDisk stops the VM and sends all that it has written.
func (s *sender) handOverDisk(ctx context.Context, asked *switching) (err error) {
	within, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(asked.ctx, func() { cancel(context.Cause(asked.ctx)) })()
	if err := s.stopVM(within); err != nil {
		return err
	}
	s.log.stop() // all is reported then
	if err = s.batchOf(within, true); err == nil {
		err = s.settle(within)
	}
	if err == nil {
		return s.opt.step(StepPrimaryOver)
	}
	if no := s.log.start(context.WithoutCancel(ctx)); no != nil {
		return no // it stands, and must: its writes would not be replicated
	}
	return s.goOn(err)
}

// stopVM stops the VM, sending what it writes until it stands: the step that it
// is in may wait for a write.
func (s *sender) stopVM(ctx context.Context) error {
	if err := s.opt.step(StepPrimaryStop); err != nil {
		return err
	}
	stands := make(chan error, 1)
	go func() {
		_, _, err := s.vm.Checkpoint(ctx, false)
		stands <- err
	}()
	for {
		var err error
		select {
		case err = <-stands:
			if err != nil {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				return &ownError{fmt.Errorf("stop the VM to hand it over: %w", err)}
			}
			return s.opt.step(StepPrimaryStands)
		case <-s.log.kick:
		case <-s.news:
		}
		if !s.log.empty() && s.underway() < s.opt.Window {
			if err = s.batchOf(ctx, false); err != nil {
				if <-stands == nil { // it ends with ctx, at the latest
					return s.goOn(err)
				}
				return err
			}
		}
	}
}
