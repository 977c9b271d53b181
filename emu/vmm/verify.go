package vmm

import (
	"context"
	"errors"

	"github.com/vpclab/vpclab/emu/guest"
)

var _ guest.Verifier = (*keeper)(nil)

// Verify implements guest.Verifier: the process inside looks. It answers nothing
// else meanwhile: Status is what it last said.
func (k *keeper) Verify(ctx context.Context) (guest.Verification, error) {
	q := k.here.Load()
	if q == nil {
		return guest.Verification{}, errStandby
	}
	if q.link == nil {
		return guest.Verification{}, errors.New("nobody in the VM could say what it wrote: it has an image of its user's")
	}
	return q.link.Verify(ctx)
}
