// Package nbd serves a disk to a QEMU by the Network Block Device protocol
// (doc/proto.md of the NBD project): the fixed newstyle handshake, simple
// replies, and the commands read, write, flush, trim and write zeroes.
//
// It is for one client at a connection that is there already, on the same
// machine. Requests are carried out in the order in which they come, but for
// reads, and answered when they are done: who waits for another host keeps nobody from
// going on.
package nbd

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// Device is a disk. Its methods are called by many goroutines, Write by one at a
// time.
type Device interface {
	Size() int64 // bytes, always the same
	ReadAt(b []byte, off int64) (int, error)
	// Write writes b, which is the caller's again when it returns. The write
	// counts when done is closed, and so do those before it.
	Write(b []byte, off int64) (done <-chan struct{}, err error)
}

// Commands.
const (
	cmdRead        = 0
	cmdWrite       = 1
	cmdDisconnect  = 2
	cmdFlush       = 3
	cmdTrim        = 4
	cmdWriteZeroes = 6
)

// Errors on the wire: the values of Linux.
const (
	wireOK      = 0
	wireIO      = 5
	wireInvalid = 22
)

const (
	requestMagic = 0x25609513
	replyMagic   = 0x67446698
	requestSize  = 28
	replySize    = 16
	// maxPayload is what a client may ask for at once, as the specification
	// recommends.
	maxPayload = 32 << 20
	// mostReads are done at once; QEMU has no more than its queue of requests.
	mostReads = 256
	// zeroes are written in pieces of this size.
	zeroPiece = 1 << 20
)

// request is a command.
type request struct {
	flags, cmd uint16
	cookie     uint64
	off        uint64
	length     uint32
}

// parseRequest reads a request's head.
func parseRequest(b []byte) (q request, err error) {
	if magic := binary.BigEndian.Uint32(b); magic != requestMagic {
		return q, fmt.Errorf("request begins with %#x: want %#x", magic, uint32(requestMagic))
	}
	q = request{
		flags: binary.BigEndian.Uint16(b[4:]), cmd: binary.BigEndian.Uint16(b[6:]),
		cookie: binary.BigEndian.Uint64(b[8:]), off: binary.BigEndian.Uint64(b[16:]), length: binary.BigEndian.Uint32(b[24:]),
	}
	if q.carries() && q.length > maxPayload {
		return q, fmt.Errorf("command %d of %d bytes: want at most %d", q.cmd, q.length, maxPayload)
	}
	return q, nil
}

// carries tells whether bytes go with the command, one way or the other.
func (q request) carries() bool { return q.cmd == cmdRead || q.cmd == cmdWrite }

// fits tells whether it is about bytes that a disk of this size has.
func (q request) fits(size int64) bool {
	return q.off <= uint64(size) && uint64(q.length) <= uint64(size)-q.off
}

// Server serves one client.
type Server struct {
	conn   net.Conn
	device Device
	in     *bufio.Reader
	buf    []byte          // of the write that is being done
	last   <-chan struct{} // closed when the last write counts
	reads  chan struct{}
	all    sync.WaitGroup
	gone   chan struct{} // closed when no answer is of use any more

	sending sync.Mutex

	mu       sync.Mutex
	released chan struct{} // closed while nobody waits for writes to count
}

// Serve serves the device to the client at conn, which is the server's from now
// on, until the client or Close ends that.
func Serve(conn net.Conn, d Device) *Server {
	s := &Server{
		conn: conn, device: d, in: bufio.NewReaderSize(conn, 128<<10),
		last: closed, reads: make(chan struct{}, mostReads), gone: make(chan struct{}), released: make(chan struct{}),
	}
	s.all.Go(s.serve)
	return s
}

// Close ends the connection and waits until no request is under way.
func (s *Server) Close() error {
	err := s.conn.Close()
	s.all.Wait()
	return err
}

// Done is closed when the client is served no more.
func (s *Server) Done() <-chan struct{} { return s.gone }

// Release answers who waits for writes that are in the disk but do not count yet,
// and all that come, until Hold. It is for a client whose machine stands: QEMU stops one by
// waiting for all that is under way, but what the machine would do upon an answer
// it does not do before it runs again. Whoever lets it run waits for the writes
// first, or hands them on.
func (s *Server) Release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !isClosed(s.released) {
		close(s.released)
	}
}

// Hold ends that.
func (s *Server) Hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if isClosed(s.released) {
		s.released = make(chan struct{})
	}
}

func (s *Server) release() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.released
}

func (s *Server) serve() {
	defer close(s.gone)
	defer s.conn.Close()
	if negotiate(s.in, s.conn, s.device.Size()) != nil {
		return // the client knows why
	}
	for s.next() == nil {
	}
}

// errBye is a client's.
var errBye = errors.New("the client says goodbye")

// next reads one request, and does it unless it is a read. The error ends the
// connection.
func (s *Server) next() error {
	var head [requestSize]byte
	if _, err := io.ReadFull(s.in, head[:]); err != nil {
		return err
	}
	q, err := parseRequest(head[:])
	if err != nil {
		return err // nobody knows where the next one begins
	}
	switch q.cmd {
	case cmdRead:
		if !q.fits(s.device.Size()) {
			return s.answer(q.cookie, wireInvalid)
		}
		s.reads <- struct{}{}
		s.all.Go(func() {
			defer func() { <-s.reads }()
			_ = s.read(q) // the connection is closed
		})
		return nil
	case cmdWrite:
		return s.write(q)
	case cmdWriteZeroes:
		return s.zero(q)
	case cmdFlush:
		return s.answerWhen(q.cookie, s.last)
	case cmdTrim: // promises nothing
		return s.answer(q.cookie, wireOK)
	case cmdDisconnect:
		return errBye
	}
	return s.answer(q.cookie, wireInvalid)
}

// answers are buffers of reads.
var answers = sync.Pool{New: func() any { return new([]byte) }}

func (s *Server) read(q request) error {
	b := answers.Get().(*[]byte)
	defer answers.Put(b)
	*b = sized(*b, replySize+int(q.length))
	if _, err := s.device.ReadAt((*b)[replySize:], int64(q.off)); err != nil {
		return s.answer(q.cookie, wireIO)
	}
	head(*b, q.cookie, wireOK)
	return s.send(*b)
}

// sized is b with n bytes, or a new one.
func sized(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n)
	}
	return b[:n]
}

func (s *Server) write(q request) error {
	s.buf = sized(s.buf, int(q.length))
	if _, err := io.ReadFull(s.in, s.buf); err != nil {
		return err
	}
	if !q.fits(s.device.Size()) {
		return s.answer(q.cookie, wireInvalid)
	}
	done, err := s.device.Write(s.buf, int64(q.off))
	if err != nil {
		return s.answer(q.cookie, wireIO)
	}
	return s.wrote(q, done)
}

// wrote answers a write: at once, as a disk does that has a cache, unless the
// client wants to hear when it counts. It is for the client to flush what it
// promises to others; a program that commits many promises by one flush waits once
// for the other host that has a mirror, not for each of its writes.
func (s *Server) wrote(q request, done <-chan struct{}) error {
	s.last = done
	if q.flags&flagFUA != 0 {
		return s.answerWhen(q.cookie, done)
	}
	return s.answer(q.cookie, wireOK)
}

// zeroes is what zero writes.
var zeroes = make([]byte, zeroPiece)

func (s *Server) zero(q request) error {
	if !q.fits(s.device.Size()) {
		return s.answer(q.cookie, wireInvalid)
	}
	done := closed
	for off, left := int64(q.off), int64(q.length); left > 0; {
		n := min(left, zeroPiece)
		last, err := s.device.Write(zeroes[:n], off)
		if err != nil {
			return s.answer(q.cookie, wireIO)
		}
		done, off, left = last, off+n, left-n
	}
	if q.length == 0 {
		done = s.last
	}
	return s.wrote(q, done)
}

// closed is done already.
var closed = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// flagFUA (force unit access) is set with a write that the client wants to hear of
// when it counts.
const flagFUA = 1 << 0

// answerWhen answers when a write counts.
func (s *Server) answerWhen(cookie uint64, done <-chan struct{}) error {
	if isClosed(done) {
		return s.answer(cookie, wireOK)
	}
	s.all.Go(func() {
		select {
		case <-done:
		case <-s.release():
		case <-s.gone:
			return
		}
		_ = s.answer(cookie, wireOK) // the connection is closed
	})
	return nil
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func head(b []byte, cookie uint64, code uint32) {
	binary.BigEndian.PutUint32(b, replyMagic)
	binary.BigEndian.PutUint32(b[4:], code)
	binary.BigEndian.PutUint64(b[8:], cookie)
}

func (s *Server) answer(cookie uint64, code uint32) error {
	var b [replySize]byte
	head(b[:], cookie, code)
	return s.send(b[:])
}

// send writes an answer whole.
func (s *Server) send(b []byte) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	if _, err := s.conn.Write(b); err != nil {
		_ = s.conn.Close() // whoever reads requests ends
		return err
	}
	return nil
}
