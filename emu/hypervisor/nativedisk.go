package hypervisor

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"

	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/migrate"
	"github.com/vpclab/vpclab/emu/vmm"
)

// The disk of a VM that QEMU moves by itself is moved by QEMU's mirror: see package
// vmm. Where memories are compared while both stand, disks are.

// serveDisk has the waiting QEMU serve its disk, and tells where; "": it does not
// move.
func (n *nativeTarget) serveDisk(ctx context.Context) (where string, err error) {
	if n.disk == nil {
		return "", nil
	}
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(n.agent.addr, 0)))
	if err != nil {
		return "", fmt.Errorf("listen for the disk: %w", err)
	}
	defer l.Close()
	f, err := l.File()
	if err != nil {
		return "", fmt.Errorf("listen for the disk: %w", err)
	}
	defer f.Close()
	if err := vmm.ServeDisk(ctx, n.monitor, f); err != nil {
		return "", fmt.Errorf("serve the disk: %w", err)
	}
	n.served = true
	return l.Addr().String(), nil
}

// unserveDisk ends that: nobody else writes the disk any more.
func (n *nativeTarget) unserveDisk(ctx context.Context) error {
	if !n.served {
		return nil
	}
	n.served = false
	if err := vmm.UnserveDisk(ctx, n.monitor); err != nil {
		return fmt.Errorf("end serving the disk: %w", err)
	}
	return nil
}

// mirrorDisk copies the disk until it is in step.
func (s *nativeSource) mirrorDisk(ctx context.Context, where string) error {
	if where == "" {
		return nil
	}
	to, err := netip.ParseAddrPort(where)
	if err != nil {
		return fmt.Errorf("disk: %w", err)
	}
	s.mirrored = s.countTo(where)
	if s.mirror, err = vmm.MirrorDisk(ctx, s.monitor, to); err != nil {
		return fmt.Errorf("disk: %w", err)
	}
	if s.mirrored != nil {
		s.mirrored.look()
	}
	if err := s.mirror.InStep(ctx); err != nil {
		return fmt.Errorf("disk: %w", err)
	}
	s.agent.tell(s.VM, "migration.phase", map[string]string{"phase": "disk"})
	return nil
}

// endMirror has a VM that stays go on without it, and tells what it was.
func (s *nativeSource) endMirror() {
	if s.mirror == nil {
		return
	}
	_ = s.mirror.Close() // what is left of it goes with QEMU
	s.outcome.Disk = s.mirror.Report(s.Spec.Disk)
	s.outcome.Disk.Hash = s.diskHash
	s.mirror = nil
	if s.mirrored != nil {
		s.outcome.Disk.BytesOut, s.outcome.Disk.BytesBack = s.mirrored.close()
	}
}

// hashOfDisk is the hash by which disks are compared while both stand; "": it does
// not move.
func (m *moving) hashOfDisk() (string, error) {
	if !m.Disk {
		return "", nil
	}
	d, err := guest.OpenDisk(m.vm.folder())
	if err != nil {
		return "", err
	}
	h := sha256.New()
	_, err = io.Copy(h, io.NewSectionReader(d.File(), 0, d.Size()))
	return hex.EncodeToString(h.Sum(nil)), errors.Join(err, d.Close())
}

// diskSwitch is OutgoingOptions.Switch; nil: there is no disk to be brought to its
// end.
func (s *nativeSource) diskSwitch() func(context.Context) error {
	if s.mirror == nil {
		return nil
	}
	return func(ctx context.Context) error {
		if err := s.step(migrate.StepDiskSettle); err != nil {
			return err
		}
		return s.mirror.End(ctx)
	}
}
