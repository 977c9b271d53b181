package guest

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestMain makes the test program a guest where it is started as one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == Verb {
		ctx, end := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer end()
		c, err := ParseConfig(os.Args[2])
		if err == nil {
			err = Run(ctx, c, os.Stdout)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const patience = 60 * time.Second // of a test, for anything

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// host is a folder in shared memory that stands for a host.
func host(t testing.TB) string {
	dir, err := os.MkdirTemp(sharedMemory(), "vpclab-guest-test-")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// sharedMemory is a tmpfs.
func sharedMemory() string {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		return "/dev/shm"
	}
	return os.TempDir()
}

// freePort is one that no outgoing connection is given: a user who dials again
// and again while no guest listens there would be connected to itself, and the
// guest that is started again would find its port taken.
func freePort(t testing.TB) int {
	const first, last = 20000, 32000 // below net.ipv4.ip_local_port_range
	for range 100 {
		l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", first+rand.IntN(last-first)))
		if err == nil {
			defer l.Close()
			return l.Addr().(*net.TCPAddr).Port
		}
	}
	t.Fatal("no port is free")
	return 0
}

// vm is a guest process of a test, and its agent's hold on it.
type vm struct {
	t      testing.TB
	config Config
	cmd    *exec.Cmd
	*Remote
}

// makeFiles makes the memory and disk that an agent makes.
func makeFiles(t testing.TB, folder string, s Spec) {
	m, err := CreateMemory(folder, s.Memory, true)
	require.NoError(t, err)
	require.NoError(t, m.Close())
	if s.Disk > 0 {
		d, err := CreateDisk(folder, s.Disk)
		require.NoError(t, err)
		require.NoError(t, d.Close())
	}
}

// boot starts a guest on the files in folder.
func boot(t testing.TB, folder string, s Spec) *vm {
	self, err := os.Executable()
	require.NoError(t, err)
	c := Config{Spec: s, Folder: folder, Socket: filepath.Join(folder, "control")}
	cmd, err := Launch(within(t), self, c, func(cmd *exec.Cmd) error { cmd.Stderr = os.Stderr; return cmd.Start() })
	require.NoError(t, err)
	v := &vm{t: t, config: c, cmd: cmd}
	t.Cleanup(v.kill)
	v.Remote, err = Connect(within(t), c.Socket, "")
	require.NoError(t, err)
	return v
}

func (v *vm) kill() {
	_ = v.cmd.Process.Kill()
	_ = v.cmd.Wait()
}

func (v *vm) address() string { return "127.0.0.1:" + strconv.Itoa(v.config.Spec.Port) }

// user is a client that asks without rest.
type user struct {
	*Client
	done int
	err  error
}

// users begins n of them; stop ends them and tells what became of them.
func (v *vm) users(n int) (stop func() []*user) {
	ctx, cancel := context.WithCancel(within(v.t))
	var all sync.WaitGroup
	list := make([]*user, n)
	for i := range list {
		c, err := Dial(ctx, v.address(), uint64(i+1), 0)
		require.NoError(v.t, err)
		u := &user{Client: c}
		list[i] = u
		all.Go(func() {
			for k := 0; ctx.Err() == nil && u.err == nil; k++ {
				_, u.err = u.Do(within(v.t), NextKind(v.config.Spec.Workload, float64(k%10)/10))
				u.done++
			}
		})
	}
	return func() []*user { cancel(); all.Wait(); return list }
}

// copyFile copies all of a file, holes as zeros.
func copyFile(t testing.TB, from, to string) {
	in, err := os.Open(from)
	require.NoError(t, err)
	defer in.Close()
	out, err := os.Create(to)
	require.NoError(t, err)
	_, err = io.Copy(out, in)
	require.NoError(t, err)
	require.NoError(t, out.Close())
}

// moveTo makes the memory and disk of a paused guest again in folder.
func (v *vm) copyTo(folder string) {
	s := v.config.Spec
	makeFiles(v.t, folder, s)
	from, err := OpenMemory(v.config.Folder)
	require.NoError(v.t, err)
	defer from.Close()
	to, err := OpenMemory(folder)
	require.NoError(v.t, err)
	defer to.Close()
	copy(to.Bytes(), from.Bytes())
	if s.Disk > 0 {
		copyFile(v.t, filepath.Join(v.config.Folder, DiskFile), filepath.Join(folder, DiskFile))
	}
}

func shop(t testing.TB) Spec {
	return Spec{Name: "shop", Memory: 16 << 20, Disk: 8 << 20, Workload: TPCW, Seed: 7, Port: freePort(t)}
}

// steps waits until the guest has made n more steps.
func (v *vm) stepsMore(n uint64) Status {
	ctx := within(v.t)
	first, err := v.Status(ctx)
	require.NoError(v.t, err)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := v.Status(ctx)
		require.NoError(v.t, err, "wait for the guest to make %d steps", n)
		if s.Steps >= first.Steps+n || s.Fault != "" {
			return s
		}
		<-tick.C
	}
}

func TestGuestMovesWithItsClients(t *testing.T) {
	here, there := host(t), host(t)
	s := shop(t)
	makeFiles(t, here, s)
	v := boot(t, here, s)
	stop := v.users(4)
	require.Empty(t, v.stepsMore(50).Fault)

	ctx := within(t)
	at, state, err := v.Pause(ctx)
	require.NoError(t, err)
	again, state2, err := v.Pause(ctx)
	require.NoError(t, err)
	require.Equal(t, at, again)
	require.Equal(t, state, state2)
	v.copyTo(there)
	require.NoError(t, v.Prepare(ctx, there, AdoptOptions{}))
	began, err := v.Adopt(ctx, there, state, AdoptOptions{})
	require.NoError(t, err)
	require.Greater(t, began, at)
	same, err := v.Adopt(ctx, there, state, AdoptOptions{})
	require.NoError(t, err)
	require.Equal(t, began, same, "adopt asked for again")

	// The former memory stays as it was, whatever the guest does.
	before, err := OpenMemory(here)
	require.NoError(t, err)
	defer before.Close()
	frozen := string(before.Bytes())
	st := v.stepsMore(200)
	require.Empty(t, st.Fault)
	require.Equal(t, there, st.Folder)
	require.True(t, st.Running)
	require.Equal(t, frozen, string(before.Bytes()))

	acked := uint64(0)
	for _, u := range stop() {
		require.NoError(t, u.err)
		require.Greater(t, u.done, 10)
		acked += u.Acked()
		a, err := u.Do(ctx, Count)
		require.NoError(t, err)
		require.Equal(t, u.Acked(), a.Value)
	}
	require.Positive(t, acked)
	st, err = v.Status(ctx)
	require.NoError(t, err)
	require.Empty(t, st.Fault)
	require.Equal(t, acked, st.Acked)

	// The host that it left has no say any more.
	old, err := Connect(ctx, v.config.Socket, here)
	require.NoError(t, err)
	defer old.Close()
	_, _, err = old.Pause(ctx)
	require.ErrorIs(t, err, ErrRefused)
}

func TestGuestFindsWhatAMigrationMangled(t *testing.T) {
	for name, mangle := range map[string]func(memory, page []byte){
		"a bit":     func(_, page []byte) { page[0] ^= 4 },
		"a page":    func(_, page []byte) { clear(page) },
		"all pages": func(memory, _ []byte) { clear(memory) },
	} {
		t.Run(name, func(t *testing.T) {
			here, there := host(t), host(t)
			s := shop(t)
			s.Workload, s.Memory, s.Disk = MMuncher, 1<<20, 0 // reads each page that it writes
			makeFiles(t, here, s)
			v := boot(t, here, s)
			v.stepsMore(10)
			ctx := within(t)
			_, state, err := v.Pause(ctx)
			require.NoError(t, err)
			v.copyTo(there)
			m, err := OpenMemory(there)
			require.NoError(t, err)
			q := int(newPlan(s, profiles[s.Workload]).sweep[0][0])
			mangle(m.Bytes(), m.Bytes()[q*PageSize:][:PageSize])
			require.NoError(t, m.Close())
			_, err = v.Adopt(ctx, there, state, AdoptOptions{})
			require.NoError(t, err)
			st := v.stepsMore(1000)
			require.Contains(t, st.Fault, "differs")
		})
	}
}

func TestGuestRebootsWithItsLedger(t *testing.T) {
	here := host(t)
	s := shop(t)
	makeFiles(t, here, s)
	v := boot(t, here, s)
	stop := v.users(3)
	v.stepsMore(100)
	v.kill()
	users := stop()
	makeMemory := func() {
		m, err := CreateMemory(here, s.Memory, true)
		require.NoError(t, err)
		require.NoError(t, m.Close())
	}
	makeMemory()
	v = boot(t, here, s)
	ctx := within(t)
	for _, u := range users {
		require.Positive(t, u.Acked())
		c, err := Dial(ctx, v.address(), u.id, u.Acked())
		require.NoError(t, err)
		a, err := c.Do(ctx, Count)
		require.NoError(t, err)
		require.GreaterOrEqual(t, a.Value, u.Acked(), "acknowledged and lost")
		require.LessOrEqual(t, a.Value, u.Acked()+1, "never asked for")
		_, err = c.Do(ctx, Increment)
		require.NoError(t, err)
		require.NoError(t, c.Close())
	}
	require.Empty(t, v.stepsMore(20).Fault)
}

// A guest that stands, or that waits for a page that never comes, ends when it
// is told to.
func TestGuestEndsWhateverItDoes(t *testing.T) {
	for name, stop := range map[string]func(v *vm){
		"runs":   func(*vm) {},
		"stands": func(v *vm) { _, _, err := v.Pause(within(t)); require.NoError(t, err) },
		"waits for a page": func(v *vm) {
			needUFFD(t)
			_, f, _, _ := postCopy(t, v, host(t), nil)
			_, err := f.Next(within(t))
			require.NoError(t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			here := host(t)
			s := shop(t)
			s.Disk = 0
			makeFiles(t, here, s)
			v := boot(t, here, s)
			end := v.users(2)
			v.stepsMore(5)
			stop(v)
			require.NoError(t, v.cmd.Process.Signal(syscall.SIGTERM))
			ended := make(chan error, 1)
			go func() { ended <- v.cmd.Wait() }()
			select {
			case <-ended:
			case <-within(t).Done():
				t.Fatal("it did not end")
			}
			end()
		})
	}
}
