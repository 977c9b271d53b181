//go:build slowdown

package migrate

import (
	"context"
	"os"
	"strconv"
	"time"

	"github.com/vpclab/vpclab/emu/event"
)

// slowdownEnv is by which share the engine is slower; default slowdownUsual.
const (
	slowdownEnv   = "VPCLAB_TEST_SLOWDOWN"
	slowdownUsual = 0.03
)

// slowdownShare is read once: a migration is slow from end to end.
var slowdownShare = func() float64 {
	share, err := strconv.ParseFloat(os.Getenv(slowdownEnv), 64)
	if err != nil {
		return slowdownUsual
	}
	return share
}()

// slowdown makes the engine slower: each batch owes a share of the time that it
// took. What is owed is paid when nothing is on the way, because a wait between
// batches would be hidden behind those that the link still carries, and would
// slow nothing down.
type slowdown struct {
	last event.Mono // when the batch before was put on
	owed time.Duration
}

// batch notes that one was put on.
func (s *slowdown) batch(b belt) {
	now := b.now()
	if s.last != 0 {
		s.owed += time.Duration(slowdownShare * float64(now.Sub(s.last)))
	}
	s.last = now
}

// pay waits for as long as is owed.
func (s *slowdown) pay(ctx context.Context, b belt) error {
	if s.owed <= 0 {
		return nil
	}
	if err := b.settle(ctx); err != nil {
		return err
	}
	owed := s.owed
	s.owed = 0
	defer func() { s.last = b.now() }() // the wait itself owes nothing
	return b.idle(ctx, owed)
}
