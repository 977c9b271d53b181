package kernel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/stock"
)

// bootable is a kernel that can be booted here: what is peculiar to User Mode
// Linux or to QEMU. The life of a machine is the same whichever it is.
type bootable interface {
	// String names it in messages.
	String() string
	// lack is the error of one that does not start at all.
	lack(missing string) error
	// least is the memory in which it comes up, in bytes.
	least() int64
	// patience is how long it may take from its start to its answer.
	patience() time.Duration
	// file is the kernel that is booted.
	file() string
	// plan lists the modules to load; see (*umlProgram).plan. They lie in folder.
	plan() (files []stock.Module, without []string, err error)
	folder() string
	// command puts what the machine needs into its scratch folder, and says
	// what the warden is to run and in what environment. The control channel
	// will be its file 3. program is our own one, that process 1 is to be.
	command(cfg Config, s *scratch, program string, o *orders) (wardenOrders, error)
	// channel makes the outer end of the control channel of our socket.
	channel(conn io.ReadWriteCloser, s *scratch) (io.ReadWriteCloser, error)
	// booted is called when process 1 has answered.
	booted(s *scratch)
}

// bootedMachine is a kernel that runs in processes of its own: its warden, its
// channel, its folder.
type bootedMachine struct {
	*Machine
	kind    bootable
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

// bootLimit bounds the way from the kernel's start to its answer: in User Mode
// Linux, which takes one second on a quiet machine.
const bootLimit = 60 * time.Second

// startBooted boots the kernel.
func startBooted(ctx context.Context, cfg Config, kind bootable) (*Machine, error) {
	if cfg.Memory < kind.least() {
		return nil, fmt.Errorf("memory %s is too little for a kernel: want at least %s", humanBytes(cfg.Memory), humanBytes(kind.least()))
	}
	o, err := newOrders(cfg, kind)
	if err != nil {
		return nil, err
	}
	m := &bootedMachine{Machine: newMachine(), kind: kind, cfg: cfg}
	if m.scratch, err = newScratch(cfg.Dir); err != nil {
		return nil, fmt.Errorf("boot %s: %w", kind, err)
	}
	if err := m.launch(o); err != nil {
		m.scratch.remove()
		return nil, fmt.Errorf("boot %s: %w", kind, err)
	}
	go m.watch()
	if err := m.handshake(ctx, o); err != nil {
		m.end(true)
		<-m.done
		return nil, m.bootError(err)
	}
	kind.booted(m.scratch)
	return m.Machine, nil
}

// newOrders settles what the inside is told.
func newOrders(cfg Config, kind bootable) (*orders, error) {
	files, without, err := kind.plan()
	if err != nil {
		return nil, err
	}
	writable, err := hostPaths("writable", cfg.Writable)
	if err != nil {
		return nil, err
	}
	for _, name := range without {
		// Nothing to do about it here; the inside reports what did not load.
		files = append(files, stock.Module{Name: name, Path: filepath.Join(kind.folder(), name+".ko")})
	}
	slices.Sort(writable) // outer folders before those inside them
	return &orders{
		Substrate: cfg.Substrate, Mode: cfg.mode, Args: cfg.InitArgs, Hostname: cfg.Lab, Env: insideEnv(cfg.Substrate, cfg.Env),
		Modules: files, ModuleDir: kind.folder(), Writable: slices.Compact(writable), Visible: append(slices.Clone(cfg.Visible), kind.folder()),
	}, nil
}

// launch starts the warden, which starts the kernel.
func (m *bootedMachine) launch(o *orders) error {
	self := m.cfg.Program
	if self == "" {
		self = "/proc/self/exe"
	}
	program, err := m.scratch.place(self)
	if err != nil {
		return err
	}
	if program, err = filepath.EvalSymlinks(program); err != nil {
		return err
	}
	w, err := m.kind.command(m.cfg, m.scratch, program, o)
	if err != nil {
		return err
	}
	w.Scratch, w.Console = m.scratch.dir, m.consolePath()
	ours, theirs, err := socketPair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	channel, err := m.kind.channel(ours, m.scratch)
	if err != nil {
		ours.Close()
		return err
	}
	m.conn = newLine(channel)
	m.warden, err = startWarden(program, w, theirs, m.scratch.lock, m.cfg.Held...)
	if err != nil {
		ours.Close()
		return err
	}
	m.Image = m.kind.file()
	m.end = m.endBooted
	m.dial = m.dialBooted
	return nil
}

// consolePath is the console log in a run folder that the caller keeps.
func (m *bootedMachine) consolePath() string {
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
func (m *bootedMachine) handshake(ctx context.Context, o *orders) error {
	limit := m.kind.patience()
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer from inside in %v", limit))
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

func (m *bootedMachine) talk(o *orders) error {
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
func (m *bootedMachine) bootError(err error) error {
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("boot %s: %w", m.kind, err)
	}
	if m.failed != "" {
		return m.kind.lack("it does not start: " + m.failed)
	}
	if m.how != "" {
		err = fmt.Errorf("%w; the kernel ended: %s", err, m.how)
	}
	return fmt.Errorf("boot %s: %w%s", m.kind, err, m.console.quote())
}

// watch follows the warden's news until it ends, and settles the machine.
func (m *bootedMachine) watch() {
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
func (m *bootedMachine) clear() {
	m.conn.Close()
	m.warden.life.Close()
	m.warden.status.Close()
	if m.how == "" && m.group > 1 && !m.warden.alone {
		_ = unix.Kill(-m.group, unix.SIGKILL)
	}
	m.scratch.remove()
}

func (m *bootedMachine) endError(waitErr error) error {
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

// endBooted closes the channel, which makes the inside power off, or has the
// warden kill it.
func (m *bootedMachine) endBooted(force bool) {
	if force {
		m.warden.kill()
		return
	}
	if m.session != nil {
		m.session.Close()
	}
	m.conn.Close()
}

func (m *bootedMachine) dialBooted(ctx context.Context) (net.Conn, error) {
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

// kernelPanic begins a kernel's last words.
const kernelPanic = "Kernel panic"

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

// fault finds a line by which process 1, or the kernel, says that it failed.
func (t *tail) fault() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	for line := range strings.Lines(string(t.buf)) {
		if strings.HasPrefix(line, "vpclab init: ") || strings.HasPrefix(line, kernelPanic) {
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
		if strings.HasPrefix(line, kernelPanic) {
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
