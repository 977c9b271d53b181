package lab

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/guest"
)

// Boot starts the guests of VMs anew, with fresh memory and disk, at the hosts
// where they are. It tells when the work of each began: the zero of its write
// trace.
func (l *Lab) Boot(ctx context.Context, vms ...string) (map[string]event.Mono, error) {
	if err := l.take(ctx); err != nil {
		return nil, fmt.Errorf("boot: %w", err)
	}
	defer l.give()
	plan, f := l.Plan(), l.Fabric()
	if plan == nil || f == nil {
		return nil, fmt.Errorf("boot: %w", ErrNotBuilt)
	}
	var mu sync.Mutex
	began := map[string]event.Mono{}
	g, gctx := errgroup.WithContext(ctx)
	for _, vm := range vms {
		n, err := guestOf(plan, vm)
		if err != nil {
			return nil, fmt.Errorf("boot: %w", err)
		}
		if l.migrationOf(vm) != nil {
			return nil, fmt.Errorf("boot %s: %w", vm, ErrMigrating)
		}
		g.Go(func() error {
			err := l.hypers.remove(gctx, vm)
			if err == nil {
				err = l.hypers.begin(gctx, f, plan, *n)
			}
			if err != nil {
				return fmt.Errorf("boot %s: %w", vm, err)
			}
			at := event.Now()
			mu.Lock()
			defer mu.Unlock()
			began[vm] = at
			return nil
		})
	}
	return began, g.Wait()
}

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
	r, err := guest.Connect(ctx, filepath.Join(h.dir, "sockets", vm), "")
	if err != nil {
		return guest.Status{}, err
	}
	defer r.Close()
	return r.Status(ctx)
}

// Host is the host whose memory and disk a guest runs on, by its own word.
func hostOf(s guest.Status) string { return filepath.Base(filepath.Dir(s.Folder)) }
