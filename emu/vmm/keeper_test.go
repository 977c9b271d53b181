package vmm

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/child"
	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/qmp"
	"github.com/vpclab/vpclab/emu/vmm/inside"
)

// TestMain makes the test program a keeper where it is started as one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == guest.Verb {
		ctx, end := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer end()
		c, err := guest.ParseConfig(os.Args[2])
		if err == nil {
			err = Run(ctx, c, os.Stdout)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// kept is a VM of a test, and its agent's hold on it.
type kept struct {
	t      testing.TB
	dir    string // of the folders that stand for hosts
	config guest.Config
	cmd    *exec.Cmd
	words  *child.Tail
	start  func(*exec.Cmd) error // nil: in a namespace of its own
	buf    [1 << 20]byte
	*guest.Remote
}

// small is a VM as small as one can be that does something.
func small() guest.Spec {
	return guest.Spec{
		Name: "shop", Kind: guest.KindQEMU, Memory: 112 << 20, Work: 16 << 20, Disk: 16 << 20,
		Workload: guest.TPCW, Seed: 7,
	}
}

// needGuests skips a test where no VM can be had.
func needGuests(t testing.TB) {
	if _, err := findSoftware(t.Context(), guest.Config{Spec: small(), Socket: filepath.Join(t.TempDir(), "control")}, nil); err != nil {
		t.Skip(err)
	}
}

// power boots a VM at host a, in a namespace of its own that has no network; b is
// another.
func power(t testing.TB, s guest.Spec) *kept {
	needGuests(t)
	dir, err := os.MkdirTemp("/dev/shm", "vpclab-test-")
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	v := &kept{t: t, dir: dir, words: &child.Tail{}}
	v.makeHost("a", s)
	v.makeHost("b", s)
	v.config = guest.Config{Spec: s, Folder: v.host("a"), Socket: filepath.Join(dir, "control")}
	v.launch()
	return v
}

func (v *kept) host(name string) string { return filepath.Join(v.dir, name) }

// makeHost makes memory and disk as an agent does.
func (v *kept) makeHost(name string, s guest.Spec) {
	require.NoError(v.t, os.MkdirAll(v.host(name), 0o700))
	v.freshMemory(name, s)
	if s.Disk != 0 {
		d, err := guest.CreateDisk(v.host(name), s.Disk)
		require.NoError(v.t, err)
		require.NoError(v.t, d.Close())
	}
}

func (v *kept) freshMemory(name string, s guest.Spec) {
	m, err := guest.CreateMemory(v.host(name), s.Memory, true)
	require.NoError(v.t, err)
	require.NoError(v.t, m.Close())
}

func (v *kept) launch() {
	self, err := os.Executable()
	require.NoError(v.t, err)
	began := time.Now()
	v.cmd, err = guest.Launch(v.within(), self, v.config, func(cmd *exec.Cmd) error {
		cmd.Stderr = v.words
		if v.start != nil {
			return v.start(cmd)
		}
		cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
		return cmd.Start()
	})
	require.NoError(v.t, err, "%s; its console: %s", v.words, consoleTail(v.config.Folder))
	v.t.Logf("boot: %v", time.Since(began).Round(time.Millisecond))
	v.t.Cleanup(v.kill)
	v.Remote, err = guest.Connect(v.within(), v.config.Socket, "")
	require.NoError(v.t, err)
	v.t.Cleanup(func() { v.Close() })
}

func (v *kept) within() context.Context {
	ctx, cancel := context.WithTimeoutCause(context.Background(), time.Minute, fmt.Errorf("the test waited a minute"))
	v.t.Cleanup(cancel)
	return ctx
}

func (v *kept) kill() {
	if v.cmd.ProcessState == nil {
		_ = v.cmd.Process.Kill()
		_ = v.cmd.Wait()
	}
}

// carry copies memory and disk from host to host, as an engine does that is done in
// no time: by reading and writing, as a page that is touched first is dear in a
// lab's kernel.
func (v *kept) carry(from, to string) {
	names := []string{guest.MemoryFile}
	if v.config.Spec.Disk != 0 {
		names = append(names, guest.DiskFile)
	}
	for _, name := range names {
		src, err := os.Open(filepath.Join(v.host(from), name))
		require.NoError(v.t, err)
		dst, err := os.OpenFile(filepath.Join(v.host(to), name), os.O_WRONLY, 0)
		require.NoError(v.t, err)
		_, err = io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, v.buf[:])
		require.NoError(v.t, err)
		require.NoError(v.t, src.Close())
		require.NoError(v.t, dst.Close())
	}
}

// qemus are the processes that have a folder of the VM's as theirs.
func (v *kept) qemus() (found []int) {
	dirs, err := filepath.Glob("/proc/[0-9]*/cwd")
	require.NoError(v.t, err)
	for _, d := range dirs {
		at, err := os.Readlink(d)
		if err != nil || !strings.HasPrefix(at, v.dir+"/") {
			continue
		}
		pid, err := strconv.Atoi(strings.Split(d, "/")[2])
		require.NoError(v.t, err)
		found = append(found, pid)
	}
	return found
}

// awaitSteps waits until the VM has done so many steps more.
func (v *kept) awaitSteps(n uint64) guest.Status {
	first, err := v.Status(v.within())
	require.NoError(v.t, err)
	ctx := v.within()
	for {
		s, err := v.Status(ctx)
		require.NoError(v.t, err)
		require.Empty(v.t, s.Fault)
		if s.Steps >= first.Steps+n {
			return s
		}
		require.NoError(v.t, rest(ctx, 20*time.Millisecond))
	}
}

// move moves the VM.
func (v *kept) move(from, to string) { v.moveTo(from, to, guest.AdoptOptions{}) }

func (v *kept) moveTo(from, to string, opt guest.AdoptOptions) {
	ctx := v.within()
	t0 := time.Now()
	require.NoError(v.t, v.Prepare(ctx, v.host(to), opt))
	t1 := time.Now()
	stood, state, err := v.Pause(ctx)
	require.NoError(v.t, err)
	pause := event.Now().Sub(stood)
	v.carry(from, to)
	began := event.Now()
	ran, err := v.Adopt(ctx, v.host(to), state, opt)
	require.NoError(v.t, err)
	require.Greater(v.t, ran, stood)
	v.t.Logf("prepare %v; it stood %v when its state of %d bytes was there; it ran again %v after that was given back",
		t1.Sub(t0).Round(time.Millisecond), pause.Round(10*time.Microsecond), len(state), ran.Sub(began).Round(10*time.Microsecond))
}

func TestThereAndBackFiveTimes(t *testing.T) {
	v := power(t, small())
	v.awaitSteps(20)
	names := []string{"a", "b"}
	for n := range 10 {
		from, to := names[n%2], names[(n+1)%2]
		v.freshMemory(to, v.config.Spec)
		v.move(from, to)
		s := v.awaitSteps(5)
		require.Equal(t, v.host(to), s.Folder)
		require.True(t, s.Running)
	}
}

func TestPausesAreRepeatedAndTheVMStandsMeanwhile(t *testing.T) {
	v := power(t, small())
	ctx := v.within()
	at, state, err := v.Pause(ctx)
	require.NoError(t, err)
	before, err := os.ReadFile(filepath.Join(v.host("a"), guest.MemoryFile))
	require.NoError(t, err)
	at2, state2, err := v.Pause(ctx)
	require.NoError(t, err)
	require.Equal(t, at, at2)
	require.Equal(t, state, state2)
	s, err := v.Status(ctx)
	require.NoError(t, err)
	require.False(t, s.Running)
	require.NoError(t, rest(ctx, 100*time.Millisecond))
	after, err := os.ReadFile(filepath.Join(v.host("a"), guest.MemoryFile))
	require.NoError(t, err)
	require.True(t, bytes.Equal(before, after))
	ran, err := v.Resume(ctx)
	require.NoError(t, err)
	ran2, err := v.Resume(ctx)
	require.NoError(t, err)
	require.Equal(t, ran, ran2)
	v.awaitSteps(5)
	for range 5 {
		began := time.Now()
		_, state, err := v.Checkpoint(ctx, true)
		require.NoError(t, err)
		took := time.Since(began)
		_, err = v.Resume(ctx)
		require.NoError(t, err)
		t.Logf("checkpoint %v, %d bytes; resume %v", took.Round(time.Microsecond), len(state), (time.Since(began) - took).Round(time.Microsecond))
		v.awaitSteps(2)
	}
}

// TestAStopThatIsLeftBehind by an agent that does not wait for it comes before the
// keeper says that the VM runs.
func TestAStopThatIsLeftBehind(t *testing.T) {
	v := power(t, small())
	ctx := v.within()
	m, err := qmp.Dial(ctx, filepath.Join(v.host("a"), MonitorFile))
	require.NoError(t, err)
	defer m.Close()
	for range 30 {
		stop := m.Send(ctx, "stop", nil)
		_, err := v.Resume(ctx)
		require.NoError(t, err)
		require.NoError(t, stop.Wait(ctx, nil))
		var s struct{ Running bool }
		require.NoError(t, m.Execute(ctx, "query-status", nil, &s))
		require.True(t, s.Running)
	}
	v.awaitSteps(5)
}

// TestALookKeepsNobodyWaiting for what the guest does.
func TestALookKeepsNobodyWaiting(t *testing.T) {
	ours, theirs, err := child.Channel("port")
	require.NoError(t, err)
	defer theirs.Close()
	k := &keeper{status: guest.Status{Steps: 7}}
	folder := "a"
	k.where.Store(&folder)
	k.here.Store(&qemu{runs: true, link: inside.NewLink(ours)})
	looking, end := context.WithCancel(t.Context())
	looked := make(chan error, 1)
	go func() {
		_, err := k.Verify(looking)
		looked <- err
	}()
	var request [200]byte
	_, err = theirs.Read(request[:])
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	began := time.Now()
	s, err := k.Status(ctx)
	require.NoError(t, err)
	require.Less(t, time.Since(began), askIn)
	require.Equal(t, guest.Status{Steps: 7, Folder: "a", Running: true}, s)
	end()
	require.ErrorIs(t, <-looked, context.Canceled)
}

func TestAStateThatIsNoneLeavesTheVMWhereItIs(t *testing.T) {
	v := power(t, small())
	ctx := v.within()
	_, old, err := v.Pause(ctx)
	require.NoError(t, err)
	_, err = v.Resume(ctx)
	require.NoError(t, err)
	_, err = v.Adopt(ctx, v.host("b"), old, guest.AdoptOptions{})
	require.ErrorContains(t, err, "the VM runs on")
	_, state, err := v.Pause(ctx)
	require.NoError(t, err)
	mangled := bytes.Clone(state)
	mangled[len(mangled)/2] ^= 1
	stream, stop, err := unwrap(v.config.Spec, state)
	require.NoError(t, err)
	stream = bytes.Clone(stream)
	clear(stream[len(stream)/3:])
	for name, c := range map[string]struct {
		state []byte
		want  string
	}{
		"a bit of it changed on the way":  {mangled, "checksum"},
		"half of it":                      {state[:len(state)/2], "checksum"},
		"that of an earlier stop":         {old, "stop 1, and this is stop 2"},
		"none, and nothing has come":      {nil, "stream of QEMU's"},
		"one that QEMU cannot make out":   {wrap(v.config.Spec, stop, stream), "load the state"},
		"one that QEMU waits for in vain": {wrap(v.config.Spec, stop, stream[:100]), "load the state"},
	} {
		_, err := v.Adopt(ctx, v.host("b"), c.state, guest.AdoptOptions{})
		require.ErrorContains(t, err, c.want, name)
		s, err := v.Status(ctx)
		require.NoError(t, err)
		require.Equal(t, v.host("a"), s.Folder, name)
		require.False(t, s.Running, name)
	}
	_, err = v.Resume(ctx)
	require.NoError(t, err)
	v.awaitSteps(5)
	v.move("a", "b")
	v.awaitSteps(5)
}

func TestNobodyOutlivesAnother(t *testing.T) {
	t.Run("QEMUs end with their keeper", func(t *testing.T) {
		v := power(t, small())
		require.NoError(t, v.Prepare(v.within(), v.host("b"), guest.AdoptOptions{}))
		require.Len(t, v.qemus(), 2)
		v.kill()
		ctx := v.within()
		for len(v.qemus()) > 0 {
			require.NoError(t, rest(ctx, 10*time.Millisecond))
		}
	})
	t.Run("a keeper ends with its QEMU, and says why", func(t *testing.T) {
		v := power(t, small())
		found := v.qemus()
		require.Len(t, found, 1)
		require.NoError(t, unix.Kill(found[0], unix.SIGKILL))
		err := v.cmd.Wait()
		require.Error(t, err)
		require.Contains(t, v.words.String(), "its QEMU at "+v.host("a")+" has ended: signal: killed")
	})
	t.Run("one that only waits may end", func(t *testing.T) {
		v := power(t, small())
		require.NoError(t, v.Prepare(v.within(), v.host("b"), guest.AdoptOptions{}))
		for _, pid := range v.qemus() {
			if at, _ := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); at == v.host("b") {
				require.NoError(t, unix.Kill(pid, unix.SIGKILL))
			}
		}
		v.awaitSteps(5)
		v.move("a", "b")
		v.awaitSteps(5)
	})
}

func TestStateIsOfOneVM(t *testing.T) {
	s := small()
	b := wrap(s, 3, []byte("stream"))
	stream, stop, err := unwrap(s, b)
	require.NoError(t, err)
	require.Equal(t, "stream", string(stream))
	require.Equal(t, uint64(3), stop)
	other := s
	other.Seed++
	_, _, err = unwrap(other, b)
	require.ErrorContains(t, err, "another VM's")
	for n := range b {
		_, _, err := unwrap(s, b[:n])
		require.Error(t, err)
	}
}

func FuzzState(f *testing.F) {
	s := small()
	f.Add(wrap(s, 1, nil))
	f.Add(wrap(s, 1<<63, []byte("stream")))
	f.Add([]byte(stateMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		stream, stop, err := unwrap(s, b)
		if err == nil {
			require.Equal(t, b, wrap(s, stop, stream))
		}
	})
}
