package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/tcp"
)

// connection is one client's. Nothing of it changes but inside the gate, so while
// the guest stands it is all that the program knows of it.
type connection struct {
	peer netip.AddrPort
	file *os.File // the socket, as Go's poller has it
	raw  syscall.RawConn
	fd   int // valid as long as it is in clients.open

	in   []byte // received, and no whole request yet
	out  []byte // the last answer
	owed bool   // out is not written yet: it waits for a write to count
	told bool   // out acknowledges an increment

	// What checkpoints need; nil: they are taken without connections.
	origin *tcp.Origin
	stream *tcp.Stream
}

// newConnection takes over a socket, which does not block.
func newConnection(fd int, peer netip.AddrPort) (*connection, error) {
	c := &connection{peer: peer, fd: fd, file: os.NewFile(uintptr(fd), peer.String())}
	var err error
	if c.raw, err = c.file.SyscallConn(); err != nil {
		return nil, errors.Join(err, c.file.Close())
	}
	return c, nil
}

// attend answers one client until its connection ends, or ctx does.
func (m *machine) attend(ctx context.Context, c *connection) error {
	for {
		var w *Write
		if !c.owed { // else it was taken over so
			var err error
			if w, err = m.take(ctx, c); err != nil {
				return err
			}
		}
		if w != nil { // waiting is not part of a step: the guest can be paused meanwhile
			select {
			case <-w.Done():
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		if c.owed {
			if err := m.give(ctx, c); err != nil {
				return err
			}
		}
	}
}

// take waits for a request, does it and answers it, all in one step of the
// guest. If the answer has to wait for w, it is owed.
func (m *machine) take(ctx context.Context, c *connection) (w *Write, err error) {
	ended := c.raw.Read(func(fd uintptr) bool {
		if err = m.gate.enter(ctx); err != nil {
			return true
		}
		defer m.gate.leave()
		for {
			q, size, bad := parseRequest(c.in)
			if bad != nil {
				err = bad
				return true
			}
			if size > 0 {
				c.in = c.in[:copy(c.in, c.in[size:])]
				w, err = m.answer(int(fd), c, q)
				return true
			}
			if err = c.receive(int(fd)); err != nil {
				return !errors.Is(err, unix.EAGAIN)
			}
		}
	})
	return w, errors.Join(err, ended)
}

// receive reads what has arrived.
func (c *connection) receive(fd int) error {
	c.in = slices.Grow(c.in, 4<<10)
	n, err := unix.Read(fd, c.in[len(c.in):cap(c.in)])
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Read(fd, c.in[len(c.in):cap(c.in)])
	}
	if err != nil {
		return err
	}
	if n == 0 {
		return io.EOF
	}
	c.in = c.in[:len(c.in)+n]
	if c.stream != nil {
		c.stream.Read += uint64(n)
	}
	return nil
}

// answer does a request, inside the gate.
func (m *machine) answer(fd int, c *connection, q ask) (*Write, error) {
	d, wrong, err := m.app.do(m.memory, q)
	if wrong != nil {
		m.fail(wrong)
	}
	c.told = err == nil && q.kind.counts()
	if err != nil {
		c.out = endAnswer(append(beginAnswer(c.out), err.Error()...), q.kind, true, 0, 0)
	} else {
		c.out = endAnswer(append(beginAnswer(c.out), d.body...), q.kind, false, d.value, d.sectors)
	}
	if err == nil && d.w != nil && !isClosed(d.w.Done()) {
		c.owed = true
		return d.w, nil
	}
	return nil, m.write(fd, c)
}

// give writes an answer that was owed.
func (m *machine) give(ctx context.Context, c *connection) (err error) {
	ended := c.raw.Write(func(fd uintptr) bool {
		if err = m.gate.enter(ctx); err == nil {
			err = m.write(int(fd), c)
			m.gate.leave()
		}
		return true
	})
	return errors.Join(err, ended)
}

// mostKept is how much of what was written is kept without looking whether it
// was acknowledged.
const mostKept = 1 << 20

// write writes the answer, inside the gate, as far as the socket takes it now:
// all of it, as a rule. A client that asks on and on without reading answers is
// given up.
func (m *machine) write(fd int, c *connection) error {
	c.owed = false
	for b := c.out; len(b) > 0; {
		n, err := unix.Write(fd, b)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return errors.New("the client does not read its answers")
		case err != nil:
			return err
		}
		if c.stream != nil {
			c.stream.Wrote(b[:n])
		}
		b = b[n:]
	}
	if c.told {
		m.acked.Add(1)
	}
	if c.stream != nil && c.stream.Kept() > mostKept {
		n, err := tcp.Unacknowledged(fd)
		if err != nil {
			return fmt.Errorf("ask what the client has acknowledged: %w", err)
		}
		c.stream.Keep(n)
	}
	return nil
}
