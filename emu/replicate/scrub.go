package replicate

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/zeebo/xxh3"

	"github.com/vpclab/vpclab/emu/migrate"
)

// In the modes without memory the primary's disk is ahead of the standby's at all
// times, so there is no moment at which their roots could be compared. Some blocks
// are, instead, all round the disk: a block that was hashed between two writes of
// the log, and is in none of the writes up to the end of the next batch, must be
// the same at the standby when it has that batch.
//
// There is one way in which it may not be: the guest writes to the image first, and
// reports after. So a block that differs is looked at again, and only one that
// differs over and over again is another.

const (
	scrubBlocks = 16 // at a time
	scrubTimes  = 5  // that a block must differ
)

// probe is some blocks that were hashed.
type probe struct {
	blocks []uint32
	sums   []uint64
}

// scrub is what the primary knows of its round.
type scrub struct {
	probe *probe // nil: none is out
	next  int
	again []uint32 // differed at the standby
	buf   []byte
}

// touch takes blocks out of the probe that is out. The caller holds the log's lock.
func (l *writes) touch(off int64, n int) {
	p := l.scrub.probe
	if p == nil {
		return
	}
	first, end := uint32(off/pageSize), uint32((off+int64(n)+pageSize-1)/pageSize)
	kept := 0
	for i, b := range p.blocks {
		if b < first || b >= end {
			p.blocks[kept], p.sums[kept] = b, p.sums[i]
			kept++
		}
	}
	p.blocks, p.sums = p.blocks[:kept], p.sums[:kept]
}

// look hashes the next blocks, and gives what is left of those before.
func (l *writes) look(seed uint64) (*probe, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.scrub.probe
	p := &probe{}
	l.scrub.probe = p
	if l.scrub.buf == nil {
		l.scrub.buf = make([]byte, scrubBlocks*pageSize)
	}
	if again := l.scrub.again; len(again) > 0 {
		n := min(len(again), scrubBlocks)
		p.blocks = append(p.blocks, again[:n]...)
		l.scrub.again = again[n:]
	} else {
		for ; len(p.blocks) < min(scrubBlocks, l.p.blocks); l.scrub.next = (l.scrub.next + 1) % l.p.blocks {
			p.blocks = append(p.blocks, uint32(l.scrub.next))
		}
	}
	for i := 0; i < len(p.blocks); {
		n := 1
		for i+n < len(p.blocks) && p.blocks[i+n] == p.blocks[i]+uint32(n) {
			n++
		}
		part := l.scrub.buf[:n*pageSize]
		if _, err := l.p.disk.ReadAt(part, int64(p.blocks[i])*pageSize); err != nil {
			return nil, &ownError{fmt.Errorf("read %d blocks at %d of the disk: %w", n, p.blocks[i], err)}
		}
		for k := 0; k < len(part); k += pageSize {
			p.sums = append(p.sums, xxh3.HashSeed(part[k:k+pageSize], seed))
		}
		i += n
	}
	return before, nil
}

// probing sends the hashes of some blocks with a batch.
func (s *sender) probing(ctx context.Context, f *flight) error {
	p := f.probe
	if p == nil || len(p.blocks) == 0 {
		return nil
	}
	b := make([]byte, 0, 12*len(p.blocks))
	for i, block := range p.blocks {
		b = binary.BigEndian.AppendUint32(b, block)
		b = binary.BigEndian.AppendUint64(b, p.sums[i])
	}
	s.mu.Lock()
	s.rep.Verified++
	s.mu.Unlock()
	return s.tie.tell(ctx, msgSums, b)
}

// differed has blocks hashed again of which the standby says that they differ.
func (l *writes) differed(b []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(b)%4 != 0 || len(b) > 4*scrubBlocks {
		return &neverError{fmt.Errorf("a list of blocks of %d bytes", len(b))}
	}
	for ; len(b) > 0; b = b[4:] {
		block := binary.BigEndian.Uint32(b)
		if int(block) >= l.p.blocks {
			return &neverError{fmt.Errorf("block %d of %d", block, l.p.blocks)}
		}
		l.scrub.again = append(l.scrub.again, block)
	}
	return nil
}

// sums takes hashes of blocks, as they are to be at the end of the epoch under way.
func (r *receiver) sums(b []byte) error {
	if len(b)%12 != 0 || r.opt.remembers() {
		return &neverError{fmt.Errorf("hashes of blocks of %d bytes", len(b))}
	}
	r.probe = append(r.probe[:0], b...)
	return nil
}

// scrub compares them, when the epoch is on the disk.
func (r *receiver) scrub(ctx context.Context) error {
	var differ []byte
	var lasting []int
	page := make([]byte, pageSize)
	for b := r.probe; len(b) > 0; b = b[12:] {
		block := binary.BigEndian.Uint32(b)
		if int64(block) >= r.size/pageSize {
			return &neverError{errors.New("hash of a block that is not there")}
		}
		if _, err := r.StandbyEnd.disk.ReadAt(page, int64(block)*pageSize); err != nil {
			return &neverError{fmt.Errorf("read block %d of the standby's disk: %w", block, err)}
		}
		if xxh3.HashSeed(page, r.seed) == binary.BigEndian.Uint64(b[4:]) {
			delete(r.suspect, block)
			continue
		}
		if r.suspect == nil {
			r.suspect = map[uint32]int{}
		}
		if r.suspect[block]++; r.suspect[block] == scrubTimes {
			lasting = append(lasting, int(block))
		}
		differ = binary.BigEndian.AppendUint32(differ, block)
	}
	r.probe = r.probe[:0]
	if len(lasting) > 0 {
		return &migrate.DiffersError{Pages: lasting, What: "the disk is not the primary's"}
	}
	if len(differ) > 0 {
		return r.tie.tell(ctx, msgDiffer, differ)
	}
	return nil
}
