package traffic

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/event"
)

// Endpoint is a machine that takes part: the node whose namespace holds its
// socket, and the address by which others reach it.
type Endpoint struct {
	Name string // node
	VPC  string
	Site string
	Addr netip.Addr
}

// Enter runs fn inside the network namespace of a node; fabric.Do is one.
type Enter func(node string, fn func() error) error

// Port is the UDP port of the machines' sockets.
const Port = 7077

const (
	batchLen = 64      // packets a sendmmsg or recvmmsg: a system call costs 70 us in User Mode Linux
	sockBuf  = 4 << 20 // bytes; a burst towards one machine must not be lost at its socket
	oobLen   = 64      // room for one timestamp
)

// Prober holds a socket in each machine's namespace. Open makes one; its
// methods may be called from several goroutines.
type Prober struct {
	enter  Enter
	nonce  uint64
	offset atomic.Int64 // CLOCK_REALTIME - CLOCK_MONOTONIC, ns: the kernel stamps arrivals in the former

	mu     sync.Mutex
	points []*point // by identity - 1; nil where removed
	byName map[string]*point
	matrix *matrixRun
	trains map[uint32]*Train
	bulks  map[*Bulk]bool
	lastID uint32 // of a train
	strays uint64 // packets that were no probes, or another Prober's
	missed int    // packets that sockets which are gone had no room for; see Missed
}

// point is an endpoint with its socket.
type point struct {
	Endpoint
	id   uint32
	conn net.PacketConn
	pc   *ipv4.PacketConn
	done chan struct{} // closed when its reader has ended
	err  error         // why its reader ended, under Prober.mu; nil after Close

	sendMu sync.Mutex
	out    []ipv4.Message // guarded by sendMu
}

// Open puts a socket into the namespace of every endpoint and starts to
// answer. Close the Prober before the namespaces are destroyed: a socket keeps
// its namespace alive.
func Open(enter Enter, eps []Endpoint) (*Prober, error) {
	p := &Prober{enter: enter, nonce: rand.Uint64(), byName: map[string]*point{}, trains: map[uint32]*Train{}, bulks: map[*Bulk]bool{}}
	p.alignClocks()
	if err := p.Add(eps...); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// Add takes in further endpoints.
func (p *Prober) Add(eps ...Endpoint) error {
	for _, ep := range eps {
		if err := p.add(ep); err != nil {
			return fmt.Errorf("prober: machine %s: %w", ep.Name, err)
		}
	}
	return nil
}

func (p *Prober) add(ep Endpoint) error {
	if !ep.Addr.Is4() {
		return fmt.Errorf("address %v is not IPv4", ep.Addr)
	}
	p.mu.Lock()
	_, known := p.byName[ep.Name]
	p.mu.Unlock()
	if known {
		return errors.New("is there already")
	}
	pt := &point{Endpoint: ep, done: make(chan struct{}), out: newMessages(batchLen, false)}
	if err := p.enter(ep.Name, func() (err error) { pt.conn, err = listen(); return err }); err != nil {
		return err
	}
	pt.pc = ipv4.NewPacketConn(pt.conn)
	p.mu.Lock()
	p.points = append(p.points, pt)
	pt.id = uint32(len(p.points))
	p.byName[ep.Name] = pt
	p.mu.Unlock()
	go p.serve(pt)
	return nil
}

// listen opens the socket in the namespace of the calling thread.
func listen() (net.PacketConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, rc syscall.RawConn) error {
		var err error
		if cerr := rc.Control(func(fd uintptr) { err = setSocketOptions(int(fd)) }); cerr != nil {
			return cerr
		}
		return err
	}}
	return lc.ListenPacket(context.Background(), "udp4", ":"+strconv.Itoa(Port))
}

func setSocketOptions(fd int) error {
	for _, o := range []struct {
		opt, value int
		name       string
	}{
		{unix.SO_RCVBUFFORCE, sockBuf, "receive buffer"},
		{unix.SO_SNDBUFFORCE, sockBuf, "send buffer"},
		{unix.SO_TIMESTAMPNS, 1, "timestamps"},
	} {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, o.opt, o.value); err != nil {
			return fmt.Errorf("socket %s: %w", o.name, err)
		}
	}
	return nil
}

// Remove closes the sockets of machines that go away.
func (p *Prober) Remove(names ...string) {
	for _, name := range names {
		p.mu.Lock()
		pt := p.byName[name]
		if pt != nil {
			p.missed += missedAt(pt.conn)
			delete(p.byName, name)
			p.points[pt.id-1] = nil
		}
		p.mu.Unlock()
		if pt != nil {
			pt.close()
		}
	}
}

func (pt *point) close() {
	_ = pt.conn.Close() // cannot fail in a way that matters: nothing is buffered in the process
	<-pt.done
}

// Close ends the trains and bulk flows that still run, closes all sockets and
// waits for their readers.
func (p *Prober) Close() {
	p.mu.Lock()
	trains := make([]*Train, 0, len(p.trains))
	for _, t := range p.trains {
		trains = append(trains, t)
	}
	bulks := slices.Collect(maps.Keys(p.bulks))
	points := p.points
	p.points, p.byName = nil, map[string]*point{}
	p.mu.Unlock()
	for _, t := range trains {
		t.halt()
	}
	for _, b := range bulks {
		_, _ = b.Close() // who wanted to know has closed it
	}
	for _, pt := range points {
		if pt != nil {
			pt.close()
		}
	}
}

// Endpoints lists the machines in the order they were added.
func (p *Prober) Endpoints() []Endpoint {
	p.mu.Lock()
	defer p.mu.Unlock()
	var eps []Endpoint
	for _, pt := range p.points {
		if pt != nil {
			eps = append(eps, pt.Endpoint)
		}
	}
	return eps
}

// Strays counts packets on the probe port that no machine of this Prober sent.
func (p *Prober) Strays() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.strays
}

// pick finds the named machines; no names means all.
func (p *Prober) pick(names []string) ([]*point, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var pts []*point
	if names == nil {
		for _, pt := range p.points {
			if pt != nil {
				pts = append(pts, pt)
			}
		}
	}
	for _, name := range names {
		pt := p.byName[name]
		if pt == nil {
			return nil, fmt.Errorf("prober: no machine %q", name)
		}
		pts = append(pts, pt)
	}
	for _, pt := range pts {
		if pt.err != nil {
			return nil, fmt.Errorf("prober: machine %s: receive: %w", pt.Name, pt.err)
		}
	}
	return pts, nil
}

// alignClocks measures how far the two clocks are apart: the best of some
// tries, since another process may run between the three readings.
func (p *Prober) alignClocks() {
	best := int64(1 << 62)
	for range 5 {
		before := event.Now()
		var real unix.Timespec
		_ = unix.ClockGettime(unix.CLOCK_REALTIME, &real) // cannot fail for this clock
		after := event.Now()
		if width := int64(after - before); width < best {
			best = width
			p.offset.Store(real.Nano() - int64(before) - width/2)
		}
	}
}

// newMessages makes n buffers out of one piece of memory: a first touch of a
// page costs 50-200 us in User Mode Linux.
func newMessages(n int, withOOB bool) []ipv4.Message {
	msgs := make([]ipv4.Message, n)
	bytes := make([]byte, n*(probeLen+1+oobLen))
	for i := range msgs {
		msgs[i].Buffers = [][]byte{bytes[: probeLen+1 : probeLen+1]} // one more than a probe: a longer packet is seen to be one
		bytes = bytes[probeLen+1:]
		if withOOB {
			msgs[i].OOB = bytes[:oobLen:oobLen]
			bytes = bytes[oobLen:]
		} else {
			msgs[i].Buffers[0] = msgs[i].Buffers[0][:probeLen]
		}
	}
	return msgs
}

// serve reads what arrives at pt until its socket is closed.
func (p *Prober) serve(pt *point) {
	defer close(pt.done)
	in, answers := newMessages(batchLen, true), newMessages(batchLen, false)
	for {
		n, err := pt.pc.ReadBatch(in, 0)
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				p.mu.Lock()
				pt.err = err
				p.mu.Unlock()
			}
			return
		}
		if k := p.take(pt, in[:n], answers); k > 0 {
			// An answer that cannot be sent is one that does not arrive.
			_ = pt.write(answers[:k], func(int, error) {})
		}
	}
}

// take logs a batch of arrivals and fills in the answers that are due.
func (p *Prober) take(pt *point, in, answers []ipv4.Message) (due int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	offset := p.offset.Load()
	for i := range in {
		m := &in[i]
		var pr probe
		if pr.get(m.Buffers[0][:m.N]) != nil || pr.nonce != p.nonce {
			p.strays++
			continue
		}
		at := event.Mono(arrivalStamp(m.OOB[:m.NN]) - offset)
		switch pr.kind {
		case kindProbe, kindCall:
			if p.matrix != nil {
				p.matrix.arrived(pt, &pr, at)
			}
			if pr.kind == kindCall {
				continue
			}
			pr.kind, pr.answerer = kindAnswer, pt.id
			pr.put(answers[due].Buffers[0])
			answers[due].Addr = m.Addr
			due++
		case kindAnswer:
			if p.matrix != nil {
				p.matrix.answered(pt, &pr, at)
			}
		case kindTrain:
			if t := p.trains[pr.round]; t != nil {
				t.arrived(pt, &pr, at)
			}
		}
	}
	return due
}

// arrivalStamp is the CLOCK_REALTIME at which the kernel took the packet in,
// from the control message of SO_TIMESTAMPNS (struct cmsghdr, then struct
// timespec, on 64-bit kernels).
func arrivalStamp(oob []byte) int64 {
	if len(oob) < 32 || binary.NativeEndian.Uint32(oob[8:]) != unix.SOL_SOCKET || binary.NativeEndian.Uint32(oob[12:]) != unix.SO_TIMESTAMPNS {
		return time.Now().UnixNano()
	}
	return int64(binary.NativeEndian.Uint64(oob[16:]))*1e9 + int64(binary.NativeEndian.Uint64(oob[24:]))
}

// write sends all of msgs. A message that the kernel refuses (a firewall, no
// route) is reported and stepped over; only a closed socket is an error.
func (pt *point) write(msgs []ipv4.Message, refused func(i int, err error)) error {
	for off := 0; off < len(msgs); {
		n, err := pt.pc.WriteBatch(msgs[off:], 0)
		switch {
		case n > 0:
			off += n
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("prober: machine %s: send: %w", pt.Name, err)
		case err != nil:
			refused(off, err)
			off++
		default:
			return fmt.Errorf("prober: machine %s: send: nothing was taken", pt.Name)
		}
	}
	return nil
}

// errnoText is the short reason of a refusal: "operation not permitted".
func errnoText(err error) string {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno.Error()
	}
	return err.Error()
}

// addrOf is ep's socket address.
func addrOf(a netip.Addr) *net.UDPAddr {
	return net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, Port))
}
