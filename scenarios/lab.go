package scenarios

import (
	"context"

	"github.com/vpclab/vpclab/emu/bgp"
	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/topo"
)

// Lab is what the experiments need of a running lab: a *lab.Lab.
type Lab interface {
	Apply(ctx context.Context, plan *topo.Plan) (*lab.Timeline, error)
	ApplyWith(ctx context.Context, plan *topo.Plan, opt lab.ApplyOptions) (*lab.Timeline, error)
	Operate(ctx context.Context, op topo.Operation, opt lab.ApplyOptions) (*lab.Timeline, error)
	Migrate(ctx context.Context, req lab.MigrateRequest) (*lab.Migration, error)
	// Awake waits until all routers watch each other.
	Awake(ctx context.Context) error
	// Inject breaks something behind everybody's back, until it is undone.
	Inject(ctx context.Context, f topo.Fault) (*lab.Injected, error)
	UndoFaults(ctx context.Context) error
	// Whole waits until the lab is in all parts what its plan says.
	Whole(ctx context.Context) error
	SwitchOver(ctx context.Context, vm string) (*lab.SwitchedOver, error)
	PairStatus(ctx context.Context, vm string) (*lab.PairStatus, error)
	GuestStatus(ctx context.Context, vm string) (guest.Status, error)
	// Occupy keeps others from changing the lab until leave is called.
	Occupy() (leave func(), err error)
	Destroy(ctx context.Context) error
	Plan() *topo.Plan
	Fabric() *fabric.Fabric
	Configs() map[string]bgp.Config
	Subscribe() *lab.Subscription
	// LostEvents is how many events subscribers have lost until now.
	LostEvents() int
}

var _ Lab = (*lab.Lab)(nil)
