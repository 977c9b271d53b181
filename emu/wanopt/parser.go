package wanopt

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/vpclab/vpclab/emu/migrate/codec"
)

// QEMU's migration stream, as far as it is looked at (docs/devel/migration of
// QEMU, and migration/ram.c for the names in brackets). Numbers are big endian.
//
//	section   u8 kind, u32 id; at the first one of an id also u8 length and name,
//	          u32 instance, u32 version; then what is the device's own; at the
//	          end u8 0x7e, u32 id
//	memory    section "ram", version 4. The first one: u64 bytes of all blocks
//	          with recordSize, of each block u8 length, name, u64 bytes; then,
//	          as all later ones, records up to one of recordEnd
//	record    u64 offset in the block with a kind in its low bits; without
//	          recordGoesOn u8 length and the block's name; then the kind's own
const (
	sectionStart = 0x01
	sectionPart  = 0x02
	sectionEnd   = 0x03

	recordZero   = 0x02  // u8 0: a page of zeros [RAM_SAVE_FLAG_ZERO]
	recordSize   = 0x04  // [RAM_SAVE_FLAG_MEM_SIZE]
	recordPage   = 0x08  // a page [RAM_SAVE_FLAG_PAGE]
	recordEnd    = 0x10  // nothing more in this section [RAM_SAVE_FLAG_EOS]
	recordGoesOn = 0x20  // the block is that of the last record [RAM_SAVE_FLAG_CONTINUE]
	recordXBZRLE = 0x40  // u8 1, u16 length, a delta [RAM_SAVE_FLAG_XBZRLE]
	recordFlush  = 0x200 // pages come by other connections [RAM_SAVE_FLAG_MULTIFD_FLUSH]
	recordKinds  = pageSize - 1
)

const (
	pageSize = codec.PageSize
	// mostBlocks and mostPages bound what a stream can make us believe of a
	// guest: 1024 blocks, 16 TiB. QEMU's are ten or so.
	mostBlocks = 1024
	mostPages  = 1 << 32
)

// memoryStart is what the first section of the guest's memory has after its kind
// and id: name, instance, version.
var memoryStart = []byte("\x03ram\x00\x00\x00\x00\x00\x00\x00\x04")

// block is a piece of the guest's memory. The pages of all are numbered one
// after the other, in the order in which the stream tells of them.
type block struct {
	name  string
	first int // page
	pages int
}

// blocks are all of a guest's.
type blocks []block

func (b blocks) pages() int {
	if len(b) == 0 {
		return 0
	}
	last := b[len(b)-1]
	return last.first + last.pages
}

// named finds a block; -1: there is none.
func (b blocks) named(name string) int {
	for i := range b {
		if b[i].name == name {
			return i
		}
	}
	return -1
}

// of finds the block of a page that is below pages.
func (b blocks) of(page int) int {
	for i := range b {
		if page < b[i].first+b[i].pages {
			return i
		}
	}
	return -1
}

// found is a page that the parser has recognised.
type found struct {
	page  int
	zero  bool // and else there is a content
	named bool // the record has its block's name
}

// sink takes what the parser makes of a stream, in order. What it is given is
// not its own.
type sink interface {
	raw(b []byte)
	// page is given the whole record; the content is the last of it.
	page(f found, rec []byte)
	// memory tells of the guest's blocks, before any page of them. With false
	// the parser is to recognise nothing.
	memory(b blocks) bool
	// odd tells what was not understood, in words for a user.
	odd(what string)
}

// parser recognises pages in a stream. Whatever it is given it gives to its
// sink, in the same order, and all of it when it is flushed.
type parser struct {
	to     sink
	state  func(*parser, []byte) (rest []byte)
	before []byte // when nothing is expected: the last bytes that went by
	part   []byte // a record that is not whole yet
	gone   int    // of it, the bytes that have been given away already
	wants  int    // bytes that part must have to be looked at again

	id       [4]byte // of the memory's sections
	blocks   blocks
	announce int // bytes of blocks that are to be told of
	last     int // block of the last record; -1: none
	records  int // in this section
	closed   bool
}

func newParser(to sink) *parser {
	return &parser{to: to, state: (*parser).scan, last: -1}
}

// write takes the next bytes of the stream.
func (p *parser) write(b []byte) {
	for len(b) > 0 {
		b = p.state(p, b)
	}
}

// flush gives away what is known of a record that is not whole: nobody knows
// when the rest will come.
func (p *parser) flush() {
	if p.gone < len(p.part) {
		p.to.raw(p.part[p.gone:])
		p.gone = len(p.part)
	}
}

// holds says whether there is anything to flush.
func (p *parser) holds() bool { return p.gone < len(p.part) }

// scan looks for a section of the guest's memory in bytes of which nothing is
// known. A match by chance costs nothing: what does not go on as expected is
// scanned again.
func (p *parser) scan(b []byte) []byte {
	if p.closed {
		p.to.raw(b)
		return nil
	}
	// What begins in what went by, first.
	if n := len(p.before); n > 0 {
		p.before = append(p.before, b[:min(len(b), p.header()-1)]...)
		end := p.section(p.before)
		p.before = p.before[:n]
		if end > 0 {
			end -= n // a whole header is longer than what is kept
			p.to.raw(b[:end])
			p.before = p.before[:0]
			return b[end:]
		}
	}
	if end := p.section(b); end > 0 {
		p.to.raw(b[:end])
		p.before = p.before[:0]
		return b[end:]
	}
	p.remember(b)
	p.to.raw(b)
	return nil
}

// header is how long the header is that is looked for.
func (p *parser) header() int {
	if p.blocks == nil {
		return 5 + len(memoryStart)
	}
	return 5
}

// remember keeps the last bytes of what went by, too few for a header.
func (p *parser) remember(b []byte) {
	keep := p.header() - 1
	if len(b) < keep {
		p.before = append(p.before, b...)
		b = p.before
	}
	p.before = append(p.before[:0], b[max(0, len(b)-keep):]...)
}

// section finds the first header of a memory section, goes to what is to follow
// it, and tells where it ends; 0: there is none.
func (p *parser) section(b []byte) (end int) {
	if p.blocks == nil {
		for from := 0; ; {
			i := bytes.Index(b[from:], memoryStart)
			if i < 0 {
				return 0
			}
			at := from + i
			if at >= 5 && b[at-5] == sectionStart {
				copy(p.id[:], b[at-4:at])
				p.enter((*parser).size)
				return at + len(memoryStart)
			}
			from = at + 1
		}
	}
	for _, kind := range []byte{sectionPart, sectionEnd} {
		header := append([]byte{kind}, p.id[:]...)
		if i := bytes.Index(b, header); i >= 0 && (end == 0 || i+len(header) < end) {
			end = i + len(header)
		}
	}
	if end > 0 {
		p.enter((*parser).record)
	}
	return end
}

// enter begins to expect something.
func (p *parser) enter(state func(*parser, []byte) []byte) {
	p.state = state
	p.records = 0
}

// whole gives the record that b goes on with, and what follows it. measure tells
// how long it is; what of it is not known yet it asks for by a number larger than
// there are bytes, and with 0 it says that this is no record.
//
// ok is false when there is nothing to look at: all of b was kept, or given away
// as what nobody understands.
func (p *parser) whole(b []byte, measure func([]byte) int) (rec, rest []byte, ok bool) {
	if len(p.part) == 0 {
		n := measure(b)
		switch {
		case n == 0:
			p.leave()
			return nil, b, false
		case n <= len(b):
			return b[:n], b[n:], true
		}
		p.part, p.wants, p.gone = append(p.part, b...), n, 0
		return nil, nil, false
	}
	for {
		n := min(p.wants-len(p.part), len(b))
		p.part, b = append(p.part, b[:n]...), b[n:]
		if len(p.part) < p.wants {
			return nil, b, false
		}
		switch p.wants = measure(p.part); {
		case p.wants == 0:
			p.remember(p.part)
			p.flush()
			p.done()
			p.leave()
			return nil, b, false
		case p.wants == len(p.part):
			return p.part, b, true
		}
	}
}

// done ends a record that whole has given out. Where some of it has been given
// away already, it is raw.
func (p *parser) done() {
	p.part, p.gone = p.part[:0], 0
}

// leave expects nothing any more.
func (p *parser) leave() { p.state = (*parser).scan }

// pass gives a record to the sink as it is.
func (p *parser) pass(rec []byte) {
	p.to.raw(rec[p.gone:])
	p.done()
}

// size reads how much memory there is.
func (p *parser) size(b []byte) []byte {
	rec, rest, ok := p.whole(b, func(b []byte) int { return 8 })
	if !ok {
		return rest
	}
	v := binary.BigEndian.Uint64(rec)
	p.pass(rec)
	if total := v &^ recordKinds; v&recordKinds != recordSize || total == 0 || total > mostPages*pageSize {
		p.shut("its first section of memory does not say how much there is")
		return rest
	}
	p.announce = int(v &^ recordKinds)
	p.state = (*parser).tell
	return rest
}

// tell reads the blocks.
func (p *parser) tell(b []byte) []byte {
	rec, rest, ok := p.whole(b, measureBlock)
	if !ok {
		return rest
	}
	size, unnamed, name := binary.BigEndian.Uint64(rec[len(rec)-8:]), rec[0] == 0, ""
	if !unnamed {
		name = string(rec[1 : len(rec)-8])
	}
	p.pass(rec)
	switch {
	case unnamed:
		// The page size of the block before, where it is not the host's: a
		// guest in huge pages that goes on by post-copy.
		if len(p.blocks) == 0 || size < pageSize || size&(size-1) != 0 {
			p.shut("it tells of its memory in a way that is not known")
		}
		return rest
	case size == 0 || size > uint64(p.announce) || len(p.blocks) == mostBlocks || p.blocks.named(name) >= 0:
		p.shut("the blocks of its memory are not what it has announced")
		return rest
	}
	p.blocks = append(p.blocks, block{name: name, first: p.blocks.pages(), pages: int((size + pageSize - 1) / pageSize)})
	if p.announce -= int(size); p.announce == 0 {
		if !p.to.memory(p.blocks) {
			p.closed = true
			p.leave()
			return rest
		}
		p.enter((*parser).record)
	}
	return rest
}

// measureBlock: u8 length, name, u64 size. No block has no name: what begins with
// a zero is a number alone.
func measureBlock(b []byte) int {
	if b[0] == 0 {
		return 8
	}
	return 1 + int(b[0]) + 8
}

// shut gives up to recognise anything.
func (p *parser) shut(why string) {
	p.closed = true
	p.leave()
	p.to.odd(why)
}

// record reads one record of a section.
func (p *parser) record(b []byte) []byte {
	rec, rest, ok := p.whole(b, p.measure)
	if !ok {
		return rest
	}
	p.records++
	v := binary.BigEndian.Uint64(rec)
	switch kind := v & recordKinds &^ recordGoesOn; kind {
	case recordEnd:
		p.leave()
		p.pass(rec)
		return rest
	case recordFlush:
		p.to.odd("pages come by several connections (multifd), and are not recognised there")
		p.pass(rec)
		return rest
	case recordXBZRLE:
		p.to.odd("QEMU makes deltas itself (xbzrle), which leaves little to find")
		p.follow(rec)
		p.pass(rec)
		return rest
	default:
		at := p.follow(rec)
		if p.gone > 0 { // its beginning is at the far end already
			p.pass(rec)
			return rest
		}
		f := found{page: at, zero: kind == recordZero, named: v&recordGoesOn == 0}
		p.to.page(f, rec)
		p.done()
		return rest
	}
}

// follow notes which block a record is of, and gives its page.
func (p *parser) follow(rec []byte) (page int) {
	v := binary.BigEndian.Uint64(rec)
	if v&recordGoesOn == 0 {
		p.last = p.blocks.named(string(rec[9 : 9+int(rec[8])]))
	}
	return p.blocks[p.last].first + int(v/pageSize)
}

// measure tells how long a record is: see whole.
func (p *parser) measure(b []byte) int {
	if len(b) < 8 {
		return 8
	}
	v := binary.BigEndian.Uint64(b)
	kind := v & recordKinds
	head, of := 8, p.last
	switch kind &^ recordGoesOn {
	case recordEnd, recordFlush:
		if kind&recordGoesOn != 0 || v&^recordKinds != 0 {
			return p.stranger(v)
		}
		return head
	case recordZero, recordPage, recordXBZRLE:
	default:
		return p.stranger(v)
	}
	if kind&recordGoesOn == 0 {
		if len(b) < 9 {
			return 9
		}
		head = 9 + int(b[8])
		if len(b) < head {
			return head
		}
		of = p.blocks.named(string(b[9:head]))
	}
	if of < 0 || v/pageSize >= uint64(p.blocks[of].pages) {
		return p.stranger(v)
	}
	switch kind &^ recordGoesOn {
	case recordPage:
		return head + pageSize
	case recordZero:
		if len(b) > head && b[head] != 0 {
			return p.stranger(v)
		}
		return head + 1
	}
	if len(b) < head+3 {
		return head + 3
	}
	if n := int(binary.BigEndian.Uint16(b[head+1:])); n <= pageSize {
		return head + 3 + n
	}
	return p.stranger(v)
}

// stranger tells of a record that is not understood, if there were some before
// it in this section: a section found by chance is no news.
func (p *parser) stranger(v uint64) int {
	if p.records > 0 {
		p.to.odd(fmt.Sprintf("a record of kind %#x in its memory", v&recordKinds))
	}
	return 0
}
