package lab

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"

	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/frr"
)

// ExecRequest asks for a process in a node's network namespace. Everything
// else of it (files, users) is that of the lab's kernel; at a router that runs
// FRR, vtysh talks to its daemons.
type ExecRequest struct {
	Node string `json:"node"`
	// Chassis has a command about a VM with a kernel of its own run all the same,
	// in the namespace that holds the VM's network card.
	Chassis bool     `json:"chassis,omitempty"`
	Cmd     []string `json:"cmd"`           // empty: a shell
	Env     []string `json:"env,omitempty"` // added to the daemon's
	Dir     string   `json:"dir,omitempty"` // "": /
	TTY     bool     `json:"tty,omitempty"`
	Rows    uint16   `json:"rows,omitempty"`
	Cols    uint16   `json:"cols,omitempty"`
}

// ExecResult is the answer to an exec without streams.
type ExecResult struct {
	Code   int    `json:"code"`
	Stdout string `json:"stdout"`
	Stderr string `json:"stderr"`
}

const (
	maxExecOutput = 16 << 20        // bytes of an answer without streams
	hangUpGrace   = 2 * time.Second // from SIGHUP to SIGKILL when the client is gone
	pipeGrace     = 2 * time.Second // for children that keep a dead process's output open
)

// command makes the process that r asks for, not started yet.
func (l *Lab) command(r ExecRequest) (*fabric.Fabric, *exec.Cmd, error) {
	f := l.Fabric()
	if f == nil {
		return nil, nil, ErrNotBuilt
	}
	if _, ok := f.Current().Nodes[r.Node]; !ok {
		return nil, nil, &NoSuchError{What: "node", Name: r.Node, Have: l.nodeNames()}
	}
	if err := l.reaches(r); err != nil {
		return nil, nil, err
	}
	argv := r.Cmd
	if len(argv) == 0 {
		argv = shell()
	}
	tools := frr.Tools(l.Name(), r.Node)
	program := argv[0]
	if path, err := exec.LookPath(filepath.Join(tools, program)); tools != "" && err == nil && filepath.Base(program) == program {
		program = path
	}
	cmd := exec.Command(program, argv[1:]...)
	if cmd.Err != nil {
		return nil, nil, fmt.Errorf("exec in %s: %w", r.Node, cmd.Err)
	}
	cmd.Env = append(os.Environ(), "VPCLAB_LAB="+l.Name(), "VPCLAB_NODE="+r.Node)
	if tools != "" {
		cmd.Env = append(cmd.Env, "PATH="+tools+":"+os.Getenv("PATH"))
	}
	cmd.Env = append(cmd.Env, r.Env...)
	cmd.Dir = "/"
	if st, err := os.Stat(r.Dir); r.Dir != "" && err == nil && st.IsDir() {
		cmd.Dir = r.Dir
	}
	cmd.WaitDelay = pipeGrace
	return f, cmd, nil
}

// reaches refuses what would run beside a VM's kernel and not in it.
func (l *Lab) reaches(r ExecRequest) error {
	plan := l.planOrPending()
	if plan == nil || r.Chassis {
		return nil
	}
	if n, ok := plan.Node(r.Node); ok && n.OwnKernel() {
		return fmt.Errorf("%w: VM %s has a kernel of its own, in which nothing can be run from here; with --chassis it runs in the namespace that holds the VM's network card, where ip, tc and tcpdump see its packets, and what is sent gets no answer, as those go to the VM",
			errBadRequest, r.Node)
	}
	return nil
}

// shell is the shell of a node: without the user's start-up files, which
// could hide in which node one is.
func shell() []string {
	if path, err := exec.LookPath("bash"); err == nil {
		return []string{path, "--norc", "--noprofile", "-i"}
	}
	return []string{"/bin/sh", "-i"}
}

// Exec runs a process in a node and collects what it says.
func (l *Lab) Exec(ctx context.Context, r ExecRequest) (*ExecResult, error) {
	f, cmd, err := l.command(r)
	if err != nil {
		return nil, err
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &capped{w: &out, left: maxExecOutput}, &capped{w: &errs, left: maxExecOutput}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := f.Start(r.Node, cmd); err != nil {
		return nil, fmt.Errorf("exec in %s: %w", r.Node, err)
	}
	release := context.AfterFunc(ctx, func() { hangUp(cmd.Process.Pid, syscall.SIGKILL) })
	err = cmd.Wait()
	release()
	if ctx.Err() != nil {
		return nil, fmt.Errorf("exec in %s: %w", r.Node, context.Cause(ctx))
	}
	code, err := exitStatus(err)
	if err != nil {
		return nil, fmt.Errorf("exec in %s: %w", r.Node, err)
	}
	return &ExecResult{Code: code, Stdout: out.String(), Stderr: errs.String()}, nil
}

// capped writes the first bytes and swallows the rest.
type capped struct {
	w    io.Writer
	left int
}

func (c *capped) Write(p []byte) (int, error) {
	n := min(len(p), c.left)
	c.left -= n
	if _, err := c.w.Write(p[:n]); err != nil {
		return 0, err
	}
	return len(p), nil
}

// hangUp signals a process group.
func hangUp(pid int, sig syscall.Signal) { _ = syscall.Kill(-pid, sig) }

// exitStatus turns the result of Wait into an exit code as shells give it:
// 128 + signal for a killed process.
func exitStatus(err error) (int, error) {
	var exit *exec.ExitError
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return 0, nil
	case errors.As(err, &exit):
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return 128 + int(ws.Signal()), nil
		}
		return exit.ExitCode(), nil
	}
	return 0, err
}

// execStream runs a process whose streams are frames on conn, and returns
// when it has ended and all was sent, or the client hung up.
func (l *Lab) execStream(ctx context.Context, f *fabric.Fabric, cmd *exec.Cmd, r ExecRequest, in io.Reader, conn io.Writer) {
	out := &frameWriter{w: conn}
	var (
		s   *session
		err error
	)
	if r.TTY {
		s, err = startOnTerminal(f, cmd, r, out)
	} else {
		s, err = startOnPipes(f, cmd, r, out)
	}
	if err != nil {
		_ = out.write(frameError, []byte(fmt.Sprintf("exec in %s: %v", r.Node, err)))
		return
	}
	gone := make(chan struct{})
	go func() { // ends when the connection does, which the caller closes
		defer close(gone)
		s.feed(in)
	}()
	code, err := s.wait(ctx, gone)
	if err != nil {
		_ = out.write(frameError, []byte(fmt.Sprintf("exec in %s: %v", r.Node, err)))
		return
	}
	_ = out.write(frameExit, binary.BigEndian.AppendUint32(nil, uint32(int32(code))))
}

// session is one process with a client.
type session struct {
	cmd      *exec.Cmd
	terminal bool
	stdin    io.WriteCloser
	resize   func(rows, cols uint16)
	output   func() // waits until all output was sent, and lets go of the terminal
}

func startOnPipes(f *fabric.Fabric, cmd *exec.Cmd, r ExecRequest, out *frameWriter) (*session, error) {
	cmd.Stdout, cmd.Stderr = out.stream(frameStdout), out.stream(frameStderr)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := f.Start(r.Node, cmd); err != nil {
		return nil, err
	}
	return &session{cmd: cmd, stdin: stdin, resize: func(_, _ uint16) {}, output: func() {}}, nil
}

func startOnTerminal(f *fabric.Fabric, cmd *exec.Cmd, r ExecRequest, out *frameWriter) (*session, error) {
	master, tty, err := pty.Open()
	if err != nil {
		return nil, fmt.Errorf("open a terminal: %w", err)
	}
	defer tty.Close()
	resize := func(rows, cols uint16) { _ = pty.Setsize(master, &pty.Winsize{Rows: rows, Cols: cols}) }
	if r.Rows > 0 && r.Cols > 0 {
		resize(r.Rows, r.Cols)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := f.Start(r.Node, cmd); err != nil {
		master.Close()
		return nil, err
	}
	var pump sync.WaitGroup
	pump.Add(1)
	go func() {
		defer pump.Done()
		// Ends with EIO when the last process on the terminal is gone.
		_, _ = io.Copy(out.stream(frameStdout), master)
	}()
	output := func() {
		// A background job may hold the terminal: give it as long as a pipe.
		t := time.AfterFunc(pipeGrace, func() { master.Close() })
		pump.Wait()
		t.Stop()
		master.Close()
	}
	return &session{cmd: cmd, terminal: true, stdin: master, resize: resize, output: output}, nil
}

// feed hands the client's frames to the process until the connection ends.
func (s *session) feed(in io.Reader) {
	open := true
	for {
		t, p, err := readFrame(in)
		if err != nil {
			return
		}
		switch {
		case t == frameStdin && len(p) == 0 && open:
			open = false
			if s.terminal { // it has no end of input, but a key for it
				_, _ = s.stdin.Write([]byte{4}) // ^D
			} else {
				_ = s.stdin.Close()
			}
		case t == frameStdin && open:
			if _, err := s.stdin.Write(p); err != nil {
				open = false // the process closed its input; its output still counts
			}
		case t == frameSignal && len(p) == 1:
			hangUp(s.cmd.Process.Pid, syscall.Signal(p[0]))
		case t == frameResize && len(p) == 4:
			s.resize(binary.BigEndian.Uint16(p), binary.BigEndian.Uint16(p[2:]))
		}
	}
}

// wait ends with the process. A client that hangs up, or ctx, ends the
// process: by SIGHUP, as a terminal would, then by SIGKILL.
func (s *session) wait(ctx context.Context, gone <-chan struct{}) (int, error) {
	done := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-done:
			return
		case <-gone:
		case <-ctx.Done():
		}
		hangUp(s.cmd.Process.Pid, syscall.SIGHUP)
		t := time.NewTimer(hangUpGrace)
		defer t.Stop()
		select {
		case <-done:
		case <-t.C:
			hangUp(s.cmd.Process.Pid, syscall.SIGKILL)
		}
	}()
	err := s.cmd.Wait()
	close(done)
	<-watched
	s.output()
	return exitStatus(err)
}
