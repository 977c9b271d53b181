package lab

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/vpclab/vpclab/emu/guest"
)

// GuestStatus is what a guest says of itself, wherever it runs.
func (l *Lab) GuestStatus(ctx context.Context, vm string) (guest.Status, error) {
	plan := l.Plan()
	if plan == nil {
		return guest.Status{}, ErrNotBuilt
	}
	if _, err := guestOf(plan, vm); err != nil {
		return guest.Status{}, err
	}
	return l.hypers.status(ctx, vm)
}

// status asks a guest by its control socket, which the lab's processes share.
func (h *hypervisors) status(ctx context.Context, vm string) (guest.Status, error) {
	if h.record() == nil {
		return guest.Status{}, errors.New("no guest was started")
	}
	r, err := guest.Connect(ctx, filepath.Join(h.dir, "sockets", h.lab.pairs.seatOf(vm)), "")
	if err != nil {
		return guest.Status{}, err
	}
	defer r.Close()
	return r.Status(ctx)
}

// hostOf is the host whose memory and disk a guest runs on, by its own word.
func hostOf(s guest.Status) string { return filepath.Base(filepath.Dir(s.Folder)) }
