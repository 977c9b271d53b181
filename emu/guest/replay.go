package guest

import (
	"fmt"
	"time"
)

// Replay is a workload without a process: what a guest of its Spec would have
// in memory at any time of its run, clients apart. It is for those who study
// the bytes and not the migration.
type Replay struct {
	work   workload
	memory *Memory
	ran    time.Duration
	ticks  uint64
}

// NewReplay makes a memory in folder as the guest begins with it.
func NewReplay(spec Spec, folder string) (*Replay, error) {
	work, appPages, err := newWorkload(spec)
	if err != nil {
		return nil, err
	}
	m, err := CreateMemory(folder, spec.Memory, true)
	if err != nil {
		return nil, err
	}
	ledger, err := formatLedger(nil, spec.Seed)
	if err != nil {
		m.Close()
		return nil, err
	}
	work.fill(m)
	newApp(spec.Seed, appPages, nil, ledger).fill(m)
	clearBitmap(m)
	return &Replay{work: work, memory: m}, nil
}

// clearBitmap forgets that the memory was filled.
func clearBitmap(m *Memory) { m.Collect(make([]uint64, (m.Pages()+63)/64)) }

// Memory is what the guest has now; it changes with Advance.
func (r *Replay) Memory() []byte { return r.memory.Bytes() }

// Collect moves the bits of pages written since the last Collect into into, as a
// hypervisor does.
func (r *Replay) Collect(into []uint64) int { return r.memory.Collect(into) }

// Dirty tells without taking it whether a page's bit is set.
func (r *Replay) Dirty(page int) bool { return r.memory.Dirty(page) }

// Advance lets the workload run on for a time. Nobody waits for it: it writes as
// fast as it can what it would write in that time.
func (r *Replay) Advance(d time.Duration) error {
	r.ran += d
	for due := uint64(r.ran / r.work.tick()); r.ticks < due; r.ticks++ {
		if err := r.work.step(r.memory); err != nil {
			return fmt.Errorf("replay at %v: %w", time.Duration(r.ticks)*r.work.tick(), err)
		}
	}
	return nil
}

// Close lets the memory go; its file stays.
func (r *Replay) Close() error { return r.memory.Close() }
