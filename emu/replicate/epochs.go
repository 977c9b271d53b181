package replicate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/migrate"
)

// epochs takes checkpoints, one an Epoch, as far as the standby keeps up.
func (s *sender) epochs(ctx context.Context) error {
	next := event.Now()
	for {
		asked, err := s.pace(ctx, next)
		if err != nil {
			return err
		}
		next = max(next, event.Now()-event.Mono(s.opt.Epoch/2)) + event.Mono(s.opt.Epoch)
		if asked == nil {
			if err := s.checkpoint(ctx, false); err != nil {
				return err
			}
			continue
		}
		return s.answered(asked, s.handOver(ctx, asked))
	}
}

// pace waits until a checkpoint is due and there is room for it in the window.
func (s *sender) pace(ctx context.Context, next event.Mono) (*switching, error) {
	timer := time.NewTimer(next.Sub(event.Now()))
	defer timer.Stop()
	due := false
	for {
		room := s.underway() < s.opt.Window
		if room {
			if a := s.claim(); a != nil {
				return a, nil
			}
		}
		if due && room {
			if event.Now().Sub(next) > s.opt.Epoch {
				s.late()
			}
			return nil, nil
		}
		select {
		case <-timer.C:
			due = true
		case <-s.news:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// late notes that an epoch begins late.
func (s *sender) late() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rep.Late++
}

// handOver takes the last checkpoint and leaves the VM standing.
func (s *sender) handOver(ctx context.Context, asked *switching) (err error) {
	within, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(asked.ctx, func() { cancel(context.Cause(asked.ctx)) })()
	if err = s.checkpoint(within, true); err == nil {
		if err = s.settle(within); err != nil {
			err = s.goOn(err)
		}
	}
	if err != nil {
		return err
	}
	return s.opt.step(StepPrimaryOver)
}

// goOn lets the VM run again after an error, unless this end is dead.
func (s *sender) goOn(err error) error {
	if errors.Is(err, migrate.ErrKilled) {
		return err
	}
	// It must run whatever has ended the session.
	if no := s.vm.Resume(context.Background()); no != nil {
		return &ownError{errors.Join(err, fmt.Errorf("let the VM go on: %w", no))}
	}
	return err
}

// checkpoint takes an epoch and sends it. Where it is the final one the VM is left
// standing.
func (s *sender) checkpoint(ctx context.Context, final bool) error {
	f := &flight{final: final}
	state, err := s.take(ctx, f)
	if err != nil {
		// What was taken of the bits is owed.
		s.owed.add(s.pagesOf.units)
		s.owedBlocks.add(s.blocksOf.units)
		s.pagesOf.units, s.blocksOf.units = s.pagesOf.units[:0], s.blocksOf.units[:0]
		return err
	}
	f.pages = append([]uint32(nil), s.pagesOf.units...)
	f.blocks = append([]uint32(nil), s.blocksOf.units...)
	s.depart(f)
	if err = s.send(ctx, f, state); err != nil && final {
		return s.goOn(err)
	}
	return err
}

// take copies what has changed, most of it before the VM is stopped.
func (s *sender) take(ctx context.Context, f *flight) (state []byte, err error) {
	s.pagesOf.units, s.blocksOf.units = s.pagesOf.units[:0], s.blocksOf.units[:0]
	s.look()
	if err := s.pagesOf.ahead(s.owed, s.page); err != nil {
		return nil, err
	}
	if err := s.blocksOf.ahead(s.owedBlocks, s.block); err != nil {
		return nil, err
	}
	if err := s.opt.step(StepPrimaryMark); err != nil {
		return nil, err
	}
	if f.closed, err = s.mark(ctx); err != nil {
		return nil, err
	}
	if err := s.opt.step(StepPrimaryStop); err != nil {
		return nil, err
	}
	if f.at, state, err = s.vm.Checkpoint(ctx, s.opt.Mode == Checkpoint); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, &ownError{fmt.Errorf("stop the VM for a checkpoint: %w", err)}
	}
	if err = s.rest(); err != nil {
		return nil, s.goOn(err)
	}
	if !f.final {
		if err := s.vm.Resume(context.WithoutCancel(ctx)); err != nil {
			return nil, &ownError{fmt.Errorf("let the VM go on after a checkpoint: %w", err)}
		}
		s.stood(event.Now().Sub(f.at))
	}
	return state, s.opt.step(StepPrimaryRuns)
}

// rest copies the rest, while the VM stands.
func (s *sender) rest() error {
	if err := s.opt.step(StepPrimaryStands); err != nil {
		return err
	}
	s.look()
	if err := s.pagesOf.rest(s.owed, s.page); err != nil {
		return err
	}
	if err := s.blocksOf.rest(s.owedBlocks, s.block); err != nil {
		return err
	}
	return s.opt.step(StepPrimaryStaged)
}

// stood notes a pause.
func (s *sender) stood(pause time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rep.Stood += pause
	if len(s.rep.Pauses) == mostTimes {
		s.rep.Pauses = append(s.rep.Pauses[:0], s.rep.Pauses[mostTimes/2:]...)
	}
	s.rep.Pauses = append(s.rep.Pauses, pause)
}

// page and block fetch what is staged.
func (s *sender) page(to []byte, first int) error {
	copy(to, s.memory[first*pageSize:])
	return nil
}

func (s *sender) block(to []byte, first int) error {
	if _, err := s.disk.ReadAt(to, int64(first)*pageSize); err != nil {
		return &ownError{fmt.Errorf("read %d blocks at %d of the disk: %w", len(to)/pageSize, first, err)}
	}
	return nil
}

// send encodes what is staged and sends it, while the VM runs.
func (s *sender) send(ctx context.Context, f *flight, state []byte) error {
	began := event.Now()
	s.batchAt = 0
	err := s.pagesOf.batches(s.batch, func(pages []uint32, data []byte) error {
		if err := s.opt.step(StepPrimaryBatch); err != nil {
			return err
		}
		for i, page := range pages {
			if s.tree != nil {
				s.tree.set(int(page), data[i*pageSize:(i+1)*pageSize])
			}
		}
		return s.ship(ctx, pages, data)
	})
	if err != nil {
		return err
	}
	if err := s.sendBlocks(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	s.rep.Pages += int64(len(f.pages))
	s.rep.Staged += int64(s.pagesOf.early)
	s.rep.Blocks += int64(len(f.blocks))
	s.rep.Raw += int64(len(f.pages)+len(f.blocks)) * pageSize
	s.mu.Unlock()
	for len(state) > 0 {
		n := min(len(state), partSize)
		if err := s.tie.tell(ctx, msgState, state[:n]); err != nil {
			return err
		}
		state = state[n:]
	}
	return s.finishing(ctx, f, began)
}

// sendBlocks sends the blocks that are staged.
func (s *sender) sendBlocks(ctx context.Context) error {
	s.extents = s.extents[:0]
	err := s.blocksOf.batches(func() int { return longestExtent / pageSize }, func(blocks []uint32, data []byte) error {
		for i := 0; i < len(blocks); {
			n := 1
			for i+n < len(blocks) && blocks[i+n] == blocks[i]+uint32(n) {
				n++
			}
			s.extents = appendExtent(s.extents, int64(blocks[i])*pageSize, data[i*pageSize:(i+n)*pageSize])
			i += n
		}
		for i, b := range blocks {
			if s.tree != nil {
				s.tree.set(s.pages+int(b), data[i*pageSize:(i+1)*pageSize])
			}
		}
		return nil
	})
	if err == nil && len(s.extents) > 0 {
		err = s.shipExtents(ctx, s.extents)
	}
	return err
}
