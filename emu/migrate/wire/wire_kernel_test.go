package wire_test

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/emu/migrate/wire"
)

// link joins two namespaces by a line of a rate and a one-way delay, shaped at
// both ends as the fabric does it. Names are of 10 letters at most.
func link(t *testing.T, name, rate, delay string) (a, b string) {
	a, b = name+"-a", name+"-b"
	run(t, "ip netns add "+a)
	run(t, "ip netns add "+b)
	t.Cleanup(func() {
		run(t, "ip netns del "+a)
		run(t, "ip netns del "+b)
	})
	run(t, "ip link add e netns "+a+" type veth peer name e netns "+b)
	for i, ns := range []string{a, b} {
		in := "ip netns exec " + ns + " "
		run(t, in+"ip addr add 10.9.0."+string(rune('1'+i))+"/24 dev e")
		run(t, in+"ip link set e up")
		run(t, in+"tc qdisc add dev e root handle 1: netem delay "+delay+" limit 20000")
		run(t, in+"tc qdisc add dev e parent 1: handle 2: hfsc default 1")
		run(t, in+"tc class add dev e parent 2: classid 2:1 hfsc ls rate "+rate+" ul rate "+rate)
		run(t, in+"tc qdisc add dev e parent 2:1 pfifo limit 1000")
	}
	return a, b
}

func run(t *testing.T, command string) {
	t.Helper()
	f := strings.Fields(command)
	out, err := exec.Command(f[0], f[1:]...).CombinedOutput()
	require.NoErrorf(t, err, "%s: %s", command, out)
}

// inside runs do in a namespace.
func inside(name string, do func() error) error {
	runtime.LockOSThread() // not unlocked: the thread is not used again
	ns, err := netns.GetFromName(name)
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := netns.Set(ns); err != nil {
		return err
	}
	return do()
}

// in is inside, and returns to the caller's namespace by returning to its thread.
func in(name string, do func() error) error {
	done := make(chan error)
	go func() { done <- inside(name, do) }()
	return <-done
}

func cpuTime() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestLine: over a line of a lab a session is as fast as plain TCP, and takes
// not much more of the one processor that everything there shares.
func TestLine(t *testing.T) {
	kerneltest.Need(t)
	for _, line := range []struct{ name, rate, delay string }{{"w100", "100mbit", "2ms"}, {"w465", "465mbit", "3ms"}} {
		t.Run(line.rate, func(t *testing.T) {
			a, b := link(t, line.name, line.rate, line.delay)
			const size, count = 64 << 10, 500
			plainTook, plainCPU := overTCP(t, a, b, size, count)
			took, cpu := overSession(t, a, b, size, count)
			mbit := func(d time.Duration) float64 { return size * count * 8 / d.Seconds() / 1e6 }
			t.Logf("plain TCP %.0f Mbit/s, %v of processor; session %.0f Mbit/s, %v", mbit(plainTook), plainCPU, mbit(took), cpu)
			require.Less(t, took, plainTook*13/10)
		})
	}
}

func overSession(t *testing.T, a, b string, size, count int) (took, cpu time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	var l net.Listener
	require.NoError(t, in(b, func() (err error) {
		l, err = wire.ListenTCP(ctx, netip.MustParseAddrPort("10.9.0.2:7000"))
		return err
	}))
	ln := wire.Listen(l, wire.Config{})
	defer ln.Close()
	accepted := make(chan wire.Session, 1)
	go func() {
		s, err := ln.Accept(ctx, 0)
		if err != nil {
			t.Errorf("accept: %v", err)
		}
		accepted <- s
	}()
	s, err := wire.Open(ctx, wire.Config{Dial: func(ctx context.Context) (c net.Conn, err error) {
		err = in(a, func() error {
			c, err = wire.DialTCP(netip.MustParseAddrPort("10.9.0.2:7000"))(ctx)
			return err
		})
		return c, err
	}})
	require.NoError(t, err)
	r := <-accepted
	defer r.Close()
	defer s.Close()
	p := make([]byte, size)
	go func() {
		for range count {
			if err := s.Send(ctx, 1, p); err != nil {
				t.Errorf("send: %v", err)
				return
			}
		}
	}()
	began, before := time.Now(), cpuTime()
	for range count {
		_, err := r.Receive(ctx)
		require.NoError(t, err)

	}
	took, cpu = time.Since(began), cpuTime()-before
	t.Logf("%+v, waited for the link %v", s.Stats(), s.Waiting())
	return took, cpu
}

func overTCP(t *testing.T, a, b string, size, count int) (took, cpu time.Duration) {
	var l net.Listener
	var c net.Conn
	require.NoError(t, in(b, func() (err error) { l, err = net.Listen("tcp4", "10.9.0.2:7001"); return err }))
	defer l.Close()
	require.NoError(t, in(a, func() (err error) { c, err = net.Dial("tcp4", "10.9.0.2:7001"); return err }))
	defer c.Close()
	r, err := l.Accept()
	require.NoError(t, err)
	defer r.Close()
	p := make([]byte, size)
	go func() {
		for range count {
			if _, err := c.Write(p); err != nil {
				t.Errorf("write: %v", err)
				return
			}
		}
	}()
	q := make([]byte, 1<<20)
	began, before := time.Now(), cpuTime()
	for left := size * count; left > 0; {
		n, err := r.Read(q[:min(left, len(q))])
		if err != io.EOF {
			require.NoError(t, err)
		}
		left -= n
	}
	return time.Since(began), cpuTime() - before
}
