package guest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/unixsock"
)

// The mirror of a disk is a stream socket between the guest and the agent of
// its host. Each end begins with mirrorHello. Then the guest reports each write
// by 24 bytes, big endian: its number, counted from 1, its offset and its
// length. The bytes are not in the report: the image has them before it is made,
// and the agent reads them there, so what it sends is never older than what a
// report was about. An agent that needs to know what the disk held after each
// write, and not some writes later, says hello with writesHello: then each report
// is followed by the bytes that were written. The agent answers with the number of the last report up to
// which the other host has everything on its disk, in 8 bytes.
const (
	mirrorHello = "vpcl-mr1"
	writesHello = "vpcl-mw1"
	reportSize  = 24
	ackSize     = 8
	// mirrorPatience bounds the exchange of hellos: both ends are on one host.
	mirrorPatience = 5 * time.Second
	// mostReports are read at once.
	mostReports = 2048
)

// reporter is the guest's end of a mirror. Reports are made by one goroutine at
// a time, and go out together when they come faster than the socket takes them.
type reporter struct {
	conn *net.UnixConn
	data bool          // reports have the bytes behind them
	kick chan struct{} // wakes the writer
	done chan struct{} // closed when the mirror is gone
	over sync.WaitGroup

	mu      sync.Mutex
	out     []byte   // reports that are not written yet
	number  uint64   // of the last report
	acked   uint64   // up to where
	waiting []func() // of the reports behind acked, in order
	gone    bool
}

// openMirror connects to the agent that keeps another copy of the disk.
func openMirror(path string) (*reporter, error) {
	conn, err := unixsock.Dial(path)
	if err != nil {
		return nil, fmt.Errorf("mirror: %w", err)
	}
	theirs, err := greetMirror(conn, mirrorHello)
	if err == nil && theirs != mirrorHello && theirs != writesHello {
		err = fmt.Errorf("the other end says %q, not %q or %q", theirs, mirrorHello, writesHello)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("mirror %s: %w", path, err), conn.Close())
	}
	r := &reporter{conn: conn, data: theirs == writesHello, kick: make(chan struct{}, 1), done: make(chan struct{})}
	r.over.Go(r.write)
	r.over.Go(r.read)
	return r, nil
}

// greetMirror exchanges hellos.
func greetMirror(conn *net.UnixConn, ours string) (theirs string, err error) {
	if err := conn.SetDeadline(time.Now().Add(mirrorPatience)); err != nil {
		return "", err
	}
	if _, err := conn.Write([]byte(ours)); err != nil {
		return "", fmt.Errorf("say hello: %w", err)
	}
	var b [len(mirrorHello)]byte
	if _, err := io.ReadFull(conn, b[:]); err != nil {
		return "", fmt.Errorf("waiting %v for the other end's hello: %w", mirrorPatience, err)
	}
	return string(b[:]), conn.SetDeadline(time.Time{})
}

// report hands a write on that the image has, and does not wait: acked is
// called once, when the mirror has acknowledged it, or when the mirror is gone.
// It is called by another goroutine, or by this one where the mirror is gone.
func (r *reporter) report(off int64, data []byte, acked func()) {
	r.mu.Lock()
	if r.gone {
		r.mu.Unlock()
		acked()
		return
	}
	r.number++
	r.out = binary.BigEndian.AppendUint64(r.out, r.number)
	r.out = binary.BigEndian.AppendUint64(r.out, uint64(off))
	r.out = binary.BigEndian.AppendUint64(r.out, uint64(len(data)))
	if r.data {
		r.out = append(r.out, data...)
	}
	r.waiting = append(r.waiting, acked)
	r.mu.Unlock()
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// write sends reports until the mirror is gone.
func (r *reporter) write() {
	var buf []byte
	for {
		select {
		case <-r.kick:
		case <-r.done:
			return
		}
		r.mu.Lock()
		buf, r.out = r.out, buf[:0]
		r.mu.Unlock()
		if _, err := r.conn.Write(buf); err != nil {
			_ = r.conn.Close() // the reader sees it and ends the mirror
			return
		}
	}
}

// read takes acknowledgements until the socket is closed, and then lets all go
// on that wait for one.
func (r *reporter) read() {
	buf := make([]byte, 512*ackSize)
	have := 0
	for {
		n, err := r.conn.Read(buf[have:])
		if have += n; have >= ackSize {
			// Only the last of them counts.
			last := have/ackSize - 1
			number := binary.BigEndian.Uint64(buf[last*ackSize:])
			have = copy(buf, buf[(last+1)*ackSize:have])
			if !r.acknowledge(number) {
				break // of what was never reported: it is no mirror
			}
		}
		if err != nil {
			break
		}
	}
	_ = r.conn.Close()
	r.mu.Lock()
	r.gone = true
	rest := r.waiting
	r.waiting = nil
	r.mu.Unlock()
	close(r.done)
	for _, acked := range rest {
		acked()
	}
}

// acknowledge lets the writes up to number go on.
func (r *reporter) acknowledge(number uint64) bool {
	r.mu.Lock()
	if number > r.number {
		r.mu.Unlock()
		return false
	}
	var done []func()
	if number > r.acked {
		n := number - r.acked
		done, r.waiting = r.waiting[:n:n], r.waiting[n:]
		r.acked = number
	}
	r.mu.Unlock()
	for _, acked := range done {
		acked()
	}
	return true
}

// close ends the mirror: every report that was made is acked when it returns.
func (r *reporter) close() {
	_ = r.conn.Close()
	r.over.Wait()
}

// MirrorServer is the agent's end of the mirrors of one guest's disk. One guest
// connects at a time. Next is for one goroutine, and Ack for one.
type MirrorServer struct {
	path string
	data bool // reports have the bytes behind them
	l    *net.UnixListener
	conn *net.UnixConn
	buf  []byte
	have int
	// taken of those were given out by NextWrites.
	taken int
	next  uint64 // number of the next report
}

// DiskWrite is what a guest wrote to its disk.
type DiskWrite struct {
	Off  int64
	Data []byte
}

// ListenWrites is ListenMirror with NextWrites in the place of Next: each write
// comes with its bytes, so that another disk can have what this one had after
// any of them.
func ListenWrites(path string) (*MirrorServer, error) {
	s, err := ListenMirror(path)
	if err == nil {
		s.data = true
	}
	return s, err
}

// ListenMirror listens at path, which is then given to Control.Mirror.
func ListenMirror(path string) (*MirrorServer, error) {
	l, err := unixsock.Listen(path)
	if err != nil {
		return nil, fmt.Errorf("mirror: %w", err)
	}
	return &MirrorServer{path: path, l: l, buf: make([]byte, mostReports*reportSize), next: 1}, nil
}

// Accept waits for the guest. What connects and is no guest's mirror is turned
// away.
func (s *MirrorServer) Accept(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { _ = s.l.SetDeadline(time.Unix(1, 0)) })()
	for {
		conn, err := s.l.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return fmt.Errorf("mirror %s: waiting for the guest: %w", s.path, err)
		}
		ours := mirrorHello
		if s.data {
			ours = writesHello
		}
		if theirs, err := greetMirror(conn, ours); err != nil || theirs != mirrorHello {
			_ = conn.Close()
			continue
		}
		s.conn = conn
		return nil
	}
}

// Next waits for reports and gives all that have come: offsets and lengths in
// bytes, and the number of the last of them. The error is io.EOF when the guest
// has ended the mirror.
func (s *MirrorServer) Next(ctx context.Context) (number uint64, extents [][2]int64, err error) {
	if err := s.fill(ctx, reportSize); err != nil {
		return 0, nil, err
	}
	whole := s.have / reportSize * reportSize
	for at := 0; at < whole; at += reportSize {
		r, err := s.report(s.buf[at:])
		if err != nil {
			return 0, nil, err
		}
		number, extents = r.number, append(extents, [2]int64{r.off, r.length})
	}
	s.have = copy(s.buf, s.buf[whole:s.have])
	return number, extents, nil
}

// NextWrites waits for writes and gives all that have come, in order, and the
// number of the last of them. The bytes are valid until the next call.
func (s *MirrorServer) NextWrites(ctx context.Context) (number uint64, writes []DiskWrite, err error) {
	s.have = copy(s.buf, s.buf[s.taken:s.have])
	s.taken = 0
	for need := reportSize; ; {
		if err := s.fill(ctx, need); err != nil {
			return 0, nil, err
		}
		for s.have-s.taken >= reportSize {
			length := int64(binary.BigEndian.Uint64(s.buf[s.taken+16:]))
			if length < 0 || length > maxReported {
				return 0, nil, fmt.Errorf("mirror %s: report of %d bytes: want at most %d", s.path, length, maxReported)
			}
			if need = reportSize + int(length); s.have-s.taken < need {
				break
			}
			r, err := s.report(s.buf[s.taken:])
			if err != nil {
				return 0, nil, err
			}
			writes = append(writes, DiskWrite{r.off, s.buf[s.taken+reportSize:][:length]})
			number, s.taken = r.number, s.taken+need
		}
		if len(writes) > 0 {
			return number, writes, nil
		}
	}
}

// maxReported bounds one write.
const maxReported = 64 << 20

// fill reads until the buffer holds at least so many bytes.
func (s *MirrorServer) fill(ctx context.Context, atLeast int) error {
	if s.have >= atLeast {
		return nil
	}
	stop := context.AfterFunc(ctx, func() { _ = s.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if atLeast > len(s.buf) {
		s.buf = append(s.buf, make([]byte, atLeast-len(s.buf))...)
	}
	for s.have < atLeast {
		n, err := s.conn.Read(s.buf[s.have:])
		s.have += n
		if n > 0 || err == nil {
			continue
		}
		switch {
		case ctx.Err() != nil:
			err = errors.Join(context.Cause(ctx), s.conn.SetReadDeadline(time.Time{}))
		case errors.Is(err, unix.ECONNRESET) && s.have == 0: // it left acknowledgements unread
			return io.EOF
		case err == io.EOF && s.have > 0:
			err = io.ErrUnexpectedEOF
		case err == io.EOF:
			return io.EOF
		}
		return fmt.Errorf("mirror %s: waiting for writes of the guest: %w", s.path, err)
	}
	return nil
}

// report is one, without its bytes.
type report struct {
	number      uint64
	off, length int64
}

// report reads the next one.
func (s *MirrorServer) report(b []byte) (report, error) {
	r := report{binary.BigEndian.Uint64(b), int64(binary.BigEndian.Uint64(b[8:])), int64(binary.BigEndian.Uint64(b[16:]))}
	if r.number != s.next || r.off < 0 || r.length < 0 || r.off+r.length < r.off {
		return r, fmt.Errorf("mirror %s: report %d of %d bytes at %d: expected number %d", s.path, r.number, r.length, r.off, s.next)
	}
	s.next++
	return r, nil
}

// Ack tells the guest that the other host has what was reported up to number.
func (s *MirrorServer) Ack(number uint64) error {
	var b [ackSize]byte
	binary.BigEndian.PutUint64(b[:], number)
	if _, err := s.conn.Write(b[:]); err != nil {
		return fmt.Errorf("mirror %s: acknowledge write %d: %w", s.path, number, err)
	}
	return nil
}

// Close ends the mirror: the guest goes on without it.
func (s *MirrorServer) Close() error {
	err := s.l.Close()
	if s.conn != nil {
		err = errors.Join(err, s.conn.Close())
	}
	return err
}
