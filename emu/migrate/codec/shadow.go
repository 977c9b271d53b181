package codec

import "math/bits"

// shadow is the target's memory as the source knows it: what was last sent, page
// by page. The target keeps nothing for it: its memory is the dictionary.
type shadow struct {
	memory arena
	holds  []byte // one a page
	// only, where it is not nil, are the pages that may still be referred to.
	only []uint64
}

// What the target holds at a page.
const (
	unknown = iota // whatever was there before: nothing was sent
	blank          // zeros; the shadow's own page may hold anything
	content        // what the shadow holds
)

func newShadow(pages int) (shadow, error) {
	m, err := newArena(pages * PageSize)
	if err == nil {
		m.ready(false)
	}
	return shadow{memory: m, holds: make([]byte, pages)}, err
}

func (s *shadow) page(i int) []byte { return at(s.memory.bytes, i) }

// set notes that the target holds these bytes at a page.
func (s *shadow) set(page int, data []byte) {
	s.memory.touch(page * PageSize)
	copy(s.page(page), data)
	s.holds[page] = content
}

// old is what the target holds at a page, as far as it may be referred to.
func (s *shadow) old(page int) (old []byte, ok bool) {
	switch {
	case s.only != nil && s.only[page/64]>>(page%64)&1 == 0:
		return nil, false
	case s.holds[page] == content:
		return s.page(page), true
	case s.holds[page] == blank:
		return zeros[:], true
	}
	return nil, false
}

// pageIndex finds pages by the hash of their bytes: a table with two places a
// hash, of which the newer page takes the older's. What it finds is compared.
type pageIndex struct {
	slots []uint64 // upper half of the hash, page and 1
	shift int
}

func newPageIndex(pages int) pageIndex {
	log := max(8, bits.Len(uint(pages+pages/2)))
	return pageIndex{slots: make([]uint64, 1<<log), shift: 64 - log}
}

// place is where a hash belongs; its neighbour, by the lowest bit, is the other.
func (x *pageIndex) place(hash uint64) int { return int(hash * 0x9e3779b97f4a7c15 >> x.shift) }

func pageSlot(hash uint64, page int) uint64 { return hash&^0xffffffff | uint64(page) + 1 }

// find gives the page that was last noted under a hash.
func (x *pageIndex) find(hash uint64) (int, bool) {
	i := x.place(hash)
	for _, slot := range [2]uint64{x.slots[i], x.slots[i^1]} {
		if slot != 0 && (slot^hash)>>32 == 0 {
			return int(uint32(slot)) - 1, true
		}
	}
	return 0, false
}

func (x *pageIndex) note(hash uint64, page int) {
	i := x.place(hash)
	if first := x.slots[i]; first != 0 && (first^hash)>>32 != 0 {
		x.slots[i^1] = first
	}
	x.slots[i] = pageSlot(hash, page)
}
