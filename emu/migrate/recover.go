package migrate

import (
	"context"
	"errors"
	"fmt"

	"github.com/vpclab/vpclab/emu/event"
)

// RecoverSource decides what becomes of a VM whose source end died during a
// migration: it takes it back from the Arbiter and lets it go on here. With
// ErrCommitted the VM is the target's, and SendRest gives it what it may miss.
func RecoverSource(ctx context.Context, vm Source, arb Arbiter) error {
	ctx, cancel := context.WithTimeout(ctx, answerIn)
	defer cancel()
	if err := resolve(ctx, arb.Abort, ErrCommitted); err != nil {
		if errors.Is(err, ErrCommitted) {
			return fmt.Errorf("take the VM back: %w", err)
		}
		return fmt.Errorf("%w: %w", ErrInDoubt, err)
	}
	if err := vm.Resume(ctx); err != nil {
		return fmt.Errorf("resume at the source: %w", err)
	}
	return nil
}

// RecoverTarget starts a VM whose target end died after Keep: state and missing
// are what was kept. With ErrAborted the VM is the source's. faults is nil where
// nothing is missing; else ReceiveRest must be called with it, and with those
// of the missing pages that are still not there.
func RecoverTarget(ctx context.Context, vm Target, arb Arbiter, state []byte, missing []uint64) (faults Faults, at event.Mono, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerIn)
	defer cancel()
	if err := resolve(ctx, arb.Commit, ErrAborted); err != nil {
		if errors.Is(err, ErrAborted) {
			return nil, 0, fmt.Errorf("take the VM: %w", err)
		}
		return nil, 0, fmt.Errorf("%w: %w", ErrInDoubt, err)
	}
	if missing == nil {
		at, err = vm.Start(ctx, state)
	} else {
		faults, at, err = vm.StartMissing(ctx, state, missing)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("start the VM at the target: %w", err)
	}
	return faults, at, nil
}
