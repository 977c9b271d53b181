package wire

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/vpclab/vpclab/emu/warm"
)

const (
	// mostWrite is how much is given to the connection by one system call, unless
	// one frame is longer.
	mostWrite = 256 << 10
	// mostRead is how much is read by one. A message that does not fit into the
	// rest of a chunk is copied to the next, so a chunk has room for some.
	mostRead  = 1 << 20
	leastRead = 256 << 10
)

// link is one connection that carries a session: both hellos have been said.
type link struct {
	conn   net.Conn
	mark   lowWater
	theirs hello
	kick   chan struct{} // wakes the writer
	idle   bool          // the writer waits for it; under the session's lock
	asked  uint64        // up to where this connection has been asked to confirm
	once   sync.Once
	broken chan struct{}
	cause  error // after broken is closed
}

func newLink(conn net.Conn, theirs hello, unsent int) *link {
	return &link{conn: conn, mark: tune(conn, unsent), theirs: theirs, kick: make(chan struct{}, 1), broken: make(chan struct{})}
}

// cut gives the connection up, for the first reason given.
func (l *link) cut(err error) {
	l.once.Do(func() {
		l.cause = err
		close(l.broken)
		_ = l.conn.Close() // whatever it says, it is not used any more
	})
}

// carry lets a connection carry the session until it breaks, and tells why.
func (s *session) carry(l *link) error {
	if err := s.enter(l); err != nil {
		l.cut(err)
		return err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.cut(s.write(l))
	}()
	err := s.read(l)
	var bad *ViolationError
	if errors.As(err, &bad) {
		s.part(l, bad)
	}
	l.cut(err)
	<-done
	s.mu.Lock()
	if s.link == l {
		s.link = nil
	}
	s.mu.Unlock()
	return l.cause
}

// enter resumes where the other end has come to.
func (s *session) enter(l *link) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leaving {
		return s.err
	}
	if len(s.offers) > 0 {
		return errReplaced // between its hello and now
	}
	has := l.theirs.received
	if has < s.confirmed || has > s.sent {
		err := violation("the other end says that it has messages up to %d; %d were sent and %d confirmed", has, s.sent, s.confirmed)
		s.failLocked(err)
		return err
	}
	at := s.out.tail
	for n := s.confirmed; n < has; n++ {
		at = s.out.next(at)
	}
	if s.tried > at {
		s.resent.Add(int64(s.tried - at))
		s.tried = at
	}
	s.handed, s.written = at, at
	s.agree(l.theirs.window, l.theirs.maxFrame)
	s.confirmDue = s.taken > 0
	s.link = l
	signal(l.kick)
	return nil
}

// part tells the other end of its violation before the connection is closed.
func (s *session) part(l *link, bad *ViolationError) {
	s.mu.Lock()
	s.failLocked(bad)
	s.why = bad.Error()[:min(len(bad.Error()), longestWhy)]
	s.heardEnd = true // nothing more is expected of it
	signal(l.kick)
	s.mu.Unlock()
	grace := time.NewTimer(min(time.Second, s.cfg.Patience))
	defer grace.Stop()
	select {
	case <-l.broken:
	case <-grace.C:
	}
}

// write sends what there is to send, as much as one call takes, until the
// connection breaks.
func (s *session) write(l *link) error {
	var w writing
	for {
		if !s.gather(l, &w) {
			select {
			case <-l.kick:
				continue
			case <-l.broken:
				return l.cause
			}
		}
		n, err := w.bufs.WriteTo(l.conn)
		s.wrote.Add(n)
		s.mu.Lock()
		if err != nil {
			s.tried = max(s.tried, s.written+uint64(max(0, int(n)-w.before)))
			s.mu.Unlock()
			return err
		}
		s.written, s.tried = w.until, max(s.tried, w.until)
		heard := s.heardEnd
		s.mu.Unlock()
		signal(s.space)
		if w.end && heard {
			return errEnded
		}
	}
}

// writing is what one call writes.
type writing struct {
	small  []byte // frames that are not messages
	parts  [4][]byte
	bufs   net.Buffers // of parts
	before int         // bytes of small before the messages
	until  uint64      // position behind the messages
	end    bool
}

// gather collects what there is to write now.
func (s *session) gather(l *link, w *writing) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.small, w.bufs, w.until, w.end = w.small[:0], w.parts[:0], s.handed, false
	control := func(k kind, number uint64, payload string) {
		h := header{kind: k, number: number, length: len(payload), sum: checksum([]byte(payload))}.encode()
		w.small = append(append(w.small, h[:]...), payload...)
	}
	if s.saidEnd {
		return false
	}
	silenced := s.leaving && s.heardEnd // the other end takes no more messages
	data := s.handed < s.out.head && !silenced
	ask := s.asking && l.asked < s.sent
	// A confirmation goes along with whatever is sent anyway, the end too: whoever
	// waits for it would never get it otherwise.
	if s.confirmDue || s.pulseDue || s.taken > s.told && (data || ask || s.leaving) {
		control(kindConfirm, s.taken, "")
		s.told, s.toldBytes = s.taken, s.takenBytes
		s.confirmDue, s.pulseDue = false, false
	}
	if ask {
		control(kindAsk, s.sent, "")
		l.asked = s.sent
	}
	if data {
		w.until = s.whole(s.handed)
	}
	if s.leaving && (w.until == s.out.head || silenced) {
		w.end, s.saidEnd = true, true
	}
	if w.before = len(w.small); w.before > 0 {
		w.bufs = append(w.bufs, w.small)
	}
	a, b := s.out.bytes(s.handed, w.until)
	for _, part := range [][]byte{a, b} {
		if len(part) > 0 {
			w.bufs = append(w.bufs, part)
		}
	}
	s.handed = w.until
	if w.end {
		control(kindEnd, 0, s.why)
		w.bufs = append(w.bufs, w.small[w.before:])
	}
	l.idle = len(w.bufs) == 0
	return !l.idle
}

// whole is the position behind as many whole frames from a position on as one
// call writes, and behind one at least: what is said between two calls must not
// come into the middle of a frame.
func (s *session) whole(from uint64) uint64 {
	until := s.out.next(from)
	for until < s.out.head {
		next := s.out.next(until)
		if next-from > mostWrite {
			break
		}
		until = next
	}
	return until
}

// chunk is memory that is read into. Messages are given out where they lie, so
// it is used again when the last of them has been dealt with.
type chunk struct {
	mem  []byte
	held int // by the reader, and once by each message in it; under the session's lock
}

// mostFree chunks are kept for later.
const mostFree = 4

// chunkOf gives a chunk with room for n bytes at least.
func (s *session) chunkOf(n int) *chunk {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.chunks) - 1; i >= 0; i-- {
		if c := s.chunks[i]; len(c.mem) >= n {
			s.chunks = append(s.chunks[:i], s.chunks[i+1:]...)
			c.held = 1
			return c
		}
	}
	return &chunk{mem: buffer(max(n, min(4*n, mostRead), leastRead)), held: 1}
}

// buffer is memory of n bytes at least, all of it present: page by page, as it is
// touched, it would come dearer than what it is for.
func buffer(n int) []byte {
	const page = 4096
	b := make([]byte, (n+page-1)/page*page)
	_ = warm.Range(b) // a kernel that cannot lets pages come one by one
	return b
}

// release lets go of a chunk; the caller holds s.mu.
func (s *session) release(c *chunk) {
	if c == nil {
		return
	}
	if c.held--; c.held == 0 && len(s.chunks) < mostFree {
		s.chunks = append(s.chunks, c)
	}
}

// frame that has come whole and unharmed.
type frame struct {
	header
	payload []byte
}

// read takes in frames until the connection breaks or brings what it must not.
func (s *session) read(l *link) error {
	c := s.chunkOf(headerSize)
	defer func() {
		s.mu.Lock()
		s.release(c)
		s.mu.Unlock()
	}()
	s.mu.Lock()
	maxFrame := s.maxFrame // as agreed for this connection
	s.mu.Unlock()
	var from, to int // what of c has been read and not taken yet
	var frames []frame
	for {
		need, n, got, err := parse(c.mem[from:to], maxFrame, frames[:0])
		frames = got
		if len(frames) > 0 {
			if err := s.deliver(l, c, frames); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
		if from += n; from+need > len(c.mem) || from == to && from > len(c.mem)/2 {
			from, to, c = s.turn(c, from, to, need)
		}
		l.mark.await(need - (to - from))
		n, err = l.conn.Read(c.mem[to:])
		if n == 0 && err != nil {
			if err == io.EOF && from < to {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		s.heard.Add(int64(n))
		to += n
	}
}

// turn makes room for need bytes, of which those between from and to are there:
// in the same chunk, where no message in it is still to be dealt with, or in
// another one.
func (s *session) turn(c *chunk, from, to, need int) (int, int, *chunk) {
	s.mu.Lock()
	alone := c.held == 1 && len(c.mem) >= need
	s.mu.Unlock()
	next := c
	if !alone {
		next = s.chunkOf(need)
	}
	n := copy(next.mem, c.mem[from:to])
	if next != c {
		s.mu.Lock()
		s.release(c)
		s.mu.Unlock()
	}
	return 0, n, next
}

// parse finds the whole frames that b begins with, n bytes in all, and how many
// bytes the one after them needs.
func parse(b []byte, maxFrame int, frames []frame) (need, n int, _ []frame, err error) {
	for {
		rest := b[n:]
		if len(rest) < headerSize {
			return headerSize, n, frames, nil
		}
		h, err := decodeHeader(rest[:headerSize], maxFrame)
		if err != nil {
			return 0, n, frames, err
		}
		size := headerSize + h.length
		if len(rest) < size {
			return size, n, frames, nil
		}
		f := frame{h, rest[headerSize:size:size]}
		if checksum(f.payload) != h.sum {
			return 0, n, frames, errMangled
		}
		frames = append(frames, f)
		n += size
	}
}

// deliver acts on frames, in their order.
func (s *session) deliver(l *link, c *chunk, frames []frame) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range frames {
		if err := s.deliverOne(l, c, f); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) deliverOne(l *link, c *chunk, f frame) error {
	switch f.kind {
	case kindData:
		if s.heardEnd {
			return violation("message %d comes after the end", f.number)
		}
		if f.number != s.received+1 {
			return violation("message %d comes after message %d", f.number, s.received)
		}
		s.inBytes += uint64(headerSize + len(f.payload))
		if s.inBytes-s.toldBytes > uint64(s.window) {
			return violation("message %d exceeds the window of %d bytes", f.number, s.window)
		}
		s.received = f.number
		c.held++
		s.queue = append(s.queue, message{Message{f.typ, f.payload}, f.number, c})
		signal(s.arrived)
	case kindConfirm:
		return s.confirm(f.number)
	case kindAsk:
		if s.wanted = max(s.wanted, f.number); s.taken >= s.wanted {
			s.confirmDue = true
			signal(l.kick)
		}
	case kindEnd:
		s.heardEnd = true
		if len(f.payload) > 0 {
			s.failLocked(&EndedError{string(f.payload)})
		} else {
			s.failLocked(io.EOF)
		}
		if s.saidEnd {
			return errEnded
		}
		signal(l.kick)
	}
	return nil
}

// confirm lets go of the messages up to number.
func (s *session) confirm(number uint64) error {
	if number > s.sent {
		return violation("message %d is confirmed; only %d were sent", number, s.sent)
	}
	for s.confirmed < number {
		at := s.out.next(s.out.tail)
		if at > s.handed {
			return violation("message %d is confirmed before it was sent", s.confirmed+1)
		}
		s.out.tail = at
		s.confirmed++
	}
	signal(s.space)
	if s.asking {
		signal(s.flushed)
	}
	return nil
}
