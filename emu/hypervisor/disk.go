package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/migrate"
	"github.com/vpclab/vpclab/emu/migrate/wire"
)

// options of a disk's migration.
func (m *moving) diskOptions() migrate.DiskOptions {
	o := m.DiskHow
	o.Reuse = o.Reuse || m.Reuse
	o.Step = m.step
	return o
}

// diskSource is a disk at the host that it leaves.
type diskSource struct {
	*guest.Disk
	vm      *vm
	session wire.Session
	move    *migrate.DiskMove

	stop     context.CancelFunc // ends settle; nil: it was not begun
	settling chan error         // is told how it ended
}

// settle sends the rest of the disk of a VM that stands, in the background.
func (d *diskSource) settle(ctx context.Context) {
	ctx, d.stop = context.WithCancel(ctx)
	d.settling = make(chan error, 1)
	go func() { d.settling <- d.move.Settle(ctx) }()
}

// settled waits for that, or gives it up, and tells how it ended.
func (d *diskSource) settled(giveUp bool) error {
	if d.stop == nil {
		return nil
	}
	if giveUp {
		d.stop()
	}
	err := <-d.settling
	d.settling <- err // for whoever asks again
	d.stop()
	return err
}

// sendDisk copies the disk until it is in step.
func (m *moving) sendDisk(ctx context.Context, to netip.AddrPort) (_ *diskSource, err error) {
	d := &diskSource{vm: m.vm}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if d.Disk, err = guest.OpenDisk(m.vm.folder()); err != nil {
		return nil, err
	}
	if d.session, err = m.dial(ctx, to, channelDisk); err != nil {
		return nil, err
	}
	if d.move, err = migrate.SendDisk(ctx, d.session, d, m.diskOptions()); err != nil {
		return nil, err
	}
	m.agent.tell(m.VM, "migration.phase", map[string]string{"phase": "disk"})
	return d, nil
}

// close ends the move: a VM that runs here goes on without a mirror.
func (d *diskSource) close() {
	if d.move != nil {
		d.move.Close()
	}
	if d.session != nil {
		_ = d.session.Close() // what had to arrive was waited for
	}
	if d.Disk != nil {
		d.Disk.Close()
	}
}

// Extents implements migrate.DiskSource.
func (d *diskSource) Extents() ([][2]int64, error) {
	return migrate.FileExtents(d.File(), d.Size())
}

// Mirror implements migrate.DiskSource.
func (d *diskSource) Mirror(ctx context.Context) (migrate.DiskMirror, error) {
	path := filepath.Join(d.vm.folder(), "mirror")
	server, err := guest.ListenMirror(path)
	if err != nil {
		return nil, err
	}
	ctx, done := guestAnswers(ctx)
	defer done()
	told := make(chan error, 1)
	go func() {
		r, err := guest.Connect(ctx, d.vm.socket(), d.vm.folder())
		if err == nil {
			err = r.Mirror(ctx, path)
			r.Close()
		}
		told <- err
	}()
	wait, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	accepted := make(chan error, 1)
	go func() { accepted <- server.Accept(wait) }()
	err = <-told
	if err != nil {
		cancel(err) // nobody will come
	}
	if err = errors.Join(err, <-accepted); err != nil {
		return nil, errors.Join(fmt.Errorf("have the guest report its writes: %w", err), server.Close())
	}
	return server, nil
}

// diskTarget is a place for a disk.
type diskTarget struct {
	*guest.Disk
	session  wire.Session
	receiver *migrate.DiskReceiver
	written  []uint64 // what was collected since the guest runs here
	scratch  []uint64
}

// makeDisk has a disk to come to, of an earlier stay where that is wanted, or
// the one that is shared.
func (t *target) makeDisk() error {
	switch {
	case t.Spec.Disk == 0:
		return nil
	case !t.Disk:
		return t.share()
	}
	d := &diskTarget{}
	var err error = os.ErrNotExist
	if t.diskOptions().Reuse && !t.isShared() {
		d.Disk, err = guest.OpenDisk(t.vm.folder())
		if err == nil && d.Size() != t.Spec.Disk {
			err = errors.Join(os.ErrNotExist, d.Disk.Close())
		}
	}
	if errors.Is(err, os.ErrNotExist) {
		d.Disk, err = guest.CreateDisk(t.vm.folder(), t.Spec.Disk)
	}
	if err == nil {
		t.disk = d
	}
	return err
}

// there is a file of the disk at the host that the VM leaves.
func (t *target) there(name string) string {
	return filepath.Join(t.agent.dir, "hosts", t.From, t.VM, name)
}

// isShared tells whether both hosts have one disk, of a migration that left it
// where it was.
func (t *target) isShared() bool {
	here, err := os.Stat(filepath.Join(t.vm.folder(), guest.DiskFile))
	if err != nil {
		return false
	}
	there, err := os.Stat(t.there(guest.DiskFile))
	return err == nil && os.SameFile(here, there)
}

// share makes the disk that the VM has at the host that it leaves this host's
// too, as storage that both reach: another name for the same files.
func (t *target) share() error {
	if t.isShared() {
		return nil
	}
	for _, name := range []string{guest.DiskFile, guest.DiskMapFile} {
		here := filepath.Join(t.vm.folder(), name)
		if err := os.Remove(here); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := os.Link(t.there(name), here); err != nil {
			return fmt.Errorf("share the disk: %w", err)
		}
	}
	return nil
}

// receiveDisk begins to take the disk, in the background.
func (t *target) receiveDisk(ctx context.Context) (err error) {
	if t.disk.session, err = t.listener.Accept(ctx, channelDisk); err != nil {
		return err
	}
	t.disk.receiver = migrate.ReceiveDisk(ctx, t.disk.session, t.disk, t.diskOptions())
	return nil
}

// Extents implements migrate.DiskTarget.
func (d *diskTarget) Extents() ([][2]int64, error) {
	return migrate.FileExtents(d.File(), d.Size())
}

// WriteAt implements migrate.DiskTarget: blocks that are received are no writes
// of the guest's.
func (d *diskTarget) WriteAt(b []byte, off int64) (int, error) { return d.File().WriteAt(b, off) }

// Written implements migrate.DiskTarget. The bits are taken, as nobody else asks
// for them before the VM moves on, which begins by taking them.
func (d *diskTarget) Written(into []uint64) int {
	if d.written == nil {
		d.written, d.scratch = make([]uint64, len(into)), make([]uint64, len(into))
	}
	d.Collect(d.scratch)
	for i, w := range d.scratch {
		d.written[i] |= w
	}
	return or(into, d.written)
}

func (d *diskTarget) close() error {
	if d.session != nil {
		_ = d.session.Close() // what had to arrive was waited for
	}
	return d.Disk.Close()
}
