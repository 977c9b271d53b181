package hypervisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/replicate"
)

// primary is the VM that runs here, as replication sees it.
type primary struct {
	seat   *seat
	remote *guest.Remote
	memory *guest.Memory // nil: in the modes that have none
	disk   *guest.Disk   // nil: the VM has none
}

// openPrimary takes hold of the guest.
func (s *seat) openPrimary(ctx context.Context) (_ *primary, err error) {
	p := &primary{seat: s}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	ctx, cancel := guestAnswers(ctx)
	defer cancel()
	if p.remote, err = guest.Connect(ctx, s.vm.socket(), s.vm.folder()); err != nil {
		return nil, err
	}
	if s.remembers() {
		if p.memory, err = guest.OpenMemory(s.vm.folder()); err != nil {
			return nil, err
		}
		if err := p.memory.Populate(); err != nil {
			return nil, err
		}
	}
	if s.Spec.Disk > 0 {
		if p.disk, err = guest.OpenDisk(s.vm.folder()); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (p *primary) close() {
	if p.remote != nil {
		p.remote.Close()
	}
	if p.memory != nil {
		p.memory.Close() // what fails leaves a mapping behind, and no more
	}
	if p.disk != nil {
		p.disk.Close()
	}
}

// Memory implements replicate.Primary.
func (p *primary) Memory() []byte {
	if p.memory == nil {
		return nil
	}
	return p.memory.Bytes()
}

// Collect implements replicate.Primary.
func (p *primary) Collect(into []uint64) int { return p.memory.Collect(into) }

// Dirty implements replicate.Primary.
func (p *primary) Dirty(page int) bool { return p.memory.Dirty(page) }

// Checkpoint implements replicate.Primary. One that was begun is ended, and so is
// Resume: a connection on which a question was given up is of no more use, and
// the VM has to go on.
func (p *primary) Checkpoint(ctx context.Context, connections bool) (event.Mono, []byte, error) {
	ctx, cancel := guestAnswers(context.WithoutCancel(ctx))
	defer cancel()
	return p.remote.Checkpoint(ctx, connections)
}

// Resume implements replicate.Primary.
func (p *primary) Resume(ctx context.Context) error {
	ctx, cancel := guestAnswers(context.WithoutCancel(ctx))
	defer cancel()
	_, err := p.remote.Resume(ctx)
	return err
}

// Disk implements replicate.Primary.
func (p *primary) Disk() replicate.Disk {
	if p.disk == nil {
		return nil
	}
	return primaryDisk{p.disk, p}
}

// primaryDisk is the disk that the guest writes.
type primaryDisk struct {
	*guest.Disk
	primary *primary
}

// Mirror implements replicate.Disk.
func (d primaryDisk) Mirror(ctx context.Context, report func(off int64, data []byte, acked func())) (stop func(), err error) {
	s := d.primary.seat
	path := filepath.Join(s.vm.folder(), "writes")
	server, err := guest.ListenWrites(path)
	if err != nil {
		return nil, err
	}
	answers, cancel := guestAnswers(ctx)
	defer cancel()
	told := make(chan error, 1)
	go func() {
		// A connection of its own: the other is for checkpoints.
		r, err := guest.Connect(answers, s.vm.socket(), s.vm.folder())
		if err == nil {
			err = r.Mirror(answers, path)
			r.Close()
		}
		if err != nil {
			cancel() // nobody will come
		}
		told <- err
	}()
	accepted := server.Accept(answers)
	if err := <-told; err != nil || accepted != nil {
		return nil, errors.Join(fmt.Errorf("have the guest report its writes: %w", cmp.Or(err, accepted)), server.Close())
	}
	m := &mirroring{seat: s, server: server, ended: make(chan struct{})}
	go m.run(report)
	return m.stop, nil
}

// mirroring passes a guest's writes on.
type mirroring struct {
	seat   *seat
	server *guest.MirrorServer
	ended  chan struct{} // closed when all that the guest reported was passed on

	mu    sync.Mutex
	acked uint64          // up to where
	ahead map[uint64]bool // acknowledged behind that
}

// run passes writes on until the guest ends the mirror.
func (m *mirroring) run(report func(off int64, data []byte, acked func())) {
	defer close(m.ended)
	first := uint64(1)
	for {
		last, writes, err := m.server.NextWrites(context.Background())
		if err != nil {
			return // it has ended, or was told to
		}
		for i, w := range writes {
			number := first + uint64(i)
			report(w.Off, w.Data, func() { m.ack(number) })
		}
		first = last + 1
	}
}

// ack lets the guest count the writes up to where all have been acknowledged.
func (m *mirroring) ack(number uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if number != m.acked+1 {
		if m.ahead == nil {
			m.ahead = map[uint64]bool{}
		}
		m.ahead[number] = true
		return
	}
	for m.acked = number; m.ahead[m.acked+1]; m.acked++ {
		delete(m.ahead, m.acked+1)
	}
	_ = m.server.Ack(m.acked) // a guest that is gone needs none
}

// stop has the guest go on without a mirror, and waits until what it has reported
// was passed on.
func (m *mirroring) stop() {
	ctx, cancel := guestAnswers(context.Background())
	defer cancel()
	r, err := guest.Connect(ctx, m.seat.vm.socket(), m.seat.vm.folder())
	if err == nil {
		err = r.Mirror(ctx, "")
		r.Close()
	}
	if err != nil {
		_ = m.server.Close() // the guest is gone, or goes on by itself when it finds out
	}
	<-m.ended
	_ = m.server.Close()
}
