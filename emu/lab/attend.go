package lab

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/hypervisor"
)

// An agent that has died is noticed by the end of its control channel. One that
// hangs (SIGSTOP, a kernel that does not let it run) keeps it open and would be
// waited for without end; so while it moves a VM it is asked for a sign of life.
const (
	signEvery = 5 * time.Second
	signIn    = 15 * time.Second // of a machine that is busy
)

// attend kills those of the agents that give no sign of life, until stop is
// called: then they are as others that died.
func (h *hypervisors) attend(agents ...*hypervisor.Process) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, agent := range agents {
		wg.Go(func() { h.attendOne(ctx, agent) })
	}
	return func() {
		cancel()
		wg.Wait()
	}
}

func (h *hypervisors) attendOne(ctx context.Context, agent *hypervisor.Process) {
	for {
		timer := time.NewTimer(signEvery)
		select {
		case <-timer.C:
		case <-agent.Done():
			timer.Stop()
			return
		case <-ctx.Done():
			timer.Stop()
			return
		}
		sign, cancel := context.WithTimeout(ctx, signIn)
		err := agent.Ping(sign)
		late := sign.Err() != nil && ctx.Err() == nil
		cancel()
		if err == nil || !late {
			continue // a channel that has ended is the end of the agent
		}
		why := fmt.Errorf("it gave no sign of life for %v", signIn)
		h.lab.observe(event.New(agent.Host(), "agent.hung", map[string]string{"error": why.Error()}))
		if err := agent.Fence(why); err != nil {
			h.lab.log.Error("hypervisor agent not killed", "host", agent.Host(), "error", err)
		}
		return
	}
}
