package hypervisor

import (
	"fmt"
	"slices"
	"strings"

	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/migrate"
	"github.com/vpclab/vpclab/emu/vmm"
	"github.com/vpclab/vpclab/emu/wanopt"
)

// Algorithms are all that there are, whatever they can move.
var Algorithms = slices.Concat(migrate.Algorithms, vmm.Modes, wanopt.Variants)

// ByQEMU tells whether QEMU itself moves the memory, straight or by way of a pair.
func ByQEMU(algorithm string) bool {
	return vmm.Native(algorithm) || slices.Contains(wanopt.Variants, algorithm)
}

// CanMove tells why guests of a kind cannot be moved by an algorithm; nil: they
// can.
func CanMove(kind, algorithm string) error {
	missing := migrate.Options{Algorithm: algorithm}
	switch {
	case kind == guest.KindQEMU && missing.Urgent():
		// Who asks for missing pages by userfaultfd must be the process that touches
		// them, and that is QEMU.
		return fmt.Errorf("%s has pages follow a VM that runs already, and only QEMU itself can have its guest wait for one: take %s or %s, which are QEMU's own",
			algorithm, vmm.PostCopy, vmm.PostCopyPreempt)
	case kind != guest.KindQEMU && slices.Contains(vmm.Modes, algorithm):
		return fmt.Errorf("%s is a mode of QEMU's own, and the VM is no QEMU guest: write `guest: qemu`, or take one of vpclab's algorithms", algorithm)
	case kind != guest.KindQEMU && slices.Contains(wanopt.Variants, algorithm):
		return fmt.Errorf("%s carries a stream of QEMU's, and the VM is no QEMU guest: write `guest: qemu`, or take one of vpclab's algorithms", algorithm)
	}
	return nil
}

// Check is CanMove for all that one migration is told.
func (m Move) Check() error {
	if err := CanMove(m.Spec.Kind, m.Memory.Algorithm); err != nil {
		return fmt.Errorf("VM %s: %w", m.VM, err)
	}
	if !m.native() {
		return nil
	}
	if err := m.QEMU.Check(); err != nil {
		return fmt.Errorf("VM %s: %w", m.VM, err)
	}
	if f, err := ParseFailAt(m.FailAt); err == nil && m.FailAt != "" && !slices.Contains(NativeSteps, f.step) {
		return fmt.Errorf("VM %s: fail at %q: %s never comes to step %q; it comes to %s", m.VM, m.FailAt, m.Memory.Algorithm, f.step, strings.Join(NativeSteps, ", "))
	}
	return nil
}

// adopting are the options of a guest that goes on at this host.
func (a *agent) adopting() guest.AdoptOptions { return guest.AdoptOptions{NetNS: a.netns} }

// all sets the bits of so many pages in into and tells how many there are.
func all(into []uint64, pages int) int {
	for i := range into {
		into[i] = ^uint64(0)
	}
	if over := pages % 64; over != 0 {
		into[pages/64] = 1<<over - 1
	}
	return pages
}
