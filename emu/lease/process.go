package lease

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vpclab/vpclab/emu/child"
	"github.com/vpclab/vpclab/emu/event"
)

// DefaultWait bounds a call whose context has no deadline.
const DefaultWait = 30 * time.Second

// Namespaces starts processes inside nodes; *fabric.Fabric is one.
type Namespaces = child.Namespaces

// Process is the lab's handle of one witness process. Its methods may be called
// from several goroutines; each fails when the process is gone. Kill leaves its
// records.
type Process struct {
	*child.Process
	host string

	turn    chan struct{} // held by who asks: answers come in order
	answers chan answer
}

// Start runs a witness in the namespace of a host. at is where its VMs' other
// members find it; dir has its records, and those that are there already are
// gone on with. Events go to sink. ctx bounds the start only.
func Start(ctx context.Context, ns Namespaces, host string, at netip.AddrPort, dir string, sink event.Sink) (*Process, error) {
	c, err := child.Start(ctx, ns, child.Command{What: "witness at " + host, Node: host, Args: []string{Verb, host, at.String(), dir}})
	if err != nil {
		return nil, err
	}
	p := &Process{Process: c, host: host, turn: make(chan struct{}, 1), answers: make(chan answer, 1)}
	go p.Run(func() error { return p.read(sink) }, nil)
	return p, nil
}

func (p *Process) read(sink event.Sink) error {
	lines := bufio.NewScanner(p.Conn)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var a answer
		if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
			return fmt.Errorf("control message: %w", err)
		}
		if a.Event != nil {
			sink(*a.Event)
			continue
		}
		select {
		case p.answers <- a:
		default:
			return errors.New("control message: an answer that nobody asked for")
		}
	}
	return lines.Err()
}

// ask is one question and its answer. A process that does not answer in time is
// of no more use to who asks in this way: it is ended.
func (p *Process) ask(ctx context.Context, o order) (a answer, err error) {
	fail := func(err error) (answer, error) {
		return answer{}, fmt.Errorf("witness at %s: %s: %w", p.host, o.Op, err)
	}
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, DefaultWait, fmt.Errorf("no answer within %v", DefaultWait))
		defer cancel()
	}
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return fail(fmt.Errorf("wait for an earlier question: %w", context.Cause(ctx)))
	case <-p.Done():
		return fail(p.Ended())
	}
	line, err := json.Marshal(o)
	if err != nil {
		return fail(err)
	}
	if _, err := p.Conn.Write(append(line, '\n')); err != nil {
		return fail(p.Ended())
	}
	select {
	case a = <-p.answers:
	case <-p.Done():
		return fail(p.Ended())
	case <-ctx.Done():
		// The answer may come yet, and be taken for that to another question.
		return fail(errors.Join(context.Cause(ctx), p.Fence(errSilent)))
	}
	if a.Error != "" {
		return fail(errors.New(a.Error))
	}
	return a, nil
}

// errSilent is why a witness is killed that has not answered in time.
var errSilent = errors.New("it did not answer in time")

// Serve has the witness serve a VM. One of which it has no record, or that of
// another instance, begins at the host first, which may not have left it to
// another: it is how the lab puts a new VM in its place. Said again, also to a
// witness that was started again, it goes on with the record, which is returned.
func (p *Process) Serve(ctx context.Context, c Config, first string) (Record, error) {
	a, err := p.ask(ctx, order{Op: opServe, Config: &c, First: first})
	if err != nil || a.Record == nil {
		return Record{}, err
	}
	return *a.Record, nil
}

// Forget ends with a VM that is gone, or whose hosts have both left their seats.
func (p *Process) Forget(ctx context.Context, vm string) error {
	_, err := p.ask(ctx, order{Op: opForget, VM: vm})
	return err
}

// Ping returns when the witness answers.
func (p *Process) Ping(ctx context.Context) error {
	_, err := p.ask(ctx, order{Op: opPing})
	return err
}

// Host is the node that the witness runs in.
func (p *Process) Host() string { return p.host }
