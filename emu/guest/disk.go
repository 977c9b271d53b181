package guest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Names of a disk in its host's folder: the image, and the bitmap of blocks
// written.
const (
	DiskFile    = "disk"
	DiskMapFile = "disk.map"
)

const (
	diskMagic   = "vpcl-dsk"
	diskVersion = 1
	maxDisk     = 1 << 44
)

// Disk is a VM's disk: an image file, and in shared memory a bit a block of
// PageSize for the hypervisor that copies it. A block's bit is set before the
// block is written, so that who has read a block and finds no bit knows that the
// guest has left it alone, and again after, so that who takes the bit and then reads
// the block has all of it or finds the bit set again.
//
// A write counts when the image has it and, while there is a mirror, when the
// mirror has acknowledged it. Writes go to the image and to the mirror in one
// order.
type Disk struct {
	folder string
	image  *os.File
	device *direct // in place of an image; nil: there is one
	size   int64
	mapped []byte
	dirty  Bitmap

	mu      sync.Mutex // held while a write goes to image and mirror
	mirror  mirror
	pending []*Write // oldest first; those that the mirror has not acknowledged
}

// mirror is told of each write, in order. It is what Control.Mirror sets up.
type mirror interface {
	// report hands a write on and does not wait for its acknowledgement: acked
	// is called once, from any goroutine and maybe before report returns, when
	// it has come or when the mirror is gone for good.
	report(off int64, data []byte, acked func())
	// close ends the mirror: every report that was made is acked before it
	// returns.
	close()
}

// Write is a write that was begun. It is in the image.
type Write struct {
	off  int64
	data []byte
	done chan struct{}
	once sync.Once
}

// Done is closed when the write counts.
func (w *Write) Done() <-chan struct{} { return w.done }

func (w *Write) finish() { w.once.Do(func() { close(w.done) }) }

// CreateDisk makes a disk of zeros in folder, replacing one that is there. The
// image is sparse.
func CreateDisk(folder string, size int64) (*Disk, error) {
	if size <= 0 || size%PageSize != 0 || size > maxDisk {
		return nil, fmt.Errorf("disk in %s: size %d: want a multiple of %d up to 16 TiB", folder, size, PageSize)
	}
	for _, name := range []string{DiskFile, DiskMapFile} {
		if err := os.Remove(filepath.Join(folder, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	header := make([]byte, 24)
	copy(header, diskMagic)
	binary.LittleEndian.PutUint64(header[8:], diskVersion)
	binary.LittleEndian.PutUint64(header[16:], uint64(size))
	if err := os.WriteFile(filepath.Join(folder, DiskMapFile), header, 0o600); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(folder, DiskFile), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return nil, fmt.Errorf("make disk in %s: %w", folder, err)
	}
	return OpenDisk(folder)
}

// OpenDisk opens the disk in folder. The error is os.ErrNotExist's kind where
// there is none.
func OpenDisk(folder string) (*Disk, error) {
	image, err := os.OpenFile(filepath.Join(folder, DiskFile), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	d := &Disk{folder: folder, image: image}
	if err := d.openMap(); err != nil {
		image.Close()
		return nil, fmt.Errorf("disk in %s: %w", folder, err)
	}
	return d, nil
}

// openMap maps the bitmap and takes the disk's size from its header.
func (d *Disk) openMap() error {
	f, err := os.OpenFile(filepath.Join(d.folder, DiskMapFile), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	header := make([]byte, 24)
	if _, err := f.ReadAt(header, 0); err != nil {
		return fmt.Errorf("read %s: %w", DiskMapFile, err)
	}
	if string(header[:8]) != diskMagic {
		return fmt.Errorf("%s is not of a guest's disk", DiskMapFile)
	}
	if v := binary.LittleEndian.Uint64(header[8:]); v != diskVersion {
		return fmt.Errorf("%s has version %d: want %d", DiskMapFile, v, diskVersion)
	}
	size := binary.LittleEndian.Uint64(header[16:])
	info, err := d.image.Stat()
	if err != nil {
		return err
	}
	if size == 0 || size%PageSize != 0 || size > maxDisk || info.Size() != int64(size) {
		return fmt.Errorf("image of %d bytes, and %s says %d", info.Size(), DiskMapFile, size)
	}
	d.size = int64(size)
	blocks := int(d.size / PageSize)
	whole := int64(PageSize + 8*words(blocks))
	if err := f.Truncate(whole); err != nil {
		return err
	}
	if d.mapped, err = unix.Mmap(int(f.Fd()), 0, int(whole), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return fmt.Errorf("map %s: %w", DiskMapFile, err)
	}
	d.dirty = bitmapIn(d.mapped[PageSize:], blocks)
	return nil
}

// openDevice opens a block device as a disk, from inside of a VM. Its bitmap is
// nobody's: who copies the disk does so outside. failed is told when the device
// loses what it took.
func openDevice(path string, size int64, failed func(error)) (*Disk, error) {
	if size <= 0 || size%PageSize != 0 || size > maxDisk {
		return nil, fmt.Errorf("device %s: size %d: want a multiple of %d up to 16 TiB", path, size, PageSize)
	}
	device, err := openDirect(path, size)
	if err != nil {
		return nil, err
	}
	d := &Disk{folder: path, device: device, size: size, dirty: make(Bitmap, words(int(size/PageSize)))}
	d.mirror = newDeviceMirror(device, failed)
	return d, nil
}

// Folder is where the disk's files are.
func (d *Disk) Folder() string { return d.folder }

// Size is the disk's, in bytes.
func (d *Disk) Size() int64 { return d.size }

// Blocks is the number of blocks of PageSize.
func (d *Disk) Blocks() int { return int(d.size / PageSize) }

// Collect moves the bits of blocks written since the last Collect into into
// and tells how many there are.
func (d *Disk) Collect(into []uint64) int { return d.dirty.Take(into) }

// Dirty tells without taking it whether a block's bit is set.
func (d *Disk) Dirty(block int) bool { return d.dirty.Has(block) }

// File is the image, for whoever copies it.
func (d *Disk) File() *os.File { return d.image }

// ReadAt reads from the image.
func (d *Disk) ReadAt(b []byte, off int64) (int, error) {
	if d.device != nil {
		return d.device.ReadAt(b, off)
	}
	return d.image.ReadAt(b, off)
}

func (d *Disk) writeAt(b []byte, off int64) error {
	var err error
	if d.device != nil {
		_, err = d.device.WriteAt(b, off)
	} else {
		_, err = d.image.WriteAt(b, off)
	}
	return err
}

// Begin writes b at off to the image and reports it to the mirror, if there is
// one. The write counts when its Done is closed: at once where there is none.
func (d *Disk) Begin(b []byte, off int64) (*Write, error) {
	if off < 0 || off+int64(len(b)) > d.size {
		return nil, fmt.Errorf("write %d bytes at %d to disk %s: it has %d", len(b), off, d.folder, d.size)
	}
	w := &Write{off: off, done: make(chan struct{})}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.put(b, off); err != nil {
		return nil, err
	}
	if d.mirror == nil {
		w.finish()
		return w, nil
	}
	if d.device == nil { // else it stays the disk for as long as the guest lives
		w.data = slices.Clone(b)
		d.pending = append(d.pending, w)
	}
	d.mirror.report(off, w.data, w.finish)
	d.forget()
	return w, nil
}

// put writes to the image and marks the blocks, before and after.
func (d *Disk) put(b []byte, off int64) error {
	d.mark(off, len(b))
	if err := d.writeAt(b, off); err != nil {
		return fmt.Errorf("write to disk %s: %w", d.folder, err)
	}
	d.mark(off, len(b))
	return nil
}

func (d *Disk) mark(off int64, n int) {
	for block := off / PageSize; block*PageSize < off+int64(n); block++ {
		d.dirty.Set(int(block))
	}
}

// forget drops what was acknowledged: a mirror acknowledges in order.
func (d *Disk) forget() {
	n := 0
	for n < len(d.pending) && isClosed(d.pending[n].done) {
		n++
	}
	d.pending = slices.Delete(d.pending, 0, n)
}

// setMirror has writes reported to m from now on, and none to the mirror that
// was there, which is closed. nil: to none.
func (d *Disk) setMirror(m mirror) {
	d.mu.Lock()
	old := d.mirror
	d.mirror = m
	d.mu.Unlock()
	if old != nil {
		old.close()
	}
}

// MirrorTo has writes reported to the mirror that listens at path from now on; see
// Control.Mirror. "": to none.
func (d *Disk) MirrorTo(path string) error {
	if path == "" {
		d.setMirror(nil)
		return nil
	}
	to, err := openMirror(path)
	if err != nil {
		return err
	}
	d.setMirror(to)
	return nil
}

// Settle waits until all writes that were begun count.
func (d *Disk) Settle(ctx context.Context) error {
	d.mu.Lock()
	d.forget()
	pending := slices.Clone(d.pending)
	d.mu.Unlock()
	for i, w := range pending {
		select {
		case <-w.done:
		case <-ctx.Done():
			return fmt.Errorf("wait for the mirror of disk %s to acknowledge %d writes: %w", d.folder, len(pending)-i, context.Cause(ctx))
		}
	}
	return nil
}

// HandOver gives the writes that were begun here and not acknowledged to the
// disk that takes this one's place, and closes the mirror. The new disk may
// have them already; writing them again changes nothing, as they are the last
// of their blocks. The guest must be paused.
func (d *Disk) HandOver(to *Disk) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.forget()
	for _, w := range d.pending {
		if err := to.put(w.data, w.off); err != nil {
			return err
		}
		w.finish()
	}
	d.pending = nil
	if d.mirror != nil {
		old := d.mirror
		d.mirror = nil
		go old.close()
	}
	return nil
}

// Close closes the disk's files; a mirror ends.
func (d *Disk) Close() error {
	d.setMirror(nil)
	if d.device != nil {
		return d.device.close()
	}
	return errors.Join(unix.Munmap(d.mapped), d.image.Close())
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
