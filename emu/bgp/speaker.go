package bgp

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"os/exec"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/topo"
)

// Namespaces starts processes inside nodes; *fabric.Fabric is one.
type Namespaces interface {
	Start(node string, cmd *exec.Cmd) error
}

// Speaker is the parent's handle of one speaker process.
type Speaker struct{}

var errStub = errors.New("bgp: not built yet")

// Option changes how Start makes a speaker.
type Option func(*struct{})

// Start runs a speaker process in node's network namespace.
func Start(ctx context.Context, ns Namespaces, node string, sink event.Sink, opts ...Option) (*Speaker, error) {
	return nil, errStub
}

// Configure sends cfg; it returns when the speaker has converged its own
// configuration to it (not when routes have travelled).
func (s *Speaker) Configure(ctx context.Context, cfg Config) error { return errStub }

// WaitEstablished waits until n sessions are established.
func (s *Speaker) WaitEstablished(ctx context.Context, n int) error { return errStub }

// RIB is what the speaker holds.
func (s *Speaker) RIB(ctx context.Context) ([]RouteInfo, error) { return nil, errStub }

// Kill ends the process at once, as a crash would.
func (s *Speaker) Kill() error { return errStub }

// Stop ends the process in order: it withdraws nothing by itself, the session
// closes and the neighbours withdraw.
func (s *Speaker) Stop(ctx context.Context) error { return errStub }

// Done is closed when the process has ended; Err then says how.
func (s *Speaker) Done() <-chan struct{} { return nil }

// Err is nil while the process runs and after an orderly Stop.
func (s *Speaker) Err() error { return nil }

// Pid is the process id.
func (s *Speaker) Pid() int { return 0 }

// RouteInfo is one path of a speaker's RIB.
type RouteInfo struct {
	RD      string       `json:"rd"`
	Prefix  netip.Prefix `json:"prefix"`
	Label   uint32       `json:"label"`
	NextHop netip.Addr   `json:"next_hop"`
	RTs     []string     `json:"rts"`
	From    netip.Addr   `json:"from"` // neighbour; zero: own route
	Best    bool         `json:"best"`
}

// RunSpeaker is the body of the hidden verb `vpclab speaker`.
func RunSpeaker(ctx context.Context, conn io.ReadWriter) error { return errStub }

// Configs is the configuration of every speaker of the plan: PEs and the
// route reflector.
func Configs(plan *topo.Plan) map[string]Config { return nil }
