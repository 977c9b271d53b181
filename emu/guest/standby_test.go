package guest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// standby starts a guest process that waits.
func standby(t testing.TB, s Spec) *vm {
	self, err := os.Executable()
	require.NoError(t, err)
	c := Config{Spec: s, Socket: filepath.Join(host(t), "control")}
	cmd, err := Launch(within(t), self, c, func(cmd *exec.Cmd) error { cmd.Stderr = os.Stderr; return cmd.Start() })
	require.NoError(t, err)
	v := &vm{t: t, config: c, cmd: cmd}
	t.Cleanup(v.kill)
	v.Remote, err = Connect(within(t), c.Socket, "")
	require.NoError(t, err)
	return v
}

// Another process goes on from a checkpoint: with the workload where it was, and
// with each client's account, on a disk and without one.
func TestStandbyGoesOnFromACheckpoint(t *testing.T) {
	for name, disk := range map[string]int64{"with a disk": 8 << 20, "without": 0} {
		t.Run(name, func(t *testing.T) {
			here, there := host(t), host(t)
			s := shop(t)
			s.Disk = disk
			makeFiles(t, here, s)
			v := boot(t, here, s)
			stop := v.users(4)
			v.stepsMore(60)
			ctx := within(t)
			for range 3 {
				_, _, err := v.Checkpoint(ctx, false)
				require.NoError(t, err)
				_, err = v.Resume(ctx)
				require.NoError(t, err)
				v.stepsMore(10)
			}
			at, state, err := v.Checkpoint(ctx, false)
			require.NoError(t, err)
			v.copyTo(there)
			first, err := v.Status(ctx)
			require.NoError(t, err)
			v.kill()
			users := stop()

			other := s
			other.Port = freePort(t)
			w := standby(t, other)
			st, err := w.Status(ctx)
			require.NoError(t, err)
			require.Equal(t, Status{}, st)
			_, _, err = w.Checkpoint(ctx, false)
			require.ErrorContains(t, err, "standby")
			_, err = w.Resume(ctx)
			require.ErrorContains(t, err, "standby")
			require.NoError(t, w.Prepare(ctx, there, AdoptOptions{}))
			began, err := w.Adopt(ctx, there, state, AdoptOptions{})
			require.NoError(t, err)
			require.Greater(t, began, at)
			same, err := w.Adopt(ctx, there, state, AdoptOptions{})
			require.NoError(t, err)
			require.Equal(t, began, same, "adopt asked for again")
			st = w.stepsMore(100)
			require.Empty(t, st.Fault)
			require.Equal(t, there, st.Folder)
			require.Less(t, st.Steps, first.Steps+2000, "it goes on, and does not begin")
			require.Greater(t, st.Steps, first.Steps)
			for _, u := range users {
				c, err := Dial(ctx, w.address(), u.id, u.Acked())
				require.NoError(t, err)
				a, err := c.Do(ctx, Count)
				require.NoError(t, err)
				require.InDelta(t, u.Acked(), a.Value, 1, "what the state holds is what was acknowledged, or is one more or less under way")
				require.NoError(t, c.Close())
			}
		})
	}
}

// A standby whose memory nobody sends boots from its disk, where the ledger is.
func TestStandbyBootsFromItsDisk(t *testing.T) {
	here, there := host(t), host(t)
	s := shop(t)
	makeFiles(t, here, s)
	v := boot(t, here, s)
	stop := v.users(3)
	v.stepsMore(100)
	v.kill()
	users := stop()
	makeFiles(t, there, s)
	copyFile(t, filepath.Join(here, DiskFile), filepath.Join(there, DiskFile))

	s.Port = freePort(t)
	w := standby(t, s)
	ctx := within(t)
	require.NoError(t, w.Prepare(ctx, there, AdoptOptions{Boot: true}))
	began, err := w.Boot(ctx, there)
	require.NoError(t, err)
	same, err := w.Boot(ctx, there)
	require.NoError(t, err)
	require.Equal(t, began, same, "asked for again")
	for _, u := range users {
		require.Positive(t, u.Acked())
		c, err := Dial(ctx, w.address(), u.id, u.Acked())
		require.NoError(t, err)
		a, err := c.Do(ctx, Count)
		require.NoError(t, err)
		require.GreaterOrEqual(t, a.Value, u.Acked(), "acknowledged and lost")
		require.NoError(t, c.Close())
	}
	require.Empty(t, w.stepsMore(50).Fault)
	require.Error(t, w.Prepare(ctx, host(t), AdoptOptions{Boot: true}))
}
