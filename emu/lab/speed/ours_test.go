package speed

import (
	"context"
	"time"

	"github.com/vpclab/vpclab/emu/lab"
)

// ours builds the star as `vpclab deploy` does once it has the plan: what is
// there is looked for, owner tags are set, names are given, a record is kept
// for a successor.
func ours(n int) (*built, error) {
	ctx := context.Background()
	plan := starPlan("speed", n)
	l := lab.New(lab.Config{Name: plan.Lab})
	took, err := timed(func() error { _, err := l.Apply(ctx, plan); return err })
	if err != nil {
		return nil, err
	}
	return &built{
		took:    took,
		within:  func(i int, fn func() error) error { return l.Fabric().Do(machineName(i), fn) },
		destroy: func() (time.Duration, error) { return timed(func() error { return l.Destroy(ctx) }) },
	}, nil
}
