package codec

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
)

// Anchors are places in memory that content itself chooses: where a hash of the
// next anchorWindow bytes has a certain form, one place in anchorRate. The same
// bytes have the same anchors wherever they lie, so that of two equal pieces of
// some length, at whatever offsets, an anchor of one is found at an anchor of the
// other; comparing bytes from there in both directions finds all that is equal.
// (Long-distance matching, as in rsync and EndRE; the hash is the gear hash of
// FastCDC.)
//
// To look at each byte takes as long as to compress it fast. Where there is no
// time for it, anchors are at fixed places: pieces are found that lie as they lay.
const (
	anchorWindow = 32
	anchorRate   = 32
	// anchorStep is the least distance: a page of one byte repeated would be
	// nothing but anchors.
	anchorStep = 8
	// fixedStep is that of fixed places.
	fixedStep = 64
	// anchorEvery is for how many bytes of memory the table has a place.
	anchorEvery = 64
	// A place in the table is a position, and so many bits of the hash beside.
	positionBits = 40
)

// gear holds a random number a byte. Each byte moves what was before two bits
// up, so that after 32 bytes it is out of a hash of 64 bits.
var gear = func() (g [256]uint64) {
	r := rand.New(rand.NewPCG(0x76706c6162, 0x676561720a))
	for i := range g {
		g[i] = r.Uint64()
	}
	return g
}()

const gearShift = 64 / anchorWindow

// anchor is one in the page at hand.
type anchor struct {
	at   int    // offset of its window
	hash uint64 // of the window
	slot uint64 // what the table has for it
}

// appendAnchors finds those in page[from:to] whose windows are inside the page.
func appendAnchors(dst []anchor, page []byte, from, to int) []anchor {
	to = min(to+anchorWindow-1, len(page)) // where the last window ends
	if from+anchorWindow > to {
		return dst
	}
	var h uint64
	for _, c := range page[from : from+anchorWindow-1] {
		h = h<<gearShift + gear[c]
	}
	// Of the form are the highest bits, on which the whole window bears.
	const form = uint64(anchorRate-1) << (64 - 5)
	next := from
	for i, c := range page[from+anchorWindow-1 : to] {
		h = h<<gearShift + gear[c]
		if h&form == 0 && from+i >= next {
			next = from + i + anchorStep
			dst = append(dst, anchor{at: from + i, hash: windowHash(page, from+i)})
		}
	}
	return dst
}

// appendFixed gives those at fixed places.
func appendFixed(dst []anchor, page []byte, from, to int) []anchor {
	from = (from + fixedStep - 1) &^ (fixedStep - 1)
	for i := from; i < min(to, len(page)-anchorWindow+1); i += fixedStep {
		dst = append(dst, anchor{at: i, hash: windowHash(page, i)})
	}
	return dst
}

// windowHash is a hash of the window that begins there: two products of two words
// each, folded (wyhash). It must be fast and scatter well, no more: what it finds
// is compared, and whoever makes windows that collide has them sent as they are.
func windowHash(page []byte, at int) uint64 {
	w := page[at : at+anchorWindow : at+anchorWindow]
	a, b := bits.Mul64(binary.LittleEndian.Uint64(w)^0xa0761d6478bd642f, binary.LittleEndian.Uint64(w[8:])^0xe7037ed1a0b428db)
	c, d := bits.Mul64(binary.LittleEndian.Uint64(w[16:])^0x8ebc6af09c88c6e3, binary.LittleEndian.Uint64(w[24:])^0x589965cc75374cc3)
	return (a ^ b ^ bits.RotateLeft64(c^d, 32)) * 0x9e3779b97f4a7c15
}

// anchorTable finds positions in the shadow by the hash of an anchor. The newest
// position takes a place; what it finds is compared.
type anchorTable struct {
	memory arena
	shift  int
}

func newAnchorTable(pages int) (anchorTable, error) {
	log := max(10, bits.Len(uint(pages*PageSize/anchorEvery-1)))
	m, err := newArena(8 << log)
	if err != nil {
		return anchorTable{}, err
	}
	m.ready(true) // it is written all over from the first page on
	return anchorTable{memory: m, shift: 64 - log}, nil
}

func (t *anchorTable) at(hash uint64) []byte {
	i := hash >> t.shift * 8
	return t.memory.bytes[i : i+8 : i+8]
}

// look reads the places of all anchors: one after the other, memory answers
// many such questions at the same time.
func (t *anchorTable) look(anchors []anchor) {
	for i := range anchors {
		anchors[i].slot = binary.LittleEndian.Uint64(t.at(anchors[i].hash))
	}
}

// known gives the position that a place holds, if it is for that hash.
func (a *anchor) known() (page, offset int, ok bool) {
	if a.slot == 0 || (a.slot^a.tag())>>positionBits != 0 {
		return 0, 0, false
	}
	position := int(a.slot&(1<<positionBits-1)) - 1
	return position / PageSize, position % PageSize, true
}

// tag is the part of the hash that is kept beside a position: not the one that
// chooses the place.
func (a *anchor) tag() uint64 { return a.hash << (64 - 2*24) >> (64 - 24) << positionBits }

func (t *anchorTable) note(a *anchor, page int) {
	binary.LittleEndian.PutUint64(t.at(a.hash), a.tag()|uint64(page*PageSize+a.at+1))
}
