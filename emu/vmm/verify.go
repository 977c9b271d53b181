package vmm

import (
	"context"
	"errors"

	"github.com/vpclab/vpclab/emu/guest"
)

var _ guest.Verifier = (*keeper)(nil)

// Verify implements guest.Verifier: the process inside looks. It answers nothing
// else meanwhile.
func (k *keeper) Verify(ctx context.Context) (guest.Verification, error) {
	k.told.Lock()
	defer k.told.Unlock()
	q := k.here.Load()
	if q == nil {
		return guest.Verification{}, errStandby
	}
	if q.link == nil {
		return guest.Verification{}, errors.New("nobody in the VM could say what it wrote: it has an image of its user's")
	}
	return q.link.Verify(ctx)
}
