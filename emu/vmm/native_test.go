package vmm

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/migrate"
)

// slowly has a move of a test machine take a second or two.
var slowly = Parameters{MaxBandwidth: 30 << 20, DowntimeLimit: 50 * time.Millisecond}

// Pauses of walkers, in turns of a loop: of one whose pages can be sent as fast as
// it writes them at slowly's rate, and of one whose cannot.
const (
	strolls = 300000
	runs    = 3000
)

// pair is a machine that walks and one that waits for it.
func pair(t *testing.T, pause uint32) (from, to *machine) {
	from = startMachine(t, "from", pause)
	to = startMachine(t, "to", pause, "-incoming", "defer", "-S")
	from.awaitWalk(t)
	return from, to
}

// begin begins to move from's VM to to.
func begin(t *testing.T, from, to *machine, opt OutgoingOptions) (*Outgoing, *Incoming) {
	ctx := soon(t)
	for _, m := range []*machine{from, to} {
		require.NoError(t, Configure(ctx, m.Client, opt.Mode, opt.Parameters, opt.Switch != nil))
	}
	in, err := Listen(ctx, to.Client, opt.Mode, "tcp:127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(in.Close)
	at, err := in.At(ctx)
	require.NoError(t, err)
	out, err := Begin(ctx, from.Client, fmt.Sprintf("tcp:%s", at), opt)
	require.NoError(t, err)
	t.Cleanup(out.Close)
	return out, in
}

// requireGoesOn is about a machine that runs: it walks on, and is whole.
func (m *machine) requireGoesOn(t *testing.T) {
	ctx := soon(t)
	was := m.walked(t)
	for m.walked(t) == was {
		require.NoError(t, rest(ctx, 10*time.Millisecond))
	}
	require.NoError(t, m.Execute(ctx, "stop", nil, nil))
	require.NoError(t, m.whole())
}

func TestEveryModeMovesAMachineThatWrites(t *testing.T) {
	for _, mode := range Modes {
		t.Run(mode, func(t *testing.T) {
			ctx := soon(t)
			pace := uint32(strolls)
			if Late(mode) {
				pace = runs // or nothing is left for after the hand-over
			}
			from, to := pair(t, pace)
			var paused event.Mono
			var steps []string
			opt := OutgoingOptions{Mode: mode, Parameters: slowly, Paused: func(at event.Mono) { paused = at }, Step: func(name string) error {
				steps = append(steps, name)
				return nil
			}}
			out, in := begin(t, from, to, opt)
			require.NoError(t, out.Run(ctx))
			require.NoError(t, in.Loaded(ctx))
			require.NoError(t, to.Execute(ctx, "cont", nil, nil))
			require.NoError(t, out.Finish(ctx))
			require.NoError(t, in.Whole(ctx))
			to.requireGoesOn(t)

			r, stats := out.Report(ctx)
			require.Equal(t, mode, r.Algorithm)
			require.Equal(t, paused, r.PausedAt)
			require.Less(t, r.Began, r.PausedAt)
			require.LessOrEqual(t, r.PausedAt, r.Done)
			require.Equal(t, walkMemory/pageSize, r.Rounds[0].ToSend&^0xff) // the firmware has some beside
			var sent, bytes int64
			for _, round := range r.Rounds {
				sent, bytes = sent+int64(round.Sent), bytes+round.Bytes
			}
			require.Equal(t, r.BytesOut, bytes)
			require.GreaterOrEqual(t, sent, int64(walkMemory/pageSize))
			require.Equal(t, Late(mode), stats.Postcopy > 0)
			for _, step := range steps {
				require.Contains(t, OutgoingSteps, step)
			}
			require.Subset(t, steps, []string{migrate.StepSourceBegin, migrate.StepSourceRound, migrate.StepSourcePaused, migrate.StepSourceFinal})
			if mode == MultifdZstd {
				require.Less(t, r.BytesOut, int64(walkMemory/20)) // its pages are all but zeros
			}
		})
	}
}

// TestOneThatWritesTooFastIsGivenUp and runs on where it was, and can be moved
// afterwards by a way that needs no rounds.
func TestOneThatWritesTooFastIsGivenUp(t *testing.T) {
	ctx := soon(t)
	from, to := pair(t, runs)
	out, _ := begin(t, from, to, OutgoingOptions{Mode: PreCopy, Parameters: slowly, Limit: 3 * time.Second})
	require.ErrorIs(t, out.Run(ctx), ErrDiverged)
	r, _ := out.Report(ctx)
	require.Zero(t, r.PausedAt)
	require.Greater(t, len(r.Rounds), 1)
	require.Greater(t, r.BytesOut, int64(walkMemory))
	require.NoError(t, to.Execute(ctx, "quit", nil, nil))

	third := startMachine(t, "third", runs, "-incoming", "defer", "-S")
	out, in := begin(t, from, third, OutgoingOptions{Mode: PostCopy, Parameters: slowly, Limit: 20 * time.Second})
	require.NoError(t, out.Run(ctx))
	require.NoError(t, in.Loaded(ctx))
	require.NoError(t, third.Execute(ctx, "cont", nil, nil))
	require.NoError(t, out.Finish(ctx))
	require.NoError(t, in.Whole(ctx))
	third.requireGoesOn(t)
}

// TestOneThatIsHeldWaits with its last round, or with post-copy.
func TestOneThatIsHeldWaits(t *testing.T) {
	for _, mode := range []string{PreCopy, PostCopy} {
		t.Run(mode, func(t *testing.T) {
			ctx := soon(t)
			from, to := pair(t, strolls/3)
			hold, held := make(chan struct{}), make(chan event.Mono, 1)
			out, in := begin(t, from, to, OutgoingOptions{Mode: mode, Parameters: slowly, Hold: hold, Step: func(name string) error {
				if name == migrate.StepSourceHeld {
					held <- event.Now()
					time.AfterFunc(500*time.Millisecond, func() { close(hold) })
				}
				return nil
			}})
			require.NoError(t, out.Run(ctx))
			require.NoError(t, in.Loaded(ctx))
			require.NoError(t, to.Execute(ctx, "cont", nil, nil))
			require.NoError(t, out.Finish(ctx))
			r, _ := out.Report(ctx)
			require.GreaterOrEqual(t, r.PausedAt.Sub(<-held), 500*time.Millisecond)
			to.requireGoesOn(t)
		})
	}
}

// TestEveryStepCanFail leaves a VM that goes on where it was, unless it was handed
// over with pages missing.
func TestEveryStepCanFail(t *testing.T) {
	why := fmt.Errorf("the test would have it so")
	for _, step := range OutgoingSteps {
		mode := PreCopy
		if step == migrate.StepSourcePause {
			mode = PostCopy
		}
		var hold chan struct{}
		if step == migrate.StepSourceHeld {
			hold = make(chan struct{})
		}
		t.Run(step, func(t *testing.T) {
			ctx := soon(t)
			from, to := pair(t, strolls/3)
			opt := OutgoingOptions{Mode: mode, Parameters: slowly, Hold: hold, Step: func(name string) error {
				if name == step {
					return why
				}
				return nil
			}}
			if step == migrate.StepSourceBegin {
				_, err := Begin(ctx, from.Client, "tcp:127.0.0.1:1", opt)
				require.ErrorIs(t, err, why)
			} else {
				out, in := begin(t, from, to, opt)
				require.ErrorIs(t, out.Run(ctx), why)
				if step != migrate.StepSourceFinal && step != migrate.StepSourcePaused {
					require.Error(t, in.Loaded(ctx))
				}
			}
			require.NoError(t, from.Execute(ctx, "cont", nil, nil))
			from.requireGoesOn(t)
		})
	}
}

// TestTheTargetsEnd leaves a VM that runs where it was.
func TestTheTargetsEnd(t *testing.T) {
	ctx := soon(t)
	from, to := pair(t, strolls)
	out, in := begin(t, from, to, OutgoingOptions{Mode: PreCopy, Parameters: slowly, Step: func(name string) error {
		if name == migrate.StepSourceRound {
			return to.cmd.Process.Kill()
		}
		return nil
	}})
	require.Error(t, out.Run(ctx))
	require.Error(t, in.Loaded(ctx))
	from.requireGoesOn(t)
}

// TestADiskIsBroughtToItsEnd while the VM stands.
func TestADiskIsBroughtToItsEnd(t *testing.T) {
	for mode, pace := range map[string]uint32{PreCopy: strolls, PostCopy: runs} {
		t.Run(mode, func(t *testing.T) {
			ctx := soon(t)
			from, to := pair(t, pace)
			var stood string
			out, in := begin(t, from, to, OutgoingOptions{Mode: mode, Parameters: slowly, Switch: func(ctx context.Context) error {
				var s struct{ Status string }
				err := from.Execute(ctx, "query-status", nil, &s)
				stood = s.Status
				return err
			}})
			require.NoError(t, out.Run(ctx))
			require.NoError(t, in.Loaded(ctx))
			require.Equal(t, "finish-migrate", stood)
			require.NoError(t, to.Execute(ctx, "cont", nil, nil))
			require.NoError(t, out.Finish(ctx))
			require.NoError(t, in.Whole(ctx))
			to.requireGoesOn(t)
		})
	}
}

// TestASuccessorGivesUp what an earlier process has begun.
func TestASuccessorGivesUp(t *testing.T) {
	ctx := soon(t)
	from, to := pair(t, runs)
	out, in := begin(t, from, to, OutgoingOptions{Mode: PreCopy, Parameters: slowly})
	out.Close()
	require.NoError(t, CancelOutgoing(ctx, from.Client))
	require.Error(t, in.Loaded(ctx))
	require.NoError(t, CancelOutgoing(ctx, from.Client)) // there is nothing any more
	from.requireGoesOn(t)
}

func TestParametersThatQEMUWouldRefuse(t *testing.T) {
	require.NoError(t, Parameters{}.Check())
	require.NoError(t, Parameters{MaxBandwidth: 1 << 30, DowntimeLimit: time.Second, Channels: 8, ZstdLevel: 20, XBZRLECache: 128 << 20, ThrottleBegin: 99, ThrottleStep: 1, PostCopyRounds: 3}.Check())
	for want, p := range map[string]Parameters{
		"max-bandwidth 5: want 4096 to":               {MaxBandwidth: 5},
		"downtime-limit 1h0m0s: want up to":           {DowntimeLimit: time.Hour},
		"multifd-channels 256: want 1 to 255":         {Channels: 256},
		"multifd-zstd-level 21: want 1 to 20":         {ZstdLevel: 21},
		"xbzrle-cache-size 5000: want a power of two": {XBZRLECache: 5000},
		"cpu-throttle-initial 100: want 1 to 99":      {ThrottleBegin: 100},
		"cpu-throttle-increment -1: want 1 to 99":     {ThrottleStep: -1},
		"rounds before post-copy -1: want 1 to":       {PostCopyRounds: -1},
	} {
		require.ErrorContains(t, p.Check(), want)
	}
	require.False(t, slices.ContainsFunc(Modes, func(mode string) bool { return !Native(mode) }))
	require.False(t, Native(migrate.Own))
}

// relay is a line between two QEMUs that can be cut.
func relay(t *testing.T, to netip.AddrPort) (at net.Addr, cut func()) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	var mu sync.Mutex
	var all []net.Conn
	go func() {
		for {
			a, err := l.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp4", to.String())
			if err != nil {
				a.Close()
				return
			}
			mu.Lock()
			all = append(all, a, b)
			mu.Unlock()
			go io.Copy(a, b)
			go io.Copy(b, a)
		}
	}()
	cut = func() {
		l.Close()
		mu.Lock()
		defer mu.Unlock()
		for _, c := range all {
			c.Close()
		}
	}
	t.Cleanup(cut)
	return l.Addr(), cut
}

// TestALineThatIsLostIsMadeAgain while a VM runs that lacks pages, and so is the
// next one, which is lost before anybody has looked at it.
func TestALineThatIsLostIsMadeAgain(t *testing.T) {
	ctx := soon(t)
	from, to := pair(t, runs)
	for _, m := range []*machine{from, to} {
		require.NoError(t, Configure(ctx, m.Client, PostCopy, slowly, false))
	}
	require.NoError(t, from.Execute(ctx, "migrate-set-parameters", map[string]any{"max-postcopy-bandwidth": 2 << 20}, nil))
	in, err := Listen(ctx, to.Client, PostCopy, "tcp:127.0.0.1:0")
	require.NoError(t, err)
	defer in.Close()
	at, err := in.At(ctx)
	require.NoError(t, err)
	line, cut := relay(t, at)
	out, err := Begin(ctx, from.Client, "tcp:"+line.String(), OutgoingOptions{Mode: PostCopy, Parameters: slowly})
	require.NoError(t, err)
	defer out.Close()
	require.NoError(t, out.Run(ctx))
	require.NoError(t, in.Loaded(ctx))
	require.NoError(t, to.Execute(ctx, "cont", nil, nil))
	cut()
	again := Watch(to.Client, PostCopy)
	defer again.Close()
	require.ErrorIs(t, again.Whole(ctx), ErrLineLost)
	reach := func() netip.AddrPort {
		require.NoError(t, again.Recover(ctx, "tcp:127.0.0.1:0"))
		at, err := again.At(ctx)
		require.NoError(t, err)
		return at
	}
	become := func(so func(status string) bool) {
		for {
			i, err := query(ctx, to.Client)
			require.NoError(t, err)
			if so(i.Status) {
				return
			}
			require.NoError(t, rest(ctx, askAgain))
		}
	}
	line, cut = relay(t, reach())
	require.NoError(t, Continue(ctx, from.Client, "tcp:"+line.String()))
	become(func(status string) bool { return status != statusPaused })
	cut()
	become(func(status string) bool { return status == statusPaused })
	require.NoError(t, again.Continued(ctx))
	require.ErrorIs(t, again.Whole(ctx), ErrLineLost)
	at = reach()
	require.NoError(t, from.Execute(ctx, "migrate-set-parameters", map[string]any{"max-postcopy-bandwidth": 0}, nil))
	require.NoError(t, Continue(ctx, from.Client, fmt.Sprintf("tcp:%s", at)))
	require.NoError(t, again.Continued(ctx))
	require.NoError(t, again.Whole(ctx))
	to.requireGoesOn(t)
}
