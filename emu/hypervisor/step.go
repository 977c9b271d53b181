package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/migrate"
)

// Actions of Move.FailAt.
const (
	actKill  = "kill"
	actGuest = "guest"
	actError = "error"
	actHold  = "hold"
)

// allSteps are those of memory and disk.
var allSteps = slices.Concat(migrate.DiskSteps, migrate.Steps)

// heldAtMost bounds how long a migration stands at a step.
const heldAtMost = time.Minute

// failure is a FailAt taken apart.
type failure struct {
	step   string
	nth    int
	action string
}

// ParseFailAt reads STEP=ACTION or STEP#N=ACTION; "" is no failure.
func ParseFailAt(text string) (f failure, err error) {
	if text == "" {
		return f, nil
	}
	at, action, ok := strings.Cut(text, "=")
	step, number, counted := strings.Cut(at, "#")
	f = failure{step: step, nth: 1, action: action}
	if counted {
		if f.nth, err = strconv.Atoi(number); err != nil || f.nth < 1 {
			return f, fmt.Errorf("fail at %q: %q is no number from 1", text, number)
		}
	}
	switch {
	case !ok:
		return f, fmt.Errorf("fail at %q: want STEP=ACTION or STEP#N=ACTION", text)
	case !slices.Contains(allSteps, step):
		return f, fmt.Errorf("fail at %q: there is no step %q; there are %s", text, step, strings.Join(allSteps, ", "))
	case !slices.Contains([]string{actKill, actGuest, actError, actHold}, action):
		return f, fmt.Errorf("fail at %q: there is no action %q; there are %s, %s, %s and %s", text, action, actKill, actGuest, actError, actHold)
	}
	return f, nil
}

// step is called before each step of the engine's that this end takes.
func (m *moving) step(name string) error {
	m.mu.Lock()
	m.seen[name]++
	n := m.seen[name]
	m.mu.Unlock()
	if m.Verbose && n == 1 {
		m.agent.tell(m.VM, "migration.step", map[string]string{"step": name})
	}
	if n == 1 && name == migrate.StepSourceHeld {
		m.agent.tell(m.VM, "migration.ready", nil)
	}
	f, err := ParseFailAt(m.FailAt)
	if err != nil || f.step != name || f.nth != n {
		return err
	}
	switch f.action {
	case actKill:
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		select {} // a signal to oneself may take a moment
	case actGuest:
		ctx, cancel := context.WithTimeoutCause(m.ctx, heldAtMost, fmt.Errorf("waited %v for the guest's end", heldAtMost))
		defer cancel()
		return m.vm.kill(ctx)
	case actError:
		return errors.New("made to fail")
	}
	held := m.held()
	m.agent.tell(m.VM, "migration.held", map[string]string{"step": name})
	timer := time.NewTimer(heldAtMost)
	defer timer.Stop()
	select {
	case <-held:
		return nil
	case <-timer.C:
		return fmt.Errorf("held for %v and not released", heldAtMost)
	case <-m.ctx.Done():
		return context.Cause(m.ctx)
	}
}
