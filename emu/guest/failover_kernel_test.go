package guest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netns"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/emu/plug"
)

// seatsScript makes two seats of a VM, with the same address and MAC address, and
// clients, at one switch.
const seatsScript = `set -e
ip netns add hub; ip -n hub link add name sw type bridge; ip -n hub link set sw up
for n in seat0 seat1 clients; do
	ip netns add $n
	ip -n hub link add $n type veth peer name eth0 netns $n
	ip -n hub link set $n master sw
	ip -n $n link set lo up
done
for n in seat0 seat1; do
	ip -n $n link set eth0 address 02:00:00:00:00:01
	ip -n $n addr add 10.0.0.1/24 dev eth0
	ip -n $n link set eth0 up
done
ip -n clients addr add 10.0.0.2/24 dev eth0; ip -n clients link set eth0 up
ip -n hub link set seat0 up; ip -n hub link set clients up
`

func shell(t testing.TB, script string) {
	out, err := exec.Command("sh", "-c", script).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

func seatPath(seat int) string { return fmt.Sprintf("/run/netns/seat%d", seat) }

// inside runs fn in a namespace.
func inside(path string, fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		ns, err := netns.GetFromPath(path)
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

// launchIn starts a guest process in a seat; without a folder it waits.
func launchIn(t testing.TB, seat int, folder string, s Spec) *vm {
	self, err := os.Executable()
	require.NoError(t, err)
	c := Config{Spec: s, Folder: folder, Socket: filepath.Join(host(t), "control")}
	cmd, err := Launch(within(t), self, c, func(cmd *exec.Cmd) error {
		cmd.Stderr = os.Stderr
		return inside(seatPath(seat), cmd.Start)
	})
	require.NoError(t, err)
	v := &vm{t: t, config: c, cmd: cmd}
	t.Cleanup(v.kill)
	v.Remote, err = Connect(within(t), c.Socket, "")
	require.NoError(t, err)
	return v
}

// TestClientsGoOnElsewhere kills a VM again and again between its checkpoints, and
// another process in another kernel goes on: with the same connections of the
// clients, of which none breaks, and with everything that they were told.
func TestClientsGoOnElsewhere(t *testing.T) {
	kerneltest.Need(t)
	shell(t, seatsScript)
	t.Cleanup(func() { shell(t, "for n in seat0 seat1 clients hub; do ip netns del $n; done") })
	s := Spec{Name: "shop", Memory: 2 << 20, Disk: minDisk, Workload: TPCW, Seed: 7, Port: 8000}
	folder := host(t)
	makeFiles(t, folder, s)
	v := launchIn(t, 0, folder, s)
	active := 0
	gate, err := plug.New(seatPath(0), "eth0")
	require.NoError(t, err)
	defer func() { gate.Close() }()

	const users = 12
	failovers := 4
	if n, err := strconv.Atoi(os.Getenv("VPCLAB_FAILOVERS")); err == nil {
		failovers *= n
	}
	limit, end := context.WithTimeout(t.Context(), time.Duration(failovers)*patience/4)
	defer end()
	ctx, cancel := context.WithCancel(limit)
	defer cancel()
	type user struct {
		*Client
		answered chan struct{}
		err      error
	}
	var list []*user
	var all sync.WaitGroup
	for i := range uint64(users) {
		var conn net.Conn
		require.NoError(t, inside("/run/netns/clients", func() (err error) {
			conn, err = net.DialTimeout("tcp4", "10.0.0.1:8000", 5*time.Second)
			return err
		}))
		u := &user{Client: NewClient(conn, i+1, 0), answered: make(chan struct{}, 1)}
		defer u.Close()
		list = append(list, u)
		all.Go(func() {
			for n := uint64(0); ctx.Err() == nil && u.err == nil; n++ {
				_, u.err = u.Do(t.Context(), NextKind(TPCW, float64(mix(i<<32+n)%1000)/1000))
				select {
				case u.answered <- struct{}{}:
				default:
				}
				select {
				case <-ctx.Done():
				case <-time.After(time.Duration(mix(i+n<<32) % uint64(20*time.Millisecond))):
				}
			}
		})
	}
	var pauses, recoveries, adopts, resends []time.Duration
	var bytes int
	for n := range failovers {
		next := host(t)
		makeFiles(t, next, s)
		w := launchIn(t, 1-active, "", s)
		require.NoError(t, w.Prepare(ctx, next, AdoptOptions{}))
		var state []byte
		for k := range 6 {
			e, err := gate.Mark()
			require.NoError(t, err)
			began := event.Now()
			_, state, err = v.Checkpoint(ctx, true)
			require.NoError(t, err)
			if k > 0 {
				pauses = append(pauses, event.Now().Sub(began))
			}
			copyInto(t, v.config.Folder, next)
			_, err = v.Resume(ctx)
			require.NoError(t, err)
			bytes = len(state)
			if k < 5 || n%2 == 0 { // else it dies before it hears that the last one is safe
				require.NoError(t, gate.Release(e-1))
			}
			select {
			case <-time.After(time.Duration(3+n) * time.Millisecond):
			case <-ctx.Done():
				require.NoError(t, context.Cause(ctx))
			}
		}
		shell(t, fmt.Sprintf("ip -n hub link set seat%d down", active))
		v.kill()
		require.NoError(t, errors.Join(plug.Remove(seatPath(active), "eth0"), gate.Close()))
		active = 1 - active
		gate, err = plug.New(seatPath(active), "eth0")
		require.NoError(t, err)
		died := event.Now()
		_, err = w.Adopt(ctx, next, state, AdoptOptions{})
		require.NoError(t, err)
		adopts = append(adopts, event.Now().Sub(died))
		st, err := w.Status(ctx)
		require.NoError(t, err)
		require.Equal(t, users, st.Clients, "%d dropped", st.Dropped)
		require.Zero(t, st.Dropped)
		for _, u := range list {
			select {
			case <-u.answered:
			default:
			}
		}
		// Until the port forwards, questions for neighbours are lost.
		shell(t, fmt.Sprintf("ip -n hub link set seat%[1]d up; for i in $(seq 100); do bridge -n hub link show dev seat%[1]d | grep -q forwarding && exit; done; exit 1", active))
		up := event.Now()
		require.NoError(t, w.Resend(ctx))
		resends = append(resends, event.Now().Sub(up))
		require.NoError(t, w.Resend(ctx), "asked for again")
		for i, u := range list {
			select {
			case <-u.answered:
				require.NoError(t, u.err, "user %d after failover %d", i, n)
			case <-time.After(20 * time.Second):
				t.Fatalf("user %d waited 20 s for an answer after failover %d", i, n)
			}
		}
		recoveries = append(recoveries, event.Now().Sub(up))
		v = w
		v.config.Folder = next
		require.Empty(t, v.stepsMore(3).Fault)
	}
	cancel()
	all.Wait()
	require.NoError(t, gate.Open())
	acked := uint64(0)
	for i, u := range list {
		require.NoError(t, u.err, "user %d", i)
		a, err := u.Do(within(t), Count)
		require.NoError(t, err, "user %d", i)
		require.Equal(t, u.Acked(), a.Value, "user %d", i)
		acked += a.Value
	}
	require.Positive(t, acked)
	t.Logf("%d failovers, %d users, %d transactions; state of %d bytes, checkpoint in %v, adopt in %v, resend in %v, all users answered %v after the port was up (worst %v)",
		failovers, users, acked, bytes, middle(pauses), middle(adopts), middle(resends), middle(recoveries), slices.Max(recoveries))
}

func middle(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2].Round(time.Microsecond)
}

// copyInto makes the memory and disk in one folder those in the other.
func copyInto(t testing.TB, from, to string) {
	a, err := OpenMemory(from)
	require.NoError(t, err)
	b, err := OpenMemory(to)
	require.NoError(t, err)
	copy(b.Bytes(), a.Bytes())
	require.NoError(t, errors.Join(a.Close(), b.Close()))
	disk, err := os.ReadFile(filepath.Join(from, DiskFile))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(to, DiskFile), disk, 0o600))
}

// TestWhatTheProgramHoldsGoesAlong: half a request that the program has read, and
// an answer that waits for a write to count, are in nobody's kernel.
func TestWhatTheProgramHoldsGoesAlong(t *testing.T) {
	kerneltest.Need(t)
	shell(t, seatsScript)
	t.Cleanup(func() { shell(t, "for n in seat0 seat1 clients hub; do ip netns del $n; done") })
	s := Spec{Name: "shop", Memory: 2 << 20, Disk: minDisk, Workload: Idle, Seed: 7, Port: 8000}
	folder, next := host(t), host(t)
	makeFiles(t, folder, s)
	makeFiles(t, next, s)
	v, w := launchIn(t, 0, folder, s), launchIn(t, 1, "", s)
	ctx := within(t)
	dial := func() (conn net.Conn) {
		require.NoError(t, inside("/run/netns/clients", func() (err error) {
			conn, err = net.DialTimeout("tcp4", "10.0.0.1:8000", 5*time.Second)
			return err
		}))
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	halved, owed := dial(), NewClient(dial(), 2, 0)
	_, err := NewClient(halved, 1, 0).Do(ctx, Ping)
	require.NoError(t, err)
	path := filepath.Join(folder, "mirror")
	server, err := ListenMirror(path)
	require.NoError(t, err)
	defer server.Close()
	accepted := make(chan error, 1)
	go func() { accepted <- server.Accept(ctx) }()
	require.NoError(t, v.Mirror(ctx, path))
	require.NoError(t, <-accepted)
	answered := make(chan error, 1)
	go func() { _, err := owed.Do(ctx, Increment); answered <- err }()
	_, _, err = server.Next(ctx) // it is done, and nobody says that it counts
	require.NoError(t, err)
	request := appendRequest(nil, Increment, 1, 1)
	_, err = halved.Write(request[:7])
	require.NoError(t, err)
	// The program reads it when it comes: then nothing waits in the kernel.
	require.Eventually(t, func() bool {
		var out []byte
		require.NoError(t, inside(seatPath(0), func() (err error) {
			out, err = exec.Command("ss", "-Htn", "state", "established", "sport = :8000").Output()
			return err
		}))
		for line := range strings.Lines(string(out)) {
			if f := strings.Fields(line); len(f) > 0 && f[0] != "0" {
				return false
			}
		}
		return true
	}, patience, 10*time.Millisecond)
	_, state, err := v.Checkpoint(ctx, true)
	require.NoError(t, err)
	copyInto(t, folder, next)
	shell(t, "ip -n hub link set seat0 down")
	v.kill()
	_, err = w.Adopt(ctx, next, state, AdoptOptions{})
	require.NoError(t, err)
	shell(t, "ip -n hub link set seat1 up; for i in $(seq 100); do bridge -n hub link show dev seat1 | grep -q forwarding && exit; done; exit 1")
	require.NoError(t, w.Resend(ctx))
	require.NoError(t, <-answered)
	_, err = halved.Write(request[7:])
	require.NoError(t, err)
	require.NoError(t, halved.SetReadDeadline(time.Now().Add(patience)))
	a, failed, _, err := readAnswer(bufio.NewReader(halved), nil)
	require.NoError(t, err)
	require.False(t, failed, "%s", a.Body)
	require.Equal(t, uint64(2), a.Value, "increments of all clients")
}
