package vmm

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/stock"
	"github.com/vpclab/vpclab/emu/vmm/inside"
)

// findSoftware finds what a VM runs in and what it boots: our program under a stock
// kernel or, where the Spec names an image or a kernel of the user's, that.
func findSoftware(ctx context.Context, c guest.Config, w *wire) (s *software, err error) {
	rate := stock.StartTSC()
	s = &software{accel: accelTCG}
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
	if w != nil {
		orders.Address, orders.Gateway, orders.MTU = w.address, w.gateway, w.mtu
	}
	kHz := rate.KiloHertz()
	s.steady = kHz != 0
	s.line, err = inside.KernelLine(orders, kHz)
	return s, err
}
