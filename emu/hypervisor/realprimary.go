package hypervisor

import (
	"context"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/replicate"
)

// realPrimary is a primary whose guest marks no page that it writes: a VM with a
// kernel of its own. What has changed is found by comparing with the copy that the
// standby is told of (guest.Snapshot).
//
// While the VM runs it is compared a part at a time: where there is one processor,
// what a look costs is taken from the VM. Where it stands, all of it is, so that
// the copy is what its memory held at that moment.
type realPrimary struct {
	*primary
	copied *guest.Snapshot
	epochs bool // the copy at the standby is about to be whole
	stands bool
}

var _ replicate.Primary = (*realPrimary)(nil)

// replicated is the primary as replication sees it.
func (p *primary) replicated() (vm replicate.Primary, done func(), err error) {
	if p.memory == nil || p.seat.Spec.Kind != guest.KindQEMU {
		return p, func() {}, nil
	}
	copied, err := guest.NewSnapshot(p.memory.Bytes())
	if err != nil {
		return nil, nil, err
	}
	// What fails leaves a mapping behind, and no more.
	return &realPrimary{primary: p, copied: copied}, func() { _ = copied.Close() }, nil
}

// Memory implements replicate.Primary.
func (r *realPrimary) Memory() []byte { return r.copied.Bytes() }

// Collect implements replicate.Primary.
func (r *realPrimary) Collect(into []uint64) int {
	if r.epochs && !r.stands {
		return r.copied.Glance(into)
	}
	return r.copied.Collect(into)
}

// Dirty implements replicate.Primary: nothing that the copy holds changes behind
// the back of who reads it, and what the VM has written since is found by the next
// Collect. A page must not be left out because the VM has it otherwise by now: it
// may be as it was when that looks.
func (r *realPrimary) Dirty(int) bool { return false }

// Checkpoint implements replicate.Primary.
func (r *realPrimary) Checkpoint(ctx context.Context, connections bool) (event.Mono, []byte, error) {
	at, state, err := r.primary.Checkpoint(ctx, connections)
	if err == nil {
		r.epochs, r.stands = true, true
	}
	return at, state, err
}

// Resume implements replicate.Primary.
func (r *realPrimary) Resume(ctx context.Context) error {
	r.stands = false
	return r.primary.Resume(ctx)
}

// complete fills in what depends on the kind of guest.
func (p Pair) complete() Pair {
	if p.Spec.Kind == guest.KindQEMU && p.Replicate.Epoch == 0 && p.remembers() {
		p.Replicate.Epoch = replicate.RealEpoch
	}
	return p
}
