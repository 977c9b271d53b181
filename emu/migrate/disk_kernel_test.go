package migrate_test

import (
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netns"

	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/emu/migrate"
	"github.com/vpclab/vpclab/emu/migrate/wire"
	"github.com/vpclab/vpclab/emu/warm"
)

// TestDiskOverLine moves a disk of incompressible blocks over a line of a lab:
// mostly it is the line that is waited for, and a mirrored write waits for little more than the round
// trip.
func TestDiskOverLine(t *testing.T) {
	kerneltest.Need(t)
	const rate, delay = 100e6, 10 * time.Millisecond
	line(t, "100mbit", "10ms")
	from, to := newTestDisk(4096), newTestDisk(4096) // 16 MiB
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(from.image)           // never fails
	require.NoError(t, warm.Range(to.image)) // what memory costs is not the question
	ctx, cancel := context.WithTimeout(context.Background(), diskLimit)
	defer cancel()
	a, b := overLine(t, ctx)
	r := migrate.ReceiveDisk(ctx, b, to, migrate.DiskOptions{})
	m, err := migrate.SendDisk(ctx, a, from, migrate.DiskOptions{})
	require.NoError(t, err)
	defer m.Close()
	p := make([]byte, block)
	for i := range 50 {
		_, _ = random.Read(p) // never fails
		_, there := from.write(p, int64(i*37)*block)
		require.True(t, there)
	}
	require.NoError(t, m.Settle(ctx))
	require.NoError(t, r.AwaitSettled(ctx))
	rep, err := m.Prove(ctx)
	require.NoError(t, err)
	slices.Sort(rep.Waits)
	median := rep.Waits[len(rep.Waits)/2]
	mbit := float64(rep.Rounds[0].Bytes) * 8 / rep.Asynchronous().Seconds() / 1e6
	t.Logf("asynchronous %v: %.0f Mbit/s, the link was waited for in %v; writes waited %v, at most %v", rep.Asynchronous(), mbit, a.Waiting(), median, rep.Waits[len(rep.Waits)-1])
	require.Greater(t, mbit, rate/1e6/3, "slow start and two round trips are in it, and a processor that is shared")
	require.Greater(t, median, 2*delay)
	require.Less(t, median, 2*delay+15*time.Millisecond)
}

// line joins the namespaces disk-a and disk-b.
func line(t *testing.T, rate, delay string) {
	for _, ns := range []string{"disk-a", "disk-b"} {
		run(t, "ip netns add "+ns)
		t.Cleanup(func() { run(t, "ip netns del "+ns) })
	}
	run(t, "ip link add e netns disk-a type veth peer name e netns disk-b")
	for ns, addr := range map[string]string{"disk-a": "10.9.0.1/24", "disk-b": "10.9.0.2/24"} {
		in := "ip netns exec " + ns + " "
		run(t, in+"ip addr add "+addr+" dev e")
		run(t, in+"ip link set e up")
		run(t, in+"tc qdisc add dev e root handle 1: netem delay "+delay+" limit 20000")
		run(t, in+"tc qdisc add dev e parent 1: handle 2: hfsc default 1")
		run(t, in+"tc class add dev e parent 2: classid 2:1 hfsc ls rate "+rate+" ul rate "+rate)
		run(t, in+"tc qdisc add dev e parent 2:1 pfifo limit 500")
	}
}

func run(t *testing.T, command string) {
	t.Helper()
	f := strings.Fields(command)
	out, err := exec.Command(f[0], f[1:]...).CombinedOutput()
	require.NoErrorf(t, err, "%s: %s", command, out)
}

// within runs do in a namespace, on a thread that is not used again.
func within(name string, do func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		ns, err := netns.GetFromName(name)
		if err == nil {
			defer ns.Close()
			err = netns.Set(ns)
		}
		if err == nil {
			err = do()
		}
		done <- err
	}()
	return <-done
}

// overLine opens a session from disk-a to disk-b.
func overLine(t *testing.T, ctx context.Context) (a, b wire.Session) {
	at := netip.MustParseAddrPort("10.9.0.2:7000")
	var l net.Listener
	require.NoError(t, within("disk-b", func() (err error) {
		l, err = wire.ListenTCP(ctx, at)
		return err
	}))
	ln := wire.Listen(l, wire.Config{})
	t.Cleanup(func() { _ = ln.Close() })
	accepted := make(chan wire.Session, 1)
	go func() {
		s, err := ln.Accept(ctx, 2)
		if err != nil {
			t.Errorf("accept: %v", err)
		}
		accepted <- s
	}()
	a, err := wire.Open(ctx, wire.Config{Channel: 2, Dial: func(ctx context.Context) (c net.Conn, err error) {
		err = within("disk-a", func() error {
			c, err = wire.DialTCP(at)(ctx)
			return err
		})
		return c, err
	}})
	require.NoError(t, err)
	b = <-accepted
	t.Cleanup(func() {
		_ = a.Close()
		_ = b.Close()
	})
	return a, b
}
