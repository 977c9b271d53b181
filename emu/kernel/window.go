package kernel

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
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
// inner end has not taken yet. The inner end acknowledges what it took; its
// own data therefore travel in frames, beside the acknowledgements:
//
//	outside -> inside: bytes
//	inside -> outside: 'd' length(3 bytes, big end first) data…
//	                   'a' number of bytes taken (3 bytes)
//
// What goes out needs no window: the socket holds up the writer.

const (
	// lineWindow is what may be under way to the inside, in bytes.
	lineWindow = 3840
	// lineAck is how much the inner end takes before it says so.
	lineAck = lineWindow / 2
	// lineFrame bounds the data of one frame, in bytes.
	lineFrame = 64 << 10

	kindData = 'd'
	kindAck  = 'a'
)

// helloMark is the first line from inside; what came before it is noise.
const helloMark = "vpclab-line-1"

// lineHead makes the head of a frame.
func lineHead(kind byte, n int) [4]byte {
	var h [4]byte
	binary.BigEndian.PutUint32(h[:], uint32(n))
	h[0] = kind
	return h
}

// innerLine is the end inside the booted kernel, on the serial device.
type innerLine struct {
	tty   io.ReadWriteCloser
	taken int // bytes read and not acknowledged; of the one reader

	mu  sync.Mutex // guards tty's writes and buf
	buf []byte
}

// newInnerLine says hello and takes the line over.
func newInnerLine(tty io.ReadWriteCloser) (*innerLine, error) {
	if _, err := io.WriteString(tty, helloMark+"\n"); err != nil {
		return nil, err
	}
	return &innerLine{tty: tty}, nil
}

func (l *innerLine) Read(p []byte) (int, error) {
	n, err := l.tty.Read(p)
	l.taken += n
	if l.taken >= lineAck {
		if ackErr := l.frame(kindAck, l.taken, nil); err == nil {
			err = ackErr
		}
		l.taken = 0
	}
	return n, err
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
	conn io.ReadWriteCloser
	r    *bufio.Reader
	left int // bytes of the current data frame not read yet; -1 before hello

	mu     sync.Mutex
	freed  sync.Cond // credit has grown, or the line is closed
	credit int       // bytes that may be sent now
	closed bool
}

// newOuterLine waits for hello at the first Read; writes wait for it, too.
func newOuterLine(conn io.ReadWriteCloser) *outerLine {
	l := &outerLine{conn: conn, r: bufio.NewReaderSize(conn, lineFrame), left: -1}
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
		kind := head[0]
		head[0] = 0
		n := int(binary.BigEndian.Uint32(head[:]))
		switch kind {
		case kindData:
			l.left = n
		case kindAck:
			l.grant(n)
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
			l.grant(lineWindow)
			return nil
		}
	}
}

func (l *outerLine) grant(n int) {
	l.mu.Lock()
	l.credit += n
	l.mu.Unlock()
	l.freed.Broadcast()
}

func (l *outerLine) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		n, err := l.take(len(p))
		if err != nil {
			return written, err
		}
		if _, err := l.conn.Write(p[:n]); err != nil {
			return written, err
		}
		written += n
		p = p[n:]
	}
	return written, nil
}

// take waits for credit and spends up to want of it.
func (l *outerLine) take(want int) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.credit == 0 && !l.closed {
		l.freed.Wait()
	}
	if l.closed {
		return 0, io.ErrClosedPipe
	}
	n := min(want, l.credit)
	l.credit -= n
	return n, nil
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
