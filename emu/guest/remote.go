package guest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/unixsock"
)

// Remote steers a guest process by its control socket. It is for any number of
// goroutines; calls are done one after the other. After a call that ended by its
// context the connection is closed: whether the guest did it is not known, and
// the caller connects anew and asks again.
type Remote struct {
	socket, on string

	mu     sync.Mutex
	conn   *net.UnixConn
	lines  *bufio.Reader
	lastID uint64
	broken error
}

var _ Control = (*Remote)(nil)

// ErrRefused is a guest's no: it was reached, and did not do it.
var ErrRefused = errors.New("the guest refused")

// Connect reaches the guest whose control socket is at path socket. on is the
// folder of the host on whose behalf it is steered: a guest that runs on another
// folder by then refuses Pause, Resume and Mirror. "" steers it wherever it is.
func Connect(ctx context.Context, socket, on string) (*Remote, error) {
	conn, err := unixsock.Dial(socket) // a local socket: it never waits
	if err != nil {
		return nil, fmt.Errorf("connect to guest: %w", err)
	}
	return &Remote{socket: socket, on: on, conn: conn, lines: bufio.NewReaderSize(conn, 64<<10)}, nil
}

// Close ends the connection. The guest goes on.
func (r *Remote) Close() error { return r.conn.Close() }

// Pause implements Control.
func (r *Remote) Pause(ctx context.Context) (at event.Mono, state []byte, err error) {
	a, err := r.call(ctx, request{Op: opPause, On: r.on})
	return a.At, a.state, err
}

// Checkpoint implements Control.
func (r *Remote) Checkpoint(ctx context.Context, connections bool) (at event.Mono, state []byte, err error) {
	a, err := r.call(ctx, request{Op: opCheckpoint, On: r.on, Connections: connections})
	return a.At, a.state, err
}

// Resume implements Control.
func (r *Remote) Resume(ctx context.Context) (at event.Mono, err error) {
	a, err := r.call(ctx, request{Op: opResume, On: r.on})
	return a.At, err
}

// Prepare implements Control.
func (r *Remote) Prepare(ctx context.Context, folder string, opt AdoptOptions) error {
	_, err := r.call(ctx, request{
		Op: opPrepare, Folder: folder, Missing: opt.Missing, Boot: opt.Boot, NetNS: opt.NetNS, Incoming: opt.Incoming,
	})
	return err
}

// Adopt implements Control.
func (r *Remote) Adopt(ctx context.Context, folder string, state []byte, opt AdoptOptions) (at event.Mono, err error) {
	a, err := r.call(ctx, request{Op: opAdopt, Folder: folder, state: state, Missing: opt.Missing, NetNS: opt.NetNS})
	return a.At, err
}

// Boot implements Control.
func (r *Remote) Boot(ctx context.Context, folder string) (at event.Mono, err error) {
	a, err := r.call(ctx, request{Op: opBoot, Folder: folder})
	return a.At, err
}

// Resend implements Control.
func (r *Remote) Resend(ctx context.Context) error {
	_, err := r.call(ctx, request{Op: opResend, On: r.on})
	return err
}

// Mirror implements Control.
func (r *Remote) Mirror(ctx context.Context, path string) error {
	_, err := r.call(ctx, request{Op: opMirror, On: r.on, Path: path})
	return err
}

// Status implements Control.
func (r *Remote) Status(ctx context.Context) (Status, error) {
	a, err := r.call(ctx, request{Op: opStatus})
	if err == nil && a.Status == nil {
		err = fmt.Errorf("guest %s: answer to status has none", r.socket)
	}
	if err != nil {
		return Status{}, err
	}
	return *a.Status, nil
}

// Verify implements Verifier.
func (r *Remote) Verify(ctx context.Context) (Verification, error) {
	a, err := r.call(ctx, request{Op: opVerify})
	if err == nil && a.Verification == nil {
		err = fmt.Errorf("guest %s: answer to verify has none", r.socket)
	}
	if err != nil {
		return Verification{}, err
	}
	return *a.Verification, nil
}

// call sends one request and waits for its answer.
func (r *Remote) call(ctx context.Context, q request) (reply, error) {
	what := fmt.Sprintf("guest %s: %s", r.socket, q.Op)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken != nil {
		return reply{}, fmt.Errorf("%s: %w", what, r.broken)
	}
	if err := context.Cause(ctx); err != nil {
		return reply{}, fmt.Errorf("%s: %w", what, err)
	}
	r.lastID++
	q.ID = r.lastID
	if deadline, ok := ctx.Deadline(); ok {
		q.WithinMS = max(1, time.Until(deadline).Milliseconds())
	}
	q.State = len(q.state)
	line, err := encodeLine(q)
	if err != nil {
		return reply{}, fmt.Errorf("%s: %w", what, err)
	}
	stop := context.AfterFunc(ctx, func() { r.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	a, err := r.exchange(line, q.state)
	if err == nil && a.ID != q.ID {
		err = fmt.Errorf("answer has number %d: want %d", a.ID, q.ID)
	}
	if err != nil {
		r.broken = errors.New("the connection was given up after an earlier call failed")
		r.conn.Close()
		return reply{}, waitError(ctx, what, err)
	}
	if a.Error != "" {
		return a, fmt.Errorf("%s: %w: %s", what, ErrRefused, a.Error)
	}
	return a, nil
}

func (r *Remote) exchange(line, state []byte) (reply, error) {
	if err := send(r.conn, line, state); err != nil {
		return reply{}, err
	}
	answer, err := readLine(r.lines)
	if err != nil {
		return reply{}, err
	}
	a, err := decodeReply(answer)
	if err == nil {
		a.state, err = readState(r.lines, a.State)
	}
	return a, err
}

// readLine reads up to a newline, at most maxLine.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > maxLine {
			return nil, fmt.Errorf("line of more than %d bytes", maxLine)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}
