package kernel

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The warden is this same program in a second process between the launcher
// and User Mode Linux. It exists because a kernel that runs as an ordinary
// process leaves processes behind when it is killed: one a process of the
// guest, and those go on, on this machine, once nobody traces them any more.
// So the warden is process 1 of a PID namespace where that can be had: its end,
// however it comes, is the end of everything in it. Elsewhere it kills the
// kernel's process group.
//
// Its standard input is the life line: a pipe whose only writer is the
// launcher. Reading end of file from it means the launcher is gone.

// Environment variables that tell this program its role.
const (
	envInit   = "VPCLAB_INIT"
	envWarden = "VPCLAB_WARDEN"
)

// wardenOrders is the first line on the warden's standard input.
type wardenOrders struct {
	Argv    []string `json:"argv"`
	Env     []string `json:"env"`
	Scratch string   `json:"scratch"` // removed at the end
	Console string   `json:"console"` // log file
	Single  bool     `json:"single"`  // the kernel is one process, which can die with the warden
	Steady  bool     `json:"steady"`  // see steady.go
	Held    int      `json:"held"`    // files from wardenHeld on that all its processes keep open
}

// killNow on the life line ends the kernel without grace.
const killNow = 'k'

// wardenGrace is how long a kernel may take to power itself off once its
// control channel is gone.
const wardenGrace = 3 * time.Second

// wardenNews is what the warden writes, one a line, on its status pipe.
type wardenNews struct {
	PID     int    `json:"pid,omitempty"`     // the kernel was started
	Console string `json:"console,omitempty"` // what it printed
	Exit    string `json:"exit,omitempty"`    // how it ended
	Error   string `json:"error,omitempty"`   // it could not be started
	// Unsteady says why the threads of a box could not be arranged.
	Unsteady string `json:"unsteady,omitempty"`
}

// Files that the launcher hands to the warden.
const (
	wardenChannel = 3 // the kernel's end of the control channel
	wardenStatus  = 4
	wardenLock    = 5 // keeps the scratch folder's lock
	wardenHeld    = 6 // and others: Config.Held
)

// warden is the process that looks after one kernel.
type warden struct {
	orders wardenOrders
	status *os.File
	mu     sync.Mutex // guards status
	group  int        // process group of the kernel
}

// wardenMain is the warden's life; it returns its exit code.
func wardenMain() int {
	os.Unsetenv(envWarden)
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE, unix.SIGTSTP)
	// Without a PID namespace, orphans of the kernel come to us all the same.
	_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	for _, fd := range []int{wardenChannel, wardenStatus, wardenLock} {
		unix.CloseOnExec(fd)
	}
	w := &warden{status: os.NewFile(wardenStatus, "status")}
	life := json.NewDecoder(os.Stdin)
	if err := life.Decode(&w.orders); err != nil {
		return 1
	}
	lock := os.NewFile(wardenLock, "lock")
	defer removeScratch(w.orders.Scratch, lock)
	console, err := w.start()
	if err != nil {
		w.tell(wardenNews{Error: err.Error()})
		return 1
	}
	var copying sync.WaitGroup
	copying.Go(func() { w.copyConsole(console) })
	go w.watchLauncher(io.MultiReader(life.Buffered(), os.Stdin)) // ends with this process
	how := w.reap()
	copying.Wait()
	removeScratch(w.orders.Scratch, lock)
	w.tell(wardenNews{Exit: how})
	return 0
}

// tell writes one line of news; a dead launcher does not matter.
func (w *warden) tell(n wardenNews) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = json.NewEncoder(w.status).Encode(n)
}

// start runs the kernel in a process group of its own and returns its console.
func (w *warden) start() (*os.File, error) {
	console, out, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer out.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	channel := os.NewFile(wardenChannel, "channel")
	defer channel.Close()
	sys := &syscall.SysProcAttr{Setpgid: true}
	if w.orders.Single {
		// For where the warden has no PID namespace. It is sent when the thread
		// ends that starts the process: the main one, which stays.
		runtime.LockOSThread()
		sys.Pdeathsig = unix.SIGKILL
	}
	pidfd := -1
	if w.orders.Steady {
		sys.PidFD = &pidfd
	}
	p, err := os.StartProcess(w.orders.Argv[0], w.orders.Argv, &os.ProcAttr{
		Dir:   "/",
		Env:   w.orders.Env,
		Files: append([]*os.File{null, out, out, channel}, w.held()...),
		Sys:   sys,
	})
	if err != nil {
		console.Close()
		return nil, err
	}
	w.group = p.Pid
	w.tell(wardenNews{PID: p.Pid})
	if w.orders.Steady {
		go func() {
			if err := steady(p.Pid, pidfd); err != nil {
				w.tell(wardenNews{Unsteady: err.Error()})
			}
		}()
	}
	return console, nil
}

// held are the files that the kernel's processes keep open.
func (w *warden) held() (files []*os.File) {
	for i := range w.orders.Held {
		unix.CloseOnExec(wardenHeld + i)
		files = append(files, os.NewFile(uintptr(wardenHeld+i), "held"))
	}
	return files
}

// copyConsole keeps the kernel's console in the bounded log file and passes it
// on to the launcher.
func (w *warden) copyConsole(console *os.File) {
	defer console.Close()
	log := newConsoleLog(w.orders.Console)
	defer log.Close()
	buf := make([]byte, 8<<10)
	for {
		n, err := console.Read(buf)
		if n > 0 {
			log.Write(buf[:n])
			w.tell(wardenNews{Console: string(buf[:n])})
		}
		if err != nil {
			return
		}
	}
}

// watchLauncher ends the kernel when the launcher dies or says so.
func (w *warden) watchLauncher(life io.Reader) {
	b := make([]byte, 1)
	for {
		_, err := io.ReadFull(life, b)
		if err == nil && b[0] != killNow {
			continue
		}
		if err != nil {
			// The channel was closed with the launcher, so the kernel is
			// powering off; this is for the one that cannot.
			time.AfterFunc(wardenGrace, w.kill)
			return
		}
		w.kill()
	}
}

// kill ends all processes of the kernel at once: a tracer that dies before its
// tracees would set them free.
func (w *warden) kill() {
	_ = unix.Kill(-w.group, unix.SIGKILL)
	if os.Getpid() == 1 {
		_ = unix.Kill(-1, unix.SIGKILL)
	}
}

// reap waits for the kernel and then for everything it left, and says how the
// kernel ended.
func (w *warden) reap() (how string) {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil: // ECHILD: nobody is left
			return how
		case pid == w.group:
			how = describeExit(ws)
			w.kill()
		}
	}
}

func describeExit(ws unix.WaitStatus) string {
	if ws.Signaled() {
		return fmt.Sprintf("killed by %s", unix.SignalName(ws.Signal()))
	}
	if ws.ExitStatus() == 0 {
		return "powered off"
	}
	return fmt.Sprintf("exit status %d", ws.ExitStatus())
}

// wardenProcess is the launcher's view of its warden.
type wardenProcess struct {
	cmd    *exec.Cmd
	life   *os.File // closing it, or dying, ends the kernel
	news   *json.Decoder
	status *os.File
	alone  bool // in a PID namespace of its own
}

// isolation is off in tests that want to see the life without PID namespaces.
var isolation = true

// startWarden starts the warden and gives it its orders. The channel is the
// kernel's end; lock is the scratch folder's, held are the caller's.
func startWarden(self string, o wardenOrders, channel, lock *os.File, held ...*os.File) (*wardenProcess, error) {
	o.Held = len(held)
	files := append([]*os.File{lock}, held...)
	if !isolation {
		return tryWarden(self, o, channel, files, false)
	}
	w, err := tryWarden(self, o, channel, files, true)
	if err != nil {
		// No PID namespace for us (a container, or user namespaces are off).
		w, err = tryWarden(self, o, channel, files, false)
	}
	if err != nil {
		return nil, fmt.Errorf("start the warden: %w", err)
	}
	return w, nil
}

func tryWarden(self string, o wardenOrders, channel *os.File, files []*os.File, alone bool) (*wardenProcess, error) {
	lifeR, life, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer lifeR.Close()
	status, statusW, err := os.Pipe()
	if err != nil {
		life.Close()
		return nil, err
	}
	defer statusW.Close()
	cmd := exec.Command(self)
	cmd.Args = []string{"vpclab-warden"}
	cmd.Env = append(withoutEnv(os.Environ(), envInit), envWarden+"=1")
	cmd.Dir = "/"
	cmd.Stdin = lifeR
	cmd.ExtraFiles = append([]*os.File{channel, statusW}, files...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if alone {
		isolate(cmd.SysProcAttr)
	}
	if err := cmd.Start(); err != nil {
		life.Close()
		status.Close()
		return nil, err
	}
	w := &wardenProcess{cmd: cmd, life: life, status: status, news: json.NewDecoder(status), alone: alone}
	if err := json.NewEncoder(life).Encode(o); err != nil {
		w.abandon()
		return nil, err
	}
	return w, nil
}

// isolate asks for a PID namespace, and for a user namespace where that is the
// only way to get one; our user stays who it is.
func isolate(a *syscall.SysProcAttr) {
	a.Cloneflags = syscall.CLONE_NEWPID
	if os.Geteuid() == 0 {
		return
	}
	a.Cloneflags |= syscall.CLONE_NEWUSER
	a.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}}
	a.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}}
}

// abandon ends a warden that never got its orders.
func (w *wardenProcess) abandon() {
	w.life.Close()
	_ = w.cmd.Process.Kill()
	_ = w.cmd.Wait()
	w.status.Close()
}

// kill ends the kernel now. The warden goes after it.
func (w *wardenProcess) kill() { _, _ = w.life.Write([]byte{killNow}) }

// withoutEnv drops variables by name.
func withoutEnv(env []string, names ...string) []string {
	kept := make([]string, 0, len(env))
next:
	for _, kv := range env {
		for _, name := range names {
			if strings.HasPrefix(kv, name+"=") {
				continue next
			}
		}
		kept = append(kept, kv)
	}
	return kept
}

// consoleLog is a file that keeps the newest part of an endless stream: when
// it is full it becomes <name>.old and a new one begins.
type consoleLog struct {
	path string
	f    *os.File
	size int
}

// consoleLogSize bounds each of the two files, in bytes.
const consoleLogSize = 512 << 10

func newConsoleLog(path string) *consoleLog {
	if path == "" {
		return &consoleLog{}
	}
	_ = os.MkdirAll(filepath.Dir(path), 0o700)
	f, _ := os.Create(path)
	return &consoleLog{path: path, f: f}
}

// Write never fails: a log that cannot be written must not stop a kernel.
func (l *consoleLog) Write(p []byte) {
	if l.f == nil {
		return
	}
	if l.size+len(p) > consoleLogSize {
		l.f.Close()
		_ = os.Rename(l.path, l.path+".old")
		l.size = 0
		if l.f, _ = os.Create(l.path); l.f == nil {
			return
		}
	}
	n, _ := l.f.Write(p)
	l.size += n
}

func (l *consoleLog) Close() {
	if l.f != nil {
		l.f.Close()
	}
}
