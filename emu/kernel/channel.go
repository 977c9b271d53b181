package kernel

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/stock"
)

// The control channel is the first serial line of User Mode Linux, or a port of
// a virtio console in QEMU. Its other end is a socket here. It begins with three
// lines of text:
//
//	inside:  hello    a serial line is in raw mode; nothing may be sent before
//	outside: orders   what to mount, load and run
//	inside:  ready    or what went wrong
//
// After that it carries a yamux session; each Dial is one stream of it. When
// either end dies the other reads end of file: the line is the life line too.
//
// After hello, what goes in by a serial line is bounded by a window, see
// innerLine, because the serial driver of User Mode Linux loses its interrupt for good when its
// reader falls behind and the terminal layer throttles it.

// orders tell process 1 what this kernel is for.
type orders struct {
	Substrate Substrate      `json:"substrate"`
	Mode      string         `json:"mode"` // modeServe, modeExec or modeProbe
	Args      []string       `json:"args,omitempty"`
	Hostname  string         `json:"hostname"`
	Env       []string       `json:"env"`
	Modules   []stock.Module `json:"modules"`
	// ModuleDir is mounted where modprobe looks, so that the kernel can load
	// more by itself.
	ModuleDir string   `json:"module_dir"`
	Writable  []string `json:"writable,omitempty"` // host folders mounted read-write, outer ones first
	Visible   []string `json:"visible,omitempty"`  // host folders to be seen even under /tmp and /run
}

const (
	modeServe = "serve" // hand the connections to the function given to Init
	modeExec  = "exec"  // run one command, see exec.go
	modeProbe = "probe" // test the kernel's features and report
)

// readiness is the answer to orders.
type readiness struct {
	Error   string   `json:"error,omitempty"`
	Release string   `json:"release"`
	Without []string `json:"without,omitempty"` // modules that did not load, with the reason
}

// line is an end of the channel that can also be used by whole lines of JSON.
type line struct {
	io.ReadWriteCloser
	r *bufio.Reader // all reads go through it
}

func newLine(c io.ReadWriteCloser) *line {
	return &line{ReadWriteCloser: c, r: bufio.NewReaderSize(c, 64<<10)}
}

func (l *line) Read(p []byte) (int, error) { return l.r.Read(p) }

// send writes v as one line.
func (l *line) send(v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = l.Write(append(text, '\n'))
	return err
}

// receive reads one line into v.
func (l *line) receive(v any) error {
	text, err := l.r.ReadBytes('\n')
	if err != nil {
		return err
	}
	return json.Unmarshal(text, v)
}

// sessionConfig tunes yamux for a line that never loses data, but whose other
// end may be busy for seconds: no keep-alive, no time-outs that would end the
// session of a kernel under load.
func sessionConfig() *yamux.Config {
	cfg := yamux.DefaultConfig()
	cfg.EnableKeepAlive = false
	cfg.ConnectionWriteTimeout = 10 * time.Minute
	cfg.StreamOpenTimeout = 0
	cfg.StreamCloseTimeout = 24 * time.Hour // a closed half must not cut the other
	cfg.MaxStreamWindowSize = 4 << 20
	cfg.AcceptBacklog = 1024
	cfg.LogOutput = nil
	cfg.Logger = sessionLog{}
	return cfg
}

// sessionLog sends yamux's own messages to the debug log.
type sessionLog struct{}

func (sessionLog) Print(v ...any)                 { slog.Debug(fmt.Sprint(v...)) }
func (sessionLog) Println(v ...any)               { slog.Debug(fmt.Sprint(v...)) }
func (sessionLog) Printf(format string, v ...any) { slog.Debug(fmt.Sprintf(format, v...)) }

// socketPair makes the two ends of a control channel with large buffers.
func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	for _, fd := range fds {
		// Best effort: the limits of the machine may cut it.
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 1<<20)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "channel"), os.NewFile(uintptr(fds[1]), "channel"), nil
}

// localListener accepts connections made by its own dial: the channel of the
// host's kernel, where both ends are in this process.
type localListener struct {
	conns chan net.Conn
	done  chan struct{}
	stop  func()
}

func newLocalListener() *localListener {
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	context.AfterFunc(ctx, func() { close(done) })
	return &localListener{conns: make(chan net.Conn), done: done, stop: cancel}
}

func (l *localListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *localListener) Close() error { l.stop(); return nil }

func (l *localListener) Addr() net.Addr { return &net.UnixAddr{Name: "vpclab", Net: "unix"} }

// dial makes a socket pair, real sockets with deadlines and half-close, and
// hands one end to Accept.
func (l *localListener) dial(ctx context.Context) (net.Conn, error) {
	a, b, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer a.Close()
	defer b.Close()
	near, err := net.FileConn(a)
	if err != nil {
		return nil, err
	}
	far, err := net.FileConn(b)
	if err != nil {
		near.Close()
		return nil, err
	}
	select {
	case l.conns <- far:
		return near, nil
	case <-l.done:
		err = net.ErrClosed
	case <-ctx.Done():
		err = ctx.Err()
	}
	near.Close()
	far.Close()
	return nil, err
}
