package bgp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vpclab/vpclab/emu/child"
	"github.com/vpclab/vpclab/emu/event"
)

// DefaultWait bounds a wait whose context has no deadline.
const DefaultWait = 30 * time.Second

// Namespaces starts processes inside nodes; *fabric.Fabric is one.
type Namespaces = child.Namespaces

// Speaker is the parent's handle of one speaker process. Its methods may be
// called from several goroutines. Kill leaves the kernel's routes, which the next
// speaker of the namespace cleans up.
type Speaker struct {
	*child.Process
	node string
	sink event.Sink

	write sync.Mutex // one line at a time

	mu          sync.Mutex
	next        uint64
	calls       map[uint64]chan reply
	established map[netip.Addr]bool
	neighbors   []netip.Addr  // of the last Config
	changed     chan struct{} // closed and replaced on each change of established
}

// Option changes how Start makes a speaker.
type Option func(*options)

type options struct {
	argv  []string
	apart uintptr
}

// WithCommand runs argv instead of this program's verb `speaker`.
func WithCommand(argv ...string) Option { return func(o *options) { o.argv = argv } }

// Apart gives the process namespaces of its own, by their clone(2) flags,
// besides the router's network namespace.
func Apart(flags uintptr) Option { return func(o *options) { o.apart = flags } }

// RouteInfo is one path of a speaker's RIB: a VPN route with prefix and label,
// or a VPLS path.
type RouteInfo struct {
	RD      string       `json:"rd"`
	Prefix  netip.Prefix `json:"prefix,omitzero"`
	Label   uint32       `json:"label,omitempty"`
	VPLS    *VPLSInfo    `json:"vpls,omitempty"`
	NextHop netip.Addr   `json:"next_hop"`
	RTs     []string     `json:"rts"`
	From    netip.Addr   `json:"from,omitzero"` // neighbour; zero: own route
	Best    bool         `json:"best"`
}

// VPLSInfo is the label block that a PE gives out for a VPLS, and the MTU that
// it wants (RFC 4761 sections 3.2.2 and 3.2.4): the PE with VE ID v sends to
// it with the label LabelBase+v-BlockOffset.
type VPLSInfo struct {
	VEID        int    `json:"ve_id"`
	BlockOffset int    `json:"block_offset"`
	BlockSize   int    `json:"block_size"`
	LabelBase   uint32 `json:"label_base"`
	MTU         int    `json:"mtu"`
}

func (v VPLSInfo) String() string {
	return fmt.Sprintf("VE %d: %s, MTU %d", v.VEID, labelBlock{v.BlockOffset, v.BlockSize, v.LabelBase}, v.MTU)
}

// Start runs a speaker process in node's network namespace. It returns as
// soon as the process exists; the first Configure waits for it to answer, so
// that many can start side by side. Events of the speaker go to sink (nil:
// nowhere). ctx bounds the start only.
func Start(ctx context.Context, ns Namespaces, node string, sink event.Sink, opts ...Option) (*Speaker, error) {
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	if sink == nil {
		sink = func(event.Event) {}
	}
	c, err := child.Start(ctx, ns, child.Command{What: "speaker " + node, Node: node, Args: []string{"speaker"}, Argv: o.argv, Env: speakerEnv, Apart: o.apart})
	if err != nil {
		return nil, err
	}
	s := &Speaker{
		Process: c, node: node, sink: sink, calls: map[uint64]chan reply{}, established: map[netip.Addr]bool{}, changed: make(chan struct{}),
	}
	go s.Run(s.read, s.settle)
	return s, nil
}

// speakerEnv fits the Go runtime to one of many small processes on few CPUs:
// one thread of Go code, so that hand-overs between its goroutines are no
// system calls. The collector keeps its default: a larger heap would touch
// new pages all the time, and those are dearer than collecting where a page
// fault costs 100 us and more (User Mode Linux).
var speakerEnv = []string{"GOMAXPROCS=1", "GOGC=100"}

// settle answers everybody who waits for a speaker that has ended.
func (s *Speaker) settle(status, last string) {
	s.mu.Lock()
	calls := s.calls
	s.calls = nil
	clear(s.established)
	s.notify()
	s.mu.Unlock()
	s.sink(event.New(s.node, "speaker.exit", map[string]string{"status": status, "stderr": last}))
	for _, c := range calls {
		close(c)
	}
}

// read takes lines until end of file.
func (s *Speaker) read() error {
	sc := bufio.NewScanner(s.Conn)
	sc.Buffer(make([]byte, 0, 64<<10), maxLine)
	for sc.Scan() {
		r, err := decodeReply(sc.Bytes())
		if err != nil {
			return err
		}
		if r.Event != nil {
			s.observe(*r.Event)
			continue
		}
		s.mu.Lock()
		c := s.calls[r.ID]
		delete(s.calls, r.ID)
		s.mu.Unlock()
		if c != nil {
			c <- r // buffered
		}
	}
	return sc.Err()
}

// observe follows sessions and passes the event on.
func (s *Speaker) observe(e event.Event) {
	up := e.Kind == "bgp.established"
	if up || e.Kind == "bgp.down" {
		if addr, err := netip.ParseAddr(e.Attr["neighbor"]); err == nil {
			s.mu.Lock()
			if up {
				s.established[addr] = true
			} else {
				delete(s.established, addr)
			}
			s.notify()
			s.mu.Unlock()
		}
	}
	s.sink(e)
}

// notify wakes the waiters; s.mu is held.
func (s *Speaker) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// call sends a request and waits for its answer.
func (s *Speaker) call(ctx context.Context, what string, r request) (reply, error) {
	fail := func(err error) (reply, error) { return reply{}, fmt.Errorf("speaker %s: %s: %w", s.node, what, err) }
	ctx, cancel := withDefaultWait(ctx)
	defer cancel()
	answer := make(chan reply, 1)
	s.mu.Lock()
	if s.calls == nil {
		s.mu.Unlock()
		return fail(s.Ended())
	}
	s.next++
	r.ID = s.next
	s.calls[r.ID] = answer
	s.mu.Unlock()

	line, err := appendLine(nil, r)
	if err == nil {
		s.write.Lock()
		_, err = s.Conn.Write(line)
		s.write.Unlock()
	}
	if err != nil {
		s.mu.Lock()
		delete(s.calls, r.ID)
		s.mu.Unlock()
		return fail(err)
	}
	select {
	case got, ok := <-answer:
		if !ok {
			return fail(s.Ended())
		}
		if got.Error != "" {
			return got, fmt.Errorf("speaker %s: %s: %s", s.node, what, got.Error)
		}
		return got, nil
	case <-ctx.Done():
		s.mu.Lock()
		delete(s.calls, r.ID)
		s.mu.Unlock()
		return fail(fmt.Errorf("no answer: %w", ctx.Err()))
	}
}

// Configure sends cfg whole. It returns when the speaker has converged to it:
// its own routes handed to BGP, sessions set, policy in force, and the kernel
// holding what the RIB then gave. It does not wait for sessions or for routes
// to travel.
func (s *Speaker) Configure(ctx context.Context, cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	s.mu.Lock()
	s.neighbors = slices.Clone(cfg.Neighbors)
	s.mu.Unlock()
	_, err := s.call(ctx, "configure", request{Op: opConfigure, Config: &cfg})
	return err
}

// RIB is the speaker's BGP table: at a PE its own routes and the received
// ones, at the reflector the routes as the policy rewrote them.
func (s *Speaker) RIB(ctx context.Context) ([]RouteInfo, error) {
	r, err := s.call(ctx, "list RIB", request{Op: opRIB})
	return r.RIB, err
}

// Reset ends the session with a neighbor, or all of them (zero), with a
// notification; they come about again at once (FRR's when its timer wants). It
// does not wait for that.
func (s *Speaker) Reset(ctx context.Context, neighbor netip.Addr) error {
	_, err := s.call(ctx, "reset sessions", request{Op: opReset, Neighbor: neighbor})
	return err
}

// WaitEstablished waits until n sessions are established.
func (s *Speaker) WaitEstablished(ctx context.Context, n int) error {
	ctx, cancel := withDefaultWait(ctx)
	defer cancel()
	for {
		s.mu.Lock()
		up, changed := len(s.established), s.changed
		s.mu.Unlock()
		if up >= n {
			return nil
		}
		select {
		case <-changed:
		case <-s.Done():
			return fmt.Errorf("speaker %s: wait for %d BGP sessions: %w", s.node, n, s.Ended())
		case <-ctx.Done():
			return fmt.Errorf("speaker %s: wait for %d BGP sessions: %d established, not with %s: %w",
				s.node, n, up, s.missing(), ctx.Err())
		}
	}
}

// missing names the neighbors without a session.
func (s *Speaker) missing() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, n := range s.neighbors {
		if !s.established[n] {
			out = append(out, n.String())
		}
	}
	if len(out) == 0 {
		return "any other (none configured)"
	}
	return strings.Join(out, ", ")
}

// Established lists the neighbors with a session, in order.
func (s *Speaker) Established() []netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Keys(s.established), netip.Addr.Compare)
}

// Stop ends the process in order: its routes leave the kernel, the sessions
// close with a notification and the neighbors withdraw. A speaker that has
// not ended when ctx does is killed.
func (s *Speaker) Stop(ctx context.Context) error {
	s.Expect()
	ctx, cancel := withDefaultWait(ctx)
	defer cancel()
	_, err := s.call(ctx, "stop", request{Op: opStop})
	select {
	case <-s.Done():
		if err != nil && s.Err() == nil && s.Succeeded() {
			return nil // it was gone already
		}
		return err
	case <-ctx.Done():
		return errors.Join(err, fmt.Errorf("speaker %s: stop: still running, killed: %w", s.node, ctx.Err()), s.Kill())
	}
}

// Node is the router this speaker runs in.
func (s *Speaker) Node() string { return s.node }

func withDefaultWait(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, DefaultWait)
}
