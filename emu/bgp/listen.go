package bgp

import (
	"context"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/liveness"
)

// livenessMsg is what the router's repair process says; deaf: nobody listens to
// it any more.
type livenessMsg struct {
	state liveness.State
	deaf  bool
}

// listen has the process hear of what is down, or no longer.
func (p *process) listen(yes bool) {
	switch {
	case yes && p.deafen == nil:
		ctx, cancel := context.WithCancel(context.Background())
		p.deafen = cancel
		beInTime()
		p.listener.Go(func() {
			_ = liveness.Watch(ctx, func(s liveness.State) { p.inbox.put(livenessMsg{state: s}) }) // ends with ctx
		})
	case !yes && p.deafen != nil:
		p.stopListening()
		p.inbox.put(livenessMsg{deaf: true, state: liveness.State{At: event.Now()}})
	}
}

func (p *process) stopListening() {
	if p.deafen != nil {
		p.deafen()
		p.listener.Wait()
		p.deafen = nil
	}
}
