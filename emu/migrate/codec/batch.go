package codec

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/zeebo/xxh3"
)

// A batch is a header and a body. All numbers are little-endian.
//
//	 0  magic 'v' 'b', version 1, method: how the body is compressed (0: not)
//	 4  number of the batch, from 0
//	 8  number of pages
//	12  bytes of the body before it was compressed
//	16  state: what both ends held before this batch
//	24  content: checksum of the pages as they are to be after it
//	32  check: xxh3 of the body, seeded with that of the 32 bytes before
//	40  body
const (
	headerSize    = 40
	formatVersion = 1
)

var (
	// ErrBatch: a batch is not whole or not true.
	ErrBatch = errors.New("damaged batch")
	// ErrStep: the two ends do not hold the same any more.
	ErrStep = errors.New("encoder and decoder are out of step")
)

// state is what the two ends must agree about besides bytes: how many batches
// there were, and a digest of all pages placed by them.
type state struct {
	number uint32
	digest uint64
}

// header of one batch.
type header struct {
	method  byte
	pages   int
	raw     int // bytes of the body before compression
	content uint64
}

// seal writes the header into the space left for it at the front of batch, and
// takes the step.
func (s *state) seal(batch []byte, h header) {
	copy(batch, "vb")
	batch[2], batch[3] = formatVersion, h.method
	binary.LittleEndian.PutUint32(batch[4:], s.number)
	binary.LittleEndian.PutUint32(batch[8:], uint32(h.pages))
	binary.LittleEndian.PutUint32(batch[12:], uint32(h.raw))
	binary.LittleEndian.PutUint64(batch[16:], s.digest)
	binary.LittleEndian.PutUint64(batch[24:], h.content)
	binary.LittleEndian.PutUint64(batch[32:], check(batch))
	s.step(h.content)
}

// open checks a batch against the state and gives its body.
func (s *state) open(batch []byte) (header, []byte, error) {
	if len(batch) < headerSize || string(batch[:2]) != "vb" || batch[2] != formatVersion {
		return header{}, nil, fmt.Errorf("batch %d: %w: no header of version %d in %d bytes", s.number, ErrBatch, formatVersion, len(batch))
	}
	h := header{
		method:  batch[3],
		pages:   int(binary.LittleEndian.Uint32(batch[8:])),
		raw:     int(binary.LittleEndian.Uint32(batch[12:])),
		content: binary.LittleEndian.Uint64(batch[24:]),
	}
	if want := binary.LittleEndian.Uint64(batch[32:]); want != check(batch) {
		return header{}, nil, fmt.Errorf("batch %d: %w: its checksum does not match", s.number, ErrBatch)
	}
	if n := binary.LittleEndian.Uint32(batch[4:]); n != s.number {
		return header{}, nil, fmt.Errorf("batch %d: %w: it says that it is number %d", s.number, ErrStep, n)
	}
	if d := binary.LittleEndian.Uint64(batch[16:]); d != s.digest {
		return header{}, nil, fmt.Errorf("batch %d: %w: state %016x here, %016x there", s.number, ErrStep, s.digest, d)
	}
	if h.pages > MaxBatch {
		return header{}, nil, fmt.Errorf("batch %d: %w: %d pages, at most %d are allowed", s.number, ErrBatch, h.pages, MaxBatch)
	}
	return h, batch[headerSize:], nil
}

// pagesOf is how many pages a batch says that it has, before it is opened.
func pagesOf(batch []byte) int {
	if len(batch) < headerSize {
		return 0
	}
	return int(binary.LittleEndian.Uint32(batch[8:]))
}

// step ends a batch whose pages had that checksum.
func (s *state) step(content uint64) {
	s.number++
	s.digest = fold(s.digest, content)
}

func check(batch []byte) uint64 {
	return xxh3.HashSeed(batch[headerSize:], xxh3.Hash(batch[:headerSize-8]))
}

// fold adds one hash to a digest of many, in order.
func fold(digest, hash uint64) uint64 {
	digest = (digest ^ hash) * 0x9e3779b97f4a7c15
	return digest ^ digest>>32
}

// zeroHash stands for a page of zeros in a checksum, which need not be read for it.
const zeroHash = 0x5ca1ab1e0ddba11

// zeros is a page of them.
var zeros [PageSize]byte

// body reads what a batch is made of; the first thing amiss is kept as err, and
// whatever is read after that is zero.
type body struct {
	rest []byte
	err  error
}

func (b *body) fail(format string, a ...any) {
	if b.err == nil {
		b.err = fmt.Errorf("%w: %s", ErrBatch, fmt.Sprintf(format, a...))
	}
	b.rest = nil
}

// uvarint reads a number below limit.
func (b *body) uvarint(what string, limit int) int {
	v, n := binary.Uvarint(b.rest)
	if n <= 0 || v >= uint64(limit) {
		b.fail("%s: no number below %d", what, limit)
		return 0
	}
	b.rest = b.rest[n:]
	return int(v)
}

// take reads n bytes.
func (b *body) take(what string, n int) []byte {
	if n < 0 || n > len(b.rest) {
		b.fail("%s: %d bytes wanted, %d left", what, n, len(b.rest))
		return nil
	}
	out := b.rest[:n]
	b.rest = b.rest[n:]
	return out
}
