package traffic

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/topo"
)

// Stream is a TCP flow that is asked for.
type Stream struct {
	Flow
	// Rate of payload that the sender offers, a portion every 5 ms; 0: as much
	// as TCP takes. A late portion is the larger, so a busy machine takes
	// nothing from the rate; but what TCP does not take for 100 ms is not
	// offered any more, as live video would not be.
	Rate topo.Rate
}

// BulkConfig describes TCP flows that are opened together.
type BulkConfig struct {
	Streams []Stream
	// Interval between two readings of what has arrived; default 20 ms. It
	// costs two system calls a stream.
	Interval time.Duration
}

const (
	bulkDeadline = 10 * time.Second // for the connections
	bulkWrite    = 256 << 10        // bytes a write: the kernel takes what it has room for
	// bulkUnsent is how much a sender may have handed to the kernel that is
	// not sent yet: so much goes on after a Pause. Half of it is filled up by
	// one write.
	bulkUnsent = 128 << 10
	// bulkBuffer of the receiver holds what comes in between two readings, and
	// twice the bandwidth-delay product of anything a lab can carry.
	bulkBuffer = 8 << 20
	portion    = 5 * time.Millisecond   // of a stream with a rate
	maxBacklog = 100 * time.Millisecond // of a stream with a rate, and its bulkUnsent as time
)

// Bulk is a set of TCP connections between machines, opened by
// [Prober.OpenBulk]: ordinary sockets in the machines' namespaces, the kernel's
// TCP, and this process writing at one end and reading at the other.
//
// The receivers are read at a steady pace, not when data comes: in User Mode
// Linux a wake-up a segment would cost more than the segment. So that TCP
// acknowledges as it does for a program that reads at once, the receivers ask
// to be woken for more bytes than ever wait (SO_RCVLOWAT: then every second
// segment is acknowledged whether or not it has been read, see
// __tcp_ack_snd_check in the kernel).
//
// A Bulk's methods are for one goroutine.
type Bulk struct {
	p       *Prober
	streams []*stream
	stop    chan struct{} // ends the collector
	done    chan struct{} // closed when it has ended
	closing sync.Once
	result  *BulkResult
	err     error // of the collector
}

// stream is a Stream under way.
type stream struct {
	Stream
	out, in *net.TCPConn
	// readings belong to the collector until it has ended.
	readings []Reading
	total    int64
	ended    bool // the other side is gone

	sending chan struct{} // closed when the sender has ended; nil: paused
	err     error         // of the sender; read after sending is closed
}

// OpenBulk connects the streams; none of them sends before Start. Close ends
// them.
func (p *Prober) OpenBulk(ctx context.Context, cfg BulkConfig) (*Bulk, error) {
	if cfg.Interval == 0 {
		cfg.Interval = 20 * time.Millisecond
	}
	b := &Bulk{p: p, stop: make(chan struct{}), done: make(chan struct{})}
	var to []netip.Addr
	for _, s := range cfg.Streams {
		ends, err := p.pick([]string{s.From, s.To})
		if err != nil {
			return nil, err
		}
		b.streams = append(b.streams, &stream{Stream: s})
		to = append(to, ends[1].Addr)
	}
	wait, cancel := context.WithTimeoutCause(ctx, bulkDeadline, fmt.Errorf("waited %v", bulkDeadline))
	defer cancel()
	g, wait := errgroup.WithContext(wait)
	for i, s := range b.streams {
		g.Go(func() error {
			if err := s.connect(wait, p.enter, to[i]); err != nil {
				return fmt.Errorf("bulk flow %s -> %s (%s): %w", s.From, s.To, to[i], err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		b.drop()
		return nil, err
	}
	p.mu.Lock()
	p.bulks[b] = true
	p.mu.Unlock()
	go b.collect(cfg.Interval)
	return b, nil
}

// connect opens the two ends: a listener on a port that the kernel chooses,
// for this connection alone.
func (s *stream) connect(ctx context.Context, enter Enter, to netip.Addr) error {
	var l net.Listener
	err := enter(s.To, func() (err error) {
		lc := net.ListenConfig{KeepAlive: -1, Control: onSocket(setReceiver)}
		lc.SetMultipathTCP(false)
		l, err = lc.Listen(ctx, "tcp4", netip.AddrPortFrom(to, 0).String())
		return err
	})
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	defer l.Close()
	err = enter(s.From, func() error {
		d := net.Dialer{KeepAlive: -1, Control: onSocket(s.setSender)}
		d.SetMultipathTCP(false)
		c, err := d.DialContext(ctx, "tcp4", l.Addr().String())
		if err == nil {
			s.out = c.(*net.TCPConn)
		}
		return err
	})
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("connect: %w", err)
	}
	// The handshake is over at the sender: the last of its three packets may
	// still be on its way.
	if until, ok := ctx.Deadline(); ok {
		_ = l.(*net.TCPListener).SetDeadline(until) // without it Accept has no limit of its own, and the connection is there
	}
	c, err := l.Accept()
	if err != nil {
		return fmt.Errorf("accept: %w", err)
	}
	s.in = c.(*net.TCPConn)
	return nil
}

// onSocket makes the Control function of a listener or dialer.
func onSocket(set func(fd int) error) func(_, _ string, rc syscall.RawConn) error {
	return func(_, _ string, rc syscall.RawConn) error {
		var err error
		if cerr := rc.Control(func(fd uintptr) { err = set(int(fd)) }); cerr != nil {
			return cerr
		}
		return err
	}
}

// setReceiver readies a listener; what it accepts inherits this.
func setReceiver(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, bulkBuffer); err != nil {
		return fmt.Errorf("socket receive buffer: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT, bulkBuffer); err != nil {
		return fmt.Errorf("socket receive low-water mark: %w", err)
	}
	return nil
}

// setSender bounds what waits in the kernel. Its own pacing of a stream with a
// rate (SO_MAX_PACING_RATE) is not used: it loses what a late timer makes it
// miss.
func (s *stream) setSender(fd int) error {
	unsent := bulkUnsent
	if s.Rate > 0 {
		unsent = min(bulkUnsent, max(8<<10, s.bytesIn(maxBacklog)))
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsent); err != nil {
		return fmt.Errorf("socket unsent low-water mark: %w", err)
	}
	return nil
}

// bytesIn is how much the stream offers in some time.
func (s *stream) bytesIn(d time.Duration) int {
	return int(float64(s.Rate) / 8 * d.Seconds())
}

// Start lets streams send that do not, by their index in the configuration.
func (b *Bulk) Start(streams ...int) {
	for _, i := range streams {
		s := b.streams[i]
		if s.sending != nil || s.err != nil {
			continue
		}
		_ = s.out.SetWriteDeadline(time.Time{}) // on a closed connection the write tells
		s.sending = make(chan struct{})
		go s.send()
	}
}

// zeros is what all streams send. Its pages are touched once.
var zeros = sync.OnceValue(func() []byte { return make([]byte, bulkWrite) })

// send writes until a deadline in the past ends it.
func (s *stream) send() {
	defer close(s.sending)
	var err error
	if s.Rate > 0 {
		err = s.offer()
	}
	for s.Rate == 0 && err == nil {
		_, err = s.out.Write(zeros())
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		s.err = err
	}
}

// offer writes at the stream's rate.
func (s *stream) offer() error {
	tick := time.NewTicker(portion)
	defer tick.Stop()
	for begun, offered := event.Now(), 0; ; <-tick.C {
		behind := s.bytesIn(event.Now().Sub(begun)) - offered
		if limit := s.bytesIn(maxBacklog); behind > limit {
			offered += behind - limit // given up
			behind = limit
		}
		for behind > 0 {
			n, err := s.out.Write(zeros()[:min(behind, bulkWrite)])
			if err != nil {
				return err
			}
			offered, behind = offered+n, behind-n
		}
	}
}

// Pause stops streams from sending. What the kernel has been given still
// goes out: at most 128 KiB, or what a stream with a rate offers in 100 ms,
// beside what is in flight.
func (b *Bulk) Pause(streams ...int) {
	for _, i := range streams {
		s := b.streams[i]
		if s.sending == nil {
			continue
		}
		_ = s.out.SetWriteDeadline(time.Unix(1, 0)) // on a closed connection the write tells
		<-s.sending
		s.sending = nil
	}
}

// Resent is how many segments each stream's sender has sent again so far.
func (b *Bulk) Resent() ([]int, error) {
	out := make([]int, len(b.streams))
	for i, s := range b.streams {
		info, err := s.info()
		if err != nil {
			return nil, err
		}
		out[i] = int(info.Total_retrans)
	}
	return out, nil
}

// info asks the kernel about the sending end.
func (s *stream) info() (info *unix.TCPInfo, err error) {
	rc, err := s.out.SyscallConn()
	if err == nil {
		cerr := rc.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
		err = errors.Join(cerr, err)
	}
	if err != nil {
		return nil, fmt.Errorf("bulk flow %s -> %s: TCP_INFO: %w", s.From, s.To, err)
	}
	return info, nil
}

// congestion is the name of the sender's congestion control.
func (s *stream) congestion() (name string, err error) {
	rc, err := s.out.SyscallConn()
	if err == nil {
		cerr := rc.Control(func(fd uintptr) { name, err = unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION) })
		err = errors.Join(cerr, err)
	}
	if err != nil {
		return "", fmt.Errorf("bulk flow %s -> %s: TCP_CONGESTION: %w", s.From, s.To, err)
	}
	return name, nil
}

// collect is the goroutine that reads the receivers, one round an interval.
// A late round is not made up for: every reading has its own time.
func (b *Bulk) collect(interval time.Duration) {
	defer close(b.done)
	room, err := sink()
	if err != nil {
		b.err = err
		return
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	next := event.Now()
	for {
		select {
		case <-b.stop:
			b.err = errors.Join(b.err, b.read(room)) // the last reading
			return
		case <-timer.C:
		}
		if err := b.read(room); err != nil {
			b.err = err
			return
		}
		now := event.Now()
		if next += event.Mono(interval); next < now {
			next = now
		}
		timer.Reset(next.Sub(now))
	}
}

// sink is room for what is never written: addresses without memory. The
// heap's could have been somebody's before, and to clear it would fault in
// every page, which takes User Mode Linux a second.
var sink = sync.OnceValues(func() ([]byte, error) {
	room, err := unix.Mmap(-1, 0, bulkBuffer, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("bulk flows: room to receive: %w", err)
	}
	return room, nil
})

// read takes what has arrived at every receiver, without copying it
// (MSG_TRUNC of TCP, tcp(7)).
func (b *Bulk) read(room []byte) error {
	for _, s := range b.streams {
		if s.ended {
			continue
		}
		rc, err := s.in.SyscallConn()
		if err != nil {
			return fmt.Errorf("bulk flow %s -> %s: receive: %w", s.From, s.To, err)
		}
		var n int
		var at event.Mono
		cerr := rc.Control(func(fd uintptr) {
			n, _, err = unix.Recvfrom(int(fd), room, unix.MSG_TRUNC|unix.MSG_DONTWAIT)
			at = event.Now()
		})
		switch {
		case errors.Is(err, unix.EAGAIN):
			n = 0
		case cerr != nil || err != nil:
			return fmt.Errorf("bulk flow %s -> %s: receive: %w", s.From, s.To, errors.Join(cerr, err))
		case n == 0:
			s.ended = true
			continue
		}
		s.total += int64(n)
		s.readings = append(s.readings, Reading{At: at, Bytes: s.total})
	}
	return nil
}

// Close ends the streams at once, without waiting for what is under way, and
// returns what was seen. A stream whose connection broke is an error beside
// the result. Closing again returns the same.
func (b *Bulk) Close() (*BulkResult, error) {
	b.closing.Do(func() {
		var errs []error
		r := &BulkResult{}
		for i, s := range b.streams {
			b.Pause(i)
			if s.err != nil {
				errs = append(errs, fmt.Errorf("bulk flow %s -> %s: send: %w", s.From, s.To, s.err))
			}
		}
		close(b.stop)
		<-b.done
		errs = append(errs, b.err)
		for _, s := range b.streams {
			info, err := s.info()
			name, nerr := s.congestion()
			if errs = append(errs, err, nerr); err != nil {
				info = &unix.TCPInfo{}
			}
			r.Flows = append(r.Flows, BulkFlow{Stream: s.Stream, Readings: s.readings, Resent: int(info.Total_retrans), Congestion: name})
		}
		b.drop()
		b.p.mu.Lock()
		delete(b.p.bulks, b)
		b.p.mu.Unlock()
		b.result, b.err = r, errors.Join(errs...)
	})
	return b.result, b.err
}

// drop closes the connections; their queues are thrown away.
func (b *Bulk) drop() {
	for _, s := range b.streams {
		for _, c := range []*net.TCPConn{s.out, s.in} {
			if c != nil {
				_ = c.SetLinger(0) // a reset instead of sending what is queued
				_ = c.Close()      // nothing is buffered in the process
			}
		}
	}
}
