package migrate

import (
	"sync/atomic"
	"testing"
	"time"
)

// A VM that is to arrive with others says when it could, whatever the
// algorithm, and goes when it is let go.
func TestHeldVMsSayThatTheyAreReady(t *testing.T) {
	for _, algorithm := range []string{Xen30, CloudNet, Own} {
		t.Run(algorithm, func(t *testing.T) {
			g := newGuest(t, 1000, 5)
			g.run(5, 100*time.Microsecond)
			defer g.end()
			all := make(chan struct{})
			var held atomic.Int32
			opt := Options{Algorithm: algorithm, HoldPause: all, Step: func(name string) error {
				if name == StepSourceHeld && held.Add(1) == 1 {
					time.AfterFunc(200*time.Millisecond, func() { close(all) }) // the last of the others is ready
				}
				return nil
			}}
			tr := (&wan{rate: 40e6, delay: time.Millisecond}).join(t, opt.Urgent(), 5*time.Second)
			s, r, serr, terr := move(t, g, tr, opt, Options{Algorithm: algorithm})
			good(t, g, s, r, serr, terr)
			if held.Load() == 0 {
				t.Error("it never said that it was ready")
			}
		})
	}
}
