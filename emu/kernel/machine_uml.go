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

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"
)

// umlMachine is a booted User Mode Linux: its warden, its channel, its folder.
type umlMachine struct {
	*Machine
	cfg     Config
	scratch *scratch
	warden  *wardenProcess
	conn    *line
	session *yamux.Session
	console tail
	group   int    // process group of the kernel; of use without a PID namespace
	how     string // how the kernel ended, by the warden
	failed  string // why it could not be started
}

// bootLimit bounds the way from the kernel's start to its answer. A quiet
// machine takes one second.
const bootLimit = 60 * time.Second

// startUML boots User Mode Linux.
func startUML(ctx context.Context, cfg Config) (*Machine, error) {
	if cfg.Memory < minMemory {
		return nil, fmt.Errorf("memory %s is too little for a kernel: want at least %s", humanBytes(cfg.Memory), humanBytes(minMemory))
	}
	uml, err := findUML(ctx)
	if err != nil {
		return nil, err
	}
	o, err := umlOrders(cfg, uml)
	if err != nil {
		return nil, err
	}
	m := &umlMachine{Machine: newMachine(), cfg: cfg}
	if m.scratch, err = newScratch(cfg.Dir); err != nil {
		return nil, fmt.Errorf("boot User Mode Linux: %w", err)
	}
	if err := m.launch(uml, o); err != nil {
		m.scratch.remove()
		return nil, fmt.Errorf("boot User Mode Linux: %w", err)
	}
	go m.watch()
	if err := m.handshake(ctx, o); err != nil {
		m.end(true)
		<-m.done
		return nil, m.bootError(uml, err)
	}
	return m.Machine, nil
}

// umlOrders settles what the inside is told.
func umlOrders(cfg Config, uml *umlProgram) (*orders, error) {
	files, without, err := uml.plan()
	if err != nil {
		return nil, err
	}
	writable, err := hostPaths("writable", cfg.Writable)
	if err != nil {
		return nil, err
	}
	extra := cfg.Env
	if len(without) > 0 {
		// Nothing to do about it here; the inside reports what did not load.
		for _, name := range without {
			files = append(files, moduleFile{Name: name, Path: filepath.Join(uml.Modules, name+".ko")})
		}
	}
	return &orders{
		Mode: cfg.mode, Args: cfg.InitArgs, Hostname: cfg.Lab, Env: insideEnv(extra),
		Modules: files, ModuleDir: uml.Modules, Writable: writable, Visible: cfg.Visible,
	}, nil
}

// launch starts the warden, which starts the kernel.
func (m *umlMachine) launch(uml *umlProgram, o *orders) error {
	self := m.cfg.Program
	if self == "" {
		self = "/proc/self/exe"
	}
	program, err := m.scratch.place(self)
	if err != nil {
		return err
	}
	program, err = filepath.EvalSymlinks(program)
	if err != nil {
		return err
	}
	o.Visible = append(o.Visible, program, uml.Modules)
	memory, err := memoryDir(m.cfg.Memory)
	if err != nil {
		return err
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	spool := filepath.Join(filepath.Dir(program), spoolName)
	if err := os.Mkdir(spool, 0o700); err != nil {
		ours.Close()
		return err
	}
	m.conn = newLine(newOuterLine(ours, spool))
	m.warden, err = startWarden(program, wardenOrders{
		Argv:    append([]string{uml.Path}, uml.arguments(program, m.scratch.dir, m.cfg.Memory)...),
		Env:     []string{"TMPDIR=" + memory, "HOME=/", "PATH=" + standardPath},
		Scratch: m.scratch.dir,
		Console: m.consolePath(),
	}, theirs, m.scratch.lock, m.cfg.Held...)
	if err != nil {
		ours.Close()
		return err
	}
	m.Image = uml.Path
	m.end = m.endUML
	m.dial = m.dialUML
	return nil
}

// consolePath is the console log in a run folder that the caller keeps.
func (m *umlMachine) consolePath() string {
	if m.cfg.Dir == "" {
		return ""
	}
	abs, err := filepath.Abs(filepath.Join(m.cfg.Dir, "console.log"))
	if err != nil {
		return ""
	}
	return abs
}

// handshake talks process 1 through its start; see channel.go.
func (m *umlMachine) handshake(ctx context.Context, o *orders) error {
	ctx, cancel := context.WithTimeoutCause(ctx, bootLimit, fmt.Errorf("no answer from inside in %v", bootLimit))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { m.conn.Close() })
	err := m.talk(o)
	if !stop() && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	m.session, err = yamux.Client(&joiner{line: m.conn}, sessionConfig())
	return err
}

func (m *umlMachine) talk(o *orders) error {
	sent := make(chan error, 1)
	go func() { sent <- m.conn.send(o) }() // reading is what lets it go on
	var ready readiness
	if err := m.conn.receive(&ready); err != nil {
		m.conn.Close()
		return fmt.Errorf("waiting for process 1: %w", errors.Join(<-sent, err))
	}
	if err := <-sent; err != nil {
		return fmt.Errorf("orders for process 1: %w", err)
	}
	if ready.Error != "" {
		return errors.New("inside: " + ready.Error)
	}
	m.Release, m.Without = ready.Release, ready.Without
	return nil
}

// bootError adds what the kernel said to the reason why it did not come up.
func (m *umlMachine) bootError(uml *umlProgram, err error) error {
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("boot User Mode Linux: %w", err)
	}
	if m.failed != "" {
		return &Unusable{Substrate: UML, Missing: fmt.Sprintf("%s does not start: %s", uml.Path, m.failed), Fix: umlPackageFix}
	}
	if m.how != "" {
		err = fmt.Errorf("%w; the kernel ended: %s", err, m.how)
	}
	return fmt.Errorf("boot User Mode Linux %s: %w%s", uml.Release, err, m.console.quote())
}

// watch follows the warden's news until it ends, and settles the machine.
func (m *umlMachine) watch() {
	for {
		var n wardenNews
		if err := m.warden.news.Decode(&n); err != nil {
			break
		}
		if n.Console != "" {
			m.console.Write([]byte(n.Console))
			if m.cfg.Log != nil {
				_, _ = io.WriteString(m.cfg.Log, n.Console)
			}
		}
		if n.PID != 0 {
			m.group = n.PID
		}
		if n.Exit != "" {
			m.how = n.Exit
		}
		if n.Error != "" {
			m.failed = n.Error
		}
	}
	waitErr := m.warden.cmd.Wait()
	m.clear()
	m.finish(m.endError(waitErr))
}

// clear removes what a warden that was killed could not.
func (m *umlMachine) clear() {
	m.conn.Close()
	m.warden.life.Close()
	m.warden.status.Close()
	if m.how == "" && m.group > 1 && !m.warden.alone {
		_ = unix.Kill(-m.group, unix.SIGKILL)
	}
	m.scratch.remove()
}

func (m *umlMachine) endError(waitErr error) error {
	switch {
	case m.how == "powered off" && m.console.fault() == "":
		return nil
	case m.how != "":
		return fmt.Errorf("the lab kernel ended: %s%s", m.how, m.console.quote())
	case waitErr != nil:
		return fmt.Errorf("the lab kernel's warden ended: %w%s", waitErr, m.console.quote())
	}
	return fmt.Errorf("the lab kernel ended%s", m.console.quote())
}

// endUML closes the channel, which makes the inside power off, or has the
// warden kill it.
func (m *umlMachine) endUML(force bool) {
	if force {
		m.warden.kill()
		return
	}
	if m.session != nil {
		m.session.Close()
	}
	m.conn.Close()
}

func (m *umlMachine) dialUML(ctx context.Context) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	opened := make(chan result, 1)
	go func() {
		conn, err := m.session.Open()
		opened <- result{conn, err}
	}()
	select {
	case r := <-opened:
		if errors.Is(r.err, yamux.ErrSessionShutdown) {
			// The warden's last news come a moment after the channel's end.
			select {
			case <-m.done:
				return nil, m.gone()
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		return r.conn, r.err
	case <-ctx.Done():
		go func() { // the open one, if it comes, is nobody's
			if r := <-opened; r.err == nil {
				r.conn.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

// tail keeps the last part of the kernel's console.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

// tailSize is what is kept, in bytes; tailLines what an error shows of it.
const (
	tailSize  = 16 << 10
	tailLines = 12
)

func (t *tail) Write(p []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if len(t.buf) > tailSize {
		t.buf = append([]byte(nil), t.buf[len(t.buf)-tailSize:]...)
	}
}

// fault finds a line by which process 1 says that it failed.
func (t *tail) fault() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	for line := range strings.Lines(string(t.buf)) {
		if strings.HasPrefix(line, "vpclab init: ") {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

// quote gives the last lines for an error message, and before them the line
// with which a panic began.
func (t *tail) quote() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := strings.TrimSpace(strings.ReplaceAll(string(t.buf), "\r", ""))
	if text == "" {
		return ""
	}
	lines := strings.Split(text, "\n")
	cut := max(0, len(lines)-tailLines)
	quoted := "\nits console ended with:"
	for _, line := range lines[:cut] {
		if strings.HasPrefix(line, "Kernel panic") {
			quoted = "\n" + line + quoted
		}
	}
	return quoted + "\n  " + strings.Join(lines[cut:], "\n  ")
}

func hostRelease() string {
	var uts unix.Utsname
	if unix.Uname(&uts) != nil {
		return ""
	}
	return unix.ByteSliceToString(uts.Release[:])
}
