package bgp

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"sync"

	"github.com/vpclab/vpclab/emu/event"
)

// Body is a router's control plane behind a control channel: what RunSpeaker
// is for GoBGP, others can be by Serve. Its methods are called one after the
// other.
type Body interface {
	// Configure converges to cfg, which is valid.
	Configure(ctx context.Context, cfg Config) error
	RIB(ctx context.Context) ([]RouteInfo, error)
	// Reset ends the session with a neighbor, or all of them (zero), by a
	// notification; they come about again.
	Reset(ctx context.Context, neighbor netip.Addr) error
	// Stop takes everything of this control plane out of the kernel and ends
	// what it runs. Nothing is called after it.
	Stop(ctx context.Context) error
}

// Serve answers the parent's requests on conn with the Body that begin makes;
// begin is given a sink for its events, which may be used from any goroutine.
// Serve returns nil after a stop, and when conn ends: then the parent is gone.
// When ctx ends first it returns the cause.
func Serve(ctx context.Context, conn io.ReadWriteCloser, begin func(event.Sink) Body) error {
	w := &lineWriter{w: conn}
	body := begin(func(e event.Event) { w.put(reply{Event: &e}) })
	in := newInbox()
	var reader sync.WaitGroup
	reader.Go(func() { readLines(conn, in.put) })
	defer reader.Wait()
	defer conn.Close() // ends the reader
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-in.signal:
		}
		for _, m := range in.take() {
			line, ok := m.(lineMsg)
			if !ok { // the end of conn
				return nil
			}
			if done, err := serve(ctx, line.line, body, w); done || err != nil {
				return err
			}
		}
	}
}

// serve answers one request; done says that it was the last.
func serve(ctx context.Context, line []byte, body Body, w *lineWriter) (done bool, err error) {
	r, err := decodeRequest(line)
	if err != nil && r.ID == 0 {
		return true, err // nobody to answer
	}
	answer := reply{ID: r.ID}
	switch {
	case err != nil:
	case r.Op == opConfigure:
		err = body.Configure(ctx, *r.Config)
	case r.Op == opRIB:
		answer.RIB, err = body.RIB(ctx)
	case r.Op == opReset:
		err = body.Reset(ctx, r.Neighbor)
	case r.Op == opStop:
		err = body.Stop(ctx)
		done = true
	}
	if cause := context.Cause(ctx); cause != nil && !done {
		err = errors.Join(err, cause)
	}
	if err != nil {
		answer.Error = err.Error()
	}
	w.put(answer)
	return done, nil
}

// lineWriter writes messages whole, from several goroutines. That the parent
// is gone shows at the reading end.
type lineWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (w *lineWriter) put(r reply) {
	out, err := appendLine(nil, r)
	if err != nil {
		out, _ = appendLine(nil, reply{ID: r.ID, Error: err.Error()})
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	_, _ = w.w.Write(out)
}
