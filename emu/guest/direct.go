package guest

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// direct is a block device read and written past the kernel's cache: what is read
// is what the device has, wherever its bytes have been moved to meanwhile. Such
// transfers are of whole sectors from and to memory on a sector's boundary, so
// they go by way of a buffer.
type direct struct {
	file *os.File
	mu   sync.Mutex
	buf  []byte
}

// directBuffer is how much is transferred at once.
const directBuffer = 256 << 10

// openDirect opens the device at path. size is what it must have.
func openDirect(path string, size int64) (*direct, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return nil, err
	}
	got, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_END)
	if err == nil && got != size {
		err = fmt.Errorf("it has %d bytes: want %d", got, size)
	}
	d := &direct{file: f}
	if err == nil {
		d.buf, err = unix.Mmap(-1, 0, directBuffer, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open device %s: %w", path, err)
	}
	return d, nil
}

// pieces visits the parts of b, which lies at off, with the sectors that each
// touches: from at on, as the beginning of the buffer. into is where in them it is.
func (d *direct) pieces(b []byte, off int64, visit func(part, sectors []byte, at int64, into int) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(b) > 0 {
		into := int(off % sectorSize)
		n := min(len(b), len(d.buf)-into)
		whole := (into + n + sectorSize - 1) &^ (sectorSize - 1)
		if err := visit(b[:n], d.buf[:whole], off-int64(into), into); err != nil {
			return err
		}
		b, off = b[n:], off+int64(n)
	}
	return nil
}

func (d *direct) ReadAt(b []byte, off int64) (int, error) {
	err := d.pieces(b, off, func(part, sectors []byte, at int64, into int) error {
		_, err := d.file.ReadAt(sectors, at)
		copy(part, sectors[into:])
		return err
	})
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

// WriteAt keeps what is beside b in its first and last sector.
func (d *direct) WriteAt(b []byte, off int64) (int, error) {
	err := d.pieces(b, off, func(part, sectors []byte, at int64, into int) error {
		if len(part) < len(sectors) {
			if _, err := d.file.ReadAt(sectors, at); err != nil {
				return err
			}
		}
		copy(sectors[into:], part)
		_, err := d.file.WriteAt(sectors, at)
		return err
	})
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

// flush returns when all that was written before is where it outlives the VM.
func (d *direct) flush() error { return unix.Fdatasync(int(d.file.Fd())) }

// close gives the buffer and the file back.
func (d *direct) close() error { return errors.Join(unix.Munmap(d.buf), d.file.Close()) }

// deviceMirror has writes to a device count when a flush has seen them there. A
// guest's disk has a cache, as disks do: it takes a write at once, and where it
// has a mirror in another cloud, a flush waits for that. One flush serves all
// writes before it, as databases commit them in groups.
type deviceMirror struct {
	device *direct
	failed func(error)
	kick   chan struct{}
	over   sync.WaitGroup

	mu      sync.Mutex
	waiting []func() // of writes that no flush has seen
	ended   bool
}

func newDeviceMirror(device *direct, failed func(error)) *deviceMirror {
	m := &deviceMirror{device: device, failed: failed, kick: make(chan struct{}, 1)}
	m.over.Go(m.run)
	return m
}

func (m *deviceMirror) report(_ int64, _ []byte, acked func()) {
	m.mu.Lock()
	m.waiting = append(m.waiting, acked)
	m.mu.Unlock()
	m.wake()
}

func (m *deviceMirror) wake() {
	select {
	case m.kick <- struct{}{}:
	default:
	}
}

// run flushes until the mirror ends. After a flush that failed no write counts any
// more: the guest acknowledges nothing.
func (m *deviceMirror) run() {
	for range m.kick {
		m.mu.Lock()
		waiting, ended := m.waiting, m.ended
		m.waiting = nil
		m.mu.Unlock()
		if len(waiting) > 0 {
			if err := m.device.flush(); err != nil {
				m.failed(fmt.Errorf("flush the disk: %w", err))
				return
			}
		}
		for _, acked := range waiting {
			acked()
		}
		if ended {
			return
		}
	}
}

func (m *deviceMirror) close() {
	m.mu.Lock()
	m.ended = true
	m.mu.Unlock()
	m.wake()
	m.over.Wait()
}
