package hypervisor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/child"
	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/plug"
	"github.com/vpclab/vpclab/emu/vmm"
)

// vm is a VM at this host: one that runs here, did, or is about to come.
type vm struct {
	agent *agent
	name  string

	turn  sync.Mutex // held by whoever starts, stops or hands over
	spec  guest.Spec
	netns string

	mu    sync.Mutex
	watch context.CancelFunc // ends the watch of a VM that is this host's; nil: it is not
}

func (v *vm) socket() string { return filepath.Join(v.agent.sockets(), v.name) }
func (v *vm) folder() string { return v.agent.folder(v.name) }

// keptFile holds what the virtual CPUs held when the VM was handed over: for the
// case that whoever received it is killed before it has started it.
const keptFile = "kept"

// kept is what is in it.
type kept struct {
	State   []byte `json:"state"`
	Missing bool   `json:"missing,omitempty"` // pages are not there yet
}

func (v *vm) keep(k kept) error {
	b, err := json.Marshal(k)
	if err != nil {
		return err
	}
	path := filepath.Join(v.folder(), keptFile)
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// unkept reads it; nil: there is none.
func (v *vm) unkept() (*kept, error) {
	b, err := os.ReadFile(filepath.Join(v.folder(), keptFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var k kept
	if err == nil {
		err = json.NewDecoder(bytes.NewReader(b)).Decode(&k)
	}
	return &k, err
}

// own is Agent.Own.
func (v *vm) own(ctx context.Context, spec guest.Spec, netns string) error {
	v.turn.Lock()
	defer v.turn.Unlock()
	ctx, cancel := context.WithTimeoutCause(ctx, startWithin, fmt.Errorf("waited %v for the guest to answer", startWithin))
	defer cancel()
	v.spec, v.netns = spec, netns
	// It may have been protected until now, by an agent that has ended: what held
	// its output then would hold it for ever.
	if err := plug.Remove(netns, guestIf); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("VM %s: %w", v.name, err)
	}
	if err := v.run(ctx); err != nil {
		return fmt.Errorf("VM %s: %w", v.name, err)
	}
	v.watched()
	if spec.Kind == guest.KindQEMU {
		v.sweep(ctx)
	}
	return nil
}

// run has the guest run on this host's memory and disk, whatever it does now.
// The caller has the turn.
func (v *vm) run(ctx context.Context) error {
	r, err := guest.Connect(ctx, v.socket(), "")
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		return v.start(ctx)
	}
	if err != nil {
		return err
	}
	defer r.Close()
	s, err := r.Status(ctx)
	switch {
	case err != nil:
		return err
	case s.Folder == "": // one that waited as a standby, and has nobody to wait for
		if err := v.kill(ctx); err != nil {
			return err
		}
		return v.start(ctx)
	case s.Folder == v.folder():
		if err := v.endNative(ctx); err != nil || s.Running {
			return err
		}
		_, err := r.Resume(ctx)
		return err
	}
	k, err := v.unkept()
	if err != nil {
		return err
	}
	if k == nil {
		return fmt.Errorf("it stands at %s, and what it held was not received here", s.Folder)
	}
	if k.Missing {
		return fmt.Errorf("pages of it are still at %s", s.Folder) // Move.Rest brings them
	}
	at, err := r.Adopt(ctx, v.folder(), k.State, v.agent.adopting())
	if err == nil {
		v.agent.tell(v.name, "vm.taken-over", map[string]string{"at": strconv.FormatInt(int64(at), 10)})
	}
	return err
}

// start starts the guest from its disk, with a fresh memory. The caller has the
// turn.
func (v *vm) start(ctx context.Context) error {
	if err := os.MkdirAll(v.folder(), 0o700); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(v.folder(), keptFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := v.gone(ctx); err != nil {
		return err
	}
	if err := v.furnish(); err != nil {
		return err
	}
	return v.launch(ctx, guest.Config{Spec: v.spec, Folder: v.folder(), Socket: v.socket()})
}

// launch starts a guest's process, and tells of its end.
func (v *vm) launch(ctx context.Context, c guest.Config) error {
	last := &child.Tail{}
	c.NetNS = v.agent.netns
	cmd, err := guest.Launch(ctx, "/proc/self/exe", c, func(cmd *exec.Cmd) error {
		cmd.Stderr = last
		cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true} // it outlives this process
		return fabric.StartIn(v.netns, cmd)
	})
	if err != nil {
		if text := last.String(); text != "" {
			err = fmt.Errorf("%w: %s", err, text)
		}
		return vmm.WithConsole(err, v.folder())
	}
	v.agent.tell(v.name, "vm.started", map[string]string{"pid": strconv.Itoa(cmd.Process.Pid)})
	go func() {
		err := cmd.Wait()
		v.agent.tell(v.name, "vm.exit", map[string]string{"status": fmt.Sprint(err), "stderr": last.String()})
	}()
	return nil
}

// furnish has a fresh memory, and the disk that is there or a new one.
func (v *vm) furnish() error {
	memory, err := guest.CreateMemory(v.folder(), v.spec.Memory, true)
	if err != nil {
		return err
	}
	if err := memory.Close(); err != nil || v.spec.Disk == 0 {
		return err
	}
	disk, err := guest.OpenDisk(v.folder())
	if errors.Is(err, os.ErrNotExist) {
		disk, err = guest.CreateDisk(v.folder(), v.spec.Disk)
	}
	if err != nil {
		return err
	}
	return disk.Close()
}

// adopted notes that the guest runs here, having been handed over.
func (v *vm) adopted(spec guest.Spec, netns string) {
	v.turn.Lock()
	v.spec, v.netns = spec, netns
	v.turn.Unlock()
	v.watched()
}

// restarts bound how often a guest that ends is started again within a minute.
const (
	restarts      = 5
	restartWindow = time.Minute
	startWithin   = 60 * time.Second
)

// watched begins to watch the guest, unless that is done already.
func (v *vm) watched() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.watch != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	v.watch = cancel
	go v.keepAlive(ctx)
}

// owned tells whether the VM is this host's.
func (v *vm) owned() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.watch != nil
}

// disown ends the watch.
func (v *vm) disown() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.watch != nil {
		v.watch()
		v.watch = nil
	}
}

// keepAlive starts the guest again each time that it ends, until ctx does.
func (v *vm) keepAlive(ctx context.Context) {
	var deaths []time.Time
	for v.awaitEnd(ctx) {
		v.agent.tell(v.name, "vm.ended", nil)
		now := time.Now()
		deaths = append(deaths, now)
		for len(deaths) > 0 && now.Sub(deaths[0]) > restartWindow {
			deaths = deaths[1:]
		}
		err := fmt.Errorf("it ended %d times within %v", len(deaths), restartWindow)
		if len(deaths) <= restarts {
			err = v.again(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			v.agent.tell(v.name, "vm.given-up", map[string]string{"error": err.Error()})
			v.disown()
			return
		}
	}
}

// again starts a guest that has ended, if the VM is still this host's when it is
// its turn.
func (v *vm) again(ctx context.Context) error {
	v.turn.Lock()
	defer v.turn.Unlock()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	start, cancel := context.WithTimeoutCause(ctx, startWithin, fmt.Errorf("waited %v for the guest to answer", startWithin))
	defer cancel()
	return v.run(start)
}

// awaitEnd waits until the guest has ended: then the kernel closes its control
// socket. It is false when ctx ended first.
func (v *vm) awaitEnd(ctx context.Context) bool {
	conn, err := net.Dial("unix", v.socket())
	if err != nil {
		return ctx.Err() == nil
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer conn.Close()
	_, _ = conn.Read(make([]byte, 1)) // it says nothing that it was not asked
	return ctx.Err() == nil
}

// statusIn is how long a guest may take to say where it runs. It is asked of
// guests that are to end: one that is stopped does not answer, and ends.
const statusIn = 2 * time.Second

// halt is Agent.Halt.
func (v *vm) halt(ctx context.Context) error {
	v.turn.Lock()
	defer v.turn.Unlock()
	mine := v.owned()
	v.disown()
	r, err := guest.Connect(ctx, v.socket(), "")
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		return nil
	}
	if err != nil {
		return err
	}
	defer r.Close()
	ask, cancel := context.WithTimeoutCause(ctx, statusIn, fmt.Errorf("waited %v for the guest to say where it runs", statusIn))
	defer cancel()
	s, err := r.Status(ask)
	switch {
	case err == nil && s.Folder != v.folder():
		return nil // it runs elsewhere
	case err != nil && !mine && ask.Err() != nil:
		return fmt.Errorf("VM %s: %w", v.name, err) // it may run elsewhere
	}
	return v.kill(ctx)
}

// kill ends the guest's process and waits until it is gone.
func (v *vm) kill(ctx context.Context) error {
	pid, err := peerOf(v.socket())
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("VM %s: find its process: %w", v.name, err)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("VM %s: kill process %d: %w", v.name, pid, err)
	}
	if !v.awaitEnd(ctx) {
		return fmt.Errorf("VM %s: wait for the end of process %d: %w", v.name, pid, context.Cause(ctx))
	}
	return v.gone(ctx)
}

// peerOf is the process that listens at a socket.
func peerOf(path string) (pid int, err error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	if failed := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); failed != nil {
		return 0, failed
	}
	if err != nil {
		return 0, err
	}
	return int(cred.Pid), nil
}
