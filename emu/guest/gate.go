package guest

import (
	"context"
	"fmt"
	"sync"

	"github.com/vpclab/vpclab/emu/event"
)

// gate stands before each step of a guest's work, whichever goroutine does it.
// Closed, it lets nobody in, and nobody is inside: that is a VM that is paused.
type gate struct {
	leash *Leash // beside that; nil: there is none

	mu     sync.Mutex
	inside int
	shut   bool          // nobody enters
	opened chan struct{} // closed when shut ends
	empty  chan struct{} // closed when the last one inside leaves a shut gate
	left   event.Mono    // when that was
}

// enter waits while the gate is shut, or the leash at its end. It fails when ctx ends first: the guest
// ends, and nobody may open the gate any more.
func (g *gate) enter(ctx context.Context) error {
	for {
		if err := g.leash.await(ctx); err != nil {
			return err
		}
		g.mu.Lock()
		if !g.shut {
			g.inside++
			g.mu.Unlock()
			return nil
		}
		opened := g.opened
		g.mu.Unlock()
		select {
		case <-opened:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (g *gate) leave() {
	g.mu.Lock()
	if g.inside--; g.inside == 0 && g.shut {
		g.left = event.Now()
		close(g.empty)
	}
	g.mu.Unlock()
}

// close shuts the gate and waits until nobody is inside; at is when that was.
// When ctx ends first the gate is open again. The caller sees to it that close
// and open are called in turns.
func (g *gate) close(ctx context.Context) (at event.Mono, err error) {
	g.mu.Lock()
	g.shut, g.opened, g.empty = true, make(chan struct{}), make(chan struct{})
	if g.inside == 0 {
		g.left = event.Now()
		close(g.empty)
	}
	g.mu.Unlock()
	select {
	case <-g.empty:
		return g.left, nil
	case <-ctx.Done():
		g.open()
		return 0, fmt.Errorf("wait for the guest's step to end: %w", context.Cause(ctx))
	}
}

// open lets everybody in again.
func (g *gate) open() {
	g.mu.Lock()
	g.shut = false
	close(g.opened)
	g.mu.Unlock()
}
