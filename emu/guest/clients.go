package guest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/tcp"
)

// clients are all connections of a guest's clients.
type clients struct {
	m    *machine
	port uint16
	all  sync.WaitGroup

	mu       sync.Mutex // held while one comes or goes, and at a checkpoint
	ctx      context.Context
	listener *os.File
	raw      syscall.RawConn
	open     map[netip.AddrPort]*connection // by the client's end
	carried  bool                           // checkpoints have them
	diag     *tcp.Diag
	resting  []*resting // restored, and not served yet
	dropped  int        // that could not be restored
	wrong    error      // why no more clients are accepted
}

// sendBuffer holds the largest answer: writing one never waits for the network,
// so that a step of the guest never does.
const sendBuffer = 2 * maxAnswer

// Clients that are gone are noticed after keepIdle seconds without a word and
// keepTries unanswered questions, one every keepIdle.
const (
	keepIdle  = 15
	keepTries = 9
)

// backlog is how many clients wait to be accepted at most.
const backlog = 1024

// listen has clients be accepted as soon as serve runs.
func (k *clients) listen() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("listen for clients: %w", err)
	}
	// A connection has the options of the socket that it came by.
	options := []struct{ level, option, value int }{
		{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1}, {unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer},
		{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1}, {unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, keepIdle}, {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, keepIdle}, {unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepTries},
	}
	for _, o := range options {
		if err == nil {
			err = unix.SetsockoptInt(fd, o.level, o.option, o.value)
		}
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Port: int(k.port)})
	}
	if err == nil {
		err = unix.Listen(fd, backlog)
	}
	k.listener = os.NewFile(uintptr(fd), "clients")
	if err == nil {
		k.raw, err = k.listener.SyscallConn()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("listen for clients at port %d: %w", k.port, err), k.listener.Close())
	}
	return nil
}

// serve answers clients until ctx ends.
func (k *clients) serve(ctx context.Context) error {
	defer k.all.Wait()
	stop := context.AfterFunc(ctx, func() { k.listener.Close() })
	defer stop()
	k.mu.Lock()
	k.ctx = ctx
	k.mu.Unlock()
	ended := k.raw.Read(func(fd uintptr) bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.accept(int(fd))
		return k.wrong != nil
	})
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("guest %s: accept client: %w", k.m.spec.Name, errors.Join(k.wrong, ended))
}

// accept takes all clients that wait. mu is held.
func (k *clients) accept(fd int) {
	for k.ctx != nil {
		one, from, err := unix.Accept4(fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ECONNABORTED):
			continue
		case errors.Is(err, unix.EAGAIN):
			return
		case err != nil:
			k.wrong = err
			return
		}
		a := from.(*unix.SockaddrInet4)
		c, err := newConnection(one, netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)))
		if err != nil {
			k.wrong = err
			return
		}
		if k.carried {
			k.learn(c)
		}
		k.add(c)
	}
}

// learn finds out what checkpoints need. One that breaks meanwhile is not
// carried: its server will notice.
func (k *clients) learn(c *connection) {
	if o, s, err := tcp.Learn(c.fd); err == nil {
		c.origin, c.stream = o, s
	}
}

// add serves a connection. mu is held.
func (k *clients) add(c *connection) {
	k.open[c.peer] = c
	ctx := k.ctx
	k.all.Go(func() {
		defer k.end(c)
		defer context.AfterFunc(ctx, func() { k.end(c) })()
		// How a connection ends is the client's affair.
		_ = k.m.attend(ctx, c)
	})
}

// end closes a connection, if it is not.
func (k *clients) end(c *connection) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.open[c.peer] == c {
		delete(k.open, c.peer)
	}
	_ = c.file.Close() // a second time it says so, and that is all
}

// count tells how many there are, and how many could not be restored.
func (k *clients) count() (open, dropped int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.open) + len(k.resting), k.dropped
}
