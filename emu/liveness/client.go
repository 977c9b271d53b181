package liveness

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"
)

// How long a listener waits until it looks for the server again: where there
// is none yet, or none any more until its successor is there.
const (
	firstWait   = 20 * time.Millisecond
	longestWait = 500 * time.Millisecond
)

// maxLine bounds what one State may take.
const maxLine = 4 << 10

// Watch listens to the router's repair process, in the network namespace of this
// process, until ctx ends, and calls each for every State that it hears. When the
// server is gone it looks for its successor, which says everything again: each
// may hear what it knows. That no server is there is not a reason to think
// anybody dead, and is told to nobody. The error is ctx's.
func Watch(ctx context.Context, each func(State)) error { return watch(ctx, Socket, each) }

func watch(ctx context.Context, name string, each func(State)) error {
	wait := firstWait
	for ctx.Err() == nil {
		if heard := listenTo(ctx, name, each); heard {
			wait = firstWait
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
			wait = min(2*wait, longestWait)
		case <-ctx.Done():
			timer.Stop()
		}
	}
	return context.Cause(ctx)
}

// listenTo reads one server's lines until it is gone; heard tells that it was
// there.
func listenTo(ctx context.Context, name string, each func(State)) (heard bool) {
	conn, err := dial(ctx, name)
	if err != nil {
		return false
	}
	Read(ctx, conn, each)
	return true
}

// Dial looks for the server once, in the network namespace of this thread.
func Dial(ctx context.Context) (net.Conn, error) { return dial(ctx, Socket) }

func dial(ctx context.Context, name string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", name)
	if err != nil {
		return nil, fmt.Errorf("ask who is alive: %w", err)
	}
	return conn, nil
}

// Read calls each for every State that a server says on conn, until ctx ends or
// the server is gone, and closes conn.
func Read(ctx context.Context, conn net.Conn, each func(State)) {
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	defer conn.Close()
	lines := bufio.NewScanner(conn)
	lines.Buffer(make([]byte, maxLine), maxLine)
	for lines.Scan() {
		st, err := parse(lines.Bytes())
		if err != nil {
			return // whoever says this says nothing that helps
		}
		each(st)
	}
}

func parse(line []byte) (st State, err error) {
	if err = json.Unmarshal(line, &st); err == nil && st.Dev == "" && !st.Peer.IsValid() {
		err = errors.New("it is about nobody")
	}
	if err != nil {
		return State{}, fmt.Errorf("read who is alive: %w", err)
	}
	return st, nil
}
