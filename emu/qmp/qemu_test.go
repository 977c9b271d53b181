package qmp

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/unixsock"
)

// startQEMU starts a machine without anything, whose monitor is at path. The
// socket is there before QEMU is.
func startQEMU(t *testing.T) (cmd *exec.Cmd, path string) {
	program, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skipf("no QEMU here: %v", err)
	}
	path = filepath.Join(t.TempDir(), "qmp")
	l, err := unixsock.Listen(path)
	require.NoError(t, err)
	defer l.Close()
	f, err := l.File()
	require.NoError(t, err)
	defer f.Close()
	cmd = exec.Command(program, "-M", "none", "-nodefaults", "-no-user-config", "-display", "none", "-S",
		"-chardev", "socket,id=qmp,fd=3,server=on,wait=off", "-mon", "chardev=qmp,mode=control")
	cmd.ExtraFiles = []*os.File{f}
	cmd.Stderr = os.Stderr
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd, path
}

func TestARealQEMU(t *testing.T) {
	cmd, path := startQEMU(t)
	ctx := within(t, 60*time.Second)
	c, err := Dial(ctx, path)
	require.NoError(t, err)
	defer c.Close()
	require.GreaterOrEqual(t, c.Version.Major, 4)

	var schema []any
	require.NoError(t, c.Execute(ctx, "query-qmp-schema", nil, &schema))
	require.Greater(t, len(schema), 100)

	var no *Error
	require.ErrorAs(t, c.Execute(ctx, "make-coffee", nil, nil), &no)
	require.Equal(t, "CommandNotFound", no.Class)

	s := c.Subscribe("RESUME", "STOP")
	for _, do := range []struct{ command, event string }{{"cont", "RESUME"}, {"stop", "STOP"}} {
		before := event.Now()
		require.NoError(t, c.Execute(ctx, do.command, nil, nil))
		e, err := s.Next(ctx)
		require.NoError(t, err)
		require.Equal(t, do.event, e.Name)
		require.GreaterOrEqual(t, e.T, before-event.Mono(time.Millisecond))
		require.LessOrEqual(t, e.T, event.Now()+event.Mono(time.Millisecond))
	}

	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	require.NoError(t, c.GetFD(ctx, "way-out", w))
	require.NoError(t, w.Close()) // QEMU's is its own
	require.NoError(t, c.Execute(ctx, "closefd", map[string]string{"fdname": "way-out"}, nil))
	n, err := r.Read(make([]byte, 1))
	require.Zero(t, n)
	require.Error(t, err) // nobody has the other end any more

	require.NoError(t, cmd.Process.Kill())
	_, err = s.Next(ctx)
	require.ErrorIs(t, err, ErrGone)
}
