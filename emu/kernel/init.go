package kernel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"time"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/stock"
)

// role is what this process is, by its environment.
var role = func() string {
	switch {
	case os.Getenv(envWarden) != "":
		return envWarden
	case os.Getpid() == 1 && os.Getenv(envInit) != "":
		return envInit
	}
	return ""
}()

func init() {
	if role == envInit {
		// The main thread is the one that orphans are given to. Keeping it to
		// the main goroutine means that no child of ours is ever started from
		// it, so that it can wait for orphans without stealing the children
		// that other goroutines wait for.
		runtime.LockOSThread()
	}
}

// IsInit tells whether this process was started by this package for a role of
// its own: process 1 of a booted kernel, or the warden outside it. A program
// that calls Start (a test's TestMain, too) must ask it first in main, and
// call Init when it is true.
func IsInit() bool { return role != "" }

// Init is the life of process 1: it makes the kernel ready, answers the
// control channel with serve, and powers off when serve returns or the
// launcher is gone. In serve, the context is cancelled when the launcher goes.
// Init must be called from the main goroutine. It does not return.
func Init(serve func(ctx context.Context, ln net.Listener, args []string) error) {
	if role == envWarden {
		os.Exit(wardenMain())
	}
	kind := os.Getenv(envInit)
	os.Unsetenv(envInit)
	done := make(chan struct{})
	go func() {
		defer close(done)
		var err error
		switch kind {
		case boxInit:
			boxMain()
		case string(QEMU):
			err = initMain(openPort, serve)
		default:
			err = initMain(openSerial, serve)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "vpclab init:", err)
		}
	}()
	reapOrphans(done)
	powerOff()
}

// reapOrphans waits for processes that nobody waits for, until done.
func reapOrphans(done <-chan struct{}) {
	child := make(chan os.Signal, 1)
	signal.Notify(child, unix.SIGCHLD)
	for {
		select {
		case <-done:
			return
		case <-child:
		}
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG|unix.WNOTHREAD, nil)
			if pid <= 0 && !errors.Is(err, unix.EINTR) {
				break
			}
		}
	}
}

// powerOff ends the kernel. Files of the host are written when they are
// closed, so there is nothing to wait for but those still open.
func powerOff() {
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	os.Exit(0) // never comes: process 1 has no kernel any more
}

// serveEnd is how long serve may take to return when the launcher is gone.
const serveEnd = 1500 * time.Millisecond

// initMain makes the kernel ready and serves. The control channel is what open
// gives, with the modules that it did not load on its way.
func initMain(open func() (io.ReadWriteCloser, []string, error), serve func(ctx context.Context, ln net.Listener, args []string) error) error {
	channel, without, err := open()
	if err != nil {
		return err
	}
	conn := newLine(channel)
	var o orders
	if err := conn.receive(&o); err != nil {
		return fmt.Errorf("control channel: orders: %w", err)
	}
	ready := readiness{Without: without}
	without, err = prepare(&o)
	ready.Without = append(ready.Without, without...)
	if err != nil {
		ready.Error = err.Error()
	}
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		ready.Release = unix.ByteSliceToString(uts.Release[:])
	}
	if err := conn.send(ready); err != nil {
		return fmt.Errorf("control channel: %w", err)
	}
	if ready.Error != "" {
		return errors.New(ready.Error)
	}
	session, err := yamux.Server(&joiner{line: conn}, sessionConfig())
	if err != nil {
		return fmt.Errorf("control channel: %w", err)
	}
	defer session.Close()
	return runUntilGone(session, o, serve)
}

// runUntilGone runs what the orders ask for, and gives it a short time to
// finish when the other end of the session is gone.
func runUntilGone(session *yamux.Session, o orders, serve func(ctx context.Context, ln net.Listener, args []string) error) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		switch o.Mode {
		case modeExec:
			ended <- serveExec(ctx, session)
		case modeProbe:
			ended <- serveProbe(ctx, session)
		default:
			ended <- serve(ctx, session, o.Args)
		}
	}()
	select {
	case err := <-ended:
		return err
	case <-session.CloseChan():
	}
	cancel()
	select {
	case <-ended:
	case <-time.After(serveEnd):
	}
	return nil
}

// openSerial opens the first serial line of User Mode Linux as a channel for any
// bytes, and says hello on it.
func openSerial() (io.ReadWriteCloser, []string, error) {
	const dev = "/dev/ttyS0"
	fd, err := unix.Open(dev, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("control channel %s: %w", dev, err)
	}
	raw := unix.Termios{Cflag: unix.CS8 | unix.CREAD | unix.CLOCAL}
	raw.Cc[unix.VMIN] = 1
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &raw); err != nil {
		return nil, nil, fmt.Errorf("control channel %s: raw mode: %w", dev, err)
	}
	// Not blocking, so that Go's poller waits for it: a goroutine that blocks
	// in a read takes the only processor along, and who is to run next waits
	// until the runtime notices, a millisecond later.
	// The kernel starts process 1 by its path; /proc is not there yet.
	inner, err := newInnerLine(os.NewFile(uintptr(fd), dev), filepath.Join(filepath.Dir(os.Args[0]), spoolName))
	if err != nil {
		return nil, nil, fmt.Errorf("control channel %s: %w", dev, err)
	}
	return inner, nil, nil
}

// prepare makes a usable system of a bare kernel. It returns the modules that
// did not load, each with its reason.
func prepare(o *orders) (without []string, err error) {
	if err := mountAll(o); err != nil {
		return nil, err
	}
	for _, kv := range o.Env {
		for i := range kv {
			if kv[i] == '=' {
				os.Setenv(kv[:i], kv[i+1:])
				break
			}
		}
	}
	return settle(o.Hostname, o.Modules)
}

// settle names the kernel, loads its modules and sets it up for labs.
func settle(hostname string, modules []stock.Module) (without []string, err error) {
	if err := unix.Sethostname([]byte(hostname)); err != nil {
		return nil, fmt.Errorf("set host name %q: %w", hostname, err)
	}
	without, err = loadModules(modules)
	if err != nil {
		return without, err
	}
	for _, s := range initSysctls {
		if err := writeSysctl(s.name, s.value); err != nil && !s.optional {
			return without, err
		}
	}
	raiseLimits()
	if err := loopbackUp(); err != nil {
		return without, fmt.Errorf("bring lo up: %w", err)
	}
	return without, nil
}

// initSysctls are set before the first namespace is made, which inherits them.
var initSysctls = []struct {
	name, value string
	optional    bool
}{
	{name: "net.core.devconf_inherit_init_net", value: "1"},
	{name: "net.ipv6.conf.all.disable_ipv6", value: "1"},
	{name: "net.ipv6.conf.default.disable_ipv6", value: "1"},
	// One neighbour table serves all namespaces of a kernel.
	{"net.ipv4.neigh.default.gc_thresh1", "16384", true},
	{"net.ipv4.neigh.default.gc_thresh2", "65536", true},
	{"net.ipv4.neigh.default.gc_thresh3", "131072", true},
	// All veth links of a kernel share one queue of what has arrived. A broadcast
	// in a LAN of 60 is 60 frames at a time; of the kernel's 1000, the questions
	// that 60 machines ask for each other's addresses lose every tenth.
	{"net.core.netdev_max_backlog", "65536", true},
	{"net.core.rmem_max", "33554432", true},
	{"net.core.wmem_max", "33554432", true},
	{"kernel.printk", "4 4 1 4", true},
}

// writeSysctl sets one variable by its dotted name.
func writeSysctl(name, value string) error {
	path := "/proc/sys/"
	for _, r := range name {
		if r == '.' {
			r = '/'
		}
		path += string(r)
	}
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return fmt.Errorf("sysctl %s=%s: %w", name, value, err)
	}
	return nil
}

// loadModules loads the files in order. Those a lab cannot do without are an
// error; the others are returned.
func loadModules(files []stock.Module) (without []string, err error) {
	need := map[string]bool{}
	for _, name := range append(qemuModules, needModules...) {
		need[name] = true
	}
	for _, m := range files {
		err := loadModule(m)
		if err == nil {
			continue
		}
		if need[m.Name] {
			return without, err
		}
		without = append(without, err.Error())
	}
	return without, nil
}

func loadModule(m stock.Module) error {
	f, err := os.Open(m.Path)
	if err != nil {
		return fmt.Errorf("module %s: %w", m.Name, err)
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), m.Args, 0)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("module %s (%s): %w", m.Name, filepath.Base(m.Path), err)
	}
	return nil
}

// raiseLimits lets one process hold the files of a thousand namespaces.
func raiseLimits() {
	limit := unix.Rlimit{Cur: 1 << 19, Max: 1 << 19}
	_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
}

// loopbackUp does what `ip link set lo up` does, by the old ioctl that needs
// no netlink.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING | unix.IFF_LOOPBACK)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}
