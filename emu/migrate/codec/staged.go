package codec

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/zeebo/xxh3"
)

// The staged encoder is CloudNet's and the plain ones: zero ranges, content
// redundancy, deltas and a compressor, each where the configuration has it.
//
// Its body is the runs of pages; two bits a block of coded pages; references
// and deltas in the order of the blocks; and literals in that order.

// Kinds of run.
const (
	zeroRun  = iota // pages of zeros
	plainRun        // literals
	codedRun        // blocks
)

// How a body is compressed.
const (
	stored     = iota
	compressed // by the configuration's compressor
)

// slotSize is that of a reference to a slot.
const slotSize = 4

// Kinds of block.
const (
	literalBlock = iota
	cachedBlock  // a slot of the cache, 4 bytes
	deltaBlock   // length and delta from the version last sent
)

// mostDelta is the longest delta that is sent: an eighth of the block must be
// saved. CloudNet has a threshold and does not say which (section IV-B2).
func mostDelta(block int) int { return block - block/8 }

type staged struct {
	c     Config
	state state
	clock clock
	cache fifo
	comp  compressor
	buf   []byte // body before compression
	hash  uint64 // of the block at hand
}

func newStaged(c Config) (s staged, err error) {
	s = staged{c: c, state: state{digest: c.digest()}, comp: newCompressor(c.Compress)}
	if c.CBR || c.Delta {
		s.cache, err = newFIFO(c)
	}
	return s, err
}

// blocks a page.
func (s *staged) blocks() int { return PageSize / s.c.Block }

func (s *staged) coded() bool { return s.c.CBR || s.c.Delta }

// mostBody is what the body of so many pages can take.
func (s *staged) mostBody(pages int) int {
	const lengths = 2 * binary.MaxVarintLen32
	most := PageSize + lengths
	if s.coded() {
		most += s.blocks() * (1 + lengths)
	}
	return pages*most + 64
}

func (s *staged) footprint() int64 { return s.cache.footprint() + int64(cap(s.buf)) }

type stagedEncoder struct {
	staged
	index index
	kinds []byte // one a page of the batch
	runs  runs
	tags  []byte // one a block of coded pages
	slots []uint32
	// Blocks that were not found and have an older version: both are kept, as
	// the cache moves on before deltas are computed, a stage of its own.
	missed []missed
	older  []byte
	deltas []byte

	zero, checks, cbr, delta, literal, compress Use
}

// missed is a block that may be told as a delta.
type missed struct {
	tag   int    // which of tags
	block []byte // its bytes
	size  int    // of its delta, once there is one
}

func newStagedEncoder(c Config) (*stagedEncoder, error) {
	s, err := newStaged(c)
	if err != nil {
		return nil, err
	}
	e := &stagedEncoder{staged: s}
	if c.CBR {
		e.index = newIndex(e.cache.slots, c.HashBits)
	}
	e.zero.Name, e.checks.Name, e.cbr.Name, e.delta.Name, e.literal.Name, e.compress.Name = "zero", "check", "cbr", "delta", "literal", c.Compress
	return e, nil
}

func (e *stagedEncoder) Pressure(float64) {} // it has one way to do it

func (e *stagedEncoder) Encode(dst []byte, pages []uint32, data []byte) []byte {
	mustFit(e.c, pages, data)
	e.clock.start(len(pages))
	defer e.clock.stop()
	e.sort(pages, data)
	e.clock.lap(&e.zero)
	h := header{pages: len(pages), content: e.checksum(data)}
	e.clock.lap(&e.checks)
	e.tags, e.slots, e.missed, e.older, e.deltas = e.tags[:0], e.slots[:0], e.missed[:0], e.older[:0], e.deltas[:0]
	if e.coded() {
		e.lookUp(pages, data)
		e.clock.lap(&e.cbr)
		e.makeDeltas()
		e.clock.lap(&e.delta)
	}
	begin := len(dst)
	dst = grow(dst, headerSize)
	if e.comp == nil {
		dst = e.write(dst, data)
		h.raw = len(dst) - begin - headerSize
		e.clock.lap(&e.literal)
	} else {
		e.buf = e.write(e.buf[:0], data)
		h.raw = len(e.buf)
		e.clock.lap(&e.literal)
		dst, h.method = e.squeeze(dst)
		e.clock.lap(&e.compress)
	}
	e.state.seal(dst[begin:], h)
	return dst
}

// sort makes the runs.
func (e *stagedEncoder) sort(pages []uint32, data []byte) {
	rest := byte(plainRun)
	if e.coded() {
		rest = codedRun
	}
	e.runs.reset()
	e.kinds = e.kinds[:0]
	for i, page := range pages {
		kind := rest
		if e.c.Zero && allZero(at(data, i)) {
			kind = zeroRun
			e.zero.Units++
			e.zero.In += PageSize
		}
		e.kinds = append(e.kinds, kind)
		e.runs.add(int(page), int(kind))
	}
	e.runs.end()
	e.zero.Out += int64(len(e.runs.out))
}

// checksum of the pages as the decoder is to have them. Without verification
// the encoder does not know what that is, which is the point of it.
func (e *stagedEncoder) checksum(data []byte) uint64 {
	var sum uint64
	if e.c.Unverified {
		return sum
	}
	for i, kind := range e.kinds {
		if kind == zeroRun {
			sum = fold(sum, zeroHash)
		} else {
			sum = fold(sum, xxh3.Hash(at(data, i)))
		}
	}
	return sum
}

// lookUp finds what it can of the batch in the cache, and puts in the rest.
func (e *stagedEncoder) lookUp(pages []uint32, data []byte) {
	for i, kind := range e.kinds {
		if kind != codedRun {
			continue
		}
		page := at(data, i)
		address := int(pages[i]) * e.blocks()
		for ; len(page) > 0; page, address = page[e.c.Block:], address+1 {
			block := page[:e.c.Block]
			slot, ok := e.find(block)
			if ok {
				e.tags = append(e.tags, cachedBlock)
				e.slots = append(e.slots, uint32(slot))
			} else {
				if old := e.cache.version(address); old != nil {
					e.missed = append(e.missed, missed{tag: len(e.tags), block: block})
					e.older = append(e.older, old...)
				}
				e.tags = append(e.tags, literalBlock)
				slot = e.insert(block)
			}
			e.cache.sent(address, slot)
		}
	}
	e.cbr.Units += int64(len(e.slots))
	e.cbr.In += int64(len(e.slots) * e.c.Block)
	e.cbr.Out += int64(len(e.slots) * slotSize)
}

// find gives the slot that holds the block. What a hash has found is compared:
// that nothing else has the same hash is likely and not sure, and a guest can
// make it false.
func (e *stagedEncoder) find(block []byte) (uint64, bool) {
	if !e.c.CBR {
		return 0, false
	}
	e.hash = xxh3.HashSeed(block, e.c.Key) & e.index.mask
	slot, ok := e.index.find(e.hash)
	if !ok {
		return 0, false
	}
	if !bytes.Equal(block, e.cache.slot(slot)) {
		e.cbr.False++
		return slot, e.c.Unverified
	}
	return slot, true
}

// insert puts a block that find has not found into cache and index.
func (e *stagedEncoder) insert(block []byte) uint64 {
	reused := e.cache.count >= e.cache.slots
	slot := e.cache.put(block)
	if e.c.CBR {
		e.index.set(slot, e.hash, reused)
	}
	return slot
}

// makeDeltas looks which blocks that were not found are shorter as a delta.
func (e *stagedEncoder) makeDeltas() {
	most := mostDelta(e.c.Block)
	for i := range e.missed {
		m := &e.missed[i]
		begin := len(e.deltas)
		var ok bool
		e.deltas, ok = appendDelta(e.deltas, e.older[i*e.c.Block:(i+1)*e.c.Block], m.block, most)
		if !ok {
			continue
		}
		m.size = len(e.deltas) - begin
		e.tags[m.tag] = deltaBlock
		e.delta.Units++
		e.delta.In += int64(e.c.Block)
		e.delta.Out += int64(m.size)
	}
}

// write appends the body.
func (e *stagedEncoder) write(dst, data []byte) []byte {
	dst = append(dst, e.runs.out...)
	dst = appendTags(dst, e.tags)
	dst = e.writeCoded(dst)
	before := len(dst)
	dst = e.writeLiterals(dst, data)
	e.literal.In += int64(len(dst) - before)
	e.literal.Out += int64(len(dst) - before)
	return dst
}

func (e *stagedEncoder) writeCoded(dst []byte) []byte {
	slots, deltas, missed := e.slots, e.deltas, e.missed
	for i, tag := range e.tags {
		for len(missed) > 0 && missed[0].tag < i {
			missed = missed[1:]
		}
		switch tag {
		case cachedBlock:
			dst = binary.LittleEndian.AppendUint32(dst, slots[0])
			slots = slots[1:]
		case deltaBlock:
			size := missed[0].size
			dst = binary.AppendUvarint(dst, uint64(size))
			dst = append(dst, deltas[:size]...)
			deltas = deltas[size:]
		}
	}
	return dst
}

func (e *stagedEncoder) writeLiterals(dst, data []byte) []byte {
	tags := e.tags
	for i, kind := range e.kinds {
		switch kind {
		case plainRun:
			dst = append(dst, at(data, i)...)
			e.literal.Units++
		case codedRun:
			page := at(data, i)
			for _, tag := range tags[:e.blocks()] {
				if tag == literalBlock {
					dst = append(dst, page[:e.c.Block]...)
					e.literal.Units++
				}
				page = page[e.c.Block:]
			}
			tags = tags[e.blocks():]
		}
	}
	return dst
}

// squeeze appends the body compressed, or as it is if that is no shorter.
func (e *stagedEncoder) squeeze(dst []byte) ([]byte, byte) {
	before := len(dst)
	dst = e.comp.compress(dst, e.buf)
	method := byte(compressed)
	if len(dst)-before >= len(e.buf) {
		dst, method = append(dst[:before], e.buf...), stored
	}
	e.compress.Units += int64(len(e.kinds))
	e.compress.In += int64(len(e.buf))
	e.compress.Out += int64(len(dst) - before)
	return dst, method
}

func (e *stagedEncoder) Usage() []Use {
	uses := []Use{e.checks}
	if e.c.Zero {
		uses = append(uses, e.zero)
	}
	if e.c.CBR {
		uses = append(uses, e.cbr)
	}
	if e.c.Delta {
		uses = append(uses, e.delta)
	}
	uses = append(uses, e.literal)
	if e.comp != nil {
		uses = append(uses, e.compress)
	}
	return e.clock.all(uses)
}

func (e *stagedEncoder) Footprint() int64 {
	return e.footprint() + e.index.footprint() + int64(cap(e.older)+cap(e.deltas)+cap(e.tags)+4*cap(e.slots))
}

func (e *stagedEncoder) Close() {
	e.cache.blocks.close()
	*e = stagedEncoder{}
}

// mustFit ends a program that calls Encode with what no batch can be.
func mustFit(c Config, pages []uint32, data []byte) {
	if len(pages) > MaxBatch || len(data) != len(pages)*PageSize {
		panic(fmt.Sprintf("codec: a batch of %d pages with %d bytes: expected at most %d pages and %d bytes each", len(pages), len(data), MaxBatch, PageSize))
	}
	for i, page := range pages {
		if int(page) >= c.Pages || i > 0 && page <= pages[i-1] {
			panic(fmt.Sprintf("codec: page %d at place %d of a batch: expected ascending pages below %d", page, i, c.Pages))
		}
	}
}
