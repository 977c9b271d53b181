package lab

import (
	"context"
	"fmt"

	"github.com/vpclab/vpclab/topo"
)

// Still runs fn with the lab's plan while nobody can change the lab, for those
// who ask many questions of it and want one answer. A change that is asked for
// meanwhile waits. It refuses where the last change has failed: the lab is then
// neither what it was nor what it was to become.
func (l *Lab) Still(ctx context.Context, fn func(*topo.Plan) error) error {
	if err := l.take(ctx); err != nil {
		return fmt.Errorf("lab %s: %w", l.Name(), err)
	}
	defer l.give()
	l.mu.Lock()
	plan, pending, last := l.plan, l.pending, l.lastErr
	l.mu.Unlock()
	switch {
	case pending != nil:
		return fmt.Errorf("lab %s: its last change has failed, make it again: %w", l.Name(), last)
	case plan == nil:
		return fmt.Errorf("lab %s: %w", l.Name(), ErrNotBuilt)
	}
	return fn(plan)
}
