package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/unixsock"
)

const greeting = `{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": "Debian"}, "capabilities": ["oob"]}}` + "\n"

// command is what a fake QEMU hears.
type command struct {
	Execute   string
	Arguments map[string]any
	ID        uint64
}

// fake is a QEMU that says what a test has it say.
type fake struct {
	t     *testing.T
	path  string
	greet string
	// say is called with each command after qmp_capabilities; what it returns is
	// written as it is, with %d for the command's number. "": nothing.
	say func(c command, conn *net.UnixConn) string
}

func (f *fake) start() {
	f.path = filepath.Join(f.t.TempDir(), "qmp")
	l, err := unixsock.Listen(f.path)
	require.NoError(f.t, err)
	var all sync.WaitGroup
	f.t.Cleanup(all.Wait)
	f.t.Cleanup(func() { l.Close() })
	all.Go(func() {
		conn, err := l.AcceptUnix()
		if err != nil {
			return
		}
		all.Go(func() { f.serve(conn) })
	})
}

func (f *fake) serve(conn *net.UnixConn) {
	defer conn.Close()
	_, _ = io.WriteString(conn, f.greet)
	in := bufio.NewReader(conn)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return
		}
		var c command
		if !assert.NoError(f.t, json.Unmarshal(line, &c)) {
			return
		}
		text := `{"return": {}, "id": %d}` + "\n"
		if c.Execute != "qmp_capabilities" {
			text = f.say(c, conn)
		}
		if strings.Contains(text, "%d") {
			text = fmt.Sprintf(text, c.ID)
		}
		if _, err := io.WriteString(conn, text); err != nil || text == hangUp {
			return
		}
	}
}

// hangUp is a QEMU's that dies in the middle of a line.
const hangUp = `{"retu`

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeoutCause(t.Context(), d, fmt.Errorf("not within %v", d))
	t.Cleanup(cancel)
	return ctx
}

func dial(t *testing.T, say func(command, *net.UnixConn) string) *Client {
	f := &fake{t: t, greet: greeting, say: say}
	f.start()
	c, err := Dial(within(t, 10*time.Second), f.path)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func TestAnswersFindTheirCommands(t *testing.T) {
	c := dial(t, func(c command, _ *net.UnixConn) string {
		return fmt.Sprintf(`{"return": {"twice": %v}, "id": %d}`+"\n", 2*c.Arguments["n"].(float64), c.ID)
	})
	require.Equal(t, Version{10, 0, 2, "Debian"}, c.Version)
	ctx := within(t, 10*time.Second)
	var all sync.WaitGroup
	for n := range 20 {
		all.Go(func() {
			var r struct{ Twice int }
			assert.NoError(t, c.Execute(ctx, "double", map[string]any{"n": n}, &r))
			assert.Equal(t, 2*n, r.Twice)
		})
	}
	all.Wait()
}

func TestErrorSaysWhichCommand(t *testing.T) {
	c := dial(t, func(command, *net.UnixConn) string {
		return `{"id": %d, "error": {"class": "GenericError", "desc": "Guest is waiting for an incoming migration"}}` + "\n"
	})
	err := c.Execute(within(t, 10*time.Second), "cont", nil, nil)
	var no *Error
	require.ErrorAs(t, err, &no)
	require.Equal(t, Error{"cont", "GenericError", "Guest is waiting for an incoming migration"}, *no)
	require.ErrorContains(t, err, "cont: Guest is waiting for an incoming migration (GenericError)")
}

func TestEventsComeBeforeTheAnswerAndNoneIsLost(t *testing.T) {
	before := time.Now().Truncate(time.Microsecond)
	c := dial(t, func(c command, _ *net.UnixConn) string {
		at := time.Now()
		one := func(name string) string {
			return fmt.Sprintf(`{"timestamp": {"seconds": %d, "microseconds": %d}, "event": %q, "data": {"n": 7}}`+"\n", at.Unix(), at.Nanosecond()/1000, name)
		}
		return one("STOP") + one("MIGRATION") + one("STOP") + fmt.Sprintf(`{"return": {}, "id": %d}`+"\n", c.ID)
	})
	stops, all := c.Subscribe("STOP"), c.Subscribe()
	began := event.Now()
	require.NoError(t, c.Execute(within(t, 10*time.Second), "stop", nil, nil))
	for range 2 {
		e, ok := stops.Try()
		require.True(t, ok)
		require.Equal(t, "STOP", e.Name)
		require.False(t, e.Wall.Before(before))
		require.WithinRange(t, e.Wall, before, time.Now())
		// A microsecond is what QEMU's stamps leave out; the clocks are read one
		// after the other.
		require.GreaterOrEqual(t, e.T, began-event.Mono(time.Millisecond))
		require.LessOrEqual(t, e.T, event.Now()+event.Mono(time.Millisecond))
		var data struct{ N int }
		require.NoError(t, e.Decode(&data))
		require.Equal(t, 7, data.N)
	}
	_, ok := stops.Try()
	require.False(t, ok)
	for _, want := range []string{"STOP", "MIGRATION", "STOP"} {
		e, err := all.Next(within(t, 10*time.Second))
		require.NoError(t, err)
		require.Equal(t, want, e.Name)
	}
}

func TestDeathOfQEMUIsTold(t *testing.T) {
	c := dial(t, func(command, *net.UnixConn) string { return hangUp })
	s := c.Subscribe("RESUME")
	err := c.Execute(within(t, 10*time.Second), "migrate", nil, nil)
	require.ErrorIs(t, err, ErrGone)
	require.ErrorContains(t, err, "migrate")
	for range 2 {
		_, err = s.Next(within(t, 10*time.Second))
		require.ErrorIs(t, err, ErrGone)
	}
	require.ErrorIs(t, c.Execute(within(t, 10*time.Second), "cont", nil, nil), ErrGone)
	<-c.Done()
	require.ErrorIs(t, c.Err(), ErrGone)
	_, err = c.Subscribe().Next(within(t, 10*time.Second))
	require.ErrorIs(t, err, ErrGone)
}

func TestAfterCloseCallsSaySo(t *testing.T) {
	c := dial(t, func(command, *net.UnixConn) string { return "" })
	s := c.Subscribe()
	require.NoError(t, c.Close())
	_, err := s.Next(within(t, 10*time.Second))
	require.ErrorIs(t, err, ErrClosed)
	require.ErrorIs(t, c.Execute(within(t, 10*time.Second), "cont", nil, nil), ErrClosed)
}

// A late answer to a command that was given up is nobody's: the next has its own.
func TestAWaitGivenUpLeavesTheConnection(t *testing.T) {
	var late string
	c := dial(t, func(c command, _ *net.UnixConn) string {
		if c.Execute == "slow" {
			late = fmt.Sprintf(`{"return": {"of": "slow"}, "id": %d}`+"\n", c.ID)
			return ""
		}
		return late + fmt.Sprintf(`{"return": {"of": "quick"}, "id": %d}`+"\n", c.ID)
	})
	err := c.Execute(within(t, 20*time.Millisecond), "slow", nil, nil)
	require.ErrorContains(t, err, "not within 20ms")
	require.ErrorContains(t, err, "slow: wait for QEMU's answer")
	var r struct{ Of string }
	require.NoError(t, c.Execute(within(t, 10*time.Second), "quick", nil, &r))
	require.Equal(t, "quick", r.Of)
}

// justEnded is a context that ends between the check of whether it has and a send.
type justEnded struct {
	context.Context
	asked bool
}

func (c *justEnded) Done() <-chan struct{} {
	ended := make(chan struct{})
	close(ended)
	return ended
}

func (c *justEnded) Err() error {
	if c.asked {
		return context.Canceled
	}
	c.asked = true
	return nil
}

// What hurries a send whose context ends must not be so late that it hurries the
// next one. With one thread it begins when the send has nothing more to do.
func TestAContextThatEndsDuringASendLeavesTheConnection(t *testing.T) {
	t.Cleanup(func(n int) func() { return func() { runtime.GOMAXPROCS(n) } }(runtime.GOMAXPROCS(1)))
	c := dial(t, func(command, *net.UnixConn) string { return `{"return": {}, "id": %d}` + "\n" })
	for range 100 {
		call := c.Send(&justEnded{Context: context.Background()}, "given-up", nil)
		_ = call.Wait(within(t, 10*time.Second), nil) // it may have been sent or not
		require.NoError(t, c.Execute(within(t, 10*time.Second), "next", nil, nil))
	}
}

func TestGreetings(t *testing.T) {
	for name, c := range map[string]struct{ says, want string }{
		"another protocol":      {"SSH-2.0-OpenSSH\n", "this is no QMP monitor"},
		"JSON of something":     {"{\"hello\": 1}\n", "this is no QMP monitor"},
		"half a greeting":       {greeting[:40], "not within 100ms"},
		"nothing":               {"", "not within 100ms"},
		"an event in its place": {`{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}}` + "\n", "this is no QMP monitor"},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fake{t: t, greet: c.says}
			f.start()
			_, err := Dial(within(t, 100*time.Millisecond), f.path)
			require.ErrorContains(t, err, c.want)
		})
	}
	t.Run("a QEMU that died before it could greet", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "qmp")
		l, err := unixsock.Listen(path)
		require.NoError(t, err)
		conn, err := unixsock.Dial(path)
		require.NoError(t, err)
		require.NoError(t, l.Close())
		_, err = New(within(t, 10*time.Second), conn, "early")
		require.ErrorIs(t, err, ErrGone)
		require.ErrorContains(t, err, "early")
	})
	_, err := Dial(within(t, 10*time.Second), filepath.Join(t.TempDir(), "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestFilesAreHandedOver(t *testing.T) {
	c := dial(t, nil)
	c.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	ours, theirs := unixConn(t, pair[0]), unixConn(t, pair[1])
	got := make(chan string, 1)
	go func() {
		defer theirs.Close()
		_, _ = io.WriteString(theirs, greeting)
		for n := 1; n <= 2; n++ {
			b, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
			_, rights, _, _, err := theirs.ReadMsgUnix(b, oob)
			if err != nil {
				return
			}
			if rights > 0 {
				m, _ := unix.ParseSocketControlMessage(oob[:rights])
				fds, _ := unix.ParseUnixRights(&m[0])
				f := os.NewFile(uintptr(fds[0]), "received")
				text, _ := io.ReadAll(f)
				f.Close()
				got <- string(text)
			}
			_, _ = fmt.Fprintf(theirs, `{"return": {"fdset-id": 3, "fd": 17}, "id": %d}`+"\n", n)
		}
	}()
	q, err := New(within(t, 10*time.Second), ours, "pair")
	require.NoError(t, err)
	defer q.Close()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	_, err = w.WriteString("state of devices")
	require.NoError(t, err)
	require.NoError(t, w.Close())
	fd, err := q.AddFD(within(t, 10*time.Second), 3, r)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.Equal(t, 17, fd)
	require.Equal(t, "state of devices", <-got)
}

func unixConn(t *testing.T, fd int) *net.UnixConn {
	f := os.NewFile(uintptr(fd), "pair")
	defer f.Close()
	c, err := net.FileConn(f)
	require.NoError(t, err)
	return c.(*net.UnixConn)
}
