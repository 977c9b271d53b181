package repair

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vpclab/vpclab/emu/child"
	"github.com/vpclab/vpclab/emu/event"
)

// Verb is the hidden verb of this program that Run is the body of.
const Verb = "repair"

// defaultWait bounds a question whose context has no deadline.
const defaultWait = 30 * time.Second

// Namespaces starts processes inside nodes; *fabric.Fabric is one.
type Namespaces = child.Namespaces

// Process is the lab's handle of one router's process. Its methods may be called
// from several goroutines. Kill leaves routes as they are; a successor recognizes
// them.
type Process struct {
	*child.Process
	node string
	sink event.Sink

	write sync.Mutex // one line at a time

	mu    sync.Mutex
	next  uint64
	calls map[uint64]chan reply
}

// Start runs the process in a router's namespace. It returns as soon as the
// process exists; the first Configure waits for it to answer. Events go to sink.
// ctx bounds the start only.
func Start(ctx context.Context, ns Namespaces, node string, sink event.Sink) (*Process, error) {
	c, err := child.Start(ctx, ns, child.Command{What: "repair process of " + node, Node: node, Args: []string{Verb}, Env: environment})
	if err != nil {
		return nil, err
	}
	p := &Process{Process: c, node: node, sink: sink, calls: map[uint64]chan reply{}}
	go p.Run(p.read, p.settle)
	return p, nil
}

// settle answers everybody who waits for a process that has ended.
func (p *Process) settle(status, last string) {
	p.mu.Lock()
	calls := p.calls
	p.calls = nil
	p.mu.Unlock()
	p.sink(event.New(p.node, "repair.exit", map[string]string{"status": status, "stderr": last}))
	for _, c := range calls {
		close(c)
	}
}

// read takes lines until end of file.
func (p *Process) read() error {
	sc := bufio.NewScanner(p.Conn)
	sc.Buffer(make([]byte, 0, 16<<10), maxLine)
	for sc.Scan() {
		r, err := decodeReply(sc.Bytes())
		if err != nil {
			return err
		}
		if r.Event != nil {
			p.sink(*r.Event)
			continue
		}
		p.mu.Lock()
		c := p.calls[r.ID]
		delete(p.calls, r.ID)
		p.mu.Unlock()
		if c != nil {
			c <- r // buffered
		}
	}
	return sc.Err()
}

// call sends a request and waits for its answer.
func (p *Process) call(ctx context.Context, r request) (reply, error) {
	fail := func(err error) (reply, error) {
		return reply{}, fmt.Errorf("repair process of %s: %s: %w", p.node, r.Op, err)
	}
	if _, has := ctx.Deadline(); !has {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, defaultWait, fmt.Errorf("waited %v for an answer", defaultWait))
		defer cancel()
	}
	answer := make(chan reply, 1)
	p.mu.Lock()
	if p.calls == nil {
		p.mu.Unlock()
		return fail(p.Ended())
	}
	p.next++
	r.ID = p.next
	p.calls[r.ID] = answer
	p.mu.Unlock()
	line, err := json.Marshal(r)
	if err == nil {
		p.write.Lock()
		_, err = p.Conn.Write(append(line, '\n'))
		p.write.Unlock()
	}
	if err != nil {
		p.forget(r.ID)
		return fail(err)
	}
	select {
	case got, ok := <-answer:
		switch {
		case !ok:
			return fail(p.Ended())
		case got.Error != "":
			return got, fmt.Errorf("repair process of %s: %s: %s", p.node, r.Op, got.Error)
		}
		return got, nil
	case <-ctx.Done():
		p.forget(r.ID)
		return fail(context.Cause(ctx))
	}
}

func (p *Process) forget(id uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.calls, id)
}

// Configure sends cfg whole. It returns when sessions are set up (not when they
// are up) and the kernel has the routes that follow from what is known.
func (p *Process) Configure(ctx context.Context, cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	_, err := p.call(ctx, request{Op: opConfigure, Config: &cfg})
	return err
}

// Status is what the process knows.
func (p *Process) Status(ctx context.Context) (*Status, error) {
	r, err := p.call(ctx, request{Op: opStatus})
	if err == nil && r.Status == nil {
		err = fmt.Errorf("repair process of %s: %s: the answer has no status", p.node, opStatus)
	}
	return r.Status, err
}

// Stop ends the process in order: neighbours are told that this end stops on
// purpose, and the router's own routes are put back, whatever has failed. One
// that has not ended when ctx does is killed.
func (p *Process) Stop(ctx context.Context) error {
	p.Expect()
	ctx, cancel := context.WithTimeoutCause(ctx, defaultWait, fmt.Errorf("waited %v for its end", defaultWait))
	defer cancel()
	_, err := p.call(ctx, request{Op: opStop})
	select {
	case <-p.Done():
		if err != nil && p.Succeeded() {
			return nil // it was gone already
		}
		return err
	case <-ctx.Done():
		return errors.Join(err, fmt.Errorf("repair process of %s: stop: still running, killed: %w", p.node, context.Cause(ctx)), p.Kill())
	}
}

// Node is the router that the process runs in.
func (p *Process) Node() string { return p.node }
