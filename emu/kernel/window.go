package kernel

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// The two ends of the serial line, one layer above the bytes.
//
// Inside, the terminal layer holds 4096 bytes for its reader. When fewer than
// 128 of them are free it throttles the serial driver, and that of User Mode
// Linux (6.1, and its successors as far as seen) switches its read interrupt
// off then and never on again: the line is dead as soon as it is empty once.
// So the outer end never has more than lineWindow bytes under way that the
// inner end has not taken yet, and the inner end acknowledges what it took.
//
// The same driver reads one byte a system call of the host, less than 1 MB/s.
// So what is long goes in by a file of the host, which the inside can read, and
// only its number by the line. Both directions carry frames, a head of four
// bytes and its body:
//
//	both ways       'd' length(3 bytes, big end first) data…
//	outside->inside 'f' number of a file that holds the data (3 bytes)
//	inside->outside 'a' number of bytes taken from the line (3 bytes)
//	                'r' number of a file that has been read (3 bytes)
//
// What goes out needs neither: the driver writes whole buffers, and the socket
// holds up the writer.

const (
	// lineWindow is what may be under way to the inside, in bytes.
	lineWindow = 3840
	// lineAck is how much the inner end takes before it says so.
	lineAck = lineWindow / 2
	// lineFrame bounds the data of one frame, in bytes.
	lineFrame = 64 << 10

	// fileFrom is the size from which data go by a file, in bytes.
	fileFrom = 2 << 10
	// fileMost bounds the files that wait to be read.
	fileMost = 16
	fileWrap = 1 << 24 // file numbers are counted modulo this

	kindData = 'd'
	kindFile = 'f'
	kindAck  = 'a'
	kindRead = 'r'
)

// spoolName is the folder of the files, beside the program that runs inside.
const spoolName = "spool"

// spoolFile names the file with the number.
func spoolFile(dir string, n int) string { return filepath.Join(dir, strconv.Itoa(n)) }

// helloMark is the first line from inside; what came before it is noise.
const helloMark = "vpclab-line-1"

// lineHead makes the head of a frame.
func lineHead(kind byte, n int) [4]byte {
	var h [4]byte
	binary.BigEndian.PutUint32(h[:], uint32(n))
	h[0] = kind
	return h
}

// parseHead splits the head of a frame.
func parseHead(h [4]byte) (kind byte, n int) {
	kind, h[0] = h[0], 0
	return kind, int(binary.BigEndian.Uint32(h[:]))
}

// innerLine is the end inside the booted kernel, on the serial device.
type innerLine struct {
	tty   io.ReadWriteCloser
	spool string // folder of the files
	r     *bufio.Reader
	left  int    // bytes of the current data frame not read yet
	file  []byte // rest of the current file
	taken int    // bytes read from tty and not acknowledged

	mu  sync.Mutex // guards tty's writes and buf
	buf []byte
}

// newInnerLine says hello and takes the line over.
func newInnerLine(tty io.ReadWriteCloser, spool string) (*innerLine, error) {
	if _, err := io.WriteString(tty, helloMark+"\n"); err != nil {
		return nil, err
	}
	l := &innerLine{tty: tty, spool: spool}
	l.r = bufio.NewReaderSize(ackReader{l}, lineWindow)
	return l, nil
}

// ackReader reads the line itself and acknowledges.
type ackReader struct{ l *innerLine }

func (a ackReader) Read(p []byte) (int, error) {
	n, err := a.l.tty.Read(p)
	a.l.taken += n
	if a.l.taken >= lineAck {
		if ackErr := a.l.frame(kindAck, a.l.taken, nil); err == nil {
			err = ackErr
		}
		a.l.taken = 0
	}
	return n, err
}

func (l *innerLine) Read(p []byte) (int, error) {
	for l.left == 0 && len(l.file) == 0 {
		if err := l.next(); err != nil {
			return 0, err
		}
	}
	if len(l.file) > 0 {
		n := copy(p, l.file)
		l.file = l.file[n:]
		return n, nil
	}
	n, err := l.r.Read(p[:min(len(p), l.left)])
	l.left -= n
	return n, err
}

// next reads the head of a frame, and the file that it may name.
func (l *innerLine) next() error {
	var head [4]byte
	if _, err := io.ReadFull(l.r, head[:]); err != nil {
		return err
	}
	kind, n := parseHead(head)
	switch kind {
	case kindData:
		l.left = n
		return nil
	case kindFile:
		var err error
		if l.file, err = os.ReadFile(spoolFile(l.spool, n)); err != nil {
			return fmt.Errorf("serial line: %w", err)
		}
		return l.frame(kindRead, n, nil)
	}
	return fmt.Errorf("serial line: frame of kind %q", kind)
}

func (l *innerLine) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		n := min(len(p), lineFrame)
		if err := l.frame(kindData, n, p[:n]); err != nil {
			return written, err
		}
		written += n
		p = p[n:]
	}
	return written, nil
}

// frame writes head and body by one system call.
func (l *innerLine) frame(kind byte, n int, body []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	head := lineHead(kind, n)
	l.buf = append(append(l.buf[:0], head[:]...), body...)
	_, err := l.tty.Write(l.buf)
	if errors.Is(err, unix.EIO) { // a serial line whose other end is gone
		err = io.ErrClosedPipe
	}
	return err
}

func (l *innerLine) Close() error { return l.tty.Close() }

// outerLine is the end outside, on the socket.
type outerLine struct {
	conn  io.ReadWriteCloser
	spool string // folder for the files; empty: none are used
	r     *bufio.Reader
	left  int // bytes of the current data frame not read yet; -1 before hello
	next  int // number of the next file
	buf   []byte

	mu     sync.Mutex
	freed  sync.Cond // credit has grown, a file was read, or the line is closed
	credit int       // bytes that may be sent now
	files  int       // files that wait to be read
	closed bool
}

// newOuterLine waits for hello at the first Read; writes wait for it, too.
func newOuterLine(conn io.ReadWriteCloser, spool string) *outerLine {
	l := &outerLine{conn: conn, spool: spool, r: bufio.NewReaderSize(conn, lineFrame), left: -1}
	l.freed.L = &l.mu
	return l
}

// Read also takes in the acknowledgements: somebody has to be reading for
// writes to go on.
func (l *outerLine) Read(p []byte) (int, error) {
	n, err := l.read(p)
	if err != nil {
		l.shut()
	}
	return n, err
}

func (l *outerLine) read(p []byte) (int, error) {
	if l.left < 0 {
		if err := l.awaitHello(); err != nil {
			return 0, err
		}
	}
	for l.left == 0 {
		var head [4]byte
		if _, err := io.ReadFull(l.r, head[:]); err != nil {
			return 0, err
		}
		switch kind, n := parseHead(head); kind {
		case kindData:
			l.left = n
		case kindAck:
			l.grant(n, 0)
		case kindRead:
			if l.spool != "" {
				os.Remove(spoolFile(l.spool, n))
			}
			l.grant(0, 1)
		default:
			return 0, fmt.Errorf("serial line: frame of kind %q", kind)
		}
	}
	n, err := l.r.Read(p[:min(len(p), l.left)])
	l.left -= n
	return n, err
}

func (l *outerLine) awaitHello() error {
	for {
		text, err := l.r.ReadString('\n')
		if err != nil {
			return err
		}
		if strings.HasSuffix(strings.TrimSpace(text), helloMark) {
			l.left = 0
			l.grant(lineWindow, 0)
			return nil
		}
	}
}

// grant gives credit and counts files that were read.
func (l *outerLine) grant(bytes, files int) {
	l.mu.Lock()
	l.credit += bytes
	l.files -= files
	l.mu.Unlock()
	l.freed.Broadcast()
}

// Write is for one goroutine at a time.
func (l *outerLine) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		n := min(len(p), lineWindow/2)
		var err error
		if len(p) >= fileFrom && l.spool != "" {
			n = min(len(p), maxFile)
			err = l.sendFile(p[:n])
		} else {
			err = l.frame(kindData, n, p[:n])
		}
		if err != nil {
			return written, err
		}
		written += n
		p = p[n:]
	}
	return written, nil
}

// maxFile bounds one file, in bytes.
const maxFile = 1 << 20

// sendFile puts data into a file and sends its number.
func (l *outerLine) sendFile(data []byte) error {
	if err := l.await(func() bool { return l.files < fileMost }, func() { l.files++ }); err != nil {
		return err
	}
	n := l.next
	l.next = (l.next + 1) % fileWrap
	if err := os.WriteFile(spoolFile(l.spool, n), data, 0o600); err != nil {
		return err
	}
	return l.frame(kindFile, n, nil)
}

// frame sends head and body by one system call, when there is credit.
func (l *outerLine) frame(kind byte, n int, body []byte) error {
	head := lineHead(kind, n)
	l.buf = append(append(l.buf[:0], head[:]...), body...)
	err := l.await(func() bool { return l.credit >= len(l.buf) }, func() { l.credit -= len(l.buf) })
	if err != nil {
		return err
	}
	_, err = l.conn.Write(l.buf)
	return err
}

// await waits until ready, and then does what is to be done before anybody
// else looks.
func (l *outerLine) await(ready func() bool, then func()) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for !ready() && !l.closed {
		l.freed.Wait()
	}
	if l.closed {
		return io.ErrClosedPipe
	}
	then()
	return nil
}

func (l *outerLine) shut() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.freed.Broadcast()
}

func (l *outerLine) Close() error {
	l.shut()
	return l.conn.Close()
}

// joiner writes the head of a yamux message together with its body. Yamux
// makes two writes of it, and inside each costs a system call, and outside an
// interrupt there.
type joiner struct {
	*line
	held []byte
}

// Layout of a yamux header: version, type, flags (2), stream (4), length (4).
const (
	yamuxHeader = 12
	yamuxData   = 0 // the only type whose length announces a body
)

func (j *joiner) Write(p []byte) (int, error) {
	if len(j.held) == 0 && len(p) == yamuxHeader && p[1] == yamuxData && binary.BigEndian.Uint32(p[8:]) > 0 {
		j.held = append(j.held, p...)
		return len(p), nil
	}
	if len(j.held) == 0 {
		return j.line.Write(p)
	}
	j.held = append(j.held, p...)
	_, err := j.line.Write(j.held)
	j.held = j.held[:0]
	if err != nil {
		return 0, err
	}
	return len(p), nil
}
