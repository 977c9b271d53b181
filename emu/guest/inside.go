package guest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Inside is the work of a QEMU guest as process 1 of its kernel does it: the
// workload, server and ledger of a process guest, on memory of its own and a block
// device. What moves it moves its whole kernel, so it is never paused, adopted or
// carried: it does not know.
type Inside struct{ m *machine }

// insideSlack is how late a step may be. It has room for the machine standing
// still for a while, and keeps what is due small enough to be done.
const insideSlack = 500 * time.Millisecond

// NewInside fills a memory of spec.Work bytes and takes over the disk at device,
// if spec has one. A disk that was never used is filled, too: it takes less time
// where FormatDisk did so before the VM was started.
func NewInside(spec Spec, device string) (*Inside, error) {
	spec.Memory, spec.Kind, spec.Work = spec.Work, KindProcess, 0
	work, appPages, err := newWorkload(spec)
	if err != nil {
		return nil, err
	}
	m := assemble(spec, work, appPages)
	m.slack = insideSlack
	at := &place{}
	if at.memory, err = anonymousMemory(spec.Memory); err != nil {
		return nil, fmt.Errorf("guest %s: %w", spec.Name, err)
	}
	if spec.Disk != 0 {
		if at.disk, err = openDevice(device, spec.Disk, m.fail); err != nil {
			return nil, fmt.Errorf("guest %s: %w", spec.Name, err)
		}
	}
	m.fill(at)
	if err := m.begin(at); err != nil {
		return nil, fmt.Errorf("guest %s: %w", spec.Name, err)
	}
	return &Inside{m}, nil
}

// Run serves clients and does the workload until ctx ends, which is for tests.
// ready is called when clients can reach it.
func (i *Inside) Run(ctx context.Context, ready func()) error {
	m := i.m
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	var parts sync.WaitGroup
	defer parts.Wait()
	defer end(nil) // before waiting
	if m.spec.Port != 0 {
		if err := m.clients.listen(); err != nil {
			return fmt.Errorf("guest %s: %w", m.spec.Name, err)
		}
		parts.Go(func() {
			if err := m.clients.serve(ctx); err != nil {
				end(err)
			}
		})
	}
	parts.Go(func() { m.run(ctx) })
	ready()
	<-ctx.Done()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// Status tells what it does. It knows no folder.
func (i *Inside) Status() Status {
	s, _ := i.m.Status(context.Background()) // which never fails
	return s
}

// verifyPages are compared before a step may be done again.
const verifyPages = 64

// Verify compares all of the memory, and of the disk what the server wrote, with
// what was written. What differs is Status's fault from then on, too.
func (i *Inside) Verify() Verification {
	m := i.m
	var v Verification
	note := func(err error) {
		if err == nil {
			return
		}
		if v.Bad++; v.First == "" {
			v.First = err.Error()
		}
		m.fail(err)
	}
	for first := 0; first < m.memory.Pages(); first += verifyPages {
		m.turn.Lock()
		for q := first; q < min(first+verifyPages, m.memory.Pages()); q++ {
			note(m.work.check(m.memory, q))
		}
		m.turn.Unlock()
	}
	v.Pages = m.memory.Pages()
	m.app.verify(m.memory, note)
	if m.disk != nil {
		v.Blocks = m.app.verifyBlocks(note)
		note(m.app.ledger.verify(m.spec.Seed))
	}
	return v
}

// FormatDisk fills the new disk in folder with what the guest of a spec begins
// with, unless it was used before.
func FormatDisk(folder string, spec Spec) error {
	d, err := OpenDisk(folder)
	if err != nil {
		return err
	}
	defer d.Close()
	_, err = openLedger(spec, d)
	return err
}
