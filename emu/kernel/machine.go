package kernel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Config says what to boot. The zero value boots what Choose(Auto) finds, with
// the default memory and nothing writable.
type Config struct {
	Substrate Substrate // Auto is settled by Choose
	Lab       string    // names the machine: its host name
	Dir       string    // run folder for console log, pid file and sockets; made if need be. Empty: a temporary one
	Memory    int64     // bytes; default DefaultMemory
	Writable  []string  // host folders that the inside may write; all else is read-only
	InitArgs  []string  // given to the serve function of Init
	Env       []string  // more environment for the inside, KEY=value
	Visible   []string  // host paths that must be seen inside even under /tmp or /run
	// Held are files that stay open until the last process of a booted kernel
	// has ended, even if this process is killed before: locks of what it writes.
	Held []*os.File
	// Serve answers the control channel when Substrate is Host: it runs in
	// this process. In a booted kernel the function given to Init does.
	Serve func(ctx context.Context, ln net.Listener) error
	// Program is run as process 1 of a booted kernel; it must call Init.
	// Default: this program.
	Program string
	Log     io.Writer // receives the kernel's console; may be nil

	mode string // default modeServe
}

// DefaultMemory of a booted kernel, in bytes.
const DefaultMemory = 2 << 30

// minMemory is the least in which User Mode Linux and a Go program come up.
const minMemory = 96 << 20

// Machine is a running kernel that carries a lab.
type Machine struct {
	Substrate Substrate
	Release   string        // kernel release, as uname -r inside
	BootTime  time.Duration // from Start to the answer of the inside
	Image     string        // file that was booted; "" on the host's kernel
	Without   []string      // optional kernel modules that are not there, with the reason

	dial func(ctx context.Context) (net.Conn, error)
	end  func(force bool) // begins the end: politely, or at once

	stopping sync.Once
	stopped  chan struct{} // closed when Stop was asked for
	done     chan struct{}
	err      error // written before done is closed
}

// Start boots the kernel and returns when its inside answers. The kernel lives
// until Stop, its own end, or the end of this process, whichever is first; ctx
// bounds only the start.
func Start(ctx context.Context, cfg Config) (*Machine, error) {
	began := time.Now()
	if cfg.Memory == 0 {
		cfg.Memory = DefaultMemory
	}
	if cfg.Lab == "" {
		cfg.Lab = "vpclab"
	}
	if cfg.mode == "" {
		cfg.mode = modeServe
	}
	substrate, err := Choose(ctx, cfg.Substrate)
	if err != nil {
		return nil, err
	}
	cfg.Substrate = substrate
	var m *Machine
	switch substrate {
	case Host:
		m, err = startHost(cfg)
	case UML:
		m, err = startUML(ctx, cfg)
	case QEMU:
		m, err = startQEMU(ctx, cfg)
	}
	if err != nil {
		return nil, err
	}
	m.Substrate = substrate
	m.BootTime = time.Since(began)
	return m, nil
}

// Dial opens a connection to the serve function.
func (m *Machine) Dial(ctx context.Context) (net.Conn, error) {
	select {
	case <-m.done:
		return nil, m.gone()
	default:
	}
	conn, err := m.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("dial the lab kernel: %w", err)
	}
	return conn, nil
}

// ErrGone says that the kernel has ended.
var ErrGone = errors.New("the lab kernel has ended")

func (m *Machine) gone() error {
	if m.err != nil {
		return m.err
	}
	return ErrGone
}

// Done is closed when the kernel has ended and nothing of it is left.
func (m *Machine) Done() <-chan struct{} { return m.done }

// Err tells, after Done, why the kernel ended; nil if Stop was asked for or
// the serve function returned nil.
func (m *Machine) Err() error {
	select {
	case <-m.done:
		return m.err
	default:
		return nil
	}
}

// Stop ends the kernel and all that belongs to it, and waits for that. The
// serve function is asked to return first; when ctx ends, so does the kernel,
// at once.
func (m *Machine) Stop(ctx context.Context) error {
	m.stopping.Do(func() {
		close(m.stopped)
		m.end(false)
	})
	select {
	case <-m.done:
		return nil
	case <-ctx.Done():
	}
	m.end(true)
	select {
	case <-m.done:
		return nil
	case <-time.After(10 * time.Second):
		return fmt.Errorf("stop the lab kernel: its processes did not end in 10 s")
	}
}

// newMachine makes the parts that do not depend on the substrate.
func newMachine() *Machine {
	return &Machine{stopped: make(chan struct{}), done: make(chan struct{})}
}

// finish records why the kernel ended, unless it was asked to.
func (m *Machine) finish(err error) {
	select {
	case <-m.stopped:
		err = nil
	default:
	}
	m.err = err
	close(m.done)
}

// startHost runs the serve function here, on this machine's kernel.
func startHost(cfg Config) (*Machine, error) {
	if cfg.Serve == nil {
		return nil, errors.New("start on the host's kernel: no serve function given")
	}
	m := newMachine()
	m.Release = hostRelease()
	ln := newLocalListener()
	ctx, cancel := context.WithCancel(context.Background())
	m.dial = ln.dial
	m.end = func(bool) { cancel(); ln.Close() }
	go func() {
		err := cfg.Serve(ctx, ln)
		cancel()
		ln.Close()
		if err != nil {
			err = fmt.Errorf("serve: %w", err)
		}
		m.finish(err)
	}()
	return m, nil
}

func startUML(ctx context.Context, cfg Config) (*Machine, error) {
	u, err := findUML(ctx)
	if err != nil {
		return nil, err
	}
	return startBooted(ctx, cfg, u)
}

// hostPaths makes absolute, symlink-free paths of folders that must exist.
func hostPaths(what string, paths []string) ([]string, error) {
	var out []string
	for _, p := range paths {
		abs, err := filepath.Abs(p)
		if err == nil {
			abs, err = filepath.EvalSymlinks(abs)
		}
		if err == nil {
			var st os.FileInfo
			if st, err = os.Stat(abs); err == nil && !st.IsDir() {
				err = errors.New("not a folder")
			}
		}
		if err != nil {
			return nil, fmt.Errorf("%s folder %s: %w", what, p, err)
		}
		out = append(out, abs)
	}
	return out, nil
}

// standardPath is searched inside after the user's own PATH, which for an
// ordinary user lacks the sbin folders that network tools are in.
const standardPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// insideEnv is the environment of a booted kernel's process 1.
func insideEnv(s Substrate, extra []string) []string {
	var env []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		switch {
		case strings.HasPrefix(name, "VPCLAB_"), strings.HasPrefix(name, "LC_"):
			env = append(env, kv)
		}
		switch name {
		case "HOME", "USER", "LOGNAME", "LANG", "TERM", "TZ", "NO_COLOR", "SHELL", "XDG_CACHE_HOME", "XDG_STATE_HOME", "GOTRACEBACK", "GODEBUG":
			env = append(env, kv)
		}
	}
	env = append(env, "PATH="+insidePath(os.Getenv("PATH")), EnvKernel+"="+string(s))
	return append(withoutEnv(env, envInit, envWarden), extra...)
}

// EnvKernel is set inside a lab kernel, to the word for its substrate. Tests
// look at it to know whether they can build labs.
const EnvKernel = "VPCLAB_INSIDE"

// Inside names the lab kernel that this process runs in; it is empty elsewhere.
func Inside() Substrate { return Substrate(os.Getenv(EnvKernel)) }

func insidePath(path string) string {
	parts := strings.Split(path, ":")
	have := map[string]bool{}
	var kept []string
	for _, p := range append(parts, strings.Split(standardPath, ":")...) {
		if p != "" && !have[p] {
			have[p] = true
			kept = append(kept, p)
		}
	}
	return strings.Join(kept, ":")
}
