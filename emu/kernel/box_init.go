package kernel

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// boxInit is what the variable envInit says to process 1 of a closed box.
const boxInit = "box"

// Kinds of frames that a box says beside those of exec.go.
const (
	frameLetter = 'l' // part of a letter, see Post
	frameTick   = 't' // the box is alive; no body
)

// boxOut is the body of a box's exit frame.
type boxOut struct {
	execResult
	Virtual int64    `json:"virtual"` // ns since the kernel's start
	Release string   `json:"release"`
	Without []string `json:"without,omitempty"`
}

// boxMain is the life of process 1 in a closed box. What goes wrong before the
// command starts is told as an exit, too.
func boxMain() {
	out := &framer{w: portWriter(boxPort)}
	var last boxOut
	if err := runBoxed(out, &last); err != nil {
		last.Code, last.Error = -1, err.Error()
	}
	last.Virtual = int64(sinceStart())
	last.Release = hostRelease()
	if err := out.sendJSON(frameExit, last); err != nil {
		fmt.Fprintln(os.Stderr, "vpclab init:", err)
	}
}

// sinceStart is the time since the kernel began, its own sleep included.
func sinceStart() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // cannot fail
	return time.Duration(ts.Nano())
}

// runBoxed makes the kernel ready and runs the command.
func runBoxed(out *framer, last *boxOut) error {
	data, err := os.ReadFile(boxOrdersPath)
	if err != nil {
		return fmt.Errorf("orders: %w", err)
	}
	var o boxOrders
	if err := json.Unmarshal(data, &o); err != nil {
		return fmt.Errorf("orders: %w", err)
	}
	if err := mountBox(); err != nil {
		return err
	}
	without, err := settle(o.Hostname, o.Modules)
	if err != nil {
		return err
	}
	last.Without = append(o.Without, without...)
	os.Clearenv()
	stop := tick(out, time.Duration(o.Tick))
	defer stop()
	last.Code, err = runCommand(o, out)
	return err
}

// mountBox puts the kernel's own file systems into the root, which is memory as
// it is: what was packed under /tmp and /run stays to be seen.
func mountBox() error {
	for _, m := range []struct{ fstype, target, data string }{
		{"proc", "/proc", ""},
		{"sysfs", "/sys", ""},
		{"devtmpfs", "/dev", ""},
	} {
		if err := unix.Mount(m.fstype, m.target, m.fstype, unix.MS_NOSUID, m.data); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s on %s: %w", m.fstype, m.target, err)
		}
	}
	if err := mountDev(); err != nil {
		return err
	}
	return mountNames()
}

// tick says again and again that the box is alive.
func tick(out *framer, every time.Duration) (stop func()) {
	t := time.NewTicker(every)
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-t.C:
			case <-done:
				return
			}
			_ = out.send(frameTick, nil)
		}
	})
	return func() {
		t.Stop()
		close(done)
		wg.Wait()
	}
}

// boxPost is the file on which the command finds the way for its letters.
const boxPost = 3

// runCommand runs the command with its output and its letters going out.
func runCommand(o boxOrders, out *framer) (int, error) {
	cmd := exec.Command(o.Argv[0], o.Argv[1:]...)
	cmd.Env, cmd.Dir = o.Env, o.Dir
	cmd.Stdout, cmd.Stderr = out.stream(frameOut), out.stream(frameErr)
	cmd.WaitDelay = 2 * time.Second // for what it left behind that holds its output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	passed := func() error { return nil }
	if o.Post {
		letters, theirs, err := os.Pipe()
		if err != nil {
			return -1, err
		}
		defer theirs.Close()
		cmd.ExtraFiles = []*os.File{theirs} // becomes boxPost
		passed = passLetters(letters, out)
		defer func() { _ = passed() }()
	}
	err := cmd.Start()
	for _, f := range cmd.ExtraFiles {
		f.Close()
	}
	if err == nil {
		err = cmd.Wait()
	}
	code, err := exitOf(err)
	if err != nil {
		return code, fmt.Errorf("run %s: %w", o.Argv[0], err)
	}
	if err := passed(); err != nil {
		return -1, fmt.Errorf("letters of %s: %w", o.Argv[0], err)
	}
	return code, nil
}

// passLetters sends on what comes through the pipe, until its other end has no
// owner left; passed waits for that.
func passLetters(pipe *os.File, out *framer) (passed func() error) {
	end := make(chan struct{})
	var lost error
	go func() {
		defer close(end)
		defer pipe.Close()
		for r := bufio.NewReaderSize(pipe, 64<<10); ; {
			kind, body, err := readFrame(r)
			if err == nil {
				err = out.send(kind, body)
			}
			if err != nil {
				if !errors.Is(err, io.EOF) {
					lost = err
				}
				return
			}
		}
	}()
	return func() error { <-end; return lost }
}
