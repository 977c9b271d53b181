package codec

import (
	"encoding/binary"
	"math/bits"
)

// A delta is the XOR of two versions of a block, run-length coded: how many
// bytes are the same, how many differ, and the XOR of those; and so on. What is
// left after the last run is the same.

// shortestGap of equal bytes that ends a run: the two lengths cost as much.
const shortestGap = 3

// appendDelta appends the delta from old to new, which are equally long. It
// gives up, with ok false, where it would take more than most bytes.
func appendDelta(dst, old, new []byte, most int) (out []byte, ok bool) {
	begin := len(dst)
	for at := 0; ; {
		from := firstDifference(old, new, at)
		if from == len(new) {
			return dst, true
		}
		to := endOfDifference(old, new, from)
		dst = binary.AppendUvarint(dst, uint64(from-at))
		dst = binary.AppendUvarint(dst, uint64(to-from))
		if len(dst)-begin+to-from > most {
			return dst[:begin], false
		}
		for i := from; i < to; i++ {
			dst = append(dst, old[i]^new[i])
		}
		at = to
	}
}

// firstDifference is where a and b, equally long, differ at or after i; their
// length if they do not.
func firstDifference(a, b []byte, i int) int {
	for ; i+8 <= len(a) && i+8 <= len(b); i += 8 {
		if x := binary.LittleEndian.Uint64(a[i:]) ^ binary.LittleEndian.Uint64(b[i:]); x != 0 {
			return i + bits.TrailingZeros64(x)/8
		}
	}
	for ; i < len(a) && a[i] == b[i]; i++ {
	}
	return i
}

// endOfDifference is where a run of differing bytes that begins at i ends.
func endOfDifference(a, b []byte, i int) int {
	same := 0
	for ; i < len(a) && same < shortestGap; i++ {
		if a[i] == b[i] {
			same++
		} else {
			same = 0
		}
	}
	return i - same
}

// applyDelta writes to dst what the delta makes of old; all of delta is used.
// dst and old are equally long and not the same memory.
func applyDelta(dst, old, delta []byte) error {
	copy(dst, old)
	b := body{rest: delta}
	for at := 0; len(b.rest) > 0; {
		at += b.uvarint("bytes that are the same", len(dst)-at)
		n := b.uvarint("bytes that differ", len(dst)-at+1)
		for i, x := range b.take("bytes that differ", n) {
			dst[at+i] ^= x
		}
		at += n
		if at == len(dst) && len(b.rest) > 0 {
			b.fail("a delta goes on after the end of its block")
		}
	}
	return b.err
}
