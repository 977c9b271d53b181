package migrate

import "math/bits"

// bitmap has a bit for each page, 64 a word.
type bitmap []uint64

func newBitmap(pages int) bitmap { return make(bitmap, (pages+63)/64) }

func (b bitmap) has(page int) bool { return b[page>>6]&(1<<(page&63)) != 0 }
func (b bitmap) set(page int)      { b[page>>6] |= 1 << (page & 63) }
func (b bitmap) unset(page int)    { b[page>>6] &^= 1 << (page & 63) }

func (b bitmap) count() int {
	n := 0
	for _, w := range b {
		n += bits.OnesCount64(w)
	}
	return n
}

// or adds the bits of other.
func (b bitmap) or(other []uint64) {
	for i, w := range other {
		b[i] |= w
	}
}

// fill sets the bits of all pages, and none after them.
func (b bitmap) fill(pages int) {
	for i := range b {
		b[i] = ^uint64(0)
	}
	if rest := pages & 63; rest != 0 {
		b[len(b)-1] = 1<<rest - 1
	}
}

// next is the first page from page on whose bit is set, or -1.
func (b bitmap) next(page int) int {
	if page < 0 || page>>6 >= len(b) {
		return -1
	}
	i := page >> 6
	w := b[i] &^ (1<<(page&63) - 1)
	for w == 0 {
		if i++; i == len(b) {
			return -1
		}
		w = b[i]
	}
	return i<<6 + bits.TrailingZeros64(w)
}

// prev is the last page up to page whose bit is set, or -1.
func (b bitmap) prev(page int) int {
	if page < 0 {
		return -1
	}
	i := min(page>>6, len(b)-1)
	w := b[i]
	if page>>6 == i {
		w &= ^uint64(0) >> (63 - page&63)
	}
	for w == 0 {
		if i--; i < 0 {
			return -1
		}
		w = b[i]
	}
	return i<<6 + 63 - bits.LeadingZeros64(w)
}
