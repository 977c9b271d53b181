package codec

import (
	"encoding/binary"
	"math/bits"
)

// Anchors are places in memory that content itself chooses: where the next eight
// bytes, multiplied by a constant, have a certain form, one place in anchorRate.
// The same bytes have the same anchors wherever they lie, so that of two equal
// pieces of some length, at whatever offsets, an anchor of one is found at an
// anchor of the other, by a hash of the anchorWindow bytes from there on;
// comparing bytes in both directions then finds all that is equal. (Long-distance
// matching, as in rsync and EndRE.)
const (
	anchorWord   = 8
	anchorWindow = 32
	anchorRate   = 32
	// anchorStep is the least distance: a page of one byte repeated would be
	// nothing but anchors.
	anchorStep = 8
	// anchorEvery is for how many bytes of memory the table has a place.
	anchorEvery = 64
	// A place in the table is a position, and so many bits of the hash beside.
	positionBits = 40
)

// anchor is one in the page at hand.
type anchor struct {
	at   int    // offset
	hash uint64 // of the window
	slot uint64 // what the table has for it
}

// appendAnchors finds those in page[from:to] whose windows are inside the page.
func appendAnchors(dst []anchor, page []byte, from, to int) []anchor {
	to = min(to, len(page)-anchorWindow+1)
	for i := from; i < to; i++ {
		word := binary.LittleEndian.Uint64(page[i : i+anchorWord])
		if word*0x9e3779b97f4a7c15>>(64-5) == 0 { // one in anchorRate
			dst = append(dst, anchor{at: i, hash: windowHash(page, i)})
			i += anchorStep - 1
		}
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
