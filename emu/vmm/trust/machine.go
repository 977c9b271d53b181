package trust

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/qmp"
	"github.com/vpclab/vpclab/emu/vmm/inside"
)

// machine is one process of the QEMU on trial.
type machine struct {
	folder  string
	process *os.Process
	ended   chan struct{} // closed when it has
	state   *os.ProcessState
	monitor *qmp.Client
	events  *qmp.Subscription
	link    *inside.Link
	pass    int  // of its migration, the newest
	moved   bool // that is at its end
}

const (
	// answersWithin is how long QEMU may take to answer at its monitor, started on
	// a busy machine.
	answersWithin = 20 * time.Second
	// bootsWithin is how long a kernel may take until the program in it answers.
	bootsWithin = 30 * time.Second
)

// console is the name of a machine's console, in its folder.
const console = "console"

// start begins one in a folder of its own. more are options.
func (t *try) start(ctx context.Context, name string, more ...string) (_ *machine, err error) {
	m := &machine{folder: filepath.Join(t.folder, name), ended: make(chan struct{})}
	if err := os.Mkdir(m.folder, 0o700); err != nil {
		return nil, err
	}
	at := func(file string) string { return filepath.Join(m.folder, file) }
	args := append(t.qemu.Firmware(),
		"-M", t.machine, "-accel", t.accel, "-cpu", "max", "-m", fmt.Sprint(memory>>20),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", t.kernel, "-initrd", t.initrd, "-append", t.line,
		"-serial", "file:"+at(console), "-qmp", "unix:"+at("monitor")+",server=on,wait=off",
		"-netdev", "hubport,id=net,hubid=0", "-device", "virtio-net-device,netdev=net",
		"-device", "virtio-serial-device", "-chardev", "socket,id=port,server=on,wait=off,path="+at("port"),
		"-device", "virtserialport,chardev=port,name="+inside.PortName)
	cmd := exec.Command(t.qemu.Path, append(args, more...)...)
	cmd.Env = t.qemu.Env()
	words, err := os.Create(at("words"))
	if err != nil {
		return nil, err
	}
	defer words.Close()
	cmd.Stdout, cmd.Stderr = words, words
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	started := make(chan error)
	go func() {
		// It dies with the thread that started it, which is to be no sooner than
		// this process.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is in its state
			m.state = cmd.ProcessState
			close(m.ended)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	m.process = cmd.Process
	defer func() {
		if err != nil {
			m.kill()
		}
	}()
	ctx, cancel := m.within(ctx, answersWithin, "QEMU's monitor to answer")
	defer cancel()
	conn, err := m.connect(ctx, at("monitor"))
	if err == nil {
		m.monitor, err = qmp.New(ctx, conn, at("monitor"))
	}
	if err == nil {
		m.events = m.monitor.Subscribe("MIGRATION", "MIGRATION_PASS")
		err = m.monitor.Execute(ctx, "migrate-set-capabilities", map[string]any{"capabilities": []any{map[string]any{"capability": "events", "state": true}}}, nil)
	}
	if err != nil {
		return nil, fmt.Errorf("start %s: %w%s", t.qemu.Path, err, m.lastWords())
	}
	return m, nil
}

// errLate is a wait that was given up. It may be this machine that was too slow.
var errLate = errors.New("too late")

// errEnded is the end of a QEMU that should have gone on.
var errEnded = errors.New("QEMU has ended")

// why is the error of something that was asked of QEMU, or, where QEMU has ended,
// that: then the end of a connection is what is seen of it first.
func (m *machine) why(err error) error {
	if err == nil || errors.Is(err, errEnded) {
		return err
	}
	if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) {
		select {
		case <-m.ended:
			return fmt.Errorf("%w (%v)", errEnded, m.state)
		case <-time.After(endsWithin):
		}
	}
	return err
}

// endsWithin is how long a process may take to end that has closed its sockets.
const endsWithin = time.Second

// within bounds a wait that is of no use either when QEMU has ended.
func (m *machine) within(ctx context.Context, d time.Duration, what string) (context.Context, context.CancelFunc) {
	ctx, over := context.WithTimeoutCause(ctx, d, fmt.Errorf("waited %v for %s (%w)", d, what, errLate))
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-m.ended:
			cancel(fmt.Errorf("%w (%v)", errEnded, m.state))
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(context.Canceled); over() }
}

// connectEvery is from one attempt to reach a socket that is about to be there to
// the next.
const connectEvery = 10 * time.Millisecond

func (m *machine) connect(ctx context.Context, path string) (*net.UnixConn, error) {
	again := time.NewTicker(connectEvery)
	defer again.Stop()
	for {
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
		if err == nil {
			return conn, nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w (%w)", context.Cause(ctx), err)
		}
	}
}

// hello waits until the program in the guest answers.
func (m *machine) hello(ctx context.Context) error {
	ctx, cancel := m.within(ctx, bootsWithin, "the program in the guest to answer")
	defer cancel()
	conn, err := m.connect(ctx, filepath.Join(m.folder, "port"))
	if err != nil {
		return err
	}
	m.link = inside.NewLink(conn)
	return m.why(m.link.Hello(ctx))
}

// passes waits until the source of a migration has gone over its memory so often,
// or has done so for long enough, or is at the end.
func (m *machine) passes(ctx context.Context, count int, enough time.Duration) error {
	soon, cancel := context.WithTimeout(ctx, enough)
	defer cancel()
	for {
		e, err := m.events.Next(soon)
		switch {
		case err != nil && ctx.Err() == nil && soon.Err() != nil:
			return nil
		case err != nil:
			return m.why(err)
		}
		if ended, err := m.note(e); ended || err != nil || m.pass >= count {
			return err
		}
	}
}

// migrated waits for the end of a migration, as this end sees it.
func (m *machine) migrated(ctx context.Context) error {
	for !m.moved {
		e, err := m.events.Next(ctx)
		if err != nil {
			return m.why(err)
		}
		if _, err := m.note(e); err != nil {
			return err
		}
	}
	return nil
}

// note takes an event of a migration. ended: it was the last.
func (m *machine) note(e qmp.Event) (ended bool, err error) {
	var is struct {
		Status string
		Pass   int
	}
	if err := e.Decode(&is); err != nil {
		return false, err
	}
	m.pass = max(m.pass, is.Pass)
	switch is.Status {
	case "completed":
		m.moved = true
	case "failed", "cancelled":
		return false, fmt.Errorf("the migration: %s", is.Status)
	}
	return m.moved, nil
}

// kill ends it.
func (m *machine) kill() {
	_ = m.process.Kill() // it may have ended
	<-m.ended
	if m.link != nil {
		m.link.Close()
	}
	if m.monitor != nil {
		m.monitor.Close()
	}
}

// lastWords is what QEMU and the console said last, for a person.
func (m *machine) lastWords() string {
	var out strings.Builder
	for _, name := range []string{"words", console} {
		b, _ := os.ReadFile(filepath.Join(m.folder, name)) // what there is
		lines := strings.Split(strings.TrimSpace(string(b)), "\n")
		for _, l := range lines[max(0, len(lines)-6):] {
			if l = strings.TrimSpace(l); l != "" {
				out.WriteString("\n\t" + l)
			}
		}
	}
	return out.String()
}
