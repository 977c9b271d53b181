package guest

import (
	"math/bits"
	"sync/atomic"
	"unsafe"
)

// bitmapIn is the bitmap of n bits at the beginning of b, which is aligned.
func bitmapIn(b []byte, n int) Bitmap {
	return unsafe.Slice((*atomic.Uint64)(unsafe.Pointer(&b[0])), words(n))
}

// words is how many words n bits take.
func words(n int) int { return (n + 63) / 64 }

// Set sets a bit. It writes only where the bit is not set: hot pages are
// written thousands of times between two looks of a hypervisor.
func (b Bitmap) Set(i int) {
	w, bit := &b[i/64], uint64(1)<<(i%64)
	if w.Load()&bit == 0 {
		w.Or(bit)
	}
}

// Has tells whether a bit is set.
func (b Bitmap) Has(i int) bool { return b[i/64].Load()&(1<<(i%64)) != 0 }

// Take moves the bits into into, overwriting it, and tells how many were set.
// A bit that is set while it runs is either in into or still in b.
func (b Bitmap) Take(into []uint64) (n int) {
	for i := range b {
		v := uint64(0)
		if b[i].Load() != 0 { // most words of most looks are
			v = b[i].Swap(0)
		}
		into[i] = v
		n += bits.OnesCount64(v)
	}
	return n
}

// Read copies the bits into into, overwriting it, and tells how many are set.
func (b Bitmap) Read(into []uint64) (n int) {
	for i := range b {
		into[i] = b[i].Load()
		n += bits.OnesCount64(into[i])
	}
	return n
}

// Clear clears all bits.
func (b Bitmap) Clear() {
	for i := range b {
		b[i].Store(0)
	}
}

// setBits visits the runs of set bits of words below n: from first, count long.
func setBits(words []uint64, n int, visit func(first, count int) error) error {
	for i := 0; i < n; {
		w := words[i/64] >> (i % 64)
		if w == 0 {
			i = (i/64 + 1) * 64
			continue
		}
		i += bits.TrailingZeros64(w)
		first := i
		for i < n && words[i/64]&(1<<(i%64)) != 0 {
			i++
		}
		if first < n {
			if err := visit(first, i-first); err != nil {
				return err
			}
		}
	}
	return nil
}
