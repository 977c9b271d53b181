package codec

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"

	"github.com/zeebo/xxh3"
)

// vpclab's own encoder. The source keeps a shadow of what the target holds, so
// all of the target's memory can be referred to and the target keeps nothing.
//
// A page is one of these, in the order in which they are tried:
//
//   - zeros, or what the target holds there already: a run of pages, no more;
//   - a copy of another page;
//   - coded: pieces that stay as they are, pieces found elsewhere in the target's
//     memory (anchors.go) or in the page's old content (near.go), and literals,
//     which are compressed together (residue.go).
//
// The decoder applies a batch in three steps, and the encoder's shadow takes the
// same: coded pages in their order; then copies, in their order; then zeros. A
// reference means memory as it is in that very moment.
//
// The body is the list, compressed if that helps: runs, references of copies,
// and of each coded page its pieces; then the literals, compressed; and then
// literals that cannot be.

// Kinds of run; the coded ones stand on the old content of the page or on
// zeros, and their literals are soft or hard to compress.
const (
	ownZero = iota
	ownSame
	ownCopy
	ownOver
	ownFresh
	ownOverHard
	ownFreshHard
	ownKinds
)

func codedKind(kind byte) bool { return kind >= ownOver }
func freshKind(kind byte) bool { return kind == ownFresh || kind == ownFreshHard }
func hardKind(kind byte) bool  { return kind >= ownOverHard }

// Kinds of piece. A piece is told as its length with its kind, and for one that
// is found elsewhere, the page it is in and the offset there.
const (
	keepPiece    = iota // what the page holds already, or zeros on a fresh one
	foundPiece          // elsewhere
	literalPiece        // in the literals
	nearPiece           // in what the page holds already, at another offset
	pieceKinds
)

const (
	// shortestKeep is for how many bytes in a changed page it is worth to say
	// that they are the same, and shortestZero for how many zeros in a fresh
	// one: a compressor likes a few of them.
	shortestKeep = 16
	shortestZero = 32
	// shortestFound is the same for a piece found elsewhere: to say where costs
	// about six bytes, and literals become a third or less of what they are.
	shortestFound = 40
	// mostOwnPages keeps positions in positionBits.
	mostOwnPages = 1<<(positionBits-12) - 1
)

// mostList is what the list of a batch can take: no piece that takes more to
// tell than it has bytes is told.
func mostList(pages int) int { return pages*PageSize + 64 }

type ownEncoder struct {
	c       Config
	state   state
	clock   clock
	shadow  shadow
	pages   pageIndex
	anchors anchorTable
	words   near
	residue residue

	// Of the batch at hand, one a page:
	kinds  []byte
	hashes []uint64
	copies []int // of what
	counts []int // of spans

	spans []span // what differs in coded pages, in their order
	runs  runs
	list  list
	soft  []byte // literals
	hard  []byte

	// Of the page at hand:
	piece []byte // its literals
	at    []anchor

	checks, zero, same, copied, kept, found, near, literal Use
}

var _ Shadowing = (*ownEncoder)(nil)

// span is a part of a page: from, and up to.
type span struct{ from, to int }

func newOwnEncoder(c Config) (*ownEncoder, error) {
	e := &ownEncoder{c: c, state: state{digest: c.digest()}, pages: newPageIndex(c.Pages)}
	var err error
	if e.shadow, err = newShadow(c.Pages); err != nil {
		return nil, fmt.Errorf("shadow of the target's memory: %w", err)
	}
	if e.anchors, err = newAnchorTable(c.Pages); err != nil {
		e.Close()
		return nil, fmt.Errorf("table of anchors: %w", err)
	}
	e.residue.start()
	if coarse() {
		const room = usualBatch * PageSize
		e.soft, e.hard, e.list.out, e.runs.out = present(room), present(room), present(room/8), present(room/8)
	}
	e.zero.Name, e.same.Name, e.checks.Name, e.copied.Name = "zero", "same", "check", "copy"
	e.kept.Name, e.found.Name, e.near.Name, e.literal.Name = "delta", "found", "near", "literal"
	return e, nil
}

func (e *ownEncoder) Pressure(p float64) { e.residue.pressure(p) }

func (e *ownEncoder) Assume(pages []uint32, data []byte) {
	mustFit(e.c, pages, data)
	for i, page := range pages {
		bytes := at(data, i)
		if allZero(bytes) {
			e.shadow.holds[page] = blank
			continue
		}
		e.shadow.set(int(page), bytes)
		e.pages.note(xxh3.Hash(bytes), int(page))
		e.noteAnchors(int(page), bytes)
	}
}

func (e *ownEncoder) Only(pages []uint64) {
	e.shadow.only = slices.Clone(pages)
	for len(e.shadow.only) < (e.c.Pages+63)/64 {
		e.shadow.only = append(e.shadow.only, 0)
	}
}

func (e *ownEncoder) Encode(dst []byte, pages []uint32, data []byte) []byte {
	mustFit(e.c, pages, data)
	e.clock.start(len(pages))
	defer e.clock.stop()
	e.kinds, e.copies, e.counts = resize(e.kinds, len(pages)), resize(e.copies, len(pages)), resize(e.counts, len(pages))
	e.findSame(pages, data)
	e.clock.lap(&e.zero)
	h := header{pages: len(pages), content: e.hash(data)}
	e.clock.lap(&e.checks)
	e.findCopies(pages, data)
	e.clock.lap(&e.copied)
	e.findChanges(pages, data)
	e.clock.lap(&e.kept)
	e.code(pages, data)
	e.finish(pages, data)
	e.clock.lap(&e.found)
	begin := len(dst)
	dst, copies := e.write(grow(dst, headerSize), pages)
	h.raw = len(dst) - begin - headerSize
	e.state.seal(dst[begin:], h)
	e.clock.lap(&e.literal)
	e.account(copies)
	return dst
}

// findSame sorts out pages of zeros and pages that are as they were.
func (e *ownEncoder) findSame(pages []uint32, data []byte) {
	for i, page := range pages {
		now := at(data, i)
		e.kinds[i] = ownFresh
		if allZero(now) {
			e.kinds[i] = ownZero
		} else if old, ok := e.shadow.old(int(page)); ok && bytes.Equal(now, old) {
			e.kinds[i] = ownSame
		}
	}
}

// hash takes the hash of each page that is not zero, and of all together.
func (e *ownEncoder) hash(data []byte) uint64 {
	var sum uint64
	e.hashes = resize(e.hashes, len(e.kinds))
	for i, kind := range e.kinds {
		e.hashes[i] = zeroHash
		if kind != ownZero {
			e.hashes[i] = xxh3.Hash(at(data, i))
		}
		sum = fold(sum, e.hashes[i])
	}
	return sum
}

// findCopies looks for pages that another page is like: one that is not in this
// batch, as the target holds it, or an earlier one of this batch, which is not a
// copy itself and is there by the time that copies are made.
func (e *ownEncoder) findCopies(pages []uint32, data []byte) {
	for i, page := range pages {
		if e.kinds[i] != ownFresh {
			continue
		}
		now := at(data, i)
		if from, ok := e.pages.find(e.hashes[i]); ok && from != int(page) {
			if like, ok := e.future(pages, data, i, from); ok && bytes.Equal(now, like) {
				e.kinds[i], e.copies[i] = ownCopy, from
				continue
			} else if ok && xxh3.Hash(like) == e.hashes[i] {
				e.copied.False++
			}
		}
		e.pages.note(e.hashes[i], int(page))
	}
}

// future is what the target will hold at a page when the copies of this batch
// are made, before place i of it.
func (e *ownEncoder) future(pages []uint32, data []byte, i, page int) ([]byte, bool) {
	k, here := slices.BinarySearch(pages, uint32(page))
	switch {
	case !here:
		if e.shadow.holds[page] != content {
			return nil, false
		}
		return e.shadow.old(page)
	case e.kinds[k] == ownSame || k < i && e.kinds[k] == ownFresh:
		return at(data, k), true
	}
	return nil, false
}

// findChanges finds what differs in pages that are to be coded: from what the
// target holds, or from zeros where that is no worse.
func (e *ownEncoder) findChanges(pages []uint32, data []byte) {
	e.spans = e.spans[:0]
	for i, page := range pages {
		if e.kinds[i] != ownFresh {
			continue
		}
		begin := len(e.spans)
		old, ok := e.shadow.old(int(page))
		if ok && e.shadow.holds[page] == content {
			e.spans = appendChanges(e.spans, old, at(data, i), shortestKeep)
			e.kinds[i] = ownOver
		}
		if e.kinds[i] == ownFresh || length(e.spans[begin:]) > PageSize/2 {
			fresh := appendChanges(e.spans, zeros[:], at(data, i), shortestZero)
			if n := len(e.spans); e.kinds[i] == ownFresh || length(fresh[n:]) < length(e.spans[begin:n]) {
				e.spans = append(e.spans[:begin], fresh[n:]...)
				e.kinds[i] = ownFresh
			}
		}
		e.counts[i] = len(e.spans) - begin
	}
}

func length(spans []span) (n int) {
	for _, s := range spans {
		n += s.to - s.from
	}
	return n
}

// appendChanges appends the spans in which two pages differ. Fewer than gap
// equal bytes between two differences do not end a span; gap is at least 15, so
// that some whole words are in it.
func appendChanges(dst []span, old, new []byte, gap int) []span {
	stride := (gap - 7) / 8 * 8
	for i := firstDifference(old, new, 0); i < len(new); {
		from, to := i, 0
		for {
			to = nextEqual(old, new, i, stride)
			i = firstDifference(old, new, to)
			if i-to >= gap || i == len(new) {
				break
			}
		}
		dst = append(dst, span{from, to})
	}
	return dst
}

// nextEqual is where the equal bytes begin, after i, around the next equal one of
// every so many words; the length if there are none.
func nextEqual(a, b []byte, i, stride int) int {
	k := (i + 7) &^ 7
	for k < len(a) && k < len(b) && binary.LittleEndian.Uint64(a[k:]) != binary.LittleEndian.Uint64(b[k:]) {
		k += stride
	}
	k = min(k, len(a))
	for k > i && a[k-1] == b[k-1] {
		k--
	}
	return k
}

// code tells the coded pages, and takes them into the shadow one by one.
func (e *ownEncoder) code(pages []uint32, data []byte) {
	e.list.reset()
	e.soft, e.hard = e.soft[:0], e.hard[:0]
	spans := e.spans
	for i, page := range pages {
		if !codedKind(e.kinds[i]) {
			continue
		}
		n := e.counts[i]
		e.codePage(i, int(page), at(data, i), spans[:n])
		spans = spans[n:]
		if incompressible(e.piece) {
			e.kinds[i] += ownOverHard - ownOver
			e.hard = append(e.hard, e.piece...)
		} else {
			e.soft = append(e.soft, e.piece...)
		}
		e.shadow.set(int(page), at(data, i))
	}
}

// codePage makes the pieces of one page.
func (e *ownEncoder) codePage(i, page int, now []byte, spans []span) {
	e.piece = e.piece[:0]
	e.words.old = nil
	if e.kinds[i] == ownOver {
		e.words.enter(e.shadow.page(page))
	}
	end := 0 // of what is told
	for _, s := range spans {
		if s.from > end {
			e.list.keep(s.from - end)
			e.kept.In += int64(s.from - end)
		}
		e.codeSpan(page, now, s)
		end = s.to
	}
	if end < PageSize {
		e.list.keep(PageSize - end)
		e.kept.In += int64(PageSize - end)
	}
}

// codeSpan tells a part of a page by what is found elsewhere, and literals.
func (e *ownEncoder) codeSpan(page int, now []byte, s span) {
	end := s.from // of what is told
	if s.to-s.from >= shortestFound {
		if e.residue.hurried() {
			e.at = appendFixed(e.at[:0], now, s.from, s.to)
		} else {
			e.at = appendAnchors(e.at[:0], now, s.from, s.to)
		}
		e.anchors.look(e.at)
		for i := range e.at {
			a := &e.at[i]
			if a.at < end {
				continue
			}
			if from, at, n, ok := e.match(a, now, span{end, s.to}); ok {
				e.nearby(now, span{end, at})
				e.list.found(n, from)
				e.found.Units++
				e.found.In += int64(n)
				end = at + n
			} else {
				e.anchors.note(a, page)
			}
		}
	}
	e.nearby(now, span{end, s.to})
}

// nearby tells a part of a page by what is found in the old page, and literals.
func (e *ownEncoder) nearby(now []byte, s span) {
	end := s.from
	if e.words.old != nil {
		for i, missed := s.from, 0; i+8 <= s.to; {
			from, at, n, ok := e.words.find(now, i, end, s.to)
			if !ok { // and the longer so, the larger the steps
				missed++
				i += 1 + missed>>5
				continue
			}
			missed = 0
			e.literals(now[end:at])
			e.list.near(n, from)
			e.near.Units++
			e.near.In += int64(n)
			end = at + n
			i = end
		}
	}
	e.literals(now[end:s.to])
}

func (e *ownEncoder) literals(b []byte) {
	if len(b) > 0 {
		e.list.literal(len(b))
		e.piece = append(e.piece, b...)
		e.literal.Units++
		e.literal.In += int64(len(b))
	}
}

// match compares what surrounds an anchor with what surrounds the position that
// its hash has been seen at, within a part of the page at hand. from is the
// position in the target's memory, at the offset in the page, n the length.
func (e *ownEncoder) match(a *anchor, now []byte, within span) (from, at, n int, ok bool) {
	page, offset, ok := a.known()
	if !ok || page >= e.c.Pages || e.shadow.holds[page] != content {
		return 0, 0, 0, false
	}
	old, ok := e.shadow.old(page)
	if !ok {
		return 0, 0, 0, false
	}
	back := equalBefore(now[within.from:a.at], old[:offset])
	on := firstDifferenceOf(now[a.at:within.to], old[offset:])
	if back+on >= shortestFound {
		return page*PageSize + offset - back, a.at - back, back + on, true
	}
	if on < anchorWindow && on < within.to-a.at && windowHash(old, offset) == a.hash {
		e.found.False++
	}
	return 0, 0, 0, false
}

// equalBefore is how many of the last bytes of a and b are equal.
func equalBefore(a, b []byte) int {
	n := min(len(a), len(b))
	a, b = a[len(a)-n:], b[len(b)-n:]
	i := n
	for i >= 8 {
		if x := binary.LittleEndian.Uint64(a[i-8:]) ^ binary.LittleEndian.Uint64(b[i-8:]); x != 0 {
			return n - i + bits.LeadingZeros64(x)/8
		}
		i -= 8
	}
	for i > 0 && a[i-1] == b[i-1] {
		i--
	}
	return n - i
}

// firstDifferenceOf is how many of the first bytes of a and b are equal.
func firstDifferenceOf(a, b []byte) int {
	n := min(len(a), len(b))
	return firstDifference(a[:n], b[:n], 0)
}

// noteAnchors enters all anchors of a page.
func (e *ownEncoder) noteAnchors(page int, data []byte) {
	e.at = appendAnchors(e.at[:0], data, 0, PageSize)
	for i := range e.at {
		e.anchors.note(&e.at[i], page)
	}
}

// finish takes copies and zeros into the shadow.
func (e *ownEncoder) finish(pages []uint32, data []byte) {
	for i, page := range pages {
		if e.kinds[i] == ownCopy {
			e.shadow.set(int(page), at(data, i))
		}
	}
	for i, page := range pages {
		if e.kinds[i] == ownZero {
			e.shadow.holds[page] = blank
		}
	}
}

// write appends the body; copies is how many bytes of the list tell of them.
func (e *ownEncoder) write(dst []byte, pages []uint32) (out []byte, copies int) {
	e.runs.reset()
	for i, page := range pages {
		e.runs.add(int(page), int(e.kinds[i]))
	}
	e.runs.end()
	head := e.runs.out
	next := 0
	for i, kind := range e.kinds {
		if kind == ownCopy {
			head = binary.AppendUvarint(head, zigzag(e.copies[i]-next))
			next = e.copies[i] + 1
		}
	}
	copies = len(head) - len(e.runs.out)
	e.runs.out = append(head, e.list.out...)
	dst = e.residue.list(dst, e.runs.out)
	dst = e.residue.literals(dst, e.soft)
	return append(dst, e.hard...), copies
}

// account sums up a batch for Usage. The list is compressed as a whole: each
// kind of entry has its share of what that gave.
func (e *ownEncoder) account(copies int) {
	for _, kind := range e.kinds {
		use := &e.kept
		switch kind {
		case ownZero:
			use = &e.zero
		case ownSame:
			use = &e.same
		case ownCopy:
			use = &e.copied
		}
		use.Units++
		if use != &e.kept {
			use.In += PageSize
		}
	}
	all := float64(len(e.runs.out))
	share := func(part int) int64 { return int64(float64(part) / all * float64(e.residue.lastList)) }
	e.zero.Out += share(len(e.runs.out) - len(e.list.out) - copies)
	e.copied.Out += share(copies)
	e.kept.Out += share(e.list.took[keepPiece])
	e.found.Out += share(e.list.took[foundPiece])
	e.near.Out += share(e.list.took[nearPiece])
	e.literal.Out += share(e.list.took[literalPiece]) + int64(e.residue.lastLiterals+len(e.hard))
}

func (e *ownEncoder) Usage() []Use {
	return e.clock.all([]Use{e.checks, e.zero, e.same, e.copied, e.kept, e.found, e.near, e.literal})
}

func (e *ownEncoder) Footprint() int64 {
	n := e.shadow.memory.held() + e.anchors.memory.held() + int64(len(e.shadow.holds)) + 8*int64(len(e.pages.slots))
	return n + int64(cap(e.soft)+cap(e.hard)+cap(e.list.out)+cap(e.runs.out))
}

func (e *ownEncoder) Close() {
	e.shadow.memory.close()
	e.anchors.memory.close()
	e.residue.stop()
	*e = ownEncoder{}
}

// resize gives a slice of so many values, whatever they are.
func resize[T any](s []T, n int) []T {
	if n <= cap(s) {
		return s[:n]
	}
	return make([]T, n, 2*n)
}

func zigzag(v int) uint64   { return uint64(v)<<1 ^ uint64(v>>63) }
func unzigzag(v uint64) int { return int(v>>1) ^ -int(v&1) }
