package wanopt

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vpclab/vpclab/emu/migrate/wire"
	"github.com/vpclab/vpclab/emu/qmp"
	"github.com/vpclab/vpclab/emu/stock"
	"github.com/vpclab/vpclab/emu/unixsock"
)

// farEnv has this program be the far end: the address where it listens and where
// QEMU waits, with a space between.
const farEnv = "VPCLAB_TEST_WANOPT_FAR"

func realConfig() wire.Config { return wire.Config{ID: [16]byte{9}, Patience: 2 * time.Second} }

func beFar(env string) {
	at, qemu, _ := strings.Cut(env, " ")
	l, err := net.Listen("tcp", at)
	if err == nil {
		sessions := wire.Listen(l, realConfig())
		_, err = Far{Accept: sessions.Accept, Dial: Address{"unix", qemu}.Dial}.Serve(context.Background())
	}
	fmt.Println("far end:", err)
	os.Exit(0)
}

// vm is a QEMU with this program in it.
type vm struct {
	*qmp.Client
	cmd     *exec.Cmd
	dir     string
	console string
}

// guestImage is the kernel and the initrd. This program must be without a loader,
// as all of vpclab is.
var guestImage = sync.OnceValues(func() (paths [2]string, err error) {
	image, err := stock.FindImage()
	if err != nil {
		return paths, err
	}
	self, err := os.Executable()
	if err != nil {
		return paths, err
	}
	if static, err := stock.Static(self); err != nil || !static {
		return paths, cmp.Or(err, error(&stock.Missing{What: "this test program needs shared libraries, and there are none in a guest", Fix: "CGO_ENABLED=0"}))
	}
	a := stock.NewInitrd()
	a.Folder("dev", 0o755)
	a.CharDevice("dev/console", 0o600, 5, 1)
	a.Copy("init", 0o755, self)
	paths[0] = image.Loadable(context.Background())
	paths[1] = initrdPath()
	return paths, a.Save(paths[1])
})

// initrdPath is removed when all tests are done.
func initrdPath() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("vpclab-test-wanopt-%d", os.Getpid()))
}

// startVM starts one with a load, or one that waits for a guest; see listens.
func startVM(t testing.TB, load string, waits bool) *vm {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, fmt.Errorf("a QEMU does not start in a minute"))
	defer cancel()
	q, err := stock.FindGuestQEMU(ctx)
	if err != nil {
		t.Skip(err)
	}
	if strings.HasPrefix(q.Version, "7.") {
		t.Skipf("QEMU %s spoils guests that write while they move", q.Version)
	}
	paths, err := guestImage()
	if stock.IsMissing(err) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	v := &vm{dir: t.TempDir()}
	v.console = filepath.Join(v.dir, "console")
	l, err := unixsock.Listen(filepath.Join(v.dir, "qmp"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	machine, tsc := "microvm,rtc=on", ""
	if m := stock.StartTSC(); m != nil {
		time.Sleep(50 * time.Millisecond) // what is measured is a time
		// Who is told the rate needs no PIT, whose first tick would find a PIC that
		// the kernel has left as it was, and end in a division by zero.
		machine += ",pit=off,pic=off"
		tsc = fmt.Sprintf(" tsc_early_khz=%d tsc=reliable", m.KiloHertz())
	}
	args := append(q.Firmware(), "-M", machine, "-accel", "tcg", "-cpu", "max", "-m", "128M",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-kernel", paths[0], "-initrd", paths[1],
		"-append", "console=ttyS0 quiet panic=-1 mitigations=off load="+load+tsc, "-serial", "file:"+v.console,
		"-chardev", "socket,id=qmp,fd=3,server=on,wait=off", "-mon", "chardev=qmp,mode=control")
	if waits {
		args = append(args, "-incoming", "defer")
	}
	v.cmd = exec.Command(q.Path, args...)
	v.cmd.Env, v.cmd.ExtraFiles, v.cmd.Stderr = q.Env(), []*os.File{f}, os.Stderr
	if err := v.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = v.cmd.Process.Kill()
		_ = v.cmd.Wait()
	})
	if v.Client, err = qmp.Dial(ctx, filepath.Join(v.dir, "qmp")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.Close() })
	return v
}

// boot starts one whose guest works. A kernel whose instructions are translated
// panics now and then before it has a console, on a busy machine: QEMU ends then.
func boot(t testing.TB, load string) *vm {
	t.Helper()
	for range 3 {
		v := startVM(t, load, false)
		for ended := false; !ended; {
			if b, err := os.ReadFile(v.console); err == nil && guestReady.Match(b) {
				return v
			}
			select {
			case <-v.Done():
				b, _ := os.ReadFile(v.console) // it may not be there
				t.Logf("a guest did not boot; its console ends with %q", b[max(0, len(b)-600):])
				ended = true
			case <-t.Context().Done():
				t.Fatal("the test ends before its guest has begun")
			case <-time.After(20 * time.Millisecond): // a file tells nobody that it grows
			}
		}
	}
	t.Fatal("a guest that does not boot, three times")
	return nil
}

// says waits until the console has something that was not there before from.
func (v *vm) says(t testing.TB, what *regexp.Regexp, from int) []string {
	t.Helper()
	deadline := time.Now().Add(90 * time.Second)
	for {
		b, err := os.ReadFile(v.console)
		if err == nil && len(b) > from {
			if m := what.FindStringSubmatch(string(b[from:])); m != nil {
				return m
			}
		}
		over := time.Now().After(deadline)
		select {
		case <-v.Done():
			over = true
		default:
		}
		if over {
			t.Fatalf("wait for %q on the console: %v; it ends with %q", what, err, b[max(0, len(b)-1500):])
		}
		time.Sleep(20 * time.Millisecond) // a file tells nobody that it grows
	}
}

func (v *vm) said(t testing.TB) int {
	t.Helper()
	b, err := os.ReadFile(v.console)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return len(b)
}

var (
	guestReady = regexp.MustCompile(`guest: ready`)
	guestRound = regexp.MustCompile(`guest: round (\d+), \d+ pages written, (\d+) bad\r?\n`)
)

// whole waits for two more rounds of the guest's over all its pages, of which the
// second began here, and wants none to be bad.
func (v *vm) whole(t testing.TB) {
	t.Helper()
	first := v.says(t, guestRound, v.said(t))
	n, err := strconv.Atoi(first[1])
	if err != nil {
		t.Fatal(err)
	}
	m := v.says(t, regexp.MustCompile(fmt.Sprintf(`guest: round %d, \d+ pages written, (\d+) bad`, n+1)), 0)
	if m[1] != "0" {
		t.Fatalf("the guest finds %s bad pages", m[1])
	}
}

func (v *vm) do(t testing.TB, command string, arguments, result any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := v.Execute(ctx, command, arguments, result); err != nil {
		t.Fatal(err)
	}
}

func (v *vm) status(t testing.TB) (run, migration string) {
	t.Helper()
	var s struct{ Status string }
	v.do(t, "query-status", nil, &s)
	var m struct{ Status string }
	v.do(t, "query-migrate", nil, &m)
	return s.Status, m.Status
}

// sets readies a migration at either end.
func (v *vm) sets(t testing.TB, parameters map[string]any, more ...string) {
	t.Helper()
	for _, name := range append([]string{"return-path", "events"}, more...) {
		v.do(t, "migrate-set-capabilities", map[string]any{"capabilities": []capability{{name, true}}}, nil)
	}
	if parameters != nil {
		v.do(t, "migrate-set-parameters", parameters, nil)
	}
}

// listens has a QEMU wait for a guest at a Unix socket.
func (v *vm) listens(t testing.TB, at string) {
	t.Helper()
	v.do(t, "migrate-incoming", map[string]any{"uri": "unix:" + at}, nil)
}

// next waits for an event.
func next(t testing.TB, s *qmp.Subscription) qmp.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	e, err := s.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// realPair is a pair between two QEMUs.
type realPair struct {
	source, dest *vm
	out          string
	near         chan ended
	far          chan ended
	farCmd       *exec.Cmd
}

// between makes one; with its far end in a process of its own, if so asked.
func between(ctx context.Context, t testing.TB, source *vm, n Near, rule *Rule, apart bool, more ...string) *realPair {
	t.Helper()
	dir := t.TempDir()
	p := &realPair{source: source, dest: startVM(t, "none", true), out: filepath.Join(dir, "out"), near: make(chan ended, 1), far: make(chan ended, 1)}
	source.sets(t, nil, more...)
	p.dest.sets(t, nil, more...)
	p.dest.listens(t, filepath.Join(dir, "in"))
	l, err := wire.ListenTCP(t.Context(), netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().(*net.TCPAddr).AddrPort()
	if apart {
		_ = l.Close() // the port is free for the other process
		p.farCmd = exec.Command(os.Args[0])
		p.farCmd.Env = append(os.Environ(), farEnv+"="+at.String()+" "+filepath.Join(dir, "in"))
		if err := p.farCmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = p.farCmd.Process.Kill()
			_ = p.farCmd.Wait()
		})
	} else {
		sessions := wire.Listen(l, realConfig())
		t.Cleanup(func() { _ = sessions.Close() })
		go func() {
			st, err := Far{Accept: sessions.Accept, Dial: Address{"unix", filepath.Join(dir, "in")}.Dial}.Serve(ctx)
			p.far <- ended{st, err}
		}()
	}
	in, err := net.ListenUnix("unix", &net.UnixAddr{Name: p.out, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close() })
	n.Warn = func(what string) { t.Log("warned:", what) }
	n.Open = func(ctx context.Context, channel uint8) (wire.Session, error) {
		c := realConfig()
		c.Channel, c.Dial = channel, wire.DialTCP(at)
		return wire.Open(ctx, c)
	}
	ready := make(chan struct{})
	go func() {
		if rule == nil {
			close(ready)
			st, err := n.Serve(ctx, in)
			p.near <- ended{st, err}
			return
		}
		st, err := n.serveSmart(ctx, in, source.Client, *rule, func() { close(ready) })
		p.near <- ended{st, err}
	}()
	<-ready
	return p
}

// move moves the guest and gives the end's counts and the pause.
func (p *realPair) move(t testing.TB) (*Stats, time.Duration) {
	t.Helper()
	stops, resumes := p.source.Subscribe("STOP"), p.dest.Subscribe("RESUME")
	defer stops.Close()
	defer resumes.Close()
	p.source.do(t, "migrate", map[string]any{"uri": "unix:" + p.out}, nil)
	stop, resume := next(t, stops), next(t, resumes)
	near, far := <-p.near, <-p.far
	if near.err != nil || far.err != nil {
		t.Fatalf("near: %v; far: %v", near.err, far.err)
	}
	if !near.Equal || !far.Equal {
		t.Fatal("not proven equal")
	}
	return near.Stats, resume.T.Sub(stop.T)
}

func TestRealGuestsMoveThroughThePair(t *testing.T) {
	if testing.Short() {
		t.Skip("it boots QEMUs")
	}
	source := boot(t, "web")
	for i := range 3 {
		for _, variant := range Variants {
			encoders, smart, _ := ByVariant(variant)
			var rule *Rule
			if smart {
				rule = &Rule{}
			}
			p := between(t.Context(), t, source, Near{Encoders: encoders}, rule, false)
			st, pause := p.move(t)
			p.dest.whole(t)
			t.Logf("%d. %-12s %6.2f MB of QEMU's, %6.2f MB on the WAN, took %v, paused %v, %v", i+1, variant, float64(st.Bytes)/1e6, float64(st.WANOut)/1e6, st.Took.Round(time.Millisecond), pause.Round(time.Millisecond), st.Stop)
			source = p.dest
		}
	}
}

// slowly bounds what QEMU sends, so that there is a middle.
func (v *vm) slowly(t testing.TB, bytes int64) {
	t.Helper()
	v.do(t, "migrate-set-parameters", map[string]any{"max-bandwidth": bytes}, nil)
}

// awaitMigration waits until a migration is in one of some states.
func (v *vm) awaitMigration(t testing.TB, events *qmp.Subscription, states ...string) string {
	t.Helper()
	for {
		var d struct{ Status string }
		if err := next(t, events).Decode(&d); err != nil {
			t.Fatal(err)
		}
		if slices.Contains(states, d.Status) {
			return d.Status
		}
	}
}

func TestARealGuestGoesOnWhenAnEndIsLost(t *testing.T) {
	if testing.Short() {
		t.Skip("it boots QEMUs")
	}
	source := boot(t, "web")
	source.slowly(t, 20<<20)
	for name, lose := range map[string]func(p *realPair, stop context.CancelFunc){
		"the far end is killed":       func(p *realPair, _ context.CancelFunc) { _ = p.farCmd.Process.Kill() },
		"the near end is interrupted": func(_ *realPair, stop context.CancelFunc) { stop() },
		"the far QEMU is killed":      func(p *realPair, _ context.CancelFunc) { _ = p.dest.cmd.Process.Kill() },
	} {
		t.Run(name, func(t *testing.T) {
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			p := between(ctx, t, source, Near{}, &Rule{}, true)
			events := source.Subscribe("MIGRATION")
			defer events.Close()
			source.do(t, "migrate", map[string]any{"uri": "unix:" + p.out}, nil)
			source.awaitMigration(t, events, "active")
			lose(p, stop)
			if got := source.awaitMigration(t, events, "failed", "completed"); got != "failed" {
				t.Fatalf("the migration has %s", got)
			}
			if near := <-p.near; near.err == nil {
				t.Error("the near end is content")
			} else {
				t.Log("the near end says:", near.err)
			}
			source.whole(t)
			if run, _ := source.status(t); run != "running" {
				t.Errorf("the guest is %s at the source", run)
			}
			var params struct {
				Limit int64 `json:"downtime-limit"`
			}
			if source.do(t, "query-migrate-parameters", nil, &params); params.Limit != 300 {
				t.Errorf("downtime-limit is left at %d ms", params.Limit)
			}
		})
	}
	// And then it moves all the same.
	source.slowly(t, 1<<30)
	p := between(t.Context(), t, source, Near{}, &Rule{}, false)
	p.move(t)
	p.dest.whole(t)
}

// TestPagesThatFollowAGuestPass: in post-copy QEMU asks for pages against the
// stream.
func TestPagesThatFollowAGuestPass(t *testing.T) {
	if testing.Short() {
		t.Skip("it boots QEMUs")
	}
	source := boot(t, "hot")
	source.slowly(t, 40<<20)
	p := between(t.Context(), t, source, Near{}, nil, false, "postcopy-ram")
	rounds := source.Subscribe("MIGRATION_PASS")
	defer rounds.Close()
	resumes := p.dest.Subscribe("RESUME")
	defer resumes.Close()
	source.do(t, "migrate", map[string]any{"uri": "unix:" + p.out}, nil)
	next(t, rounds)
	source.do(t, "migrate-start-postcopy", nil, nil)
	next(t, resumes)
	near, far := <-p.near, <-p.far
	if near.err != nil || far.err != nil || !near.Equal {
		t.Fatalf("near: %v; far: %v", near.err, far.err)
	}
	p.dest.whole(t)
	if near.Back == 0 {
		t.Error("QEMU asked for nothing")
	}
	t.Logf("%.2f MB of QEMU's, %d pages of it recognised, %.2f MB on the WAN, %d bytes against it", float64(near.Bytes)/1e6, near.Pages, float64(near.WANOut)/1e6, near.Back)
}

func TestAHotRealGuestArrives(t *testing.T) {
	if testing.Short() {
		t.Skip("it boots QEMUs")
	}
	source := boot(t, "hot")
	source.slowly(t, 60<<20)
	p := between(t.Context(), t, source, Near{}, &Rule{Rounds: 8}, false)
	st, pause := p.move(t)
	p.dest.whole(t)
	if st.Stop == nil || st.Stop.Why == "" {
		t.Errorf("QEMU stopped it by itself: %+v", st.Stop)
	}
	t.Logf("%.2f MB of QEMU's, %.2f MB on the WAN, took %v, paused %v, %v", float64(st.Bytes)/1e6, float64(st.WANOut)/1e6, st.Took.Round(time.Millisecond), pause.Round(time.Millisecond), st.Stop)
	for _, r := range st.Stop.Rounds {
		t.Logf("round %d at %v: %d kB to send, %d kB sent before", r.Round, r.At.Round(time.Millisecond), r.Bytes/1000, r.Sent/1000)
	}
}
