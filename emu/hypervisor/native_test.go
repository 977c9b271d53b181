package hypervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/migrate"
	"github.com/vpclab/vpclab/emu/stock"
	"github.com/vpclab/vpclab/emu/vmm"
)

// TestMain makes the test program a VM's keeper where it is started as one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == guest.Verb {
		ctx, end := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer end()
		c, err := guest.ParseConfig(os.Args[2])
		if err == nil {
			err = vmm.Run(ctx, c, os.Stdout)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// town is two hosts, whose agents are goroutines of the test's, and a VM whose
// namespace has no network; the test is the lab's record of whose it is.
type town struct {
	t      *testing.T
	dir    string
	netns  string
	spec   guest.Spec
	agents map[string]*Process

	mu      sync.Mutex
	decided map[[16]byte]string // committed, aborted
	paused  map[[16]byte]event.Mono
	events  []event.Event
}

func (w *town) Paused(_ context.Context, _ string, id [16]byte, at event.Mono) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.paused[id] = at
}

func (w *town) Commit(_ context.Context, _ string, id [16]byte) error {
	return w.decide(id, "committed")
}
func (w *town) Abort(_ context.Context, _ string, id [16]byte) error { return w.decide(id, "aborted") }

func (w *town) decide(id [16]byte, what string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.decided[id] == "" {
		w.decided[id] = what
	}
	switch {
	case w.decided[id] == what:
		return nil
	case what == "aborted":
		return migrate.ErrCommitted
	}
	return migrate.ErrAborted
}

// newTown boots a VM at host a.
func newTown(t *testing.T) *town {
	if _, err := stock.FindGuestQEMU(t.Context()); err != nil {
		t.Skip(err)
	}
	dir, err := os.MkdirTemp("/dev/shm", "vpclab-test-")
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := &town{
		t: t, dir: dir, agents: map[string]*Process{}, decided: map[[16]byte]string{}, paused: map[[16]byte]event.Mono{},
		spec: guest.Spec{Name: "shop", Kind: guest.KindQEMU, Memory: 112 << 20, Work: 24 << 20, Disk: 8 << 20, Scale: 1. / 40, Workload: guest.KernelBuild, Seed: 7},
	}
	holder := exec.Command("sleep", "600")
	holder.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	if err := holder.Start(); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		_ = holder.Process.Kill()
		_ = holder.Wait()
	})
	w.netns = fmt.Sprintf("/proc/%d/ns/net", holder.Process.Pid)
	for _, host := range []string{"a", "b"} {
		w.startAgent(host)
	}
	if err := w.agents["a"].Own(w.soon(), w.spec, w.netns); err != nil {
		t.Skipf("no VM can be had: %v", err)
	}
	return w
}

// startAgent has a host; its namespace is the test's.
func (w *town) startAgent(host string) {
	ours, theirs := net.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = Run(context.Background(), theirs, host, "127.0.0.1", w.dir, fmt.Sprintf("/proc/%d/ns/net", os.Getpid())) // it ends with the channel
	}()
	p := &Process{host: host, channel: newChannel(ours, answers(w), func(e event.Event) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.events = append(w.events, e)
	})}
	go func() { _ = p.channel.serve(context.Background()) }()
	w.agents[host] = p
	w.t.Cleanup(func() {
		ours.Close()
		<-ended
	})
}

func (w *town) soon() context.Context {
	ctx, cancel := context.WithTimeoutCause(context.Background(), 2*time.Minute, errors.New("the test waited two minutes"))
	w.t.Cleanup(cancel)
	return ctx
}

// move moves the VM, as the lab does.
func (w *town) move(from, to string, m Move) (source, target *Outcome, sent, received error) {
	ctx := w.soon()
	m.VM, m.Spec, m.From, m.NetNS = w.spec.Name, w.spec, from, w.netns
	at, err := w.agents[to].Receive(ctx, m)
	require.NoError(w.t, err)
	return w.between(ctx, from, to, m, at)
}

func (w *town) between(ctx context.Context, from, to string, m Move, at netip.AddrPort) (source, target *Outcome, sent, received error) {
	var ends sync.WaitGroup
	ends.Go(func() {
		if source, sent = w.agents[from].Send(ctx, m, at); sent != nil {
			_ = w.agents[to].Cancel(ctx, m)
		}
	})
	ends.Go(func() {
		if target, received = w.agents[to].Received(ctx, m); received != nil {
			_ = w.agents[from].Cancel(ctx, m)
		}
	})
	ends.Wait()
	return source, target, sent, received
}

// requireAt is about a VM that runs at a host, and works.
func (w *town) requireAt(host string) {
	w.t.Helper()
	ctx := w.soon()
	first, err := w.agents[host].Status(ctx, w.spec.Name)
	require.NoError(w.t, err)
	for s := first; ; {
		require.Equal(w.t, filepath.Join(w.dir, "hosts", host, w.spec.Name), s.Folder)
		require.True(w.t, s.Running)
		require.Empty(w.t, s.Fault)
		if s.Steps > first.Steps {
			return
		}
		require.NoError(w.t, context.Cause(ctx))
		if s, err = w.agents[host].Status(ctx, w.spec.Name); err != nil {
			w.t.Fatal(err)
		}
	}
}

// native is a move by QEMU itself that takes a second or so.
func native(id byte, mode, verify string) Move {
	return Move{
		ID: [16]byte{id}, Memory: migrate.Options{Algorithm: mode, Verify: verify}, Disk: true,
		QEMU: vmm.Parameters{MaxBandwidth: 100 << 20}, Within: time.Minute,
	}
}

// TestQEMUMovesAVM there and back in each of its modes, memory and disk, and its
// memory and disk are equal where somebody pays for the proof.
func TestQEMUMovesAVM(t *testing.T) {
	w := newTown(t)
	at := "a"
	for i, mode := range vmm.Modes {
		from, to := at, map[string]string{"a": "b", "b": "a"}[at]
		m := native(byte(i+1), mode, []string{"pause", "online"}[i%2])
		source, target, sent, received := w.move(from, to, m)
		require.NoError(t, sent, mode)
		require.NoError(t, received, mode)
		at = to
		w.requireAt(at)
		proven := m.Memory.Verify == "pause" && !vmm.Late(mode)
		require.Equal(t, proven, source.Hash != "" && source.DiskHash != "", mode)
		require.Equal(t, source.Hash, target.Hash)
		require.Equal(t, target.ResumedAt, source.ResumedAt)
		require.Less(t, source.Began, source.PausedAt, mode)
		require.Less(t, source.PausedAt, source.ResumedAt, mode)
		require.LessOrEqual(t, source.ResumedAt, source.Done, mode)
		require.Equal(t, source.PausedAt, w.paused[m.ID], "the lab knew")
		require.Equal(t, "committed", w.decided[m.ID])
		require.NotNil(t, source.QEMU)
		require.NotNil(t, target.Checked, w.events)
		require.Zero(t, target.Checked.Bad)
		require.Greater(t, target.Checked.Pages, int(w.spec.Work/guest.PageSize/2))
		require.NotNil(t, source.Disk)
		require.Less(t, source.Disk.InStep, source.PausedAt)
		require.Greater(t, source.Disk.Settled, source.PausedAt)
		require.Greater(t, source.BytesOut, int64(1<<20))
		require.Greater(t, source.WireOut, source.BytesOut+source.Disk.BytesOut)
		require.Less(t, source.WireOut, (source.BytesOut+source.Disk.BytesOut)*12/10+1<<20)
		t.Logf("%s: total %v, paused %v, %d rounds, %d bytes counted, of them %d of the disk, %d of QEMU's stream; %+v", mode,
			source.Total().Round(time.Millisecond), source.Pause().Round(time.Millisecond), len(source.Rounds), source.WireOut, source.Disk.BytesOut, source.BytesOut, *source.QEMU)
	}
}

// TestMishapsOfMovesByQEMU leave a VM that runs where it was until it is committed,
// and where it was going to from then on.
func TestMishapsOfMovesByQEMU(t *testing.T) {
	w := newTown(t)
	at := "a"
	for i, failAt := range []string{
		"source-begin", "source-ready", "source-round", "source-paused", "disk-settle", "source-final", "target-begin", "target-ready", "target-final", "target-kept",
		"target-committed", "target-started", "source-running", "source-over", "target-over",
	} {
		from, to := at, map[string]string{"a": "b", "b": "a"}[at]
		m := native(byte(100+i), vmm.PreCopy, "online")
		m.FailAt = failAt + "=error"
		_, _, sent, received := w.move(from, to, m)
		require.Error(t, errors.Join(sent, received), failAt)
		if w.decided[m.ID] == "committed" {
			at = to
			if failAt == "target-committed" { // somebody has to carry it on
				rest := m
				rest.Rest, rest.FailAt, rest.ID = true, "", [16]byte{200}
				w.decided[rest.ID] = "committed"
				_, _, sent, received = w.move(from, to, rest)
				require.NoError(t, errors.Join(sent, received))
			}
		}
		require.Equal(t, slices.Contains([]string{"target-committed", "target-started", "source-running", "source-over", "target-over"}, failAt), at == to, failAt)
		require.NoError(t, w.agents[at].Own(w.soon(), w.spec, w.netns), failAt) // as the lab does
		w.requireAt(at)
	}
}

// TestAVMThatWritesTooMuchStays, and the lab can tell why.
func TestAVMThatWritesTooMuchStays(t *testing.T) {
	w := newTown(t)
	m := native(1, vmm.PreCopy, "online")
	m.QEMU, m.Within = vmm.Parameters{MaxBandwidth: 256 << 10, DowntimeLimit: time.Millisecond}, time.Second
	source, _, sent, _ := w.move("a", "b", m)
	require.ErrorIs(t, sent, vmm.ErrDiverged)
	require.Greater(t, source.BytesOut, int64(64<<10))
	require.Zero(t, source.ResumedAt)
	w.requireAt("a")
	// It can be moved all the same.
	_, _, sent, received := w.move("a", "b", native(2, vmm.MultifdZstd, "online"))
	require.NoError(t, errors.Join(sent, received))
	w.requireAt("b")
}

// TestMovesByQEMUThatCannotBe are refused before anything is done.
func TestMovesByQEMUThatCannotBe(t *testing.T) {
	m := native(1, vmm.PreCopy, "")
	m.Spec.Kind = guest.KindProcess
	require.ErrorContains(t, m.Check(), "is a mode of QEMU's own, and the VM is no QEMU guest")
	m.Spec.Kind = guest.KindQEMU
	require.NoError(t, m.Check())
	m.QEMU.Channels = 1000
	require.ErrorContains(t, m.Check(), "multifd-channels 1000")
	m.QEMU.Channels, m.FailAt = 0, "source-batch=kill"
	require.ErrorContains(t, m.Check(), `never comes to step "source-batch"`)
	b, err := json.Marshal(native(1, vmm.PreCopy, ""))
	require.NoError(t, err)
	var back Move
	require.NoError(t, json.Unmarshal(b, &back))
	require.Equal(t, native(1, vmm.PreCopy, ""), back)
}
