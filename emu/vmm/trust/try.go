package trust

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/stock"
	"github.com/vpclab/vpclab/emu/vmm"
	"github.com/vpclab/vpclab/emu/vmm/inside"
)

// trial counts the changes of a trial: verdicts of another one are of no worth.
const trial = 1

const (
	memory = 128 << 20
	work   = 32 << 20
	moves  = 3
	// What QEMU 7.2 does wrong happens where it looks what was written while the
	// guest writes, once in some hundred times. So a migration is to look often: it
	// may take little bandwidth, and must not end by itself until it has gone over
	// the memory for so many times, or for so long.
	bandwidth = 50 << 20
	impatient = time.Millisecond
	passes    = 25
	enough    = 2500 * time.Millisecond
	patient   = 10 * time.Second // it ends now, at any price
	// movesWithin and verifiesWithin are for one of them, on a busy machine.
	movesWithin    = 20 * time.Second
	verifiesWithin = 20 * time.Second
	boots          = 3 // attempts: a busy machine now and then spoils a kernel's start
)

// try is a trial under way.
type try struct {
	qemu                 *stock.QEMU
	accel, machine       string
	kernel, initrd, line string
	folder               string
}

// Try makes a trial, whatever is known. What a QEMU does wrong is in the verdict;
// the error is about a trial that could not be made.
func Try(ctx context.Context, q *stock.QEMU, image *stock.Image, accel string) (*Verdict, error) {
	began := time.Now()
	meter := stock.StartTSC()
	folder, err := os.MkdirTemp("", "vpclab-trial-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(folder)
	t := &try{qemu: q, accel: accel, folder: folder, kernel: image.Loadable(ctx)}
	if t.initrd, err = vmm.Initramfs(folder, image, ""); err != nil {
		return nil, err
	}
	rate := int64(0)
	t.machine = "microvm,rtc=on"
	if accel == "tcg" {
		if rate = meter.KiloHertz(); rate != 0 {
			// A kernel that knows the rate needs no timer to find it out, and the one of
			// this machine interrupts it before it is ready for that.
			t.machine += ",pit=off,pic=off"
		}
	}
	t.line, err = inside.KernelLine(inside.Orders{
		Spec:    guest.Spec{Name: "trial", Kind: guest.KindQEMU, Memory: memory, Work: work, Workload: guest.SPECjbb, Scale: 1.0 / 16, Seed: 1},
		Address: netip.MustParsePrefix("10.0.0.1/24"),
	}, rate)
	if err != nil {
		return nil, err
	}
	m, err := t.boot(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { m.kill() }()
	v := &Verdict{QEMU: q.Path, Version: q.Version, Kernel: image.Release, Accel: accel}
	for v.Moves < moves {
		next, err := t.start(ctx, fmt.Sprint("move-", v.Moves), "-incoming", "unix:"+filepath.Join(folder, "stream"))
		if err != nil {
			return nil, err
		}
		err = t.move(ctx, m, next)
		m.kill()
		m = next
		var found guest.Verification
		if err == nil {
			found, err = t.verify(ctx, m)
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil || found.Bad > 0 {
			v.Why = fmt.Sprintf("the guest that a trial moved %d times, writing, found %d of its %d pages wrong: %s", v.Moves+1, found.Bad, found.Pages, found.First)
			if err != nil {
				v.Why = fmt.Sprintf("the guest that a trial moved %d times, writing, is of no use any more: %v%s", v.Moves+1, err, m.lastWords())
			}
			v.Took = time.Since(began)
			v.late = errors.Is(err, errLate)
			return v, nil
		}
		v.Moves++
		v.Pages = found.Pages
	}
	v.Trusted, v.Took = true, time.Since(began)
	v.Why = fmt.Sprintf("a guest that wrote all the time was moved %d times, and found each of its %d pages as it was after each", v.Moves, v.Pages)
	return v, nil
}

// boot starts the guest.
func (t *try) boot(ctx context.Context) (*machine, error) {
	for n := 1; ; n++ {
		m, err := t.start(ctx, fmt.Sprint("boot-", n))
		if err != nil {
			return nil, err
		}
		if err = m.hello(ctx); err == nil {
			return m, nil
		}
		err = fmt.Errorf("start the guest of a trial: %w%s", err, m.lastWords())
		m.kill()
		if ctx.Err() != nil || n == boots {
			return nil, err
		}
	}
}

// move moves the guest live.
func (t *try) move(ctx context.Context, from, to *machine) error {
	ctx, cancel := from.within(ctx, movesWithin, "a live migration to end")
	defer cancel()
	from.pass, from.moved = 0, false // it was a destination, maybe
	set := func(with map[string]any) error {
		return from.why(from.monitor.Execute(ctx, "migrate-set-parameters", with, nil))
	}
	if err := set(map[string]any{"max-bandwidth": bandwidth, "downtime-limit": impatient.Milliseconds()}); err != nil {
		return err
	}
	err := from.monitor.Execute(ctx, "migrate", map[string]any{"uri": "unix:" + filepath.Join(t.folder, "stream")}, nil)
	if err == nil {
		err = from.passes(ctx, passes, enough)
	}
	if err == nil && !from.moved {
		err = set(map[string]any{"downtime-limit": patient.Milliseconds()})
	}
	if err != nil {
		return from.why(err)
	}
	if err := from.migrated(ctx); err != nil {
		return fmt.Errorf("at the source: %w", err)
	}
	if err := to.migrated(ctx); err != nil {
		return fmt.Errorf("at the destination: %w", err)
	}
	return nil
}

// verify has the guest compare all that it wrote.
func (t *try) verify(ctx context.Context, m *machine) (guest.Verification, error) {
	ctx, cancel := m.within(ctx, verifiesWithin, "the guest to compare its memory")
	defer cancel()
	if err := m.hello(ctx); err != nil {
		return guest.Verification{}, err
	}
	v, err := m.link.Verify(ctx)
	return v, m.why(err)
}
