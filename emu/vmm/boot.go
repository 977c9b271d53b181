package vmm

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/stock"
	"github.com/vpclab/vpclab/emu/vmm/inside"
)

// envAccel is set to kvm by who knows that VMs can have this machine's processor
// itself: that /dev/kvm opens does not say so.
const envAccel = "VPCLAB_GUEST_ACCEL"

// Accel is what VMs are carried out by, in QEMU's words: kvm or tcg.
func Accel() string {
	if os.Getenv(envAccel) == string(accelKVM) {
		return string(accelKVM)
	}
	return string(accelTCG)
}

// lineOf is the command line of a kernel of the user's, on the disk in folder.
func lineOf(folder string, s guest.Spec) (string, error) {
	const line = "console=ttyS0 panic=-1" // with -no-reboot: QEMU ends
	if s.Disk == 0 {
		return line, nil
	}
	f, err := os.Open(filepath.Join(folder, guest.DiskFile))
	if err != nil {
		return "", err
	}
	defer f.Close()
	sector := make([]byte, 512)
	if _, err := f.ReadAt(sector, 0); err != nil {
		return "", fmt.Errorf("look for partitions: %w", err)
	}
	return line + " rw root=" + rootIn(sector), nil
}

// rootIn is the device of the root file system on a disk that begins with this
// sector: the first partition, where it has any. Linux counts the entries of the
// table, the empty ones too.
func rootIn(sector []byte) string {
	const tableAt, entry, signatureAt = 446, 16, 510
	if sector[signatureAt] == 0x55 && sector[signatureAt+1] == 0xaa {
		for n := range 4 {
			if kind := sector[tableAt+n*entry+4]; kind != 0 {
				return fmt.Sprintf("/dev/vda%d", n+1)
			}
		}
	}
	return "/dev/vda"
}

// findSoftware finds what a VM runs in and what it boots: our program under a stock
// kernel or, where the Spec names an image or a kernel of the user's, that.
func findSoftware(ctx context.Context, c guest.Config, w *wire) (s *software, err error) {
	rate := stock.StartTSC()
	s = &software{accel: accelerator(Accel())}
	if s.qemu, err = stock.FindGuestQEMU(ctx); err != nil {
		return nil, err
	}
	if c.Spec.Image != "" || c.Spec.Kernel != "" {
		s.pc, s.kernel = c.Spec.Image != "", c.Spec.Kernel
		return s, nil
	}
	image, err := stock.FindImage()
	if err != nil {
		return nil, err
	}
	s.ours, s.kernel = true, image.Loadable(ctx)
	if s.initrd, err = Initramfs(filepath.Dir(c.Socket), image, c.Spec.Trace); err != nil {
		return nil, fmt.Errorf("pack what is in it: %w", err)
	}
	orders := inside.Orders{Spec: c.Spec}
	if orders.Spec.Trace != "" {
		orders.Spec.Trace = inside.TraceFile
	}
	if w != nil {
		orders.Address, orders.Gateway, orders.MTU = w.address, w.gateway, w.mtu
	}
	kHz := int64(0) // KVM's guests have a clock of KVM's
	if s.accel == accelTCG {
		kHz = rate.KiloHertz()
	}
	s.steady = kHz != 0
	s.line, err = inside.KernelLine(orders, kHz)
	return s, err
}
