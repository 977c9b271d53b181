package vmm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/guest"
)

// stopped tells whether a process stands (proc(5), stat: T).
func stopped(t *testing.T, pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	require.NoError(t, err)
	_, rest, _ := strings.Cut(string(b), ") ")
	return strings.HasPrefix(rest, "T")
}

// TestAtTheEndOfItsLeashAVMStands and goes on when it is given more; one that only
// waits is left alone.
func TestAtTheEndOfItsLeashAVMStands(t *testing.T) {
	l, err := guest.CreateLeash(t.TempDir())
	require.NoError(t, err)
	defer l.Close()
	cmd := exec.Command("sleep", "1000")
	require.NoError(t, cmd.Start())
	defer cmd.Wait()
	defer cmd.Process.Kill()
	ctx, cancel := context.WithCancel(t.Context())
	te := newTether(l)
	ended := make(chan error, 1)
	go func() { ended <- te.run(ctx) }()

	stands := func(want bool, why string) {
		t.Helper()
		require.Eventually(t, func() bool { return stopped(t, cmd.Process.Pid) == want }, 10*time.Second, time.Millisecond, why)
	}
	stands(false, "nobody has told of a VM")
	require.NoError(t, te.hold(cmd.Process))
	stands(true, "the leash has no length")
	require.Zero(t, l.Ran())
	l.Extend(event.Now() + event.Mono(time.Hour))
	stands(false, "it was made longer")
	require.Eventually(t, func() bool { return l.Ran() > 0 }, 10*time.Second, time.Millisecond)
	end := event.Now() + event.Mono(20*time.Millisecond)
	l.Extend(end)
	stands(true, "the end has come")
	require.Less(t, l.Ran(), end)
	require.NoError(t, te.hold(nil))
	stands(false, "the VM runs in another by now")
	cancel()
	require.NoError(t, <-ended)
}

// TestADeadVMNeedsNoLeash: it is not the leash that anybody should hear of.
func TestADeadVMNeedsNoLeash(t *testing.T) {
	l, err := guest.CreateLeash(t.TempDir())
	require.NoError(t, err)
	defer l.Close()
	cmd := exec.Command("true")
	require.NoError(t, cmd.Run())
	te := newTether(l)
	require.NoError(t, te.hold(cmd.Process))
	_, err = te.look(event.Now())
	require.NoError(t, err)
}
