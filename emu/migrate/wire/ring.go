package wire

import "encoding/binary"

// ring holds the frames that the other end has not confirmed, byte for byte as
// they were sent, so that they can be sent again. Positions count the bytes of
// all frames since the session began. It grows up to its limit as it is needed.
type ring struct {
	buf        []byte // a power of two, or limit
	limit      int
	tail, head uint64 // of the oldest frame; behind the newest
}

const leastRing = 256 << 10

// room says whether n more bytes fit, and makes the ring larger where that helps.
func (r *ring) room(n int) bool {
	held := int(r.head - r.tail)
	if held+n <= len(r.buf) {
		return true
	}
	if held+n > r.limit {
		return false
	}
	size := max(leastRing, len(r.buf))
	for size < held+n {
		size *= 2
	}
	larger := ring{buf: buffer(min(size, r.limit))[:min(size, r.limit)], limit: r.limit, tail: r.tail, head: r.tail}
	a, b := r.bytes(r.tail, r.head)
	larger.put(a)
	larger.put(b)
	*r = larger // whoever still writes from the former buffer has all of it
	return true
}

// put adds bytes that there is room for.
func (r *ring) put(p []byte) {
	if len(p) == 0 {
		return
	}
	n := copy(r.buf[r.head%uint64(len(r.buf)):], p)
	copy(r.buf, p[n:])
	r.head += uint64(len(p))
}

// bytes between two positions, in one piece or two.
func (r *ring) bytes(from, to uint64) (a, b []byte) {
	if from == to {
		return nil, nil
	}
	size := uint64(len(r.buf))
	i, n := from%size, to-from
	if i+n <= size {
		return r.buf[i : i+n], nil
	}
	return r.buf[i:], r.buf[:i+n-size]
}

// next is the position behind the frame that begins at a position.
func (r *ring) next(at uint64) uint64 {
	var length [4]byte
	a, b := r.bytes(at+4, at+8) // of the header
	copy(length[copy(length[:], a):], b)
	return at + headerSize + uint64(binary.BigEndian.Uint32(length[:]))
}
