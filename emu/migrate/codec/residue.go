package codec

import (
	"encoding/binary"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// residue compresses what nothing else has told, by zstd, as hard as there is
// time for.
type residue struct {
	level  int // of levels
	smooth float64

	fast, now *zstd.Encoder

	lastList, lastLiterals int // bytes that they took in the last batch
}

// levels are the ways to compress, and the pressure from which each is used. The
// encoder must never be what the link waits for. On one core of the machine of
// docs/performance.md they do about 350, 200 and 90 MB/s.
var levels = []struct {
	zstd zstd.EncoderLevel
	from float64
}{
	{zstd.SpeedFastest, 0},
	{zstd.SpeedDefault, 0.4},
	{zstd.SpeedBetterCompression, 0.7},
}

// slack is how far pressure must fall below the level's before it is left.
const slack = 0.15

// idle are encoders that no one uses, by level. They have tables of some MB whose
// pages are there.
var idle sync.Map // zstd.EncoderLevel -> *sync.Pool

func borrow(level zstd.EncoderLevel) *zstd.Encoder {
	pool, _ := idle.LoadOrStore(level, &sync.Pool{New: func() any { return newZstdEncoder(level) }})
	return pool.(*sync.Pool).Get().(*zstd.Encoder)
}

func giveBack(level zstd.EncoderLevel, e *zstd.Encoder) {
	if pool, ok := idle.Load(level); ok && e != nil {
		pool.(*sync.Pool).Put(e)
	}
}

func (r *residue) start() {
	r.fast = borrow(levels[0].zstd)
	r.now = r.fast
}

func (r *residue) stop() {
	r.use(0)
	giveBack(levels[0].zstd, r.fast)
	*r = residue{}
}

// pressure takes the engine's word on the link; one word is not enough to change
// the level.
func (r *residue) pressure(p float64) {
	r.smooth += (min(max(p, 0), 1) - r.smooth) / 4
	level := r.level
	for level+1 < len(levels) && r.smooth >= levels[level+1].from {
		level++
	}
	for level > 0 && r.smooth < levels[level].from-slack {
		level--
	}
	r.use(level)
}

func (r *residue) use(level int) {
	if level == r.level {
		return
	}
	if r.level > 0 {
		giveBack(levels[r.level].zstd, r.now)
	}
	r.level, r.now = level, r.fast
	if level > 0 {
		r.now = borrow(levels[level].zstd)
	}
}

// list appends the list of a batch: its length, the length of what follows if it
// is compressed, else 0, and it.
func (r *residue) list(dst, list []byte) []byte {
	before := len(dst)
	dst = r.section(dst, list, r.fast)
	r.lastList = len(dst) - before
	return dst
}

// literals appends the literals of a batch likewise.
func (r *residue) literals(dst, soft []byte) []byte {
	before := len(dst)
	dst = r.section(dst, soft, r.now)
	r.lastLiterals = len(dst) - before
	return dst
}

func (r *residue) section(dst, raw []byte, by *zstd.Encoder) []byte {
	const worth = 64 // a frame has a header, too
	dst = binary.AppendUvarint(dst, uint64(len(raw)))
	if len(raw) < worth {
		return append(append(dst, 0), raw...)
	}
	// The compressed length stands before what it is the length of: it has
	// room for three bytes, as no section is longer than 4 MB.
	const room = 3
	at := len(dst)
	dst = by.EncodeAll(raw, grow(dst, room))
	n := len(dst) - at - room
	if n >= len(raw) {
		return append(append(dst[:at], 0), raw...)
	}
	dst[at], dst[at+1], dst[at+2] = byte(n)|0x80, byte(n>>7)|0x80, byte(n>>14)
	return dst
}

// readSection reads what section has written, into buf where it was compressed.
func readSection(b *body, what string, most int, d *zstd.Decoder, buf *[]byte) []byte {
	raw := b.uvarint(what, most+1)
	n := b.uvarint(what, 1<<21)
	if n == 0 || b.err != nil {
		return b.take(what, raw)
	}
	in := b.take(what, n)
	*buf = grow((*buf)[:0], raw)
	if b.err == nil {
		if err := expandZstd(d, *buf, in); err != nil {
			b.fail("%s: %v", what, err)
		}
	}
	if b.err != nil {
		return nil
	}
	return *buf
}

// incompressible says whether literals look like noise: of 256 bytes of it, 162
// are different on average and hardly ever fewer than 140; of code and data,
// about 40 to 100. Where it errs it costs bytes, or time, and nothing else.
func incompressible(b []byte) bool {
	const sample, many = 256, 140
	if len(b) < 2*sample {
		return false
	}
	var seen [256]byte
	step, n := len(b)/sample, 0
	for i := range sample {
		c := b[i*step]
		n += int(1 - seen[c])
		seen[c] = 1
	}
	return n >= many
}
