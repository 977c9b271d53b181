package wire

import (
	"encoding/binary"
	"fmt"
	"io"
)

// verdict of a hello about the hello that it answers.
type verdict uint8

const (
	welcome   verdict = 0
	noVersion verdict = 1 // the versions differ
	stranger  verdict = 2 // no such migration or channel here
	forgotten verdict = 3 // this end has no memory of the session, or the other has none
	stale     verdict = 4 // a newer connection of the session is there
)

const (
	// helloMagic begins each connection, both ways. The line end shows what has
	// been through something that mends line ends.
	helloMagic  = "vpclab\r\n"
	helloSize   = 80
	longestSize = 1 << 10 // that a hello of a later version may have
)

// hello is the first thing that each end says on a connection: 80 bytes, big
// endian; docs/migration-protocol.md has the offsets. Magic, version, size, and
// a CRC-32C in the last four bytes will be there in every version, so that ends
// of two versions can tell each other so.
type hello struct {
	version  uint16
	channel  uint8
	verdict  verdict
	id       [16]byte
	self     uint64 // this end of the session, chosen at random when it began
	other    uint64 // the other end, as far as this one knows it; 0: not yet
	attempt  uint64 // of the dialling end to connect, counted from 1; the answer repeats it
	received uint64 // number of the last message that came in order
	window   uint32
	maxFrame uint32
}

func (h hello) encode() []byte {
	b := make([]byte, helloSize)
	copy(b, helloMagic)
	binary.BigEndian.PutUint16(b[8:], h.version)
	binary.BigEndian.PutUint16(b[10:], helloSize)
	b[12], b[13] = h.channel, byte(h.verdict)
	copy(b[16:32], h.id[:])
	binary.BigEndian.PutUint64(b[32:], h.self)
	binary.BigEndian.PutUint64(b[40:], h.other)
	binary.BigEndian.PutUint64(b[48:], h.attempt)
	binary.BigEndian.PutUint64(b[56:], h.received)
	binary.BigEndian.PutUint32(b[64:], h.window)
	binary.BigEndian.PutUint32(b[68:], h.maxFrame)
	binary.BigEndian.PutUint32(b[76:], checksum(b[:76]))
	return b
}

// readHello reads the other end's hello. It takes no byte that comes after it.
// Of another version than ours it tells the version, the verdict and the ID.
func readHello(r io.Reader) (hello, error) {
	b := make([]byte, 12, helloSize)
	if _, err := io.ReadFull(r, b); err != nil {
		return hello{}, fmt.Errorf("read hello: %w", err)
	}
	if string(b[:8]) != helloMagic {
		return hello{}, fmt.Errorf("read hello: it begins with %q: not the migration protocol", b[:8])
	}
	size := int(binary.BigEndian.Uint16(b[10:]))
	if size < 36 || size > longestSize {
		return hello{}, fmt.Errorf("read hello: it has %d bytes: 36 to %d are allowed", size, longestSize)
	}
	b = append(b, make([]byte, size-len(b))...)
	if _, err := io.ReadFull(r, b[12:]); err != nil {
		return hello{}, fmt.Errorf("read hello: %w", noEOF(err))
	}
	if got, want := checksum(b[:size-4]), binary.BigEndian.Uint32(b[size-4:]); got != want {
		return hello{}, fmt.Errorf("read hello: %w: checksum %08x instead of %08x", errMangled, got, want)
	}
	h := hello{version: binary.BigEndian.Uint16(b[8:]), channel: b[12], verdict: verdict(b[13]), id: [16]byte(b[16:32])}
	if h.version != Version {
		return h, nil
	}
	if size != helloSize {
		return hello{}, fmt.Errorf("read hello: version %d has %d bytes and not %d", Version, helloSize, size)
	}
	h.self, h.other = binary.BigEndian.Uint64(b[32:]), binary.BigEndian.Uint64(b[40:])
	h.attempt, h.received = binary.BigEndian.Uint64(b[48:]), binary.BigEndian.Uint64(b[56:])
	h.window, h.maxFrame = binary.BigEndian.Uint32(b[64:]), binary.BigEndian.Uint32(b[68:])
	return h, nil
}

// noEOF turns the end of input in the middle of something into an error.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
