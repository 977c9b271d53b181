package hypervisor

import (
	"context"
	"fmt"
	"time"

	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/migrate"
)

// verifyIn bounds how long a guest looks at all that it has written: its processor
// may be an emulated one.
const verifyIn = time.Minute

// verify has a VM with a kernel of its own that has come here say whether its memory
// and disk hold what it wrote, whoever has moved it. One that cannot say so leaves it
// open, and the time line tells why.
func (t *target) verify(ctx context.Context) error {
	if t.Spec.Kind != guest.KindQEMU || t.Spec.Image != "" {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, verifyIn, fmt.Errorf("waited %v for the guest to look at what it wrote", verifyIn))
	defer cancel()
	// A connection of its own: who steers the VM need not wait.
	r, err := guest.Connect(ctx, t.vm.socket(), t.vm.folder())
	var found guest.Verification
	if err == nil {
		found, err = r.Verify(ctx)
		r.Close()
	}
	if err != nil {
		t.agent.tell(t.VM, "migration.unverified", map[string]string{"error": err.Error()})
		return nil
	}
	t.outcome.Checked = &found
	if found.Bad > 0 {
		return fmt.Errorf("%w, and finds that %d of its %d pages and %d blocks are not what it wrote: %s", migrate.ErrCommitted, found.Bad, found.Pages, found.Blocks, found.First)
	}
	return nil
}
