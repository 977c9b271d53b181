package wire

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// headerSize is that of the header before each frame's payload.
const headerSize = 24

// kind of a frame.
type kind uint8

const (
	kindData    kind = 1 // a message; number is its own
	kindConfirm kind = 2 // number: of the last message taken; also what is said when there is nothing to say
	kindAsk     kind = 3 // number: up to where the other end is asked to confirm as soon as it can
	kindEnd     kind = 4 // the session is over; the payload says why, where it is not as it should be
)

// longestWhy bounds the payload of an end.
const longestWhy = 1 << 10

// header is what stands before a payload, big endian: kind, type, two bytes of
// zero, the payload's length (4), number (8), the payload's checksum (4), the
// checksum of the header's first 20 bytes (4). The header has a checksum of its
// own so that a length that was mangled is not believed.
type header struct {
	kind   kind
	typ    Type
	length int
	number uint64
	sum    uint32 // CRC-32C of the payload
}

// castagnoli is the CRC-32C of RFC 3720, which processors compute.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(p []byte) uint32 { return crc32.Checksum(p, castagnoli) }

func (h header) encode() (b [headerSize]byte) {
	b[0], b[1] = byte(h.kind), byte(h.typ)
	binary.BigEndian.PutUint32(b[4:], uint32(h.length))
	binary.BigEndian.PutUint64(b[8:], h.number)
	binary.BigEndian.PutUint32(b[16:], h.sum)
	binary.BigEndian.PutUint32(b[20:], checksum(b[:20]))
	return b
}

// decodeHeader reads a header whose checksum is right; b has headerSize bytes.
// A wrong checksum is an accident of the way (errMangled); what a right one
// covers and is still wrong was meant, and is a violation.
func decodeHeader(b []byte, maxFrame int) (header, error) {
	if got, want := checksum(b[:20]), binary.BigEndian.Uint32(b[20:]); got != want {
		return header{}, fmt.Errorf("%w: checksum of a frame's header is %08x instead of %08x", errMangled, got, want)
	}
	length := binary.BigEndian.Uint32(b[4:])
	h := header{
		kind: kind(b[0]), typ: Type(b[1]), length: int(length),
		number: binary.BigEndian.Uint64(b[8:]), sum: binary.BigEndian.Uint32(b[16:]),
	}
	most := 0
	switch h.kind {
	case kindData:
		most = maxFrame
	case kindConfirm, kindAsk:
	case kindEnd:
		most = longestWhy
	default:
		return header{}, violation("a frame of kind %d, which version %d does not have", h.kind, Version)
	}
	if uint64(length) > uint64(most) {
		return header{}, violation("a frame of kind %d has %d bytes: at most %d are allowed", h.kind, length, most)
	}
	return h, nil
}
