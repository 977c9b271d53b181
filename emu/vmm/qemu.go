package vmm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/child"
	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/qmp"
	"github.com/vpclab/vpclab/emu/unixsock"
	"github.com/vpclab/vpclab/emu/vmm/inside"
)

// MonitorFile is the name of a QEMU's monitor in its host's folder: the one for
// agents. The keeper has one of its own.
const MonitorFile = "qmp"

// qemu is one QEMU, at one host, on the memory and disk in its folder.
type qemu struct {
	folder, netns string
	way           way
	memory        uint64 // the inode of its memory: a file made anew is another
	cmd           *exec.Cmd
	words         child.Tail // its last
	monitor       *qmp.Client
	link          *inside.Link // nil: nobody inside would answer
	disk          *disk        // nil: none
	tap           *tap         // nil: none
	feed          *os.File     // where a state is written; nil: it wants none, or has one
	ended         chan struct{}
	following     sync.WaitGroup

	mu             sync.Mutex
	runs           bool
	stoodAt, ranAt event.Mono // when it last began to
	end            string     // why it is about to
	retired        bool       // its end is meant
}

// place is where a QEMU is started.
type place struct {
	folder, netns string
	way           way
}

// startQEMU starts one, which stands, and waits until it answers.
func startQEMU(ctx context.Context, by *fabric.Starter, spec guest.Spec, s *software, w *wire, at place) (q *qemu, err error) {
	q = &qemu{folder: at.folder, netns: at.netns, way: at.way, ended: make(chan struct{})}
	defer func() {
		if err != nil {
			if words := q.words.String(); words != "" {
				err = fmt.Errorf("%w: %s", err, words)
			}
			q.kill()
			err = fmt.Errorf("start QEMU at %s: %w", at.folder, err)
		}
	}()
	l := layout{way: at.way}
	if l.offset, l.memory, err = guest.MemoryAt(at.folder); err != nil {
		return q, err
	}
	if l.memory != spec.Memory {
		return q, fmt.Errorf("its memory has %d bytes: want %d", l.memory, spec.Memory)
	}
	if q.memory, err = inode(filepath.Join(at.folder, guest.MemoryFile)); err != nil {
		return q, err
	}
	if q.disk, err = openDisk(at.folder, spec); err != nil {
		return q, err
	}
	var files handles
	defer files.close()
	monitor, err := q.furnish(&files, &l, s, w)
	if err != nil {
		return q, err
	}
	if spec.Kernel != "" {
		own := *s
		if own.line, err = lineOf(at.folder, spec); err != nil {
			monitor.Close()
			return q, err
		}
		s = &own
	}
	q.cmd = exec.Command(s.qemu.Path, s.arguments(spec, l)...)
	q.cmd.Dir, q.cmd.Env, q.cmd.Stderr, q.cmd.ExtraFiles = at.folder, s.qemu.Env(), &q.words, files.all
	q.cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := by.Start(at.netns, q.cmd); err != nil {
		monitor.Close()
		q.cmd = nil
		return q, err
	}
	// The keeper answers before others do; what a VM computes stands in line.
	_ = unix.Setpriority(unix.PRIO_PROCESS, q.cmd.Process.Pid, 0)
	files.close() // QEMU's are its own: when it ends, so do ours
	go func() {
		_ = q.cmd.Wait()
		close(q.ended)
	}()
	if q.monitor, err = qmp.New(ctx, monitor, "of QEMU at "+at.folder); err != nil {
		return q, err
	}
	changes := q.monitor.Subscribe("STOP", "RESUME", "SHUTDOWN", "GUEST_PANICKED")
	q.following.Go(func() { q.follow(changes) })
	return q, q.ready(ctx)
}

// handles are files that a process is started with.
type handles struct{ all []*os.File }

// add gives the number that the file has in the process.
func (h *handles) add(f *os.File) int {
	const first = 3 // exec.Cmd.ExtraFiles
	h.all = append(h.all, f)
	return first + len(h.all) - 1
}

// channel adds one end of a new connection, and gives the other.
func (h *handles) channel(name string) (ours *net.UnixConn, number int, err error) {
	conn, theirs, err := child.Channel(name)
	if err != nil {
		return nil, 0, err
	}
	return conn.(*net.UnixConn), h.add(theirs), nil
}

func (h *handles) close() {
	for _, f := range h.all {
		f.Close()
	}
	h.all = nil
}

// furnish makes what the QEMU is connected to, and gives the keeper's end of its
// monitor.
func (q *qemu) furnish(files *handles, l *layout, s *software, w *wire) (monitor *net.UnixConn, err error) {
	agents, err := unixsock.Listen(filepath.Join(q.folder, MonitorFile))
	if err != nil {
		return nil, err
	}
	defer agents.Close()
	f, err := agents.File()
	if err != nil {
		return nil, err
	}
	l.agents = files.add(f)
	if q.disk != nil {
		conn, n, err := files.channel("disk")
		if err != nil {
			return nil, err
		}
		l.disk = n
		q.disk.serve(conn)
	}
	if s.ours {
		conn, n, err := files.channel("port")
		if err != nil {
			return nil, err
		}
		l.port, q.link = n, inside.NewLink(conn)
	}
	if w != nil {
		if q.tap, err = w.tap(); err != nil {
			return nil, err
		}
		l.tap, l.mac, l.mtu = files.add(q.tap.file), w.mac, w.mtu
	}
	monitor, l.keeper, err = files.channel("monitor")
	return monitor, err
}

func inode(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return st.Ino, nil
}

// handOver are the capabilities by which a state is handed over: the memory stays where it
// is, and nothing is left on of what somebody else has moved the VM by.
var handOver = map[string]any{"capabilities": []map[string]any{
	{"capability": "x-ignore-shared", "state": true}, {"capability": "events", "state": true},
	{"capability": "postcopy-ram", "state": false}, {"capability": "postcopy-preempt", "state": false},
	{"capability": "multifd", "state": false}, {"capability": "xbzrle", "state": false}, {"capability": "auto-converge", "state": false},
	{"capability": "pause-before-switchover", "state": false}, {"capability": "return-path", "state": false},
}}

// stateName is what QEMU knows the way of a state by.
const stateName = "state"

// ready has a QEMU that wants a state wait for it: it is all that is left to do
// then.
func (q *qemu) ready(ctx context.Context) error {
	if q.way != withState {
		return nil
	}
	r, w, err := statePipe()
	if err != nil {
		return err
	}
	q.feed = w
	calls := []*qmp.Call{
		q.monitor.Send(ctx, "migrate-set-capabilities", handOver),
		q.monitor.SendFD(ctx, stateName, r),
		q.monitor.Send(ctx, "migrate-incoming", map[string]any{"uri": "fd:" + stateName}),
	}
	r.Close()
	return waitAll(ctx, calls)
}

// waitAll waits for the answers to commands, and gives the first error.
func waitAll(ctx context.Context, calls []*qmp.Call) (err error) {
	for _, c := range calls {
		if failed := c.Wait(ctx, nil); err == nil {
			err = failed
		}
	}
	return err
}

// stateRoom is how much of a state is under way without anybody waiting: all of
// it, as a rule.
const stateRoom = 1 << 20

func statePipe() (r, w *os.File, err error) {
	if r, w, err = os.Pipe(); err != nil {
		return nil, nil, err
	}
	raw, err := w.SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, stateRoom) }) // else it takes turns
	}
	return r, w, err
}

// follow notes what the VM does, whoever has it do that.
func (q *qemu) follow(changes *qmp.Subscription) {
	for {
		e, err := changes.Next(context.Background()) // it ends with QEMU
		if err != nil {
			return
		}
		q.mu.Lock()
		switch e.Name {
		case "STOP":
			q.runs, q.stoodAt = false, e.T
			q.disk.release()
		case "RESUME":
			q.runs, q.ranAt = true, e.T
			q.disk.hold()
		default:
			var why struct{ Reason, Action string }
			_ = e.Decode(&why) // it is told as far as it is understood
			q.end = strings.TrimSpace(strings.Join([]string{strings.ToLower(e.Name), why.Reason, why.Action}, " "))
		}
		q.mu.Unlock()
	}
}

// running tells whether the VM runs here, and since when it does or does not.
func (q *qemu) running() (bool, event.Mono) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.runs {
		return true, q.ranAt
	}
	return false, q.stoodAt
}

// cont has the VM go on.
func (q *qemu) cont(ctx context.Context) (event.Mono, error) {
	resumed := q.monitor.Subscribe("RESUME")
	defer resumed.Close()
	q.disk.hold() // before it can write
	for {
		err := q.monitor.Execute(ctx, "cont", nil, nil)
		if err == nil {
			break
		}
		if final, failed := q.finalized(ctx); failed != nil || final {
			return 0, err
		}
		if err := rest(ctx, finalLook); err != nil {
			return 0, fmt.Errorf("wait until QEMU has ended the VM's stop: %w", err)
		}
	}
	e, err := resumed.Next(ctx)
	return e.T, err
}

// finalLook is how often it is looked whether QEMU is done with a state that it has
// written all of.
const finalLook = time.Millisecond

// finalized tells whether QEMU is done with the VM's stop: for a moment after the last
// byte of a state it is not, and refuses to have the VM go on.
func (q *qemu) finalized(ctx context.Context) (bool, error) {
	var s struct{ Status string }
	err := q.monitor.Execute(ctx, "query-status", nil, &s)
	return s.Status != "finish-migrate", err
}

// snapshot has the VM stand, and gives QEMU's stream of its devices' state. QEMU
// prepares that while the VM runs, and has it stand itself: what is saved then is
// a VM that ran, and will by itself where it is loaded. When it fails QEMU lets the
// VM run on.
func (q *qemu) snapshot(ctx context.Context) (at event.Mono, stream []byte, err error) {
	r, w, err := statePipe()
	if err != nil {
		return 0, nil, err
	}
	defer r.Close()
	stops, moves := q.monitor.Subscribe("STOP"), q.monitor.Subscribe("MIGRATION")
	defer stops.Close()
	defer moves.Close()
	calls := []*qmp.Call{
		q.monitor.Send(ctx, "migrate-set-capabilities", handOver),
		q.monitor.SendFD(ctx, stateName, w),
		q.monitor.Send(ctx, "migrate", map[string]any{"uri": "fd:" + stateName}),
	}
	w.Close()
	if err := waitAll(ctx, calls); err != nil {
		_ = q.monitor.Execute(ctx, "closefd", map[string]any{"fdname": stateName}, nil) // if it still has it
		return 0, nil, err
	}
	if stream, err = readAll(ctx, r); err != nil {
		return 0, nil, fmt.Errorf("read the state of the VM's devices: %w", err)
	}
	if err := q.moved(ctx, moves); err != nil {
		return 0, nil, fmt.Errorf("take the state of the VM's devices: %w", err)
	}
	if e, ok := stops.Try(); ok {
		return e.T, stream, nil
	}
	_, at = q.running() // it stood before
	return at, stream, nil
}

func readAll(ctx context.Context, r *os.File) ([]byte, error) {
	stop := context.AfterFunc(ctx, func() { r.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	b := make([]byte, 0, 256<<10)
	for {
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		switch {
		case errors.Is(err, io.EOF):
			return b, nil
		case err != nil && ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case err != nil:
			return nil, err
		}
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
	}
}

// moved waits until a state has gone out, or come in.
func (q *qemu) moved(ctx context.Context, moves *qmp.Subscription) error {
	for {
		e, err := moves.Next(ctx)
		if err != nil {
			return err
		}
		var m struct{ Status string }
		if err := e.Decode(&m); err != nil {
			return err
		}
		switch m.Status {
		case "completed":
			return nil
		case "failed", "cancelled":
			var i struct {
				Why string `json:"error-desc"`
			}
			_ = q.monitor.Execute(ctx, "query-migrate", nil, &i)
			return fmt.Errorf("QEMU says %s: %s", m.Status, i.Why)
		}
	}
}

// load gives QEMU the state that it waits for, and has the VM go on at once, or
// stand.
func (q *qemu) load(ctx context.Context, stream []byte, run bool) (at event.Mono, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("load the state: %w", q.lastWords(err))
		}
	}()
	resumed, moves := q.monitor.Subscribe("RESUME"), q.monitor.Subscribe("MIGRATION")
	defer resumed.Close()
	defer moves.Close()
	feed := q.feed
	q.feed = nil
	stop := context.AfterFunc(ctx, func() { feed.SetWriteDeadline(time.Unix(1, 0)) })
	_, err = feed.Write(stream)
	stop()
	if err = errors.Join(err, feed.Close()); err != nil {
		return 0, err
	}
	if !run {
		return 0, q.moved(ctx, moves)
	}
	// A QEMU that is told so before it has all of the state has the VM go on when it
	// has, if that ran where it was saved. RESUME comes before the end of the move.
	q.disk.hold()
	if err := q.monitor.Execute(ctx, "cont", nil, nil); err != nil {
		return 0, err
	}
	if err := q.moved(ctx, moves); err != nil {
		return 0, err
	}
	if e, ok := resumed.Try(); ok {
		return e.T, nil
	}
	return q.cont(ctx)
}

// wordsIn is how long a QEMU may take to end that closed its monitor.
const wordsIn = 2 * time.Second

// lastWords adds to an error what QEMU said before it ended, if it has.
func (q *qemu) lastWords(err error) error {
	if !errors.Is(err, qmp.ErrGone) {
		return err
	}
	select {
	case <-q.ended:
		return fmt.Errorf("%w: %v", err, q.epitaph())
	case <-time.After(wordsIn):
		return err
	}
}

// epitaph is why a QEMU has ended, in its own words and its guest's.
func (q *qemu) epitaph() error {
	q.mu.Lock()
	end := q.end
	q.mu.Unlock()
	parts := []string{q.cmd.ProcessState.String()}
	if end != "" {
		parts = append(parts, end)
	}
	if words := q.words.String(); words != "" {
		parts = append(parts, words)
	}
	if console := consoleTail(q.folder); console != "" {
		parts = append(parts, consoleEnds+console)
	}
	return errors.New(strings.Join(parts, "; "))
}

// consoleWords bound what is told of a console, which consoleEnds begins.
const (
	consoleWords = 800
	consoleEnds  = "its console ends with: "
)

// WithConsole adds to why a VM does not run what its console in a host's folder ends
// with, unless the error tells that already: its keeper does, where it can.
func WithConsole(err error, folder string) error {
	console := consoleTail(folder)
	if console == "" || strings.Contains(err.Error(), consoleEnds) {
		return err
	}
	return fmt.Errorf("%w; %s%s", err, consoleEnds, console)
}

// consoleTail is the end of what a VM has written on its console at a host.
func consoleTail(folder string) string {
	b, err := os.ReadFile(filepath.Join(folder, ConsoleFile))
	if err != nil {
		return ""
	}
	if len(b) > consoleWords {
		b = b[len(b)-consoleWords:]
	}
	return strings.TrimSpace(strings.ToValidUTF8(string(b), "?"))
}

// retire notes that the QEMU's end is meant.
func (q *qemu) retire() {
	q.mu.Lock()
	q.retired = true
	q.mu.Unlock()
}

func (q *qemu) isRetired() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.retired
}

// kill ends the QEMU, if it is one, and lets go of all that it had. It returns when
// it is gone.
func (q *qemu) kill() {
	q.retire()
	if q.cmd != nil {
		_ = q.cmd.Process.Kill() // it has ended by itself otherwise
		<-q.ended
	}
	if q.monitor != nil {
		q.monitor.Close()
	}
	q.following.Wait()
	if q.feed != nil {
		q.feed.Close()
	}
	if q.link != nil {
		q.link.Close()
	}
	if q.tap != nil {
		q.tap.file.Close()
	}
	_ = q.disk.close()
}
