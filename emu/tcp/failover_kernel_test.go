package tcp_test

import (
	"context"
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
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/fabric/rtnl"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/emu/plug"
	"github.com/vpclab/vpclab/emu/tcp"
)

// The ground of these tests: two seats of a VM, namespaces with the same address
// and MAC address, and a client, at one switch. The port of one seat is up.
type ground struct {
	t        testing.TB
	seats    [2]netns.NsHandle
	client   netns.NsHandle
	wires    *rtnl.Conn // in the switch's namespace
	active   int
	silent   bool // peers are not nudged
	vm       netip.AddrPort
	clientAt netip.Addr
}

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

// trait is what a ground can be like.
type trait struct {
	sysctls map[string]string // in all namespaces
	loss    float64           // share of packets, each way
}

const firstPort = 10 // of the switch: those of seats, then the client's

func newGround(t testing.TB, k trait) *ground {
	kerneltest.Need(t)
	g := &ground{t: t, client: namespace(t), vm: netip.MustParseAddrPort("10.0.0.1:9000"), clientAt: netip.MustParseAddr("10.0.0.2")}
	hub := namespace(t)
	var err error
	g.wires, err = rtnl.DialNS(int(hub))
	require.NoError(t, err)
	t.Cleanup(func() { g.wires.Close() })
	up := true
	var b rtnl.Batch
	b.Bridge(rtnl.Bridge{Link: rtnl.Link{Name: "br", Index: 2, Up: true}})
	bridge := 2
	ends := []netns.NsHandle{}
	for i := range g.seats {
		g.seats[i] = namespace(t)
		ends = append(ends, g.seats[i])
	}
	for i, ns := range append(ends, g.client) {
		mac, port := [6]byte{2, 0, 0, 0, 0, 1}, firstPort+i
		if ns == g.client {
			mac[5] = 2
		}
		b.Veth(rtnl.Veth{Link: rtnl.Link{Name: fmt.Sprint("p", i), Index: port}, Peer: rtnl.Link{Name: "eth0", Index: 10, MAC: mac}, PeerNS: int(ns)})
		b.LinkSet(rtnl.LinkChange{Index: port, Master: &bridge})
		if i != 1 {
			b.LinkSet(rtnl.LinkChange{Index: port, Up: &up})
		}
		if k.loss > 0 && ns == g.client { // what goes to the client
			b.Netem(rtnl.Qdisc{DevIndex: port, Dev: "p", Parent: rtnl.Root, Handle: rtnl.MakeHandle(1, 0)}, rtnl.Netem{Loss: uint32(k.loss * (1<<32 - 1)), Limit: 1000})
		}
	}
	require.NoError(t, g.wires.Do(&b))
	for i, ns := range append(ends, g.client) {
		c, err := rtnl.DialNS(int(ns))
		require.NoError(t, err)
		addr := g.vm.Addr()
		if ns == g.client {
			addr = g.clientAt
		}
		b.Reset()
		b.Addr(rtnl.Address{Index: 10, Dev: "eth0", Prefix: netip.PrefixFrom(addr, 24)})
		b.LinkSet(rtnl.LinkChange{Index: 10, Up: &up})
		b.LinkSet(rtnl.LinkChange{Index: 1, Up: &up}) // lo, as all nodes of a lab have it
		if k.loss > 0 && i == 2 {
			b.Netem(rtnl.Qdisc{DevIndex: 10, Dev: "eth0", Parent: rtnl.Root, Handle: rtnl.MakeHandle(1, 0)}, rtnl.Netem{Loss: uint32(k.loss * (1<<32 - 1)), Limit: 1000})
		}
		require.NoError(t, c.Do(&b))
		require.NoError(t, c.Close())
		in(t, ns, func() (int, error) {
			for key, value := range k.sysctls {
				if err := os.WriteFile("/proc/sys/net/ipv4/"+key, []byte(value), 0o644); err != nil {
					return 0, err
				}
			}
			return 0, nil
		})
	}
	return g
}

func (g *ground) port(seat int, up bool) {
	var b rtnl.Batch
	b.LinkSet(rtnl.LinkChange{Index: firstPort + seat, Up: &up})
	require.NoError(g.t, g.wires.Do(&b))
}

// open brings the port of the active seat up and waits until both ends of it
// carry: the first question for a neighbour would be lost, and repeated a second
// later.
func (g *ground) open() {
	g.port(g.active, true)
	require.NoError(g.t, in(g.t, g.seats[g.active], func() (error, error) { return tcp.AwaitWay(g.t.Context()), nil }))
	require.Eventually(g.t, func() bool {
		ports, err := g.wires.Ports(2)
		require.NoError(g.t, err)
		i := slices.IndexFunc(ports, func(l rtnl.LinkInfo) bool { return l.Index == firstPort+g.active })
		return ports[i].Port == rtnl.PortForwarding
	}, patience, time.Millisecond)
}

func (g *ground) path(seat int) string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(g.seats[seat]))
}

// text is byte at of the stream that a client sends (way 0), or is sent.
func text(id uint32, way byte, at uint64) byte {
	x := at*0x9E3779B97F4A7C15 + uint64(id)<<32 + uint64(way)
	return byte(x >> 56)
}

func fillText(b []byte, id uint32, way byte, at uint64) {
	for i := range b {
		b[i] = text(id, way, at+uint64(i))
	}
}

// A request: length of all of it, length of the answer that is wanted, who asks,
// and where in the client's stream it begins; then text.
const requestHead = 20

// session is the server's program for one client: what a process has in memory.
type session struct {
	id      uint32
	in      []byte // of a request that is not whole
	taken   uint64 // bytes of requests done
	out     []byte // of answers, not written yet
	made    uint64 // bytes of answers made
	mangled error
}

func (s *session) clone() *session {
	c := *s
	c.in, c.out = slices.Clone(s.in), slices.Clone(s.out)
	return &c
}

// process does the requests that are whole.
func (s *session) process() {
	for len(s.in) >= requestHead && s.mangled == nil {
		size, want := binary.BigEndian.Uint32(s.in), binary.BigEndian.Uint32(s.in[4:])
		if size < requestHead || size > 1<<22 || want > 1<<22 {
			s.mangled = fmt.Errorf("client %d at %d: request of %d bytes for %d", s.id, s.taken, size, want)
			return
		}
		if len(s.in) < int(size) {
			return
		}
		s.id = binary.BigEndian.Uint32(s.in[8:])
		if at := binary.BigEndian.Uint64(s.in[12:]); at != s.taken {
			s.mangled = fmt.Errorf("client %d: request of %d came at %d", s.id, at, s.taken)
			return
		}
		for i := requestHead; i < int(size); i++ {
			if s.in[i] != text(s.id, 0, s.taken+uint64(i)) {
				s.mangled = fmt.Errorf("client %d: byte %d of requests is wrong", s.id, s.taken+uint64(i))
				return
			}
		}
		s.taken += uint64(size)
		s.in = s.in[:copy(s.in, s.in[size:])]
		answer := make([]byte, want)
		fillText(answer, s.id, 1, s.made)
		s.made += uint64(want)
		s.out = append(s.out, answer...)
	}
}

// served is a connection of the server, and what it keeps for checkpoints.
type served struct {
	fd     int
	origin *tcp.Origin
	stream *tcp.Stream
	*session
}

// server is the VM: it works in steps, and can be stopped between them.
type server struct {
	t      testing.TB
	gate   sync.Mutex
	listen int
	conns  map[netip.AddrPort]*served
	diag   *tcp.Diag
	lazy   float64 // how often it leaves alone what has arrived
	rng    *rand.Rand
	err    error
	stop   chan struct{}
	done   sync.WaitGroup
	took   []time.Duration // of dumps, a connection
}

func (g *ground) newServer(seat int) *server {
	s := &server{t: g.t, conns: map[netip.AddrPort]*served{}, stop: make(chan struct{}), rng: rand.New(rand.NewPCG(uint64(seat), 7)), lazy: 0.4}
	s.listen = in(g.t, g.seats[seat], func() (int, error) {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		}
		if err == nil {
			err = unix.Bind(fd, &unix.SockaddrInet4{Port: int(g.vm.Port())})
		}
		if err == nil {
			err = unix.Listen(fd, 64)
		}
		return fd, err
	})
	s.diag = in(g.t, g.seats[seat], tcp.OpenDiag)
	return s
}

// run makes a step now and then, until the server is killed.
func (s *server) run() {
	s.done.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-s.stop:
				return
			case <-tick.C:
			}
			s.gate.Lock()
			s.step()
			s.gate.Unlock()
		}
	})
}

// kill ends the server and its kernel, whose words nobody hears any more.
func (s *server) kill() {
	close(s.stop)
	s.done.Wait()
	for _, c := range s.conns {
		_ = tcp.Forget(c.fd)
	}
	_ = unix.Close(s.listen)
	_ = s.diag.Close()
}

func (s *server) fail(err error) {
	if s.err == nil {
		s.err = err
	}
}

func (s *server) accept() {
	for {
		fd, from, err := unix.Accept4(s.listen, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		a := from.(*unix.SockaddrInet4)
		o, stream, err := tcp.Learn(fd)
		if err != nil {
			s.fail(err)
			return
		}
		if stream.Read != 0 || stream.Written != 0 {
			s.fail(fmt.Errorf("a new connection has read %d and written %d", stream.Read, stream.Written))
		}
		s.conns[netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))] = &served{fd: fd, origin: o, stream: stream, session: &session{}}
	}
}

// step reads and writes what there is, as far as it likes.
func (s *server) step() {
	s.accept()
	buf := make([]byte, 32<<10)
	for _, c := range s.conns {
		if s.rng.Float64() > s.lazy {
			n, err := unix.Read(c.fd, buf[:1+s.rng.IntN(len(buf))])
			switch {
			case n > 0:
				c.stream.Read += uint64(n)
				c.in = append(c.in, buf[:n]...)
				c.process()
			case err != unix.EAGAIN:
				s.fail(fmt.Errorf("read from client %d: %d, %w", c.id, n, err))
			}
			if c.mangled != nil {
				s.fail(c.mangled)
			}
		}
		for len(c.out) > 0 {
			n, err := unix.Write(c.fd, c.out)
			if err == unix.EAGAIN {
				break
			}
			if err != nil {
				s.fail(fmt.Errorf("write to client %d: %w", c.id, err))
				break
			}
			c.stream.Wrote(c.out[:n])
			c.out = c.out[:copy(c.out, c.out[n:])]
		}
	}
}

// saved is a checkpoint: connections as they go over the wire, and the program.
type saved struct {
	bytes    []byte
	sessions []*session
}

// checkpoint dumps all connections between two steps.
func (s *server) checkpoint() (*saved, error) {
	s.gate.Lock()
	defer s.gate.Unlock()
	s.accept() // what is established belongs to the program
	began := event.Now()
	k := &saved{}
	var wrong error
	err := s.diag.Each(9000, func(i *tcp.Info) {
		c := s.conns[i.Remote]
		if c == nil || i.State != tcp.Established {
			return // it has come since
		}
		one, err := c.origin.At(i, c.stream, began)
		if err == nil {
			one.Unread = make([]byte, c.stream.Unread(i))
			var n int
			if n, err = tcp.Peek(c.fd, one.Unread); err == nil && n < len(one.Unread) {
				err = fmt.Errorf("%d bytes unread, and %d there", len(one.Unread), n)
			}
		}
		if err != nil {
			wrong = errors.Join(wrong, err)
			return
		}
		k.bytes = one.Append(k.bytes)
		k.sessions = append(k.sessions, c.session.clone())
	})
	if n := len(k.sessions); n > 0 {
		s.took = append(s.took, event.Now().Sub(began)/time.Duration(n))
	}
	return k, errors.Join(err, wrong)
}

// restore puts a checkpoint into a seat.
func (g *ground) restore(seat int, k *saved) (s *server, resend func() error, took time.Duration) {
	s = g.newServer(seat)
	began := event.Now()
	all := in(g.t, g.seats[seat], func() (all []*tcp.Restored, err error) {
		to, err := tcp.OpenRestorer()
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, to.Close()) }()
		for rest := k.bytes; len(rest) > 0; {
			var c *tcp.Connection
			if c, rest, err = tcp.Parse(rest); err != nil {
				return nil, err
			}
			r, err := to.Restore(c, 0)
			if err != nil {
				return nil, err
			}
			all = append(all, r)
		}
		return all, nil
	})
	took = event.Now().Sub(began)
	for i, r := range all {
		s.conns[r.Origin.Remote] = &served{fd: r.FD, origin: r.Origin, stream: r.Stream, session: k.sessions[i].clone()}
	}
	return s, func() error {
		var errs []error
		for _, r := range all {
			errs = append(errs, r.Resend())
		}
		if !g.silent {
			errs = append(errs, in(g.t, g.seats[seat], func() (error, error) { return tcp.Nudge(all), nil }))
		}
		return errors.Join(errs...)
	}, took
}

// client asks on and on, over one connection, and looks at every byte.
type client struct {
	id       uint32
	conn     net.Conn
	rng      *rand.Rand
	sent     uint64
	got      uint64
	answered chan struct{} // sent to, without waiting, at each answer
	pause    time.Duration
	large    int
}

func (c *client) run(ctx context.Context) error {
	var pending []int // answers wanted and not come
	for ctx.Err() == nil || len(pending) > 0 {
		// A few at once.
		for n := 1 + c.rng.IntN(3); n > 0 && ctx.Err() == nil; n-- {
			size, want := requestHead+c.rng.IntN(2000), 1+c.rng.IntN(6000)
			switch c.rng.IntN(12) {
			case 0:
				want = c.large
			case 1:
				size = c.large / 4
			}
			b := make([]byte, size)
			fillText(b, c.id, 0, c.sent)
			binary.BigEndian.PutUint32(b, uint32(size))
			binary.BigEndian.PutUint32(b[4:], uint32(want))
			binary.BigEndian.PutUint32(b[8:], c.id)
			binary.BigEndian.PutUint64(b[12:], c.sent)
			if _, err := c.conn.Write(b); err != nil {
				return fmt.Errorf("client %d: ask: %w", c.id, err)
			}
			c.sent += uint64(size)
			pending = append(pending, want)
		}
		if c.pause > 0 && c.rng.IntN(4) == 0 { // its window fills
			time.Sleep(time.Duration(c.rng.Int64N(int64(c.pause))))
		}
		for len(pending) > 0 {
			b := make([]byte, pending[0])
			if _, err := io.ReadFull(c.conn, b); err != nil {
				return fmt.Errorf("client %d: read an answer of %d bytes at %d: %w", c.id, len(b), c.got, err)
			}
			for i := range b {
				if b[i] != text(c.id, 1, c.got+uint64(i)) {
					return fmt.Errorf("client %d: byte %d of answers is wrong", c.id, c.got+uint64(i))
				}
			}
			c.got += uint64(len(b))
			pending = pending[1:]
			select {
			case c.answered <- struct{}{}:
			default:
			}
		}
	}
	return nil
}

// protect takes checkpoints of a server and lets its output go when they are
// safe, until end is closed; last is the newest that is safe, or newer: what a
// standby may hold when the primary dies.
func (g *ground) protect(s *server, p *plug.Plug, rng *rand.Rand, end <-chan struct{}) (last *saved, err error) {
	var waiting []*saved // taken and not released, oldest first
	var epochs []uint64
	for {
		e, err := p.Mark()
		if err != nil {
			return nil, err
		}
		k, err := s.checkpoint()
		if err != nil {
			return nil, err
		}
		waiting, epochs = append(waiting, k), append(epochs, e)
		// Acknowledgements are late, by up to four epochs.
		if n := 1 + rng.IntN(4); len(waiting) >= n {
			last = waiting[len(waiting)-1-rng.IntN(n)]
			upTo := len(waiting) - 1
			for i, w := range waiting {
				if w == last {
					upTo = i
				}
			}
			if err := p.Release(epochs[upTo] - 1); err != nil {
				return nil, err
			}
			waiting, epochs = waiting[upTo+1:], epochs[upTo+1:]
		}
		select {
		case <-end:
			if last == nil {
				continue
			}
			// The standby may have more than the primary heard of.
			if len(waiting) > 0 && rng.IntN(2) == 0 {
				last = waiting[rng.IntN(len(waiting))]
			}
			return last, nil
		case <-time.After(time.Duration(1+rng.IntN(12)) * time.Millisecond):
		}
	}
}

func TestConnectionsGoOnElsewhere(t *testing.T) {
	for _, c := range []struct {
		name      string
		trait     trait
		failovers int
		large     int
		pause     time.Duration
	}{
		{"as a kernel comes", trait{}, 12, 60_000, 0},
		{"answers larger than windows", trait{}, 4, 1 << 20, 10 * time.Millisecond},
		{"without timestamps", trait{sysctls: map[string]string{"tcp_timestamps": "0"}}, 6, 60_000, 0},
		{"without SACK", trait{sysctls: map[string]string{"tcp_sack": "0"}}, 6, 60_000, 0},
		{"without window scaling", trait{sysctls: map[string]string{"tcp_window_scaling": "0"}}, 4, 200_000, 5 * time.Millisecond},
		{"with nothing", trait{sysctls: map[string]string{"tcp_window_scaling": "0", "tcp_sack": "0", "tcp_timestamps": "0"}}, 4, 60_000, 0},
		{"over a lossy wire", trait{loss: 0.01}, 5, 60_000, 0},
	} {
		t.Run(c.name, func(t *testing.T) { failovers(t, c.trait, c.failovers*times(t), c.large, c.pause) })
	}
}

// times is by how much the test is longer than in a hurry.
func times(t *testing.T) int {
	text := os.Getenv("VPCLAB_FAILOVERS")
	if text == "" {
		return 1
	}
	n, err := strconv.Atoi(text)
	require.NoError(t, err)
	return n
}

// patience is how long a client may wait for an answer.
const patience = 20 * time.Second

func failovers(t *testing.T, k trait, count, large int, pause time.Duration) {
	g := newGround(t, k)
	s := g.newServer(0)
	s.run()
	gate, err := plug.New(g.path(0), "eth0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const users = 8
	var clients []*client
	ends := make(chan error, users)
	for i := range uint32(users) {
		conn := in(t, g.client, func() (net.Conn, error) { return net.DialTimeout("tcp4", g.vm.String(), 5*time.Second) })
		defer conn.Close()
		c := &client{id: i, conn: conn, rng: rand.New(rand.NewPCG(uint64(i), 3)), answered: make(chan struct{}, 1), large: large, pause: pause}
		clients = append(clients, c)
		go func() { ends <- c.run(ctx) }()
	}
	rng := rand.New(rand.NewPCG(5, uint64(count)))
	var restores, darks, gaps, dumps []time.Duration
	for n := range count {
		end, result := make(chan struct{}), make(chan error, 1)
		var last *saved
		go func() {
			var err error
			last, err = g.protect(s, gate, rng, end)
			result <- err
		}()
		select {
		case <-time.After(time.Duration(10+rng.IntN(50)) * time.Millisecond):
		case err := <-ends:
			t.Fatalf("before failover %d: %v", n, err)
		}
		close(end)
		require.NoError(t, <-result)
		g.port(g.active, false) // dark, before it can say that it died
		died := event.Now()
		s.kill()
		require.NoError(t, s.err, "failover %d", n)
		dumps = append(dumps, s.took...)
		require.NoError(t, errors.Join(plug.Remove(g.path(g.active), "eth0"), gate.Close()))
		g.active = 1 - g.active
		var resend func() error
		var took time.Duration
		s, resend, took = g.restore(g.active, last)
		restores = append(restores, took/time.Duration(max(1, len(s.conns))))
		gate, err = plug.New(g.path(g.active), "eth0")
		require.NoError(t, err)
		for _, c := range clients {
			select {
			case <-c.answered:
			default:
			}
		}
		g.open()
		require.NoError(t, resend())
		spoke := event.Now()
		darks = append(darks, spoke.Sub(died))
		s.run()
		for _, c := range clients {
			select {
			case <-c.answered:
			case err := <-ends:
				t.Fatalf("after failover %d: %v", n, err)
			case <-time.After(patience):
				t.Fatalf("client %d at %v waited %v for an answer after failover %d\n%s", c.id, c.conn.LocalAddr(), patience, n, g.sockets())
			}
		}
		gaps = append(gaps, event.Now().Sub(spoke))
	}
	cancel()
	for range clients {
		select {
		case err := <-ends:
			require.NoError(t, err)
		case <-time.After(patience):
			t.Fatalf("waited %v for the clients' last answers", patience)
		}
	}
	g.port(g.active, false)
	s.kill()
	require.NoError(t, s.err)
	require.NoError(t, gate.Close())
	sent, got := uint64(0), uint64(0)
	for _, c := range clients {
		sent, got = sent+c.sent, got+c.got
	}
	t.Logf("%d failovers, %d connections, %d bytes to the VM and %d from it", count, users, sent, got)
	t.Logf("dump %v a connection, restore %v a connection; dark for %v, and then all clients answered within %v (worst %v)",
		median(dumps), median(restores), median(darks), median(gaps), slices.Max(gaps))
}

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2].Round(time.Microsecond)
}

// TestNewcomersAreReset: who connected since the checkpoint is a stranger to the
// kernel that goes on with it, and hears so; who was there before is not.
func TestNewcomersAreReset(t *testing.T) {
	g := newGround(t, trait{})
	s := g.newServer(0)
	s.run()
	dial := func() *client {
		return &client{conn: in(t, g.client, func() (net.Conn, error) { return net.DialTimeout("tcp4", g.vm.String(), 5*time.Second) })}
	}
	old := dial()
	defer old.conn.Close()
	old.exchange(t)
	k, err := s.checkpoint()
	require.NoError(t, err)
	newcomer := dial()
	defer newcomer.conn.Close()
	g.port(0, false)
	s.kill()
	g.active = 1
	s, resend, _ := g.restore(1, k)
	g.open()
	require.NoError(t, resend())
	s.run()
	old.exchange(t)
	newcomer.ask(t)
	require.NoError(t, newcomer.conn.SetReadDeadline(time.Now().Add(patience)))
	_, err = newcomer.conn.Read(make([]byte, 1))
	require.ErrorIs(t, err, unix.ECONNRESET)
	s.kill()
}

// TestANudgeSparesAWait has a client ask while nobody is there, for longer than
// its first waits take, and looks when it has its answer.
func TestANudgeSparesAWait(t *testing.T) {
	g := newGround(t, trait{})
	s := g.newServer(0)
	conn := in(t, g.client, func() (net.Conn, error) { return net.DialTimeout("tcp4", g.vm.String(), 5*time.Second) })
	defer conn.Close()
	c := &client{conn: conn}
	took := map[bool][]time.Duration{}
	for n := range 8 {
		s.run()
		c.exchange(t) // it knows what a round trip takes
		k, err := s.checkpoint()
		require.NoError(t, err)
		g.port(g.active, false)
		s.kill()
		c.ask(t)
		time.Sleep(time.Duration(700+20*n) * time.Millisecond) // the outage
		g.active = 1 - g.active
		g.silent = n%4 < 2 // in each seat
		var resend func() error
		s, resend, _ = g.restore(g.active, k)
		g.open()
		began := event.Now()
		require.NoError(t, resend())
		s.run()
		c.hear(t)
		took[g.silent] = append(took[g.silent], event.Now().Sub(began))
		close(s.stop)
		s.done.Wait()
		s.stop = make(chan struct{})
	}
	s.kill()
	t.Logf("answered after an outage of 0.7 s: nudged %v, not nudged %v", took[false], took[true])
	require.Less(t, median(took[false]), median(took[true])/2)
}

// exchange asks for one answer and reads it.
func (c *client) exchange(t *testing.T) { c.ask(t); c.hear(t) }

func (c *client) ask(t *testing.T) {
	var b [requestHead]byte
	binary.BigEndian.PutUint32(b[:], requestHead)
	binary.BigEndian.PutUint32(b[4:], 100)
	binary.BigEndian.PutUint64(b[12:], c.sent)
	_, err := c.conn.Write(b[:])
	require.NoError(t, err)
	c.sent += requestHead
}

func (c *client) hear(t *testing.T) {
	require.NoError(t, c.conn.SetReadDeadline(time.Now().Add(patience)))
	_, err := io.ReadFull(c.conn, make([]byte, 100))
	require.NoError(t, err)
}

// sockets is what the kernel knows of the connections, for a test that fails.
func (g *ground) sockets() (text string) {
	for _, ns := range []netns.NsHandle{g.client, g.seats[g.active]} {
		text += in(g.t, ns, func() (string, error) {
			list, err := exec.Command("ss", "-tnio", "state", "all").CombinedOutput()
			if err != nil {
				return "", err
			}
			counts, err := exec.Command("nstat", "-as").CombinedOutput()
			return string(list) + string(counts), err
		})
	}
	return text
}
