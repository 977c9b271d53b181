package vmm

import (
	"errors"
	"fmt"
	"net"

	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/vmm/nbd"
)

// disk is what a host has of a VM's disk, served to the QEMU there.
type disk struct {
	*guest.Disk
	server *nbd.Server
}

// openDisk opens the disk in folder; nil: the VM has none.
func openDisk(folder string, s guest.Spec) (*disk, error) {
	if s.Disk == 0 {
		return nil, nil
	}
	d, err := guest.OpenDisk(folder)
	if err != nil {
		return nil, err
	}
	if d.Size() != s.Disk {
		err = fmt.Errorf("disk in %s has %d bytes: want %d", folder, d.Size(), s.Disk)
		return nil, errors.Join(err, d.Close())
	}
	return &disk{Disk: d}, nil
}

// Write implements nbd.Device.
func (d *disk) Write(b []byte, off int64) (<-chan struct{}, error) {
	w, err := d.Begin(b, off)
	if err != nil {
		return nil, err
	}
	return w.Done(), nil
}

// serve serves it at a connection. Until hold, writes are answered at once.
func (d *disk) serve(conn net.Conn) {
	d.server = nbd.Serve(conn, d)
	d.server.Release()
}

// hold has writes answered when they count.
func (d *disk) hold() {
	if d != nil {
		d.server.Hold()
	}
}

// release has them answered at once, and those that wait: the VM stands.
func (d *disk) release() {
	if d != nil {
		d.server.Release()
	}
}

func (d *disk) close() error {
	if d == nil {
		return nil
	}
	if d.server != nil {
		_ = d.server.Close() // its client has gone before
	}
	return d.Disk.Close()
}
