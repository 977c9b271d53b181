package scenarios

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/traffic"
)

// shopper is a user of a process guest: it asks for what users of the workload
// ask for.
type shopper struct {
	client   *guest.Client
	workload string
	rng      *rand.Rand
	user     uint64

	told    []told // increments that the guest holds by all that is known
	account traffic.Account
}

// told is when a user was told that an increment is done, and what it wrote.
type told struct {
	at    event.Mono
	wrote int64
}

var _ traffic.Persistent = (*shopper)(nil)

// shoppers opens users of a workload, in the form that package traffic takes.
// What each asks for follows from the seed.
func shoppers(workload string, seed uint64) func(conn net.Conn, user int) (traffic.Service, error) {
	return shoppersFrom(1, workload, seed)
}

// shoppersFrom are users of whom the guest knows none: first is the name of the
// first of them.
func shoppersFrom(first uint64, workload string, seed uint64) func(conn net.Conn, user int) (traffic.Service, error) {
	return func(conn net.Conn, user int) (traffic.Service, error) {
		return &shopper{
			client:   guest.NewClient(conn, first+uint64(user), 0),
			workload: workload, user: first + uint64(user),
			rng: rand.New(rand.NewPCG(seed, ^uint64(user))),
		}, nil
	}
}

// Ask does one transaction. It has no deadline: who is stopped has its
// connection's set.
func (s *shopper) Ask() error {
	before := s.client.Acked()
	a, err := s.client.Do(context.Background(), guest.NextKind(s.workload, s.rng.Float64()))
	if err == nil && s.client.Acked() > before {
		s.told = append(s.told, told{event.Now(), a.Wrote})
		s.account.Acked++
	}
	return err
}

// Again asks on another connection what the guest holds, writes off what it does
// not, and goes on from there.
func (s *shopper) Again(conn net.Conn) error {
	acked := s.client.Acked()
	s.client = guest.NewClient(conn, s.user, acked)
	_, err := s.Lost()
	return err
}

// Account is what the user was told and what became of it.
func (s *shopper) Account() traffic.Account { return s.account }

// Lost is how many acknowledged increments the guest's ledger does not have,
// since it was asked last. It may have more: one whose answer nobody read.
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
	s.client.Resume(a.Value)
	s.writeOff(int(acked - a.Value))
	return int(acked - a.Value), nil
}

// writeOff takes the last increments from what the guest holds.
func (s *shopper) writeOff(n int) {
	kept := max(0, len(s.told)-n)
	for _, t := range s.told[kept:] {
		s.account.LostBytes += t.wrote
	}
	if kept < len(s.told) && (s.account.OldestLost == 0 || s.told[kept].at < s.account.OldestLost) {
		s.account.OldestLost = s.told[kept].at
	}
	s.told = s.told[:kept]
	s.account.Lost += n
}
