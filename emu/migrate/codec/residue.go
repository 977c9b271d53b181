package codec

import (
	"encoding/binary"
	"sync"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// residue compresses what nothing else has told, as hard as there is time for.
type residue struct {
	level  int // of levels
	smooth float64

	fast *zstd.Encoder // for lists
	now  *zstd.Encoder // for literals; nil: S2

	lastList, lastLiterals int // bytes that they took in the last batch
}

// levels are the ways to compress literals, and the pressure from which each is
// used: S2, a fast descendant of Snappy, where the link waits for data, and zstd
// (RFC 8878) in three strengths. The encoder must never be what the link waits
// for. On one core of the machine of docs/performance.md they do about 500, 300,
// 200 and 90 MB/s.
var levels = []struct {
	zstd zstd.EncoderLevel
	from float64
}{
	{0, 0},
	{zstd.SpeedFastest, 0.1},
	{zstd.SpeedDefault, 0.3},
	{zstd.SpeedBetterCompression, 0.7},
}

// firstLevel is used until there is word of the link.
const firstLevel = 2

// slack is how far pressure must fall below the level's before it is left.
const slack = 0.08

// idle are encoders that nobody uses, by level, some of each. They have tables of
// some MB whose pages are there.
var idle struct {
	sync.Mutex
	encoders [zstd.SpeedBestCompression + 1][]*zstd.Encoder
}

const mostIdle = 4

func borrow(level zstd.EncoderLevel) *zstd.Encoder {
	idle.Lock()
	defer idle.Unlock()
	if list := idle.encoders[level]; len(list) > 0 {
		idle.encoders[level] = list[:len(list)-1]
		return list[len(list)-1]
	}
	e := newZstdEncoder(level)
	if coarse() {
		e.EncodeAll(exercise(), nil)
	}
	return e
}

func giveBack(level zstd.EncoderLevel, e *zstd.Encoder) {
	idle.Lock()
	defer idle.Unlock()
	if e != nil && len(idle.encoders[level]) < mostIdle {
		idle.encoders[level] = append(idle.encoders[level], e)
	}
}

// exercise is what a compressor has to do before it is used where page faults are
// dear, so that its tables are there: a batch of numbers that differ, and recur.
var exercise = sync.OnceValue(func() []byte {
	b := make([]byte, usualBatch*PageSize)
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], uint64(i)*0x9e3779b97f4a7c15>>40)
	}
	return b
})

func (r *residue) start() {
	if coarse() {
		// All levels that may come are there when they do.
		for _, level := range levels[1:] {
			giveBack(level.zstd, borrow(level.zstd))
		}
	}
	r.fast = borrow(zstd.SpeedFastest)
	r.smooth = (levels[firstLevel].from + levels[firstLevel+1].from) / 2
	r.use(firstLevel)
}

func (r *residue) stop() {
	r.use(0)
	giveBack(zstd.SpeedFastest, r.fast)
	*r = residue{}
}

// pressure takes the engine's word on the link, which is smooth by itself.
func (r *residue) pressure(p float64) {
	r.smooth += (min(max(p, 0), 1) - r.smooth) / 2
	level := r.level
	for level+1 < len(levels) && r.smooth >= levels[level+1].from {
		level++
	}
	for level > 0 && r.smooth < levels[level].from-slack {
		level--
	}
	r.use(level)
}

// hurried says that the link waits for data.
func (r *residue) hurried() bool { return r.level == 0 }

func (r *residue) use(level int) {
	if level == r.level {
		return
	}
	if r.now != nil {
		giveBack(levels[r.level].zstd, r.now)
		r.now = nil
	}
	r.level = level
	if z := levels[level].zstd; z != 0 {
		r.now = borrow(z)
	}
}

// Ways in which a section is compressed.
const (
	plainSection = iota
	zstdSection
	s2Section
)

// list appends the list of a batch as a section.
func (r *residue) list(dst, list []byte) []byte {
	before := len(dst)
	dst = appendSection(dst, list, r.fast)
	r.lastList = len(dst) - before
	return dst
}

// literals appends the literals of a batch likewise.
func (r *residue) literals(dst, soft []byte) []byte {
	before := len(dst)
	dst = appendSection(dst, soft, r.now)
	r.lastLiterals = len(dst) - before
	return dst
}

// appendSection appends a part of a body: its length, how it is compressed, the
// length that it then has, and it. With no encoder that is S2.
func appendSection(dst, raw []byte, by *zstd.Encoder) []byte {
	const worth = 64 // a frame has a header, too
	dst = binary.AppendUvarint(dst, uint64(len(raw)))
	if len(raw) < worth {
		return append(append(dst, plainSection), raw...)
	}
	// The compressed length stands before what it is the length of: it has
	// room for three bytes, as no section is longer than 4 MB.
	const room = 1 + 3
	at := len(dst)
	way := byte(zstdSection)
	if dst = grow(dst, room); by != nil {
		dst = by.EncodeAll(raw, dst)
	} else {
		way = s2Section
		dst = grow(dst, s2.MaxEncodedLen(len(raw)))
		dst = dst[:at+room+len(s2.Encode(dst[at+room:], raw))]
	}
	n := len(dst) - at - room
	if n >= len(raw) {
		return append(append(dst[:at], plainSection), raw...)
	}
	dst[at], dst[at+1], dst[at+2], dst[at+3] = way, byte(n)|0x80, byte(n>>7)|0x80, byte(n>>14)
	return dst
}

// readSection reads what appendSection has written, into buf where it was
// compressed.
func readSection(b *body, what string, most int, d *zstd.Decoder, buf *[]byte) []byte {
	raw := b.uvarint(what, most+1)
	way := b.uvarint(what, s2Section+1)
	if way == plainSection {
		return b.take(what, raw)
	}
	in := b.take(what, b.uvarint(what, 1<<21))
	if b.err != nil {
		return nil
	}
	*buf = grow((*buf)[:0], raw)
	var err error
	if way == zstdSection {
		err = expandZstd(d, *buf, in)
	} else if n, e := s2.DecodedLen(in); e != nil || n != raw {
		err = s2.ErrCorrupt
	} else {
		_, err = s2.Decode(*buf, in)
	}
	if err != nil {
		b.fail("%s: %v", what, err)
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
