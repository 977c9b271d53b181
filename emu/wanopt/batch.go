package wanopt

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"

	"github.com/vpclab/vpclab/emu/migrate/codec"
)

// A batch is a part of the stream as one message:
//
//	varint  length of the order, not compressed
//	varint  length that it has here; 0: it is not compressed (zstd, RFC 8878)
//	order   varint number of entries; the entries; the bytes that they tell of
//	pages   of package codec: what the pages hold; nothing, where there are none
//
// An entry is a varint: its kind in the two low bits, and how many, at least one.
// Runs of pages go on with a zigzag varint: where they begin, from where the last
// run ended.
const (
	entryRaw   = iota // so many bytes as they are
	entryPages        // so many records of pages one after the other
	entryZeros        // the same, of pages of zeros
	entryNamed        // the next record, which must be 1, has its block's name
	entryKinds
)

const (
	// mostRaw is how many bytes a batch has besides pages, and mostEntries how
	// many entries: then it is sent.
	mostRaw     = 256 << 10
	mostEntries = 16 << 10
	// mostZeros bounds a run, so that no small message becomes a large one.
	mostZeros = 64 << 10
	// mostOrder is what an order can take.
	mostOrder = mostRaw + mostEntries*2*binary.MaxVarintLen64 + binary.MaxVarintLen64
	// worthPacking is from how many bytes an order is compressed.
	worthPacking = 64
)

// errBatch: a batch is not whole or not true.
var errBatch = errors.New("damaged batch")

// builder makes a batch of what the parser finds.
type builder struct {
	entries []byte
	count   int
	bytes   []byte   // of raw entries
	pages   []uint32 // ascending
	data    []byte   // what they hold
	zeros   int      // pages of zeros

	open run // the entry that may go on
	next int // where the last run of pages ended
}

// run is an entry of a batch.
type run struct {
	kind, n int
	page    int // the first one
}

func (b *builder) reset() {
	*b = builder{entries: b.entries[:0], bytes: b.bytes[:0], pages: b.pages[:0], data: b.data[:0]}
}

// empty says that there is nothing to send.
func (b *builder) empty() bool { return b.count == 0 && b.open.n == 0 }

// full says that it must be sent before anything is added.
func (b *builder) full() bool {
	return len(b.bytes) >= mostRaw || b.count >= mostEntries-4 || b.zeros >= mostZeros
}

// takes says whether a page with a content can be added: its number is above all
// others, and there are not so many yet.
func (b *builder) takes(page, most int) bool {
	n := len(b.pages)
	return n == 0 || n < most && page > int(b.pages[n-1])
}

// raw adds what it has room for, and gives back the rest.
func (b *builder) raw(p []byte) (rest []byte) {
	n := min(len(p), mostRaw-len(b.bytes))
	if b.open.kind != entryRaw {
		b.end()
	}
	b.open.kind = entryRaw
	b.open.n += n
	b.bytes = append(b.bytes, p[:n]...)
	return p[n:]
}

func (b *builder) page(f found, rec []byte) {
	kind := entryPages
	if f.zero {
		kind = entryZeros
		b.zeros++
	} else {
		b.pages = append(b.pages, uint32(f.page))
		b.data = append(b.data, rec[len(rec)-pageSize:]...)
	}
	if f.named {
		b.end()
		b.entries = binary.AppendUvarint(b.entries, 1*entryKinds+entryNamed)
		b.count++
	} else if o := b.open; o.n > 0 && o.kind == kind && o.page+o.n == f.page {
		b.open.n++
		return
	}
	b.end()
	b.open = run{kind: kind, n: 1, page: f.page}
}

// end writes the open entry.
func (b *builder) end() {
	o := b.open
	b.open = run{}
	if o.n == 0 {
		return
	}
	b.count++
	b.entries = binary.AppendUvarint(b.entries, uint64(o.n*entryKinds+o.kind))
	if o.kind != entryRaw {
		b.entries = binary.AppendUvarint(b.entries, zigzag(o.page-b.next))
		b.next = o.page + o.n
	}
}

// order appends all but the pages' contents to dst, compressed by z unless that
// is nil; scratch is for its use.
func (b *builder) order(dst []byte, z *zstd.Encoder, scratch *[]byte) []byte {
	b.end()
	o := binary.AppendUvarint((*scratch)[:0], uint64(b.count))
	o = append(append(o, b.entries...), b.bytes...)
	*scratch = o
	dst = binary.AppendUvarint(dst, uint64(len(o)))
	if z != nil && len(o) >= worthPacking {
		// The length stands before what it is the length of: it has room for
		// four bytes, and the order is below 2^28.
		at := len(dst)
		dst = z.EncodeAll(o, append(dst, 0, 0, 0, 0))
		if n := len(dst) - at - 4; n < len(o) {
			dst[at], dst[at+1], dst[at+2], dst[at+3] = byte(n)|0x80, byte(n>>7)|0x80, byte(n>>14)|0x80, byte(n>>21)
			return dst
		}
		dst = dst[:at]
	}
	return append(append(dst, 0), o...)
}

// reader takes batches apart.
type reader struct {
	zstd *zstd.Decoder
	buf  []byte
}

// open gives a batch's order, and what it says of pages.
func (r *reader) open(batch []byte) (order, pages []byte, err error) {
	raw, n := binary.Uvarint(batch)
	if n <= 0 || raw > mostOrder {
		return nil, nil, fmt.Errorf("%w: no length of an order", errBatch)
	}
	batch = batch[n:]
	here, n := binary.Uvarint(batch)
	if n <= 0 || here > uint64(len(batch)-n) || here == 0 && raw > uint64(len(batch)-n) {
		return nil, nil, fmt.Errorf("%w: its order ends before its end", errBatch)
	}
	batch = batch[n:]
	if here == 0 {
		return batch[:raw], batch[raw:], nil
	}
	if cap(r.buf) < int(raw) {
		r.buf = make([]byte, raw, 2*raw)
	}
	// It never takes more than there is room for.
	order, err = r.zstd.DecodeAll(batch[:here], r.buf[:0:raw])
	if err == nil && len(order) != int(raw) {
		err = fmt.Errorf("%d bytes, expected %d", len(order), raw)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%w: its order: %w", errBatch, err)
	}
	return order, batch[here:], nil
}

// write makes the stream again that a batch was made of, once its pages are in
// memory. out is given parts of it, which are not its own.
func write(order []byte, known blocks, memory []byte, out func([]byte) error) error {
	count, n := binary.Uvarint(order)
	if n <= 0 || count > mostEntries {
		return fmt.Errorf("%w: no number of entries", errBatch)
	}
	entries := order[n:]
	// The bytes stand behind the entries: find out where those end.
	bytes, err := skip(entries, int(count))
	if err != nil {
		return err
	}
	var header [8 + 1 + 255]byte
	named, next, zeros, contents := false, 0, 0, 0
	for range count {
		v, n := binary.Uvarint(entries)
		entries = entries[n:]
		k, size := int(v%entryKinds), int(v/entryKinds)
		switch k {
		case entryNamed:
			named = true
			continue
		case entryRaw:
			if size > len(bytes) {
				return fmt.Errorf("%w: %d bytes wanted, %d left", errBatch, size, len(bytes))
			}
			if err := out(bytes[:size]); err != nil {
				return err
			}
			bytes = bytes[size:]
			continue
		}
		z, n := binary.Uvarint(entries)
		entries = entries[n:]
		page := next + unzigzag(z)
		if page < 0 || size > known.pages()-page {
			return fmt.Errorf("%w: %d pages from %d, of %d", errBatch, size, page, known.pages())
		}
		if next = page + size; k == entryZeros {
			zeros += size
		} else {
			contents += size
		}
		if zeros > 2*mostZeros || contents > codec.MaxBatch {
			return fmt.Errorf("%w: %d pages and %d of zeros", errBatch, contents, zeros)
		}
		for ; page < next; page++ {
			b := known[known.of(page)]
			h := record(header[:0], b, page, k, named)
			named = false
			if err := out(h); err != nil {
				return err
			}
			if k == entryPages {
				if err := out(memory[page*pageSize : (page+1)*pageSize]); err != nil {
					return err
				}
			}
		}
	}
	if len(bytes) > 0 {
		return fmt.Errorf("%w: %d bytes are left over", errBatch, len(bytes))
	}
	return nil
}

// record appends what stands before a page's content in the stream, and for a
// page of zeros all there is.
func record(dst []byte, b block, page, kind int, named bool) []byte {
	v := uint64(page-b.first) * pageSize
	if kind == entryZeros {
		v |= recordZero
	} else {
		v |= recordPage
	}
	if !named {
		v |= recordGoesOn
	}
	dst = binary.BigEndian.AppendUint64(dst, v)
	if named {
		dst = append(append(dst, byte(len(b.name))), b.name...)
	}
	if kind == entryZeros {
		dst = append(dst, 0)
	}
	return dst
}

// skip checks so many entries and gives what follows them.
func skip(entries []byte, count int) ([]byte, error) {
	number := func() (uint64, error) {
		v, n := binary.Uvarint(entries)
		if n <= 0 {
			return 0, fmt.Errorf("%w: an entry ends before its end", errBatch)
		}
		entries = entries[n:]
		return v, nil
	}
	for range count {
		v, err := number()
		if err != nil {
			return nil, err
		}
		k := v % entryKinds
		if v /= entryKinds; v == 0 || v > mostPages || k == entryNamed && v != 1 {
			return nil, fmt.Errorf("%w: an entry of kind %d with %d", errBatch, k, v)
		}
		if k == entryPages || k == entryZeros {
			if _, err := number(); err != nil {
				return nil, err
			}
		}
	}
	return entries, nil
}

func zigzag(v int) uint64   { return uint64(v)<<1 ^ uint64(v>>63) }
func unzigzag(v uint64) int { return int(v>>1) ^ -int(v&1) }
