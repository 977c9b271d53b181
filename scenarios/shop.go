package scenarios

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"

	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/traffic"
)

// shopper is a user of a process guest: it asks for what users of the workload
// ask for.
type shopper struct {
	client   *guest.Client
	workload string
	rng      *rand.Rand
}

// shoppers opens users of a workload, in the form that package traffic takes.
// What each asks for follows from the seed.
func shoppers(workload string, seed uint64) func(conn net.Conn, user int) (traffic.Service, error) {
	return func(conn net.Conn, user int) (traffic.Service, error) {
		return &shopper{
			client:   guest.NewClient(conn, uint64(user)+1, 0), // the guest is new, and knows nobody
			workload: workload,
			rng:      rand.New(rand.NewPCG(seed, ^uint64(user))),
		}, nil
	}
}

// Ask does one transaction. It has no deadline: who is stopped has its
// connection's set.
func (s *shopper) Ask() error {
	_, err := s.client.Do(context.Background(), guest.NextKind(s.workload, s.rng.Float64()))
	return err
}

// Lost is how many acknowledged increments the guest's ledger does not have. It
// may have more: one whose answer nobody read.
func (s *shopper) Lost() (int, error) {
	a, err := s.client.Do(context.Background(), guest.Count)
	if err != nil {
		return 0, err
	}
	acked := s.client.Acked()
	if a.Value >= acked {
		return 0, nil
	}
	if acked-a.Value > 1<<31 {
		return 0, fmt.Errorf("%d acknowledged, %d held", acked, a.Value)
	}
	return int(acked - a.Value), nil
}
