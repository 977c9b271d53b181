package inside

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"github.com/vpclab/vpclab/emu/child"
	"github.com/vpclab/vpclab/emu/guest"
)

// PortName is the name of the port at which the process inside answers: of
// QEMU's device virtserialport.
const PortName = "org.vpclab.guest"

// On the port each request is a line of JSON and so is each answer. A port knows
// no connections: what one keeper asked may be answered to the next. So a request
// has a number that no other has, and who asks drops answers to others.
type request struct {
	ID uint64 `json:"id"`
	Op op     `json:"op"`
}

type op string

const (
	opHello  op = "hello"
	opStatus op = "status"
	opVerify op = "verify"
)

type answer struct {
	ID       uint64              `json:"id"`
	Error    string              `json:"error,omitempty"`
	Protocol int                 `json:"protocol,omitempty"` // hello
	Status   *guest.Status       `json:"status,omitempty"`
	Verified *guest.Verification `json:"verified,omitempty"`
}

// mostLineSize bounds a line.
const mostLineSize = 64 << 10

// Link is the keeper's end of the port. It may be used by several at once, who
// wait for each other.
type Link struct {
	conn net.Conn
	turn chan struct{}
	in   []byte // received, and no whole line yet
	last uint64
}

// NewLink talks by a connection to the socket that is the port's other end.
func NewLink(conn net.Conn) *Link {
	return &Link{conn: conn, turn: make(chan struct{}, 1), last: rand.Uint64() >> 12} // JSON numbers are exact to 2^53
}

// Close ends the connection. The process inside waits for the next.
func (l *Link) Close() error { return l.conn.Close() }

// Hello waits until the process inside answers, which it does once clients can
// reach it, and checks that it speaks this version.
func (l *Link) Hello(ctx context.Context) error {
	a, err := l.ask(ctx, opHello)
	if err == nil && a.Protocol != Protocol {
		err = stale("the words of the program in the guest", a.Protocol)
	}
	return err
}

// Status tells what the guest does. Folder is empty: the guest knows no hosts.
func (l *Link) Status(ctx context.Context) (guest.Status, error) {
	a, err := l.ask(ctx, opStatus)
	if err == nil && a.Status == nil {
		err = errors.New("ask the guest for its status: the answer has none")
	}
	if err != nil {
		return guest.Status{}, err
	}
	return *a.Status, nil
}

// Verify has the guest compare all of its memory, and what it knows of its disk,
// with what it wrote. It takes a second for 100 MiB where instructions are
// translated; the guest goes on meanwhile.
func (l *Link) Verify(ctx context.Context) (guest.Verification, error) {
	a, err := l.ask(ctx, opVerify)
	if err == nil && a.Verified == nil {
		err = errors.New("have the guest verify its memory: the answer does not tell")
	}
	if err != nil {
		return guest.Verification{}, err
	}
	return *a.Verified, nil
}

// ask sends a request and waits for its answer, until ctx ends. The link is of
// use afterwards all the same.
func (l *Link) ask(ctx context.Context, what op) (a answer, err error) {
	fail := func(err error) (answer, error) {
		return answer{}, fmt.Errorf("ask the guest at its port: %s: %w", what, err)
	}
	select {
	case l.turn <- struct{}{}:
	case <-ctx.Done():
		return fail(context.Cause(ctx))
	}
	defer func() { <-l.turn }()
	if err := l.conn.SetDeadline(time.Time{}); err != nil {
		return fail(err)
	}
	hurried := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { l.conn.SetDeadline(time.Unix(1, 0)); close(hurried) })
	defer func() {
		if !stop() {
			<-hurried // or it would hurry the next
		}
	}()
	l.last++
	b, err := json.Marshal(request{ID: l.last, Op: what})
	if err != nil {
		return fail(err)
	}
	// A line that was cut off before is ended first.
	if _, err := l.conn.Write(append(append([]byte{'\n'}, b...), '\n')); err != nil {
		return fail(waited(ctx, err))
	}
	for a.ID != l.last {
		line, err := l.line()
		if err != nil {
			return fail(waited(ctx, err))
		}
		a = answer{}
		if child.Decode(line, &a) != nil {
			a = answer{} // what a former keeper's answer left over
		}
	}
	if a.Error != "" {
		return fail(errors.New(a.Error))
	}
	return a, nil
}

// line reads one line. What has come of the next is kept.
func (l *Link) line() ([]byte, error) {
	for {
		if line, rest, ok := bytes.Cut(l.in, []byte{'\n'}); ok {
			line = bytes.Clone(line)
			l.in = append(l.in[:0], rest...)
			return line, nil
		}
		if len(l.in) > mostLineSize {
			return nil, fmt.Errorf("a line of more than %d bytes", mostLineSize)
		}
		var b [4 << 10]byte
		n, err := l.conn.Read(b[:])
		l.in = append(l.in, b[:n]...)
		if err != nil {
			return nil, err
		}
	}
}

// waited is the error of a wait that ctx may have ended.
func waited(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
