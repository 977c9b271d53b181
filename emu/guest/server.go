package guest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// sendBuffer holds the largest answer: writing one never waits for the network,
// so that a step of the guest never does.
const sendBuffer = 2 * maxAnswer

// serveClients answers clients until ctx ends.
func (m *machine) serveClients(ctx context.Context, l net.Listener) error {
	var all sync.WaitGroup
	defer all.Wait()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("guest %s: accept client: %w", m.spec.Name, err)
		}
		all.Go(func() {
			end := context.AfterFunc(ctx, func() { conn.Close() })
			defer end()
			defer conn.Close()
			// How a connection ends is the client's affair.
			_ = m.serveClient(ctx, conn.(*net.TCPConn))
		})
	}
}

// serveClient answers one client.
func (m *machine) serveClient(ctx context.Context, conn *net.TCPConn) error {
	if err := conn.SetWriteBuffer(sendBuffer); err != nil {
		return err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	in := bufio.NewReaderSize(conn, 4<<10)
	var out []byte
	for {
		q, err := readRequest(in)
		if err != nil {
			return err
		}
		if out, err = m.answer(ctx, q, out); err != nil {
			return err
		}
		if err := m.gate.enter(ctx); err != nil {
			return err
		}
		err = writeAtOnce(raw, out)
		if err == nil && q.kind.counts() && out[5] == 0 {
			m.acked.Add(1)
		}
		m.gate.leave()
		if err != nil {
			return err
		}
	}
}

// answer does the request, as one step of the guest, and waits until its writes
// count. Waiting is not part of the step: a guest can be paused meanwhile.
func (m *machine) answer(ctx context.Context, q ask, out []byte) ([]byte, error) {
	if err := m.gate.enter(ctx); err != nil {
		return nil, err
	}
	d, wrong, err := m.app.do(m.memory, q)
	if wrong != nil {
		m.fail(wrong)
	}
	out = append(beginAnswer(out), d.body...)
	m.gate.leave()
	if err != nil {
		return endAnswer(append(beginAnswer(out), err.Error()...), q.kind, true, 0, 0), nil
	}
	if d.w != nil {
		select {
		case <-d.w.Done():
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	return endAnswer(out, q.kind, false, d.value, d.sectors), nil
}

// writeAtOnce writes b as far as the socket takes it now. A client that asks on
// and on without reading answers is given up.
func writeAtOnce(raw syscall.RawConn, b []byte) error {
	var err error
	ended := raw.Write(func(fd uintptr) bool {
		for len(b) > 0 {
			n, e := unix.Write(int(fd), b)
			if errors.Is(e, unix.EINTR) {
				continue
			}
			if err = e; err != nil {
				return true
			}
			b = b[n:]
		}
		return true
	})
	if err == nil {
		err = ended
	}
	if errors.Is(err, unix.EAGAIN) {
		err = errors.New("the client does not read its answers")
	}
	return err
}
