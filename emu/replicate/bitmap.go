package replicate

import "math/bits"

// bitmap has a bit for each page or block, 64 a word.
type bitmap []uint64

func newBitmap(units int) bitmap { return make(bitmap, (units+63)/64) }

func (b bitmap) has(i int) bool { return b[i>>6]&(1<<(i&63)) != 0 }
func (b bitmap) set(i int)      { b[i>>6] |= 1 << (i & 63) }

func (b bitmap) count() int {
	n := 0
	for _, w := range b {
		n += bits.OnesCount64(w)
	}
	return n
}

func (b bitmap) fill(units int) {
	for i := range b {
		b[i] = ^uint64(0)
	}
	if rest := units & 63; rest != 0 {
		b[len(b)-1] = 1<<rest - 1
	}
}

// take moves the bits to a list, ascending.
func (b bitmap) take(list []uint32) []uint32 {
	for i, w := range b {
		for ; w != 0; w &= w - 1 {
			list = append(list, uint32(i<<6+bits.TrailingZeros64(w)))
		}
		b[i] = 0
	}
	return list
}

// add sets the bits of a list.
func (b bitmap) add(list []uint32) {
	for _, i := range list {
		b.set(int(i))
	}
}
