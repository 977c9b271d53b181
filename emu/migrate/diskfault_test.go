package migrate_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/migrate"
	"github.com/vpclab/vpclab/emu/migrate/wire"
)

// TestDiskSurvivesCuts cuts the connection at each step of either end, three
// times: the move goes on as if nothing had been.
func TestDiskSurvivesCuts(t *testing.T) {
	for _, step := range migrate.DiskSteps {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			from, to := newTestDisk(1200), newTestDisk(1200)
			fill(from, 2)
			fill(to, 3) // an earlier stay, long ago
			var mu sync.Mutex
			cuts := 0
			rep, _ := moveDisk(t, from, to, migrate.DiskOptions{Reuse: true}, func(way *road, name string) error {
				mu.Lock()
				defer mu.Unlock()
				if name == step && cuts < 3 {
					cuts++
					way.cut()
				}
				return nil
			})
			require.Positive(t, cuts, "the step was never taken")
			last := step == migrate.StepDiskOver || step == migrate.StepDiskTargetOver
			require.True(t, rep.Reconnects > 0 || last, "the cut was not noticed")
		})
	}
}

// TestDiskKilled kills an end at each of its steps, where it is taken again and
// again also at a later time. The VM goes on at the source, without a mirror; what the mirror
// had acknowledged by then is at the target; and another move, by other ends,
// succeeds with what was left there.
func TestDiskKilled(t *testing.T) {
	kill := func(step string, when int) {
		t.Run(fmt.Sprintf("%s %d", step, when), func(t *testing.T) {
			t.Parallel()
			killDisk(t, step, when)
		})
	}
	for _, step := range migrate.DiskSteps {
		kill(step, 1)
	}
	for _, step := range []string{migrate.StepDiskWrite, migrate.StepDiskAck, migrate.StepDiskTargetBatch, migrate.StepDiskTargetPlaced} {
		kill(step, 4)
		kill(step, 9)
	}
}

func killDisk(t *testing.T, step string, when int) {
	from, to := newTestDisk(1200), newTestDisk(1200)
	fill(from, 2)
	fill(to, 3)
	ctx, cancel := context.WithTimeout(context.Background(), diskLimit)
	defer cancel()
	// The ends are processes: what is dead does nothing any more.
	a, b, way := disks(t, 300*time.Millisecond)
	opt := migrate.DiskOptions{Reuse: true}
	var mu sync.Mutex
	times := 0
	killed := make(chan struct{})
	opt.Step = func(name string) error {
		from.late(name)
		mu.Lock()
		defer mu.Unlock()
		if name != step || times >= when {
			return nil
		}
		if times++; times < when {
			return nil
		}
		way.kill()
		close(killed)
		return migrate.ErrKilled
	}
	vm := startVM(from, 1, 200, 300*time.Microsecond)
	r := migrate.ReceiveDisk(ctx, b, to, opt)
	settled, err := tryDisk(ctx, a, from, to, r, opt)
	select {
	case <-killed:
	default:
		t.Fatalf("the step was taken %d times", times)
	}
	_, theirs := r.Wait(ctx)
	require.NotEqual(t, "settled, and not equal", fmt.Sprint(err))
	require.True(t, err != nil || theirs != nil || strings.HasSuffix(step, "over"), "nobody has noticed")
	require.NoError(t, ctx.Err())

	from.setPaused(false) // as if it was not given away
	before := vm.count()
	require.Eventually(t, func() bool { return vm.count() > before+20 }, diskLimit, time.Millisecond, "the VM stands")
	from.setPaused(true)
	vm.end()
	if !settled {
		require.Zero(t, vm.lost(to), "writes that were acknowledged are not at the target")
	}
	from.setPaused(false)
	from.mirror = nil
	moveDisk(t, from, to, migrate.DiskOptions{Reuse: true}, nil)
}

// tryDisk is the source's end, as far as it goes. settled: the target had all,
// and the VM could be given to it.
func tryDisk(ctx context.Context, a wire.Session, from, to *testDisk, r *migrate.DiskReceiver, opt migrate.DiskOptions) (settled bool, err error) {
	m, err := migrate.SendDisk(ctx, a, from, opt)
	if err != nil {
		return false, err
	}
	defer m.Close()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !stepped(from) {
		select {
		case <-m.Failed():
			return false, m.Err()
		case <-ctx.Done():
			return false, fmt.Errorf("waiting for mirrored writes: %w", ctx.Err())
		case <-tick.C:
		}
	}
	from.setPaused(true)
	err = m.Settle(ctx)
	if theirs := r.AwaitSettled(ctx); theirs == nil {
		settled = true
		if !bytes.Equal(from.image, to.image) {
			return settled, errors.New("settled, and not equal")
		}
	}
	if err == nil {
		_, err = m.Prove(ctx)
	}
	return settled, err
}
