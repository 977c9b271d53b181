package vmm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/guest"
)

// tether holds a VM to its leash (guest.Leash). A process guest looks at its own
// before each step; a kernel in QEMU knows of none. So the keeper looks in its
// place, and stops QEMU's process as a whole at the end of it: a signal asks
// nobody, and takes no time. The keeper is no part of the agent that moves the end
// on, and QEMU dies with the keeper; an agent that hangs or has ended keeps
// neither from standing in time.
type tether struct {
	leash *guest.Leash
	wake  chan struct{}

	mu     sync.Mutex
	runs   *os.Process // the QEMU that the VM runs in; nil: none
	stands bool        // it was stopped
}

func newTether(l *guest.Leash) *tether { return &tether{leash: l, wake: make(chan struct{}, 1)} }

// tetherLook is how often it is noted that the VM runs, and so how exactly anybody
// can tell later when it last did.
const tetherLook = 20 * time.Millisecond

// hold says that the VM runs in this QEMU from now on; nil: in none. A QEMU that
// only waits for a VM is not held, and one that was is let go.
func (t *tether) hold(qemu *os.Process) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var err error
	if t.stands && t.runs != nil {
		err = t.signal(syscall.SIGCONT)
	}
	t.runs, t.stands = qemu, false
	t.look(event.Now())
	select {
	case t.wake <- struct{}{}:
	default:
	}
	return err
}

// run holds the VM until ctx ends.
func (t *tether) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-t.wake:
		case <-ctx.Done():
			return nil
		}
		t.mu.Lock()
		rest, err := t.look(event.Now())
		t.mu.Unlock()
		if err != nil {
			return fmt.Errorf("hold the VM to its leash: %w", err)
		}
		if rest > 0 {
			timer.Reset(rest)
		}
	}
}

// look stops the VM or lets it go on, and tells when to look again; 0: when there
// is another. mu is held.
func (t *tether) look(now event.Mono) (rest time.Duration, err error) {
	if t.runs == nil {
		return 0, nil
	}
	may := t.leash.May(now)
	switch {
	case may && t.stands:
		err = t.signal(syscall.SIGCONT)
		t.stands = false
	case !may && !t.stands:
		err = t.signal(syscall.SIGSTOP)
		t.stands = true
	}
	if !may {
		return guest.LeashLook, err
	}
	left := event.Mono(t.leash.End().Load()).Sub(now)
	return max(min(tetherLook, left), time.Microsecond), err
}

// atEnd tells whether QEMU's process stands.
func (t *tether) atEnd() bool {
	if t == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stands
}

// signal sends one to the process. One that has ended needs none.
func (t *tether) signal(s syscall.Signal) error {
	if err := t.runs.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %v to QEMU, process %d: %w", s, t.runs.Pid, err)
	}
	return nil
}
