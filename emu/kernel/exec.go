package kernel

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// One command inside a kernel of its own uses two connections: the first
// carries frames (the request and signals in, output and the exit out), the
// second the bytes of standard input, so that a command that does not read
// cannot hold up its signals.

// Kinds of frames. A frame is its kind, the length of its body in four bytes,
// big end first, and the body.
const (
	frameRequest = 'r' // in: execRequest
	frameSignal  = 's' // in: one byte, the signal's number
	frameOut     = '1' // out: bytes of standard output
	frameErr     = '2' // out: bytes of standard error
	frameExit    = 'x' // out: execResult; the last one
)

// maxFrame bounds a frame's body, in bytes.
const maxFrame = 1 << 20

type execRequest struct {
	Argv  []string `json:"argv"`
	Env   []string `json:"env"`
	Dir   string   `json:"dir"`
	Stdin bool     `json:"stdin"`
}

type execResult struct {
	Code  int    `json:"code"`
	Error string `json:"error,omitempty"` // it could not be started
}

// framer writes frames, whole, from several goroutines.
type framer struct {
	mu sync.Mutex
	w  io.Writer
}

func (f *framer) send(kind byte, body []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	head := [5]byte{kind}
	binary.BigEndian.PutUint32(head[1:], uint32(len(body)))
	_, err := f.w.Write(append(head[:], body...))
	return err
}

func (f *framer) sendJSON(kind byte, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return f.send(kind, body)
}

// stream makes a writer whose bytes become frames of one kind.
func (f *framer) stream(kind byte) io.Writer { return frameWriter{f, kind} }

type frameWriter struct {
	f    *framer
	kind byte
}

func (w frameWriter) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		n := min(len(p), maxFrame)
		if err := w.f.send(w.kind, p[:n]); err != nil {
			return written, err
		}
		written += n
		p = p[n:]
	}
	return written, nil
}

// readFrame reads one frame. io.EOF means that the stream ended between two.
func readFrame(r *bufio.Reader) (kind byte, body []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	size := binary.BigEndian.Uint32(head[1:])
	if size > maxFrame {
		return 0, nil, fmt.Errorf("frame %q of %d bytes: more than %d", head[0], size, maxFrame)
	}
	body = make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, nil, fmt.Errorf("frame %q: %w", head[0], io.ErrUnexpectedEOF)
	}
	return head[0], body, nil
}

// forwarded are the signals that a command inside gets instead of us.
var forwarded = []os.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2}

// impatience is how many interrupts end the kernel itself.
const impatience = 3

// Exec boots a kernel as cfg says, runs argv inside with the given environment
// and streams in the current folder, and returns its exit code, which is 128 +
// the signal's number where a signal ended it. Signals that this process gets
// are forwarded; the third interrupt ends the kernel. A nil stdin is an empty
// one. On the Host substrate argv simply runs here.
func Exec(ctx context.Context, cfg Config, argv, env []string, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	if len(argv) == 0 {
		return -1, errors.New("exec: no command given")
	}
	substrate, err := Choose(ctx, cfg.Substrate)
	if err != nil {
		return -1, err
	}
	dir, err := os.Getwd()
	if err != nil {
		return -1, fmt.Errorf("exec: %w", err)
	}
	req := execRequest{Argv: argv, Env: execEnv(env, substrate), Dir: dir, Stdin: stdin != nil}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, forwarded...)
	defer signal.Stop(signals)
	if substrate == Host {
		return execHere(ctx, req, stdin, stdout, stderr, signals)
	}
	cfg.Substrate = substrate
	cfg.mode = modeExec
	cfg.Visible = append(cfg.Visible, dir)
	if path, err := exec.LookPath(argv[0]); err == nil {
		if path, err = filepath.Abs(path); err == nil {
			cfg.Visible = append(cfg.Visible, path)
			req.Argv = append([]string{path}, argv[1:]...)
		}
	}
	bootCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	m, err := startInterruptible(bootCtx, cancel, cfg, signals)
	if err != nil {
		return -1, err
	}
	defer func() {
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = m.Stop(stopCtx)
	}()
	return execInside(ctx, m, req, stdin, stdout, stderr, signals)
}

// startInterruptible boots, and gives up when a signal comes meanwhile.
func startInterruptible(ctx context.Context, cancel func(), cfg Config, signals chan os.Signal) (*Machine, error) {
	booted := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case s := <-signals:
			signals <- s // for who comes next
			cancel()
		case <-booted:
		}
	})
	m, err := Start(ctx, cfg)
	close(booted)
	watching.Wait()
	return m, err
}

// execEnv is the caller's environment, made fit for the inside.
func execEnv(env []string, s Substrate) []string {
	out := withoutEnv(env, EnvKernel, envInit, envWarden)
	if s != Host {
		path := ""
		for _, kv := range env {
			if v, ok := strings.CutPrefix(kv, "PATH="); ok {
				path = v
			}
		}
		// Folders for temporary files that these name do not exist inside.
		out = append(withoutEnv(out, "TMPDIR", "GOTMPDIR", "XDG_RUNTIME_DIR", "PATH"), "PATH="+insidePath(path))
	}
	return append(out, EnvKernel+"="+string(s))
}

// execInside talks to serveExec.
func execInside(ctx context.Context, m *Machine, req execRequest, stdin io.Reader, stdout, stderr io.Writer, signals <-chan os.Signal) (int, error) {
	conn, err := m.Dial(ctx)
	if err != nil {
		return -1, err
	}
	defer conn.Close()
	out := &framer{w: conn}
	if err := out.sendJSON(frameRequest, req); err != nil {
		return -1, fmt.Errorf("exec %s: %w", req.Argv[0], err)
	}
	if stdin != nil {
		in, err := m.Dial(ctx)
		if err != nil {
			return -1, err
		}
		go func() { // ends with the kernel, or stays in a read of a terminal until we exit
			_, _ = io.Copy(in, stdin)
			in.Close()
		}()
	}
	ended := make(chan struct{})
	var forwarding sync.WaitGroup
	forwarding.Go(func() { forward(ctx, m, out, signals, ended) })
	defer forwarding.Wait()
	defer close(ended)
	res, err := readOutput(conn, stdout, stderr)
	switch {
	case err == nil && res.Error != "":
		return -1, errors.New(res.Error)
	case err == nil:
		return res.Code, nil
	}
	// The channel broke: say why the kernel ended rather than how we noticed.
	select {
	case <-m.Done():
		if m.Err() != nil {
			err = m.Err()
		}
	case <-time.After(2 * wardenGrace):
	}
	return -1, fmt.Errorf("exec %s: %w", req.Argv[0], err)
}

// forward sends signals to the command inside. A cancelled context asks it to
// terminate; too many interrupts end the kernel.
func forward(ctx context.Context, m *Machine, out *framer, signals <-chan os.Signal, ended <-chan struct{}) {
	interrupts := 0
	cancelled := ctx.Done()
	for {
		var n unix.Signal
		select {
		case <-ended:
			return
		case <-cancelled:
			n, cancelled = unix.SIGTERM, nil
		case s := <-signals:
			n = s.(unix.Signal)
		}
		if n == unix.SIGINT || n == unix.SIGTERM {
			interrupts++
		}
		if interrupts >= impatience {
			m.end(true)
			return
		}
		_ = out.send(frameSignal, []byte{byte(n)})
	}
}

// readOutput copies output frames until the exit frame.
func readOutput(conn net.Conn, stdout, stderr io.Writer) (res execResult, err error) {
	r := bufio.NewReaderSize(conn, 64<<10)
	for {
		kind, body, err := readFrame(r)
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = ErrGone
			}
			return res, err
		}
		switch kind {
		case frameOut:
			_, _ = stdout.Write(body)
		case frameErr:
			_, _ = stderr.Write(body)
		case frameExit:
			return res, json.Unmarshal(body, &res)
		}
	}
}

// serveExec is the inside of Exec: it runs one command and returns.
func serveExec(ctx context.Context, ln net.Listener) error {
	conn, err := ln.Accept()
	if err != nil {
		return err
	}
	in := bufio.NewReader(conn)
	kind, body, err := readFrame(in)
	if err != nil {
		return fmt.Errorf("exec: request: %w", err)
	}
	var req execRequest
	if err := json.Unmarshal(body, &req); err != nil || kind != frameRequest {
		return fmt.Errorf("exec: request: kind %q: %w", kind, err)
	}
	var stdin io.Reader
	if req.Stdin {
		if stdin, err = ln.Accept(); err != nil {
			return err
		}
	}
	out := &framer{w: conn}
	signals := make(chan os.Signal, 8)
	go func() { // ends with the connection
		for {
			kind, body, err := readFrame(in)
			if err != nil {
				return
			}
			if kind == frameSignal && len(body) == 1 {
				signals <- unix.Signal(body[0])
			}
		}
	}()
	var res execResult
	res.Code, err = execHere(ctx, req, stdin, out.stream(frameOut), out.stream(frameErr), signals)
	if err != nil {
		res.Error = err.Error()
	}
	if err := out.sendJSON(frameExit, res); err != nil {
		return err
	}
	// The other end has it all when it closes; powering off before would cut it.
	<-ctx.Done()
	return nil
}

// feed gives the command its standard input without making its end wait for
// the end of that input.
func feed(cmd *exec.Cmd, stdin io.Reader) error {
	if f, ok := stdin.(*os.File); ok || stdin == nil {
		if ok {
			cmd.Stdin = f
		}
		return nil
	}
	w, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	go func() { // ends with the input, or when the command's end of the pipe is gone
		_, _ = io.Copy(w, stdin)
		w.Close()
	}()
	return nil
}

// execHere runs the command on this kernel and passes signals on to it: inside
// a kernel of its own, to its whole process group.
func execHere(ctx context.Context, req execRequest, stdin io.Reader, stdout, stderr io.Writer, signals <-chan os.Signal) (int, error) {
	cmd := exec.Command(req.Argv[0], req.Argv[1:]...)
	cmd.Env, cmd.Dir = req.Env, req.Dir
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.WaitDelay = 2 * time.Second // for what it left behind that holds its output
	group := 1                      // the sign of the process id that signals go to
	if os.Getpid() == 1 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		group = -1
	}
	if err := feed(cmd, stdin); err != nil {
		return -1, fmt.Errorf("exec: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return -1, fmt.Errorf("exec: %w", err)
	}
	ended := make(chan struct{})
	var passing sync.WaitGroup
	passing.Go(func() {
		for {
			select {
			case s := <-signals:
				_ = unix.Kill(group*cmd.Process.Pid, s.(unix.Signal))
			case <-ctx.Done():
				_ = unix.Kill(group*cmd.Process.Pid, unix.SIGKILL)
				return
			case <-ended:
				return
			}
		}
	})
	err := cmd.Wait()
	close(ended)
	passing.Wait()
	code, err := exitOf(err)
	if err != nil {
		return code, fmt.Errorf("exec %s: %w", req.Argv[0], err)
	}
	return code, nil
}

// exitOf makes an exit code of what Wait said.
func exitOf(err error) (int, error) {
	var exit *exec.ExitError
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return 0, nil
	case errors.As(err, &exit):
		if ws := exit.Sys().(syscall.WaitStatus); ws.Signaled() {
			return 128 + int(ws.Signal()), nil
		}
		return exit.ExitCode(), nil
	}
	return -1, err
}
