package lab

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/vpclab/vpclab/topo"
)

// MigrateAll moves several guests at the same time. Where together is set they
// arrive together: each goes on with its rounds until all are ready for their
// last one (CloudNet, section IV-E: the parts of an application that is divided
// over two clouds wait for each other over the WAN). One that fails does not
// keep the others waiting. The Migrations are in the order of the requests, nil
// where one was refused.
func (l *Lab) MigrateAll(ctx context.Context, reqs []MigrateRequest, together bool) ([]*Migration, error) {
	var (
		wg      sync.WaitGroup
		all     = make([]*Migration, len(reqs))
		errs    = make([]error, len(reqs))
		meeting = newRendezvous(len(reqs))
	)
	for i, req := range reqs {
		wg.Go(func() {
			if together {
				arrived := sync.OnceFunc(meeting.arrive)
				defer arrived()
				req.Ready, req.GoAhead = arrived, meeting.all
			}
			all[i], errs[i] = l.Migrate(ctx, req)
		})
	}
	wg.Wait()
	return all, errors.Join(errs...)
}

// rendezvous is where so many meet.
type rendezvous struct {
	mu   sync.Mutex
	left int
	all  chan struct{} // closed when none is left
}

func newRendezvous(n int) *rendezvous { return &rendezvous{left: n, all: make(chan struct{})} }

func (r *rendezvous) arrive() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.left--; r.left == 0 {
		close(r.all)
	}
}

// MigrateGroupRequest asks for several migrations at the same time.
type MigrateGroupRequest struct {
	Migrations []MigrateRequest `json:"migrations"`
	Together   bool             `json:"together,omitempty"`
}

// check tells what is wrong with a request before anything has begun.
func (l *Lab) canMigrateAll(req MigrateGroupRequest) error {
	if len(req.Migrations) == 0 {
		return fmt.Errorf("%w: which VMs migrate is not said", errBadRequest)
	}
	seen := map[string]bool{}
	var vms []string
	var need topo.Size
	for _, m := range req.Migrations {
		if seen[m.VM] {
			return fmt.Errorf("%w: %s is asked to migrate twice", errBadRequest, m.VM)
		}
		seen[m.VM] = true
		takes, err := l.canMigrate(m)
		if err != nil {
			return err
		}
		vms, need = append(vms, m.VM), need+takes
	}
	return l.roomToMoveAll(vms, need)
}
