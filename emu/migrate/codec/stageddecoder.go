package codec

import (
	"encoding/binary"
	"fmt"
)

// stagedDecoder places what a stagedEncoder has told.
type stagedDecoder struct {
	staged
	placement
}

func newStagedDecoder(c Config) (*stagedDecoder, error) {
	s, err := newStaged(c)
	if err != nil {
		return nil, err
	}
	d := &stagedDecoder{staged: s}
	d.place.Name, d.checks.Name, d.expand.Name = "place", "check", c.Compress
	return d, nil
}

func (d *stagedDecoder) Decode(memory, batch []byte, placed func(page int)) error {
	if len(memory) != d.c.Pages*PageSize {
		return fmt.Errorf("decode into %d bytes of memory: expected %d pages of %d", len(memory), d.c.Pages, PageSize)
	}
	d.clock.start(pagesOf(batch))
	defer d.clock.stop()
	h, rest, err := d.state.open(batch)
	d.clock.lap(&d.checks)
	if err == nil {
		rest, err = d.unpack(h, rest)
	}
	d.clock.lap(&d.expand)
	if err != nil {
		return err
	}
	b := body{rest: rest}
	d.runs = readRuns(d.runs[:0], &b, h.pages, d.c.Pages)
	if b.err == nil {
		d.fill(memory, &b)
	}
	if b.err == nil && len(b.rest) > 0 {
		b.fail("%d bytes are left over", len(b.rest))
	}
	d.clock.lap(&d.place)
	if b.err != nil {
		return fmt.Errorf("batch %d: %w", d.state.number, b.err)
	}
	if err := d.compare(memory, h); err != nil {
		return err
	}
	d.clock.lap(&d.checks)
	d.state.step(h.content)
	d.done(h, batch, placed)
	return nil
}

// unpack gives the body before compression.
func (d *stagedDecoder) unpack(h header, in []byte) ([]byte, error) {
	switch {
	case h.raw > d.mostBody(h.pages):
		return nil, fmt.Errorf("batch %d: %w: a body of %d bytes for %d pages", d.state.number, ErrBatch, h.raw, h.pages)
	case h.method == stored && h.raw == len(in):
		return in, nil
	case h.method == compressed && d.comp != nil:
		d.buf = grow(d.buf[:0], h.raw)
		if err := d.comp.expand(d.buf, in); err != nil {
			return nil, fmt.Errorf("batch %d: %w: %s: %w", d.state.number, ErrBatch, d.c.Compress, err)
		}
		d.expand.Units += int64(h.pages)
		d.expand.In += int64(len(in))
		d.expand.Out += int64(h.raw)
		return d.buf, nil
	}
	return nil, fmt.Errorf("batch %d: %w: method %d for a body of %d bytes in %d", d.state.number, ErrBatch, h.method, h.raw, len(in))
}

// fill places all runs.
func (d *stagedDecoder) fill(memory []byte, b *body) {
	coded, plain := 0, 0
	for _, r := range d.runs {
		switch {
		case r.kind == plainRun && !d.coded():
			plain += r.n
		case r.kind == codedRun && d.coded():
			coded += r.n
		case r.kind != zeroRun:
			b.fail("%d pages of kind %d", r.n, r.kind)
			return
		}
	}
	var tags []byte
	literals := plain * PageSize
	if d.coded() {
		tags = b.take("tags", tagBytes(coded*d.blocks()))
		if b.err != nil {
			return
		}
		for i := range coded * d.blocks() {
			if tagAt(tags, i) == literalBlock {
				literals += d.c.Block
			}
		}
	}
	told := body{rest: b.take("references and deltas", len(b.rest)-literals)}
	tag := 0
	for _, r := range d.runs {
		if b.err != nil || told.err != nil {
			break
		}
		switch r.kind {
		case zeroRun:
			for k := range r.n {
				if page := at(memory, r.page+k); !allZero(page) {
					clear(page)
				}
			}
		case plainRun:
			copy(memory[r.page*PageSize:], b.take("literals", r.n*PageSize))
		case codedRun:
			for i := range r.n * d.blocks() {
				d.block(memory, r.page*d.blocks()+i, tagAt(tags, tag), &told, b)
				if tag++; told.err != nil || b.err != nil {
					break
				}
			}
		}
	}
	if told.err == nil && len(told.rest) > 0 {
		told.fail("%d bytes of references and deltas are left over", len(told.rest))
	}
	if b.err == nil {
		b.err = told.err
	}
}

// block places one block of coded pages and notes it in the cache.
func (d *stagedDecoder) block(memory []byte, address int, tag byte, told, literals *body) {
	to := memory[address*d.c.Block : (address+1)*d.c.Block]
	switch tag {
	case cachedBlock:
		ref := told.take("slot", slotSize)
		if ref == nil {
			return
		}
		slot := uint64(binary.LittleEndian.Uint32(ref))
		if !d.c.CBR || !d.cache.held(slot) {
			told.fail("slot %d is empty", slot)
			return
		}
		copy(to, d.cache.slot(slot))
		d.cache.sent(address, slot)
		return
	case literalBlock:
		copy(to, literals.take("literal block", d.c.Block))
	case deltaBlock:
		old := d.cache.version(address)
		if old == nil {
			told.fail("delta for a block whose last version is not held")
			return
		}
		delta := told.take("delta", told.uvarint("bytes of a delta", mostDelta(d.c.Block)+1))
		if err := applyDelta(to, old, delta); err != nil {
			told.fail("%v", err)
			return
		}
	default:
		told.fail("block of kind %d", tag)
		return
	}
	d.cache.sent(address, d.cache.put(to))
}

// compare holds the pages as they are now against the encoder's checksum.
func (d *stagedDecoder) compare(memory []byte, h header) error {
	if d.c.Unverified {
		return nil
	}
	if d.content(memory, zeroRun) != h.content {
		return fmt.Errorf("batch %d: %w: the pages that it made are not those that were encoded", d.state.number, ErrStep)
	}
	return nil
}

func (d *stagedDecoder) Usage() []Use {
	uses := []Use{d.checks, d.place}
	if d.comp != nil {
		uses = append(uses, d.expand)
	}
	return d.clock.all(uses)
}

func (d *stagedDecoder) Footprint() int64 { return d.footprint() }

func (d *stagedDecoder) Close() {
	d.cache.blocks.close()
	*d = stagedDecoder{}
}

// Tags are two bits each.
const tagBits = 2

func tagBytes(n int) int { return (n*tagBits + 7) / 8 }

func tagAt(tags []byte, i int) byte {
	return tags[i/4] >> (i % 4 * tagBits) & (1<<tagBits - 1)
}

func appendTags(dst, tags []byte) []byte {
	for ; len(tags) > 4; tags = tags[4:] {
		dst = append(dst, tags[0]|tags[1]<<2|tags[2]<<4|tags[3]<<6)
	}
	var last byte
	for i, tag := range tags {
		last |= tag << (i * tagBits)
	}
	if len(tags) > 0 {
		dst = append(dst, last)
	}
	return dst
}
