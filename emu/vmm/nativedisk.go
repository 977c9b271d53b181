package vmm

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/migrate"
	"github.com/vpclab/vpclab/emu/qmp"
)

// A VM's disk moves beside QEMU's own migration by QEMU's own mirror, over NBD: the
// QEMU that waits for the VM serves its disk, and the one that has it copies its
// own there, first behind the VM's back and then with each write waiting for the
// other host (copy-mode write-blocking). While the VM stands the mirror is brought
// to its end, before the last of the memory goes.

// Names of what QEMU has for that.
const (
	diskNode   = "disk" // the block device of a VM's disk, at either end
	mirrorNode = "mirror-to"
	mirrorJob  = "mirror"
	exportID   = "disk-export"
	listenerFD = "disk-listener"
)

// ServeDisk has a QEMU that waits for a VM serve its disk at a socket that listens.
func ServeDisk(ctx context.Context, m *qmp.Client, listener *os.File) error {
	if err := m.GetFD(ctx, listenerFD, listener); err != nil {
		return err
	}
	addr := map[string]any{"type": "fd", "data": map[string]any{"str": listenerFD}}
	if err := m.Execute(ctx, "nbd-server-start", map[string]any{"addr": addr}, nil); err != nil {
		return err
	}
	return m.Execute(ctx, "block-export-add", map[string]any{"type": "nbd", "id": exportID, "node-name": diskNode, "writable": true}, nil)
}

// UnserveDisk ends that: the VM is about to write it itself.
func UnserveDisk(ctx context.Context, m *qmp.Client) error {
	return m.Execute(ctx, "nbd-server-stop", nil, nil)
}

// DiskMirror is the copy of a disk on its way to another host.
type DiskMirror struct {
	monitor *qmp.Client
	events  *qmp.Subscription
	report  migrate.DiskReport
	over    bool
}

// MirrorDisk begins to copy a VM's disk to where ServeDisk serves the other host's.
// End or Cancel ends it, and Close must be called in any case.
func MirrorDisk(ctx context.Context, m *qmp.Client, to netip.AddrPort) (*DiskMirror, error) {
	d := &DiskMirror{monitor: m}
	server := map[string]any{"type": "inet", "host": to.Addr().String(), "port": strconv.Itoa(int(to.Port()))}
	if err := m.Execute(ctx, "blockdev-add", map[string]any{"driver": "nbd", "node-name": mirrorNode, "server": server, "export": diskNode}, nil); err != nil {
		return nil, err
	}
	d.events = m.Subscribe("BLOCK_JOB_READY", "BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED", "BLOCK_JOB_ERROR")
	d.report.Began = event.Now()
	err := m.Execute(ctx, "blockdev-mirror", map[string]any{"job-id": mirrorJob, "device": diskNode, "target": mirrorNode, "sync": "full", "copy-mode": "background"}, nil)
	if err != nil {
		d.over = true
		d.Close()
		return nil, err
	}
	return d, nil
}

// InStep waits until both disks are the same but for what is on its way, and has
// each write wait for the other host from then on.
func (d *DiskMirror) InStep(ctx context.Context) error {
	if err := d.await(ctx, "BLOCK_JOB_READY"); err != nil {
		return err
	}
	d.report.InStep = event.Now()
	err := d.monitor.Execute(ctx, "block-job-change", map[string]any{"id": mirrorJob, "type": "mirror", "copy-mode": "write-blocking"}, nil)
	d.report.Mirrored = d.report.InStep
	return err
}

// End brings the mirror to its end: both disks are the same. The VM stands.
func (d *DiskMirror) End(ctx context.Context) error {
	var jobs []struct {
		Device      string
		Len, Offset int64
	}
	if err := d.monitor.Execute(ctx, "query-block-jobs", nil, &jobs); err != nil {
		return err
	}
	for _, j := range jobs {
		if j.Device == mirrorJob {
			d.report.Sent = int(j.Offset / pageSize)
		}
	}
	if err := d.monitor.Execute(ctx, "block-job-cancel", map[string]any{"device": mirrorJob}, nil); err != nil {
		return err
	}
	if err := d.await(ctx, "BLOCK_JOB_COMPLETED"); err != nil {
		return err
	}
	d.over = true
	d.report.Settled = event.Now()
	return nil
}

// await waits for an event of the mirror; any other means that it has failed.
func (d *DiskMirror) await(ctx context.Context, want string) error {
	for {
		e, err := d.events.Next(ctx)
		if err != nil {
			return err
		}
		var j struct{ Device, Operation, Error string }
		if err := e.Decode(&j); err != nil {
			return err
		}
		switch {
		case j.Device != mirrorJob:
			continue
		case e.Name == want && j.Error == "":
			return nil
		case e.Name == "BLOCK_JOB_ERROR":
			return fmt.Errorf("mirror the disk: QEMU's %s has failed", j.Operation)
		case e.Name != "BLOCK_JOB_READY":
			d.over = true
		}
		return fmt.Errorf("mirror the disk: QEMU says %s and not %s: %s", e.Name, want, j.Error)
	}
}

// mirrorEndIn bounds how long a mirror takes to be given up.
const mirrorEndIn = 5 * time.Second

// Close gives the mirror up where it has not ended, so that the VM goes on without
// it, and lets go of the other host.
func (d *DiskMirror) Close() error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), mirrorEndIn, fmt.Errorf("waited %v for QEMU to give the mirror of a disk up", mirrorEndIn))
	defer cancel()
	defer d.events.Close()
	var err error
	if !d.over {
		err = d.monitor.Execute(ctx, "block-job-cancel", map[string]any{"device": mirrorJob, "force": true}, nil)
		for err == nil && !d.over {
			if failed := d.await(ctx, "BLOCK_JOB_CANCELLED"); ctx.Err() != nil || errors.Is(failed, qmp.ErrGone) {
				err = failed
			} else if failed == nil {
				d.over = true
			}
		}
	}
	if errors.Is(err, qmp.ErrGone) {
		return nil
	}
	return errors.Join(err, d.monitor.Execute(ctx, "blockdev-del", map[string]any{"node-name": mirrorNode}, nil))
}

// Report is what was measured until now, of a disk of so many bytes.
func (d *DiskMirror) Report(size int64) *migrate.DiskReport {
	r := d.report
	r.Blocks = int(size / pageSize)
	return &r
}

// DropMirror ends a mirror that an earlier process has begun, if there is one.
func DropMirror(ctx context.Context, m *qmp.Client) {
	d := &DiskMirror{monitor: m, events: m.Subscribe("BLOCK_JOB_READY", "BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED", "BLOCK_JOB_ERROR")}
	var jobs []struct{ Device string }
	d.over = m.Execute(ctx, "query-block-jobs", nil, &jobs) != nil || !slices.ContainsFunc(jobs, func(j struct{ Device string }) bool { return j.Device == mirrorJob })
	_ = d.Close() // there may be none
}
