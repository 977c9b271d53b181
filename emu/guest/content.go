package guest

import (
	"encoding/binary"
	"math/bits"
)

// Content of pages is a function of numbers, so that a guest can tell at any
// time what a page must hold without keeping a copy of it: what it finds instead
// of that is what a migration did.
//
// A page is a sequence of lines of 64 bytes, a line four tokens of 16 bytes. A
// token is a word of the page's own vocabulary, so that pages compress as real
// ones do: by what recurs inside a page, hardly by what pages have in common.

const (
	lineSize  = 64
	tokenSize = 16
	pageLines = PageSize / lineSize
)

// mix is a bijection that leaves no pattern of its argument (the finalizer of
// splitmix64).
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// Odd constants that keep the numbers mixed apart.
const (
	saltPage    = 0x9e3779b97f4a7c15
	saltVersion = 0xd6e8feb86659fd93
	saltLine    = 0xa0761d6478bd642f
	saltWord    = 0xe7037ed1a0b428db
)

// draw is a number in [0, 1) that belongs to what, in page.
func draw(seed uint64, what, page int) float64 {
	return float64(mix(mix(seed^uint64(what)*saltLine)+uint64(page)*saltPage)>>11) / (1 << 53)
}

// texture says how a page's words look: what a compressor makes of it.
type texture struct {
	words uint64 // of its vocabulary, less one: a mask; 0: none, all is random
	keep  uint64 // bits of a word's halves that vary
	base  uint64 // the others
}

// textures are chosen by page; a profile has a share for each.
var textures = [...]texture{
	{words: 7, keep: 0x00000000_0000ffff, base: 0x00007f3a_00000000},  // records: pointers and small numbers
	{words: 31, keep: 0x1f1f1f1f_1f1f1f1f, base: 0x60606060_60606060}, // text
	{words: 127, keep: 0x0f1f3f7f_0f1f3f7f, base: 0},                  // code and tables
	{}, // packed: as if compressed already
}

// author writes the lines of one page.
type author struct {
	seed    uint64 // of the page's vocabulary
	texture texture
}

// line writes what line i of version v holds.
func (a *author) line(dst []byte, i int, v uint64) {
	r := mix(a.seed + v*saltVersion + uint64(i)*saltLine)
	dst = dst[:lineSize:lineSize]
	if a.texture.words == 0 {
		for k := 0; k < lineSize; k += 8 {
			binary.LittleEndian.PutUint64(dst[k:], r)
			r = r*saltPage + saltLine
			r ^= r >> 29
		}
		return
	}
	keep, base, words := a.texture.keep, a.texture.base, a.texture.words
	out := (*[lineSize]byte)(dst)
	for k := 0; k < lineSize; k += tokenSize {
		w := (a.seed + (r&words)*saltWord) * saltPage
		r >>= 8
		binary.LittleEndian.PutUint64(out[k:], (w^w>>29)&keep|base)
		w = bits.RotateLeft64(w, 23)
		binary.LittleEndian.PutUint64(out[k+8:], (w^w>>31)&keep|base)
	}
}
