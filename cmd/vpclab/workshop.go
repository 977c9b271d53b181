package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// workshop is a temporary folder in which revisions of vpclab are built and
// run. Its name tells whose it is, so that one whose process was killed is
// known for that and removed by the next.
type workshop struct {
	repo string // top of the working tree
	dir  string
}

// workshopPrefix is followed by the process's number and its start.
const workshopPrefix = "vpclab-ab."

// stopIn is how long an interrupted command may take to clean up.
const stopIn = 60 * time.Second

// openWorkshop makes the folder, after it has removed those of the dead.
func openWorkshop(ctx context.Context) (*workshop, error) {
	w := &workshop{}
	top, err := w.output(ctx, "", "git", "rev-parse", "--show-toplevel")
	if err != nil {
		return nil, usageError{fmt.Errorf("ab needs a git repository of vpclab around it: %w", err)}
	}
	w.repo = top
	w.sweep(ctx)
	started, err := processStart(os.Getpid())
	if err != nil {
		return nil, err
	}
	w.dir = filepath.Join(os.TempDir(), fmt.Sprintf("%s%d.%s", workshopPrefix, os.Getpid(), started))
	return w, os.Mkdir(w.dir, 0o700)
}

// close removes the folder and what git knows of it.
func (w *workshop) close() {
	_ = os.RemoveAll(w.dir) // what cannot be removed now the next sweep tries again
	ctx, cancel := context.WithTimeout(context.Background(), stopIn)
	defer cancel()
	_, _ = w.output(ctx, w.repo, "git", "worktree", "prune")
}

// sweep removes the folders of processes that are no more.
func (w *workshop) sweep(ctx context.Context) {
	left, _ := filepath.Glob(filepath.Join(os.TempDir(), workshopPrefix+"*"))
	for _, dir := range left {
		pid, started, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), workshopPrefix), ".")
		n, err := strconv.Atoi(pid)
		if err != nil {
			continue
		}
		if now, err := processStart(n); err == nil && now == started {
			continue
		}
		_ = os.RemoveAll(dir) // another user's stays
	}
	_, _ = w.output(ctx, w.repo, "git", "worktree", "prune")
}

// processStart is when a process began, in ticks since the machine did: with
// its number it names the process for good. See proc(5), field 22 of stat.
func processStart(pid int) (string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	_, rest, _ := strings.Cut(string(text), ") ") // a name may hold spaces
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return "", fmt.Errorf("/proc/%d/stat: %d fields", pid, len(fields))
	}
	return fields[19], nil
}

// abSide is one revision, built.
type abSide struct {
	shop    *workshop
	name    string // old | new
	rev     string // as the user said it
	version string // as git describes it
	program string
	runs    int
}

// build makes the program of a revision; "." is the working tree.
func (w *workshop) build(ctx context.Context, name, rev string) (*abSide, error) {
	s := &abSide{shop: w, name: name, rev: rev, program: filepath.Join(w.dir, "vpclab-"+name)}
	tree := w.repo
	if rev == "." {
		var err error
		if s.version, err = w.output(ctx, tree, "git", "describe", "--tags", "--always", "--dirty"); err != nil {
			return nil, err
		}
	} else {
		commit, err := w.output(ctx, w.repo, "git", "rev-parse", "--verify", "--quiet", rev+"^{commit}")
		if err != nil {
			return nil, usageError{fmt.Errorf("--%s %s: there is no such revision", name, rev)}
		}
		if s.version, err = w.output(ctx, w.repo, "git", "describe", "--tags", "--always", commit); err != nil {
			return nil, err
		}
		tree = filepath.Join(w.dir, name)
		if err := w.do(ctx, w.repo, nil, "git", "worktree", "add", "--quiet", "--detach", tree, commit); err != nil {
			return nil, err
		}
	}
	err := w.do(ctx, tree, []string{"CGO_ENABLED=0"}, "go", "build", "-trimpath", "-ldflags", "-s -w -X main.version="+s.version, "-o", s.program, "./cmd/vpclab")
	if err != nil {
		return nil, fmt.Errorf("build %s (%s): %w", rev, s.version, err)
	}
	return s, nil
}

// commandError is a command that failed, with the end of what it said.
type commandError struct {
	what string
	code int
	said string
	err  error
}

func (e *commandError) Error() string {
	text := fmt.Sprintf("%s: %v", e.what, e.err)
	if e.said != "" {
		text += "\n" + e.said
	}
	return text
}

func (e *commandError) Unwrap() error { return e.err }

// do runs a command and waits for it.
func (w *workshop) do(ctx context.Context, dir string, env []string, name string, args ...string) error {
	_, err := w.command(ctx, dir, env, name, args...)
	return err
}

// output runs a command and gives what it printed.
func (w *workshop) output(ctx context.Context, dir, name string, args ...string) (string, error) {
	return w.command(ctx, dir, nil, name, args...)
}

// command runs a command that ends when we end, however that is: by a signal
// after which it can clean up where the context is done, and by the kernel's
// where we were killed. The kernel sends that when the thread that started the
// command is gone, so that one is kept.
func (w *workshop) command(ctx context.Context, dir string, env []string, name string, args ...string) (string, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopIn
	err := cmd.Run()
	if err == nil {
		return strings.TrimSpace(out.String()), nil
	}
	if cause := context.Cause(ctx); cause != nil {
		return "", fmt.Errorf("%s: %w", name, cause)
	}
	failed := &commandError{what: strings.Join(append([]string{filepath.Base(name)}, args...), " "), code: -1, said: lastLines(said.String()+out.String(), 12), err: err}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		failed.code = exit.ExitCode()
	}
	return "", failed
}

// lastLines is the end of what a command said, indented.
func lastLines(text string, most int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if len(lines) > most {
		lines = lines[len(lines)-most:]
	}
	return "  " + strings.Join(lines, "\n  ")
}
