package lab

import (
	"context"
	"sync"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/hypervisor"
	"github.com/vpclab/vpclab/emu/stock"
	"github.com/vpclab/vpclab/emu/vmm"
	"github.com/vpclab/vpclab/emu/vmm/trust"
)

// qemuTrust is what a lab knows of the QEMU that its VMs run in.
type qemuTrust struct {
	mu      sync.Mutex
	verdict *trust.Verdict
}

// trusted refuses to have QEMU itself move a VM that runs, where it was seen to
// spoil what it moves. Whoever deployed the lab has had it tried, as a rule, and
// then it is known; else a trial is made now.
func (l *Lab) trusted(ctx context.Context, req MigrateRequest) error {
	plan := l.Plan()
	if plan == nil {
		return ErrNotBuilt
	}
	n, ok := plan.Node(req.VM)
	if !ok || n.Guest == nil || n.Guest.Kind != guest.KindQEMU || !hypervisor.ByQEMU(req.Memory.Algorithm) {
		return nil // it moves no memory, or somebody else says that there is no such VM
	}
	l.qemu.mu.Lock()
	defer l.qemu.mu.Unlock()
	if l.qemu.verdict == nil {
		q, err := stock.FindGuestQEMU(ctx)
		if err != nil {
			return err
		}
		image, err := stock.FindImage()
		if err != nil {
			return err
		}
		l.qemu.verdict, err = trust.Ask(ctx, q, image, vmm.Accel(), func() {
			l.observe(event.New(req.VM, "qemu.tried", map[string]string{"qemu": q.Path}))
		})
		if err != nil {
			return err
		}
	}
	return l.qemu.verdict.Err()
}
