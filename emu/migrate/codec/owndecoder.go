package codec

import (
	"encoding/binary"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// ownDecoder places what an ownEncoder has told. It holds no copy of anything:
// the memory that it places into is what references refer to.
type ownDecoder struct {
	c      Config
	state  state
	clock  clock
	zstd   *zstd.Decoder
	list   []byte
	soft   []byte
	page   [PageSize]byte // the page at hand
	copies []int
	next   int // the page that the last piece was found in

	placement
}

func newOwnDecoder(c Config) *ownDecoder {
	d := &ownDecoder{c: c, state: state{digest: c.digest()}, zstd: readyDecoder()}
	if coarse() {
		d.soft, d.list = present(usualBatch*PageSize), present(usualBatch*PageSize/8)
	}
	d.place.Name, d.checks.Name, d.expand.Name = "place", "check", "literal"
	return d
}

func (d *ownDecoder) Decode(memory, batch []byte, placed func(page int)) error {
	if len(memory) != d.c.Pages*PageSize {
		return fmt.Errorf("decode into %d bytes of memory: expected %d pages of %d", len(memory), d.c.Pages, PageSize)
	}
	d.clock.start(pagesOf(batch))
	defer d.clock.stop()
	h, rest, err := d.state.open(batch)
	if err != nil {
		return err
	}
	d.clock.lap(&d.checks)
	if h.method != stored || h.raw != len(rest) {
		return fmt.Errorf("batch %d: %w: method %d for a body of %d bytes in %d", d.state.number, ErrBatch, h.method, h.raw, len(rest))
	}
	b := &body{rest: rest}
	list := &body{rest: readSection(b, "list", mostList(h.pages), d.zstd, &d.list)}
	soft := &body{rest: readSection(b, "literals", h.pages*PageSize, d.zstd, &d.soft)}
	d.clock.lap(&d.expand)
	if b.err == nil {
		d.fill(memory, h.pages, list, soft, b)
	}
	for _, part := range []*body{b, list, soft} {
		if part.err == nil && len(part.rest) > 0 {
			part.fail("%d bytes are left over", len(part.rest))
		}
		if part.err != nil {
			return fmt.Errorf("batch %d: %w", d.state.number, part.err)
		}
	}
	d.clock.lap(&d.place)
	if err := d.compare(memory, h); err != nil {
		return err
	}
	d.clock.lap(&d.checks)
	d.state.step(h.content)
	d.done(h, batch, placed)
	return nil
}

// fill places all pages of a batch: coded ones, copies, zeros.
func (d *ownDecoder) fill(memory []byte, pages int, list, soft, hard *body) {
	d.runs = readRuns(d.runs[:0], list, pages, d.c.Pages)
	d.copies = d.copies[:0]
	next := 0
	for _, r := range d.runs {
		if r.kind >= ownKinds {
			list.fail("%d pages of kind %d", r.n, r.kind)
		}
		for i := 0; r.kind == ownCopy && i < r.n && list.err == nil; i++ {
			d.copies = append(d.copies, d.position(list, next))
			next = d.copies[len(d.copies)-1] + 1
		}
	}
	d.next = 0
	for _, r := range d.runs {
		literals := soft
		if hardKind(byte(r.kind)) {
			literals = hard
		}
		for k := 0; codedKind(byte(r.kind)) && k < r.n && list.err == nil && literals.err == nil; k++ {
			d.code(memory, r.page+k, freshKind(byte(r.kind)), list, literals)
		}
	}
	if list.err != nil || soft.err != nil || hard.err != nil {
		return
	}
	copies := d.copies
	for _, r := range d.runs {
		for k := 0; r.kind == ownCopy && k < r.n; k++ {
			copy(at(memory, r.page+k), at(memory, copies[0]))
			copies = copies[1:]
		}
	}
	for _, r := range d.runs {
		for k := 0; r.kind == ownZero && k < r.n; k++ {
			if page := at(memory, r.page+k); !allZero(page) {
				clear(page)
			}
		}
	}
}

// position reads a page, told as the difference to another; it is in memory.
func (d *ownDecoder) position(b *body, next int) int {
	page := next + unzigzag(uint64(b.uvarint("another page", 2*d.c.Pages+2)))
	if page < 0 || page >= d.c.Pages {
		b.fail("page %d of %d", page, d.c.Pages)
		return 0
	}
	return page
}

// code makes one page of its pieces.
func (d *ownDecoder) code(memory []byte, page int, fresh bool, list, literals *body) {
	old := at(memory, page)
	if fresh {
		old = zeros[:]
	}
	for end := 0; end < PageSize; {
		v := list.uvarint("length of a piece", (PageSize-end+1)*pieceKinds)
		n := v / pieceKinds
		if n == 0 {
			list.fail("a piece of no bytes")
			return
		}
		to := d.page[end : end+n]
		switch v % pieceKinds {
		case keepPiece:
			copy(to, old[end:])
		case foundPiece:
			copy(to, d.found(memory, n, list))
		case nearPiece:
			copy(to, d.part(old, n, list))
		case literalPiece:
			copy(to, literals.take("literals", n))
		}
		if list.err != nil || literals.err != nil {
			return
		}
		end += n
	}
	copy(at(memory, page), d.page[:])
}

// found reads where a piece of n bytes is found.
func (d *ownDecoder) found(memory []byte, n int, list *body) []byte {
	page := d.position(list, d.next/PageSize)
	b := d.part(at(memory, page), n, list)
	d.next = page * PageSize
	return b
}

// part reads at what offset of a page a piece of n bytes is.
func (d *ownDecoder) part(page []byte, n int, list *body) []byte {
	b := list.take("offset of a piece", 2)
	if b == nil {
		return nil
	}
	offset := int(binary.LittleEndian.Uint16(b))
	if offset+n > PageSize {
		list.fail("a piece of %d bytes at offset %d", n, offset)
		return nil
	}
	return page[offset : offset+n]
}

// compare holds the pages as they are now against the encoder's checksum: those
// that were said to be there already, too.
func (d *ownDecoder) compare(memory []byte, h header) error {
	if d.content(memory, ownZero) != h.content {
		return fmt.Errorf("batch %d: %w: the pages that it made are not those that were encoded", d.state.number, ErrStep)
	}
	return nil
}

func (d *ownDecoder) Usage() []Use { return []Use{d.checks, d.place, d.expand} }

func (d *ownDecoder) Footprint() int64 {
	return int64(cap(d.list)+cap(d.soft)) + 8*int64(cap(d.copies))
}

func (d *ownDecoder) Close() {
	if d.zstd != nil {
		d.zstd.Close()
	}
	*d = ownDecoder{}
}
