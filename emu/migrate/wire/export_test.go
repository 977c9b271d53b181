package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
)

// HelloOf makes the hello of an end of any version.
func HelloOf(version uint16, id [16]byte, channel uint8) []byte {
	return hello{version: version, id: id, channel: channel, self: 5, attempt: 1, window: 1 << 20, maxFrame: 1 << 16}.encode()
}

// FrameOf makes a frame of any kind.
func FrameOf(k uint8, t Type, number uint64, payload []byte) []byte {
	h := header{kind: kind(k), typ: t, length: len(payload), number: number, sum: checksum(payload)}.encode()
	return append(h[:], payload...)
}

// Mended puts the checksums of all frames in b right, as far as they go.
func Mended(b []byte) []byte {
	b = bytes.Clone(b)
	for at := 0; at+headerSize <= len(b); {
		h := b[at : at+headerSize]
		n := int(binary.BigEndian.Uint32(h[4:]))
		if rest := b[at+headerSize:]; n <= len(rest) {
			binary.BigEndian.PutUint32(h[16:], checksum(rest[:n]))
		}
		binary.BigEndian.PutUint32(h[20:], checksum(h[:20]))
		at += headerSize + min(n, len(b))
	}
	return b
}

// ReceiveFrom lets a session read a connection that brings b and ends. take is
// given each message; count is how many came, held how much memory is.
func ReceiveFrom(b []byte, cfg Config, take func(uint64, Message)) (count uint64, held int, err error) {
	s := newSession(cfg)
	l := newLink(bytesConn{in: bytes.NewReader(b)}, hello{window: uint32(cfg.Window), maxFrame: uint32(cfg.MaxFrame)}, cfg.Unsent)
	if err := s.enter(l); err != nil {
		return 0, 0, err
	}
	err = s.read(l)
	seen := map[*chunk]bool{}
	for _, c := range s.chunks {
		seen[c] = true
	}
	for _, m := range s.queue {
		seen[m.in] = true
		take(m.number, m.Message)
	}
	for c := range seen {
		held += len(c.mem)
	}
	return s.received, held, err
}

type bytesConn struct {
	net.Conn
	in io.Reader
}

func (c bytesConn) Read(p []byte) (int, error) { return c.in.Read(p) }

// ReadHello reads a hello and tells its version.
func ReadHello(r io.Reader) (uint16, error) {
	h, err := readHello(r)
	return h.version, err
}

// Again writes a hello that was read.
func Again(b []byte) []byte {
	h, err := readHello(bytes.NewReader(b))
	if err != nil {
		panic(errors.Join(errors.New("it was read before"), err))
	}
	return h.encode()
}
