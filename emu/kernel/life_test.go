package kernel

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// These tests kill the parts of a running kernel in every way and look at the
// process table and the folders afterwards.

// launcherMain is a launcher to be killed: it boots, says its warden's process
// id and where its scratch folder is, and waits for its end.
func launcherMain() int {
	isolation = os.Getenv("VPCLAB_TEST_ISOLATION") != "off"
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	cfg := Config{Substrate: Substrate(os.Getenv("VPCLAB_TEST_SUBSTRATE")), Dir: os.Getenv("VPCLAB_TEST_DIR")}
	cfg.Memory = smallMemory(cfg.Substrate)
	if os.Getenv("VPCLAB_TEST_LAUNCHER") == "boot" { // to be killed while it boots
		fmt.Println("booting")
	}
	m, err := Start(ctx, cfg)
	if err != nil {
		fmt.Println("error", err)
		return 1
	}
	fmt.Println("ready")
	<-m.Done()
	return 0
}

// launcher is a launcherMain in a process of its own.
type launcher struct {
	cmd *exec.Cmd
	out *bufio.Reader
	dir string
}

// startLauncher starts one and waits for the word.
func startLauncher(t *testing.T, s Substrate, mode, word string, env ...string) *launcher {
	t.Helper()
	needKernel(t, s)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	l := &launcher{cmd: exec.Command(self), dir: t.TempDir()}
	l.cmd.Env = append(os.Environ(), "VPCLAB_TEST_LAUNCHER="+mode, "VPCLAB_TEST_DIR="+l.dir, "VPCLAB_TEST_SUBSTRATE="+string(s))
	l.cmd.Env = append(l.cmd.Env, env...)
	l.cmd.Stderr = os.Stderr
	out, err := l.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = l.cmd.Process.Kill()
		_ = l.cmd.Wait()
	})
	l.out = bufio.NewReader(out)
	line, err := l.out.ReadString('\n')
	if err != nil || strings.TrimSpace(line) != word {
		t.Fatalf("launcher said %q (%v), want %q", line, err, word)
	}
	return l
}

// processes lists the ids of those that belong to the kernel in dir: its own by
// their command line, the warden by its program, which lies there.
func processes(t *testing.T, dir string) []int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		cmdline, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		exe, _ := os.Readlink(filepath.Join("/proc", e.Name(), "exe"))
		if strings.Contains(string(cmdline), dir) || strings.HasPrefix(exe, dir) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// pidfds opens handles by which the end of processes can be waited for.
func pidfds(t *testing.T, pids []int) map[int]int {
	t.Helper()
	fds := map[int]int{}
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		fds[pid] = fd
		t.Cleanup(func() { unix.Close(fd) })
	}
	return fds
}

// awaitEnds waits until all processes have ended.
func awaitEnds(t *testing.T, fds map[int]int, limit time.Duration) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for pid, fd := range fds {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for {
			n, err := unix.Poll(poll, int(max(0, time.Until(deadline).Milliseconds())))
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
				t.Errorf("process %d still runs after %v: %q", pid, limit, cmdline)
				_ = unix.Kill(pid, unix.SIGKILL)
			}
			break
		}
	}
}

// wardenOf finds the warden among the processes of a kernel.
func wardenOf(t *testing.T, pids []int) int {
	t.Helper()
	for _, pid := range pids {
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if strings.HasPrefix(string(cmdline), "vpclab-warden") {
			return pid
		}
	}
	t.Fatalf("no warden among %v", pids)
	return 0
}

// lifeLimit is how long the rests of a kernel may take to go: the warden's
// grace and a loaded machine.
const lifeLimit = wardenGrace + 7*time.Second

func checkGone(t *testing.T, dir string) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(dir, scratchName)); !os.IsNotExist(err) {
		t.Errorf("%s is still there (%v)", filepath.Join(dir, scratchName), err)
	}
	if left := processes(t, dir); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
}

// eachLife does a test for each kind of kernel, with and without a PID namespace;
// QEMU is one process, and needs none.
func eachLife(t *testing.T, test func(t *testing.T, s Substrate, isolated string)) {
	for _, s := range []Substrate{UML, QEMU} {
		for _, isolated := range []string{"on", "off"} {
			if s == QEMU && isolated == "on" {
				continue
			}
			t.Run(fmt.Sprintf("%s, isolation %s", s, isolated), func(t *testing.T) { test(t, s, isolated) })
		}
	}
}

// eachKernel does a test for each kind of kernel.
func eachKernel(t *testing.T, test func(t *testing.T, s Substrate)) {
	for _, s := range []Substrate{UML, QEMU} {
		t.Run(string(s), func(t *testing.T) { test(t, s) })
	}
}

func TestLauncherKilled(t *testing.T) {
	eachLife(t, func(t *testing.T, s Substrate, isolated string) {
		l := startLauncher(t, s, "run", "ready", "VPCLAB_TEST_ISOLATION="+isolated)
		pids := processes(t, l.dir)
		if len(pids) < 2 {
			t.Fatalf("a running kernel has only the processes %v", pids)
		}
		fds := pidfds(t, pids)
		began := time.Now()
		_ = l.cmd.Process.Kill()
		awaitEnds(t, fds, lifeLimit)
		t.Logf("%d processes gone after %v", len(fds), time.Since(began))
		checkGone(t, l.dir)
	})
}

func TestLauncherKilledWhileBooting(t *testing.T) {
	l := startLauncher(t, UML, "boot", "booting")
	// Any moment after its first processes are there will do.
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(lifeLimit)
	var pids []int
	for len(pids) < 2 {
		select {
		case <-tick.C:
			pids = processes(t, l.dir)
		case <-deadline:
			t.Fatal("no kernel came up")
		}
	}
	fds := pidfds(t, pids)
	_ = l.cmd.Process.Kill()
	awaitEnds(t, fds, lifeLimit)
	awaitEnds(t, pidfds(t, processes(t, l.dir)), lifeLimit)
	checkGone(t, l.dir)
}

func TestWardenKilled(t *testing.T) {
	eachLife(t, func(t *testing.T, s Substrate, isolated string) {
		isolation = isolated == "on"
		defer func() { isolation = true }()
		dir := t.TempDir()
		m := boot(t, Config{Substrate: s, Dir: dir})
		pids := processes(t, dir)
		fds := pidfds(t, pids)
		_ = unix.Kill(wardenOf(t, pids), unix.SIGKILL)
		awaitEnds(t, fds, lifeLimit)
		select {
		case <-m.Done():
		case <-time.After(lifeLimit):
			t.Fatal("the machine did not notice")
		}
		if m.Err() == nil || !strings.Contains(m.Err().Error(), "warden") {
			t.Errorf("Err is %v, want word of the warden", m.Err())
		}
		checkGone(t, dir)
	})
}

func TestLauncherAndWardenKilled(t *testing.T) {
	eachLife(t, func(t *testing.T, s Substrate, isolated string) {
		l := startLauncher(t, s, "run", "ready", "VPCLAB_TEST_ISOLATION="+isolated)
		pids := processes(t, l.dir)
		fds := pidfds(t, pids)
		warden := wardenOf(t, pids)
		_ = unix.Kill(warden, unix.SIGSTOP) // so that it cannot act in between
		_ = l.cmd.Process.Kill()
		_ = unix.Kill(warden, unix.SIGKILL)
		awaitEnds(t, fds, lifeLimit)
		// Nobody was left to clear the folder; the next start there does,
		// as soon as the machine's kernel has let go of the dead ones' lock.
		again, err := newScratch(l.dir)
		for until := time.Now().Add(lifeLimit); errors.Is(err, errInUse) && time.Now().Before(until); {
			again, err = newScratch(l.dir)
		}
		if err != nil {
			t.Fatalf("the folder cannot be used again: %v", err)
		}
		again.remove()
		checkGone(t, l.dir)
	})
}

func TestKernelKilled(t *testing.T) {
	eachKernel(t, func(t *testing.T, s Substrate) {
		dir := t.TempDir()
		m := boot(t, Config{Substrate: s, Dir: dir})
		pids := processes(t, dir)
		fds := pidfds(t, pids)
		for _, pid := range pids {
			cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			if strings.Contains(string(cmdline), envInit+"=") { // its own command line
				_ = unix.Kill(pid, unix.SIGKILL)
				break
			}
		}
		awaitEnds(t, fds, lifeLimit)
		<-m.Done()
		if m.Err() == nil || !strings.Contains(m.Err().Error(), "SIGKILL") {
			t.Errorf("Err is %v, want SIGKILL", m.Err())
		}
		checkGone(t, dir)
	})
}

func TestKernelPanic(t *testing.T) {
	eachKernel(t, func(t *testing.T, s Substrate) {
		dir := t.TempDir()
		m := boot(t, Config{Substrate: s, Dir: dir})
		fds := pidfds(t, processes(t, dir))
		conn, err := m.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		// The kernel may be gone before the write is known to have gone through.
		_, _ = fmt.Fprintf(conn, "%-8s", "panic")
		awaitEnds(t, fds, lifeLimit)
		<-m.Done()
		if m.Err() == nil || !strings.Contains(m.Err().Error(), "Kernel panic") {
			t.Errorf("Err does not tell of the panic: %v", m.Err())
		}
		log, err := os.ReadFile(filepath.Join(dir, "console.log"))
		if err != nil || !strings.Contains(string(log), "Kernel panic") {
			t.Errorf("console.log does not tell of the panic: %v\n%s", err, log)
		}
		checkGone(t, dir)
	})
}

func TestServeFails(t *testing.T) {
	needUML(t)
	m, err := Start(t.Context(), Config{Substrate: UML, Memory: 192 << 20, InitArgs: []string{"fail", "loudly"}})
	if err == nil {
		<-m.Done()
		err = m.Err()
	}
	if err == nil || !strings.Contains(err.Error(), "asked to fail: [loudly]") {
		t.Errorf("got %v, want the serve function's error", err)
	}
}

func TestBootInterrupted(t *testing.T) {
	needUML(t)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	booting := newWatchWriter(func() { cancel() })
	_, err := Start(ctx, Config{Substrate: UML, Memory: 192 << 20, Dir: dir, Log: booting})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	checkGone(t, dir)
}

// watchWriter calls back on the first write.
type watchWriter struct{ first func() }

func newWatchWriter(f func()) io.Writer { return &watchWriter{f} }

func (w *watchWriter) Write(p []byte) (int, error) {
	w.first()
	return len(p), nil
}

func TestFolderInUse(t *testing.T) {
	dir := t.TempDir()
	boot(t, Config{Dir: dir})
	_, err := Start(t.Context(), Config{Substrate: UML, Memory: 192 << 20, Dir: dir})
	if !errors.Is(err, errInUse) {
		t.Errorf("a second kernel in the same folder: %v, want %v", err, errInUse)
	}
}

func TestSweepKeepsTheLiving(t *testing.T) {
	root := t.TempDir()
	living, err := claimScratch(filepath.Join(root, "living"))
	if err != nil {
		t.Fatal(err)
	}
	defer living.remove()
	dead, err := claimScratch(filepath.Join(root, "dead"))
	if err != nil {
		t.Fatal(err)
	}
	dead.lock.Close()
	sweep(root)
	if _, err := os.Stat(living.dir); err != nil {
		t.Errorf("the living one was swept: %v", err)
	}
	if _, err := os.Stat(dead.dir); !os.IsNotExist(err) {
		t.Errorf("the dead one was not swept: %v", err)
	}
}
