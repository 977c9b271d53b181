package frr

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Deadlines of one daemon. A start costs half a second of CPU in User Mode
// Linux, and there may be dozens at once.
const (
	startDeadline = 60 * time.Second
	tellDeadline  = 30 * time.Second
	stopDeadline  = 5 * time.Second
)

// startedMark is in the line that a daemon logs once its vty can be dialled.
const startedMark = " starting: "

// maxFiles bounds the files of a daemon, for each of which it reserves memory.
const maxFiles = 1024

// daemon is one process of FRR's and what it was told.
type daemon struct {
	name   string
	socket string
	cmd    *exec.Cmd
	log    *logLines
	done   chan struct{} // closed when the process has ended
	err    error         // valid after done: how it ended

	told []block // by its router alone
	conf *vty    // likewise

	asking sync.Mutex
	ask    *vty // for questions; dialled by the first
}

// startDaemon starts a daemon in dir and returns when it answers. The lines
// that it logs go to heed.
func startDaemon(ctx context.Context, in *Install, dir, name string, heed func(line string)) (*daemon, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startDeadline, fmt.Errorf("waited %v for its vty", startDeadline))
	defer cancel()
	d := &daemon{name: name, socket: filepath.Join(dir, name+".vty"), done: make(chan struct{})}
	up := make(chan struct{})
	d.log = &logLines{started: sync.OnceFunc(func() { close(up) }), heed: heed}
	d.cmd = exec.Command(filepath.Join(in.Daemons, name), arguments(dir, name)...)
	d.cmd.Env = append(os.Environ(), in.env()...)
	d.cmd.Dir = dir
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	d.cmd.WaitDelay = stopDeadline // children of ldpd hold the pipe
	if err := d.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		d.err = d.cmd.Wait()
		close(d.done)
	}()
	select {
	case <-up:
	case <-d.done:
		return nil, fmt.Errorf("start %s: it ended at once: %s", name, d.ending())
	case <-ctx.Done():
		d.kill()
		return nil, fmt.Errorf("start %s: %w%s", name, context.Cause(ctx), d.log.quote())
	}
	var err error
	if d.conf, err = dialVTY(ctx, name, d.socket); err != nil {
		d.kill()
		return nil, fmt.Errorf("start %s: %w%s", name, err, d.log.quote())
	}
	return d, nil
}

// arguments of a daemon: all its files in dir, its log on standard output, no
// port for telnet, and no change of user (the users file of mounts.go says
// that root may).
func arguments(dir, name string) []string {
	args := []string{
		"--user", "root", "--group", "root",
		"--config_file", os.DevNull, "--pid_file", filepath.Join(dir, name+".pid"),
		"--vty_socket", dir, "--socket", filepath.Join(dir, "zserv.api"),
		"--vty_port", "0", "--limit-fds", fmt.Sprint(maxFiles),
		"--log", "stdout", "--log-level", "info",
	}
	switch name {
	case bgpd:
		// It dials the reflector. To listen it would open a port in each VRF
		// too, where the tenants are.
		args = append(args, "--bgp_port", "0")
	case ldpd:
		args = append(args, "--ctl_socket", dir)
	}
	return args
}

// tell converges the daemon to a configuration. One that was refused is not
// recorded: whoever tells it again has it tried again.
func (d *daemon) tell(ctx context.Context, want []block) error {
	ctx, cancel := context.WithTimeoutCause(ctx, tellDeadline, fmt.Errorf("waited %v for an answer", tellDeadline))
	defer cancel()
	commands := changes(d.told, want)
	err := d.conf.configure(ctx, commands)
	for early(err) {
		select {
		case <-time.After(earlyAgain):
			err = d.conf.configure(ctx, commands)
			continue
		case <-ctx.Done():
		case <-d.done:
		}
		break
	}
	if err == nil {
		d.told = want
		return nil
	}
	select {
	case <-d.done: // that is why
		return fmt.Errorf("%w; %s ended: %s", err, d.name, d.ending())
	default:
		return err
	}
}

// earlyAgain is how soon a command is given again that came too early.
const earlyAgain = 20 * time.Millisecond

// early tells that staticd has refused a label because it has not heard from zebra
// yet what the kernel can do. Nobody is told when it has.
func early(err error) bool {
	return err != nil && strings.Contains(err.Error(), "MPLS not turned on in kernel")
}

// question asks the daemon something and returns the answers, one a command.
func (d *daemon) question(ctx context.Context, commands ...string) ([]string, error) {
	if len(commands) == 0 {
		return nil, nil
	}
	d.asking.Lock()
	defer d.asking.Unlock()
	if d.ask == nil {
		v, err := dialVTY(ctx, d.name, d.socket)
		if err != nil {
			return nil, err
		}
		d.ask = v
	}
	texts, err := d.ask.run(ctx, commands...)
	if err != nil {
		d.ask.close() // it may be in the middle of an answer
		d.ask = nil
	}
	return texts, err
}

// terminate asks the process to end and sees that it does.
func (d *daemon) terminate() error {
	_ = d.cmd.Process.Signal(unix.SIGTERM) // it may have ended
	t := time.NewTimer(stopDeadline)
	defer t.Stop()
	var err error
	select {
	case <-d.done:
	case <-t.C:
		err = fmt.Errorf("stop %s: still running after %v, killed", d.name, stopDeadline)
		d.kill()
	}
	d.hangUp()
	return err
}

// kill ends the process at once and waits for its end.
func (d *daemon) kill() {
	_ = d.cmd.Process.Kill()
	<-d.done
	d.hangUp()
}

func (d *daemon) hangUp() {
	if d.conf != nil {
		d.conf.close()
	}
	d.asking.Lock()
	defer d.asking.Unlock()
	if d.ask != nil {
		d.ask.close()
		d.ask = nil
	}
}

// ending says how a process that is done ended, and its last words.
func (d *daemon) ending() string {
	how := "exit status 0"
	if d.err != nil && !errors.Is(d.err, exec.ErrWaitDelay) {
		how = d.err.Error()
	}
	return how + d.log.quote()
}

// logLines takes what a daemon logs, line by line, and keeps the last ones.
type logLines struct {
	started func()
	heed    func(line string)

	mu   sync.Mutex
	part []byte
	last []string
}

// keptLines is how many lines of a daemon an error quotes.
const keptLines = 12

func (l *logLines) Write(p []byte) (int, error) {
	for _, line := range l.take(p) {
		if strings.Contains(line, startedMark) {
			l.started()
		}
		l.heed(line)
	}
	return len(p), nil
}

// take files what came and returns the lines that are complete.
func (l *logLines) take(p []byte) (lines []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.part = append(l.part, p...)
	for {
		line, rest, whole := bytes.Cut(l.part, []byte{'\n'})
		if !whole {
			break
		}
		lines = append(lines, string(line))
		l.part = append(l.part[:0], rest...)
	}
	l.last = append(l.last, lines...)
	l.last = append([]string(nil), l.last[max(0, len(l.last)-keptLines):]...)
	return lines
}

func (l *logLines) quote() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.last) == 0 {
		return ""
	}
	return ": " + strings.Join(l.last, "\n  ")
}
