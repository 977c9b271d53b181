// Package qmp speaks the QEMU Machine Protocol (QEMU's docs/interop/qmp-spec):
// commands and their answers, and events with the times at which they happened,
// over a monitor's Unix socket.
//
// A Client is for any number of goroutines. QEMU carries out commands one after
// the other, in the order in which they were sent; whoever gives a wait up leaves
// the command with QEMU, and the connection as it was.
package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/unixsock"
)

// ErrGone is why a call fails when QEMU has ended, or closed the monitor.
var ErrGone = errors.New("QEMU is gone")

// ErrClosed is why a call fails after Close.
var ErrClosed = errors.New("the connection to QEMU was closed")

// Version is QEMU's.
type Version struct {
	Major, Minor, Micro int
	Package             string // of who built it
}

func (v Version) String() string {
	return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Micro)
}

// Client is one connection to a monitor.
type Client struct {
	// Version is that of the QEMU at the other end.
	Version Version

	name string // of the monitor, in errors
	conn *net.UnixConn
	done chan struct{} // closed when nothing is read any more

	sending sync.Mutex // held by whoever writes a line

	mu      sync.Mutex
	lastID  uint64
	waiting map[uint64]chan<- answer
	heard   map[*Subscription]struct{}
	err     error // why nothing is read any more
}

// Dial connects to the monitor at path and waits until QEMU greets.
func Dial(ctx context.Context, path string) (*Client, error) {
	conn, err := unixsock.Dial(path)
	if err != nil {
		return nil, fmt.Errorf("QMP: connect: %w", err)
	}
	return New(ctx, conn, path)
}

// New speaks over a connection that is there, and calls it name in errors. The
// connection is the client's, even if there comes none of it.
func New(ctx context.Context, conn *net.UnixConn, name string) (*Client, error) {
	c := &Client{name: name, conn: conn, done: make(chan struct{}), waiting: map[uint64]chan<- answer{}, heard: map[*Subscription]struct{}{}}
	in := bufio.NewReaderSize(conn, 64<<10)
	if err := c.greet(ctx, in); err != nil {
		conn.Close()
		return nil, fmt.Errorf("QMP %s: %w", name, err)
	}
	go c.read(in)
	if err := c.Execute(ctx, "qmp_capabilities", nil, nil); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// greet reads the greeting. A QEMU that ends before it has one says nothing.
func (c *Client) greet(ctx context.Context, in *bufio.Reader) error {
	stop := context.AfterFunc(ctx, func() { c.conn.SetReadDeadline(time.Unix(1, 0)) })
	line, err := readLine(in)
	if !stop() {
		return fmt.Errorf("wait for QEMU's greeting: %w", context.Cause(ctx))
	}
	if err != nil {
		return fmt.Errorf("wait for QEMU's greeting: %w", gone(err))
	}
	c.Version, err = parseGreeting(line)
	return err
}

// gone says that QEMU is, where that is what an error of the connection means.
func gone(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return ErrClosed
	}
	return fmt.Errorf("%w (%w)", ErrGone, err)
}

// Close ends the connection. QEMU goes on.
func (c *Client) Close() error {
	err := c.conn.Close()
	<-c.done
	return err
}

// Done is closed when the connection has ended: by Close, or because QEMU has.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err is why it has ended: ErrClosed, ErrGone, or what QEMU said that is no QMP.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// read hands out what QEMU says until it says no more.
func (c *Client) read(in *bufio.Reader) {
	var err error
	for err == nil {
		var line []byte
		if line, err = readLine(in); err != nil {
			err = gone(err)
			break
		}
		var m message
		if m, err = parseMessage(line); err == nil {
			c.hand(m)
		}
	}
	c.conn.Close()
	c.mu.Lock()
	c.err = err
	for s := range c.heard {
		s.end()
	}
	c.mu.Unlock()
	close(c.done)
}

// hand gives a message to who waits for it.
func (c *Client) hand(m message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.event != nil {
		for s := range c.heard {
			s.put(*m.event)
		}
		return
	}
	if to := c.waiting[m.id]; to != nil { // else nobody waits any more
		delete(c.waiting, m.id)
		to <- m.answer
	}
}

// Error is QEMU's no to a command.
type Error struct {
	Command string
	Class   string // GenericError, CommandNotFound, DeviceNotFound …
	Desc    string // in words
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %s (%s)", e.Command, e.Desc, e.Class) }

// Execute has QEMU do a command, and decodes what it returns into result, unless
// that is nil. arguments is a map or struct that makes a JSON object; nil: none.
// QEMU's own no is an *Error. When ctx ends first, what becomes of the command is
// not known.
func (c *Client) Execute(ctx context.Context, command string, arguments, result any) error {
	return c.Send(ctx, command, arguments).Wait(ctx, result)
}

// Call is a command that was sent.
type Call struct {
	client  *Client
	command string
	id      uint64
	came    chan answer
	err     error // it was not
}

// Send sends a command and does not wait for what comes of it, so that the next
// one is there when QEMU has done it. Wait must be called.
func (c *Client) Send(ctx context.Context, command string, arguments any) *Call {
	return c.sendWith(ctx, command, arguments, nil)
}

// sendWith sends a command, with file beside it unless that is nil.
func (c *Client) sendWith(ctx context.Context, command string, arguments any, file *os.File) *Call {
	call := &Call{client: c, command: command, came: make(chan answer, 1)}
	if call.err = context.Cause(ctx); call.err != nil {
		return call
	}
	c.mu.Lock()
	c.lastID++
	call.id = c.lastID
	c.waiting[call.id] = call.came
	c.mu.Unlock()
	line, err := encodeCommand(call.id, command, arguments)
	if err == nil {
		err = c.send(ctx, line, file)
	}
	call.err = err
	return call
}

// Wait waits for the answer, as Execute does.
func (call *Call) Wait(ctx context.Context, result any) error {
	defer call.forget()
	a, err := call.answer(ctx)
	if err == nil && a.err != nil {
		a.err.Command = call.command
		return fmt.Errorf("QMP %s: %w", call.client.name, a.err)
	}
	if err == nil && result != nil {
		err = json.Unmarshal(a.result, result)
	}
	if err != nil {
		return fmt.Errorf("QMP %s: %s: %w", call.client.name, call.command, err)
	}
	return nil
}

func (call *Call) forget() {
	call.client.mu.Lock()
	delete(call.client.waiting, call.id)
	call.client.mu.Unlock()
}

func (call *Call) answer(ctx context.Context) (answer, error) {
	if call.err != nil {
		return answer{}, call.err
	}
	select {
	case a := <-call.came:
		return a, nil
	case <-ctx.Done():
		return answer{}, fmt.Errorf("wait for QEMU's answer: %w", context.Cause(ctx))
	case <-call.client.done:
	}
	select {
	case a := <-call.came: // its last words
		return a, nil
	default:
		return answer{}, call.client.Err()
	}
}

// send writes a line whole. A QEMU that reads nothing blocks it; a line that could
// only be written in part ends the connection.
func (c *Client) send(ctx context.Context, line []byte, file *os.File) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	hurried := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { c.conn.SetWriteDeadline(time.Unix(1, 0)); close(hurried) })
	n, err := c.write(line, file)
	if !stop() {
		<-hurried // or it would hurry the next
		if err == nil {
			err = c.conn.SetWriteDeadline(time.Time{}) // it ended just now; the next may write
		}
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, net.ErrClosed):
		<-c.done
		return c.Err()
	case ctx.Err() == nil:
		return gone(err)
	case n > 0:
		c.conn.Close()
	}
	_ = c.conn.SetWriteDeadline(time.Time{})
	return fmt.Errorf("wait until QEMU reads: %w", context.Cause(ctx))
}

func (c *Client) write(line []byte, file *os.File) (n int, err error) {
	if file != nil {
		// A descriptor comes with the first byte.
		raw, err := file.SyscallConn()
		if err != nil {
			return 0, err
		}
		if failed := raw.Control(func(fd uintptr) { n, _, err = c.conn.WriteMsgUnix(line, unix.UnixRights(int(fd)), nil) }); failed != nil {
			return 0, failed
		}
		if err != nil || n == len(line) {
			return n, err
		}
	}
	rest, err := c.conn.Write(line[n:])
	return n + rest, err
}
