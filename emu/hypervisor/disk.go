package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vpclab/vpclab/emu/guest"
)

// errNoDisk is why a disk does not move.
var errNoDisk = errors.New("disks cannot be moved yet: leave them shared")

// share makes the disk that the VM has at the host that it leaves this host's
// too, as storage that both reach: another name for the same files.
func (t *target) share() error {
	there := filepath.Join(t.agent.dir, "hosts", t.From, t.VM)
	for _, name := range []string{guest.DiskFile, guest.DiskMapFile} {
		here := filepath.Join(t.vm.folder(), name)
		if err := os.Remove(here); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := os.Link(filepath.Join(there, name), here); err != nil {
			return fmt.Errorf("share the disk: %w", err)
		}
	}
	return nil
}

// makeDisk has a disk to come to, or the one that is shared.
func (t *target) makeDisk() error {
	if t.Spec.Disk == 0 {
		return nil
	}
	if !t.Disk {
		return t.share()
	}
	return errNoDisk
}

type diskSource struct{}

func (d *diskSource) settle(context.Context) error { return nil }
func (d *diskSource) close()                       {}

type diskTarget struct{}

func (d *diskTarget) close() error { return nil }

func (m *moving) sendDisk(context.Context, netip.AddrPort, *guest.Remote) (*diskSource, error) {
	return nil, errNoDisk
}

func (t *target) receiveDisk(context.Context) error { return errNoDisk }
