package guest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vpclab/vpclab/emu/event"
)

// A standby is a guest process that waits, in a namespace like the one that the
// guest runs in, to go on in its place: by Adopt with the memory, disk and state
// of a checkpoint, or by Boot with its disk. It stands until then.

var errStandby = errors.New("the guest is a standby: want adopt or boot first")

// newStandby makes all of a machine that needs neither memory nor disk.
func newStandby(spec Spec) (*machine, error) {
	work, appPages, err := newWorkload(spec)
	if err != nil {
		return nil, err
	}
	m := assemble(spec, work, appPages)
	m.stood = &stand{}
	m.where.Store(new(string))
	m.standing.Store(true)
	if _, err := m.gate.close(context.Background()); err != nil { // nobody is inside
		return nil, err
	}
	return m, nil
}

// rise has a standby go on with the memory and disk of p, and the state s of
// another process. ctl is held and the gate closed. What fails leaves it a
// standby.
func (m *machine) rise(p *place, s *cpuState) error {
	if p.filled {
		return fmt.Errorf("its memory was prepared for a boot")
	}
	l, err := openLedger(m.spec, p.disk)
	if err != nil {
		return err
	}
	if p.disk == nil {
		l.recall(s)
	}
	a := newApp(m.spec.Seed, m.appPages, p.disk, l)
	if err := a.load(s, p.disk); err != nil {
		return err
	}
	if err := m.work.load(s); err != nil {
		return err
	}
	if err := p.memory.absent.look(p.memory); err != nil {
		return err
	}
	if err := m.clients.restore(s.clients); err != nil {
		return err
	}
	p.memory.takeOver()
	m.app = a
	m.ran, m.pauses = time.Duration(s.ran), s.pauses
	m.steps.Store(s.steps)
	m.acked.Store(s.acked)
	m.memory, m.disk, m.prepared = p.memory, p.disk, nil
	m.where.Store(&p.folder)
	return nil
}

// Checkpoint implements Control.
func (m *machine) Checkpoint(ctx context.Context, connections bool) (event.Mono, []byte, error) {
	m.ctl.Lock()
	defer m.ctl.Unlock()
	if err := m.stop(ctx); err != nil {
		return 0, nil, err
	}
	if m.stood.state == nil || connections && !m.stood.connections {
		s := m.state()
		if connections {
			var err error
			if s.clients, err = m.clients.dump(); err != nil {
				return 0, nil, err
			}
		}
		m.stood.state, m.stood.connections = s.encode(), connections
	}
	return m.stood.at, m.stood.state, nil
}

// Boot implements Control.
func (m *machine) Boot(_ context.Context, folder string) (event.Mono, error) {
	m.ctl.Lock()
	defer m.ctl.Unlock()
	if m.memory != nil {
		if folder != m.memory.Folder() {
			return 0, fmt.Errorf("boot %s: the guest runs on %s", folder, m.memory.Folder())
		}
		return m.began, nil // asked again
	}
	if p := m.prepared; p == nil || p.folder != folder || !p.filled {
		if err := m.prepareLocked(folder, AdoptOptions{Boot: true}); err != nil {
			return 0, fmt.Errorf("boot %s: %w", folder, err)
		}
	}
	if err := m.begin(m.prepared); err != nil {
		return 0, fmt.Errorf("boot %s: %w", folder, err)
	}
	m.prepared = nil
	return m.goOn(), nil
}
