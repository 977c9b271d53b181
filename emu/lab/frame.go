package lab

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync"
)

// A process's streams share one connection as frames: a type byte, a length
// in four bytes (big endian), and that many bytes.
type frameType byte

const (
	frameStdin      frameType = 0 // to the process; empty: end of input
	frameStdout     frameType = 1
	frameStderr     frameType = 2
	frameResize     frameType = 3 // rows and columns, two bytes each
	frameExit       frameType = 4 // exit code, four bytes; the last frame
	frameError      frameType = 5 // why there is no exit code, as text; the last frame
	frameSignal     frameType = 6 // to the process group: a signal number in one byte
	maxFrame                  = 1 << 20
	frameHeaderSize           = 5
)

// frameWriter writes frames; its methods may be called from many goroutines.
type frameWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (f *frameWriter) write(t frameType, p []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	buf := make([]byte, frameHeaderSize, frameHeaderSize+len(p))
	buf[0] = byte(t)
	binary.BigEndian.PutUint32(buf[1:], uint32(len(p)))
	_, err := f.w.Write(append(buf, p...))
	return err
}

// stream is an io.Writer that sends what it is given as frames of one type.
func (f *frameWriter) stream(t frameType) io.Writer { return frameStream{f, t} }

type frameStream struct {
	f *frameWriter
	t frameType
}

func (s frameStream) Write(p []byte) (int, error) {
	sent := 0
	for sent < len(p) {
		part := p[sent:min(len(p), sent+maxFrame)]
		if err := s.f.write(s.t, part); err != nil {
			return sent, err
		}
		sent += len(part)
	}
	return sent, nil
}

// readFrame reads the next frame. The bytes come from the other side of a
// socket: a length above maxFrame is refused.
func readFrame(r io.Reader) (frameType, []byte, error) {
	var head [frameHeaderSize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > maxFrame {
		return 0, nil, fmt.Errorf("frame of %d bytes: at most %d are allowed", n, maxFrame)
	}
	p := make([]byte, n)
	if _, err := io.ReadFull(r, p); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return frameType(head[0]), p, nil
}
