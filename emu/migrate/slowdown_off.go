//go:build !slowdown

package migrate

import "context"

// slowdown does nothing; in a build with the tag slowdown it makes the engine
// slower by a known share, so that the gate on its speed can be seen to close.
type slowdown struct{}

func (slowdown) batch(belt) {}

func (slowdown) pay(context.Context, belt) error { return nil }
