package plug_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/fabric/rtnl"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/emu/plug"
)

// ground is a VM's namespace and a client's, with a wire between them.
type ground struct {
	t          testing.TB
	vm, client netns.NsHandle
	path       string // of the VM's
}

var vmAddr, clientAddr = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")

// in runs fn in a namespace; what it opens stays there.
func in[T any](t testing.TB, ns netns.NsHandle, fn func() (T, error)) T {
	t.Helper()
	var out T
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		err := netns.Set(ns)
		if err == nil {
			out, err = fn()
		}
		done <- err
	}()
	require.NoError(t, <-done)
	return out
}

func namespace(t testing.TB) netns.NsHandle {
	t.Helper()
	made := make(chan netns.NsHandle)
	go func() {
		runtime.LockOSThread()
		h, err := netns.New()
		if err != nil {
			h = netns.None()
		}
		made <- h
	}()
	h := <-made
	require.True(t, h.IsOpen(), "make a namespace")
	t.Cleanup(func() { h.Close() })
	return h
}

func newGround(t testing.TB) *ground {
	kerneltest.Need(t)
	g := &ground{t: t, vm: namespace(t), client: namespace(t)}
	g.path = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(g.vm))
	up := true
	var b rtnl.Batch
	vm, err := rtnl.DialNS(int(g.vm))
	require.NoError(t, err)
	defer vm.Close()
	b.Veth(rtnl.Veth{Link: rtnl.Link{Name: "eth0", Index: 10}, Peer: rtnl.Link{Name: "eth0", Index: 10}, PeerNS: int(g.client)})
	b.Addr(rtnl.Address{Index: 10, Dev: "eth0", Prefix: netip.PrefixFrom(vmAddr, 24)})
	b.LinkSet(rtnl.LinkChange{Index: 10, Up: &up})
	b.LinkSet(rtnl.LinkChange{Index: 1, Up: &up})
	require.NoError(t, vm.Do(&b))
	client, err := rtnl.DialNS(int(g.client))
	require.NoError(t, err)
	defer client.Close()
	b.Reset()
	b.Addr(rtnl.Address{Index: 10, Dev: "eth0", Prefix: netip.PrefixFrom(clientAddr, 24)})
	b.LinkSet(rtnl.LinkChange{Index: 10, Up: &up})
	require.NoError(t, client.Do(&b))
	return g
}

// newGate makes a gate that goes with the test.
func (g *ground) newGate() *plug.Plug {
	p, err := plug.New(g.path, "eth0")
	require.NoError(g.t, err)
	g.t.Cleanup(func() { require.NoError(g.t, errors.Join(plug.Remove(g.path, "eth0"), p.Close())) })
	return p
}

// datagrams is a socket of the VM and one of the client, which are connected.
func (g *ground) datagrams() (from, to *net.UDPConn) {
	to = in(g.t, g.client, func() (*net.UDPConn, error) {
		return net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(clientAddr, 0)))
	})
	require.NoError(g.t, to.SetReadBuffer(4<<20))
	from = in(g.t, g.vm, func() (*net.UDPConn, error) { return net.DialUDP("udp4", nil, to.LocalAddr().(*net.UDPAddr)) })
	g.t.Cleanup(func() { from.Close(); to.Close() })
	// The neighbour is known before anything is held.
	_, err := from.Write(make([]byte, 16))
	require.NoError(g.t, err)
	g.read(to, time.Second)
	return from, to
}

// read gives the two numbers of the next datagram; ok is false when none comes
// in time.
func (g *ground) read(c *net.UDPConn, within time.Duration) (epoch, number uint64, ok bool) {
	var b [16]byte
	require.NoError(g.t, c.SetReadDeadline(time.Now().Add(within)))
	if _, err := io.ReadFull(c, b[:]); errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, 0, false
	} else {
		require.NoError(g.t, err)
	}
	return binary.BigEndian.Uint64(b[:]), binary.BigEndian.Uint64(b[8:]), true
}

func send(t testing.TB, c *net.UDPConn, epoch, number uint64) {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], epoch)
	binary.BigEndian.PutUint64(b[8:], number)
	_, err := c.Write(b[:])
	require.NoError(t, err)
}

// TestNothingOfAnUnreleasedEpochLeaves marks, sends and releases at random, and
// looks at each datagram that arrives: whether its epoch was let go, and whether
// it is the next one.
func TestNothingOfAnUnreleasedEpochLeaves(t *testing.T) {
	g := newGround(t)
	from, to := g.datagrams()
	p := g.newGate()
	var released atomic.Uint64 // the most that may leave
	var sent uint64
	arrived := make(chan error, 1)
	last := make(chan uint64)
	go func() {
		var next uint64
		for end := uint64(0); ; {
			select {
			case end = <-last:
			default:
			}
			if end != 0 && next == end {
				arrived <- nil
				return
			}
			epoch, number, ok := g.read(to, 100*time.Millisecond)
			switch {
			case !ok:
			case epoch > released.Load():
				arrived <- fmt.Errorf("datagram %d of epoch %d left when %d was let go", number, epoch, released.Load())
				return
			case number != next:
				arrived <- fmt.Errorf("datagram %d of epoch %d came in the place of %d", number, epoch, next)
				return
			default:
				next++
			}
		}
	}()
	rng := rand.New(rand.NewPCG(1, 2))
	var epoch, let uint64
	var marks, releases, opens, full int
	for marks+releases < 10_000 {
		switch n := rng.IntN(100); {
		case n < 60:
			e, err := p.Mark()
			if errors.Is(err, plug.ErrFull) {
				require.Equal(t, uint64(plug.Epochs), epoch-let)
				full++
				break
			}
			require.NoError(t, err)
			require.Equal(t, epoch+1, e)
			if epoch = e; epoch == 1 {
				let = 0
			}
			marks++
		case n < 82 && epoch > let+1:
			let += 1 + rng.Uint64N(epoch-let-1)
			released.Store(let)
			require.NoError(t, p.Release(let))
			releases++
		case n == 99 && epoch > 0:
			released.Store(1 << 62)
			require.NoError(t, p.Open())
			send(t, from, epoch, sent)
			sent++
			e, err := p.Mark()
			require.NoError(t, err)
			require.Equal(t, epoch+1, e)
			epoch, let = e, e-1
			// All that was sent with the gate open has arrived, or is under way
			// behind it.
			released.Store(let)
			opens++
		}
		for range rng.IntN(3) {
			if epoch > 0 {
				send(t, from, epoch, sent)
				sent++
			}
		}
		if len(arrived) > 0 {
			require.NoError(t, <-arrived)
		}
	}
	released.Store(1 << 62)
	require.NoError(t, p.Open())
	last <- sent
	select {
	case err := <-arrived:
		require.NoError(t, err)
	case <-time.After(20 * time.Second):
		t.Fatalf("waited 20 s for %d datagrams", sent)
	}
	t.Logf("%d marks, %d releases, %d times open, %d times full, %d datagrams", marks, releases, opens, full, sent)
}

// TestAStreamKeepsItsOrder has TCP send as fast as it can while epochs come and
// go: what arrives out of order would be counted.
func TestAStreamKeepsItsOrder(t *testing.T) {
	g := newGround(t)
	l := in(t, g.vm, func() (net.Listener, error) { return net.Listen("tcp4", vmAddr.String()+":0") })
	defer l.Close()
	client := in(t, g.client, func() (net.Conn, error) { return net.Dial("tcp4", l.Addr().String()) })
	defer client.Close()
	server, err := l.Accept()
	require.NoError(t, err)
	defer server.Close()
	p := g.newGate()
	_, err = p.Mark()
	require.NoError(t, err)
	const size = 8 << 20
	go func() {
		b := make([]byte, 64<<10)
		for n := 0; n < size; n += len(b) {
			if _, err := server.Write(b); err != nil {
				return
			}
		}
	}()
	got := make(chan error, 1)
	go func() { _, err := io.CopyN(io.Discard, client, size); got <- err }()
	began, epochs := event.Now(), 0
	for done := false; !done; {
		e, err := p.Mark()
		require.NoError(t, err)
		epochs++
		select {
		case err := <-got:
			require.NoError(t, err)
			done = true
		case <-time.After(2 * time.Millisecond):
		}
		if e > 3 && e%4 == 0 {
			require.NoError(t, p.Release(e-3))
		}
		require.Less(t, event.Now().Sub(began), 30*time.Second, "wait for %d bytes", size)
	}
	out := in(t, g.client, func() (string, error) {
		b, err := exec.Command("nstat", "-az", "TcpExtTCPOFOQueue").Output()
		return string(b), err
	})
	require.Regexp(t, `TcpExtTCPOFOQueue +0 `, out, "packets came out of order")
	t.Logf("%d bytes in %d epochs, %v", size, epochs, event.Now().Sub(began))
}

// TestMuchIsHeld sends more in one epoch than the kernel's default limit holds.
func TestMuchIsHeld(t *testing.T) {
	g := newGround(t)
	from, to := g.datagrams()
	p := g.newGate()
	_, err := p.Mark()
	require.NoError(t, err)
	const n = 3000
	payload := make([]byte, 1400)
	for range n {
		_, err := from.Write(payload)
		require.NoError(t, err)
	}
	e, err := p.Mark()
	require.NoError(t, err)
	conn, err := rtnl.DialNS(int(g.vm))
	require.NoError(t, err)
	defer conn.Close()
	all, err := conn.Waiting(rtnl.FirstPlugIndex + 10)
	require.NoError(t, err)
	packets, drops := 0, 0
	for _, q := range all {
		if q.Kind == "plug" {
			packets, drops = packets+q.Packets, drops+q.Drops
		}
	}
	require.Equal(t, n, packets)
	require.Zero(t, drops)
	require.NoError(t, p.Release(e-1))
	_, _, ok := g.read(to, time.Second)
	require.True(t, ok)
}

// TestShutIsForGood: neither what was held nor what comes leaves, not by any
// call, not by a successor, not when the interface goes down and up again.
func TestShutIsForGood(t *testing.T) {
	g := newGround(t)
	from, to := g.datagrams()
	p := g.newGate()
	_, err := p.Mark()
	require.NoError(t, err)
	send(t, from, 1, 1)
	began := event.Now()
	require.NoError(t, p.Shut())
	t.Logf("shut in %v", event.Now().Sub(began))
	require.NoError(t, p.Shut(), "safe to repeat")
	_, _ = from.Write(make([]byte, 16)) // the kernel may say that it dropped it
	_, err = p.Mark()
	require.ErrorIs(t, err, plug.ErrShut)
	require.ErrorIs(t, p.Release(1), plug.ErrShut)
	require.ErrorIs(t, p.Open(), plug.ErrShut)
	again, err := plug.Adopt(g.path, "eth0")
	require.NoError(t, err)
	defer again.Close()
	require.ErrorIs(t, again.Open(), plug.ErrShut)
	_, _ = from.Write(make([]byte, 16))
	g.bounce()
	_, _ = from.Write(make([]byte, 16))
	_, n, ok := g.read(to, 200*time.Millisecond)
	require.False(t, ok, "datagram %d left", n)
	require.NoError(t, plug.Remove(g.path, "eth0"))
	send(t, from, 2, 7)
	_, n, ok = g.read(to, time.Second)
	require.True(t, ok, "wait for a datagram after the gate is gone")
	require.Equal(t, uint64(7), n)
}

// bounce takes the VM's carrier away and brings it back.
func (g *ground) bounce() {
	c, err := rtnl.DialNS(int(g.client))
	require.NoError(g.t, err)
	defer c.Close()
	for _, up := range []bool{false, true} {
		var b rtnl.Batch
		b.LinkSet(rtnl.LinkChange{Index: 10, Up: &up})
		require.NoError(g.t, c.Do(&b))
	}
}

// TestHeldOutputOutlivesItsHolder: the process that held is gone, and so for a
// while is the carrier; a successor lets go what is safe and no more.
func TestHeldOutputOutlivesItsHolder(t *testing.T) {
	g := newGround(t)
	from, to := g.datagrams()
	p := g.newGate()
	for range 20 { // in the middle of the ring
		e, err := p.Mark()
		require.NoError(t, err)
		require.NoError(t, p.Release(e-1))
	}
	for i := range uint64(3) {
		send(t, from, 20+i, i)
		_, err := p.Mark()
		require.NoError(t, err)
	}
	require.NoError(t, p.Close()) // all that the kernel does when a process is killed
	g.bounce()
	q, err := plug.Adopt(g.path, "eth0")
	require.NoError(t, err)
	defer q.Close()
	_, n, ok := g.read(to, 100*time.Millisecond)
	require.False(t, ok, "datagram %d left", n)
	e := q.Epoch()
	send(t, from, 23, 3)
	require.NoError(t, q.Release(e-2), "the older two of three")
	for want := range uint64(2) {
		_, n, ok := g.read(to, time.Second)
		require.True(t, ok, "wait for datagram %d", want)
		require.Equal(t, want, n)
	}
	_, n, ok = g.read(to, 100*time.Millisecond)
	require.False(t, ok, "datagram %d left", n)
	require.NoError(t, q.Open())
	for want := uint64(2); want < 4; want++ {
		_, n, ok := g.read(to, time.Second)
		require.True(t, ok, "wait for datagram %d", want)
		require.Equal(t, want, n)
	}
}

func TestGatesAreNotMadeTwice(t *testing.T) {
	g := newGround(t)
	_, err := plug.Adopt(g.path, "eth0")
	require.ErrorIs(t, err, os.ErrNotExist)
	g.newGate()
	_, err = plug.New(g.path, "eth0")
	require.ErrorIs(t, err, os.ErrExist)
	_, err = plug.New(g.path, "eth7")
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = plug.New("/run/netns/nowhere", "eth0")
	require.ErrorIs(t, err, unix.ENOENT)
}

// TestKernelsPlugCountsWhatIsGone is why the gate never uses
// TCQ_PLUG_RELEASE_ONE: what was held when an interface went down is still
// counted when more is let go.
func TestKernelsPlugCountsWhatIsGone(t *testing.T) {
	g := newGround(t)
	from, to := g.datagrams()
	run := func(command string) {
		out := in(t, g.vm, func() (string, error) {
			f := strings.Fields(command)
			b, err := exec.Command(f[0], f[1:]...).CombinedOutput()
			return string(b), err
		})
		require.Empty(t, out)
	}
	mac := in(t, g.client, func() (string, error) {
		i, err := net.InterfaceByName("eth0")
		return i.HardwareAddr.String(), err
	})
	known := "ip neigh replace " + clientAddr.String() + " dev eth0 nud permanent lladdr " + mac
	run(known)
	run("tc qdisc add dev eth0 root handle 1: plug limit 100000000")
	send(t, from, 0, 0)
	send(t, from, 0, 1)
	run("ip link set eth0 down") // they are lost
	run("ip link set eth0 up")
	run(known)
	send(t, from, 0, 2)
	run("tc qdisc change dev eth0 handle 1: plug block") // ends the epoch
	send(t, from, 1, 3)
	run("tc qdisc change dev eth0 handle 1: plug release")
	_, n, ok := g.read(to, time.Second)
	require.True(t, ok)
	require.Equal(t, uint64(2), n)
	_, n, ok = g.read(to, time.Second)
	require.True(t, ok, "this kernel counts right: the gate could be simpler")
	require.Equal(t, uint64(3), n, "it belongs to an epoch that was not let go")
}

func BenchmarkGate(b *testing.B) {
	g := newGround(b)
	from, to := g.datagrams()
	p := g.newGate()
	for _, packets := range []int{0, 1, 8} {
		b.Run(fmt.Sprintf("packets=%d", packets), func(b *testing.B) {
			_, err := p.Mark()
			require.NoError(b, err)
			var mark, release time.Duration
			for b.Loop() {
				for range packets {
					send(b, from, 0, 0)
				}
				t0 := event.Now()
				e, err := p.Mark()
				t1 := event.Now()
				require.NoError(b, err)
				require.NoError(b, p.Release(e-1))
				mark, release = mark+t1.Sub(t0), release+event.Now().Sub(t1)
				for range packets {
					_, _, ok := g.read(to, time.Second)
					require.True(b, ok)
				}
			}
			b.ReportMetric(float64(mark.Microseconds())/float64(b.N), "us/mark")
			b.ReportMetric(float64(release.Microseconds())/float64(b.N), "us/release")
		})
	}
}

// TestAHeldAnswerTakesFewEpochs is why what is held is held beside the VM's
// interface and not in its own queue: there TCP would hand over a few segments
// of an answer at a time, and wait until they have left.
func TestAHeldAnswerTakesFewEpochs(t *testing.T) {
	const size, epoch = 40_000, 20 * time.Millisecond
	beside, within := 0, 0
	t.Run("beside", func(t *testing.T) {
		g := newGround(t)
		p := g.newGate()
		_, err := p.Mark()
		require.NoError(t, err)
		beside = g.epochsOf(size, epoch, func() {
			e, err := p.Mark()
			require.NoError(t, err)
			require.NoError(t, p.Release(e-1))
		})
	})
	t.Run("within", func(t *testing.T) {
		g := newGround(t)
		conn, err := rtnl.DialNS(int(g.vm))
		require.NoError(t, err)
		defer conn.Close()
		q := rtnl.Qdisc{DevIndex: 10, Dev: "eth0", Parent: rtnl.Root, Handle: rtnl.MakeHandle(1, 0)}
		var b rtnl.Batch
		b.Plug(q, 1<<30)
		require.NoError(t, conn.Do(&b))
		within = g.epochsOf(size, epoch, func() {
			b.Reset()
			b.PlugSet(q, rtnl.PlugBuffer)
			b.PlugSet(q, rtnl.PlugReleaseOne)
			require.NoError(t, conn.Do(&b))
		})
	})
	t.Logf("an answer of %d bytes takes %d epochs beside, %d within", size, beside, within)
	require.Less(t, beside, within)
}

// epochsOf is how many epochs an answer takes that a new connection is sent, once
// it has seen a few: the most of three.
func (g *ground) epochsOf(size int, epoch time.Duration, next func()) (most int) {
	l := in(g.t, g.vm, func() (net.Listener, error) { return net.Listen("tcp4", vmAddr.String()+":0") })
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		for b := make([]byte, 1); ; {
			if _, err := c.Read(b); err != nil {
				return
			}
			if _, err := c.Write(make([]byte, size)); err != nil {
				return
			}
		}
	}()
	answered := make(chan error)
	go func() {
		client := in(g.t, g.client, func() (net.Conn, error) { return net.DialTimeout("tcp4", l.Addr().String(), 10*time.Second) })
		defer client.Close()
		for range 5 {
			if _, err := client.Write([]byte{1}); err != nil {
				answered <- err
				return
			}
			_, err := io.CopyN(io.Discard, client, int64(size))
			answered <- err
		}
	}()
	tick := time.NewTicker(epoch)
	defer tick.Stop()
	for n, epochs := 0, 0; n < 5; {
		select {
		case err := <-answered:
			require.NoError(g.t, err)
			if n++; n > 2 {
				most = max(most, epochs)
			}
			epochs = 0
		case <-tick.C:
			next()
			epochs++
		case <-time.After(20 * time.Second):
			g.t.Fatalf("waited 20 s for answer %d", n)
		}
	}
	return most
}
