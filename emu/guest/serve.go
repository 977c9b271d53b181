package guest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Steered is what stands behind a control socket: a guest of any kind.
type Steered interface {
	Control
	// IsOn fails where the guest runs on another folder than this one; "" is
	// anywhere.
	IsOn(folder string) error
}

// Verifier is a guest that can tell by itself whether its memory and disk hold what
// it wrote: one with a kernel of its own, into which nobody looks.
type Verifier interface {
	// Verify compares all of it, beside the guest's work.
	Verify(ctx context.Context) (Verification, error)
}

var _ Steered = (*machine)(nil)

// Serve answers agents that connect to l until ctx ends. name is the guest's.
func Serve(ctx context.Context, l *net.UnixListener, name string, g Steered) error {
	var all sync.WaitGroup
	defer all.Wait()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		conn, err := l.AcceptUnix()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("guest %s: accept agent: %w", name, err)
		}
		all.Go(func() {
			end := context.AfterFunc(ctx, func() { conn.Close() })
			defer end()
			defer conn.Close()
			_ = serveAgent(ctx, conn, g) // an agent that goes comes again
		})
	}
}

// serveAgent answers one agent's requests, in order, until it hangs up or says
// something that is no request.
func serveAgent(ctx context.Context, conn io.ReadWriter, g Steered) error {
	in := bufio.NewReaderSize(conn, 64<<10)
	for {
		line, err := readLine(in)
		if err != nil {
			return err
		}
		q, err := decodeRequest(line)
		if err != nil && q.ID == 0 {
			return err // nobody to answer
		}
		var broken error
		if q.state, broken = readState(in, q.State); broken != nil {
			return broken
		}
		a := reply{ID: q.ID}
		if err == nil {
			a, err = serve(ctx, q, g)
		}
		if err != nil {
			a = reply{ID: q.ID, Error: err.Error()}
		}
		a.State = len(a.state)
		out, err := encodeLine(a)
		if err != nil {
			return err
		}
		if err := send(conn, out, a.state); err != nil {
			return err
		}
	}
}

// serve does one request.
func serve(ctx context.Context, q request, g Steered) (a reply, err error) {
	if q.WithinMS > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(q.WithinMS)*time.Millisecond)
		defer cancel()
	}
	if err := g.IsOn(q.On); err != nil {
		return a, err
	}
	a.ID = q.ID
	opt := AdoptOptions{Missing: q.Missing, Boot: q.Boot, NetNS: q.NetNS, Incoming: q.Incoming}
	switch q.Op {
	case opPause:
		a.At, a.state, err = g.Pause(ctx)
	case opCheckpoint:
		a.At, a.state, err = g.Checkpoint(ctx, q.Connections)
	case opResume:
		a.At, err = g.Resume(ctx)
	case opPrepare:
		err = g.Prepare(ctx, q.Folder, opt)
	case opAdopt:
		a.At, err = g.Adopt(ctx, q.Folder, q.state, opt)
	case opBoot:
		a.At, err = g.Boot(ctx, q.Folder)
	case opResend:
		err = g.Resend(ctx)
	case opMirror:
		err = g.Mirror(ctx, q.Path)
	case opStatus:
		var s Status
		if s, err = g.Status(ctx); err == nil {
			a.Status = &s
		}
	case opVerify:
		v, ok := g.(Verifier)
		if !ok {
			return a, errors.New("this guest is verified from outside, by its memory and disk")
		}
		var found Verification
		if found, err = v.Verify(ctx); err == nil {
			a.Verification = &found
		}
	}
	return a, err
}
