package lab

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"github.com/vpclab/vpclab/topo"
)

// ErrBusy refuses what would disturb experiments.
var ErrBusy = errors.New("experiments are under way in this lab")

// Occupy keeps others off the lab for somebody who changes it again and again
// and measures that: until leave is called, deployments, operations and audits
// that are asked for through the API are refused with ErrBusy, and so is a
// second Occupy. Whoever looks on is let in, and Destroy is. Faults that are in
// force when leave is called end with it.
func (l *Lab) Occupy() (leave func(), err error) {
	if !l.occupied.CompareAndSwap(false, true) {
		return nil, ErrBusy
	}
	return sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeoutCause(context.Background(), undoDeadline, fmt.Errorf("waited %v for faults to be undone", undoDeadline))
		defer cancel()
		if err := l.UndoFaults(ctx); err != nil {
			l.log.Error("faults not undone", "error", err)
		}
		l.occupied.Store(false)
	}), nil
}

// unlessBusy is a handler of what would disturb experiments.
func (s *server) unlessBusy(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if s.lab.occupied.Load() {
			fail(w, ErrBusy)
			return
		}
		h(w, r)
	}
}

// Still runs fn with the lab's plan while nobody can change the lab, for those
// who ask many questions of it and want one answer. A change that is asked for
// meanwhile waits, and Destroy ends fn's context. It refuses where the last
// change has failed: the lab is then neither what it was nor what it was to
// become.
func (l *Lab) Still(ctx context.Context, fn func(context.Context, *topo.Plan) error) error {
	if l.occupied.Load() {
		return fmt.Errorf("lab %s: %w", l.Name(), ErrBusy)
	}
	if err := l.take(ctx); err != nil {
		return fmt.Errorf("lab %s: %w", l.Name(), err)
	}
	defer l.give()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	l.mu.Lock()
	plan, pending, last := l.plan, l.pending, l.lastErr
	l.abort = cancel
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		l.abort = nil
		l.mu.Unlock()
	}()
	switch {
	case pending != nil:
		return fmt.Errorf("lab %s: its last change has failed, make it again: %w", l.Name(), last)
	case plan == nil:
		return fmt.Errorf("lab %s: %w", l.Name(), ErrNotBuilt)
	}
	return fn(ctx, plan)
}
