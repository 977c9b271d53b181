package vmm

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/child"
	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
)

// hostsScript makes a VM's namespace, its clients' at the other end of its port,
// and those of two hosts.
const hostsScript = `set -e
for n in vm clients host-a host-b; do ip netns add $n; ip -n $n link set lo up; done
ip -n vm link add eth0 type veth peer name eth0 netns clients
ip -n vm link set eth0 address 02:00:00:00:00:01 mtu 1400
ip -n clients link set eth0 mtu 1400
ip -n vm addr add 10.0.0.1/24 dev eth0; ip -n vm link set eth0 up
ip -n clients addr add 10.0.0.2/24 dev eth0; ip -n clients link set eth0 up
`

func shell(t testing.TB, script string) {
	out, err := exec.Command("sh", "-c", script).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

func namespace(name string) string { return "/run/netns/" + name }

// inNamespace runs fn in a namespace.
func inNamespace(name string, fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		ns, err := netns.GetFromPath(namespace(name))
		if err == nil {
			err = netns.Set(ns)
			ns.Close()
		}
		if err == nil {
			err = fn()
		}
		done <- err
	}()
	return <-done
}

// user is a client who increments the ledger as often as it can.
type user struct {
	*guest.Client
	waits []time.Duration // for each answer
	err   error
}

// dial connects from the clients' namespace.
func dial(t testing.TB) (u *user) {
	err := inNamespace("clients", func() error {
		d := net.Dialer{Timeout: 10 * time.Second}
		conn, err := d.Dial("tcp4", "10.0.0.1:8000")
		if err == nil {
			u = &user{Client: guest.NewClient(conn, 1, 0)}
		}
		return err
	})
	require.NoError(t, err)
	t.Cleanup(func() { u.Close() })
	return u
}

func (u *user) run(ctx context.Context) {
	for ctx.Err() == nil {
		began := time.Now()
		one, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		_, err := u.Do(one, guest.Increment)
		cancel()
		if err != nil {
			u.err = err
			return
		}
		u.waits = append(u.waits, time.Since(began))
	}
}

// TestAClientsConnectionGoesAlong moves a VM between two hosts, whose namespaces
// its QEMU runs in, while a client talks to it by a connection that stays the same.
func TestAClientsConnectionGoesAlong(t *testing.T) {
	kerneltest.Need(t)
	needGuests(t)
	began := time.Now()
	defer func() { t.Logf("all: %v", time.Since(began).Round(time.Second)) }()
	shell(t, hostsScript)
	t.Cleanup(func() { shell(t, "for n in vm clients host-a host-b; do ip netns del $n; done") })
	dir, err := os.MkdirTemp("/dev/shm", "vpclab-test-")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := small()
	s.Port = 8000
	v := &kept{t: t, dir: dir, words: &child.Tail{}, start: func(cmd *exec.Cmd) error { return fabric.StartIn(namespace("vm"), cmd) }}
	v.makeHost("a", s)
	v.makeHost("b", s)
	v.config = guest.Config{Spec: s, Folder: v.host("a"), Socket: filepath.Join(dir, "control"), NetNS: namespace("host-a")}
	v.launch()
	require.Equal(t, nsOf(t, namespace("host-a")), nsOf(t, fmt.Sprintf("/proc/%d/ns/net", v.qemus()[0])))

	u := dial(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var all sync.WaitGroup
	all.Go(func() { u.run(ctx) })
	v.awaitSteps(50)
	names := []string{"a", "b"}
	for n := range 4 {
		from, to := names[n%2], names[(n+1)%2]
		v.freshMemory(to, s)
		v.moveTo(from, to, guest.AdoptOptions{NetNS: namespace("host-" + to)})
		require.Equal(t, v.host(to), v.awaitSteps(10).Folder)
	}
	cancel()
	all.Wait()
	require.NoError(t, u.err)
	a, err := u.Do(v.within(), guest.Count)
	require.NoError(t, err)
	require.Equal(t, u.Acked(), a.Value)
	status, err := v.Status(v.within())
	require.NoError(t, err)
	require.Empty(t, status.Fault)
	require.Equal(t, uint64(len(u.waits)), u.Acked())
	require.GreaterOrEqual(t, status.Acked, u.Acked())
	v.mirrored(u)
	slices.Sort(u.waits)
	t.Logf("%d increments on the disk: median %v, longest %v", len(u.waits), u.waits[len(u.waits)/2].Round(time.Millisecond), u.waits[len(u.waits)-1].Round(time.Millisecond))
}

// mirrored has the VM's writes wait for another host. What is under way when it
// stands does not keep it from standing, and counts before it goes on.
func (v *kept) mirrored(u *user) {
	ctx := v.within()
	path := filepath.Join(v.dir, "mirror")
	m, err := guest.ListenMirror(path)
	require.NoError(v.t, err)
	defer m.Close()
	accepted := make(chan error, 1)
	go func() { accepted <- m.Accept(ctx) }()
	require.NoError(v.t, v.Mirror(ctx, path))
	require.NoError(v.t, <-accepted)
	var answered sync.WaitGroup
	answered.Go(func() { _, u.err = u.Do(ctx, guest.Increment) })
	number, _, err := m.Next(ctx) // it is on the disk, and here
	require.NoError(v.t, err)
	_, _, err = v.Pause(ctx)
	require.NoError(v.t, err)
	soon, cancel := context.WithTimeoutCause(ctx, 100*time.Millisecond, fmt.Errorf("not soon"))
	defer cancel()
	_, err = v.Resume(soon)
	require.Error(v.t, err)
	r, err := guest.Connect(ctx, v.config.Socket, "") // the former was given up with the wait
	require.NoError(v.t, err)
	v.t.Cleanup(func() { r.Close() })
	v.Remote = r
	s, err := v.Status(ctx)
	require.NoError(v.t, err)
	require.False(v.t, s.Running)
	require.NoError(v.t, m.Ack(number))
	_, err = v.Resume(ctx)
	require.NoError(v.t, err)
	require.NoError(v.t, v.Mirror(ctx, "")) // what comes after counts without it
	answered.Wait()
	require.NoError(v.t, u.err)
}

func nsOf(t testing.TB, path string) uint64 {
	var st unix.Stat_t
	require.NoError(t, unix.Stat(path, &st))
	return st.Ino
}
