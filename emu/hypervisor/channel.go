package hypervisor

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/vpclab/vpclab/emu/child"
	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/migrate"
	"github.com/vpclab/vpclab/emu/vmm"
)

// The control channel is a stream socket with one JSON object a line. Both ends
// ask and answer: the lab tells an agent what to do, and an agent asks the lab
// who a VM belongs to. Each question has a number of its own from 1, by end;
// many may be under way at a time. An agent's events have none. End of file
// means that the other process is gone.

// maxLine bounds a message.
const maxLine = 4 << 20

// DefaultWait bounds a call whose context has no deadline.
const DefaultWait = 60 * time.Second

// message is one line: a question (ID, Op), an answer (Re) or an event.
type message struct {
	ID    uint64          `json:"id,omitempty"`
	Re    uint64          `json:"re,omitempty"`
	Op    string          `json:"op,omitempty"`
	Body  json.RawMessage `json:"body,omitempty"`
	Error string          `json:"error,omitempty"`
	Is    string          `json:"is,omitempty"` // which of kindred the error is
	Event *event.Event    `json:"event,omitempty"`
}

// kindred are errors that the other end decides by.
var kindred = map[string]error{
	"committed": migrate.ErrCommitted, "aborted": migrate.ErrAborted, "in-doubt": migrate.ErrInDoubt,
	"no-such-vm": ErrNoVM, "anew": ErrAnew, "diverged": vmm.ErrDiverged,
}

// remoteError is an error of the other end, with what it is.
type remoteError struct {
	text string
	is   error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.is }

// errGone is why a call fails whose other end is gone.
var errGone = errors.New("the other process is gone")

// channel is one end. handle answers the other end's questions, each in a
// goroutine of its own; its context ends with the channel.
type channel struct {
	conn   net.Conn
	handle func(ctx context.Context, op string, body json.RawMessage) (any, error)
	sink   event.Sink

	write sync.Mutex // one line at a time

	mu    sync.Mutex
	next  uint64
	calls map[uint64]chan message // nil: the channel has ended
}

func newChannel(conn net.Conn, handle func(context.Context, string, json.RawMessage) (any, error), sink event.Sink) *channel {
	return &channel{conn: conn, handle: handle, sink: sink, calls: map[uint64]chan message{}}
}

// serve reads until the channel ends, and waits for what it has begun.
func (c *channel) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var busy sync.WaitGroup
	defer busy.Wait()
	defer cancel(errGone)
	defer c.end()
	stop := context.AfterFunc(ctx, func() { c.conn.Close() })
	defer stop()
	lines := bufio.NewScanner(c.conn)
	lines.Buffer(make([]byte, 0, 64<<10), maxLine)
	for lines.Scan() {
		m, err := decodeMessage(lines.Bytes())
		switch {
		case err != nil:
			return err
		case m.Event != nil:
			c.sink(*m.Event)
		case m.Re != 0:
			c.mu.Lock()
			waiting := c.calls[m.Re]
			delete(c.calls, m.Re)
			c.mu.Unlock()
			if waiting != nil {
				waiting <- m // buffered
			}
		default:
			busy.Go(func() { c.answer(ctx, m) })
		}
	}
	if err := lines.Err(); err != nil && context.Cause(ctx) == nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("read control channel: %w", err)
	}
	return context.Cause(ctx)
}

// decodeMessage reads a line and checks that it is one of the three.
func decodeMessage(line []byte) (m message, err error) {
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return m, fmt.Errorf("control message: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return m, errors.New("control message: more than one object on the line")
	}
	question, answer, told := m.ID != 0 && m.Op != "", m.Re != 0, m.Event != nil
	if question && (answer || told) || answer && told || !question && !answer && !told {
		return m, errors.New("control message: want a question, an answer or an event")
	}
	return m, nil
}

// end settles everybody who waits.
func (c *channel) end() {
	c.conn.Close()
	c.mu.Lock()
	calls := c.calls
	c.calls = nil
	c.mu.Unlock()
	for _, waiting := range calls {
		close(waiting)
	}
}

// answer does what was asked for.
func (c *channel) answer(ctx context.Context, m message) {
	out, err := c.handle(ctx, m.Op, m.Body)
	reply := message{Re: m.ID}
	if out != nil {
		body, failed := json.Marshal(out)
		reply.Body, err = body, errors.Join(err, failed)
	}
	if err != nil {
		reply.Error = err.Error()
		for name, known := range kindred {
			if errors.Is(err, known) {
				reply.Is = name
			}
		}
	}
	_ = c.send(reply) // that the other end is gone shows when reading
}

// call asks the other end and waits for the answer, whose body goes into out
// unless that is nil. Where there is a body it is read even if there is an error
// too.
func (c *channel) call(ctx context.Context, op string, in, out any) error {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, DefaultWait, fmt.Errorf("no answer within %v", DefaultWait))
		defer cancel()
	}
	return c.ask(ctx, op, in, out)
}

// ask is call for what takes as long as it takes.
func (c *channel) ask(ctx context.Context, op string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	waiting := make(chan message, 1)
	c.mu.Lock()
	if c.calls == nil {
		c.mu.Unlock()
		return errGone
	}
	c.next++
	id := c.next
	c.calls[id] = waiting
	c.mu.Unlock()
	err = c.send(message{ID: id, Op: op, Body: body})
	if err == nil {
		select {
		case m, ok := <-waiting:
			if !ok {
				return errGone
			}
			return m.outcome(out)
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	c.mu.Lock()
	delete(c.calls, id)
	c.mu.Unlock()
	return err
}

// outcome is what an answer says.
func (m message) outcome(out any) error {
	var err error
	if m.Error != "" {
		err = &remoteError{m.Error, kindred[m.Is]}
	}
	if out != nil && len(m.Body) > 0 {
		if bad := json.Unmarshal(m.Body, out); bad != nil {
			err = errors.Join(err, fmt.Errorf("control answer: %w", bad))
		}
	}
	return err
}

// emit tells the other end of something that happened.
func (c *channel) emit(e event.Event) { _ = c.send(message{Event: &e}) }

func (c *channel) send(m message) error {
	line, err := json.Marshal(m)
	if err == nil && len(line) >= maxLine {
		err = fmt.Errorf("of %d bytes: want less than %d", len(line), maxLine)
	}
	if err != nil {
		return fmt.Errorf("control message: %w", err)
	}
	c.write.Lock()
	defer c.write.Unlock()
	if _, err := c.conn.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("write control channel: %w", err)
	}
	return nil
}

// ControlConn is the control channel of a process that Start made.
func ControlConn() (net.Conn, error) { return child.Conn("agent") }
