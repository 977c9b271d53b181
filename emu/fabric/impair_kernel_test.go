package fabric_test

import (
	"context"
	"io"
	"math"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/topo"
)

// wire is two nodes and one link; forward holds from a to b.
func wire(forward, backward topo.Impairment) fabric.State {
	return fabric.State{
		Nodes: map[string]fabric.Node{"a": {Name: "a"}, "b": {Name: "b"}},
		Links: map[string]fabric.Link{"a:eth0--b:eth0": {MTU: 1500,
			A: fabric.End{Node: "a", Ifname: "eth0", MAC: topo.MAC{2, 0, 0, 0, 0, 1}, Addr: netip.MustParsePrefix("10.7.0.1/30"), Egress: forward},
			B: fabric.End{Node: "b", Ifname: "eth0", MAC: topo.MAC{2, 0, 0, 0, 0, 2}, Addr: netip.MustParsePrefix("10.7.0.2/30"), Egress: backward},
		}},
	}
}

func apply(t testing.TB, f *fabric.Fabric, s fabric.State) fabric.Changes {
	t.Helper()
	ch, err := f.Apply(context.Background(), s)
	require.NoError(t, err)
	return ch
}

// echoes measures n round trips of small datagrams from a to b, one after the
// other; a lost one is not in the result.
func echoes(t testing.TB, f *fabric.Fabric, n int) (rtts []time.Duration) {
	t.Helper()
	var a, b net.PacketConn
	require.NoError(t, f.Do("b", func() (err error) { b, err = net.ListenPacket("udp4", "10.7.0.2:7"); return err }))
	require.NoError(t, f.Do("a", func() (err error) { a, err = net.ListenPacket("udp4", "10.7.0.1:0"); return err }))
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 64)
		for {
			k, from, err := b.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = b.WriteTo(buf[:k], from)
		}
	}()
	defer func() { a.Close(); b.Close(); <-done }()
	buf := make([]byte, 64)
	for i := range n {
		sent := time.Now()
		_, err := a.WriteTo([]byte{byte(i)}, b.LocalAddr())
		require.NoError(t, err)
		require.NoError(t, a.SetReadDeadline(sent.Add(2*time.Second)))
		for {
			k, _, err := a.ReadFrom(buf)
			if err != nil {
				break
			}
			if k == 1 && buf[0] == byte(i) {
				rtts = append(rtts, time.Since(sent))
				break
			}
		}
	}
	return rtts
}

func least(d []time.Duration) time.Duration {
	m := time.Duration(math.MaxInt64)
	for _, x := range d {
		m = min(m, x)
	}
	return m
}

// The least of several round trips is the link's truth: a busy machine only
// adds to it.
func TestDelayPerDirection(t *testing.T) {
	kerneltest.Need(t)
	f := start(t, "delays")
	apply(t, f, wire(topo.Impairment{}, topo.Impairment{}))
	base := least(echoes(t, f, 20))
	ms := func(n float64) topo.Duration { return topo.Duration(n * float64(time.Millisecond)) }
	for _, c := range []struct{ forward, backward topo.Impairment }{
		{topo.Impairment{Delay: ms(5)}, topo.Impairment{}},
		{topo.Impairment{}, topo.Impairment{Delay: ms(5)}},
		{topo.Impairment{Delay: ms(13.5)}, topo.Impairment{Delay: ms(13.5)}},
		{topo.Impairment{Delay: ms(13.5), Rate: 465e6}, topo.Impairment{Delay: ms(13.5), Rate: 465e6}},
		{topo.Impairment{Delay: ms(50), Rate: 1e8}, topo.Impairment{Delay: ms(1)}},
	} {
		apply(t, f, wire(c.forward, c.backward))
		want := time.Duration(c.forward.Delay + c.backward.Delay)
		got := least(echoes(t, f, 15)) - base
		t.Logf("%v / %v: %v more than the bare link's %v", c.forward, c.backward, got, base)
		require.GreaterOrEqual(t, got, want-500*time.Microsecond, "%+v", c)
		require.LessOrEqual(t, got, want+want/10+1500*time.Microsecond, "%+v", c)
	}
}

// pump sends TCP data from one node to another for as long as it lives and
// counts what arrives.
type pump struct {
	got  atomic.Int64
	err  atomic.Value
	stop func()
}

func startPump(t testing.TB, f *fabric.Fabric, from, to string, addr netip.AddrPort) *pump {
	t.Helper()
	var p pump
	var l, c net.Conn
	var ln net.Listener
	require.NoError(t, f.Do(to, func() (err error) { ln, err = net.Listen("tcp4", addr.String()); return err }))
	require.NoError(t, f.Do(from, func() (err error) {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}); err != nil {
			return err
		}
		c, err = fileConn(fd)
		return err
	}))
	l, err := ln.Accept()
	require.NoError(t, err)
	sent, received := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(sent)
		buf := make([]byte, 256<<10)
		for {
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	}()
	go func() {
		defer close(received)
		buf := make([]byte, 256<<10)
		for {
			n, err := l.Read(buf)
			p.got.Add(int64(n))
			if err != nil {
				if err != io.EOF {
					p.err.Store(err)
				}
				return
			}
		}
	}()
	p.stop = func() {
		_ = c.SetDeadline(time.Now()) // ends a Write that waits
		<-sent
		c.Close()
		l.Close()
		ln.Close()
		<-received
	}
	return &p
}

// rate is the goodput in bits a second over the next d.
func (p *pump) rate(d time.Duration) float64 {
	from, start := p.got.Load(), time.Now()
	timer := time.NewTimer(d) // the length of the measurement
	<-timer.C
	return float64(p.got.Load()-from) * 8 / time.Since(start).Seconds()
}

// fileConn makes a net.Conn of a connected socket: net.Dial would connect on
// another thread, in another namespace.
func fileConn(fd int) (net.Conn, error) {
	file := os.NewFile(uintptr(fd), "tcp")
	defer file.Close()
	return net.FileConn(file)
}

// payload is the share of TCP data in the bytes on the wire at MTU 1500.
const payload = 1448.0 / 1514.0

// TestRateIsTrueAndLive measures TCP through a line and changes its rate under
// the running connection: no reset, no more than the line carries.
func TestRateIsTrueAndLive(t *testing.T) {
	kerneltest.Need(t)
	f := start(t, "rates")
	line := func(mbit int64) topo.Impairment {
		return topo.Impairment{Rate: topo.Rate(mbit * 1e6), Delay: topo.Duration(2 * time.Millisecond)}
	}
	back := topo.Impairment{Delay: topo.Duration(2 * time.Millisecond)}
	apply(t, f, wire(line(20), back))
	p := startPump(t, f, "a", "b", netip.MustParseAddrPort("10.7.0.2:9000"))
	defer p.stop()
	for _, mbit := range []int64{20, 100, 20, 465} {
		apply(t, f, wire(line(mbit), back))
		p.rate(time.Second) // let TCP find it
		got := p.rate(2*time.Second) / payload / 1e6
		t.Logf("line of %d Mbit/s carries %.1f", mbit, got)
		// Never more; on a busy machine it may be less, and most so where the
		// line is fast.
		require.Less(t, got, float64(mbit)*1.06, "too fast")
		require.Greater(t, got, float64(mbit)*map[bool]float64{true: 0.8, false: 0.25}[mbit <= 100], "too slow")
	}
	require.Nil(t, p.err.Load(), "the connection broke")
}

// TestLineSendsAfterItsLinkWasDown takes a link down while packets wait in its
// line, by Apply and by hand: when Apply has brought it up, the line sends
// again. HFSC by itself would not.
func TestLineSendsAfterItsLinkWasDown(t *testing.T) {
	kerneltest.Need(t)
	f := start(t, "waits")
	whole := wire(topo.Impairment{Rate: 20e6, Delay: topo.Duration(2 * time.Millisecond)}, topo.Impairment{})
	down := wire(topo.Impairment{Rate: 20e6, Delay: topo.Duration(2 * time.Millisecond)}, topo.Impairment{})
	for name, l := range down.Links {
		l.Down = true
		down.Links[name] = l
	}
	byHand := func() {
		require.NoError(t, f.Do("a", func() error { return exec.Command("ip", "link", "set", "eth0", "down").Run() }))
	}
	by := func(opts ...fabric.Option) func() {
		return func() { _, err := f.Apply(t.Context(), down, opts...); require.NoError(t, err) }
	}
	for _, c := range []struct {
		name string
		fail func()
		back []fabric.Option
	}{
		{"seen", by(), nil},
		{"trusted", by(fabric.Trust), []fabric.Option{fabric.Trust}},
		{"by hand", byHand, nil},
	} {
		apply(t, f, whole)
		p := startPump(t, f, "a", "b", netip.MustParseAddrPort("10.7.0.2:9000"))
		p.rate(500 * time.Millisecond) // its queue fills
		c.fail()
		p.rate(50 * time.Millisecond)
		ch, err := f.Apply(t.Context(), whole, c.back...)
		require.NoError(t, err)
		p.stop()
		got := least(echoes(t, f, 5))
		t.Logf("%s: %v; a round trip then took %v", c.name, ch, got)
		require.Less(t, got, time.Second, "%s: nothing comes through", c.name)
		require.Empty(t, apply(t, f, whole), "%s: and all is as it should be", c.name)
	}
}

// TestQueueIsAsLongAsSaid fills a slow line: what waits is bounded by the
// queue in bytes, though TCP sends super frames.
func TestQueueIsAsLongAsSaid(t *testing.T) {
	kerneltest.Need(t)
	f := start(t, "queues")
	i := topo.Impairment{Rate: 50e6, Delay: topo.Duration(5 * time.Millisecond), Queue: 100}
	apply(t, f, wire(i, topo.Impairment{}))
	idle := least(echoes(t, f, 10))
	p := startPump(t, f, "a", "b", netip.MustParseAddrPort("10.7.0.2:9000"))
	p.rate(time.Second)
	loaded := echoes(t, f, 30)
	p.stop()
	full := time.Duration(100 * 1514 * 8 / 50e6 * float64(time.Second)) // 24 ms
	var sum time.Duration
	for _, d := range loaded {
		sum += d
	}
	mean := sum/time.Duration(len(loaded)) - idle
	t.Logf("idle %v, with a full queue of %v: %v more on average", idle, full, mean)
	require.Greater(t, mean, full/8, "nothing queues")
	require.Less(t, mean, full*2, "more queues than was said")
}

// TestLossAndJitter sends datagrams one way and counts; the other way loses nothing.
func TestLossAndJitter(t *testing.T) {
	kerneltest.Need(t)
	f := start(t, "losses")
	apply(t, f, wire(topo.Impairment{}, topo.Impairment{}))
	require.Len(t, echoes(t, f, 2), 2) // both know the other's MAC: no ARP to lose
	apply(t, f, wire(topo.Impairment{Loss: 20}, topo.Impairment{}))
	count := func(from, to, addr string, n int) (got int) {
		var src, dst net.PacketConn
		require.NoError(t, f.Do(to, func() (err error) { dst, err = net.ListenPacket("udp4", addr+":9"); return err }))
		require.NoError(t, f.Do(from, func() (err error) { src, err = net.ListenPacket("udp4", ":0"); return err }))
		defer src.Close()
		defer dst.Close()
		for range n {
			_, err := src.WriteTo([]byte("x"), dst.LocalAddr())
			require.NoError(t, err)
		}
		require.NoError(t, dst.SetReadDeadline(time.Now().Add(time.Second)))
		buf := make([]byte, 16)
		for {
			if _, _, err := dst.ReadFrom(buf); err != nil {
				return got
			}
			got++
		}
	}
	const n = 200 // fits the socket's buffer
	lost := n - count("a", "b", "10.7.0.2", n)
	require.InDelta(t, 0.2*n, lost, 5.5*math.Sqrt(n*0.2*0.8), "lost %d of %d", lost, n) // 1 in 10^7 by chance
	require.Equal(t, n, count("b", "a", "10.7.0.1", n), "the other direction loses nothing")

	apply(t, f, wire(topo.Impairment{Delay: topo.Duration(60 * time.Millisecond), Jitter: topo.Duration(15 * time.Millisecond)}, topo.Impairment{}))
	rtts := echoes(t, f, 50)
	slices.Sort(rtts)
	// By quartiles, which the stalls of a busy machine leave alone.
	median := rtts[len(rtts)/2]
	sigma := time.Duration(float64(rtts[len(rtts)*3/4]-rtts[len(rtts)/4]) / 1.349)
	t.Logf("delay 60 ms, jitter 15 ms: median %v, deviation %v", median, sigma)
	require.InDelta(t, 62, float64(median)/1e6, 10)
	require.InDelta(t, 16, float64(sigma)/1e6, 8)
}

// TestImpairmentsComeAndGo walks through all forms of disciplines, each of
// which the next Apply must recognise.
func TestImpairmentsComeAndGo(t *testing.T) {
	kerneltest.Need(t)
	f := start(t, "forms")
	ms := topo.Duration(time.Millisecond)
	forms := []topo.Impairment{{}, {Delay: ms}, {Rate: 1e7}, {Rate: 1e7, Delay: ms, Queue: 500}, {Loss: 0.01}, {Rate: 12345, Loss: 33.3, Delay: 3 * ms, Jitter: ms / 3}, {}, {Rate: 40e9}, {Delay: 7 * ms, Rate: 2e7}, {}}
	for i, form := range forms {
		apply(t, f, wire(form, topo.Impairment{}))
		ch, err := f.Plan(wire(form, topo.Impairment{}))
		require.NoError(t, err)
		require.Empty(t, ch.String(), "form %d: %+v", i, form)
	}
	view, err := f.Inspect("a")
	require.NoError(t, err)
	require.Len(t, view.Interfaces, 2)
	require.Empty(t, view.Interfaces[1].Qdiscs, "nothing is left")
}

// TestCaptureSeesBothDirections pings and looks at the wire.
func TestCaptureSeesBothDirections(t *testing.T) {
	kerneltest.Need(t)
	f := start(t, "frames")
	apply(t, f, wire(topo.Impairment{}, topo.Impairment{}))
	c, err := f.OpenCapture("a", "eth0", 0)
	require.NoError(t, err)
	defer c.Close()
	require.Len(t, echoes(t, f, 5), 5)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(5*time.Second)))
	out, in := 0, 0
	for out < 5 || in < 5 {
		packets, err := c.Read()
		require.NoError(t, err, "%d out, %d in", out, in)
		for _, p := range packets {
			if len(p.Data) < 34 || p.Data[12] != 8 || p.Data[13] != 0 || p.Data[23] != unix.IPPROTO_UDP {
				continue
			}
			require.Less(t, time.Since(p.Time), time.Minute)
			require.Equal(t, len(p.Data), p.Len)
			src := netip.AddrFrom4([4]byte(p.Data[26:30]))
			require.Equal(t, p.Out, src == netip.MustParseAddr("10.7.0.1"), "%v out=%v", src, p.Out)
			if p.Out {
				out++
			} else {
				in++
			}
		}
	}
	drops, err := c.Drops()
	require.NoError(t, err)
	require.Zero(t, drops)
	_, err = f.OpenCapture("a", "nosuch", 0)
	require.ErrorContains(t, err, "a:nosuch")
	_, err = f.OpenCapture("z", "eth0", 0)
	require.ErrorIs(t, err, fabric.ErrNoNode)
}
