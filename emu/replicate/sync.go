package replicate

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/migrate/codec"
)

const (
	// Pages that were written while others were copied are copied again, in
	// passes, as long as that makes them fewer; the rest comes with the first
	// epoch, for which the VM stands no longer than it takes to copy them here.
	mostPasses = 5
	fewPages   = 256
	// A batch has about so many bytes on the link: a sign of life, where the link
	// is slow.
	batchBytes = 128 << 10
	leastBatch = 32
	mostBatch  = 256 // pages
	// blocksAtOnce are read from the disk at a time.
	blocksAtOnce = 64
)

// sync copies to the standby what it has otherwise, while the VM runs. From its
// beginning on, what the VM writes is noted.
func (s *sender) sync(ctx context.Context) error {
	if s.log == nil {
		s.look()
		clear(s.owed)
		clear(s.owedBlocks)
	} else if err := s.log.start(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	s.rep.Resyncs++
	s.mu.Unlock()
	if err := s.tie.tell(ctx, msgStart, []byte{howSync}); err != nil {
		return err
	}
	holds, err := s.hear(ctx)
	if err != nil {
		return err
	}
	if s.log == nil {
		s.owed.fill(s.pages)
		if err := s.passes(ctx, holds); err != nil {
			return err
		}
	}
	if err := s.copyDisk(ctx, holds[s.pages:]); err != nil {
		return err
	}
	return s.opt.step(StepPrimaryCopied)
}

// look takes the bits of what the VM has written.
func (s *sender) look() {
	clear(s.looked)
	s.vm.Collect(s.looked)
	for i, w := range s.looked {
		s.owed[i] |= w
	}
	if s.disk == nil {
		return
	}
	clear(s.lookedBlocks)
	s.disk.Collect(s.lookedBlocks)
	for i, w := range s.lookedBlocks {
		s.owedBlocks[i] |= w
	}
}

// hear takes the standby's word of what its pages and blocks are.
func (s *sender) hear(ctx context.Context) ([]root, error) {
	holds := make([]root, s.pages+s.blocks)
	next := 0
	for {
		b, err := s.tie.expect(ctx, msgHolds)
		switch {
		case err != nil:
			return nil, err
		case len(b) == 0 && next == len(holds):
			return holds, nil
		}
		b, err = s.tie.unpack(b)
		if err == nil && (len(b) < 4 || int(binary.BigEndian.Uint32(b)) != next || (len(b)-4)%len(root{}) != 0 || next+(len(b)-4)/len(root{}) > len(holds)) {
			err = errors.New("not what comes next")
		}
		if err != nil {
			return nil, &neverError{fmt.Errorf("what the standby holds, at unit %d of %d: %w", next, len(holds), err)}
		}
		for b = b[4:]; len(b) > 0; b = b[len(root{}):] {
			copy(holds[next][:], b)
			next++
		}
	}
}

// passes copies pages until few have been written meanwhile.
func (s *sender) passes(ctx context.Context, holds []root) error {
	for pass, before := 0, 2*s.pages; pass < mostPasses; pass++ {
		n := s.owed.count()
		if pass > 0 && n <= fewPages || n > before*3/4 {
			return nil
		}
		if err := s.pass(ctx, holds); err != nil {
			return err
		}
		before = n
		s.look()
	}
	return nil
}

// pass copies the pages that are owed, except those that are dirty again.
func (s *sender) pass(ctx context.Context, holds []root) error {
	c := courier{sender: s}
	list := s.owed.take(nil)
	for len(list) > 0 {
		if err := s.opt.step(StepPrimaryCopy); err != nil {
			return err
		}
		n := min(s.batch(), len(list))
		for _, page := range list[:n] {
			if !s.vm.Dirty(int(page)) {
				c.put(page, s.memory[int(page)*pageSize:int(page+1)*pageSize], holds)
			}
		}
		list = list[n:]
		if err := c.deliver(ctx); err != nil {
			return err
		}
	}
	return nil
}

// courier sorts pages into those that the standby has and those that it has not.
type courier struct {
	*sender
	has, lacks         []uint32
	hasData, lacksData []byte
}

// put takes a page as it is now.
func (c *courier) put(page uint32, data []byte, holds []root) {
	at := len(c.lacksData)
	c.lacksData = append(c.lacksData, data...)
	now := c.lacksData[at:]
	if c.tree != nil {
		c.tree.set(int(page), now)
	}
	if leaf(now) != holds[page] {
		holds[page] = root{} // from now on it is another
		c.lacks = append(c.lacks, page)
		return
	}
	c.has = append(c.has, page)
	c.hasData = append(c.hasData, now...)
	c.lacksData = c.lacksData[:at]
}

// deliver sends what is lacking.
func (c *courier) deliver(ctx context.Context) error {
	if e, ok := c.enc.(codec.Shadowing); ok && len(c.has) > 0 {
		e.Assume(c.has, c.hasData)
	}
	var err error
	if len(c.lacks) > 0 {
		err = c.ship(ctx, c.lacks, c.lacksData)
		c.mu.Lock()
		c.rep.SyncPages += int64(len(c.lacks))
		c.mu.Unlock()
	}
	c.has, c.lacks, c.hasData, c.lacksData = c.has[:0], c.lacks[:0], c.hasData[:0], c.lacksData[:0]
	return err
}

// batch is how many pages the next one should have.
func (s *sender) batch() int {
	if s.perPage == 0 {
		return leastBatch
	}
	return min(max(batchBytes/s.perPage, leastBatch), mostBatch)
}

// ship encodes a batch of pages and sends it.
func (s *sender) ship(ctx context.Context, pages []uint32, data []byte) error {
	s.pressure()
	s.buf = appendList(s.buf[:0], pages)
	head := len(s.buf)
	s.buf = s.enc.Encode(s.buf, pages, data)
	s.perPage = max(1, (len(s.buf)-head)/len(pages))
	return s.tie.tell(ctx, msgPages, s.buf)
}

// pressure tells the encoder how much time there is: the share of it in which the
// link was waited for, before it or behind it, as far as no one else needs the
// processor.
func (s *sender) pressure() {
	now, waited := event.Now(), s.tie.Waiting()
	share := 0.0
	if took := now.Sub(s.batchAt); s.batchAt != 0 && took > 0 {
		share = min(1, float64(waited-s.waited)/float64(took))
	}
	s.batchAt, s.waited = now, waited
	s.mu.Lock()
	s.press = max(s.press, s.press+(share-s.press)/8)
	press := s.press
	s.mu.Unlock()
	s.enc.Pressure(min(press, s.spare.Share(now)))
}

// copyDisk copies the blocks that the standby has otherwise. In the modes
// without memory a block must not overtake a write, or come after one that is
// newer: it is read between two writes of the log, and goes between them.
func (s *sender) copyDisk(ctx context.Context, holds []root) error {
	buf := make([]byte, blocksAtOnce*pageSize)
	for first := 0; first < s.blocks; first += blocksAtOnce {
		if err := s.opt.step(StepPrimaryCopy); err != nil {
			return err
		}
		part := buf[:min(blocksAtOnce, s.blocks-first)*pageSize]
		var err error
		read := func() { _, err = s.disk.ReadAt(part, int64(first)*pageSize) }
		if s.log != nil {
			s.extents = s.log.between(s.extents, read)
		} else {
			read()
		}
		if err != nil {
			return &ownError{fmt.Errorf("read %d blocks at %d of the disk: %w", len(part)/pageSize, first, err)}
		}
		s.differing(part, first, holds)
		if len(s.extents) >= partSize || first+blocksAtOnce >= s.blocks {
			if err := s.shipExtents(ctx, s.extents); err != nil {
				return err
			}
			s.extents = s.extents[:0]
		}
	}
	return nil
}

// differing adds to the extents the blocks that the standby has otherwise.
func (s *sender) differing(part []byte, first int, holds []root) {
	from := -1
	for i := 0; i <= len(part); i += pageSize {
		same := true
		if i < len(part) {
			block := part[i : i+pageSize]
			same = leaf(block) == holds[first+i/pageSize]
			if s.tree != nil {
				s.tree.set(s.pages+first+i/pageSize, block)
			}
		}
		if same && from >= 0 {
			s.extents = appendExtent(s.extents, int64(first)*pageSize+int64(from), part[from:i])
			from = -1
		} else if !same && from < 0 {
			from = i
		}
	}
}

// shipExtents sends extents of the disk.
func (s *sender) shipExtents(ctx context.Context, extents []byte) error {
	return parts(extents, func(part []byte) error { return s.tie.pack(ctx, msgBlocks, part) })
}
